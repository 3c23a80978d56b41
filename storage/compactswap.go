package storage

import (
	"errors"
	"math"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// cleanSegment is the segment that will replace others, in a file <base>.log.cleaned.
type cleanSegment struct {
	c    *compaction
	seg  *segment
	name string
	file vfs.File
	buf  []byte // not written yet
}

func (c *compaction) newCleanSegment(group []*segment) (*cleanSegment, error) {
	s := newSegment(c.l, group[0].base)
	// The age of a segment without timestamps is that of its youngest part.
	s.startEmpty(group[len(group)-1].created)
	s.created = group[len(group)-1].created
	w := &cleanSegment{c: c, seg: s, name: s.name(logSuffix) + cleanedSuffix}
	f, err := c.l.fs.Create(w.name)
	if err != nil {
		return nil, err
	}
	w.file = f
	if err := c.step(0); err != nil {
		w.discard()
		return nil, err
	}
	return w, nil
}

// add appends what stays of a batch.
func (w *cleanSegment) add(f *batchFilter, b protocol.Batch) error {
	n := len(w.buf)
	buf, err := f.appendKept(w.buf, b)
	if err != nil || len(buf) == n {
		return err
	}
	w.buf = buf
	pos := w.seg.size.Load()
	kept := protocol.Batch(buf[n:])
	if pos+int64(len(kept)) > math.MaxInt32 {
		return errSegmentTooLarge
	}
	w.seg.noteAppended(kept, pos, w.c.cfg.IndexIntervalBytes)
	w.seg.size.Store(pos + int64(len(kept)))
	if int64(len(buf)) >= w.c.env.ioBuffer {
		return w.writeOut()
	}
	return nil
}

func (w *cleanSegment) writeOut() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.c.step(len(w.buf)); err != nil {
		return err
	}
	if err := writeFull(w.file, w.buf, w.seg.size.Load()-int64(len(w.buf))); err != nil {
		return err
	}
	if int64(cap(w.buf)) > 2*w.c.env.ioBuffer {
		w.buf = nil // it grew for one large batch
	}
	w.buf = w.buf[:0]
	return nil
}

// finish makes the segment ready to take the place of others: its file is synced, its indexes are in memory.
func (w *cleanSegment) finish(entries []abortedTxn) error {
	w.seg.finishTimes()
	for _, e := range entries {
		if err := w.seg.txns.append(e); err != nil {
			return err
		}
	}
	w.seg.sealed.Store(true)
	if err := w.file.Sync(); err != nil {
		return err
	}
	w.seg.mu.Lock()
	w.seg.h = newHandle(w.file)
	w.seg.mu.Unlock()
	w.file = nil
	return nil
}

// discard gives up the segment. A file that cannot be removed is removed at the next start.
func (w *cleanSegment) discard() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
	w.seg.retire()
	_ = w.c.l.fs.Remove(w.name) // after the swap there is no such name
}

// replaceSegments puts a sealed and synced segment, whose file is named .cleaned, in the place of neighbouring ones. What
// the directory holds after a crash is the old segments, or the new one with any of the old ones that hold nothing which
// is not in the new one or else cleaned away:
//
//	rename .log.cleaned -> .log.swap     from here on the next start completes what follows
//	remove the old .log files but the first, then all their indexes
//	rename .log.swap -> .log             over the first old one
//	write the new indexes
//
// with a SyncDir after each step. Logs go before their indexes: a log without its transaction index would show aborted
// records. An index that is missing is rebuilt; a transaction index is of no consequence in a cleaned log, because it
// lists transactions without records.
func (l *Log) replaceSegments(old []*segment, s *segment) error {
	l.hk.Lock()
	defer l.hk.Unlock()
	if err := l.alive(); err != nil {
		return err
	}
	// Under hk segments can only be added behind the last.
	at := slices.Index(*l.segs.Load(), old[0])
	if segs := *l.segs.Load(); at < 0 || at+len(old) >= len(segs) || !slices.Equal(segs[at:at+len(old)], old) {
		return errSuperseded
	}
	for _, o := range old {
		// Readers that have an old segment go on with its own indexes. errGone does not happen under hk.
		if _, err := o.txns.all(); err != nil {
			return err
		}
		if err := o.load(); err != nil {
			return err
		}
	}
	if err := l.swap(old, s, at); err != nil {
		return l.dir.fail(err)
	}
	return nil
}

func (l *Log) swap(old []*segment, s *segment, at int) error {
	swapped := s.name(logSuffix) + swapSuffix
	if err := l.fs.Rename(s.name(logSuffix)+cleanedSuffix, swapped); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	l.mu.Lock()
	segs := slices.Clone(*l.segs.Load())
	l.publishSegments(slices.Replace(segs, at, at+len(old), s))
	l.mu.Unlock()
	for _, o := range old {
		o.retire()
	}
	if err := l.removeReplaced(old); err != nil {
		return err
	}
	if err := l.fs.Rename(swapped, s.name(logSuffix)); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	if err := s.writeIndexes(true); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	s.durable.Store(true)
	s.touch()
	return nil
}

// removeReplaced takes the files of replaced segments away, save the first log, which the swap overwrites. The producer
// snapshots of segments that are no more go too.
func (l *Log) removeReplaced(old []*segment) error {
	at := l.now().Add(time.Duration(l.cfg.Load().FileDeleteDelayMs) * time.Millisecond)
	for _, o := range slices.Backward(old[1:]) {
		if err := l.setAside(o.name(logSuffix), at); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	for i, o := range old {
		suffixes := []string{offsetsSuffix, timesSuffix, txnSuffix}
		if i > 0 {
			suffixes = append(suffixes, snapshotSuffix)
		}
		for _, suffix := range suffixes {
			if err := l.fs.Remove(o.name(suffix)); err != nil && !errors.Is(err, errNotExist) {
				return err
			}
		}
	}
	return l.fs.SyncDir(l.path)
}
