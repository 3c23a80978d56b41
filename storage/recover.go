package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

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
	cleaned       int64 // the cleaner's checkpoint
}

// connected is the offset below which all was durable once: a gap between segments there is the cleaner's work, not a loss.
// Either checkpoint vouches for it, should the other be lost.
func (st loadState) connected() int64 { return max(st.recoveryPoint, st.cleaned) }

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
			err = l.recover(segs, 0, st.connected())
		}
	} else {
		err = l.recover(segs, st.recoveryPoint, st.connected())
	}
	if err != nil {
		return err
	}
	return l.finishLoad(st)
}

// finishLoad puts the offsets in order once the segments are known.
func (l *Log) finishLoad(st loadState) error {
	end := l.tail.end
	if end < st.highWatermark {
		l.shortened = true
		l.log.Warn().Str("log", l.tp.String()).Int64("log_end", end).Int64("high_watermark", st.highWatermark).
			Msg("the log lost records that were committed")
	}
	if end < l.start.Load() {
		// The records that the log start stands for are gone.
		if err := l.discardAll(); err != nil {
			return err
		}
		return l.startAt(l.start.Load())
	}
	l.epochs.truncateFromEnd(end)
	l.epochs.truncateFromStart((*l.segs.Load())[0].base)
	l.hw.Store(min(max(st.highWatermark, l.start.Load()), end))
	l.producers.passWatermark(l.hw.Load())
	l.publishTxns()
	l.jitterMs = rollJitter(l.cfg.Load())
	l.lastFlush = l.now()
	return nil
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
	l.recoveryPoint.Store(end)
	if len(segs) == 1 && end == 0 && s.size.Load() == 0 {
		// It may be one that was never used, of which a clean stop syncs nothing: its first flush has to.
		l.dirUnsynced, l.parentUnsynced, l.idUnsynced = true, true, l.ID() != (TopicID{})
	}
	return l.rebuildProducers(end)
}

// recover scans the segments from the recovery point on and keeps the longest prefix of whole batches, in which segments
// above connected follow each other without gaps.
func (l *Log) recover(segs []*segment, recoveryPoint, connected int64) error {
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
	end, kept, anyCut := segs[first].base, first, false
	for i, s := range segs[first:] {
		if i > 0 && s.base != end && (s.base < end || s.base > connected) {
			break // the segment before lost its end: what follows does not connect
		}
		if i > 0 {
			if err := segs[kept].syncRecovered(); err != nil {
				return err
			}
			if err := l.writeSnapshot(s.base, l.producers.snapshot()); err != nil {
				return err
			}
		}
		kept = first + i
		var whole, cut bool
		var err error
		if end, whole, cut, err = l.recoverSegment(s); err != nil {
			return err
		}
		anyCut = anyCut || cut
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
	l.dirUnsynced, l.parentUnsynced, l.idUnsynced, l.touched = true, true, l.ID() != (TopicID{}), true
	l.recoveryPoint.Store(min(recoveryPoint, end))
	if !anyCut && first == len(segs)-1 {
		// The rule: one segment was read and nothing is wrong with it. It is as durable as it was before, so there is nothing
		// to sync, and a start after a kill costs no fsync.
		return nil
	}
	return l.syncRecovered(end)
}

// recoverSegment checks every batch, makes the indexes anew, takes producers and epochs in, and cuts the file where it is
// no longer whole. It is whole where only zeros were cut off: a segment that was preallocated and not filled. (Had a batch
// been lost there, the next segment would not begin where this one ends.)
func (l *Log) recoverSegment(s *segment) (end int64, whole, cut bool, err error) {
	s.offsets.startEmpty()
	s.times.startEmpty()
	s.txns.replace(nil)
	s.maxTs.loaded, s.maxTs.ts, s.maxTs.offset = true, -1, -1
	h, err := s.acquire()
	if err != nil {
		return 0, false, false, err
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
		return 0, false, false, err
	}
	whole, cut = corrupt == nil, corrupt != nil
	if cut {
		if whole, err = isPadding(h.file, valid, size); err != nil {
			return 0, false, false, err
		}
		if !whole {
			l.log.Warn().Err(corrupt).Str("log", l.tp.String()).Int64("bytes_lost", size-valid).Int64("end", end).Msg("recovery cuts the log at the first batch that is not whole")
		}
		if err := h.file.Truncate(valid); err != nil {
			return 0, false, false, err
		}
		s.size.Store(valid)
	}
	s.finishTimes()
	s.unsynced = true
	return end, whole, cut, nil
}

// isPadding says whether there are zeros where the header of a batch would be.
func isPadding(file vfs.File, pos, size int64) (bool, error) {
	var zeros, got [protocol.BatchHeaderLen]byte
	n := min(size-pos, protocol.BatchHeaderLen)
	if err := readFull(file, got[:n], pos); err != nil {
		return false, err
	}
	return got == zeros, nil
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

// syncRecovered makes durable what recovery kept and what it cut off: batches that are appended next must not be followed,
// after another crash, by what was cut off here.
func (l *Log) syncRecovered(end int64) error {
	if err := l.active.syncRecovered(); err != nil {
		return err
	}
	l.epochs.dirty = true
	if err := l.syncAll(nil); err != nil {
		return err
	}
	l.recoveryPoint.Store(end)
	return nil
}

func (s *segment) syncRecovered() error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	if err := h.file.Sync(); err != nil {
		return err
	}
	s.unsynced = false
	return s.writeIndexes(true)
}
