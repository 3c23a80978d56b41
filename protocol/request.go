package protocol

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Decode decodes a request body. Byte slices in the result alias body; strings
// are copies.
//
// The error is a [*MalformedError], or wraps UNSUPPORTED_VERSION for a key or
// version that cannot be decoded.
func Decode(key, version int16, body []byte) (kmsg.Request, error) {
	r := kmsg.RequestForKey(key)
	if r == nil || version < 0 || version > r.MaxVersion() {
		return nil, fmt.Errorf("protocol: key %d, version %d: %w", key, version, kerr.UnsupportedVersion)
	}
	r.SetVersion(version)
	if err := r.ReadFrom(body); err != nil {
		return nil, &MalformedError{Key: key, Version: version, Offset: len(body), Reason: err.Error()}
	}
	return r, nil
}

// requestHeaderVersion tells the form of the header that goes with a key and
// version; known is false for a key that Kafka does not have.
func requestHeaderVersion(key, version int16) (headerVersion int, known bool) {
	r := kmsg.RequestForKey(key)
	if r == nil {
		return 0, false
	}
	r.SetVersion(version)
	switch {
	case key == 7 && version == 0:
		return 0, true
	case r.IsFlexible():
		return 2, true
	}
	return 1, true
}
