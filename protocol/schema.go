package protocol

import "math"

// kind is how a field looks on the wire.
type kind uint8

const (
	kindInt8 kind = iota // bool too
	kindInt16
	kindInt32
	kindInt64 // float64 too
	kindUUID
	// The kinds above have the fixed sizes of fixedSize; those below begin
	// with a length, which is a uvarint in flexible versions.
	kindString
	kindBytes
	kindArray
	kindStruct
)

// fixedSize is the wire size of the kinds that have one.
var fixedSize = [...]int{kindInt8: 1, kindInt16: 2, kindInt32: 4, kindInt64: 8, kindUUID: 16}

const (
	newest = math.MaxInt8 // the end of an open range of versions
	never  = math.MaxInt8 // the beginning of one that never comes
)

// schema is the form of a request in the versions lo to hi.
type schema struct {
	lo, hi int8
	// flexible is the first version with compact lengths and tagged fields.
	flexible int8
	fields   []field
}

// field is one field of a request, in wire order.
type field struct {
	kind kind
	elem kind // of an array
	// lo to hi are the versions that have the field.
	lo, hi int8
	// nullLo to nullHi are the versions in which it may be null.
	nullable       bool
	nullLo, nullHi int8
	// A tagged field stands in the tag section, under its tag.
	tagged bool
	tag    uint8
	// mem bounds the Go memory of one element or struct.
	mem    uint16
	fields []field
}

func (f *field) in(version int8) bool { return f.lo <= version && version <= f.hi }

func (f *field) mayBeNull(version int8) bool {
	return f.nullable && f.nullLo <= version && version <= f.nullHi
}

// schemaFor returns the form of a request, or nil if Kafka has no such version.
func schemaFor(key, version int16) *schema {
	if key < 0 || int(key) >= len(requestSchemas) || version < 0 || version > math.MaxInt8 {
		return nil
	}
	for i := range requestSchemas[key] {
		if s := &requestSchemas[key][i]; int16(s.lo) <= version && version <= int16(s.hi) {
			return s
		}
	}
	return nil
}

// controlledShutdownKey is the one API whose version 0 had a header without
// client id. Kafka 4 knows the key and serves no version of it.
const controlledShutdownKey = 7

// requestHeaderVersion tells the form of the header that goes with a key and
// version; known is false for a key that Kafka does not have.
func requestHeaderVersion(key, version int16) (headerVersion int, known bool) {
	if key < 0 || int(key) >= len(requestSchemas) || len(requestSchemas[key]) == 0 {
		return 0, false
	}
	schemas := requestSchemas[key]
	switch {
	case key == controlledShutdownKey && version == 0:
		return 0, true
	case version >= int16(schemas[len(schemas)-1].flexible):
		return 2, true
	}
	return 1, true
}
