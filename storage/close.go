package storage

import (
	"context"
	"errors"
	"path"
	"sync"
)

// flushesAtOnce is how many logs of one directory Close flushes side by side. Who flushes waits for the disk and not for a
// processor, and a file system makes durable at once what waits for it together: with two at a time a disk that takes
// 20 ms for an fsync takes a minute for a few hundred logs.
const flushesAtOnce = 32

// Close ends the background loop, flushes every log, and writes checkpoints and the clean-shutdown marker. When ctx ends
// first, what is left is not flushed and the marker is not written: the next start recovers. A log that is just being
// made or deleted is waited for beyond that, on a disk that hangs for as long as it does.
func (m *Manager) Close(ctx context.Context) error {
	if !m.refuseLogs() {
		return nil
	}
	m.cleaner.stop()
	m.background.stop()
	defer m.unlock()

	logs := m.Logs()
	err := closeLogs(ctx, logs)
	unfinished := err != nil
	epoch := m.brokerEpoch.Load()
	var ids []string
	for _, d := range m.dirs {
		if d.err() != nil {
			// What was in it may be gone for good, and it need not be among the
			// directories next time: the others prove nothing of the whole.
			epoch = -1
		}
		ids = append(ids, d.id.String())
	}
	for _, d := range m.dirs {
		if d.err() != nil {
			err = errors.Join(err, d.err())
		} else if !unfinished {
			err = errors.Join(err, m.markClean(d, epoch, ids))
		}
	}
	for _, l := range logs {
		l.shut()
	}
	return err
}

// refuseLogs has no log be made or deleted any more. It waits for those that are, and tells whether it was the first to ask.
func (m *Manager) refuseLogs() (first bool) {
	m.mu.Lock()
	first = !m.closed
	m.closed = true
	m.mu.Unlock()
	for _, d := range m.dirs {
		d.changeMu.Lock()
		d.changeMu.Unlock() //nolint:staticcheck // who has it since before m.closed was set is done
	}
	return first
}

// closeLogs closes the logs, of all directories side by side: a slow one holds up its own only.
func closeLogs(ctx context.Context, logs []*Log) error {
	in := map[*logDir][]*Log{}
	for _, l := range logs {
		in[l.dir] = append(in[l.dir], l)
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for dir, logs := range in {
		if dir.err() != nil {
			continue // the caller tells
		}
		wg.Go(func() {
			err := parallel(flushesAtOnce, logs, func(l *Log) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return l.close()
			})
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (m *Manager) markClean(d *logDir, epoch int64, ids []string) error {
	for _, file := range []string{recoveryPointFile, logStartFile, highWatermarkFile} {
		if err := m.checkpoint(d, file); err != nil {
			return err
		}
	}
	return writeFileAtomic(d.fs, path.Join(d.path, cleanShutdownFile), formatCleanShutdown(epoch, ids))
}

// neverUsed says that the log was made since the start and that nothing of it is durable or has to be: it holds no
// record. Thousands of these must not hold up the end. Under hk and mu.
func (l *Log) neverUsed() bool {
	return !l.touched && !l.active.padded && l.parentUnsynced && l.tail.end == 0 && l.tail.size == 0 && len(*l.segs.Load()) == 1 && l.spare == nil
}

// close flushes a log and leaves on disk all that a clean start needs. Appends fail from here on.
func (l *Log) close() error {
	l.hk.Lock()
	defer l.hk.Unlock()
	l.mu.Lock()
	l.closed = true
	if l.neverUsed() {
		l.mu.Unlock()
		return l.dir.err()
	}
	touched, end := l.touched, l.tail.end
	var snapshot []byte
	if touched {
		if err := l.loadForAppend(l.active); err != nil {
			l.mu.Unlock()
			return l.dir.fail(err)
		}
		l.active.finishTimes()
		snapshot = l.producers.snapshot()
	}
	l.mu.Unlock()
	if err := l.finishRolls(); err != nil {
		return err
	}
	if err := l.removeSpare(); err != nil {
		return l.dir.fail(err)
	}
	if err := l.trimActive(); err != nil {
		return l.dir.fail(err)
	}
	if touched { // else the files are as they should be
		if err := l.active.writeIndexes(true); err != nil {
			return l.dir.fail(err)
		}
		l.snapshots = append(l.snapshots, pendingSnapshot{end, snapshot})
	}
	return l.flush(true)
}

// trimActive cuts the active segment's file to what was appended, durably: a clean start takes its length for that. Under
// hk, of a log that is closed.
func (l *Log) trimActive() error {
	if !l.active.padded {
		return nil
	}
	if err := l.active.trim(); err != nil {
		return err
	}
	return syncPath(l.fs, l.active.name(logSuffix))
}
