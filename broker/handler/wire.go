package handler

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// The hot requests and responses are decoded and encoded by hand, into memory
// that is reused: kmsg's reflect on every partition and copy all records. The
// tests compare each version with kmsg.

var be = binary.BigEndian

// errMalformed is a body that ends early or counts more than it holds.
var errMalformed = errors.New("malformed request body")

// wireReader reads a request body. After the first failure everything reads as
// zero and ok is false.
type wireReader struct {
	b        []byte
	flexible bool
	bad      bool
}

func (w *wireReader) take(n int) []byte {
	if n < 0 || n > len(w.b) {
		w.bad = true
		w.b = nil
		return nil
	}
	p := w.b[:n:n]
	w.b = w.b[n:]
	return p
}

func (w *wireReader) int8() int8 {
	if p := w.take(1); p != nil {
		return int8(p[0])
	}
	return 0
}

func (w *wireReader) int16() int16 {
	if p := w.take(2); p != nil {
		return int16(be.Uint16(p))
	}
	return 0
}

func (w *wireReader) int32() int32 {
	if p := w.take(4); p != nil {
		return int32(be.Uint32(p))
	}
	return 0
}

func (w *wireReader) int64() int64 {
	if p := w.take(8); p != nil {
		return int64(be.Uint64(p))
	}
	return 0
}

func (w *wireReader) uuid() (id [16]byte) {
	copy(id[:], w.take(16))
	return id
}

func (w *wireReader) uvarint() uint32 {
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
func (w *wireReader) length(short bool) int {
	switch {
	case w.flexible:
		return int(w.uvarint()) - 1
	case short:
		return int(w.int16())
	default:
		return int(w.int32())
	}
}

// str reads a string that must not be null, as the string old if they are
// equal.
func (w *wireReader) str(old string) string {
	s, null := w.nullableStr(old)
	w.bad = w.bad || null
	return s
}

func (w *wireReader) nullableStr(old string) (s string, null bool) {
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
		s = string([]rune(s)) // a mark for each such byte, as protocol.Decode and Kafka
	}
	return s, false
}

// bytes reads nullable bytes, which alias the body.
func (w *wireReader) bytes() []byte {
	n := w.length(false)
	if n < 0 {
		w.bad = w.bad || n < -1
		return nil
	}
	return w.take(n)
}

// count reads the length of an array whose elements take at least least bytes
// each, so that what it makes the caller allocate is bounded by what was sent.
func (w *wireReader) count(least int) int {
	n := w.length(false)
	if w.bad || n < 0 {
		w.bad = true
		return 0
	}
	if n > len(w.b)/least {
		w.bad = true
		w.b = nil
		return 0
	}
	return n
}

// tags skips tagged fields, giving those that known wants to it.
func (w *wireReader) tags(known func(tag uint32, w *wireReader)) {
	if !w.flexible {
		return
	}
	n := w.uvarint()
	for ; n > 0 && !w.bad; n-- {
		tag, size := w.uvarint(), w.uvarint()
		body := wireReader{b: w.take(int(size)), flexible: true}
		if w.bad {
			return
		}
		if known != nil {
			known(tag, &body)
			w.bad = w.bad || body.bad
		}
	}
}

// appendCount appends the length of an array.
func appendCount(dst []byte, flexible bool, n int) []byte {
	if flexible {
		return binary.AppendUvarint(dst, uint64(n)+1)
	}
	return be.AppendUint32(dst, uint32(n))
}

func appendString(dst []byte, flexible bool, s string) []byte {
	if flexible {
		dst = binary.AppendUvarint(dst, uint64(len(s))+1)
	} else {
		dst = be.AppendUint16(dst, uint16(len(s)))
	}
	return append(dst, s...)
}

func appendNullableString(dst []byte, flexible bool, s *string) []byte {
	switch {
	case s != nil:
		return appendString(dst, flexible, *s)
	case flexible:
		return append(dst, 0)
	default:
		return append(dst, 0xff, 0xff)
	}
}

// appendLeaderTag appends a current leader (KIP-951) as tagged field.
func appendLeaderTag(dst []byte, tag byte, leader, epoch int32) []byte {
	dst = append(dst, tag, 4+4+1)
	dst = be.AppendUint32(dst, uint32(leader))
	dst = be.AppendUint32(dst, uint32(epoch))
	return append(dst, 0)
}

// appendEndpoint appends a node endpoint (KIP-951).
func appendEndpoint(dst []byte, id int32, host string, port int32, rack *string) []byte {
	dst = be.AppendUint32(dst, uint32(id))
	dst = appendString(dst, true, host)
	dst = be.AppendUint32(dst, uint32(port))
	dst = appendNullableString(dst, true, rack)
	return append(dst, 0)
}

// sizeTag puts the size of a tagged field's body, which is dst[at:], in front
// of it.
func sizeTag(dst []byte, at int) []byte {
	var size [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(size[:], uint64(len(dst)-at))
	dst = append(dst, size[:n]...)
	copy(dst[at+n:], dst[at:len(dst)-n])
	copy(dst[at:], size[:n])
	return dst
}
