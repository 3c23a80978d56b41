package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// CleanerConfig holds the log.cleaner.* keys of a broker. A zero value means Kafka's default.
type CleanerConfig struct {
	Disabled          bool          // log.cleaner.enable=false
	Threads           int           // log.cleaner.threads; -1: none
	DedupeBufferBytes int64         // log.cleaner.dedupe.buffer.size, of all threads together
	LoadFactor        float64       // log.cleaner.io.buffer.load.factor
	IOBufferBytes     int64         // log.cleaner.io.buffer.size, of all threads together
	MaxBytesPerSecond float64       // log.cleaner.io.max.bytes.per.second, of all threads together, read and written
	Backoff           time.Duration // log.cleaner.backoff.ms
}

func (c CleanerConfig) withDefaults() CleanerConfig {
	switch {
	case c.Threads == 0:
		c.Threads = 1
	case c.Threads < 0:
		c.Threads = 0
	}
	c.DedupeBufferBytes = cmpOr(c.DedupeBufferBytes, 128<<20)
	c.IOBufferBytes = cmpOr(c.IOBufferBytes, 512<<10)
	c.Backoff = cmpOr(c.Backoff, 15*time.Second)
	if c.LoadFactor <= 0 {
		c.LoadFactor = 0.9
	}
	if c.MaxBytesPerSecond <= 0 {
		c.MaxBytesPerSecond = math.MaxFloat64
	}
	return c
}

// CleanerStats describes the cleaner's work since the Manager was opened.
type CleanerStats struct {
	MaxDirtyPercent int       // dirty share of the dirtiest log, when one was last looked for
	LastRun         time.Time // when that was; zero: never
	Cleanings       int64     // logs cleaned
	BytesRead       int64
	BytesWritten    int64
	RecordsRead     int64
	RecordsRetained int64
	KeylessRecords  int64 // dropped because they had no key
	// MaxBufferUtilization is how full the map of keys became, in percent, in the last clean.
	MaxBufferUtilization int
	// LastCleanTime is how long the last clean took.
	LastCleanTime time.Duration
	// Uncleanable logs by directory: those whose last clean failed.
	Uncleanable map[string]UncleanableLogs
}

// UncleanableLogs counts the logs of a directory whose last clean failed.
type UncleanableLogs struct {
	Logs  int
	Bytes int64
}

// cleaner cleans the compacted logs of a Manager. It has log.cleaner.threads goroutines between start and stop, each of
// which takes the dirtiest log, cleans it, and waits for log.cleaner.backoff.ms when there is none. Manager.Clean does the
// same on the caller's goroutine.
type cleaner struct {
	m        *Manager
	throttle throttle

	mu          sync.Mutex
	cfg         CleanerConfig
	running     bool
	cancel      context.CancelFunc // ends the threads
	threads     sync.WaitGroup
	busy        map[TopicPartition]bool
	uncleanable map[*Log]uncleanable
	stats       CleanerStats

	resizing sync.Mutex // keeps two changes of the threads apart; before mu
}

// uncleanable is a log whose clean failed.
type uncleanable struct {
	retry time.Time // zero: not while the process lives
	bytes int64
}

// retryNoSpace is when a log is tried again whose clean found no space on the volume.
const retryNoSpace = 10 * time.Minute

func newCleaner(m *Manager, cfg CleanerConfig) *cleaner {
	c := &cleaner{m: m, cfg: cfg.withDefaults(), busy: map[TopicPartition]bool{}, uncleanable: map[*Log]uncleanable{}}
	c.throttle.rate = c.cfg.MaxBytesPerSecond
	return c
}

// SetCleaner changes the cleaner's configuration. Cleans under way are broken off, without harm, and begun again. It does
// not wait for that.
func (m *Manager) SetCleaner(cfg CleanerConfig) {
	c := m.cleaner
	c.resizing.Lock()
	defer c.resizing.Unlock()
	c.mu.Lock()
	old, running := c.cfg, c.running
	c.cfg = cfg.withDefaults()
	same := c.cfg == old
	c.mu.Unlock()
	if same {
		return
	}
	c.throttle.setRate(cfg.withDefaults().MaxBytesPerSecond)
	if running {
		c.cancelThreads()
		c.launch()
	}
}

// CleanerStats returns what the cleaner did so far.
func (m *Manager) CleanerStats() CleanerStats {
	c := m.cleaner
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Uncleanable = map[string]UncleanableLogs{}
	for _, d := range m.dirs {
		s.Uncleanable[d.path] = UncleanableLogs{}
	}
	for l, u := range c.uncleanable {
		if l.removed.Load() {
			delete(c.uncleanable, l)
			continue
		}
		n := s.Uncleanable[l.dir.path]
		s.Uncleanable[l.dir.path] = UncleanableLogs{n.Logs + 1, n.Bytes + u.bytes}
	}
	return s
}

// Clean cleans logs, the dirtiest first, until none is due at now, and returns how many. The cleaner's threads do the same.
func (m *Manager) Clean(now time.Time) int {
	return m.cleaner.round(context.Background(), func() time.Time { return now })
}

// start launches the threads. Clean works without.
func (c *cleaner) start() {
	c.resizing.Lock()
	defer c.resizing.Unlock()
	c.mu.Lock()
	running := c.running
	c.running = true
	c.mu.Unlock()
	if !running {
		c.launch()
	}
}

func (c *cleaner) stop() {
	c.resizing.Lock()
	defer c.resizing.Unlock()
	c.mu.Lock()
	running := c.running
	c.running = false
	c.mu.Unlock()
	if running {
		c.cancelThreads()
		c.threads.Wait()
	}
}

func (c *cleaner) launch() {
	ctx, cancel := context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
	if c.cfg.Disabled {
		return
	}
	backoff := c.cfg.Backoff
	for range c.cfg.Threads {
		c.threads.Go(func() { c.loop(ctx, backoff) })
	}
}

func (c *cleaner) cancelThreads() {
	c.mu.Lock()
	cancel := c.cancel
	c.mu.Unlock()
	cancel()
}

func (c *cleaner) loop(ctx context.Context, backoff time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		c.round(ctx, c.m.opts.Now)
		timer.Reset(backoff)
	}
}

// round cleans until no log is due, and returns how many it cleaned. A log whose clean fails gets no second one.
func (c *cleaner) round(ctx context.Context, clock func() time.Time) (cleaned int) {
	failed := map[*Log]bool{}
	for ctx.Err() == nil {
		now := clock()
		job, ok := c.take(now, failed)
		if !ok {
			break
		}
		if c.clean(ctx, job, now) {
			cleaned++
		} else {
			failed[job.log] = true
		}
	}
	return cleaned
}

// clean does a job that take gave.
func (c *cleaner) clean(ctx context.Context, job cleanJob, now time.Time) bool {
	l := job.log
	cfg := l.Config()
	c.mu.Lock()
	threads := int64(max(c.cfg.Threads, 1))
	env := compactEnv{
		ctx: ctx, dedupeSize: c.cfg.DedupeBufferBytes / threads, loadFactor: c.cfg.LoadFactor,
		ioBuffer: max(c.cfg.IOBufferBytes/threads/2, 1024), throttle: c.throttle.wait,
		checkpointRecovery: func() error { return c.m.checkpoint(l.dir, recoveryPointFile) },
	}
	c.mu.Unlock()
	work := compaction{l: l, job: job, now: now, cfg: &cfg, env: env}
	began := time.Now()
	err := work.run()
	if err == nil {
		err = c.done(job, work.result.end)
	}
	c.release(l, &work, err, now, time.Since(began))
	return err == nil
}

// take picks the dirtiest log that is not in skip and reserves it.
func (c *cleaner) take(now time.Time, skip map[*Log]bool) (best cleanJob, ok bool) {
	logs := c.m.all()
	c.mu.Lock()
	defer c.mu.Unlock()
	dirtiest := 0.0
	for _, l := range logs {
		if !l.cfg.Load().Compact || c.busy[l.tp] || skip[l] || l.dir.err() != nil || l.removed.Load() || l.moving.Load() {
			continue
		}
		if u, bad := c.uncleanable[l]; bad && (u.retry.IsZero() || now.Before(u.retry)) {
			continue
		}
		job, err := l.cleanable(now)
		if err != nil {
			c.fail(l, 0, err, now)
			continue
		}
		dirtiest = max(dirtiest, job.ratio())
		if job.due() && (!ok || job.ratio() > best.ratio()) {
			best, ok = job, true
		}
	}
	c.stats.LastRun, c.stats.MaxDirtyPercent = now, int(100*dirtiest)
	if ok {
		c.busy[best.log.tp] = true
	}
	return best, ok
}

// done notes that everything below end is clean.
func (c *cleaner) done(job cleanJob, end int64) error {
	l := job.log
	return l.dir.writeCheckpoint(cleanerFile, func() map[TopicPartition]int64 {
		if l.cuts == job.cuts { // else it was truncated since, perhaps to below end
			l.cleaned.Store(end)
		}
		return c.m.offsetsOf(l.dir, cleanerFile)
	})
}

// release takes in the result of a clean.
func (c *cleaner) release(l *Log, work *compaction, err error, now time.Time, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, l.tp)
	r, s := &work.result, &c.stats
	s.BytesRead += r.bytesRead
	s.BytesWritten += r.bytesKept
	if err != nil {
		c.fail(l, work.job.dirtyBytes, err, now)
		return
	}
	delete(c.uncleanable, l)
	s.Cleanings++
	s.RecordsRead += r.recordsRead
	s.RecordsRetained += r.kept
	s.KeylessRecords += r.keyless
	s.MaxBufferUtilization, s.LastCleanTime = int(100*r.mapUtilization), took
	e := c.m.opts.Log.Debug() //nolint:zerologlint // sent below, at one level or the other
	if r.keyless > 0 {
		e = c.m.opts.Log.Warn().Int64("without_key", r.keyless) //nolint:zerologlint // sent below
	}
	e.Str("log", l.tp.String()).Int64("from", work.job.from).Int64("up_to", r.end).Int64("bytes_read", r.bytesRead).
		Int64("bytes_kept", r.bytesKept).Int64("records_read", r.recordsRead).Int64("records_kept", r.kept).
		Int("segments_before", r.segmentsIn).Int("segments_after", r.segmentsUp).Dur("took", took).Msg("cleaned a log")
}

// fail judges an error of a clean. A failing disk takes the directory offline like everywhere; what is wrong with the log
// itself makes it uncleanable, and the others are cleaned. Under mu.
func (c *cleaner) fail(l *Log, bytes int64, err error, now time.Time) {
	var corrupt *CorruptError
	var storage *storageError
	u := uncleanable{bytes: bytes}
	switch {
	case l.removed.Load(), errors.Is(err, errSuperseded), errors.Is(err, errGone), errors.Is(err, context.Canceled):
		return // no harm done
	case errors.As(err, &storage):
		return // told when it went offline
	case vfs.NoSpace(err), vfs.TooManyOpen(err):
		u.retry = now.Add(retryNoSpace)
	case errors.As(err, &corrupt), errors.Is(err, errMapTooSmall), errors.Is(err, errSegmentTooLarge):
	default:
		_ = l.dir.fail(fmt.Errorf("clean %s: %w", l.tp, err))
		return
	}
	c.uncleanable[l] = u
	c.m.opts.Log.Error().Err(err).Str("log", l.tp.String()).Msg("cannot clean a log; it stays as it is")
}

// throttle bounds how many bytes a second the cleaner reads and writes on average.
type throttle struct {
	mu   sync.Mutex
	rate float64
	// Bytes since begin.
	begin time.Time
	bytes float64
}

func (t *throttle) setRate(rate float64) {
	t.mu.Lock()
	t.rate, t.begin, t.bytes = rate, time.Time{}, 0
	t.mu.Unlock()
}

// throttleWindow is over how long the average is taken.
const throttleWindow = time.Second

// wait counts n bytes and returns when they may be read or written, or when ctx ends.
func (t *throttle) wait(ctx context.Context, n int) error {
	d := t.count(time.Now(), n)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// count counts n bytes at now and returns how long to wait.
func (t *throttle) count(now time.Time, n int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate >= math.MaxInt64 {
		return 0
	}
	if passed := now.Sub(t.begin); passed > throttleWindow && t.bytes <= t.rate*passed.Seconds() {
		t.begin, t.bytes = now, 0 // what was not used is not saved up
	}
	t.bytes += float64(n)
	due := time.Duration(t.bytes / t.rate * float64(time.Second))
	return due - now.Sub(t.begin)
}
