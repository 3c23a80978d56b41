package protocol

import (
	"encoding/binary"
	"fmt"
)

// BatchParams is what a new batch says about its records.
type BatchParams struct {
	BaseOffset  int64
	LeaderEpoch int32
	// BaseTimestamp in ms is what the records' timestamp deltas count from.
	BaseTimestamp int64
	// LogAppendTime gives all records LogAppendTimeMs.
	LogAppendTime   bool
	LogAppendTimeMs int64
	Codec           Codec
	// Level is the codec's own; see [Compress].
	Level         int
	Transactional bool
	Control       bool
	// DeleteHorizon says that BaseTimestamp is the time from which the batch's
	// tombstones may go (KIP-534).
	DeleteHorizon bool
	// Producer is nil for a producer that is not idempotent.
	Producer *Producer
	// LastOffsetDelta is used if it is above the last record's, for a batch
	// whose last records were removed.
	LastOffsetDelta int32
}

// Producer identifies an idempotent producer and the sequence of its batch's
// first record.
type Producer struct {
	ID           int64
	Epoch        int16
	BaseSequence int32 // -1 for markers
}

// AppendBatch appends a batch with the given records, whose offset and
// timestamp deltas are kept as they are. It panics on a codec that does not
// exist.
func AppendBatch(dst []byte, p BatchParams, records []Record) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, BatchHeaderLen)...)
	p.LastOffsetDelta = p.lastOffsetDelta(records)
	dst = appendPayload(dst, p, records)
	return p.finish(dst, start, len(records), p.maxTimestamp(records))
}

// AppendEncoded is AppendBatch for records that are encoded already: count of
// them in plain, of which highest is the greatest timestamp delta.
// p.LastOffsetDelta is the last one's.
func AppendEncoded(dst []byte, p BatchParams, plain []byte, count int32, highest int64) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, BatchHeaderLen)...)
	dst = p.compress(dst, plain)
	maxTimestamp := p.BaseTimestamp + highest
	switch {
	case p.LogAppendTime:
		maxTimestamp = p.LogAppendTimeMs
	case count == 0:
		maxTimestamp = -1
	}
	return p.finish(dst, start, int(count), maxTimestamp)
}

// finish fills in the header of the batch that begins at start.
func (p *BatchParams) finish(dst []byte, start, count int, maxTimestamp int64) []byte {
	b := Batch(dst[start:])
	p.fillHeader(b, count, maxTimestamp)
	b.ResetCRC()
	return dst
}

func appendPayload(dst []byte, p BatchParams, records []Record) []byte {
	if p.Codec == None {
		for i := range records {
			dst = AppendRecord(dst, &records[i])
		}
		return dst
	}
	var plain []byte
	for i := range records {
		plain = AppendRecord(plain, &records[i])
	}
	return p.compress(dst, plain)
}

func (p *BatchParams) compress(dst, plain []byte) []byte {
	dst, err := Compress(dst, p.Codec, p.Level, plain)
	if err != nil {
		panic(fmt.Sprintf("protocol: AppendBatch: %v", err))
	}
	return dst
}

func (p *BatchParams) fillHeader(b Batch, count int, maxTimestamp int64) {
	be := binary.BigEndian
	b.SetBaseOffset(p.BaseOffset)
	be.PutUint32(b[batchLengthAt:], uint32(len(b)-BatchOverhead))
	b.SetLeaderEpoch(p.LeaderEpoch)
	b[magicAt] = Magic2
	be.PutUint16(b[attributesAt:], uint16(p.attributes()))
	be.PutUint32(b[lastOffsetDeltaAt:], uint32(p.LastOffsetDelta))
	be.PutUint64(b[baseTimestampAt:], uint64(p.BaseTimestamp))
	be.PutUint64(b[maxTimestampAt:], uint64(maxTimestamp))
	producer := Producer{ID: -1, Epoch: -1, BaseSequence: -1}
	if p.Producer != nil {
		producer = *p.Producer
	}
	be.PutUint64(b[producerIDAt:], uint64(producer.ID))
	be.PutUint16(b[producerEpochAt:], uint16(producer.Epoch))
	be.PutUint32(b[baseSequenceAt:], uint32(producer.BaseSequence))
	be.PutUint32(b[recordCountAt:], uint32(count))
}

func (p *BatchParams) attributes() int16 {
	a := int16(p.Codec) & attrCodecMask
	if p.LogAppendTime {
		a |= attrLogAppendTime
	}
	if p.Transactional {
		a |= attrTransactional
	}
	if p.Control {
		a |= attrControl
	}
	if p.DeleteHorizon {
		a |= attrDeleteHorizon
	}
	return a
}

func (p *BatchParams) lastOffsetDelta(records []Record) int32 {
	last := p.LastOffsetDelta
	if n := len(records); n > 0 {
		last = max(last, records[n-1].OffsetDelta)
	}
	return last
}

func (p *BatchParams) maxTimestamp(records []Record) int64 {
	if p.LogAppendTime {
		return p.LogAppendTimeMs
	}
	if len(records) == 0 {
		return -1
	}
	highest := records[0].TimestampDelta
	for i := range records {
		highest = max(highest, records[i].TimestampDelta)
	}
	return p.BaseTimestamp + highest
}

// AppendRecord appends one record in its wire form.
func AppendRecord(dst []byte, r *Record) []byte {
	dst = appendVarint(dst, int64(r.bodyLen()))
	dst = append(dst, byte(r.Attributes))
	dst = appendVarint(dst, r.TimestampDelta)
	dst = appendVarint(dst, int64(r.OffsetDelta))
	dst = appendVarintBytes(dst, r.Key)
	dst = appendVarintBytes(dst, r.Value)
	dst = appendVarint(dst, int64(len(r.Headers)))
	for i := range r.Headers {
		dst = appendVarint(dst, int64(len(r.Headers[i].Key)))
		dst = append(dst, r.Headers[i].Key...)
		dst = appendVarintBytes(dst, r.Headers[i].Value)
	}
	return dst
}

// bodyLen is what the record's length field holds.
func (r *Record) bodyLen() int {
	n := 1 + varintLen(r.TimestampDelta) + varintLen(int64(r.OffsetDelta)) +
		varintBytesLen(r.Key) + varintBytesLen(r.Value) + varintLen(int64(len(r.Headers)))
	for i := range r.Headers {
		n += varintLen(int64(len(r.Headers[i].Key))) + len(r.Headers[i].Key)
		n += varintBytesLen(r.Headers[i].Value)
	}
	return n
}

func appendVarintBytes(dst, b []byte) []byte {
	if b == nil {
		return appendVarint(dst, -1)
	}
	dst = appendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

func varintBytesLen(b []byte) int {
	if b == nil {
		return 1
	}
	return varintLen(int64(len(b))) + len(b)
}
