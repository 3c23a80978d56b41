package handler

import (
	"encoding/binary"
	"errors"
)

// The hot requests and responses are decoded and encoded by hand, into memory
// that is reused: kmsg's reflect on every partition and copy all records. The
// tests compare each version with kmsg.

var be = binary.BigEndian

// errMalformed is a body that ends early or counts more than it holds.
var errMalformed = errors.New("malformed request body")

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
