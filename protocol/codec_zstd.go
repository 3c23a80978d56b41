package protocol

import (
	"errors"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Coders are pooled: by encoder speed, and by the power of two that bounds
// what a decoder may produce, because a zstd.Decoder is born with its bound.
var (
	zstdEncoders [zstd.SpeedBestCompression + 1]sync.Pool
	zstdDecoders [bits.UintSize]sync.Pool
)

// zstdMaxWindow is the largest window that libzstd decodes unasked (2^27). It
// costs nothing here, because the output itself serves as the window.
const zstdMaxWindow = 128 << 20

func compressZstd(dst []byte, level int, src []byte) []byte {
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

func decompressZstd(dst, src []byte, limit int) ([]byte, error) {
	if len(src) == 0 || limit < 0 {
		return dst, zstd.ErrMagicMismatch
	}
	class := bits.Len(uint(max(limit, 1) - 1)) // 1<<class >= limit
	pool := &zstdDecoders[class]
	d, ok := pool.Get().(*zstd.Decoder)
	if !ok {
		d = newZstdDecoder(uint64(1) << class)
	}
	defer pool.Put(d)
	out, err := d.DecodeAll(src, dst)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return dst, ErrTooLarge
	case err != nil:
		return dst, err
	case len(out)-len(dst) > limit:
		return dst, ErrTooLarge
	}
	return out, nil
}

func newZstdDecoder(bound uint64) *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdMaxWindow),
		zstd.WithDecoderMaxMemory(bound))
	if err != nil {
		panic("protocol: zstd decoder options: " + err.Error())
	}
	return d
}
