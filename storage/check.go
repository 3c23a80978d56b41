package storage

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
)

// What a produced batch must be, in the order in which Kafka looks (ProduceRequest.validateRecords, then
// UnifiedLog.analyzeAndValidateRecords and LogValidator), with the error it answers:
//
//	no bytes, or fewer than the first batch says         INVALID_RECORD
//	length below the minimum, magic above 2              CORRUPT_MESSAGE
//	magic 0 or 1                                         INVALID_RECORD
//	zstd with a Produce request below v7                 UNSUPPORTED_COMPRESSION_TYPE
//	a second batch                                       INVALID_RECORD
//	base offset not 0                                    INVALID_RECORD
//	larger than max.message.bytes                        MESSAGE_TOO_LARGE
//	CRC                                                  CORRUPT_MESSAGE
//	larger than segment.bytes                            RECORD_LIST_TOO_LARGE
//	last offset delta, count                             INVALID_RECORD
//	control batch                                        INVALID_RECORD
//	producer id with a negative sequence                 INVALID_RECORD
//	a codec that does not exist                          see TestProduceErrorsLikeKafka
//	records that cannot be read                          INVALID_RECORD
//	compacted topic, record without key                  INVALID_RECORD, naming the records
//	timestamps out of range                              INVALID_TIMESTAMP, naming the records
//
// TestProduceErrorsLikeKafka holds what a Kafka 4.3.1 answered to each.

// checkProduced checks records that a client or the broker itself wants to append. It returns them, changed in place or
// made anew as the topic's configuration asks. It holds no lock: all that costs time with the size of a batch happens
// here.
func checkProduced(records []byte, cfg *LogConfig, opts AppendOptions) ([]byte, error) {
	if opts.Origin == Client {
		return checkClient(records, cfg, opts)
	}
	total := 0
	for rest := records; len(rest) > 0; {
		b, next, err := protocol.NextBatch(rest)
		if err != nil {
			return nil, err
		}
		if err := checkHeader(b); err != nil {
			return nil, err
		}
		if !b.ValidCRC() {
			return nil, errCRC(b)
		}
		if int64(len(b)) > int64(cfg.MaxMessageBytes) {
			return nil, errTooLarge(b, cfg)
		}
		total += len(b)
		rest = next
	}
	if total == 0 {
		return nil, clientErrorf(kerr.InvalidRecord, "no record batch")
	}
	if int64(total) > cfg.SegmentBytes {
		return nil, clientErrorf(kerr.RecordListTooLarge, "%d bytes, segments hold %d", total, cfg.SegmentBytes)
	}
	return records, nil
}

func checkClient(records []byte, cfg *LogConfig, opts AppendOptions) ([]byte, error) {
	b, rest, err := protocol.NextBatch(records)
	if protocol.IsBatchShort(err) {
		return nil, clientErrorf(kerr.InvalidRecord, "no whole record batch in %d bytes", len(records))
	}
	if err != nil {
		return nil, err
	}
	if b.Codec() == protocol.Zstd && opts.Version < 7 {
		return nil, clientErrorf(kerr.UnsupportedCompressionType, "zstd needs Produce v7, the request is v%d", opts.Version)
	}
	if _, _, err := protocol.NextBatch(rest); !protocol.IsBatchShort(err) {
		return nil, clientErrorf(kerr.InvalidRecord, "more than one record batch")
	}
	if off := b.BaseOffset(); off != 0 {
		return nil, clientErrorf(kerr.InvalidRecord, "base offset is %d instead of 0", off)
	}
	if int64(len(b)) > int64(cfg.MaxMessageBytes) {
		return nil, errTooLarge(b, cfg)
	}
	if !b.ValidCRC() {
		return nil, errCRC(b)
	}
	if int64(len(b)) > cfg.SegmentBytes {
		return nil, clientErrorf(kerr.RecordListTooLarge, "%d bytes, segments hold %d", len(b), cfg.SegmentBytes)
	}
	if err := checkHeader(b); err != nil {
		return nil, err
	}
	if b.IsControl() {
		return nil, clientErrorf(kerr.InvalidRecord, "clients may not write control records")
	}
	return checkRecords(b, cfg, opts.Now.UnixMilli())
}

// checkHeader checks what must hold for any batch that gets new offsets.
func checkHeader(b protocol.Batch) error {
	count, span := b.Count(), int64(b.LastOffsetDelta())+1
	switch {
	case span <= 0:
		return clientErrorf(kerr.InvalidRecord, "last offset delta is %d", span-1)
	case count <= 0:
		return clientErrorf(kerr.InvalidRecord, "record count is %d", count)
	case span != int64(count):
		return clientErrorf(kerr.InvalidRecord, "%d records take %d offsets", count, span)
	case !b.IsControl() && b.ProducerID() >= 0 && b.BaseSequence() < 0:
		return clientErrorf(kerr.InvalidRecord, "producer %d without a sequence", b.ProducerID())
	}
	return nil
}

// checkReplicated checks batches that a leader sent. It drops an incomplete one at the end, as fetches may have it.
func checkReplicated(records []byte) ([]byte, error) {
	whole := 0
	for rest := records; len(rest) > 0; {
		b, next, err := protocol.NextBatch(rest)
		if protocol.IsBatchShort(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		if !b.ValidCRC() || b.LastOffsetDelta() < 0 {
			return nil, errCRC(b)
		}
		whole += len(b)
		rest = next
	}
	if whole == 0 {
		return nil, clientErrorf(kerr.CorruptMessage, "no whole record batch in %d bytes", len(records))
	}
	return records[:whole], nil
}

func errTooLarge(b protocol.Batch, cfg *LogConfig) error {
	return clientErrorf(kerr.MessageTooLarge, "batch of %d bytes, max.message.bytes is %d", len(b), cfg.MaxMessageBytes)
}

func errCRC(b protocol.Batch) error {
	return clientErrorf(kerr.CorruptMessage, "CRC is %#x, computed %#x", b.CRC(), b.ComputeCRC())
}

// checkRecords checks the inside of a client's batch as far as the configuration wants it, and applies
// message.timestamp.type and compression.type.
func checkRecords(b protocol.Batch, cfg *LogConfig, nowMs int64) ([]byte, error) {
	target := targetCodec(cfg, b.Codec())
	codec := b.Codec()
	if codec > protocol.Zstd {
		return nil, clientErrorf(kerr.InvalidRequest, "unknown compression type %d", int8(codec))
	}
	if codec != protocol.None && !mustOpen(b, cfg, target) {
		if !cfg.LogAppendTime {
			if err := checkTimestamps(b, cfg, nowMs); err != nil {
				return nil, err
			}
		}
		return finish(b, cfg, nowMs, b.MaxTimestamp()), nil
	}
	payload := b.Payload()
	if codec != protocol.None {
		var err error
		if payload, err = protocol.Decompress(nil, codec, payload, decompressLimit); err != nil {
			return nil, err
		}
	}
	w := recordWalk{cfg: cfg, nowMs: nowMs}
	if err := w.run(b, payload); err != nil {
		return nil, err
	}
	if target != codec || w.gaps {
		return rebuild(b, payload, cfg, target, nowMs)
	}
	return finish(b, cfg, nowMs, w.maxTimestamp), nil
}

// decompressLimit bounds what a produced batch may decompress to.
const decompressLimit = 256 << 20

// mustOpen says whether a compressed batch has to be decompressed.
func mustOpen(b protocol.Batch, cfg *LogConfig, target protocol.Codec) bool {
	return cfg.Validation == Strict || cfg.Compact || target != b.Codec() ||
		(!cfg.LogAppendTime && (b.MaxTimestamp() < 0 || cfg.TimestampBeforeMaxMs < 1<<62))
}

// finish sets what the broker decides on timestamps.
func finish(b protocol.Batch, cfg *LogConfig, nowMs, maxTs int64) []byte {
	if cfg.LogAppendTime {
		b.SetLogAppendTime(nowMs)
	} else {
		b.SetMaxTimestamp(maxTs)
	}
	return b
}

// checkTimestamps checks what the header claims.
func checkTimestamps(b protocol.Batch, cfg *LogConfig, nowMs int64) error {
	if ts := b.MaxTimestamp(); tooLate(ts, cfg, nowMs) {
		return clientErrorf(kerr.InvalidTimestamp, "timestamp %d is too far after %d", ts, nowMs)
	}
	if ts := b.BaseTimestamp(); tooLate(ts, cfg, nowMs) {
		return clientErrorf(kerr.InvalidTimestamp, "timestamp %d is too far after %d", ts, nowMs)
	}
	return nil
}

func tooLate(ts int64, cfg *LogConfig, nowMs int64) bool {
	return ts != -1 && ts-nowMs > cfg.TimestampAfterMaxMs
}

func tooEarly(ts int64, cfg *LogConfig, nowMs int64) bool {
	return ts != -1 && nowMs-ts > cfg.TimestampBeforeMaxMs
}

// recordWalk looks at every record of a batch.
type recordWalk struct {
	cfg          *LogConfig
	nowMs        int64
	maxTimestamp int64
	gaps         bool // offset deltas are not 0, 1, 2, ...
	bad          []RecordError
	badCode      *kerr.Error
}

func (w *recordWalk) run(b protocol.Batch, payload []byte) error {
	w.maxTimestamp = -1
	baseTs := b.BaseTimestamp()
	r := protocol.NewRecordReader(payload, b.Count())
	index := int32(0)
	for rec, ok := r.Skim(); ok; rec, ok = r.Skim() {
		ts := baseTs + rec.TimestampDelta
		if baseTs == -1 && rec.TimestampDelta == 0 {
			ts = -1
		}
		w.maxTimestamp = max(w.maxTimestamp, ts)
		w.gaps = w.gaps || rec.OffsetDelta != index
		w.checkRecord(index, ts, rec.Key == nil)
		index++
	}
	if err := r.Err(); err != nil {
		return err
	}
	if len(w.bad) == 0 {
		return nil
	}
	return &InvalidRecordError{Err: w.badCode, Records: w.bad, Message: "One or more records have been rejected"}
}

func (w *recordWalk) checkRecord(index int32, ts int64, noKey bool) {
	switch {
	case w.cfg.Compact && noKey:
		w.reject(kerr.InvalidRecord, index, "Compacted topic cannot accept message without key")
	case w.cfg.LogAppendTime:
	case tooLate(ts, w.cfg, w.nowMs), tooEarly(ts, w.cfg, w.nowMs):
		w.reject(kerr.InvalidTimestamp, index, fmt.Sprintf("Timestamp %d of message with offset %d is out of range. The timestamp should be within [%d, %d]",
			ts, index, w.nowMs-w.cfg.TimestampBeforeMaxMs, w.nowMs+w.cfg.TimestampAfterMaxMs))
	}
}

func (w *recordWalk) reject(code *kerr.Error, index int32, msg string) {
	w.badCode = code
	w.bad = append(w.bad, RecordError{index, msg})
}

// targetCodec is the codec that compression.type wants for a batch that came with codec.
func targetCodec(cfg *LogConfig, codec protocol.Codec) protocol.Codec {
	switch cfg.Compression {
	case "uncompressed":
		return protocol.None
	case "gzip":
		return protocol.Gzip
	case "snappy":
		return protocol.Snappy
	case "lz4":
		return protocol.LZ4
	case "zstd":
		return protocol.Zstd
	}
	return codec
}

func level(cfg *LogConfig, codec protocol.Codec) int {
	switch codec {
	case protocol.Gzip:
		return cfg.GzipLevel
	case protocol.LZ4:
		return cfg.LZ4Level
	case protocol.Zstd:
		return cfg.ZstdLevel
	}
	return 0
}

// rebuild makes a batch anew with another codec, or with the offset deltas that its records should have had.
func rebuild(b protocol.Batch, payload []byte, cfg *LogConfig, target protocol.Codec, nowMs int64) ([]byte, error) {
	var records []protocol.Record
	r := protocol.NewRecordReader(payload, b.Count())
	for rec, ok := r.Next(); ok; rec, ok = r.Next() {
		rec.OffsetDelta = int32(len(records))
		rec.Headers = append([]protocol.RecordHeader(nil), rec.Headers...)
		records = append(records, rec)
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	p := protocol.BatchParams{
		BaseTimestamp: b.BaseTimestamp(), Codec: target, Level: level(cfg, target), Transactional: b.IsTransactional(),
		LogAppendTime: cfg.LogAppendTime, LogAppendTimeMs: nowMs,
	}
	if b.ProducerID() >= 0 {
		p.Producer = &protocol.Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch(), BaseSequence: b.BaseSequence()}
	}
	out := protocol.AppendBatch(nil, p, records)
	if len(out) > int(cfg.MaxMessageBytes) {
		return nil, errTooLarge(out, cfg)
	}
	binary.BigEndian.PutUint64(out, 0)
	return out, nil
}
