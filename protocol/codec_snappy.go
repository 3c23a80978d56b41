package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/klauspost/compress/s2"
)

// Snappy comes in two forms: one raw block, as librdkafka and franz-go write
// it, and the framing of Java's xerial library:
//
//	magic 0x82 "SNAPPY" 0 | version int32 | lowest compatible version int32
//	{ length int32 | snappy block }
//
// Readers of every client accept both; we write xerial's, as Kafka does.

const (
	xerialMagic     = "\x82SNAPPY\x00"
	xerialHeaderLen = 16
	xerialBlockLen  = 32 << 10
)

var errSnappyFrame = errors.New("xerial block is beyond the payload")

func compressSnappy(dst, src []byte) []byte {
	dst = append(dst, xerialMagic...)
	dst = append(dst, 0, 0, 0, 1, 0, 0, 0, 1)
	for len(src) > 0 {
		block := src[:min(len(src), xerialBlockLen)]
		src = src[len(block):]
		lengthAt := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		start := len(dst)
		dst = slices.Grow(dst, s2.MaxEncodedLen(len(block))) // doubling: there are many blocks
		encoded := s2.EncodeSnappy(dst[start:cap(dst)], block)
		dst = dst[:start+len(encoded)]
		binary.BigEndian.PutUint32(dst[lengthAt:], uint32(len(encoded)))
	}
	return dst
}

func decompressSnappy(dst, src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, []byte(xerialMagic)) || len(src) < xerialHeaderLen {
		return appendSnappyBlock(dst, src, limit)
	}
	base := len(dst)
	for src = src[xerialHeaderLen:]; len(src) > 0; {
		if len(src) < 4 {
			return dst, errSnappyFrame
		}
		n := binary.BigEndian.Uint32(src)
		src = src[4:]
		if uint64(n) > uint64(len(src)) {
			return dst, errSnappyFrame
		}
		var err error
		if dst, err = appendSnappyBlock(dst, src[:n], limit-(len(dst)-base)); err != nil {
			return dst, err
		}
		src = src[n:]
	}
	return dst, nil
}

// snappyMaxRatio bounds what a block can grow to: a copy element of three
// bytes yields 64 at most. A header that claims more lies, and is refused
// before its claim is allocated.
const snappyMaxRatio = 22

func appendSnappyBlock(dst, block []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return dst, err
	}
	if n > limit {
		return dst, ErrTooLarge
	}
	if n > snappyMaxRatio*len(block) {
		return dst, s2.ErrCorrupt
	}
	start := len(dst)
	if cap(dst)-start < n {
		dst = grow(dst, max(n, min(start, limit)))
	}
	if _, err := s2.Decode(dst[start:start+n:start+n], block); err != nil {
		return dst, err
	}
	return dst[:start+n], nil
}
