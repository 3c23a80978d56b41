package storage

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// headerReader walks batch headers of a log file through a small window, for finding a position from an index entry.
// It comes from a pool: on a stack the window would make every connection's stack large for good.
type headerReader struct {
	file  vfs.File
	limit int64 // nothing from here on is looked at
	win   [headerWindow]byte
	at    int64 // position of win
	have  int
}

var headerReaders = sync.Pool{New: func() any { return new(headerReader) }}

// newHeaderReader returns a reader of the batches below limit; free gives it back.
func newHeaderReader(file vfs.File, limit int64) *headerReader {
	r := headerReaders.Get().(*headerReader)
	r.file, r.limit, r.at, r.have = file, limit, 0, 0
	return r
}

func (r *headerReader) free() {
	r.file = nil
	headerReaders.Put(r)
}

// headerWindow is a little more than the default index interval, so that most searches need one read.
const headerWindow = 8 << 10

// header returns the first 61 bytes of the batch at pos and the batch's size. io.EOF: no whole batch is there before the
// limit.
func (r *headerReader) header(pos int64) (protocol.Batch, int64, error) {
	if pos+protocol.BatchHeaderLen > r.limit {
		return nil, 0, io.EOF
	}
	if pos < r.at || pos+protocol.BatchHeaderLen > r.at+int64(r.have) {
		n := int(min(int64(len(r.win)), r.limit-pos))
		if err := readFull(r.file, r.win[:n], pos); err != nil {
			return nil, 0, err
		}
		r.at, r.have = pos, n
	}
	b := protocol.Batch(r.win[pos-r.at:][:protocol.BatchHeaderLen])
	size := int64(int32(binary.BigEndian.Uint32(b[8:]))) + protocol.BatchOverhead
	if size < protocol.BatchHeaderLen || b.Magic() != protocol.Magic2 {
		return nil, 0, &CorruptError{File: r.file.Name(), Pos: pos, Reason: "not a batch header"}
	}
	if pos+size > r.limit {
		return nil, 0, io.EOF
	}
	return b, size, nil
}

// scanChunk is how much a full scan reads at once; a batch larger than that is read on its own.
const scanChunk = 1 << 20

// scanBatches calls f for every whole batch from pos up to limit. It ends at the limit, at f's error, or where the bytes
// are no batch: then the error is a *CorruptError with the place. It returns the position after the last batch that f took.
func scanBatches(file vfs.File, pos, limit int64, f func(b protocol.Batch, pos int64) error) (int64, error) {
	return scanChunks(file, pos, limit, scanChunk, func(int) error { return nil }, f)
}

// scanChunks is scanBatches with a choice of how much is read at once, and with before called before each read.
func scanChunks(file vfs.File, pos, limit, chunkSize int64, before func(n int) error, f func(b protocol.Batch, pos int64) error) (int64, error) {
	buf := make([]byte, min(chunkSize, max(limit-pos, 0)))
	for pos < limit {
		n := int(min(int64(len(buf)), limit-pos))
		if err := before(n); err != nil {
			return pos, err
		}
		if err := readFull(file, buf[:n], pos); err != nil {
			return pos, err
		}
		chunk := buf[:n]
		for len(chunk) > 0 {
			b, rest, err := protocol.NextBatch(chunk)
			if protocol.IsBatchShort(err) && int64(len(chunk)) < limit-pos {
				break // the rest of it is in the next chunk
			}
			if err != nil {
				return pos, &CorruptError{File: file.Name(), Pos: pos, Reason: err.Error()}
			}
			if err := f(b, pos); err != nil {
				return pos, err
			}
			pos += int64(len(b))
			chunk = rest
		}
		if len(chunk) == n { // not one batch in a full buffer
			size, err := batchSize(file, pos, limit)
			if err != nil {
				return pos, err
			}
			buf = make([]byte, size)
		}
	}
	return pos, nil
}

// batchSize reads the size of the batch at pos.
func batchSize(file vfs.File, pos, limit int64) (int64, error) {
	r := newHeaderReader(file, limit)
	defer r.free()
	_, size, err := r.header(pos)
	if errors.Is(err, io.EOF) {
		return 0, &CorruptError{File: file.Name(), Pos: pos, Reason: "batch is cut short"}
	}
	return size, err
}
