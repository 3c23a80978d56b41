package protocol

// Varints as Kafka writes them: little groups of seven bits first, signed ones
// in zig-zag form. Unlike encoding/binary's, the readers refuse what does not
// fit the 32 bits of a varint.

// uvarint32 reads an unsigned varint of at most 5 bytes. n is 0 if b is too
// short and negative if the value does not fit.
func uvarint32(b []byte) (v uint32, n int) {
	for i, c := range b {
		if c < 0x80 {
			if i == 4 && c > 0x0f {
				return 0, -1
			}
			return v | uint32(c)<<(7*i), i + 1
		}
		if i == 4 {
			return 0, -1
		}
		v |= uint32(c&0x7f) << (7 * i)
	}
	return 0, 0
}

// uvarint64 reads an unsigned varint of at most 10 bytes; n as in uvarint32.
func uvarint64(b []byte) (v uint64, n int) {
	for i, c := range b {
		if c < 0x80 {
			if i == 9 && c > 0x01 {
				return 0, -1
			}
			return v | uint64(c)<<(7*i), i + 1
		}
		if i == 9 {
			return 0, -1
		}
		v |= uint64(c&0x7f) << (7 * i)
	}
	return 0, 0
}

// varint32 and varint64 undo the zig-zag form.
func varint32(b []byte) (int32, int) {
	u, n := uvarint32(b)
	return int32(u>>1) ^ -int32(u&1), n
}

func varint64(b []byte) (int64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		u := uint64(b[0])
		return int64(u>>1) ^ -int64(u&1), 1
	}
	u, n := uvarint64(b)
	return int64(u>>1) ^ -int64(u&1), n
}

func appendVarint(dst []byte, v int64) []byte {
	u := uint64(v)<<1 ^ uint64(v>>63)
	for u >= 0x80 {
		dst = append(dst, byte(u)|0x80)
		u >>= 7
	}
	return append(dst, byte(u))
}

func varintLen(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}
