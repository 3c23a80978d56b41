package storage

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// Manager owns the log directories of a broker and every log in them.
type Manager struct {
	opts        Options
	dirs        []*logDir
	cache       *segmentCache
	inflater    *inflater
	brokerEpoch atomic.Int64
	background  background
	cleaner     *cleaner
	movePace    movePace
	// shortened: a log that Open loaded ends below the high watermark that was checkpointed.
	shortened atomic.Bool

	mu   sync.RWMutex
	logs map[TopicPartition]*Log
	// changing are the logs that are just being made or taken out of service. A directory of their name may exist, so that
	// no other of that name is made meanwhile, in whichever log directory.
	changing map[TopicPartition]bool
	closed   bool
	deleteID int64 // makes names of directories unique
	moves    map[TopicPartition]*Move
	// preferred are the directories for logs that are not there yet; see Prefer.
	preferred map[TopicPartition]string
	// leftovers are directories of copies that the process before did not complete.
	leftovers map[TopicPartition][]string
}

// Open locks the directories, reads or writes meta.properties, loads every log, and recovers those of a directory that
// was not shut down cleanly. It starts no goroutine that outlives it: see Start. A directory that cannot be used is offline
// from the start; if none can be used that is an error.
func Open(opts Options) (*Manager, error) {
	opts.setDefaults()
	m := &Manager{
		opts: opts, logs: map[TopicPartition]*Log{}, changing: map[TopicPartition]bool{}, inflater: newInflater(),
		moves: map[TopicPartition]*Move{}, preferred: map[TopicPartition]string{}, leftovers: map[TopicPartition][]string{},
	}
	m.movePace.init()
	m.cache = &segmentCache{maxOpen: defaultOpenSegments, maxBytes: defaultIndexBytes}
	m.brokerEpoch.Store(opts.BrokerEpoch)
	m.background.init(opts.Now())
	m.cleaner = newCleaner(m, opts.Cleaner)
	if len(opts.Dirs) == 0 {
		return nil, errors.New("storage: no log directory")
	}
	if err := m.openDirs(); err != nil {
		m.unlock()
		return nil, err
	}
	m.noteMissing()
	if opts.BrokerEpoch == 0 {
		// A stop before this process is granted an epoch proves what the stop before it proved.
		m.brokerEpoch.Store(max(m.PreviousBrokerEpoch(), 0))
	}
	return m, nil
}

// openDirs opens the directories and loads their logs. An error of a directory takes that one offline; what is returned
// must keep the broker from starting.
func (m *Manager) openDirs() error {
	for _, name := range m.opts.Dirs {
		d, err := openDir(&m.opts, name)
		var fatal *fatalError
		if errors.As(err, &fatal) || errors.Is(err, vfs.ErrLocked) {
			return err
		}
		if err != nil {
			d = &logDir{fs: m.opts.FS, path: name, onFail: m.opts.OnDirFailure, epoch: -1}
			_ = d.fail(err) // told below
		}
		m.dirs = append(m.dirs, d)
	}
	entries := map[*logDir][]vfs.Info{}
	for _, d := range m.dirs {
		if d.err() != nil {
			continue
		}
		var err error
		if entries[d], err = d.fs.List(d.path); err != nil {
			_ = d.fail(err) // told below
		}
	}
	var fatal *fatalError
	if err := m.settleMoves(entries); errors.As(err, &fatal) {
		return err
	}
	var errs []error
	for _, d := range m.dirs {
		if d.err() == nil {
			if err := m.loadDir(d, entries[d]); err != nil {
				_ = d.fail(err) // told below
			}
		}
		if err := d.err(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == len(m.dirs) {
		return errors.Join(errs...)
	}
	return nil
}

// noteMissing looks for logs that were there when the broker stopped and are not any more, which have become as short as a
// log can be. One that was moved to another directory is there.
func (m *Manager) noteMissing() {
	for _, d := range m.dirs {
		for tp, hw := range d.written[highWatermarkFile] {
			if hw > 0 && m.logs[tp] == nil {
				m.opts.Log.Warn().Str("dir", d.path).Stringer("log", tp).Int64("high_watermark", hw).Msg("a log is missing")
				m.shortened.Store(true)
			}
		}
	}
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

// loadDir loads the logs that were found in a directory, several at a time.
func (m *Manager) loadDir(d *logDir, entries []vfs.Info) error {
	ckpt := map[string]map[TopicPartition]int64{}
	for _, file := range []string{recoveryPointFile, logStartFile, highWatermarkFile, cleanerFile} {
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
		l := m.newLog(d, tp, m.opts.Defaults)
		m.logs[tp] = l
		d.logs++
		load = append(load, l)
	}
	err := parallel(m.opts.RecoveryThreads, load, func(l *Log) error {
		l.readID()
		hw, haveHW := ckpt[highWatermarkFile][l.tp]
		if !haveHW {
			hw = 0
		}
		if cleaned, ok := ckpt[cleanerFile][l.tp]; ok {
			l.cleaned.Store(cleaned)
		}
		err := l.load(loadState{
			clean: d.clean, recoveryPoint: ckpt[recoveryPointFile][l.tp],
			logStart: ckpt[logStartFile][l.tp], highWatermark: hw,
			cleaned: l.cleaned.Load(),
		})
		if err != nil {
			return fmt.Errorf("load %s: %w", l.tp, err)
		}
		if l.shortened {
			m.shortened.Store(true)
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

// SetBrokerEpoch says which epoch the clean-shutdown marker shall carry.
func (m *Manager) SetBrokerEpoch(epoch int64) { m.brokerEpoch.Store(epoch) }

// PreviousBrokerEpoch is the epoch in the clean-shutdown markers found by Open, or -1 if any directory was not shut down
// cleanly, one that was is not among the usable ones any more, or any log ends below its last known high watermark or is
// not there, marker or not: a replica that lost committed records must not be taken for complete.
func (m *Manager) PreviousBrokerEpoch() int64 {
	epoch := int64(-1)
	if m.shortened.Load() {
		return -1
	}
	here := make([]string, 0, len(m.dirs))
	for _, d := range m.dirs {
		here = append(here, d.id.String())
	}
	for i, d := range m.dirs {
		missing := slices.ContainsFunc(d.beside, func(id string) bool { return !slices.Contains(here, id) })
		if !d.clean || missing || i > 0 && d.epoch != epoch {
			return -1
		}
		epoch = d.epoch
	}
	return epoch
}

// all returns all logs in any order.
func (m *Manager) all() []*Log {
	m.mu.RLock()
	defer m.mu.RUnlock()
	logs := make([]*Log, 0, len(m.logs))
	for _, l := range m.logs {
		logs = append(logs, l)
	}
	return logs
}

// Logs returns all logs, sorted by topic and partition.
func (m *Manager) Logs() []*Log {
	logs := m.all()
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

// Dirs describes the log directories. It asks the disks how full they are.
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

// DirPaths are the log directories in their order, those that are offline among them.
func (m *Manager) DirPaths() []string {
	out := make([]string, len(m.dirs))
	for i, d := range m.dirs {
		out[i] = d.path
	}
	return out
}

// DirErr is not nil if a log directory is offline. It asks no disk, so that one that hangs does not hold it up.
func (m *Manager) DirErr(dir string) error {
	if d := m.dirAt(dir); d != nil {
		return d.err()
	}
	return clientErrorf(kerr.LogDirNotFound, "%s is not among the log directories", dir)
}

func (m *Manager) dirAt(dir string) *logDir {
	for _, d := range m.dirs {
		if d.path == dir {
			return d
		}
	}
	return nil
}
