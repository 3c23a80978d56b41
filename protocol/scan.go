package protocol

import (
	"encoding/binary"
	"unicode/utf8"
)

// scanner walks bytes that a client sent along a schema, before anything is
// decoded. It is one pass without allocations: it looks at every length and
// count, skips what lies between, and adds up the memory that decoding will
// take. The first fault stops it; every method after that does nothing, so
// callers check once, at the end.
type scanner struct {
	body []byte
	at   int
	// budget is how many bytes of memory the decoded form may still take
	// beyond the body itself.
	budget int
	// things is how many elements its arrays have had together.
	things   int
	version  int8
	flexible bool
	// notUTF8 is set if some string is not; see [sanitize].
	notUTF8 bool
	fault   string
}

// The memory that decoding may take beyond the body, which it aliases: a
// multiple of the body's length, with a floor for small ones and a ceiling that
// no honest request reaches. The factor is some three times what the densest
// honest requests need (a struct of short strings).
const (
	budgetFloor   = 16 << 10
	budgetFactor  = 32
	budgetCeiling = 128 << 20
)

// mostThings is how many elements a request's arrays may have together: each is
// answered, and what little is asked for may have much to its answer. The largest
// honest requests name the hundred thousand partitions, or groups, of a cluster.
const mostThings = 500_000

// What kmsg allocates beyond slices: a map with the first unknown tag of a
// struct, room in it for each tag, and the string that a pointer points to.
const (
	tagMapMemory  = 400
	tagMemory     = 128
	pointerMemory = 16
)

func scanBudget(bodyLen int) int {
	return min(budgetFloor+budgetFactor*bodyLen, budgetCeiling)
}

func (s *scanner) left() int { return len(s.body) - s.at }

func (s *scanner) fail(reason string) {
	if s.fault == "" {
		s.fault = reason
	}
}

func (s *scanner) error(key, version int16) error {
	return &MalformedError{Key: key, Version: version, Offset: s.at, Reason: s.fault}
}

// spend takes n units of size bytes each from the budget.
func (s *scanner) spend(n, size int) {
	if n*size > s.budget { // n is at most the body's length
		s.fail("request takes too much memory for its length")
		return
	}
	s.budget -= n * size
}

// fields walks the fields of a struct, and its tag section.
func (s *scanner) fields(fields []field) {
	for i := range fields {
		if s.fault != "" {
			return
		}
		if f := &fields[i]; f.in(s.version) && !f.tagged {
			s.field(f)
		}
	}
	if s.flexible {
		s.tags(fields)
	}
}

func (s *scanner) field(f *field) {
	switch f.kind {
	case kindString:
		s.string(f.mayBeNull(s.version))
	case kindBytes:
		s.bytes(f.mayBeNull(s.version))
	case kindArray:
		s.array(f)
	case kindStruct:
		s.structure(f)
	default:
		s.skip(fixedSize[f.kind])
	}
}

// structure walks a struct; one that may be null is preceded by a byte that
// tells: -1 or 1.
func (s *scanner) structure(f *field) {
	if !f.mayBeNull(s.version) {
		s.fields(f.fields)
		return
	}
	at := s.at
	s.skip(1)
	if s.fault != "" {
		return
	}
	switch s.body[at] {
	case 0xff:
	case 1:
		s.spend(1, int(f.mem))
		s.fields(f.fields)
	default:
		s.fail("neither null nor present")
	}
}

func (s *scanner) array(f *field) {
	n := s.length(4, f.mayBeNull(s.version))
	if n <= 0 {
		return
	}
	// No element takes less than a byte. What it takes beyond that shows in
	// the walk, and the walk is what has to pass before memory is taken.
	if n > s.left() {
		s.fail("array is longer than what is left")
		return
	}
	if s.things += n; s.things > mostThings {
		s.fail("request names too many things")
		return
	}
	s.spend(n, int(f.mem))
	switch f.elem {
	case kindString:
		for i := 0; i < n && s.fault == ""; i++ {
			s.string(false)
		}
	case kindBytes:
		for i := 0; i < n && s.fault == ""; i++ {
			s.bytes(false)
		}
	case kindStruct:
		for i := 0; i < n && s.fault == ""; i++ {
			s.fields(f.fields)
		}
	default:
		s.skip(n * fixedSize[f.elem])
	}
}

func (s *scanner) string(nullable bool) {
	n := s.length(2, nullable)
	if n < 0 {
		return
	}
	at := s.at
	s.skip(n)
	if s.fault != "" {
		return
	}
	if nullable {
		s.spend(1, pointerMemory)
	}
	if !utf8.Valid(s.body[at:s.at]) {
		s.notUTF8 = true
	}
}

func (s *scanner) bytes(nullable bool) {
	if n := s.length(4, nullable); n > 0 {
		s.skip(n)
	}
}

// length reads the length of a string (width 2), bytes or an array (width 4),
// which is a uvarint above it by one in flexible versions. It returns -1 for
// null and on a fault.
//
// Kafka takes every negative length of what may be null for null. The protocol
// knows only -1, and nobody writes anything else, so that is refused.
func (s *scanner) length(width int, nullable bool) int {
	var n int
	switch {
	case s.flexible:
		n = int(s.uvarint()) - 1
	case width == 2:
		n = int(s.int16())
	default:
		n = int(s.int32())
	}
	switch {
	case s.fault != "":
		return -1
	case n < -1:
		s.fail("negative length")
	case n == -1 && !nullable:
		s.fail("null where a value is needed")
	}
	return n
}

// tags walks the tag section that ends a flexible struct with these fields.
// Like Kafka it does not mind tags that are out of order or come twice.
func (s *scanner) tags(fields []field) {
	count := int(s.uvarint())
	if s.fault != "" || count == 0 {
		return
	}
	// Each takes two bytes at least: its tag and its size.
	if 2*count > s.left() {
		s.fail("more tagged fields than can follow")
		return
	}
	s.spend(1, tagMapMemory)
	s.spend(count, tagMemory)
	for i := 0; i < count && s.fault == ""; i++ {
		s.tag(fields)
	}
}

func (s *scanner) tag(fields []field) {
	tag, size := s.uvarint(), int(s.uvarint())
	if s.fault != "" {
		return
	}
	if size > s.left() {
		s.fail("tagged field is longer than what is left")
		return
	}
	end := s.at + size
	if f := taggedField(fields, tag); f == nil {
		s.at = end
	} else if !f.in(s.version) {
		s.fail("tag of another version")
	} else {
		s.taggedValue(f, end)
	}
}

// taggedValue walks the value of a known tag, which must end where its size
// says.
func (s *scanner) taggedValue(f *field, end int) {
	body := s.body
	s.body = body[:end]
	s.field(f)
	s.body = body
	if s.at != end {
		s.fail("tagged field is shorter than its size")
	}
}

func taggedField(fields []field, tag uint32) *field {
	for i := range fields {
		if f := &fields[i]; f.tagged && uint32(f.tag) == tag {
			return f
		}
	}
	return nil
}

func (s *scanner) skip(n int) {
	if s.fault != "" {
		return
	}
	if n > s.left() {
		s.fail("cut short")
		return
	}
	s.at += n
}

func (s *scanner) int16() int16 {
	at := s.at
	s.skip(2)
	if s.fault != "" {
		return 0
	}
	return int16(binary.BigEndian.Uint16(s.body[at:]))
}

func (s *scanner) int32() int32 {
	at := s.at
	s.skip(4)
	if s.fault != "" {
		return 0
	}
	return int32(binary.BigEndian.Uint32(s.body[at:]))
}

func (s *scanner) uvarint() uint32 {
	if s.fault != "" {
		return 0
	}
	if s.at < len(s.body) && s.body[s.at] < 0x80 {
		s.at++
		return uint32(s.body[s.at-1])
	}
	v, n := uvarint32(s.body[s.at:])
	switch {
	case n > 0:
		s.at += n
	case n == 0:
		s.fail("cut short")
	default:
		s.fail("varint is too long")
	}
	return v
}
