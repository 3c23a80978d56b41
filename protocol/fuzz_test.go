package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The oracles: nothing panics, nothing allocates more than a multiple of what
// it was given (or, for decompressors, of their limit), and what decodes
// encodes again to something that decodes to the same.

// checkMemory runs f and fails if it allocated more than most bytes.
func checkMemory(t *testing.T, most uint64, f func()) {
	t.Helper()
	if used := allocated(f); used > most {
		t.Errorf("%d bytes allocated, at most %d allowed", used, most)
	}
}

// FuzzDecode covers the requests of all keys and versions: the seeds hold two
// of each, and key and version are part of the input.
func FuzzDecode(f *testing.F) {
	everyRequest(func(key, version int16, s *schema) {
		f.Add(key, version, randomBody(key, version, s, 1))
		f.Add(key, version, randomBody(key, version, s, 2))
	})
	for _, seed := range hostileRequests() {
		f.Add(seed.key, seed.version, seed.body)
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		var r kmsg.Request
		var err error
		checkMemory(t, mostMemory(len(body)), func() { r, err = Decode(key, version, body) })
		if err != nil {
			if Code(err) == -1 {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		checkNormalForm(t, r)
	})
}

// checkNormalForm encodes what was decoded. The result need not be the bytes
// that were decoded (a varint may have been longer than it must, a tagged field
// may have held its default, bytes may have followed), but it is never longer,
// decodes to the same request, and encodes to itself.
func checkNormalForm(t *testing.T, r kmsg.Request) {
	t.Helper()
	normal := r.AppendTo(nil)
	again, err := Decode(r.Key(), r.GetVersion(), normal)
	if err != nil {
		t.Fatalf("normal form % x does not decode: %v", normal, err)
	}
	if !sameRequest(reflect.ValueOf(r), reflect.ValueOf(again)) {
		t.Fatalf("decodes to %+v\nand then %+v", r, again)
	}
	if twice := again.AppendTo(nil); !bytes.Equal(twice, normal) {
		t.Fatalf("encodes to % x\nand then % x", normal, twice)
	}
}

// sameRequest is reflect.DeepEqual, except that NaN is itself.
func sameRequest(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Float64:
		return math.Float64bits(a.Float()) == math.Float64bits(b.Float())
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return sameRequest(a.Elem(), b.Elem())
	case reflect.Slice:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		for i := range a.Len() {
			if !sameRequest(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		if tags, ok := a.Interface().(kmsg.Tags); ok {
			return reflect.DeepEqual(tags, b.Interface())
		}
		for i := range a.NumField() {
			if !sameRequest(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

type hostileRequest struct {
	key, version int16
	body         []byte
}

// hostileRequests are attacks that this decoder or another one fell for.
func hostileRequests() []hostileRequest {
	tags := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	return []hostileRequest{
		{18, 3, append([]byte{2, 'a', 2, 'b'}, tags...)},                                  // before authentication
		{3, 9, append([]byte{1, 0, 0, 0}, tags...)},                                       // 2^32-1 tags
		{3, 9, append([]byte{2, 2, 'a'}, tags...)},                                        // ... in an element
		{3, 1, []byte{0x7f, 0xff, 0xff, 0xff}},                                            // INT32_MAX elements
		{3, 1, []byte{0xff, 0xff, 0xff, 0xfe}},                                            // -2 elements
		{1, 12, append(bytes.Repeat([]byte{0}, 30), 1, 1, 13, 0, 0, 0, 0)},                // tag of another version
		{8, 8, append([]byte{1, 0, 0, 0, 0, 1, 1}, bytes.Repeat([]byte{2, 1, 1}, 99)...)}, // nested
		{3, 9, append([]byte{100}, bytes.Repeat([]byte{1, 1, 99, 0}, 99)...)},             // a map for each topic
		{0, 9, []byte{0, 0, 1, 0, 0, 0, 0, 2, 2, 'a', 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07}},
	}
}

func FuzzHeader(f *testing.F) {
	everyRequest(func(key, version int16, _ *schema) {
		r := kmsg.RequestForKey(key)
		r.SetVersion(version)
		f.Add(AppendRequest(nil, Header{CorrelationID: 3, ClientID: "client"}, r)[4:])
	})
	f.Add([]byte{0, 3, 0, 9, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0, 18, 0x7f, 0xff, 0, 0, 0, 5, 0, 1, 'c', 1, 0, 0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		var h Header
		var body []byte
		var err error
		checkMemory(t, mostMemory(len(frame)), func() { h, body, err = ReadHeader(frame) })
		if err != nil {
			return
		}
		if len(body) > len(frame) || !bytes.HasSuffix(frame, body) {
			t.Fatalf("body % x of frame % x", body, frame)
		}
		again, rest, err := ReadHeader(append(appendHeader(nil, h), body...))
		if err != nil || again != h || !bytes.Equal(rest, body) {
			t.Fatalf("header %+v reads as %+v, %v", h, again, err)
		}
	})
}

func FuzzResponseHeader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 'b'}, int16(3), true)
	f.Add([]byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f}, int16(3), true)
	f.Add([]byte{0, 0, 0, 1, 1, 0, 1, 'x', 'b'}, int16(18), true)
	f.Add([]byte{0, 0, 0, 1}, int16(18), false)
	f.Fuzz(func(t *testing.T, frame []byte, key int16, flexible bool) {
		checkMemory(t, mostMemory(len(frame)), func() {
			id, body, err := ReadResponseHeader(frame, key, flexible)
			if err == nil && (!bytes.HasSuffix(frame, body) || uint32(id) != binary.BigEndian.Uint32(frame)) {
				t.Fatalf("id %d, body % x of frame % x", id, body, frame)
			}
		})
	})
}

// FuzzBatch reads all that a log may hold: batches, what they say of
// themselves, and their records.
func FuzzBatch(f *testing.F) {
	for _, c := range capturedBatches(f) {
		f.Add(c.bytes)
	}
	f.Add(AppendControlBatch(nil, ControlParams{Type: ControlCommit}))
	two := AppendBatch(nil, BatchParams{}, []Record{{Value: []byte("v")}})
	f.Add(AppendBatch(two, BatchParams{BaseOffset: 1, Codec: LZ4}, []Record{{Value: []byte("v")}}))
	f.Fuzz(func(t *testing.T, log []byte) {
		const limit = 1 << 20
		for rest := log; len(rest) > 0; {
			b, next, err := NextBatch(rest)
			if err != nil {
				if b != nil || len(next) != len(rest) || Code(err) == -1 {
					t.Fatalf("batch % x and %v", []byte(b), err)
				}
				return
			}
			if len(b) < BatchHeaderLen || len(b)+len(next) != len(rest) {
				t.Fatalf("batch of %d and rest of %d bytes of %d", len(b), len(next), len(rest))
			}
			rest = next
			checkMemory(t, 6*limit, func() { checkBatch(t, b, limit) })
		}
	})
}

func checkBatch(t *testing.T, b Batch, limit int) {
	_, _, _, _ = b.LastOffset(), b.LastSequence(), b.HasDeleteHorizon(), b.MaxTimestamp()
	if _, _, err := ParseControlBatch(b); err != nil && Code(err) == -1 {
		t.Fatal(err)
	}
	plain, err := Decompress(nil, b.Codec(), b.Payload(), limit)
	if err != nil {
		return
	}
	r := NewRecordReader(plain, b.Count())
	for _, ok := r.Skim(); ok; _, ok = r.Skim() {
	}
	stamped := Batch(bytes.Clone(b))
	stamped.SetBaseOffset(1)
	stamped.SetLeaderEpoch(2)
	if stamped.ValidCRC() != b.ValidCRC() {
		t.Fatal("stamping changed what the CRC covers")
	}
	stamped.SetLogAppendTime(b.MaxTimestamp() + 1)
	if !stamped.ValidCRC() || stamped.MaxTimestamp() != b.MaxTimestamp()+1 {
		t.Fatal("log append time without a valid CRC")
	}
}

func FuzzRecords(f *testing.F) {
	for _, c := range capturedBatches(f) {
		if c.codec == None {
			f.Add(Batch(c.bytes).Payload(), Batch(c.bytes).Count())
		}
	}
	f.Add([]byte{0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0, 0, 0}, int32(1))
	f.Add([]byte{12, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f}, int32(1))
	f.Add(make([]byte, 100), int32(math.MaxInt32))
	f.Fuzz(func(t *testing.T, payload []byte, count int32) {
		var records []Record
		var err error
		checkMemory(t, mostMemory(4*len(payload)), func() { records, err = readRecords(payload, count) })
		if err != nil {
			return
		}
		if len(records) != int(count) {
			t.Fatalf("%d records of %d", len(records), count)
		}
		var again []byte
		for i := range records {
			again = AppendRecord(again, &records[i])
		}
		if len(again) > len(payload) {
			t.Fatalf("% x is longer than % x", again, payload)
		}
		if same, err := readRecords(again, count); err != nil || !reflect.DeepEqual(same, records) {
			t.Fatalf("reads %v and then %v, %v", records, same, err)
		}
	})
}

// fuzzDecompress is the oracle of all codecs, and proves that what decompresses
// survives being compressed again.
func fuzzDecompress(f *testing.F, codec Codec) {
	for _, c := range capturedBatches(f) {
		if c.codec == codec {
			f.Add(Batch(c.bytes).Payload())
		}
	}
	for _, n := range []int{0, 1, 100, 70000} {
		packed, err := Compress(nil, codec, 3, make([]byte, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		const limit = 1 << 20
		var plain []byte
		var err error
		// Decoders are pooled, and cost at most a megabyte when they are new.
		checkMemory(t, 5*limit, func() { plain, err = Decompress(nil, codec, payload, limit) })
		if err != nil {
			if len(plain) != 0 || Code(err) == -1 {
				t.Fatalf("%d bytes and %v", len(plain), err)
			}
			return
		}
		if len(plain) > limit {
			t.Fatalf("%d bytes for a limit of %d", len(plain), limit)
		}
		if len(plain) > 0 {
			if _, err := Decompress(nil, codec, payload, len(plain)-1); !errors.Is(err, ErrTooLarge) {
				t.Fatalf("limit one below the size: %v", err)
			}
		}
		packed, err := Compress(nil, codec, 1, plain)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Decompress(nil, codec, packed, limit); err != nil || !bytes.Equal(again, plain) {
			t.Fatalf("%d of %d bytes come back, %v", len(again), len(plain), err)
		}
	})
}

func FuzzDecompressGzip(f *testing.F)   { fuzzDecompress(f, Gzip) }
func FuzzDecompressSnappy(f *testing.F) { fuzzDecompress(f, Snappy) }
func FuzzDecompressLZ4(f *testing.F)    { fuzzDecompress(f, LZ4) }
func FuzzDecompressZstd(f *testing.F)   { fuzzDecompress(f, Zstd) }
