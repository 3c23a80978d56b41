package protocol

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The client's side of the protocol, for raw clients in tests and benchmarks
// and for brokers that ask other brokers.

// AppendRequest appends the whole frame of a request: its size, header and
// body. Key and version come from the request, not from the header.
func AppendRequest(dst []byte, h Header, r kmsg.Request) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	h.Key, h.Version = r.Key(), r.GetVersion()
	dst = appendHeader(dst, h)
	dst = r.AppendTo(dst)
	putFrameSize(dst[start:])
	return dst
}

func appendHeader(dst []byte, h Header) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.Key))
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.Version))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.CorrelationID))
	headerVersion, known := requestHeaderVersion(h.Key, h.Version)
	if !known || headerVersion >= 1 {
		if h.HasClientID || h.ClientID != "" {
			dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.ClientID)))
			dst = append(dst, h.ClientID...)
		} else {
			dst = append(dst, 0xff, 0xff)
		}
	}
	if headerVersion >= 2 {
		dst = append(dst, 0)
	}
	return dst
}

// ReadResponseHeader splits a response frame (without its size) into the
// correlation id and the body, which aliases the frame.
func ReadResponseHeader(frame []byte, key int16, flexible bool) (correlationID int32, body []byte, err error) {
	if len(frame) < 4 {
		return 0, nil, fmt.Errorf("protocol: response header of %d bytes", len(frame))
	}
	correlationID = int32(binary.BigEndian.Uint32(frame))
	s := scanner{body: frame, at: 4, budget: scanBudget(len(frame))}
	if flexible && key != apiVersionsKey {
		s.tags(nil)
	}
	if s.fault != "" {
		return correlationID, nil, fmt.Errorf("protocol: response header: %s", s.fault)
	}
	return correlationID, frame[s.at:], nil
}

// ReadResponse decodes a response frame (without its size) into r, whose
// version must be the one that was asked with, and returns the correlation id.
// Byte slices in r alias the frame.
//
// The body is kmsg's business as it stands, so this is for answers of a broker
// that one trusts.
func ReadResponse(frame []byte, r kmsg.Response) (correlationID int32, err error) {
	correlationID, body, err := ReadResponseHeader(frame, r.Key(), r.IsFlexible())
	if err != nil {
		return correlationID, err
	}
	if err := r.ReadFrom(body); err != nil {
		return correlationID, fmt.Errorf("protocol: response (key %d, version %d): %w", r.Key(), r.GetVersion(), err)
	}
	return correlationID, nil
}
