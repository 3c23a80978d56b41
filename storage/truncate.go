package storage

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// TruncateTo removes all records from off on; a batch that holds off goes whole. The recovery point is lowered durably
// first: what is appended afterwards must not be taken for flushed. Epochs that begin at off or later go even when there is
// no record to remove: a leader that lost its leadership before it wrote anything would else claim its epoch for what its
// successor writes there.
func (l *Log) TruncateTo(off int64) error {
	l.hk.Lock()
	defer l.hk.Unlock()
	if err := l.inService(); err != nil {
		return err
	}
	if off >= l.LogEndOffset() {
		l.epochMu.Lock()
		l.epochs.truncateFromEnd(off)
		l.epochMu.Unlock()
		return nil
	}
	if err := l.finishRolls(); err != nil {
		return err
	}
	segs := *l.segs.Load()
	i := floorSegment(segs, off)
	if i < 0 || off <= l.start.Load() {
		if err := l.lowerTo(off); err != nil {
			return err
		}
		return l.truncateFully(off)
	}
	pos, end, err := l.cutPoint(segs[i], off)
	if err != nil {
		return l.dir.fail(err)
	}
	start := l.start.Load()
	if err := l.lowerTo(end); err != nil {
		return err
	}
	if end < start { // the log start is within the batch that goes
		return l.truncateFully(end)
	}
	return l.truncateWithin(i, pos, end)
}

// TruncateFullyAndStartAt removes all records; the next one gets off.
func (l *Log) TruncateFullyAndStartAt(off int64) error {
	l.hk.Lock()
	defer l.hk.Unlock()
	if err := l.inService(); err != nil {
		return err
	}
	if err := l.finishRolls(); err != nil {
		return err
	}
	if err := l.lowerTo(off); err != nil {
		return err
	}
	return l.truncateFully(off)
}

// lowerTo makes durable that nothing from off on is flushed, nor the log start above it. Under hk.
func (l *Log) lowerTo(off int64) error {
	if err := l.lowerCheckpoints(l, off); err != nil {
		return l.dir.fail(err)
	}
	return nil
}

// truncateFully replaces all segments by an empty one. Under hk.
func (l *Log) truncateFully(off int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.closeActive()
	if err := l.discardAll(); err != nil {
		return l.dir.fail(err)
	}
	l.epochMu.Lock()
	l.epochs.clear()
	l.epochMu.Unlock()
	s := newSegment(l, off)
	s.startEmpty(l.now())
	err := s.createFile(l.cfg.Load())
	if err == nil {
		l.dirUnsynced = true
		err = l.syncAll(nil) // else a crash would have the log begin at 0 again
	}
	if err != nil {
		return l.dir.fail(err)
	}
	l.publishSegments([]*segment{s})
	l.recoveryPoint.Store(off)
	l.start.Store(off)
	l.hw.Store(off)
	l.setTail(s, 0, off)
	l.producers.reset()
	l.publishTxns()
	return nil
}

// discardAll takes all segments out of service, then removes all producer snapshots: durably, before a new segment comes,
// because a snapshot below that would be taken for its past.
func (l *Log) discardAll() error {
	if err := l.discard(*l.segs.Load()); err != nil {
		return err
	}
	if err := l.removeSnapshots(func(int64) bool { return true }); err != nil {
		return err
	}
	return l.fs.SyncDir(l.path)
}

// closeActive lets go of the active segment. Under mu.
func (l *Log) closeActive() {
	if l.out != nil {
		l.out.release()
		l.out = nil
	}
	l.ready, l.touched = false, true
}

// publishSegments replaces the list; the last one is active. Under mu.
func (l *Log) publishSegments(segs []*segment) {
	segs = slices.Clip(segs)
	l.segs.Store(&segs)
	l.active = segs[len(segs)-1]
}

// discard takes segments out of service, the newest first, and makes each step durable: a crash leaves no hole. Their
// files get the suffix .deleted at once and are removed later. Under hk; whoever has mu may keep it (truncation is rare).
func (l *Log) discard(segs []*segment) error {
	at := l.now().Add(time.Duration(l.cfg.Load().FileDeleteDelayMs) * time.Millisecond)
	for _, s := range slices.Backward(segs) {
		if err := l.discardSegment(s, at); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) discardSegment(s *segment, at time.Time) error {
	s.retire()
	// The log goes first: indexes without a log are dropped at load, a log without its transaction index would not be
	// noticed.
	if err := l.setAside(s.name(logSuffix), at); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	for _, suffix := range []string{offsetsSuffix, timesSuffix, txnSuffix} {
		if err := l.setAside(s.name(suffix), at); err != nil && !errors.Is(err, errNotExist) {
			return err
		}
	}
	return nil
}

// setAside renames a file for removal at a time.
func (l *Log) setAside(name string, at time.Time) error {
	if err := l.fs.Rename(name, name+deletedSuffix); err != nil {
		return err
	}
	l.remove(name+deletedSuffix, at)
	l.dirUnsynced = true
	return nil
}

// truncateWithin cuts segment i at pos, where the log then ends with offset end. Under hk.
func (l *Log) truncateWithin(i int, pos, end int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	segs := *l.segs.Load()
	s := segs[i]
	if err := l.loadForAppend(s); err != nil {
		return l.dir.fail(err)
	}
	l.closeActive()
	if err := l.discard(segs[i+1:]); err != nil {
		return l.dir.fail(err)
	}
	// From here on readers that come see the new end; those that came before hold the file.
	s.cache.forget(s)
	l.setTail(s, pos, end)
	kept := slices.Clone(segs[:i+1])
	s, err := l.shorten(s, pos)
	if err != nil {
		return l.dir.fail(err)
	}
	kept[i] = s
	l.publishSegments(kept)
	l.setTail(s, pos, end)
	l.hw.Store(min(l.hw.Load(), end))
	l.epochMu.Lock()
	l.epochs.truncateFromEnd(end)
	l.epochMu.Unlock()
	if err := l.removeSnapshots(func(o int64) bool { return o > end }); err != nil {
		return l.dir.fail(err)
	}
	if err := l.cutIndexes(s, pos, end); err != nil {
		return l.dir.fail(err)
	}
	if err := l.rebuildProducers(end); err != nil {
		return l.dir.fail(err)
	}
	return nil
}

// cutPoint returns the position of the first batch that reaches off, and the offset after the batch before it: where the
// log ends without what is from off on, also when the leader's compaction left a gap there.
func (l *Log) cutPoint(s *segment, off int64) (pos, end int64, err error) {
	if err := s.load(); err != nil {
		return 0, 0, err
	}
	h, err := s.acquire()
	if err != nil {
		return 0, 0, err
	}
	defer h.release()
	end = s.base
	_, from, _ := s.offsets.searchOffset(off - 1 - s.base)
	pos = from
	err = eachHeader(h.file, from, s.size.Load(), func(b protocol.Batch, at int64) error {
		pos = at
		if b.LastOffset() >= off {
			return io.EOF
		}
		end = b.LastOffset() + 1
		pos = s.size.Load()
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return pos, end, err
}

// shorten cuts a segment's file, or, while a slice of it is in flight, replaces the file by a copy of what stays, so that
// the bytes in flight stay what they are. Under hk and mu.
func (l *Log) shorten(s *segment, pos int64) (*segment, error) {
	s.mu.Lock()
	if s.h == nil {
		f, err := l.fs.Open(s.name(logSuffix))
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		s.h = newHandle(f)
	}
	if s.h.refs.Load() == 1 {
		err := s.h.file.Truncate(pos)
		if err == nil {
			err = s.h.file.Sync()
		}
		s.mu.Unlock()
		s.padded = false
		s.size.Store(pos)
		s.sealed.Store(false)
		s.durable.Store(false)
		s.unsynced = true
		return s, err
	}
	h := s.h
	h.refs.Add(1)
	s.mu.Unlock()
	defer h.release()
	return l.replaceByCopy(s, h.file, pos)
}

func (l *Log) replaceByCopy(s *segment, from vfs.File, size int64) (*segment, error) {
	// Not .cleaned: the cleaner may be writing that.
	tmp := s.name(logSuffix) + tmpSuffix
	f, err := l.fs.Create(tmp)
	if err != nil {
		return nil, err
	}
	if err := copyFile(f, from, size); err != nil {
		f.Close()
		return nil, err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return nil, err
	}
	n := newSegment(l, s.base)
	n.created, n.firstBatchTs = s.created, s.firstBatchTs
	n.size.Store(size)
	n.offsets.replace(slices.Clone(s.offsets.buf))
	n.times.replace(slices.Clone(s.times.buf))
	n.txns = s.txns
	n.h = newHandle(f)
	n.unsynced = true
	s.retire()
	if err := l.fs.Rename(tmp, s.name(logSuffix)); err != nil {
		return nil, err
	}
	return n, l.fs.SyncDir(l.path)
}

func copyFile(dst io.WriterAt, src io.ReaderAt, size int64) error {
	buf := make([]byte, min(size, scanChunk))
	for pos := int64(0); pos < size; {
		n := min(int64(len(buf)), size-pos)
		if err := readFull(src, buf[:n], pos); err != nil {
			return err
		}
		if err := writeFull(dst, buf[:n], pos); err != nil {
			return err
		}
		pos += n
	}
	return nil
}

// cutIndexes makes the indexes of a shortened segment end with it, and finds its greatest timestamp anew: that of the last
// time entry, or of a batch after the last offset entry.
func (l *Log) cutIndexes(s *segment, size, end int64) error {
	_, _, n := s.offsets.searchOffset(end - 1 - s.base)
	s.offsets.truncate(n)
	s.times.truncateTimes(end - s.base)
	if err := s.txns.truncateTo(end); err != nil {
		return err
	}
	s.maxTs.mu.Lock()
	s.maxTs.loaded, s.maxTs.ts, s.maxTs.offset = true, -1, -1
	if ts, rel, ok := s.times.lastTime(); ok {
		s.maxTs.ts, s.maxTs.offset = ts, s.base+int64(rel)
	}
	s.maxTs.mu.Unlock()
	s.sinceIndex = 0
	if size == 0 {
		s.firstBatchTs = -1
		return nil
	}
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	_, from, _ := s.offsets.searchOffset(1 << 31)
	return eachHeader(h.file, from, size, func(b protocol.Batch, _ int64) error {
		s.maxTs.note(b.MaxTimestamp(), b.LastOffset())
		return nil
	})
}

// eachHeader calls f with the header of every batch from pos to limit.
func eachHeader(file vfs.File, pos, limit int64, f func(b protocol.Batch, pos int64) error) error {
	r := newHeaderReader(file, limit)
	defer r.free()
	for pos < limit {
		b, size, err := r.header(pos)
		if err != nil {
			return err
		}
		if err := f(b, pos); err != nil {
			return err
		}
		pos += size
	}
	return nil
}
