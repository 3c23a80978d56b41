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

// RecordError says which record of a batch cannot be read, and why.
type RecordError struct {
	// Index counts records from 0; it is the record count if something is
	// left over after the last.
	Index int32
	// Offset is where in the decompressed payload the record begins.
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

// next reads a record with positions in place of errors: a reader that fails
// returns one of the negative positions below, on which all others fail in
// turn, so that one check at the end will do. This runs for every record that
// is produced uncompressed.
func (r *RecordReader) next(withHeaders bool) (rec Record, ok bool) {
	if r.err != nil || r.index >= r.count {
		r.finish()
		return rec, false
	}
	length, at := varintAt(r.payload, r.at)
	if at < 0 || length < 1 || int(length) > len(r.payload)-at {
		r.fail("record length is beyond the payload")
		return rec, false
	}
	end := at + int(length)
	p := r.payload[:end] // nothing below may read past the record's own length
	rec.Attributes = int8(p[at])
	rec.TimestampDelta, at = varlongAt(p, at+1)
	rec.OffsetDelta, at = varintAt(p, at)
	rec.Key, at = bytesAt(p, at)
	rec.Value, at = bytesAt(p, at)
	headers, at := varintAt(p, at)
	if headers != 0 {
		rec.Headers, at = r.headersAt(p, at, headers, withHeaders)
	}
	if at != end {
		r.fail(badPosition(at))
		return Record{}, false
	}
	r.at = end
	r.index++
	return rec, true
}

func (r *RecordReader) finish() {
	if r.err == nil && r.at != len(r.payload) {
		r.fail("bytes left over after the last record")
	}
}

func (r *RecordReader) fail(reason string) {
	r.err = &RecordError{Index: r.index, Offset: r.at, Reason: reason}
}

// Positions that say what went wrong.
const (
	posVarint = -1 - iota
	posBytes
	posHeaderCount
	posHeaderKey
)

func badPosition(at int) string {
	switch at {
	case posVarint:
		return "varint is too long or cut short"
	case posBytes:
		return "key or value is longer than the record"
	case posHeaderCount:
		return "more headers than the record can hold"
	case posHeaderKey:
		return "header without a key"
	}
	return "record is shorter than its length"
}

// headersAt reads n headers into the reader's own slice, or only checks them.
func (r *RecordReader) headersAt(p []byte, at int, n int32, keep bool) ([]RecordHeader, int) {
	if at < 0 {
		return nil, at
	}
	if n < 0 || int64(n)*minHeaderLen > int64(len(p)-at) {
		return nil, posHeaderCount
	}
	r.headers = r.headers[:0]
	for range n {
		var h RecordHeader
		h.Key, at = bytesAt(p, at)
		h.Value, at = bytesAt(p, at)
		if at < 0 {
			return nil, at
		}
		if h.Key == nil {
			return nil, posHeaderKey
		}
		if keep {
			r.headers = append(r.headers, h)
		}
	}
	if !keep {
		return nil, at
	}
	return r.headers, at
}

// bytesAt reads a nullable byte slice; an empty one is not nil.
func bytesAt(p []byte, at int) ([]byte, int) {
	n, at := varintAt(p, at)
	if at < 0 || n == -1 {
		return nil, at
	}
	end := at + int(n)
	if n < 0 || end > len(p) {
		return nil, posBytes
	}
	return p[at:end:end], end
}

// varintAt and varlongAt read at a position and return the next one. Values of
// one byte and two, which nearly all are, are read without a loop.
func varintAt(p []byte, at int) (int32, int) {
	if uint(at) >= uint(len(p)) {
		return 0, min(at, posVarint)
	}
	u := uint32(p[at])
	at++
	if u >= 0x80 {
		if at < len(p) && p[at] < 0x80 {
			u = u&0x7f | uint32(p[at])<<7
			at++
		} else {
			return longVarintAt(p, at-1)
		}
	}
	return int32(u>>1) ^ -int32(u&1), at
}

func longVarintAt(p []byte, at int) (int32, int) {
	v, n := varint32(p[at:])
	if n <= 0 {
		return 0, posVarint
	}
	return v, at + n
}

func varlongAt(p []byte, at int) (int64, int) {
	if uint(at) >= uint(len(p)) {
		return 0, min(at, posVarint)
	}
	if c := p[at]; c < 0x80 {
		return int64(c>>1) ^ -int64(c&1), at + 1
	}
	v, n := varint64(p[at:])
	if n <= 0 {
		return 0, posVarint
	}
	return v, at + n
}
