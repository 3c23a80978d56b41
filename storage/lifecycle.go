package storage

import (
	"errors"
	"fmt"
	"math"
	"path"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

func (m *Manager) newLog(d *logDir, tp TopicPartition, cfg LogConfig) *Log {
	l := &Log{
		env: env{
			fs: m.opts.FS, cache: m.cache, log: m.opts.Log, now: m.opts.Now, inflater: m.inflater,
			nudge: m.background.nudge, remove: m.background.remove,
			lowerCheckpoints: d.lower,
		},
		tp: tp, dir: d, path: path.Join(d.path, tp.String()), producers: newProducers(), lowestCut: math.MaxInt64,
	}
	l.id.Store(&TopicID{})
	l.cfg.Store(&cfg)
	l.firstUnstable.Store(-1)
	l.cleaned.Store(-1)
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

// CreateLog makes the log of a partition in the directory with the fewest logs, or returns the one that is there and
// gives it cfg. An existing log with another topic id is kerr.InconsistentTopicID.
func (m *Manager) CreateLog(tp TopicPartition, id TopicID, cfg LogConfig) (*Log, error) {
	m.mu.RLock()
	d, err := m.emptiestDir()
	if p := m.dirAt(m.preferred[tp]); p != nil && p.err() == nil {
		d, err = p, nil
	}
	m.mu.RUnlock()
	if l := m.Log(tp); l != nil {
		d, err = l.dir, nil
	}
	if err != nil {
		return nil, err
	}
	return m.createIn(d, tp, id, cfg)
}

// CreateLogIn is CreateLog in one of the log directories. A log that is there is returned from wherever it is. While the
// directory hangs, so does this; logs in other directories can be made meanwhile, but none of the same name.
func (m *Manager) CreateLogIn(dir string, tp TopicPartition, id TopicID, cfg LogConfig) (*Log, error) {
	d := m.dirAt(dir)
	if l := m.Log(tp); l != nil {
		d = l.dir
	}
	if d == nil {
		return nil, m.DirErr(dir)
	}
	return m.createIn(d, tp, id, cfg)
}

func (m *Manager) createIn(d *logDir, tp TopicPartition, id TopicID, cfg LogConfig) (*Log, error) {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	l, err := m.reserve(d, tp)
	switch {
	case err != nil:
		return nil, err
	case l != nil:
		return l, l.adopt(id, cfg)
	}
	if l, err = m.makeLog(d, tp, id, cfg); err != nil {
		l = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.changing, tp)
	if l == nil {
		d.logs--
		return nil, err
	}
	m.logs[tp] = l
	delete(m.preferred, tp) // it was heeded
	return l, nil
}

// reserve returns the log of a partition that is there already, or else takes its name, and a place in the directory, for
// one that is being made. Under changeMu of the directory.
func (m *Manager) reserve(d *logDir, tp TopicPartition) (*Log, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, clientErrorf(kerr.KafkaStorageError, "storage is closed")
	}
	if l := m.logs[tp]; l != nil {
		return l, nil
	}
	if m.changing[tp] {
		return nil, clientErrorf(kerr.KafkaStorageError, "a log %s is being made or deleted in another directory", tp)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	m.changing[tp] = true
	d.logs++
	return nil, nil //nolint:nilnil // no log, and nothing in the way of one
}

func (m *Manager) makeLog(d *logDir, tp TopicPartition, id TopicID, cfg LogConfig) (*Log, error) {
	if err := d.forget(tp); err != nil {
		return nil, err
	}
	l := m.newLog(d, tp, cfg)
	if err := l.create(id); err != nil {
		// What was made of it holds no record: a later attempt, or the next start, goes on from there.
		return nil, d.failOpen(err)
	}
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
	if err := l.startAt(0); err != nil {
		return err
	}
	l.active.unload() // as after a start: only what is used holds a file descriptor
	return nil
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
	l := m.Log(tp)
	if l == nil {
		return nil, "", nil
	}
	l.dir.changeMu.Lock()
	defer l.dir.changeMu.Unlock()
	seq, err := m.release(l)
	if seq == 0 {
		return nil, "", err
	}
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.changing, tp)
	}()
	l.removed.Store(true)
	l.shut()
	if l.dir.err() != nil {
		return nil, "", nil // nothing may be changed there; the next start finds a log that nobody knows
	}
	to = m.outName(l, suffix, seq)
	if err := m.opts.FS.Rename(l.path, to); err != nil {
		return nil, "", l.dir.fail(err)
	}
	return l, to, nil
}

// release takes a log from those that are there, but keeps its name until its directory has another one. It returns a
// number that no other deletion has, 0 if the log is not there any more. Under changeMu of the directory.
func (m *Manager) release(l *Log) (seq int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, clientErrorf(kerr.KafkaStorageError, "storage is closed")
	}
	if m.logs[l.tp] != l {
		return 0, nil
	}
	delete(m.logs, l.tp)
	l.dir.logs--
	m.changing[l.tp] = true
	m.deleteID++
	return m.deleteID, nil
}

// outName is the name of the directory of a log that is taken out of service. As Kafka's: topic-partition.uuid-delete,
// shortened to what a file name may have. seq is a number that no other has.
func (m *Manager) outName(l *Log, suffix string, seq int64) string {
	base := l.tp.String()
	unique := fmt.Sprintf(".%016x%016x%s", m.opts.Now().UnixNano(), seq, suffix)
	if len(base)+len(unique) > 255 {
		base = base[:255-len(unique)]
	}
	return path.Join(l.dir.path, base+unique)
}

// shut makes the log unusable and closes its files. Whoever works in its directory has ended when it returns, and nobody
// begins any more.
func (l *Log) shut() {
	l.hk.Lock()
	defer l.hk.Unlock()
	l.spareMu.Lock()
	defer l.spareMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shutLocked()
}

// shutLocked is shut for who has hk, spareMu and mu.
func (l *Log) shutLocked() {
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
