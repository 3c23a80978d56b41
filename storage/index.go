package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"sync"

	"github.com/gregor-broker/gregor/storage/vfs"
)

const (
	offsetEntrySize = 8  // relative offset int32, position int32
	timeEntrySize   = 12 // timestamp int64, relative offset int32
)

// index is a sparse index of a segment, kept in its file form: entries of a fixed size with ascending keys. The active
// segment's index lives in memory and is written out when the segment is sealed, flushed or closed; a sealed one is read
// whole on first use and dropped again by the segment cache. It can always be rebuilt from the log.
type index struct {
	fs        vfs.FS
	path      string
	entrySize int

	mu     sync.RWMutex
	buf    []byte // all entries, if loaded
	loaded bool
	onDisk int // how much of buf the file holds
}

func newIndex(fsys vfs.FS, path string, entrySize int) *index {
	return &index{fs: fsys, path: path, entrySize: entrySize}
}

// startEmpty begins an index that has no file yet.
func (ix *index) startEmpty() {
	ix.mu.Lock()
	ix.buf, ix.loaded, ix.onDisk = ix.buf[:0], true, 0
	ix.mu.Unlock()
}

// load makes the entries resident. A file that is missing or cannot be the index of a log of logSize bytes is a
// *CorruptError.
func (ix *index) load(logSize int64) error {
	ix.mu.RLock()
	loaded := ix.loaded
	ix.mu.RUnlock()
	if loaded {
		return nil
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.loaded {
		return nil
	}
	data, err := readFile(ix.fs, ix.path, 1<<31)
	if errors.Is(err, fs.ErrNotExist) {
		if logSize > 0 {
			return &CorruptError{File: ix.path, Reason: "is missing"}
		}
		data, err = nil, nil
	}
	if err != nil {
		return err
	}
	if len(data) == 0 {
		err = ix.emptyFor(logSize)
	} else if ix.entrySize == offsetEntrySize {
		err = checkOffsetEntries(ix.path, data, logSize)
	} else {
		err = checkTimeEntries(ix.path, data)
	}
	if err != nil {
		return err
	}
	ix.buf, ix.loaded, ix.onDisk = data, true, len(data)
	return nil
}

// emptyFor says whether an empty index of a log of logSize bytes has lost its entries: a time index ends with an entry for
// the greatest timestamp, and an offset index has some in any but a short log.
func (ix *index) emptyFor(logSize int64) error {
	if (ix.entrySize == timeEntrySize && logSize > 0) || logSize > 8<<20 {
		return &CorruptError{File: ix.path, Reason: fmt.Sprintf("is empty beside a log of %d bytes", logSize)}
	}
	return nil
}

// last returns the last entry without making the index resident; nil if there is none.
func (ix *index) last(logSize int64) ([]byte, error) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if ix.loaded {
		return ix.buf[max(len(ix.buf)-ix.entrySize, 0):], nil
	}
	f, err := ix.fs.Open(ix.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptError{File: ix.path, Reason: "is missing"}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, ix.emptyFor(logSize)
	}
	if size%int64(ix.entrySize) != 0 {
		return nil, &CorruptError{File: ix.path, Pos: size, Reason: "size is not a multiple of the entry size"}
	}
	entry := make([]byte, ix.entrySize)
	return entry, readFull(f, entry, size-int64(ix.entrySize))
}

// drop frees the memory of a sealed index whose file is complete.
func (ix *index) drop() {
	ix.mu.Lock()
	if ix.loaded && ix.onDisk == len(ix.buf) {
		ix.buf, ix.loaded, ix.onDisk = nil, false, 0
	}
	ix.mu.Unlock()
}

// resident is the memory held, in bytes.
func (ix *index) resident() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return cap(ix.buf)
}

// entries returns a copy of a loaded index.
func (ix *index) entries() []byte {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return append([]byte(nil), ix.buf...)
}

// size is the length in bytes of a loaded index.
func (ix *index) size() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return len(ix.buf)
}

// write brings the file up to date. It does not sync.
func (ix *index) write() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if !ix.loaded {
		return nil
	}
	f, err := ix.fs.OpenOrCreate(ix.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeFull(f, ix.buf[ix.onDisk:], int64(ix.onDisk)); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > int64(len(ix.buf)) {
		if err := f.Truncate(int64(len(ix.buf))); err != nil {
			return err
		}
	}
	ix.onDisk = len(ix.buf)
	return nil
}

// sync writes the file and makes it durable.
func (ix *index) sync() error {
	if err := ix.write(); err != nil {
		return err
	}
	return syncPath(ix.fs, ix.path)
}

func syncPath(fsys vfs.FS, name string) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// truncate keeps the first n entries; the file follows with the next write.
func (ix *index) truncate(n int) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if keep := n * ix.entrySize; keep < len(ix.buf) {
		ix.buf = ix.buf[:keep]
		// What the file holds beyond is cut by write; what it holds below is still right.
		ix.onDisk = min(ix.onDisk, keep)
	}
}

// appendOffset adds an entry to an offset index.
func (ix *index) appendOffset(rel int32, pos int64) {
	ix.mu.Lock()
	ix.buf = binary.BigEndian.AppendUint32(ix.buf, uint32(rel))
	ix.buf = binary.BigEndian.AppendUint32(ix.buf, uint32(pos))
	ix.mu.Unlock()
}

// appendTime adds an entry to a time index. An entry that is not later than the last one is left out: the index is only
// good while it ascends.
func (ix *index) appendTime(ts int64, rel int32) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if n := len(ix.buf); n > 0 && int64(binary.BigEndian.Uint64(ix.buf[n-timeEntrySize:])) >= ts {
		return
	}
	ix.buf = binary.BigEndian.AppendUint64(ix.buf, uint64(ts))
	ix.buf = binary.BigEndian.AppendUint32(ix.buf, uint32(rel))
}

// searchOffset returns the last entry whose offset is at most rel, and the number of entries up to and with it.
func (ix *index) searchOffset(rel int64) (foundRel int32, pos int64, n int) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	n = sort.Search(len(ix.buf)/offsetEntrySize, func(i int) bool {
		return int64(int32(binary.BigEndian.Uint32(ix.buf[i*offsetEntrySize:]))) > rel
	})
	if n == 0 {
		return 0, 0, 0
	}
	e := ix.buf[(n-1)*offsetEntrySize:]
	return int32(binary.BigEndian.Uint32(e)), int64(binary.BigEndian.Uint32(e[4:])), n
}

// searchPosition returns the last entry of an offset index whose position is at most pos.
func (ix *index) searchPosition(pos int64) (rel int32, at int64, ok bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	n := sort.Search(len(ix.buf)/offsetEntrySize, func(i int) bool {
		return int64(binary.BigEndian.Uint32(ix.buf[i*offsetEntrySize+4:])) > pos
	})
	if n == 0 {
		return 0, 0, false
	}
	e := ix.buf[(n-1)*offsetEntrySize:]
	return int32(binary.BigEndian.Uint32(e)), int64(binary.BigEndian.Uint32(e[4:])), true
}

// entryAtOrAfter returns the first entry of an offset index at position pos or later.
func (ix *index) entryAtOrAfter(pos int64) (rel int32, ok bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	count := len(ix.buf) / offsetEntrySize
	n := sort.Search(count, func(i int) bool {
		return int64(binary.BigEndian.Uint32(ix.buf[i*offsetEntrySize+4:])) >= pos
	})
	if n == count {
		return 0, false
	}
	return int32(binary.BigEndian.Uint32(ix.buf[n*offsetEntrySize:])), true
}

// searchTime returns the last entry of a time index that is earlier than ts.
func (ix *index) searchTime(ts int64) (rel int32, ok bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	n := sort.Search(len(ix.buf)/timeEntrySize, func(i int) bool {
		return int64(binary.BigEndian.Uint64(ix.buf[i*timeEntrySize:])) >= ts
	})
	if n == 0 {
		return 0, false
	}
	return int32(binary.BigEndian.Uint32(ix.buf[(n-1)*timeEntrySize+8:])), true
}

// lastTime returns the last entry of a time index.
func (ix *index) lastTime() (ts int64, rel int32, ok bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	n := len(ix.buf)
	if n == 0 {
		return 0, 0, false
	}
	e := ix.buf[n-timeEntrySize:]
	return int64(binary.BigEndian.Uint64(e)), int32(binary.BigEndian.Uint32(e[8:])), true
}

// truncateTimes drops the entries of a time index from rel on.
func (ix *index) truncateTimes(rel int64) {
	ix.mu.RLock()
	n := sort.Search(len(ix.buf)/timeEntrySize, func(i int) bool {
		return int64(int32(binary.BigEndian.Uint32(ix.buf[i*timeEntrySize+8:]))) >= rel
	})
	ix.mu.RUnlock()
	ix.truncate(n)
}

// replace takes entries that were made anew; the file follows with the next write.
func (ix *index) replace(buf []byte) {
	ix.mu.Lock()
	ix.buf, ix.loaded, ix.onDisk = buf, true, 0
	ix.mu.Unlock()
}

// checkOffsetEntries says whether data can be the offset index of a log of logSize bytes: both columns ascend and stay
// inside.
func checkOffsetEntries(name string, data []byte, logSize int64) error {
	if len(data)%offsetEntrySize != 0 {
		return &CorruptError{File: name, Pos: int64(len(data)), Reason: "size is not a multiple of the entry size"}
	}
	lastRel, lastPos := int64(-1), int64(-1)
	for i := 0; i < len(data); i += offsetEntrySize {
		rel := int64(int32(binary.BigEndian.Uint32(data[i:])))
		pos := int64(int32(binary.BigEndian.Uint32(data[i+4:])))
		if rel <= lastRel || pos <= lastPos || pos >= logSize {
			return &CorruptError{File: name, Pos: int64(i), Reason: fmt.Sprintf("entry (%d, %d) after (%d, %d) in a log of %d bytes", rel, pos, lastRel, lastPos, logSize)}
		}
		lastRel, lastPos = rel, pos
	}
	return nil
}

// checkTimeEntries says whether data can be a time index: both columns ascend.
func checkTimeEntries(name string, data []byte) error {
	if len(data)%timeEntrySize != 0 {
		return &CorruptError{File: name, Pos: int64(len(data)), Reason: "size is not a multiple of the entry size"}
	}
	lastTs, lastRel := int64(-1), int64(-1)
	for i := 0; i < len(data); i += timeEntrySize {
		ts := int64(binary.BigEndian.Uint64(data[i:]))
		rel := int64(int32(binary.BigEndian.Uint32(data[i+8:])))
		if ts <= lastTs || rel < 0 || rel < lastRel {
			return &CorruptError{File: name, Pos: int64(i), Reason: fmt.Sprintf("entry (%d, %d) after (%d, %d)", ts, rel, lastTs, lastRel)}
		}
		lastTs, lastRel = ts, rel
	}
	return nil
}
