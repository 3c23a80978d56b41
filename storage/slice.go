package storage

import (
	"slices"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// Slice is a run of record batches as they stand in one segment: either bytes in memory (Mem) or a range of a file. A
// read never crosses a segment, as in Kafka.
//
// While a Slice is held its bytes stay what they are, whatever happens to the log: its file is not closed, truncated or
// overwritten. Release must be called once the bytes have been sent.
type Slice struct {
	// Mem holds the bytes if they are in memory; it must not be changed nor used after Release. Else File, Off and Len
	// say where they are.
	Mem []byte
	// Off is the position in File.
	Off int64
	// Len is the number of bytes, in Mem or in File.
	Len int
	// Start is the offset that was asked for.
	Start int64
	// UpTo is an exclusive bound: no record of the slice has this offset or a later one.
	UpTo int64

	h   *handle
	log *Log
	// segs are the log's segments as they were when it was read.
	segs []*segment
}

// File is the file that holds the bytes when Mem is nil. Its Fd may be vfs.NoFd; then AppendTo or ReadAt is the way.
func (s *Slice) File() vfs.File {
	if s.h == nil {
		return nil
	}
	return s.h.file
}

// AppendTo appends the bytes to dst, reading them from the file if they are not in memory.
func (s *Slice) AppendTo(dst []byte) ([]byte, error) {
	if s.Mem != nil {
		return append(dst, s.Mem...), nil
	}
	if s.Len == 0 {
		return dst, nil
	}
	n := len(dst)
	dst = slices.Grow(dst, s.Len)[:n+s.Len]
	if err := readFull(s.h.file, dst[n:], s.Off); err != nil {
		return dst[:n], s.log.dir.fail(err)
	}
	return dst, nil
}

// Aborted returns the aborted transactions that overlap the slice, whatever became of its segment since it was read.
func (s *Slice) Aborted() ([]AbortedTxn, error) {
	if s.Len == 0 {
		return nil, nil
	}
	return s.log.abortedAmong(s.segs, s.Start, s.UpTo)
}

// Release lets go of the file. Calling it again, or on the zero Slice, does nothing.
func (s *Slice) Release() {
	if s.h != nil {
		s.h.release()
		s.h = nil
	}
}
