package protocol

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// MalformedError says that a request's bytes are not a request: the client is
// broken or hostile, nothing can be answered, and the connection is to be
// closed, as Kafka does.
type MalformedError struct {
	Key, Version int16
	// Offset is where in the body (or, for a header, in the frame) reading
	// stopped.
	Offset int
	Reason string
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("protocol: malformed request (key %d, version %d) at byte %d: %s",
		e.Key, e.Version, e.Offset, e.Reason)
}

// Unwrap makes a malformed request an INVALID_REQUEST for those who ask for a
// Kafka code.
func (*MalformedError) Unwrap() error { return kerr.InvalidRequest }

// Code returns the Kafka error code of err: 0 for nil, the code of the first
// *kerr.Error in its chain, else UNKNOWN_SERVER_ERROR.
func Code(err error) int16 {
	if err == nil {
		return 0
	}
	var ke *kerr.Error
	if errors.As(err, &ke) {
		return ke.Code
	}
	return kerr.UnknownServerError.Code
}
