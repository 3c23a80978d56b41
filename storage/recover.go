package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

var errNotExist = fs.ErrNotExist

// loadState is what the directory's checkpoints say about a log.
type loadState struct {
	clean         bool // the broker was shut down cleanly
	recoveryPoint int64
	logStart      int64
	highWatermark int64
}

// load reads a log's directory and leaves the log ready for use. After a clean shut-down it reads no records but the last
// few of the active segment, to find the end. Otherwise it reads every batch from the segment of the recovery point on.
func (l *Log) load(st loadState) error {
	files, err := l.fs.List(l.path)
	if err != nil {
		return err
	}
	if files, err = l.finishInterrupted(files); err != nil {
		return err
	}
	haveEpochs := l.readEpochs()
	segs, err := l.listSegments(files)
	if err != nil {
		return err
	}
	if len(segs) == 0 {
		l.segs.Store(&segs)
		if err := l.discardAll(); err != nil {
			return err
		}
		return l.startAt(st.logStart)
	}
	if !haveEpochs {
		l.rebuildEpochs(segs)
	}
	l.start.Store(max(st.logStart, segs[0].base))
	if st.clean {
		err = l.loadClean(segs)
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			l.log.Warn().Err(err).Str("log", l.tp.String()).Msg("log is not what a clean shut-down leaves, recovering it")
			err = l.recover(segs, 0)
		}
	} else {
		err = l.recover(segs, st.recoveryPoint)
	}
	if err != nil {
		return err
	}
	return l.finishLoad(st)
}

// finishLoad puts the offsets in order once the segments are known.
func (l *Log) finishLoad(st loadState) error {
	end := l.tail.end
	if end < l.start.Load() {
		// The records that the log start stands for are gone.
		if err := l.discardAll(); err != nil {
			return err
		}
		return l.startAt(l.start.Load())
	}
	l.epochs.truncateFromEnd(end)
	l.epochs.truncateFromStart((*l.segs.Load())[0].base)
	l.recoveryPoint.Store(end) // a clean shut-down flushed all; a recovery synced what it kept
	l.hw.Store(min(max(st.highWatermark, l.start.Load()), end))
	l.producers.passWatermark(l.hw.Load())
	l.publishTxns()
	l.jitterMs = rollJitter(l.cfg.Load())
	l.lastFlush = l.now()
	return nil
}

// startAt makes the log empty, with a new segment at off.
func (l *Log) startAt(off int64) error {
	s := newSegment(l, off)
	s.startEmpty(l.now())
	if err := s.createFile(); err != nil {
		return err
	}
	l.dirUnsynced = true
	l.publishSegments([]*segment{s})
	l.start.Store(off)
	l.hw.Store(off)
	l.recoveryPoint.Store(off)
	l.firstUnstable.Store(-1)
	l.setTail(s, 0, off)
	l.producers.reset()
	l.epochs.clear()
	l.lastFlush = l.now()
	return nil
}

// createFile makes an empty log file.
func (s *segment) createFile() error {
	f, err := s.fs.Create(s.name(logSuffix))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.h = newHandle(f)
	s.mu.Unlock()
	return nil
}

// finishInterrupted completes or undoes what a crash interrupted: removes temporary and deleted files, puts complete
// replacements (.swap) in their place, and names segments that were rolled but not named. It returns the files as they
// then are.
func (l *Log) finishInterrupted(files []vfs.Info) ([]vfs.Info, error) {
	changed := false
	for _, f := range files {
		if f.Dir {
			continue
		}
		var err error
		switch name := path.Join(l.path, f.Name); {
		case strings.HasSuffix(f.Name, deletedSuffix), strings.HasSuffix(f.Name, cleanedSuffix), strings.HasSuffix(f.Name, ".tmp"):
			err = l.fs.Remove(name)
		case strings.HasSuffix(f.Name, nextSuffix):
			err = l.adoptNext(name, f.Size)
		case strings.HasSuffix(f.Name, logSuffix+swapSuffix):
			err = l.finishSwap(f.Name, f.Size, files)
		case strings.HasSuffix(f.Name, swapSuffix):
			err = l.fs.Remove(name) // indexes of a replacement are rebuilt
		default:
			continue
		}
		if err != nil && !errors.Is(err, errNotExist) {
			return nil, err
		}
		changed = true
	}
	if !changed {
		return files, nil
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return nil, err
	}
	return l.fs.List(l.path)
}

// adoptNext names a segment that was begun under a provisional name, or removes it if it holds nothing.
func (l *Log) adoptNext(name string, size int64) error {
	f, err := l.fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	base := int64(-1)
	r := newHeaderReader(f, size)
	defer r.free()
	if b, _, err := r.header(0); err == nil && b.BaseOffset() >= 0 {
		base = b.BaseOffset()
	}
	if base < 0 {
		return l.fs.Remove(name)
	}
	to := path.Join(l.path, fileName(base, logSuffix))
	if in, err := l.fs.Stat(to); err == nil && in.Size > 0 {
		return l.fs.Remove(name)
	}
	return l.fs.Rename(name, to)
}

// finishSwap puts a complete replacement in the place of the segments whose offsets it covers.
func (l *Log) finishSwap(swap string, size int64, files []vfs.Info) error {
	base, _, ok := parseFileName(swap)
	if !ok {
		return l.fs.Remove(path.Join(l.path, swap))
	}
	end, err := l.endOfFile(path.Join(l.path, swap), size)
	if err != nil {
		return err
	}
	for _, f := range files {
		off, suffix, ok := parseFileName(f.Name)
		if !ok || strings.HasSuffix(suffix, swapSuffix) || off < base || (off >= end && off != base) {
			continue
		}
		if slices.Contains([]string{logSuffix, offsetsSuffix, timesSuffix, txnSuffix}, suffix) && !(off == base && suffix == logSuffix) {
			if err := l.fs.Remove(path.Join(l.path, f.Name)); err != nil && !errors.Is(err, errNotExist) {
				return err
			}
		}
	}
	return l.fs.Rename(path.Join(l.path, swap), path.Join(l.path, fileName(base, logSuffix)))
}

// endOfFile is the offset after the last whole batch of a log file.
func (l *Log) endOfFile(name string, size int64) (int64, error) {
	f, err := l.fs.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end := int64(-1)
	err = eachHeader(f, 0, size, func(b protocol.Batch, _ int64) error {
		end = b.LastOffset() + 1
		return nil
	})
	return end, err
}

// readEpochs reads the leader-epoch file. It says false if that is missing or corrupt.
func (l *Log) readEpochs() bool {
	name := path.Join(l.path, epochFile)
	data, err := readFile(l.fs, name, smallFileLimit)
	if err == nil {
		l.epochs.entries, err = parseEpochs(name, data)
	}
	if err != nil && !errors.Is(err, errNotExist) {
		l.log.Warn().Err(err).Str("log", l.tp.String()).Msg("cannot read the leader epochs, rebuilding them")
	}
	return err == nil
}

// rebuildEpochs gathers the leader epochs from the batch headers of all segments, as far as these can be read: a bad
// batch is for recovery to judge.
func (l *Log) rebuildEpochs(segs []*segment) {
	l.epochs.dirty = true // so that even an empty file is written, and this is not done again
	for _, s := range segs {
		h, err := s.acquire()
		if err != nil {
			return
		}
		err = eachHeader(h.file, 0, s.size.Load(), func(b protocol.Batch, _ int64) error {
			if epoch := b.LeaderEpoch(); epoch > l.epochs.latest() {
				l.epochs.assign(epoch, b.BaseOffset())
			}
			return nil
		})
		s.unload()
		h.release()
		if err != nil {
			return
		}
	}
}

// listSegments makes segments of the log files, and removes index files that belong to none.
func (l *Log) listSegments(files []vfs.Info) ([]*segment, error) {
	var segs []*segment
	bases := map[int64]bool{}
	for _, f := range files {
		if base, suffix, ok := parseFileName(f.Name); ok && suffix == logSuffix && !f.Dir {
			s := newSegment(l, base)
			s.size.Store(f.Size)
			s.created = f.ModTime
			segs = append(segs, s)
			bases[base] = true
		}
	}
	for _, f := range files {
		base, suffix, ok := parseFileName(f.Name)
		if !ok || bases[base] || (suffix != offsetsSuffix && suffix != timesSuffix && suffix != txnSuffix) {
			continue
		}
		if err := l.fs.Remove(path.Join(l.path, f.Name)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(segs, func(a, b *segment) int {
		if a.base < b.base {
			return -1
		}
		return 1
	})
	return segs, nil
}

// loadClean takes the segments as they are and finds the end of the last one through its index.
func (l *Log) loadClean(segs []*segment) error {
	for _, s := range segs[:len(segs)-1] {
		s.sealed.Store(true)
		s.durable.Store(true)
	}
	l.publishSegments(segs)
	s := l.active
	end, err := s.lastOffsetFromIndex()
	if err != nil {
		return err
	}
	l.setTail(s, s.size.Load(), end)
	return l.rebuildProducers(end)
}

// lastOffsetFromIndex finds the offset after the segment's last batch by reading from its last index entry on.
func (s *segment) lastOffsetFromIndex() (int64, error) {
	size := s.size.Load()
	if size == 0 {
		return s.base, nil
	}
	f, err := s.fs.Open(s.name(logSuffix))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	last, err := s.offsets.last(size)
	if err != nil {
		return 0, err
	}
	pos := int64(0)
	if len(last) > 0 {
		pos = int64(binary.BigEndian.Uint32(last[4:]))
	}
	if pos >= size {
		return 0, &CorruptError{File: s.offsets.path, Reason: fmt.Sprintf("position %d in a log of %d bytes", pos, size)}
	}
	end, at := s.base, pos
	err = eachHeader(f, pos, size, func(b protocol.Batch, p int64) error {
		if b.BaseOffset() < end {
			return &CorruptError{File: f.Name(), Pos: p, Reason: fmt.Sprintf("offset %d after %d", b.BaseOffset(), end)}
		}
		end, at = b.LastOffset()+1, p
		return nil
	})
	if err != nil {
		return 0, &CorruptError{File: f.Name(), Pos: at, Reason: err.Error()}
	}
	return end, nil
}

// recover scans the segments from the recovery point on and keeps the longest prefix of whole batches.
func (l *Log) recover(segs []*segment, recoveryPoint int64) error {
	first := max(floorSegment(segs, recoveryPoint), 0)
	if first > 0 && segs[first].base == recoveryPoint && !l.hasSnapshot(recoveryPoint) {
		// The segment before was flushed and then rolled, but the roll not made durable: its indexes may be torn.
		first--
	}
	if err := l.removeSnapshots(func(off int64) bool { return off > segs[first].base }); err != nil {
		return err
	}
	l.publishSegments(segs[:first+1])
	if err := l.rebuildProducers(segs[first].base); err != nil {
		return err
	}
	if first > 0 && !l.hasSnapshot(segs[first].base) {
		if err := l.writeSnapshot(segs[first].base, l.producers.snapshot()); err != nil {
			return err
		}
	}
	l.epochs.truncateFromEnd(segs[first].base)
	end, kept := segs[first].base, first
	for i, s := range segs[first:] {
		if i > 0 && s.base != end {
			break // the segment before lost its end: what follows does not connect
		}
		if i > 0 {
			if err := segs[kept].writeIndexes(true); err != nil {
				return err
			}
			if err := l.writeSnapshot(s.base, l.producers.snapshot()); err != nil {
				return err
			}
		}
		kept = first + i
		next, whole, err := l.recoverSegment(s)
		if err != nil {
			return err
		}
		end = next
		if !whole {
			break
		}
	}
	for _, s := range segs[:kept] {
		s.sealed.Store(true)
		s.durable.Store(true)
	}
	if lost := segs[kept+1:]; len(lost) > 0 {
		l.log.Warn().Str("log", l.tp.String()).Int("segments", len(lost)).Int64("end", end).Msg("recovery drops segments behind a gap")
		if err := l.discard(lost); err != nil {
			return err
		}
	}
	l.publishSegments(slices.Clone(segs[:kept+1]))
	l.setTail(l.active, l.active.size.Load(), end)
	return l.syncRecovered(first)
}

// recoverSegment checks every batch, makes the indexes anew, takes producers and epochs in, and cuts the file where it is
// no longer whole.
func (l *Log) recoverSegment(s *segment) (end int64, whole bool, err error) {
	s.offsets.startEmpty()
	s.times.startEmpty()
	s.txns.replace(nil)
	s.maxTs.loaded, s.maxTs.ts, s.maxTs.offset = true, -1, -1
	h, err := s.acquire()
	if err != nil {
		return 0, false, err
	}
	defer h.release()
	end = s.base
	size := s.size.Load()
	interval := l.cfg.Load().IndexIntervalBytes
	valid, err := scanBatches(h.file, 0, size, func(b protocol.Batch, pos int64) error {
		if reason := whyBroken(b, s.base, end); reason != "" {
			return &CorruptError{File: h.file.Name(), Pos: pos, Reason: reason}
		}
		s.noteAppended(b, pos, interval)
		l.noteBatch(s, b)
		end = b.LastOffset() + 1
		return nil
	})
	var corrupt *CorruptError
	if err != nil && !errors.As(err, &corrupt) {
		return 0, false, err
	}
	if corrupt != nil {
		l.log.Warn().Err(err).Str("log", l.tp.String()).Int64("bytes_lost", size-valid).Int64("end", end).Msg("recovery cuts the log at the first batch that is not whole")
		if err := h.file.Truncate(valid); err != nil {
			return 0, false, err
		}
		s.size.Store(valid)
	}
	s.finishTimes()
	if err := h.file.Sync(); err != nil {
		return 0, false, err
	}
	return end, corrupt == nil, nil
}

// whyBroken says what makes a batch one that this log never wrote whole; "" if nothing.
func whyBroken(b protocol.Batch, base, end int64) string {
	switch {
	case b.BaseOffset() < end || b.LastOffsetDelta() < 0:
		return fmt.Sprintf("offsets %d to %d after %d", b.BaseOffset(), b.LastOffset(), end)
	case b.LastOffset()-base > 1<<31-1:
		return fmt.Sprintf("offset %d is too far from the segment's base %d", b.LastOffset(), base)
	case !b.ValidCRC():
		return "CRC does not match"
	}
	return ""
}

// syncRecovered makes durable what recovery wrote, so that a crash right after does not find less.
func (l *Log) syncRecovered(first int) error {
	for _, s := range (*l.segs.Load())[first:] {
		if err := s.writeIndexes(true); err != nil {
			return err
		}
	}
	l.epochs.dirty = true
	l.dirUnsynced, l.touched = true, true
	return l.syncAll(nil)
}

// rebuildProducers brings the producers to what they are at end: from the latest snapshot that is not above it, and the
// batches from there on.
func (l *Log) rebuildProducers(end int64) error {
	if err := l.replay(l.producers, end, nil); err != nil {
		return err
	}
	l.producers.passWatermark(l.hw.Load())
	l.publishTxns()
	return nil
}

// replay makes ps what the producers were at end. onAbort, if given, is told of every abort marker on the way.
func (l *Log) replay(ps *producers, end int64, onAbort func(*segment, abortedTxn)) error {
	from, err := l.restoreSnapshot(ps, end)
	if err != nil {
		return err
	}
	segs := *l.segs.Load()
	for i := max(floorSegment(segs, from), 0); i < len(segs) && segs[i].base < end && from < end; i++ {
		if err := l.replaySegment(ps, segs[i], from, end, onAbort); err != nil {
			return err
		}
	}
	return nil
}

// rebuildTxns makes the transaction index of a segment anew.
func (l *Log) rebuildTxns(segs []*segment, i int) error {
	s, end := segs[i], l.LogEndOffset()
	if i+1 < len(segs) {
		end = segs[i+1].base
	}
	var entries []abortedTxn
	ps := newProducers()
	// From a snapshot at or below the base; one above it would not see the segment's markers.
	if err := l.replay(ps, s.base, nil); err != nil {
		return err
	}
	err := l.replaySegment(ps, s, s.base, end, func(_ *segment, t abortedTxn) { entries = append(entries, t) })
	if err != nil {
		return err
	}
	s.txns.replace(entries)
	return nil
}

// hasSnapshot says whether there is a good snapshot at off.
func (l *Log) hasSnapshot(off int64) bool {
	name := path.Join(l.path, fileName(off, snapshotSuffix))
	data, err := readFile(l.fs, name, 1<<31)
	return err == nil && newProducers().restore(name, data) == nil
}

// restoreSnapshot loads the latest good snapshot at or below end. Bad ones are removed.
func (l *Log) restoreSnapshot(ps *producers, end int64) (int64, error) {
	infos, err := l.fs.List(l.path)
	if err != nil {
		return 0, err
	}
	for _, in := range slices.Backward(infos) {
		off, suffix, ok := parseFileName(in.Name)
		if !ok || suffix != snapshotSuffix || off > end {
			continue
		}
		name := path.Join(l.path, in.Name)
		data, err := readFile(l.fs, name, 1<<31)
		if err == nil {
			err = ps.restore(name, data)
		}
		if err == nil {
			return off, nil
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			return 0, err
		}
		l.log.Warn().Err(err).Str("log", l.tp.String()).Msg("removing a bad producer snapshot")
		if err := l.fs.Remove(name); err != nil {
			return 0, err
		}
	}
	ps.reset()
	return 0, nil
}

// replaySegment takes the batches of a segment in [from, end) into ps.
func (l *Log) replaySegment(ps *producers, s *segment, from, end int64, onAbort func(*segment, abortedTxn)) error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	pos := int64(0)
	if from > s.base {
		if err := s.load(); err != nil {
			return err
		}
		_, pos, _ = s.offsets.searchOffset(from - s.base)
	}
	return eachHeader(h.file, pos, s.size.Load(), func(b protocol.Batch, pos int64) error {
		if b.ProducerID() < 0 || b.LastOffset() < from || b.BaseOffset() >= end {
			return nil
		}
		if b.IsControl() {
			whole, err := readBatch(h.file, pos, s.size.Load())
			if err != nil {
				return err
			}
			b = whole
		}
		done, ended := ps.apply(b)
		if ended && done.aborted && onAbort != nil {
			onAbort(s, abortedTxn{done.producerID, done.firstOffset, done.lastOffset, ps.stableAfter(done)})
		}
		return nil
	})
}

// readBatch reads the whole batch at pos.
func readBatch(file vfs.File, pos, limit int64) (protocol.Batch, error) {
	size, err := batchSize(file, pos, limit)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	if err := readFull(file, buf, pos); err != nil {
		return nil, err
	}
	return buf, nil
}
