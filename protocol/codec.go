package protocol

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Codec is how a batch's payload is compressed; its numbers are Kafka's.
type Codec int8

// The codecs of a record batch.
const (
	None   Codec = 0
	Gzip   Codec = 1
	Snappy Codec = 2
	LZ4    Codec = 3
	Zstd   Codec = 4
)

// String returns the name that compression.type gives the codec.
func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", int8(c))
}

// ErrTooLarge says that a payload would decompress to more than the limit.
var ErrTooLarge = fmt.Errorf("protocol: payload decompresses to more than the limit: %w", kerr.MessageTooLarge)

// errCodec is for the codec bits 5 to 7, which mean nothing.
var errCodec = fmt.Errorf("protocol: unknown codec: %w", kerr.UnsupportedCompressionType)

// errCorruptPayload says that a payload is not what its codec writes.
func errCorruptPayload(c Codec, cause any) error {
	return fmt.Errorf("protocol: %s payload: %v: %w", c, cause, kerr.CorruptMessage)
}

// Compress appends src, compressed, to dst. The level is what Kafka's
// compression.<codec>.level means, clamped to what the codec has; 0 is the
// codec's default, and None and Snappy have no levels.
func Compress(dst []byte, c Codec, level int, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case Gzip:
		return compressGzip(dst, level, src)
	case Snappy:
		return compressSnappy(dst, src), nil
	case LZ4:
		return compressLZ4(dst, level, src)
	case Zstd:
		return compressZstd(dst, level, src), nil
	}
	return dst, fmt.Errorf("%w %d", errCodec, int8(c))
}

// Decompress appends src, decompressed, to dst. It fails with [ErrTooLarge]
// before it takes memory for more than limit bytes, whatever src claims.
//
// Other errors wrap CORRUPT_MESSAGE, or UNSUPPORTED_COMPRESSION_TYPE for a
// codec that does not exist. On error dst is returned as it was given.
func Decompress(dst []byte, c Codec, src []byte, limit int) ([]byte, error) {
	out, err := decompress(dst, c, src, limit)
	if err != nil {
		if !errors.Is(err, ErrTooLarge) && !errors.Is(err, errCodec) {
			err = errCorruptPayload(c, err)
		}
		return dst, err
	}
	return out, nil
}

func decompress(dst []byte, c Codec, src []byte, limit int) ([]byte, error) {
	switch c {
	case None:
		if len(src) > limit {
			return dst, ErrTooLarge
		}
		return append(dst, src...), nil
	case Gzip:
		return decompressGzip(dst, src, limit)
	case Snappy:
		return decompressSnappy(dst, src, limit)
	case LZ4:
		return decompressLZ4(dst, src, limit)
	case Zstd:
		return decompressZstd(dst, src, limit)
	}
	return dst, fmt.Errorf("%w %d", errCodec, int8(c))
}
