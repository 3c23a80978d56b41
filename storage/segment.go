package storage

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// Suffixes of the files of a log's directory, as Kafka's; nextSuffix is ours.
const (
	logSuffix      = ".log"
	offsetsSuffix  = ".index"
	timesSuffix    = ".timeindex"
	txnSuffix      = ".txnindex"
	snapshotSuffix = ".snapshot"
	deletedSuffix  = ".deleted" // to be removed after file.delete.delay.ms
	cleanedSuffix  = ".cleaned" // being written by a replacement; removed at load
	swapSuffix     = ".swap"    // complete replacement; finished at load
	tmpSuffix      = ".tmp"     // will be renamed when it is complete; removed at load
	nextSuffix     = ".next"    // a segment that has not got its name yet; see roll.go
)

// fileName is the zero-padded name of a segment's file.
func fileName(offset int64, suffix string) string {
	return fmt.Sprintf("%020d%s", offset, suffix)
}

// parseFileName splits a file name into offset and suffix.
func parseFileName(name string) (offset int64, suffix string, ok bool) {
	digits, _, found := strings.Cut(name, ".")
	if !found || len(digits) != 20 {
		return 0, "", false
	}
	offset, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || offset < 0 {
		return 0, "", false
	}
	return offset, name[len(digits):], true
}

// segment is one .log file with its indexes.
//
// Who owns what: size, position of the indexes' ends, and the fields under "append lock" change only under Log.mu. Readers
// take size through the log's tail (active segment) or read it when it no longer changes (sealed).
type segment struct {
	base  int64
	fs    vfs.FS
	dir   string
	cache *segmentCache

	offsets *index
	times   *index
	txns    *txnIndex

	size    atomic.Int64
	sealed  atomic.Bool
	durable atomic.Bool // sealed, and synced with its indexes: may be closed and reopened
	created time.Time

	mu   sync.Mutex // guards h and gone; held over an open, never over a read
	h    *handle
	gone bool

	// Guarded by segmentCache.mu.
	cacheElem  *list.Element
	cacheBytes int

	// Guarded by Log.mu (append lock).
	sinceIndex   int64  // bytes appended since the last index entry
	firstBatchTs int64  // max timestamp of the first batch; -1: unknown or none
	pendingName  string // not "": the log file still has this name instead of its own
	unsynced     bool   // appended to since the last fsync

	// padded says that the log file is longer than what was appended, having been preallocated. Set before the segment is
	// in service, cleared under Log.hk.
	padded bool

	maxTs metaTimestamp
}

// metaTimestamp is the greatest timestamp of a segment and the last offset of the batch that has it.
type metaTimestamp struct {
	mu     sync.Mutex
	loaded bool
	ts     int64
	offset int64
}

func newSegment(l *Log, base int64) *segment {
	s := &segment{base: base, fs: l.fs, dir: l.path, cache: l.cache, firstBatchTs: -1}
	s.offsets = newIndex(l.fs, s.name(offsetsSuffix), offsetEntrySize)
	s.times = newIndex(l.fs, s.name(timesSuffix), timeEntrySize)
	s.txns = newTxnIndex(l.fs, s.name(txnSuffix))
	return s
}

// name is the path of one of the segment's files.
func (s *segment) name(suffix string) string { return path.Join(s.dir, fileName(s.base, suffix)) }

// rebase tells that the segment's directory has another name. Nobody may use the segment meanwhile.
func (s *segment) rebase(dir string) {
	s.dir = dir
	s.offsets.path, s.times.path, s.txns.path = s.name(offsetsSuffix), s.name(timesSuffix), s.name(txnSuffix)
}

// startEmpty makes the segment one without records.
func (s *segment) startEmpty(now time.Time) {
	s.offsets.startEmpty()
	s.times.startEmpty()
	s.txns.startEmpty()
	s.created = now
	s.maxTs.loaded, s.maxTs.ts, s.maxTs.offset = true, -1, -1
}

// acquire opens the log file if need be and counts one more user of it. errGone: the segment is no longer part of the
// log.
func (s *segment) acquire() (*handle, error) {
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return nil, errGone
	}
	if s.h == nil {
		f, err := s.fs.Open(s.name(logSuffix))
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		s.h = newHandle(f)
	}
	h := s.h
	h.refs.Add(1)
	s.mu.Unlock()
	return h, nil
}

// load makes the indexes resident, and rebuilds them from the log if they are not what they should be.
func (s *segment) load() error {
	err := s.offsets.load(s.size.Load())
	if err == nil {
		err = s.times.load(s.size.Load())
	}
	if err == nil {
		return nil
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		return s.rebuildIndexes(defaultIndexInterval)
	}
	return err
}

const defaultIndexInterval = 4096

// rebuildIndexes makes offset and time index anew by reading the log's batches.
func (s *segment) rebuildIndexes(intervalBytes int32) error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	offsets := newIndex(s.fs, s.name(offsetsSuffix), offsetEntrySize)
	times := newIndex(s.fs, s.name(timesSuffix), timeEntrySize)
	offsets.startEmpty()
	times.startEmpty()
	tmp := &segment{base: s.base, offsets: offsets, times: times}
	tmp.maxTs.loaded, tmp.maxTs.ts = true, -1
	_, err = scanBatches(h.file, 0, s.size.Load(), func(b protocol.Batch, pos int64) error {
		tmp.noteAppended(b, pos, intervalBytes)
		return nil
	})
	if err != nil {
		return err
	}
	tmp.finishTimes()
	s.offsets.replace(offsets.buf)
	s.times.replace(times.buf)
	return nil
}

// touch tells the cache about a sealed segment that was used.
func (s *segment) touch() {
	if s.durable.Load() {
		s.cache.use(s)
	}
}

// unload closes what a sealed, flushed segment holds open.
func (s *segment) unload() {
	s.mu.Lock()
	h := s.h
	s.h = nil
	s.mu.Unlock()
	if h != nil {
		h.release()
	}
	s.offsets.drop()
	s.times.drop()
}

// retire takes the segment out of service: nobody opens it any more, slices in flight keep their handle.
func (s *segment) retire() {
	s.cache.forget(s)
	s.mu.Lock()
	h := s.h
	s.h, s.gone = nil, true
	s.mu.Unlock()
	if h != nil {
		h.release()
	}
}

// rel is an offset relative to the segment's base, as the indexes keep it.
func (s *segment) rel(offset int64) int32 { return int32(offset - s.base) }

// noteAppended updates indexes and timestamps for a batch that was written at pos. Under the append lock.
func (s *segment) noteAppended(b protocol.Batch, pos int64, intervalBytes int32) {
	last := b.LastOffset()
	s.maxTs.note(b.MaxTimestamp(), last)
	if s.firstBatchTs < 0 && pos == 0 {
		s.firstBatchTs = b.MaxTimestamp()
	}
	if s.sinceIndex > int64(intervalBytes) {
		s.offsets.appendOffset(s.rel(last), pos)
		if ts, off, ok := s.maxTs.get(); ok {
			s.times.appendTime(ts, s.rel(off))
		}
		s.sinceIndex = 0
	}
	s.sinceIndex += int64(len(b))
}

func (m *metaTimestamp) note(ts, offset int64) {
	m.mu.Lock()
	if ts > m.ts || !m.loaded {
		m.ts, m.offset, m.loaded = ts, offset, true
	}
	m.mu.Unlock()
}

// get returns the greatest timestamp; not ok if there is none.
func (m *metaTimestamp) get() (ts, offset int64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ts, m.offset, m.loaded && m.ts >= 0
}

// maxTimestamp returns the greatest timestamp in the segment and the last offset of its batch, from the time index if the
// segment was not read or written yet. -1 if there is none.
func (s *segment) maxTimestamp() (ts, offset int64, err error) {
	s.maxTs.mu.Lock()
	loaded := s.maxTs.loaded
	s.maxTs.mu.Unlock()
	if !loaded {
		if err := s.loadMaxTimestamp(); err != nil {
			return 0, 0, err
		}
	}
	ts, offset, _ = s.maxTs.get()
	return ts, offset, nil
}

func (s *segment) loadMaxTimestamp() error {
	last, err := s.times.last(s.size.Load())
	var corrupt *CorruptError
	if errors.As(err, &corrupt) && s.size.Load() > 0 {
		if err := s.rebuildIndexes(defaultIndexInterval); err != nil {
			return err
		}
		last, err = s.times.last(s.size.Load())
	}
	if err != nil && !errors.As(err, &corrupt) {
		return err
	}
	s.maxTs.mu.Lock()
	defer s.maxTs.mu.Unlock()
	if s.maxTs.loaded {
		return nil
	}
	s.maxTs.ts, s.maxTs.offset, s.maxTs.loaded = -1, -1, true
	if len(last) > 0 {
		s.maxTs.ts = int64(binary.BigEndian.Uint64(last))
		s.maxTs.offset = s.base + int64(int32(binary.BigEndian.Uint32(last[8:])))
	}
	return nil
}

// finishTimes appends the last entry of the time index, so that it ends with the segment's greatest timestamp.
func (s *segment) finishTimes() {
	if ts, off, ok := s.maxTs.get(); ok {
		s.times.appendTime(ts, s.rel(off))
	}
}

// writeIndexes brings the index files up to date.
func (s *segment) writeIndexes(sync bool) error {
	if sync {
		if err := s.offsets.sync(); err != nil {
			return err
		}
		if err := s.times.sync(); err != nil {
			return err
		}
	} else {
		if err := s.offsets.write(); err != nil {
			return err
		}
		if err := s.times.write(); err != nil {
			return err
		}
	}
	return s.txns.write(sync)
}
