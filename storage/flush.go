package storage

import (
	"path"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Flush makes everything appended so far durable (fsync).
func (l *Log) Flush() error { return l.flushTo(l.LogEndOffset()) }

// flushTo makes everything below end durable. Those who come while a flush is under way wait for it, and the first of them
// then flushes for all.
func (l *Log) flushTo(end int64) error {
	l.hk.Lock()
	defer l.hk.Unlock()
	if end <= l.recoveryPoint.Load() && !l.parentUnsynced {
		return l.dir.err()
	}
	for {
		if l.removed.Load() { // nothing of it is flushed any more, and whoever deletes it waits for hk
			return clientErrorf(kerr.NotLeaderForPartition, "log %s was deleted", l.tp)
		}
		err := l.flush(true)
		if err != nil || l.recoveryPoint.Load() >= min(end, l.LogEndOffset()) {
			return err
		}
		// A roll came between: once more.
	}
}

// flush syncs the sealed segments and, if asked, the active one, then moves the recovery point. The order matters: what
// recovery needs to know of records below the recovery point is durable before it moves. Under hk.
func (l *Log) flush(active bool) error {
	if err := l.dir.err(); err != nil {
		return err
	}
	if l.removed.Load() {
		return nil // deleted since the caller took hold of it
	}
	if err := l.finishRolls(); err != nil {
		return err
	}
	l.mu.Lock()
	end := l.tail.end
	if !active {
		end = l.active.base
	}
	var dirty []*segment
	for _, s := range *l.segs.Load() {
		if s.unsynced && s.base < end {
			dirty = append(dirty, s)
			s.unsynced = false
		}
	}
	// An append may have rolled since finishRolls: then the sealed segment's indexes are not written and its successor has
	// no name. What is below the active segment's predecessor is enough for now.
	if len(l.seals) > 0 {
		end = min(end, l.seals[0].new.base)
	}
	l.mu.Unlock()
	if err := l.syncAll(dirty); err != nil {
		l.mu.Lock()
		for _, s := range dirty {
			s.unsynced = true // the next flush tries again, if the directory lives
		}
		l.mu.Unlock()
		return l.dir.failOpen(err)
	}
	if end > l.recoveryPoint.Load() {
		l.recoveryPoint.Store(end)
	}
	l.lastFlush = l.now()
	return nil
}

func (l *Log) syncAll(dirty []*segment) error {
	if err := l.writeEpochs(); err != nil {
		return err
	}
	for _, s := range dirty {
		if err := l.syncSegment(s); err != nil {
			return err
		}
	}
	if l.idUnsynced {
		if err := syncPath(l.fs, path.Join(l.path, partitionMetaFile)); err != nil {
			return err
		}
		l.idUnsynced = false
	}
	if err := l.writeSnapshots(); err != nil {
		return err
	}
	if l.dirUnsynced {
		if err := l.fs.SyncDir(l.path); err != nil {
			return err
		}
		l.dirUnsynced = false
	}
	if l.parentUnsynced {
		if err := l.fs.SyncDir(path.Dir(l.path)); err != nil {
			return err
		}
		l.parentUnsynced = false
	}
	return nil
}

func (l *Log) syncSegment(s *segment) error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	if err := h.file.Sync(); err != nil {
		return err
	}
	if !s.sealed.Load() {
		return nil
	}
	l.dirUnsynced = true // index files may be new
	if err := s.writeIndexes(true); err != nil {
		return err
	}
	s.durable.Store(true)
	s.touch()
	return nil
}

// writeEpochs brings the leader-epoch file up to date. What an error means for the directory is the caller's to say.
// Under hk.
func (l *Log) writeEpochs() error {
	if l.removed.Load() {
		return nil // its directory has another name
	}
	l.epochMu.Lock()
	dirty := l.epochs.dirty
	l.epochs.dirty = false
	entries := append([]EpochStart(nil), l.epochs.entries...)
	l.epochMu.Unlock()
	if !dirty {
		return nil
	}
	if err := writeFileAtomic(l.fs, path.Join(l.path, epochFile), formatEpochs(entries)); err != nil {
		l.epochMu.Lock()
		l.epochs.dirty = true
		l.epochMu.Unlock()
		return err
	}
	return nil
}
