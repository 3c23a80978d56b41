package protocol

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// gzipReaders and gzipWriters keep the codec's tables, which cost more than
// most batches. There is a pool of writers for each level, -1 to 9.
var (
	gzipReaders sync.Pool
	gzipWriters [gzip.BestCompression - gzip.DefaultCompression + 1]sync.Pool
)

// appendWriter is an io.Writer that appends.
type appendWriter struct{ dst []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.dst = append(w.dst, p...)
	return len(p), nil
}

func compressGzip(dst []byte, level int, src []byte) ([]byte, error) {
	if level == 0 { // gzip's own level 0 does not compress, and Kafka has none
		level = gzip.DefaultCompression
	}
	level = min(max(level, gzip.DefaultCompression), gzip.BestCompression)
	pool := &gzipWriters[level-gzip.DefaultCompression]
	out := appendWriter{dst: dst}
	w, ok := pool.Get().(*gzip.Writer)
	if ok {
		w.Reset(&out)
	} else {
		var err error
		if w, err = gzip.NewWriterLevel(&out, level); err != nil {
			return dst, err
		}
	}
	if _, err := w.Write(src); err != nil {
		return dst, err
	}
	if err := w.Close(); err != nil {
		return dst, err
	}
	pool.Put(w)
	return out.dst, nil
}

func decompressGzip(dst, src []byte, limit int) ([]byte, error) {
	in := bytes.NewReader(src)
	r, ok := gzipReaders.Get().(*gzip.Reader)
	if !ok {
		r = new(gzip.Reader)
	}
	if err := r.Reset(in); err != nil {
		return dst, err
	}
	defer gzipReaders.Put(r)
	return readBounded(dst, r, limit)
}

// readBounded appends all of r to dst, growing as bytes come and never beyond
// limit by more than the one byte that proves there is more.
func readBounded(dst []byte, r io.Reader, limit int) ([]byte, error) {
	base := len(dst)
	for {
		if len(dst) == cap(dst) {
			dst = grow(dst, min(max(len(dst)-base, 4<<10), limit-(len(dst)-base)+1))
		}
		room := dst[len(dst):min(cap(dst), base+limit+1)]
		n, err := r.Read(room)
		dst = dst[:len(dst)+n]
		if len(dst)-base > limit {
			return dst, ErrTooLarge
		}
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

// grow makes room for n more bytes at the end of b, and for no more than that:
// append would round up to its own idea.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	bigger := make([]byte, len(b), len(b)+n)
	copy(bigger, b)
	return bigger
}
