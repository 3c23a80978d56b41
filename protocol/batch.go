package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Batch is a view over the bytes of exactly one record batch v2, of any length
// that [NextBatch] lets through: 61 bytes at least, 12 + batch length in all.
// The methods rely on that; NextBatch is the way to make one of foreign bytes.
type Batch []byte

// Where the fields of a batch are; see the package comment.
const (
	batchLengthAt     = 8
	leaderEpochAt     = 12
	magicAt           = 16
	crcAt             = 17
	attributesAt      = 21
	lastOffsetDeltaAt = 23
	baseTimestampAt   = 27
	maxTimestampAt    = 35
	producerIDAt      = 43
	producerEpochAt   = 51
	baseSequenceAt    = 53
	recordCountAt     = 57

	// BatchHeaderLen is the length of a batch without records.
	BatchHeaderLen = 61
	// BatchOverhead is the part of a batch that its length field does not
	// count: base offset and the length itself.
	BatchOverhead = 12
)

// Magic2 is the magic of the one batch format that gregor keeps.
const Magic2 = 2

// Attribute bits of a batch.
const (
	attrCodecMask     = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

// What [NextBatch] finds wrong; all of them carry a Kafka error code.
var (
	// ErrBatchShort: fewer bytes than the header or the batch length asks
	// for. In a log's last segment that is a torn write; Kafka treats it in a
	// Produce request as if there were no batch.
	ErrBatchShort = fmt.Errorf("protocol: record batch is cut short: %w", kerr.CorruptMessage)
	// ErrBatchLength: a length that no batch of its magic can have.
	ErrBatchLength = fmt.Errorf("protocol: record batch length is too small: %w", kerr.CorruptMessage)
	// ErrBatchMagic: a magic that no Kafka has written.
	ErrBatchMagic = fmt.Errorf("protocol: unknown record batch magic: %w", kerr.CorruptMessage)
	// ErrBatchOldMagic: a message set of before Kafka 0.11 (magic 0 or 1).
	ErrBatchOldMagic = fmt.Errorf("protocol: message format older than v2: %w", kerr.InvalidRecord)
)

// legacyMinLen is the smallest length that a message of magic 0 declares. A
// length below it is refused before the magic is looked at, as in Kafka.
const legacyMinLen = 14

// NextBatch splits the first batch off b. It checks nothing but the bounds of
// the length and the magic; the rest aliases b, and so does the batch, whose
// capacity is clipped.
func NextBatch(b []byte) (batch Batch, rest []byte, err error) {
	if len(b) <= magicAt {
		return nil, b, ErrBatchShort
	}
	length := int32(binary.BigEndian.Uint32(b[batchLengthAt:]))
	if length < legacyMinLen {
		return nil, b, ErrBatchLength
	}
	switch magic := b[magicAt]; {
	case magic > Magic2:
		return nil, b, ErrBatchMagic
	case magic < Magic2:
		return nil, b, ErrBatchOldMagic
	case length < BatchHeaderLen-BatchOverhead:
		return nil, b, ErrBatchLength
	}
	total := int64(length) + BatchOverhead
	if total > int64(len(b)) {
		return nil, b, ErrBatchShort
	}
	return Batch(b[:total:total]), b[total:], nil
}

// IsBatchShort reports whether err of [NextBatch] says that bytes are missing
// at the end, as after a torn write, rather than that they are wrong.
func IsBatchShort(err error) bool { return errors.Is(err, ErrBatchShort) }

// BaseOffset is the offset that record deltas count from.
func (b Batch) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(b)) }

// LeaderEpoch is the epoch of the leader that appended the batch.
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[leaderEpochAt:])) }

// Magic is 2.
func (b Batch) Magic() int8 { return int8(b[magicAt]) }

// CRC is the checksum that the batch carries; see [Batch.ValidCRC].
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[crcAt:]) }

// Attributes are the raw attribute bits.
func (b Batch) Attributes() int16 { return int16(binary.BigEndian.Uint16(b[attributesAt:])) }

// Codec is what the payload is compressed with. Values above [Zstd] are kept
// as they are for the caller to refuse.
func (b Batch) Codec() Codec { return Codec(b[attributesAt+1] & attrCodecMask) }

// LogAppendTime reports whether the records' timestamps are the broker's: each
// record then has the batch's max timestamp.
func (b Batch) LogAppendTime() bool { return b[attributesAt+1]&attrLogAppendTime != 0 }

// IsTransactional reports whether the batch is part of a transaction.
func (b Batch) IsTransactional() bool { return b[attributesAt+1]&attrTransactional != 0 }

// IsControl reports whether the batch holds a marker instead of data.
func (b Batch) IsControl() bool { return b[attributesAt+1]&attrControl != 0 }

// HasDeleteHorizon reports whether compaction put a delete horizon into the
// base timestamp (KIP-534).
func (b Batch) HasDeleteHorizon() bool { return b[attributesAt+1]&attrDeleteHorizon != 0 }

// LastOffsetDelta is the last offset minus the base offset. It outlives the
// record it came from when compaction removes that.
func (b Batch) LastOffsetDelta() int32 {
	return int32(binary.BigEndian.Uint32(b[lastOffsetDeltaAt:]))
}

// LastOffset is the last offset that the batch takes.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// BaseTimestamp is what record deltas count from, in ms since the epoch.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[baseTimestampAt:])) }

// MaxTimestamp is the highest timestamp of the records in ms since the epoch,
// or -1; as its producer claims it, unless [Batch.LogAppendTime].
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[maxTimestampAt:])) }

// ProducerID is the idempotent producer's id, or -1.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[producerIDAt:])) }

// ProducerEpoch is the idempotent producer's epoch, or -1.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[producerEpochAt:])) }

// BaseSequence is the sequence number of the first record, or -1.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[baseSequenceAt:])) }

// LastSequence is the sequence number of the last record, or -1 if there are
// none. Sequences wrap from 2^31-1 to 0.
func (b Batch) LastSequence() int32 {
	base := b.BaseSequence()
	if base < 0 {
		return -1
	}
	return NextSequence(base, b.LastOffsetDelta())
}

// NextSequence is sequence advanced by n, wrapping from 2^31-1 to 0. Both must
// not be negative.
func NextSequence(sequence, n int32) int32 {
	return int32((int64(sequence) + int64(n)) & math.MaxInt32)
}

// Count is the declared number of records.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[recordCountAt:])) }

// Payload is the records, compressed as [Batch.Codec] says.
func (b Batch) Payload() []byte { return b[BatchHeaderLen:] }

// SetBaseOffset stamps the base offset. The CRC does not cover it.
func (b Batch) SetBaseOffset(offset int64) { binary.BigEndian.PutUint64(b, uint64(offset)) }

// SetLeaderEpoch stamps the leader epoch. The CRC does not cover it.
func (b Batch) SetLeaderEpoch(epoch int32) {
	binary.BigEndian.PutUint32(b[leaderEpochAt:], uint32(epoch))
}

// SetLogAppendTime gives all records the timestamp ms and rewrites the CRC,
// which covers it: one more pass over the batch.
func (b Batch) SetLogAppendTime(ms int64) {
	if b.LogAppendTime() && b.MaxTimestamp() == ms {
		return
	}
	b[attributesAt+1] |= attrLogAppendTime
	binary.BigEndian.PutUint64(b[maxTimestampAt:], uint64(ms))
	b.ResetCRC()
}

// SetMaxTimestamp corrects the max timestamp of a batch with create times,
// clears the log append time bit, and rewrites the CRC if either changed.
func (b Batch) SetMaxTimestamp(ms int64) {
	if !b.LogAppendTime() && b.MaxTimestamp() == ms {
		return
	}
	b[attributesAt+1] &^= attrLogAppendTime
	binary.BigEndian.PutUint64(b[maxTimestampAt:], uint64(ms))
	b.ResetCRC()
}

// castagnoli is a read-only table; crc32 compares its pointer to find the CPU's
// own instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ComputeCRC hashes all that the CRC covers.
func (b Batch) ComputeCRC() uint32 { return crc32.Update(0, castagnoli, b[attributesAt:]) }

// ValidCRC reports whether the batch is as its producer made it.
func (b Batch) ValidCRC() bool { return b.CRC() == b.ComputeCRC() }

// ResetCRC writes the CRC anew after a change of what it covers.
func (b Batch) ResetCRC() { binary.BigEndian.PutUint32(b[crcAt:], b.ComputeCRC()) }
