package protocol

import "encoding/binary"

// scanner walks bytes that a client sent. The first fault stops it; every
// method after that does nothing, so callers check once, at the end.
type scanner struct {
	body []byte
	at   int
	// budget is how many bytes of memory the decoded form may still take
	// beyond the body itself.
	budget int
	fault  string
}

// The memory that decoding may take, beyond the body that it aliases. Honest
// requests need about a third of the factor; the floor is for small ones, the
// ceiling for what no honest request asks for.
const (
	budgetFloor   = 16 << 10
	budgetFactor  = 32
	budgetCeiling = 128 << 20
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
	if n > s.budget/size {
		s.fail("request needs too much memory for its size")
		return
	}
	s.budget -= n * size
}

func (s *scanner) skip(n int) {
	if s.fault != "" {
		return
	}
	if n > s.left() {
		s.fail("body is cut short")
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
	v, n := uvarint32(s.body[s.at:])
	switch {
	case n > 0:
		s.at += n
	case n == 0:
		s.fail("varint is cut short")
	default:
		s.fail("varint is too long")
	}
	return v
}

// tags walks a set of tagged fields. known is nil where Kafka has defined none.
func (s *scanner) tags(known []struct{}, version int16) {
	count := s.uvarint()
	if s.fault != "" {
		return
	}
	// Each takes two bytes at least: its tag and its size.
	if int64(count)*2 > int64(s.left()) {
		s.fail("more tagged fields than can follow")
		return
	}
	last := int64(-1)
	for range count {
		tag := s.uvarint()
		size := s.uvarint()
		if s.fault != "" {
			return
		}
		if int64(tag) <= last {
			s.fail("tagged fields out of order")
			return
		}
		last = int64(tag)
		if int64(size) > int64(s.left()) {
			s.fail("tagged field is longer than what is left")
			return
		}
		s.at += int(size)
	}
}
