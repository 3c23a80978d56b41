package storage

import (
	"fmt"
	"math"
	"strings"

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
//	a codec that does not exist                          UNSUPPORTED_COMPRESSION_TYPE (Kafka: UNKNOWN_SERVER_ERROR)
//	a payload that its codec cannot read (strict)        INVALID_RECORD (Kafka: UNKNOWN_SERVER_ERROR)
//	records that cannot be read                          INVALID_RECORD
//	compacted topic, record without key                  INVALID_RECORD, naming the records
//	timestamps out of range                              INVALID_TIMESTAMP, naming the records
//
// TestProduceErrorsLikeKafka holds what a Kafka 4.3.1 answered to each.

// checkProduced checks records that a client or the broker itself wants to append. It returns them, changed in place or
// made anew as the topic's configuration asks. It holds no lock: all that costs time with the size of a batch happens
// here.
func checkProduced(records []byte, tp *TopicPartition, cfg *LogConfig, opts *AppendOptions, in *inflater) ([]byte, error) {
	if opts.Origin == Client {
		return checkClient(records, tp, cfg, opts, in)
	}
	total := 0
	for rest := records; len(rest) > 0; {
		b, next, err := protocol.NextBatch(rest)
		if err != nil {
			return nil, err
		}
		if err := checkHeader(b, opts.Origin); err != nil {
			return nil, err
		}
		if !b.ValidCRC() {
			return nil, errCRC(b)
		}
		// Not of markers, which a producer's transaction needs however small its batches are to be.
		if int64(len(b)) > int64(cfg.MaxMessageBytes) && !b.IsControl() {
			return nil, errTooLarge(len(b), cfg)
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

func checkClient(records []byte, tp *TopicPartition, cfg *LogConfig, opts *AppendOptions, in *inflater) ([]byte, error) {
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
		return nil, errTooLarge(len(b), cfg)
	}
	if !b.ValidCRC() {
		return nil, errCRC(b)
	}
	if int64(len(b)) > cfg.SegmentBytes {
		return nil, clientErrorf(kerr.RecordListTooLarge, "%d bytes, segments hold %d", len(b), cfg.SegmentBytes)
	}
	if err := checkHeader(b, opts.Origin); err != nil {
		return nil, err
	}
	if b.IsControl() {
		return nil, clientErrorf(kerr.InvalidRecord, "clients may not write control records")
	}
	return checkRecords(b, tp, cfg, opts.Now.UnixMilli(), in)
}

// checkHeader checks what must hold for any batch that gets new offsets. What a coordinator writes for a producer (the
// offsets of its transaction) has no sequence.
func checkHeader(b protocol.Batch, origin Origin) error {
	count, span := b.Count(), int64(b.LastOffsetDelta())+1
	switch {
	case span <= 0:
		return clientErrorf(kerr.InvalidRecord, "last offset delta is %d", span-1)
	case count <= 0:
		return clientErrorf(kerr.InvalidRecord, "record count is %d", count)
	case span != int64(count):
		return clientErrorf(kerr.InvalidRecord, "%d records take %d offsets", count, span)
	case origin == Client && !b.IsControl() && b.ProducerID() >= 0 && b.BaseSequence() < 0:
		return clientErrorf(kerr.InvalidRecord, "producer %d without a sequence", b.ProducerID())
	}
	return nil
}

// checkReplicated checks batches that a leader sent. It drops an incomplete one at the end, as fetches may have it.
func checkReplicated(records []byte, leaderEpoch int32) ([]byte, error) {
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
		if b.LeaderEpoch() > leaderEpoch {
			return nil, clientErrorf(kerr.CorruptMessage, "a batch of leader epoch %d from the leader of epoch %d", b.LeaderEpoch(), leaderEpoch)
		}
		whole += len(b)
		rest = next
	}
	if whole == 0 {
		return nil, clientErrorf(kerr.CorruptMessage, "no whole record batch in %d bytes", len(records))
	}
	return records[:whole], nil
}

func errTooLarge(size int, cfg *LogConfig) error {
	return clientErrorf(kerr.MessageTooLarge, "batch of %d bytes, max.message.bytes is %d", size, cfg.MaxMessageBytes)
}

func errCRC(b protocol.Batch) error {
	return clientErrorf(kerr.CorruptMessage, "CRC is %#x, computed %#x", b.CRC(), b.ComputeCRC())
}

// checkRecords checks the inside of a client's batch as far as the configuration wants it, and applies
// message.timestamp.type and compression.type.
func checkRecords(b protocol.Batch, tp *TopicPartition, cfg *LogConfig, nowMs int64, in *inflater) ([]byte, error) {
	codec := b.Codec()
	target := targetCodec(cfg, codec)
	if codec > protocol.Zstd {
		return nil, clientErrorf(kerr.UnsupportedCompressionType, "unknown compression type %d", int8(codec))
	}
	if codec != protocol.None && !mustOpen(b, cfg, target) {
		if !cfg.LogAppendTime {
			if err := checkTimestamps(b, cfg, nowMs); err != nil {
				return nil, err
			}
		}
		return finish(b, cfg, nowMs, b.MaxTimestamp()), nil
	}
	payload, err := in.payload(b)
	if err != nil {
		return nil, errPayload(err)
	}
	defer in.done(&payload)
	w := recordWalk{tp: tp, cfg: cfg, nowMs: nowMs}
	if err := w.run(b, payload.plain); err != nil {
		return nil, err
	}
	if target != codec || w.gaps {
		return rebuild(b, &payload, cfg, target, nowMs)
	}
	return finish(b, cfg, nowMs, w.maxTimestamp), nil
}

// mustOpen says whether a compressed batch has to be decompressed.
func mustOpen(b protocol.Batch, cfg *LogConfig, target protocol.Codec) bool {
	return cfg.Validation == Strict || cfg.Compact || target != b.Codec() ||
		(cfg.LogAppendTime && b.LogAppendTime()) ||
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
	tp           *TopicPartition
	cfg          *LogConfig
	nowMs        int64
	maxTimestamp int64
	gaps         bool // offset deltas are not 0, 1, 2, ...
	badTime      bool // one of bad is about a timestamp
	bad          []RecordError
	badCount     int // of which bad names the first
}

// maxRecordErrors bounds the records that an answer names: a batch may hold millions.
const maxRecordErrors = 1000

func (w *recordWalk) run(b protocol.Batch, payload []byte) error {
	w.maxTimestamp = -1
	baseTs := b.BaseTimestamp()
	appendTime := w.cfg.LogAppendTime && b.LogAppendTime()
	r := protocol.NewRecordReader(payload, b.Count())
	index := int32(0)
	for rec, ok := r.Skim(); ok; rec, ok = r.Skim() {
		ts := baseTs + rec.TimestampDelta
		w.maxTimestamp = max(w.maxTimestamp, ts)
		w.gaps = w.gaps || rec.OffsetDelta != index
		switch {
		case w.cfg.Compact && rec.Key == nil:
			w.reject(index, func() string {
				return "Compacted topic cannot accept message without key in topic partition " + w.tp.String()
			})
		case appendTime:
			w.badTime = true
			w.reject(index, func() string {
				return "Invalid timestamp type in message. Producer should not set timestamp type to LogAppendTime."
			})
		case !w.cfg.LogAppendTime && (tooLate(ts, w.cfg, w.nowMs) || tooEarly(ts, w.cfg, w.nowMs)):
			w.badTime = true
			w.reject(index, func() string {
				return fmt.Sprintf("Timestamp %d of message with offset %d is out of range. The timestamp should be within [%d, %d]",
					ts, index, w.nowMs-w.cfg.TimestampBeforeMaxMs, w.nowMs+w.cfg.TimestampAfterMaxMs)
			})
		}
		index++
	}
	if err := r.Err(); err != nil {
		return err
	}
	if w.badCount == 0 {
		return nil
	}
	return w.rejection()
}

func (w *recordWalk) reject(index int32, msg func() string) {
	if w.badCount++; w.badCount <= maxRecordErrors {
		w.bad = append(w.bad, RecordError{index, msg()})
	}
}

// rejection is the error for the records rejected, in Kafka's words. One bad timestamp makes it INVALID_TIMESTAMP.
func (w *recordWalk) rejection() error {
	if w.badTime {
		return &InvalidRecordError{Err: kerr.InvalidTimestamp, Records: w.bad, Message: "One or more records have been rejected due to invalid timestamp"}
	}
	var some []string
	for _, e := range w.bad[:min(len(w.bad), 3)] {
		some = append(some, fmt.Sprintf("RecordError(batchIndex=%d, message='%s')", e.Index, e.Message))
	}
	msg := fmt.Sprintf("One or more records have been rejected due to %d record errors in total, and only showing the first three errors at most: [%s]",
		w.badCount, strings.Join(some, ", "))
	return &InvalidRecordError{Err: kerr.InvalidRecord, Records: w.bad, Message: msg}
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

// rebuild makes a batch anew with another codec, or with the offset deltas that its records should have had. It goes record
// by record, because there may be millions.
func rebuild(b protocol.Batch, payload *payload, cfg *LogConfig, target protocol.Codec, nowMs int64) ([]byte, error) {
	plain, err := payload.room(len(payload.plain) + int(b.Count())) // offset deltas may take more bytes than they did
	if err != nil {
		return nil, err
	}
	highest := int64(math.MinInt64)
	r := protocol.NewRecordReader(payload.plain, b.Count())
	delta := int32(0)
	for rec, ok := r.Next(); ok; rec, ok = r.Next() {
		rec.OffsetDelta = delta
		highest = max(highest, rec.TimestampDelta)
		plain = protocol.AppendRecord(plain, &rec)
		delta++
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	if target == protocol.None && len(plain) > int(cfg.MaxMessageBytes) {
		return nil, errTooLarge(protocol.BatchHeaderLen+len(plain), cfg) // before it is copied
	}
	p := protocol.BatchParams{
		BaseTimestamp: b.BaseTimestamp(), Codec: target, Level: level(cfg, target), Transactional: b.IsTransactional(),
		LogAppendTime: cfg.LogAppendTime, LogAppendTimeMs: nowMs, LastOffsetDelta: delta - 1,
	}
	if b.ProducerID() >= 0 {
		p.Producer = &protocol.Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch(), BaseSequence: b.BaseSequence()}
	}
	out := protocol.AppendEncoded(nil, p, plain, delta, highest)
	if len(out) > int(cfg.MaxMessageBytes) {
		return nil, errTooLarge(len(out), cfg)
	}
	return out, nil
}
