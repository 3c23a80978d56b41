package wire

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Rec is a record of a hand-made batch.
type Rec struct {
	Key, Value []byte
	Delta      int64 // milliseconds after the batch's first timestamp
}

// Batch is a record batch with every field open to mischief.
type Batch struct {
	kmsg.RecordBatch
	Records []Rec
}

// NewBatch is a sound, uncompressed batch of records from timestamp on.
func NewBatch(timestamp int64, recs ...Rec) *Batch {
	b := &Batch{Records: recs}
	b.PartitionLeaderEpoch = -1
	b.Magic = 2
	b.FirstTimestamp = timestamp
	b.MaxTimestamp = timestamp
	for _, r := range recs {
		b.MaxTimestamp = max(b.MaxTimestamp, timestamp+r.Delta)
	}
	b.ProducerID, b.ProducerEpoch, b.FirstSequence = -1, -1, -1
	b.NumRecords = int32(len(recs))
	b.LastOffsetDelta = int32(len(recs)) - 1
	for i, r := range recs {
		b.RecordBatch.Records = append(b.RecordBatch.Records, encodeRecord(r, i)...)
	}
	return b
}

// Producer makes the batch that of an idempotent producer.
func (b *Batch) Producer(id int64, epoch int16, sequence int32) *Batch {
	b.ProducerID, b.ProducerEpoch, b.FirstSequence = id, epoch, sequence
	return b
}

// Bytes is the batch with its length and checksum in order.
func (b *Batch) Bytes() []byte {
	b.Length = 0
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func encodeRecord(r Rec, i int) []byte {
	rec := kmsg.Record{TimestampDelta64: r.Delta, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
	// The length counts what follows it; measured on an encoding with length 0,
	// whose length field takes one byte.
	rec.Length = int32(len(rec.AppendTo(nil)) - 1)
	return rec.AppendTo(nil)
}
