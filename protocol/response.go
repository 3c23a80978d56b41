package protocol

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// apiVersionsKey is the one API whose response header has no tagged fields in
// any version: a client must read it before it knows what the broker speaks
// (KIP-511).
const apiVersionsKey = 18

// AppendResponse appends the whole frame of a response: its size, header v0 or
// v1 as its version asks for, and body.
//
// A response above 2 GiB cannot be framed; to build one is a bug, so it panics.
func AppendResponse(dst []byte, correlationID int32, r kmsg.Response) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = AppendResponseHeader(dst, correlationID, r.Key(), r.IsFlexible())
	dst = r.AppendTo(dst)
	putFrameSize(dst[start:])
	return dst
}

// AppendResponseHeader appends the correlation id, followed by an empty set of
// tagged fields if the response is flexible and not ApiVersions. It is for
// those who encode a body by hand.
func AppendResponseHeader(dst []byte, correlationID int32, key int16, flexible bool) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlationID))
	if flexible && key != apiVersionsKey {
		dst = append(dst, 0)
	}
	return dst
}

// putFrameSize fills in the size that a frame begins with.
func putFrameSize(frame []byte) {
	size := len(frame) - 4
	if size > math.MaxInt32 {
		panic(fmt.Sprintf("protocol: a frame of %d bytes cannot be sent", size))
	}
	binary.BigEndian.PutUint32(frame, uint32(size))
}
