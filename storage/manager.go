package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// Options is what a Manager needs. The zero value of an interval means Kafka's default.
type Options struct {
	FS   vfs.FS   // default: vfs.OS{}
	Dirs []string // log.dirs; at least one
	Log  zerolog.Logger
	Now  func() time.Time // default: time.Now

	ClusterID   string
	NodeID      int32
	BrokerEpoch int64 // goes into the clean-shutdown marker; see Manager.SetBrokerEpoch

	// Defaults configures logs found on disk until SetConfig or CreateLog names theirs. Zero: DefaultLogConfig.
	Defaults LogConfig

	RecoveryThreads            int           // per directory (num.recovery.threads.per.data.dir); default 2
	RetentionCheckInterval     time.Duration // log.retention.check.interval.ms; default 5m
	FlushCheckInterval         time.Duration // how often flush.ms is looked at; default 1s
	RecoveryCheckpointInterval time.Duration // log.flush.offset.checkpoint.interval.ms; default 1m
	StartCheckpointInterval    time.Duration // log.flush.start.offset.checkpoint.interval.ms; default 1m
	HighWatermarkInterval      time.Duration // replica.high.watermark.checkpoint.interval.ms; default 5s
	ProducerIDExpirationMs     int64         // producer.id.expiration.ms; default one day
	ProducerIDExpirationCheck  time.Duration // producer.id.expiration.check.interval.ms; default 10m

	// OnDirFailure is told once for each directory that goes offline, on a goroutine of its own.
	OnDirFailure func(dir string, err error)
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Defaults == (LogConfig{}) {
		o.Defaults = DefaultLogConfig()
	}
	o.RecoveryThreads = cmpOr(o.RecoveryThreads, 2)
	o.RetentionCheckInterval = cmpOr(o.RetentionCheckInterval, 5*time.Minute)
	o.FlushCheckInterval = cmpOr(o.FlushCheckInterval, time.Second)
	o.RecoveryCheckpointInterval = cmpOr(o.RecoveryCheckpointInterval, time.Minute)
	o.StartCheckpointInterval = cmpOr(o.StartCheckpointInterval, time.Minute)
	o.HighWatermarkInterval = cmpOr(o.HighWatermarkInterval, 5*time.Second)
	o.ProducerIDExpirationMs = cmpOr(o.ProducerIDExpirationMs, 24*3600*1000)
	o.ProducerIDExpirationCheck = cmpOr(o.ProducerIDExpirationCheck, 10*time.Minute)
}

// cmpOr returns v, or def if v is not positive.
func cmpOr[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Manager owns the log directories of a broker and every log in them.
type Manager struct {
	opts        Options
	dirs        []*logDir
	cache       *segmentCache
	brokerEpoch atomic.Int64
	background  background

	mu       sync.RWMutex
	logs     map[TopicPartition]*Log
	closed   bool
	deleteID int64 // makes names of deleted directories unique
}

// Open locks the directories, reads or writes meta.properties, loads every log, and recovers those of a directory that
// was not shut down cleanly. It starts no goroutine that outlives it: see Start. A directory that cannot be used is offline
// from the start; if none can be used that is an error.
func Open(opts Options) (*Manager, error) {
	opts.setDefaults()
	m := &Manager{opts: opts, logs: map[TopicPartition]*Log{}}
	m.cache = &segmentCache{maxOpen: defaultOpenSegments, maxBytes: defaultIndexBytes}
	m.brokerEpoch.Store(opts.BrokerEpoch)
	m.background.init(opts.Now())
	if len(opts.Dirs) == 0 {
		return nil, errors.New("storage: no log directory")
	}
	var errs []error
	for _, name := range opts.Dirs {
		d, err := openDir(&opts, name)
		if err == nil {
			err = m.loadDir(d)
		}
		var fatal *fatalError
		if errors.As(err, &fatal) || errors.Is(err, vfs.ErrLocked) {
			m.unlock()
			return nil, err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("log directory %s: %w", name, err))
			if d == nil {
				d = &logDir{fs: opts.FS, path: name, onFail: opts.OnDirFailure, epoch: -1}
				m.dirs = append(m.dirs, d)
			}
			_ = d.fail(err) // collected in errs
		}
	}
	if len(errs) == len(opts.Dirs) {
		m.unlock()
		return nil, errors.Join(errs...)
	}
	return m, nil
}

// fatalError is one that must keep the broker from starting, whatever the other directories hold.
type fatalError struct{ error }

func (e *fatalError) Unwrap() error { return e.error }

func (m *Manager) unlock() {
	for _, d := range m.dirs {
		if d.lock != nil {
			d.lock.Close()
		}
	}
}

// loadDir loads the logs of a directory, several at a time.
func (m *Manager) loadDir(d *logDir) error {
	m.dirs = append(m.dirs, d)
	entries, err := d.fs.List(d.path)
	if err != nil {
		return err
	}
	ckpt := map[string]map[TopicPartition]int64{}
	for _, file := range []string{recoveryPointFile, logStartFile, highWatermarkFile} {
		offsets, err := readOffsets(d.fs, path.Join(d.path, file))
		if err != nil {
			// Without it recovery reads more, or records deleted before are there again; nothing is lost.
			m.opts.Log.Warn().Err(err).Msg("cannot read a checkpoint")
		}
		ckpt[file], d.written[file] = offsets, offsets
	}
	started := m.opts.Now()
	var load []*Log
	for _, e := range entries {
		name := path.Join(d.path, e.Name)
		if e.Dir && hasSuffix(e.Name, deleteDirSuffix) {
			m.background.remove(name, started.Add(time.Duration(m.opts.Defaults.FileDeleteDelayMs)*time.Millisecond))
			continue
		}
		tp, ok := parseLogDir(e.Name)
		if !e.Dir || !ok {
			continue
		}
		if other := m.logs[tp]; other != nil {
			return &fatalError{fmt.Errorf("log %s is in %s and in %s", tp, other.dir.path, d.path)}
		}
		l := m.newLog(d, tp, m.opts.Defaults)
		m.logs[tp] = l
		d.logs++
		load = append(load, l)
	}
	err = parallel(m.opts.RecoveryThreads, load, func(l *Log) error {
		l.readID()
		hw, haveHW := ckpt[highWatermarkFile][l.tp]
		if !haveHW {
			hw = 0
		}
		err := l.load(loadState{
			clean: d.clean, recoveryPoint: ckpt[recoveryPointFile][l.tp],
			logStart: ckpt[logStartFile][l.tp], highWatermark: hw,
		})
		if err != nil {
			return fmt.Errorf("load %s: %w", l.tp, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(load) > 0 {
		m.opts.Log.Info().Str("dir", d.path).Int("logs", len(load)).Bool("clean", d.clean).
			Dur("took", m.opts.Now().Sub(started)).Msg("loaded logs")
	}
	if !d.clean {
		// A log may have become shorter than its recovery point.
		return m.checkpoint(d, recoveryPointFile)
	}
	return nil
}

func hasSuffix(s, suffix string) bool {
	return len(s) > len(suffix) && s[len(s)-len(suffix):] == suffix
}

// parallel calls f for every log on n goroutines and returns the first error.
func parallel(n int, logs []*Log, f func(*Log) error) error {
	var next atomic.Int64
	var once sync.Once
	var first error
	var wg sync.WaitGroup
	for range min(n, len(logs)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(logs) {
					return
				}
				if err := f(logs[i]); err != nil {
					once.Do(func() { first = err })
					next.Store(math.MaxInt32)
				}
			}
		})
	}
	wg.Wait()
	return first
}

func (m *Manager) newLog(d *logDir, tp TopicPartition, cfg LogConfig) *Log {
	l := &Log{
		env: env{
			fs: m.opts.FS, cache: m.cache, log: m.opts.Log, now: m.opts.Now,
			nudge: m.background.nudge, remove: m.background.remove,
			lowerCheckpoints: d.lower,
		},
		tp: tp, dir: d, path: path.Join(d.path, tp.String()), producers: newProducers(),
	}
	l.id.Store(&TopicID{})
	l.cfg.Store(&cfg)
	l.firstUnstable.Store(-1)
	return l
}

// readID reads partition.metadata. A file that is missing or torn leaves the id unknown; CreateLog then sets it.
func (l *Log) readID() {
	name := path.Join(l.path, partitionMetaFile)
	data, err := readFile(l.fs, name, smallFileLimit)
	if err == nil {
		var id TopicID
		if id, err = parsePartitionMeta(name, data); err == nil {
			l.id.Store(&id)
		}
	}
	if err != nil && !errors.Is(err, errNotExist) {
		l.log.Warn().Err(err).Str("log", l.tp.String()).Msg("cannot read the topic id")
	}
}

// SetBrokerEpoch says which epoch the clean-shutdown marker shall carry.
func (m *Manager) SetBrokerEpoch(epoch int64) { m.brokerEpoch.Store(epoch) }

// PreviousBrokerEpoch is the epoch in the clean-shutdown markers found by Open, or -1 if any directory was not shut down
// cleanly.
func (m *Manager) PreviousBrokerEpoch() int64 {
	epoch := int64(-1)
	for i, d := range m.dirs {
		if !d.clean || (i > 0 && d.epoch != epoch) {
			return -1
		}
		epoch = d.epoch
	}
	return epoch
}

// Logs returns all logs, sorted by topic and partition.
func (m *Manager) Logs() []*Log {
	m.mu.RLock()
	logs := make([]*Log, 0, len(m.logs))
	for _, l := range m.logs {
		logs = append(logs, l)
	}
	m.mu.RUnlock()
	slices.SortFunc(logs, func(a, b *Log) int {
		if c := compareStrings(a.tp.Topic, b.tp.Topic); c != 0 {
			return c
		}
		return int(a.tp.Partition) - int(b.tp.Partition)
	})
	return logs
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Log returns the log of a partition, or nil.
func (m *Manager) Log(tp TopicPartition) *Log {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.logs[tp]
}

// CreateLog makes the log of a partition in the directory with the fewest logs, or returns the one that is there and
// gives it cfg. An existing log with another topic id is kerr.InconsistentTopicID.
func (m *Manager) CreateLog(tp TopicPartition, id TopicID, cfg LogConfig) (*Log, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, clientErrorf(kerr.KafkaStorageError, "storage is closed")
	}
	if l := m.logs[tp]; l != nil {
		return l, l.adopt(id, cfg)
	}
	d, err := m.emptiestDir()
	if err != nil {
		return nil, err
	}
	if err := d.forget(tp); err != nil {
		return nil, err
	}
	l := m.newLog(d, tp, cfg)
	if err := l.create(id); err != nil {
		return nil, d.fail(err)
	}
	m.logs[tp] = l
	d.logs++
	return l, nil
}

// create makes the log's directory and its first segment. Nothing is synced: the first flush does that, and until then
// there is nothing to lose.
func (l *Log) create(id TopicID) error {
	if err := l.fs.MkdirAll(l.path); err != nil {
		return err
	}
	l.parentUnsynced = true
	if err := l.writeID(id); err != nil {
		return err
	}
	l.jitterMs = rollJitter(l.cfg.Load())
	return l.startAt(0)
}

func (l *Log) writeID(id TopicID) error {
	if id == (TopicID{}) {
		return nil
	}
	f, err := l.fs.Create(path.Join(l.path, partitionMetaFile))
	if err != nil {
		return err
	}
	if err := writeFull(f, formatPartitionMeta(id), 0); err != nil {
		f.Close()
		return err
	}
	l.id.Store(&id)
	l.dirUnsynced, l.idUnsynced = true, true
	return f.Close()
}

// adopt gives an existing log its configuration and, if that was not known, its topic id.
func (l *Log) adopt(id TopicID, cfg LogConfig) error {
	if err := l.dir.err(); err != nil {
		return err
	}
	switch known := l.ID(); {
	case id == (TopicID{}), known == id:
	case known == (TopicID{}):
		l.hk.Lock()
		err := l.writeID(id)
		l.hk.Unlock()
		if err != nil {
			return l.dir.fail(err)
		}
	default:
		return clientErrorf(kerr.InconsistentTopicID, "log %s has topic id %s, not %s", l.tp, known, id)
	}
	l.SetConfig(cfg)
	return nil
}

// emptiestDir is the usable directory with the fewest logs. Under mu.
func (m *Manager) emptiestDir() (*logDir, error) {
	var best *logDir
	for _, d := range m.dirs {
		if d.err() == nil && (best == nil || d.logs < best.logs) {
			best = d
		}
	}
	if best == nil {
		return nil, m.dirs[0].err()
	}
	return best, nil
}

// DeleteLog takes a log out of service at once and frees its disk space after file.delete.delay.ms. Slices that were
// read before stay good. A log that is not there is no error.
func (m *Manager) DeleteLog(tp TopicPartition) error {
	l, to, err := m.takeOut(tp, deleteDirSuffix)
	if l == nil || err != nil {
		return err
	}
	m.background.remove(to, m.opts.Now().Add(time.Duration(l.Config().FileDeleteDelayMs)*time.Millisecond))
	return nil
}

// takeOut takes a log out of service and gives its directory a name that later starts do not take for a log's. The log
// is nil if there is none, or its directory cannot be renamed because it is offline.
func (m *Manager) takeOut(tp TopicPartition, suffix string) (taken *Log, to string, err error) {
	m.mu.Lock()
	l := m.logs[tp]
	if l != nil {
		delete(m.logs, tp)
		l.dir.logs--
	}
	m.deleteID++
	seq := m.deleteID
	m.mu.Unlock()
	if l == nil {
		return nil, "", nil
	}
	l.removed.Store(true)
	l.shut()
	if l.dir.err() != nil {
		return nil, "", nil //nolint:nilerr // nothing may be changed there; the next start finds a log that nobody knows
	}
	// As Kafka's: topic-partition.uuid-delete, shortened to what a file name may have.
	base := tp.String()
	unique := fmt.Sprintf(".%016x%016x%s", m.opts.Now().UnixNano(), seq, suffix)
	if len(base)+len(unique) > 255 {
		base = base[:255-len(unique)]
	}
	to = path.Join(l.dir.path, base+unique)
	if err := m.opts.FS.Rename(l.path, to); err != nil {
		return nil, "", l.dir.fail(err)
	}
	return l, to, nil
}

// shut makes the log unusable and closes its files.
func (l *Log) shut() {
	l.hk.Lock()
	defer l.hk.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.closeActive()
	if l.spare != nil {
		l.spare.file.Close()
		l.spare = nil
	}
	for _, s := range *l.segs.Load() {
		s.retire()
	}
}

// StrayLog takes a log out of service and renames its directory to
// <topic>-<partition>.<unique>-stray, where it stays: metadata does not know the log, and what to do with the data is an
// operator's decision. Later starts do not load it.
func (m *Manager) StrayLog(tp TopicPartition) error {
	_, _, err := m.takeOut(tp, strayDirSuffix)
	return err
}

// Dirs describes the log directories.
func (m *Manager) Dirs() []DirInfo {
	out := make([]DirInfo, 0, len(m.dirs))
	for _, d := range m.dirs {
		info := DirInfo{Path: d.path, ID: d.id, Err: d.err(), TotalBytes: -1, UsableBytes: -1}
		if info.Err == nil {
			if total, usable, err := d.fs.Usage(d.path); err == nil {
				info.TotalBytes, info.UsableBytes = total, usable
			}
		}
		out = append(out, info)
	}
	return out
}

// Close ends the background loop, flushes every log, and writes checkpoints and the clean-shutdown marker. When ctx ends
// first, what is left is not flushed and the marker is not written: the next start recovers.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.mu.Unlock()
	m.background.stop()
	defer m.unlock()

	logs := m.Logs()
	err := parallel(2, logs, func(l *Log) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.dir.err() != nil {
			return nil //nolint:nilerr // told below, once for the directory
		}
		return l.close()
	})
	for _, d := range m.dirs {
		if d.err() != nil {
			err = errors.Join(err, d.err())
		} else if err == nil {
			err = m.markClean(d)
		}
	}
	for _, l := range logs {
		l.shut()
	}
	return err
}

func (m *Manager) markClean(d *logDir) error {
	for _, file := range []string{recoveryPointFile, logStartFile, highWatermarkFile} {
		if err := m.checkpoint(d, file); err != nil {
			return err
		}
	}
	return writeFileAtomic(d.fs, path.Join(d.path, cleanShutdownFile), formatCleanShutdown(m.brokerEpoch.Load()))
}

// close flushes a log and leaves on disk all that a clean start needs. Appends fail from here on.
func (l *Log) close() error {
	l.hk.Lock()
	defer l.hk.Unlock()
	l.mu.Lock()
	l.closed = true
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
	if touched { // else the files are as they should be
		if err := l.active.writeIndexes(true); err != nil {
			return l.dir.fail(err)
		}
		l.snapshots = append(l.snapshots, pendingSnapshot{end, snapshot})
	}
	return l.flush(true)
}
