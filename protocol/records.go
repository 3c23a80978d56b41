package protocol

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Record is one record of a batch. Deltas count from the batch's base.
type Record struct {
	Attributes int8 // unused by Kafka, kept
	// TimestampDelta is in ms. It means nothing in a batch with log append
	// time.
	TimestampDelta int64
	OffsetDelta    int32
	Key, Value     []byte // nil is null
	Headers        []RecordHeader
}

// RecordHeader is one header of a record. Keys may repeat and their order
// counts.
type RecordHeader struct {
	Key   []byte // never null
	Value []byte // nil is null
}

// minRecordLen and minHeaderLen are what the smallest record and header take;
// counts that ask for more than is there are refused at once.
const (
	minRecordLen = 7
	minHeaderLen = 2
)

// RecordError says which record of a batch cannot be read, and where.
type RecordError struct {
	// Index counts records from 0; it is the record count if something is
	// left over after the last.
	Index int32
	// Offset counts bytes of the decompressed payload.
	Offset int
	Reason string
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("protocol: record %d at byte %d: %s", e.Index, e.Offset, e.Reason)
}

// Unwrap makes it an INVALID_RECORD, which is what Kafka answers.
func (*RecordError) Unwrap() error { return kerr.InvalidRecord }

// RecordReader walks the records of a decompressed payload without copying
// them. A well-formed payload holds exactly the declared count and nothing
// after it; [RecordReader.Err] is nil only then.
//
//	r := NewRecordReader(payload, batch.Count())
//	for rec, ok := r.Next(); ok; rec, ok = r.Next() {
//	}
//	if err := r.Err(); err != nil {
type RecordReader struct {
	payload []byte
	at      int
	count   int32
	index   int32
	headers []RecordHeader
	err     error
}

// NewRecordReader returns a reader over count records.
func NewRecordReader(payload []byte, count int32) RecordReader {
	r := RecordReader{payload: payload, count: count}
	if count < 0 {
		r.fail("negative record count")
	} else if int64(count)*minRecordLen > int64(len(payload)) {
		r.fail("record count is more than the payload can hold")
	}
	return r
}

// Next returns the next record. Its slices alias the payload, and Headers is
// valid only until the next call.
func (r *RecordReader) Next() (Record, bool) { return r.next(true) }

// Skim is Next without gathering the headers: it checks them all the same, but
// leaves Headers nil and never allocates.
func (r *RecordReader) Skim() (Record, bool) { return r.next(false) }

// Err is why reading ended: nil after the last record.
func (r *RecordReader) Err() error { return r.err }

func (r *RecordReader) next(withHeaders bool) (rec Record, ok bool) {
	if r.err != nil {
		return rec, false
	}
	if r.index == r.count {
		if r.at != len(r.payload) {
			r.fail("bytes left over after the last record")
		}
		return rec, false
	}
	length := r.varint()
	if r.err != nil {
		return rec, false
	}
	if length < 0 || int64(length) > int64(len(r.payload)-r.at) {
		r.fail("record length is beyond the payload")
		return rec, false
	}
	end := r.at + int(length)
	// Nothing below may read past the record's own length.
	body := RecordReader{payload: r.payload[:end], at: r.at, index: r.index, headers: r.headers}
	rec = body.record(withHeaders)
	if body.err == nil && body.at != end {
		body.fail("record is shorter than its length")
	}
	r.headers = body.headers
	if body.err != nil {
		r.err = body.err
		return Record{}, false
	}
	r.at = end
	r.index++
	return rec, true
}

// record reads what follows a record's length.
func (r *RecordReader) record(withHeaders bool) (rec Record) {
	if r.at == len(r.payload) {
		r.fail("record is empty")
		return rec
	}
	rec.Attributes = int8(r.payload[r.at])
	r.at++
	rec.TimestampDelta = r.varlong()
	rec.OffsetDelta = r.varint()
	rec.Key = r.bytes()
	rec.Value = r.bytes()
	count := r.varint()
	if r.err != nil {
		return rec
	}
	if count < 0 || int64(count)*minHeaderLen > int64(len(r.payload)-r.at) {
		r.fail("header count is more than the record can hold")
		return rec
	}
	r.headers = r.headers[:0]
	for range count {
		h := RecordHeader{Key: r.bytes(), Value: r.bytes()}
		if r.err == nil && h.Key == nil {
			r.fail("header without a key")
		}
		if r.err != nil {
			return rec
		}
		if withHeaders {
			r.headers = append(r.headers, h)
		}
	}
	if withHeaders && count > 0 {
		rec.Headers = r.headers
	}
	return rec
}

// bytes reads a nullable byte slice; an empty one is not nil.
func (r *RecordReader) bytes() []byte {
	n := r.varint()
	if r.err != nil || n == -1 {
		return nil
	}
	if n < -1 || int64(n) > int64(len(r.payload)-r.at) {
		r.fail("length is beyond the record")
		return nil
	}
	b := r.payload[r.at : r.at+int(n) : r.at+int(n)]
	r.at += int(n)
	return b
}

func (r *RecordReader) varint() int32 {
	v, n := varint32(r.payload[r.at:])
	r.advance(n)
	return v
}

func (r *RecordReader) varlong() int64 {
	v, n := varint64(r.payload[r.at:])
	r.advance(n)
	return v
}

func (r *RecordReader) advance(n int) {
	if n > 0 {
		r.at += n
		return
	}
	if n == 0 {
		r.fail("varint is cut short")
	} else {
		r.fail("varint is too long")
	}
}

// fail keeps the first fault. Later reads of a failed reader find nothing.
func (r *RecordReader) fail(reason string) {
	if r.err == nil {
		r.err = &RecordError{Index: r.index, Offset: r.at, Reason: reason}
		r.at = len(r.payload)
	}
}
