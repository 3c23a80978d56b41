package protocol

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"

	"github.com/pierrec/lz4/v4"
)

// The LZ4 frame is read and written here, block by block, rather than through
// a streaming codec: the limit is then checked before memory is taken, and a
// frame that claims 4 MiB blocks costs none.
//
//	magic int32 LE | flags | block descriptor | [content size 8] | [dictionary id 4] | header checksum
//	{ size int32 LE, high bit: stored as is | data | [checksum 4] }
//	0 int32 | [content checksum 4]

const (
	lz4Magic = 0x184D2204

	lz4FlagVersion         = 0x40
	lz4FlagVersionMask     = 0xc0
	lz4FlagIndependent     = 0x20
	lz4FlagBlockChecksum   = 0x10
	lz4FlagContentSize     = 0x08
	lz4FlagContentChecksum = 0x04
	lz4FlagDictionary      = 0x01

	lz4Block64K  = 4 // the smallest block size class
	lz4Block4M   = 7
	lz4Stored    = 1 << 31
	lz4WindowLen = 64 << 10
	lz4MaxRatio  = 255 // one length byte extends a match by at most 255
	// The default level of compression.lz4.level means the fast compressor
	// in Kafka, all others the high one.
	lz4DefaultLevel = 9
	lz4HighestLevel = 9
)

var (
	errLZ4Header   = errors.New("not an LZ4 frame")
	errLZ4Short    = errors.New("LZ4 frame is cut short")
	errLZ4Checksum = errors.New("LZ4 checksum does not match")
	errLZ4Block    = errors.New("LZ4 block is larger than the frame allows")
)

func compressLZ4(dst []byte, level int, src []byte) ([]byte, error) {
	const blockLen = 64 << 10
	descriptor := [2]byte{lz4FlagVersion | lz4FlagIndependent, lz4Block64K << 4}
	dst = binary.LittleEndian.AppendUint32(dst, lz4Magic)
	dst = append(dst, descriptor[0], descriptor[1], byte(xxh32(descriptor[:])>>8))
	for len(src) > 0 {
		block := src[:min(len(src), blockLen)]
		src = src[len(block):]
		var err error
		if dst, err = appendLZ4Block(dst, level, block); err != nil {
			return dst, err
		}
	}
	return append(dst, 0, 0, 0, 0), nil
}

// appendLZ4Block appends a block, stored as is if compression does not pay.
func appendLZ4Block(dst []byte, level int, block []byte) ([]byte, error) {
	sizeAt := len(dst)
	dst = slices.Grow(dst, 4+len(block)) // doubling: there are many blocks
	room := dst[sizeAt+4 : sizeAt+4+len(block)]
	n, err := compressLZ4Block(room, level, block)
	if err != nil {
		return dst, err
	}
	size := uint32(n)
	if n == 0 || n >= len(block) {
		n = copy(room, block)
		size = uint32(n) | lz4Stored
	}
	dst = dst[:sizeAt+4+n]
	binary.LittleEndian.PutUint32(dst[sizeAt:], size)
	return dst, nil
}

// compressLZ4Block returns 0 if the block does not fit the room.
func compressLZ4Block(room []byte, level int, block []byte) (int, error) {
	if level <= 0 || level == lz4DefaultLevel {
		return lz4.CompressBlock(block, room, nil)
	}
	level = min(level, lz4HighestLevel) // Kafka has 17, this compressor 9
	// lz4's levels are search depths: 2^9 for level 1, 2^17 for level 9.
	return lz4.CompressBlockHC(block, room, lz4.CompressionLevel(1<<(8+level)), nil, nil)
}

// lz4Frame is what a frame's header says.
type lz4Frame struct {
	flags    byte
	blockMax int
}

// readLZ4Header returns the frame and what follows its header.
func readLZ4Header(src []byte) (f lz4Frame, rest []byte, err error) {
	if len(src) < 7 || binary.LittleEndian.Uint32(src) != lz4Magic {
		return f, nil, errLZ4Header
	}
	f.flags = src[4]
	class := src[5] >> 4 & 7
	if f.flags&lz4FlagVersionMask != lz4FlagVersion || f.flags&lz4FlagDictionary != 0 ||
		class < lz4Block64K || class > lz4Block4M {
		return f, nil, errLZ4Header
	}
	f.blockMax = 1 << (8 + 2*class)
	n := 6
	if f.flags&lz4FlagContentSize != 0 {
		n += 8
	}
	if len(src) < n+1 {
		return f, nil, errLZ4Short
	}
	if byte(xxh32(src[4:n])>>8) != src[n] {
		return f, nil, errLZ4Checksum
	}
	return f, src[n+1:], nil
}

func decompressLZ4(dst, src []byte, limit int) ([]byte, error) {
	f, src, err := readLZ4Header(src)
	if err != nil {
		return dst, err
	}
	base := len(dst)
	for {
		if len(src) < 4 {
			return dst, errLZ4Short
		}
		size := binary.LittleEndian.Uint32(src)
		src = src[4:]
		if size == 0 {
			return dst, f.checkContent(dst[base:], src)
		}
		block, rest, err := f.nextBlock(src, int(size&^lz4Stored))
		if err != nil {
			return dst, err
		}
		src = rest
		if dst, err = f.appendBlock(dst, base, block, size&lz4Stored != 0, limit); err != nil {
			return dst, err
		}
	}
}

// nextBlock splits a block of n bytes off src and checks its checksum, if it
// has one.
func (f *lz4Frame) nextBlock(src []byte, n int) (block, rest []byte, err error) {
	if n > f.blockMax {
		return nil, nil, errLZ4Block
	}
	if n > len(src) {
		return nil, nil, errLZ4Short
	}
	block, rest = src[:n], src[n:]
	if f.flags&lz4FlagBlockChecksum == 0 {
		return block, rest, nil
	}
	if len(rest) < 4 {
		return nil, nil, errLZ4Short
	}
	if binary.LittleEndian.Uint32(rest) != xxh32(block) {
		return nil, nil, errLZ4Checksum
	}
	return block, rest[4:], nil
}

func (f *lz4Frame) appendBlock(dst []byte, base int, block []byte, stored bool, limit int) ([]byte, error) {
	room := limit - (len(dst) - base)
	if stored {
		if len(block) > room {
			return dst, ErrTooLarge
		}
		return append(dst, block...), nil
	}
	// What the block holds is known only once it is decoded, so it gets what
	// it could hold at most, and one byte more than the limit to show that
	// it is over.
	want := min(f.blockMax, lz4MaxRatio*len(block), room+1)
	start := len(dst)
	if cap(dst)-start < want {
		dst = grow(dst, max(want, min(start-base, room+1)))
	}
	var window []byte
	if f.flags&lz4FlagIndependent == 0 {
		window = dst[max(base, start-lz4WindowLen):start]
	}
	n, err := lz4.UncompressBlockWithDict(block, dst[start:start+want:start+want], window)
	switch {
	case err != nil && want > room:
		return dst, ErrTooLarge // the one that ran out may have been the room
	case err != nil:
		return dst, err
	case n > room:
		return dst, ErrTooLarge
	}
	return dst[:start+n], nil
}

func (f *lz4Frame) checkContent(content, src []byte) error {
	if f.flags&lz4FlagContentChecksum == 0 {
		return nil
	}
	if len(src) < 4 {
		return errLZ4Short
	}
	if binary.LittleEndian.Uint32(src) != xxh32(content) {
		return errLZ4Checksum
	}
	return nil
}

// xxh32 is the 32-bit xxHash with seed 0, the checksum of LZ4 frames.
func xxh32(b []byte) uint32 {
	const (
		p1 = 2654435761
		p2 = 2246822519
		p3 = 3266489917
		p4 = 668265263
		p5 = 374761393
	)
	le := binary.LittleEndian
	h := uint32(len(b))
	if len(b) >= 16 {
		v1, v2, v3, v4 := uint32(p1), uint32(p2), uint32(0), uint32(0)
		v1 += p2 // these wrap around, which constants may not
		v4 -= p1
		for ; len(b) >= 16; b = b[16:] {
			v1 = bits.RotateLeft32(v1+le.Uint32(b)*p2, 13) * p1
			v2 = bits.RotateLeft32(v2+le.Uint32(b[4:])*p2, 13) * p1
			v3 = bits.RotateLeft32(v3+le.Uint32(b[8:])*p2, 13) * p1
			v4 = bits.RotateLeft32(v4+le.Uint32(b[12:])*p2, 13) * p1
		}
		h += bits.RotateLeft32(v1, 1) + bits.RotateLeft32(v2, 7) + bits.RotateLeft32(v3, 12) + bits.RotateLeft32(v4, 18)
	} else {
		h += p5
	}
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h+le.Uint32(b)*p3, 17) * p4
	}
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*p5, 11) * p1
	}
	h = (h ^ h>>15) * p2
	h = (h ^ h>>13) * p3
	return h ^ h>>16
}
