package protocol

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Decode decodes a request body. Byte slices in the result alias body; strings
// are copies.
//
// Whatever the body claims, decoding takes at most a fixed multiple of its
// length in memory and time. Bytes after the request are ignored, and bytes
// that are not UTF-8 are replaced in strings, both as Kafka does; null where the
// protocol has none is an error.
//
// The error is a [*MalformedError], or wraps UNSUPPORTED_VERSION for a key or
// version that cannot be decoded. What can be is more than what is served:
// Produce v0 to v2, for one, which Kafka has to know and refuse.
func Decode(key, version int16, body []byte) (kmsg.Request, error) {
	r := kmsg.RequestForKey(key)
	if r == nil {
		return nil, errUnsupported(key, version)
	}
	r.SetVersion(version)
	if err := DecodeInto(r, body); err != nil {
		return nil, err
	}
	return r, nil
}

// DecodeInto is [Decode] into a request that is already there and whose version
// is set. A request that was decoded before may be used again: its top-level
// array is kept, and its elements are overwritten.
func DecodeInto(r kmsg.Request, body []byte) error {
	key, version := r.Key(), r.GetVersion()
	schema := schemaFor(key, version)
	if schema == nil || version > r.MaxVersion() {
		return errUnsupported(key, version)
	}
	s := scanner{
		body:     body,
		budget:   scanBudget(len(body)),
		version:  int8(version),
		flexible: version >= int16(schema.flexible),
	}
	s.fields(schema.fields)
	if s.fault != "" {
		return s.error(key, version)
	}
	if err := r.ReadFrom(body[:s.at]); err != nil {
		// The walk and kmsg disagree about the form of this request.
		return &MalformedError{Key: key, Version: version, Offset: s.at, Reason: err.Error()}
	}
	if s.notUTF8 {
		sanitize(r)
	}
	return nil
}

func errUnsupported(key, version int16) error {
	return fmt.Errorf("protocol: key %d, version %d: %w", key, version, kerr.UnsupportedVersion)
}
