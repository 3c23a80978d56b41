package protocol

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Coders are pooled, encoders by their speed.
var (
	zstdEncoders [zstd.SpeedBestCompression + 1]sync.Pool
	zstdDecoders sync.Pool
)

// zstdMaxWindow is the largest window that libzstd decodes unasked (2^27). It
// costs nothing here, because the output itself serves as the window.
const zstdMaxWindow = 128 << 20

const zstdDefaultLevel = 3

// No block decodes to more than zstdMaxBlock.
const (
	zstdMaxBlock    = 128 << 10
	zstdChecksumLen = 4
)

var errZstdContent = errors.New("size of frame or block cannot be")

func compressZstd(dst []byte, level int, src []byte) []byte {
	if level == 0 {
		level = zstdDefaultLevel
	}
	speed := zstd.EncoderLevelFromZstd(level)
	pool := &zstdEncoders[speed]
	e, ok := pool.Get().(*zstd.Encoder)
	if !ok {
		e = newZstdEncoder(speed)
	}
	defer pool.Put(e)
	return e.EncodeAll(src, dst)
}

func newZstdEncoder(speed zstd.EncoderLevel) *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(speed),
		zstd.WithEncoderConcurrency(1),
		zstd.WithZeroFrames(true),
		zstd.WithEncoderCRC(false))
	if err != nil {
		panic("protocol: zstd encoder options: " + err.Error())
	}
	return e
}

// decompressZstd decodes into a buffer of fixed capacity. That is the one bound
// of the decoder which does not also forbid frames whose window is larger than
// the bound, and such frames are what Kafka's own clients write. The size of
// the content is seldom declared, so the buffer begins small and is grown until
// decoding succeeds or cannot; the decoder does not say reliably which of its
// errors stand for a full buffer.
func decompressZstd(dst, src []byte, limit int) ([]byte, error) {
	most, err := zstdMostContent(src)
	if err != nil {
		return dst, err
	}
	d, ok := zstdDecoders.Get().(*zstd.Decoder)
	if !ok {
		d = newZstdDecoder()
	}
	defer zstdDecoders.Put(d)

	start := len(dst)
	for room := max(8*len(src), 32<<10); ; room *= 4 {
		room = max(min(room, most, limit), 0)
		dst = grow(dst, room)
		out, err := d.DecodeAll(src, dst[start:start:start+room])
		switch {
		case err == nil && len(out) <= room:
			return dst[:start+len(out)], nil
		case room == most:
			return dst, err
		case room >= limit:
			return dst, ErrTooLarge
		}
	}
}

// zstdMostContent walks the headers of all blocks for the most that they can
// decode to. It is exact, or the declared size, where a frame says it.
func zstdMostContent(src []byte) (most int, err error) {
	if len(src) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	for len(src) > 0 {
		var h zstd.Header
		if err := h.Decode(src); err != nil {
			return 0, err
		}
		src = src[h.HeaderSize:]
		if h.Skippable {
			if uint64(h.SkippableSize) > uint64(len(src)) {
				return 0, io.ErrUnexpectedEOF
			}
			src = src[h.SkippableSize:]
			continue
		}
		n, rest, err := zstdBlocks(src)
		if err != nil {
			return 0, err
		}
		if h.HasFCS {
			if h.FrameContentSize > uint64(n) {
				return 0, errZstdContent
			}
			n = int(h.FrameContentSize)
		}
		most += n
		src = rest
		if h.HasCheckSum {
			if len(src) < zstdChecksumLen {
				return 0, io.ErrUnexpectedEOF
			}
			src = src[zstdChecksumLen:]
		}
	}
	return most, nil
}

// zstdBlocks walks the blocks of one frame. Each begins with three bytes: bit 0
// for the last, two bits of type, 21 bits of size.
func zstdBlocks(src []byte) (most int, rest []byte, err error) {
	for last := false; !last; {
		if len(src) < 3 {
			return 0, nil, io.ErrUnexpectedEOF
		}
		header := uint32(src[0]) | uint32(src[1])<<8 | uint32(src[2])<<16
		src = src[3:]
		last = header&1 != 0
		size := int(header >> 3)
		stored := size
		switch header >> 1 & 3 {
		case 0: // as is
			most += size
		case 1: // one byte, repeated
			most += size
			stored = 1
		default:
			most += zstdMaxBlock
		}
		if size > zstdMaxBlock {
			return 0, nil, errZstdContent
		}
		if stored > len(src) {
			return 0, nil, io.ErrUnexpectedEOF
		}
		src = src[stored:]
	}
	return most, src, nil
}

func newZstdDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdMaxWindow),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("protocol: zstd decoder options: " + err.Error())
	}
	return d
}
