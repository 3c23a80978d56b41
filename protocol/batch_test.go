package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// capturedBatch is a batch as a client produced it and Apache Kafka 4.3.1 served
// it: testdata/batches/<client>-<codec>.bin.
type capturedBatch struct {
	client string
	codec  Codec
	bytes  []byte
}

func (c capturedBatch) String() string { return c.client + "-" + c.codec.String() }

func capturedBatches(t testing.TB) []capturedBatch {
	t.Helper()
	var all []capturedBatch
	for _, client := range []string{"java", "rdkafka", "kgo"} {
		for codec := None; codec <= Zstd; codec++ {
			b, err := os.ReadFile(filepath.Join("testdata", "batches", client+"-"+codec.String()+".bin"))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, capturedBatch{client, codec, b})
		}
	}
	return all
}

func TestCapturedBatches(t *testing.T) {
	for _, c := range capturedBatches(t) {
		t.Run(c.String(), func(t *testing.T) {
			b, rest, err := NextBatch(c.bytes)
			if err != nil || len(rest) != 0 || !bytes.Equal(b, c.bytes) {
				t.Fatalf("NextBatch: %d bytes of %d, %d left, %v", len(b), len(c.bytes), len(rest), err)
			}
			if b.Codec() != c.codec || !b.ValidCRC() || b.Magic() != 2 {
				t.Errorf("codec %v, CRC valid %v, magic %d", b.Codec(), b.ValidCRC(), b.Magic())
			}
			plain, err := Decompress(nil, b.Codec(), b.Payload(), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			checkCapturedRecords(t, c.client, b, plain)
			if _, err := Decompress(nil, b.Codec(), b.Payload(), len(plain)); err != nil {
				t.Errorf("limit of just the size: %v", err)
			}
			if _, err := Decompress(nil, b.Codec(), b.Payload(), len(plain)-1); !errors.Is(err, ErrTooLarge) {
				t.Errorf("limit one below the size: %v", err)
			}
		})
	}
}

// checkCapturedRecords knows what the clients were told to send: lines "value
// number i" counting up, the last of them 39.
func checkCapturedRecords(t *testing.T, client string, b Batch, plain []byte) {
	t.Helper()
	number := 40 - int(b.Count())
	r := NewRecordReader(plain, b.Count())
	for rec, ok := r.Next(); ok; rec, ok = r.Next() {
		value := fmt.Sprintf("value number %d, and then the same words again and again and again", number)
		key := fmt.Sprintf("key-%d", number%7)
		nullKey, nullValue := client == "kgo" && number == 5, client == "kgo" && number == 6
		if string(rec.Value) != value && !nullValue || nullValue != (rec.Value == nil) {
			t.Errorf("record %d: value %q", number, rec.Value)
		}
		if string(rec.Key) != key && !nullKey || nullKey != (rec.Key == nil) {
			t.Errorf("record %d: key %q", number, rec.Key)
		}
		if client == "kgo" && number%10 == 3 {
			if len(rec.Headers) != 2 || string(rec.Headers[0].Key) != "h" || string(rec.Headers[0].Value) != "header" ||
				string(rec.Headers[1].Key) != "null" || rec.Headers[1].Value != nil {
				t.Errorf("record %d: headers %q", number, rec.Headers)
			}
		} else if rec.Headers != nil {
			t.Errorf("record %d: headers %q", number, rec.Headers)
		}
		number++
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if number != 40 || b.LastOffsetDelta() != b.Count()-1 {
		t.Errorf("read up to record %d, last offset delta %d, count %d", number, b.LastOffsetDelta(), b.Count())
	}
}

// TestBatchAgainstKmsg builds a batch and has kmsg read every field of it.
func TestBatchAgainstKmsg(t *testing.T) {
	for codec := None; codec <= Zstd; codec++ {
		b := Batch(AppendBatch([]byte("before"), BatchParams{
			BaseOffset: 1 << 40, LeaderEpoch: 7, BaseTimestamp: 1000, Codec: codec, Transactional: true,
			Producer: &Producer{ID: 1 << 33, Epoch: 9, BaseSequence: math.MaxInt32},
		}, []Record{
			{Key: []byte("k"), Value: []byte("v"), Headers: []RecordHeader{{Key: []byte("a"), Value: []byte("b")}, {Key: []byte{}}}},
			{OffsetDelta: 1, TimestampDelta: 50, Value: []byte{}},
			{OffsetDelta: 4, TimestampDelta: -3, Attributes: 1, Key: []byte(strings.Repeat("long", 100))},
		})[len("before"):])
		if got, rest, err := NextBatch(b); err != nil || len(rest) != 0 || len(got) != len(b) {
			t.Fatalf("NextBatch: %v", err)
		}
		var k kmsg.RecordBatch
		if err := k.ReadFrom(b); err != nil {
			t.Fatal(err)
		}
		want := kmsg.RecordBatch{
			FirstOffset: b.BaseOffset(), Length: int32(len(b) - BatchOverhead), PartitionLeaderEpoch: b.LeaderEpoch(),
			Magic: b.Magic(), CRC: int32(b.CRC()), Attributes: b.Attributes(), LastOffsetDelta: b.LastOffsetDelta(),
			FirstTimestamp: b.BaseTimestamp(), MaxTimestamp: b.MaxTimestamp(), ProducerID: b.ProducerID(),
			ProducerEpoch: b.ProducerEpoch(), FirstSequence: b.BaseSequence(), NumRecords: b.Count(),
		}
		k.Records = nil
		if fmt.Sprint(k) != fmt.Sprint(want) {
			t.Errorf("%v:\nkmsg %v\nview %v", codec, k, want)
		}
		if b.BaseOffset() != 1<<40 || b.LeaderEpoch() != 7 || b.LastOffset() != 1<<40+4 || b.MaxTimestamp() != 1050 ||
			b.ProducerID() != 1<<33 || b.ProducerEpoch() != 9 || b.BaseSequence() != math.MaxInt32 || b.LastSequence() != 3 ||
			b.Count() != 3 || !b.IsTransactional() || b.IsControl() || b.LogAppendTime() || b.HasDeleteHorizon() ||
			b.Codec() != codec || !b.ValidCRC() {
			t.Errorf("%v: %v", codec, k)
		}
	}
}

func TestBatchStamps(t *testing.T) {
	original := AppendBatch(nil, BatchParams{BaseTimestamp: 5}, []Record{{Value: []byte("v")}})
	b := Batch(bytes.Clone(original))
	b.SetBaseOffset(123456789012)
	b.SetLeaderEpoch(42)
	if !b.ValidCRC() || b.BaseOffset() != 123456789012 || b.LeaderEpoch() != 42 {
		t.Errorf("stamped: CRC %v, offset %d, epoch %d", b.ValidCRC(), b.BaseOffset(), b.LeaderEpoch())
	}
	if !bytes.Equal(b[8:12], original[8:12]) || !bytes.Equal(b[16:], original[16:]) {
		t.Error("stamping touched more than its 12 bytes")
	}
	b.SetLogAppendTime(99)
	if !b.ValidCRC() || !b.LogAppendTime() || b.MaxTimestamp() != 99 || b.BaseTimestamp() != 5 {
		t.Errorf("log append time: CRC %v, %v, max %d, base %d", b.ValidCRC(), b.LogAppendTime(), b.MaxTimestamp(), b.BaseTimestamp())
	}
	b.SetMaxTimestamp(7)
	if !b.ValidCRC() || b.LogAppendTime() || b.MaxTimestamp() != 7 {
		t.Errorf("max timestamp: CRC %v, %v, max %d", b.ValidCRC(), b.LogAppendTime(), b.MaxTimestamp())
	}
	b[len(b)-1]++
	if b.ValidCRC() {
		t.Error("CRC does not cover the last byte")
	}
	b[len(b)-1]--
	b[attributesAt]++
	if b.ValidCRC() {
		t.Error("CRC does not cover the attributes")
	}
}

func TestNextBatchRefuses(t *testing.T) {
	good := AppendBatch(nil, BatchParams{}, []Record{{Value: []byte("v")}})
	with := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	length := func(n int32) []byte {
		return with(func(b []byte) { binary.BigEndian.PutUint32(b[batchLengthAt:], uint32(n)) })
	}
	magic := func(m byte) []byte { return with(func(b []byte) { b[magicAt] = m }) }
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":             {nil, ErrBatchShort},
		"16 bytes":            {good[:16], ErrBatchShort},
		"one byte missing":    {good[:len(good)-1], ErrBatchShort},
		"length one too much": {length(int32(len(good)) - BatchOverhead + 1), ErrBatchShort},
		"length 2^31-1":       {length(math.MaxInt32), ErrBatchShort},
		"length -1":           {length(-1), ErrBatchLength},
		"length 0":            {length(0), ErrBatchLength},
		"length -2^31":        {length(math.MinInt32), ErrBatchLength},
		"length 48":           {length(48), ErrBatchLength},
		"magic 0":             {magic(0), ErrBatchOldMagic},
		"magic 1":             {magic(1), ErrBatchOldMagic},
		"magic 3":             {magic(3), ErrBatchMagic},
		"magic 255":           {magic(255), ErrBatchMagic},
	} {
		b, rest, err := NextBatch(c.bytes)
		if !errors.Is(err, c.want) || b != nil || len(rest) != len(c.bytes) {
			t.Errorf("%s: batch %v, %d left, error %v, want %v", name, b, len(rest), err, c.want)
		}
	}
	if Code(ErrBatchOldMagic) != kerr.InvalidRecord.Code || Code(ErrBatchShort) != kerr.CorruptMessage.Code {
		t.Error("errors without their Kafka code")
	}
	two := append(bytes.Clone(good), good...)
	b, rest, err := NextBatch(two)
	if err != nil || len(b) != len(good) || cap(b) != len(good) || !bytes.Equal(rest, good) {
		t.Errorf("two batches: %d bytes, capacity %d, %d left, %v", len(b), cap(b), len(rest), err)
	}
	empty := AppendBatch(nil, BatchParams{}, nil)
	if b, _, err := NextBatch(empty); err != nil || len(b) != BatchHeaderLen || b.Count() != 0 {
		t.Errorf("a batch without records: %v", err)
	}
}

func TestSequencesWrap(t *testing.T) {
	for _, c := range []struct{ sequence, n, want int32 }{
		{0, 0, 0},
		{0, 5, 5},
		{math.MaxInt32, 0, math.MaxInt32},
		{math.MaxInt32, 1, 0},
		{math.MaxInt32 - 1, 3, 1},
		{math.MaxInt32, math.MaxInt32, math.MaxInt32 - 1},
	} {
		if got := NextSequence(c.sequence, c.n); got != c.want {
			t.Errorf("NextSequence(%d, %d) = %d, want %d", c.sequence, c.n, got, c.want)
		}
	}
	b := Batch(AppendBatch(nil, BatchParams{}, []Record{{}, {OffsetDelta: 1}}))
	if b.BaseSequence() != -1 || b.LastSequence() != -1 || b.ProducerID() != -1 || b.ProducerEpoch() != -1 {
		t.Errorf("no producer: %d to %d of %d/%d", b.BaseSequence(), b.LastSequence(), b.ProducerID(), b.ProducerEpoch())
	}
}

func TestControlBatch(t *testing.T) {
	for _, want := range []ControlType{ControlAbort, ControlCommit} {
		b := Batch(AppendControlBatch(nil, ControlParams{
			BaseOffset: 9, LeaderEpoch: 1, TimestampMs: 77, ProducerID: 5, ProducerEpoch: 3, CoordinatorEpoch: 12, Type: want,
		}))
		if !b.IsControl() || !b.IsTransactional() || !b.ValidCRC() || b.ProducerID() != 5 || b.ProducerEpoch() != 3 ||
			b.BaseSequence() != -1 || b.Count() != 1 || b.MaxTimestamp() != 77 || b.LastOffset() != 9 {
			t.Errorf("%v: % x", want, []byte(b))
		}
		got, epoch, err := ParseControlBatch(b)
		if got != want || epoch != 12 || err != nil {
			t.Errorf("parsed %v of epoch %d, %v", got, epoch, err)
		}
		var key kmsg.ControlRecordKey
		r := NewRecordReader(b.Payload(), 1)
		rec, _ := r.Next()
		if err := key.ReadFrom(rec.Key); err != nil || int16(key.Type) != int16(want) {
			t.Errorf("kmsg reads %v, %v", key, err)
		}
		var value kmsg.EndTxnMarker
		if err := value.ReadFrom(rec.Value); err != nil || value.CoordinatorEpoch != 12 {
			t.Errorf("kmsg reads %v, %v", value, err)
		}
	}
	data := Batch(AppendBatch(nil, BatchParams{Control: true}, []Record{{Key: []byte{0, 0, 0}}}))
	if _, _, err := ParseControlBatch(data); Code(err) != kerr.InvalidRecord.Code {
		t.Errorf("short key: %v", err)
	}
	if _, _, err := ParseControlBatch(Batch(AppendBatch(nil, BatchParams{}, nil))); Code(err) != kerr.InvalidRecord.Code {
		t.Errorf("no record: %v", err)
	}
}
