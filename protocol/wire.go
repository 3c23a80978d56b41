package protocol

import (
	"encoding/binary"
	"unicode/utf8"
)

// WireReader reads the body of a request or an answer by hand, where kmsg is too
// slow: it copies nothing but strings. After the first failure everything reads
// as zero and Failed is true.
type WireReader struct {
	b        []byte
	flexible bool
	bad      bool
}

// NewWireReader reads b, in the flexible form of KIP-482 or the older one.
func NewWireReader(b []byte, flexible bool) WireReader { return WireReader{b: b, flexible: flexible} }

// Failed says that the body ended early or counts more than it holds.
func (w *WireReader) Failed() bool { return w.bad }

// Done says that all was read and nothing was missing.
func (w *WireReader) Done() bool { return !w.bad && len(w.b) == 0 }

// Skip passes over n bytes.
func (w *WireReader) Skip(n int) { w.take(n) }

func (w *WireReader) take(n int) []byte {
	if n < 0 || n > len(w.b) {
		w.bad = true
		w.b = nil
		return nil
	}
	p := w.b[:n:n]
	w.b = w.b[n:]
	return p
}

// Int8 reads one byte.
func (w *WireReader) Int8() int8 {
	if p := w.take(1); p != nil {
		return int8(p[0])
	}
	return 0
}

// Int16 reads two bytes.
func (w *WireReader) Int16() int16 {
	if p := w.take(2); p != nil {
		return int16(binary.BigEndian.Uint16(p))
	}
	return 0
}

// Int32 reads four bytes.
func (w *WireReader) Int32() int32 {
	if p := w.take(4); p != nil {
		return int32(binary.BigEndian.Uint32(p))
	}
	return 0
}

// Int64 reads eight bytes.
func (w *WireReader) Int64() int64 {
	if p := w.take(8); p != nil {
		return int64(binary.BigEndian.Uint64(p))
	}
	return 0
}

// UUID reads an id.
func (w *WireReader) UUID() (id [16]byte) {
	copy(id[:], w.take(16))
	return id
}

func (w *WireReader) uvarint() uint32 {
	v, n := binary.Uvarint(w.b)
	if n <= 0 || n > 5 || v > 1<<32-1 {
		w.bad = true
		w.b = nil
		return 0
	}
	w.b = w.b[n:]
	return uint32(v)
}

// length is the length of bytes or a string: -1 for null.
func (w *WireReader) length(short bool) int {
	switch {
	case w.flexible:
		return int(w.uvarint()) - 1
	case short:
		return int(w.Int16())
	default:
		return int(w.Int32())
	}
}

// Str reads a string that must not be null, as the string old if they are
// equal.
func (w *WireReader) Str(old string) string {
	s, null := w.NullableStr(old)
	w.bad = w.bad || null
	return s
}

// NullableStr is Str of a string that may be null.
func (w *WireReader) NullableStr(old string) (s string, null bool) {
	n := w.length(true)
	if n < 0 {
		w.bad = w.bad || n < -1
		return "", true
	}
	p := w.take(n)
	if string(p) == old {
		return old, false
	}
	s = string(p)
	if !utf8.ValidString(s) { // as a Java broker reads it
		s = string([]rune(s)) // a mark for each such byte, as Decode and Kafka
	}
	return s, false
}

// Bytes reads nullable bytes, which alias the body.
func (w *WireReader) Bytes() []byte {
	n := w.length(false)
	if n < 0 {
		w.bad = w.bad || n < -1
		return nil
	}
	return w.take(n)
}

// Count reads the length of an array whose elements take at least least bytes
// each, so that what it makes the caller allocate is bounded by what was sent.
func (w *WireReader) Count(least int) int {
	n := w.length(false)
	if n < 0 {
		w.bad = true
	}
	return w.bounded(n, least)
}

// NullableCount is Count of an array that may be null, which is empty.
func (w *WireReader) NullableCount(least int) int { return w.bounded(max(w.length(false), 0), least) }

func (w *WireReader) bounded(n, least int) int {
	if w.bad {
		return 0
	}
	if n > len(w.b)/least {
		w.bad = true
		w.b = nil
		return 0
	}
	return n
}

// TagCount reads how many tagged fields follow, each to be read by Tag.
func (w *WireReader) TagCount() uint32 {
	if !w.flexible {
		return 0
	}
	return w.uvarint()
}

// Tag reads a tagged field. Its body is a reader of its own, whose failure is the
// caller's to judge; see Require.
func (w *WireReader) Tag() (tag uint32, body WireReader) {
	tag, size := w.uvarint(), w.uvarint()
	return tag, WireReader{b: w.take(int(size)), flexible: true}
}

// Require fails w unless ok.
func (w *WireReader) Require(ok bool) { w.bad = w.bad || !ok }

// SkipTags passes over tagged fields.
func (w *WireReader) SkipTags() {
	for n := w.TagCount(); n > 0 && !w.bad; n-- {
		w.Tag()
	}
}
