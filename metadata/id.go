package metadata

import (
	"encoding/base64"
	"fmt"
)

// ID is a Kafka UUID: of a topic, a cluster, a log directory, a broker's
// incarnation. The zero ID stands for none.
type ID = [16]byte

// FormatID writes an ID as Kafka does: URL-safe base64 without padding, 22
// characters.
func FormatID(id ID) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseID reads what FormatID wrote.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return id, fmt.Errorf("metadata: id %q: %w", s, err)
	}
	if len(b) != len(id) {
		return id, fmt.Errorf("metadata: id %q has %d bytes, want %d", s, len(b), len(id))
	}
	copy(id[:], b)
	return id, nil
}

// NewID makes a version 4 UUID of random bytes that fill supplies. Like
// Kafka's it never begins with '-', which command lines would take for a flag.
func NewID(fill func([]byte)) ID {
	for {
		var id ID
		fill(id[:])
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		if FormatID(id)[0] != '-' {
			return id
		}
	}
}
