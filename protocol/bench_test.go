package protocol

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// produceRequest is a request for one partition.
func produceRequest(version int16, records []byte) *kmsg.ProduceRequest {
	r := kmsg.NewPtrProduceRequest()
	r.SetVersion(version)
	r.Acks, r.TimeoutMillis = -1, 30000
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic, topic.TopicID = "topic", [16]byte{1, 2, 3}
	partition := kmsg.NewProduceRequestTopicPartition()
	partition.Records = records
	topic.Partitions = append(topic.Partitions, partition)
	r.Topics = append(r.Topics, topic)
	return r
}

// plainBatch holds n records of about a hundred bytes.
func plainBatch(n int) Batch {
	var records []Record
	for i := range n {
		records = append(records, Record{
			OffsetDelta: int32(i), TimestampDelta: int64(i), Key: []byte("some-key"),
			Value: make([]byte, 100), Headers: []RecordHeader{{Key: []byte("h"), Value: []byte("v")}},
		})
	}
	return AppendBatch(nil, BatchParams{BaseTimestamp: 1}, records)
}

// TestHotPathAllocations guards the produce path: nothing is allocated per
// record or per byte.
func TestHotPathAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("counts allocations")
	}
	batch := plainBatch(1000)
	check := func(name string, want float64, f func()) {
		t.Helper()
		if got := testing.AllocsPerRun(100, f); got > want {
			t.Errorf("%s: %v allocations, want at most %v", name, got, want)
		}
	}
	named := produceRequest(12, batch).AppendTo(nil)
	check("Decode(Produce v12)", 4, func() { // request, topics, name, partitions
		if _, err := Decode(0, 12, named); err != nil {
			t.Fatal(err)
		}
	})
	reused := produceRequest(13, batch)
	byID := reused.AppendTo(nil)
	check("DecodeInto(Produce v13)", 1, func() { // partitions
		if err := DecodeInto(reused, byID); err != nil {
			t.Fatal(err)
		}
	})
	frame := AppendRequest(nil, Header{}, reused)[4:]
	check("ReadHeader", 0, func() {
		if _, _, err := ReadHeader(frame); err != nil {
			t.Fatal(err)
		}
	})
	check("NextBatch, CRC and stamps", 0, func() {
		b, _, err := NextBatch(batch)
		if err != nil || !b.ValidCRC() {
			t.Fatal(err)
		}
		b.SetBaseOffset(5)
		b.SetLeaderEpoch(6)
		b.SetLogAppendTime(b.MaxTimestamp() + 1)
	})
	check("Skim", 0, func() {
		r := NewRecordReader(batch.Payload(), batch.Count())
		for _, ok := r.Skim(); ok; _, ok = r.Skim() {
		}
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
	})
	check("Next", 1, func() { // the slice of headers, once
		r := NewRecordReader(batch.Payload(), batch.Count())
		for _, ok := r.Next(); ok; _, ok = r.Next() {
		}
	})
	response := kmsg.NewPtrProduceResponse()
	response.SetVersion(12)
	buffer := make([]byte, 0, 1<<10)
	check("AppendResponse", 0, func() { AppendResponse(buffer, 1, response) })
}

func BenchmarkDecodeProduce(b *testing.B) {
	for _, version := range []int16{8, 9, 13} {
		body := produceRequest(version, plainBatch(100)).AppendTo(nil)
		b.Run(fmt.Sprint("v", version), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(0, version, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecodeFetch shows the price of the walk beside kmsg's own.
func BenchmarkDecodeFetch(b *testing.B) {
	r := kmsg.NewPtrFetchRequest()
	r.SetVersion(13)
	topic := kmsg.NewFetchRequestTopic()
	for i := range int32(1000) {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition = i
		topic.Partitions = append(topic.Partitions, p)
	}
	r.Topics = append(r.Topics, topic)
	body := r.AppendTo(nil)
	b.Run("Decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(1, 13, body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kmsg", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := kmsg.NewPtrFetchRequest()
			r.SetVersion(13)
			if err := r.ReadFrom(body); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNextBatch(b *testing.B) {
	batch := plainBatch(10)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := NextBatch(batch); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCRC(b *testing.B) {
	for _, n := range []int{1, 10, 1000, 10000} {
		batch := plainBatch(n)
		b.Run(fmt.Sprint(len(batch)), func(b *testing.B) {
			b.SetBytes(int64(len(batch)))
			for b.Loop() {
				if !batch.ValidCRC() {
					b.Fatal("CRC")
				}
			}
		})
	}
}

func BenchmarkSkim(b *testing.B) {
	batch := plainBatch(1000)
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		r := NewRecordReader(batch.Payload(), batch.Count())
		for _, ok := r.Skim(); ok; _, ok = r.Skim() {
		}
	}
}

func BenchmarkCodecs(b *testing.B) {
	plain := plainBatch(1000).Payload()
	for codec := Gzip; codec <= Zstd; codec++ {
		packed, err := Compress(nil, codec, 3, plain)
		if err != nil {
			b.Fatal(err)
		}
		buffer := make([]byte, 0, 1<<20)
		b.Run("compress "+codec.String(), func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compress(buffer, codec, 3, plain); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decompress "+codec.String(), func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decompress(buffer, codec, packed, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
