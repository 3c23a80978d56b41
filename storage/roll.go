package storage

import (
	"math/rand/v2"
	"path"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// A roll must not make an append wait for the disk's journal, so it creates and renames nothing: the next segment's file
// exists already, under a provisional name (<n>.next), and roll only swaps pointers. Housekeeping then renames the file to
// its base offset, writes the old segment's indexes and the producer snapshot, and flushes the old segment. A crash in
// between leaves a .next file that holds batches; load gives it the name it should have.

// spare is an empty file that waits to become the next segment.
type spare struct {
	file   vfs.File
	name   string
	padded bool
}

// seal is the work that a roll left to do.
type seal struct {
	old, new *segment
	snapshot []byte // of the producers at new.base
}

// makeSpare makes the file for the next segment, if there is none. It must be called without mu.
func (l *Log) makeSpare() error {
	l.spareMu.Lock()
	defer l.spareMu.Unlock()
	l.mu.Lock()
	have := l.spare != nil || l.closed
	seq := l.spareSeq
	l.spareSeq++
	l.mu.Unlock()
	if have {
		return nil
	}
	name := path.Join(l.path, fileName(seq, nextSuffix))
	f, padded, err := createLogFile(l.fs, name, l.cfg.Load())
	if err != nil {
		return l.dir.failOpen(err)
	}
	// The name is durable before the file takes a batch, and so are those of the segments before it: a crash must not
	// leave records whose predecessors have lost their name.
	if err := l.fs.SyncDir(l.path); err != nil {
		f.Close()
		return l.dir.fail(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		f.Close()
		return nil
	}
	l.spare = &spare{f, name, padded}
	return nil
}

// removeSpare removes the spare file of a log that is closed.
func (l *Log) removeSpare() error {
	l.mu.Lock()
	sp := l.spare
	l.spare = nil
	l.mu.Unlock()
	if sp == nil {
		return nil
	}
	sp.file.Close()
	l.dirUnsynced = true
	return l.fs.Remove(sp.name)
}

// wantsSpare says whether the active segment is full enough for the next file to be made. Under mu.
func (l *Log) wantsSpare(cfg *LogConfig) bool {
	return l.spare == nil && l.tail.size > cfg.SegmentBytes/4*3
}

// roll makes the spare the active segment. Under mu, with a spare.
func (l *Log) roll(now time.Time) {
	old, end := l.active, l.tail.end
	old.finishTimes()

	s := newSegment(l, end)
	s.startEmpty(now)
	s.h = newHandle(l.spare.file)
	s.pendingName, s.padded = l.spare.name, l.spare.padded
	l.spare = nil

	l.out.release()
	s.h.refs.Add(1)
	l.out = s.h

	old.sealed.Store(true)
	old.unsynced = true // at least its indexes are
	segs := append(slices.Clip(slices.Clone(*l.segs.Load())), s)
	l.segs.Store(&segs)
	l.active = s
	l.jitterMs = rollJitter(l.cfg.Load())
	l.setTail(s, 0, end)
	l.seals = append(l.seals, seal{old: old, new: s, snapshot: l.producers.snapshot()})
}

// rollJitter spreads the rolls of segments that were begun at the same time.
func rollJitter(cfg *LogConfig) int64 {
	if limit := min(cfg.SegmentJitterMs, cfg.maxSegmentMs()); limit > 0 {
		return rand.Int64N(limit)
	}
	return 0
}

// forceRoll seals the active segment whatever its state. Under hk.
func (l *Log) forceRoll(now time.Time) error {
	for {
		if err := l.makeSpare(); err != nil {
			return err
		}
		l.mu.Lock()
		err := l.usable()
		if err == nil {
			err = l.prepareActive()
		}
		if err != nil {
			l.mu.Unlock()
			return err
		}
		if l.tail.size == 0 {
			l.mu.Unlock()
			return nil
		}
		if l.spare != nil {
			l.roll(now)
			l.mu.Unlock()
			return l.finishRolls()
		}
		l.mu.Unlock() // an append took the spare: again
	}
}

// finishRolls gives rolled segments their names and writes what seals the old ones. Under hk.
func (l *Log) finishRolls() error {
	l.mu.Lock()
	seals := l.seals
	l.seals = nil
	l.mu.Unlock()
	for _, s := range seals {
		if err := l.finishRoll(s); err != nil {
			return l.dir.fail(err)
		}
	}
	return nil
}

func (l *Log) finishRoll(s seal) error {
	if err := l.fs.Rename(s.new.pendingName, s.new.name(logSuffix)); err != nil {
		return err
	}
	l.dirUnsynced = true
	l.mu.Lock()
	s.new.pendingName = ""
	l.mu.Unlock()
	l.snapshots = append(l.snapshots, pendingSnapshot{s.new.base, s.snapshot})
	if err := s.old.trim(); err != nil {
		return err
	}
	return s.old.writeIndexes(false)
}

// pendingSnapshot is a producer snapshot that is not written yet.
type pendingSnapshot struct {
	offset int64
	data   []byte
}

// writeSnapshots writes the producer snapshots of rolled segments and syncs them. It happens after everything below was
// synced, indexes included, so that a snapshot at a segment's base says just that to recovery. Under hk.
func (l *Log) writeSnapshots() error {
	for _, s := range l.snapshots {
		if err := l.writeSnapshot(s.offset, s.data); err != nil {
			return err
		}
	}
	l.snapshots = nil
	return nil
}

func (l *Log) writeSnapshot(offset int64, data []byte) error {
	f, err := l.fs.Create(path.Join(l.path, fileName(offset, snapshotSuffix)))
	if err != nil {
		return err
	}
	err = writeFull(f, data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	l.dirUnsynced = true
	return err
}

// housekeep does what appends left to do. The background loop calls it after a nudge.
func (l *Log) housekeep() error {
	l.mu.Lock()
	l.queued = false
	rolled := len(l.seals) > 0
	wants := l.ready && !l.closed && l.wantsSpare(l.cfg.Load())
	l.mu.Unlock()
	if wants {
		if err := l.makeSpare(); err != nil {
			return err
		}
	}
	if !rolled {
		return nil
	}
	l.hk.Lock()
	defer l.hk.Unlock()
	return l.flush(false)
}
