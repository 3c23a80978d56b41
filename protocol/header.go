package protocol

import "encoding/binary"

// Header is a Kafka request header, v0 to v2. Of the tagged fields that v2
// brings, Kafka has defined none; they are checked and skipped.
type Header struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string
	// HasClientID tells an empty client id from a null one.
	HasClientID bool
}

// headerFixedLen is what every header version begins with: key, version and
// correlation id.
const headerFixedLen = 8

// ReadHeader splits a frame (without its size) into header and body. The body
// aliases the frame.
//
// The header's form follows from its key and version, so a key that Kafka does
// not know is an error, while an unknown version of a known key is not: an
// ApiVersions request from the future still has to be answered.
func ReadHeader(frame []byte) (h Header, body []byte, err error) {
	if len(frame) < headerFixedLen {
		return h, nil, &MalformedError{Key: -1, Version: -1, Reason: "request header is cut short"}
	}
	h.Key = int16(binary.BigEndian.Uint16(frame))
	h.Version = int16(binary.BigEndian.Uint16(frame[2:]))
	h.CorrelationID = int32(binary.BigEndian.Uint32(frame[4:]))
	headerVersion, known := requestHeaderVersion(h.Key, h.Version)
	if !known {
		return h, nil, &MalformedError{Key: h.Key, Version: h.Version, Reason: "unknown API key"}
	}

	s := scanner{body: frame, at: headerFixedLen, budget: scanBudget(len(frame))}
	if headerVersion >= 1 {
		s.readClientID(&h)
	}
	if headerVersion >= 2 {
		s.tags(nil)
	}
	if s.fault != "" {
		return h, nil, s.error(h.Key, h.Version)
	}
	return h, frame[s.at:], nil
}

// readClientID reads the nullable string that stays in its old, not compact
// form in all header versions, so that a broker can read it before it knows
// whether it understands the rest.
func (s *scanner) readClientID(h *Header) {
	n := s.int16()
	switch {
	case s.fault != "" || n == -1:
	case n < -1:
		s.fail("negative string length")
	case int(n) > s.left():
		s.fail("string is longer than what is left")
	default:
		h.HasClientID = true
		h.ClientID = validString(string(s.body[s.at : s.at+int(n)]))
		s.at += int(n)
	}
}
