package storage

import (
	"container/heap"
	"maps"
	"slices"
	"sync"
	"time"
)

// background is the work that no append waits for. Its state is guarded by mu; the loop, which Start starts and Close
// ends, is one goroutine; the cleaner has its own. All it does is call Tick at intervals and housekeep when nudged, so
// that tests can do the same without it.
type background struct {
	mu       sync.Mutex
	work     []*Log // nudged
	busy     bool   // the loop is at work on what it took
	idle     *sync.Cond
	removals removalHeap
	wake     chan struct{}
	quit     chan struct{}
	done     chan struct{}

	// When each job was done last. Guarded by tickMu, which also keeps two Ticks apart.
	tickMu sync.Mutex
	last   struct{ retention, flush, recovery, start, watermark, producers time.Time }
}

func (b *background) init(now time.Time) {
	b.idle = sync.NewCond(&b.mu)
	b.wake = make(chan struct{}, 1)
	b.last.retention, b.last.flush, b.last.recovery = now, now, now
	b.last.start, b.last.watermark, b.last.producers = now, now, now
}

// nudge asks for Log.housekeep.
func (b *background) nudge(l *Log) {
	b.mu.Lock()
	b.work = append(b.work, l)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// runNudged does the work asked for. Errors have taken a directory offline already.
func (b *background) runNudged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.work) > 0 {
		work := b.work
		b.work, b.busy = nil, true
		b.mu.Unlock()
		for _, l := range work {
			_ = l.housekeep() // an error has taken the directory offline
		}
		b.mu.Lock()
		b.busy = false
	}
	b.idle.Broadcast()
}

func (b *background) stop() {
	b.mu.Lock()
	quit, done := b.quit, b.done
	b.quit = nil
	b.mu.Unlock()
	if quit != nil {
		close(quit)
		<-done
	}
}

// Start starts the background loop, which calls Tick, and the cleaner's threads. Close ends them.
func (m *Manager) Start() {
	b := &m.background
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.quit != nil {
		return
	}
	b.quit, b.done = make(chan struct{}), make(chan struct{})
	go m.loop(b.quit, b.done)
	m.cleaner.start()
}

func (m *Manager) loop(quit, done chan struct{}) {
	defer close(done)
	ticker := time.NewTicker(min(m.opts.FlushCheckInterval, m.opts.HighWatermarkInterval, m.opts.RetentionCheckInterval))
	defer ticker.Stop()
	for {
		select {
		case <-quit:
			return
		case <-m.background.wake:
			m.background.runNudged()
		case <-ticker.C:
			m.Tick(m.opts.Now())
		}
	}
}

// AwaitIdle returns when all background work handed over by appends so far (sealing of rolled segments) is done. Without
// the loop it does that work itself.
func (m *Manager) AwaitIdle() {
	b := &m.background
	b.mu.Lock()
	running := b.quit != nil
	for running && (len(b.work) > 0 || b.busy) {
		b.idle.Wait()
	}
	b.mu.Unlock()
	if !running {
		b.runNudged()
	}
}

// Tick does all background work that is due at now: retention, flush by time, checkpoints, removal of deleted files,
// expiry of producer ids. The background loop calls it; tests call it with the time they want it to be.
func (m *Manager) Tick(now time.Time) {
	b := &m.background
	b.runNudged()
	b.tickMu.Lock()
	defer b.tickMu.Unlock()
	if due(&b.last.flush, now, m.opts.FlushCheckInterval) {
		m.flushByTime(now)
	}
	if due(&b.last.retention, now, m.opts.RetentionCheckInterval) {
		for _, l := range m.all() {
			_, _ = l.applyRetention(now) // an error has taken the directory offline
		}
	}
	if due(&b.last.producers, now, m.opts.ProducerIDExpirationCheck) {
		for _, l := range m.all() {
			l.expireProducers(now, m.opts.ProducerIDExpirationMs)
		}
	}
	if due(&b.last.recovery, now, m.opts.RecoveryCheckpointInterval) {
		m.writeAllEpochs()
		m.checkpointAll(recoveryPointFile)
	}
	if due(&b.last.start, now, m.opts.StartCheckpointInterval) {
		m.checkpointAll(logStartFile)
	}
	if due(&b.last.watermark, now, m.opts.HighWatermarkInterval) {
		m.checkpointAll(highWatermarkFile)
	}
	b.removeDue(m, now)
}

func due(last *time.Time, now time.Time, interval time.Duration) bool {
	if now.Sub(*last) < interval {
		return false
	}
	*last = now
	return true
}

func (m *Manager) flushByTime(now time.Time) {
	for _, l := range m.all() {
		ms := l.cfg.Load().FlushMs
		if ms > int64(1<<62)/int64(time.Millisecond) || l.LogEndOffset() <= l.recoveryPoint.Load() {
			continue
		}
		l.hk.Lock()
		if now.Sub(l.lastFlush) >= time.Duration(ms)*time.Millisecond {
			_ = l.flush(true) // an error has taken the directory offline
			l.lastFlush = now
		}
		l.hk.Unlock()
	}
}

func (m *Manager) writeAllEpochs() {
	for _, l := range m.all() {
		l.hk.Lock()
		if err := l.writeEpochs(); err != nil {
			_ = l.dir.failOpen(err)
		}
		l.hk.Unlock()
	}
}

func (m *Manager) checkpointAll(file string) {
	for _, d := range m.dirs {
		_ = m.checkpoint(d, file) // an error has taken the directory offline
	}
}

// checkpoint writes one checkpoint file of a directory.
func (m *Manager) checkpoint(d *logDir, file string) error {
	return d.writeCheckpoint(file, func() map[TopicPartition]int64 { return m.offsetsOf(d, file) })
}

// offsetsOf gathers what a checkpoint file of a directory says. Under the directory's ckptMu: who looked at the logs before
// would leave out one that came since.
func (m *Manager) offsetsOf(d *logDir, file string) map[TopicPartition]int64 {
	offsets := map[TopicPartition]int64{}
	for _, l := range slices.AppendSeq(m.all(), maps.Values(d.incoming)) {
		// A log removed since must not be written: a new one of its name may be there by now.
		if l.dir != d || l.removed.Load() {
			continue
		}
		switch file {
		case recoveryPointFile:
			offsets[l.tp] = l.recoveryPoint.Load()
		case cleanerFile:
			if off := l.cleaned.Load(); off >= 0 {
				offsets[l.tp] = off
			}
		case highWatermarkFile:
			offsets[l.tp] = l.hw.Load()
		case logStartFile:
			// Where the first segment begins there is nothing to remember.
			if start := l.start.Load(); start > (*l.segs.Load())[0].base {
				offsets[l.tp] = start
			}
		}
	}
	return offsets
}

// removal is a file or directory that has to go at a time.
type removal struct {
	name string
	at   time.Time
}

type removalHeap []removal

func (h removalHeap) Len() int           { return len(h) }
func (h removalHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h removalHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *removalHeap) Push(x any)        { *h = append(*h, x.(removal)) }
func (h *removalHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func (b *background) remove(name string, at time.Time) {
	b.mu.Lock()
	heap.Push(&b.removals, removal{name, at})
	b.mu.Unlock()
}

// removeDue removes what has waited long enough. A file that cannot be removed costs space, not data: it is logged, and
// the next start removes it.
func (b *background) removeDue(m *Manager, now time.Time) {
	for {
		b.mu.Lock()
		if len(b.removals) == 0 || b.removals[0].at.After(now) {
			b.mu.Unlock()
			return
		}
		r := heap.Pop(&b.removals).(removal)
		b.mu.Unlock()
		if err := m.opts.FS.RemoveAll(r.name); err != nil {
			m.opts.Log.Warn().Err(err).Msg("cannot remove a deleted file")
		}
	}
}
