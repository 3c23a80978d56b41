package storage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// logDir is one of log.dirs. It goes offline with the first failed write, fsync or rename in it, for the life of the
// process: after such an error nobody knows what the disk holds, and trying again can succeed with data lost (the kernel
// drops dirty pages after a failed fsync).
type logDir struct {
	fs     vfs.FS
	path   string
	id     TopicID
	lock   io.Closer
	onFail func(dir string, err error)

	failure atomic.Pointer[storageError]

	// clean says whether the marker was there at start; epoch is the broker epoch in it, beside the ids of the directories
	// that were shut down together.
	clean  bool
	epoch  int64
	beside []string

	ckptMu sync.Mutex
	// Offsets in the checkpoint files as written last. Guarded by ckptMu.
	written map[string]map[TopicPartition]int64
	// incoming are logs that a Move is about to put here: the checkpoints speak of them already. Guarded by ckptMu.
	incoming map[TopicPartition]*Log

	// changeMu lets one log at a time be made in the directory or taken out of service. It is held over what the disk does
	// for that, so that a directory that hangs holds up no other.
	changeMu sync.Mutex

	logs int // in Manager.logs or being made; guarded by Manager.mu
}

func (d *logDir) err() error {
	if e := d.failure.Load(); e != nil {
		return e
	}
	return nil
}

// fail takes the directory offline and returns the error that clients get. Only the first failure is told, on a goroutine
// of its own, because the caller may hold locks.
func (d *logDir) fail(err error) error {
	if e := (*storageError)(nil); errors.As(err, &e) {
		return err
	}
	if d.failure.CompareAndSwap(nil, &storageError{d.path, err}) && d.onFail != nil {
		go d.onFail(d.path, err)
	}
	return d.failure.Load()
}

// failOpen is fail for an error of opening or making a file, before which nothing was changed that cannot be done again:
// running out of descriptors fails the request, not the directory.
func (d *logDir) failOpen(err error) error {
	if vfs.TooManyOpen(err) {
		return clientErrorf(kerr.KafkaStorageError, "%v", err)
	}
	return d.fail(err)
}

// openDir locks a directory and reads or makes its meta.properties. The clean-shutdown marker is read and removed, and the
// removal made durable, before anything is written: a marker that came back after a crash would have damage trusted.
func openDir(o *Options, dir string) (*logDir, error) {
	d := &logDir{fs: o.FS, path: dir, onFail: o.OnDirFailure, epoch: -1, written: map[string]map[TopicPartition]int64{}}
	if err := mkdirDurable(d.fs, dir); err != nil {
		return nil, err
	}
	lock, err := d.fs.Lock(path.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	d.lock = lock
	if err := d.identify(o.ClusterID, o.NodeID); err != nil {
		lock.Close()
		return nil, err
	}
	if err := d.takeMarker(); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// mkdirDurable makes a directory and its parents, and makes those that are new durable.
func mkdirDurable(fsys vfs.FS, dir string) error {
	var made []string
	for d := path.Clean(dir); ; d = path.Dir(d) {
		_, err := fsys.Stat(d)
		if err == nil {
			break
		}
		if !errors.Is(err, errNotExist) {
			return err
		}
		made = append(made, d)
		if d == path.Dir(d) {
			break
		}
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for _, d := range made {
		if err := fsys.SyncDir(path.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// identify checks meta.properties against the broker, or writes it.
func (d *logDir) identify(clusterID string, nodeID int32) error {
	name := path.Join(d.path, metaPropertiesFile)
	data, err := readFile(d.fs, name, smallFileLimit)
	if errors.Is(err, errNotExist) {
		return d.writeIdentity(name, clusterID, nodeID)
	}
	if err != nil {
		return err
	}
	props := parseProperties(data)
	if v := props["version"]; v != "" && v != "0" && v != "1" {
		return fmt.Errorf("%s: version %s is not supported", name, v)
	}
	node := props["node.id"]
	if node == "" {
		node = props["broker.id"]
	}
	if node != "" && node != strconv.Itoa(int(nodeID)) {
		return &fatalError{fmt.Errorf("%s: the directory belongs to node %s, this is node %d", name, node, nodeID)}
	}
	if id := props["cluster.id"]; id != "" && clusterID != "" && id != clusterID {
		return &fatalError{fmt.Errorf("%s: the directory belongs to cluster %s, this is %s", name, id, clusterID)}
	}
	if text := props["directory.id"]; text != "" {
		if d.id, err = parseUUID(name, text); err != nil {
			return err
		}
	}
	if d.id == (TopicID{}) || props["cluster.id"] == "" && clusterID != "" {
		return d.writeIdentity(name, clusterID, nodeID)
	}
	return nil
}

func (d *logDir) writeIdentity(name, clusterID string, nodeID int32) error {
	if d.id == (TopicID{}) {
		if _, err := rand.Read(d.id[:]); err != nil {
			return err
		}
		d.id[6], d.id[8] = d.id[6]&0x0f|0x40, d.id[8]&0x3f|0x80 // a random UUID
	}
	props := map[string]string{"version": "1", "node.id": strconv.Itoa(int(nodeID)), "directory.id": d.id.String()}
	if clusterID != "" {
		props["cluster.id"] = clusterID
	}
	return writeFileAtomic(d.fs, name, formatProperties(props))
}

func (d *logDir) takeMarker() error {
	name := path.Join(d.path, cleanShutdownFile)
	data, err := readFile(d.fs, name, smallFileLimit)
	if errors.Is(err, errNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	marker, clean := parseCleanShutdown(data)
	d.epoch, d.clean, d.beside = marker.BrokerEpoch, clean, marker.Directories
	if err := d.fs.Remove(name); err != nil {
		return err
	}
	return d.fs.SyncDir(d.path)
}

// writeCheckpoint writes one of the offset checkpoints if it differs from what was written last. The offsets are gathered
// under the same lock as lower takes, so that no old offset overwrites a lowered one.
func (d *logDir) writeCheckpoint(file string, gather func() map[TopicPartition]int64) error {
	if err := d.err(); err != nil {
		return err
	}
	d.ckptMu.Lock()
	defer d.ckptMu.Unlock()
	return d.writeCheckpointLocked(file, gather())
}

func (d *logDir) writeCheckpointLocked(file string, offsets map[TopicPartition]int64) error {
	if old, ok := d.written[file]; ok && sameOffsets(old, offsets) {
		return nil
	}
	if err := writeFileAtomic(d.fs, path.Join(d.path, file), formatOffsets(offsets)); err != nil {
		return d.failOpen(err) // not in written: the next checkpoint tries again
	}
	d.written[file] = offsets
	return nil
}

func sameOffsets(a, b map[TopicPartition]int64) bool {
	if len(a) != len(b) {
		return false
	}
	for tp, off := range a {
		if got, ok := b[tp]; !ok || got != off {
			return false
		}
	}
	return true
}

// lower makes sure that no checkpoint of a log says more than off, now and durably.
func (d *logDir) lower(l *Log, off int64) error {
	d.ckptMu.Lock()
	defer d.ckptMu.Unlock()
	l.recoveryPoint.Store(min(l.recoveryPoint.Load(), off))
	l.start.Store(min(l.start.Load(), off))
	l.cleaned.Store(min(l.cleaned.Load(), off))
	l.cuts++
	l.lowestCut = min(l.lowestCut, off)
	for _, file := range []string{recoveryPointFile, logStartFile, cleanerFile} {
		if old, ok := d.written[file][l.tp]; !ok || old <= off {
			continue
		}
		if err := d.writeCheckpointLocked(file, with(d.written[file], l.tp, off)); err != nil {
			return err
		}
	}
	return nil
}

// forget makes sure that no checkpoint names a log: a new log of the same name must not inherit from an old one.
func (d *logDir) forget(tp TopicPartition) error {
	d.ckptMu.Lock()
	defer d.ckptMu.Unlock()
	for _, file := range []string{recoveryPointFile, logStartFile, highWatermarkFile, cleanerFile} {
		if _, ok := d.written[file][tp]; ok {
			if err := d.writeCheckpointLocked(file, with(d.written[file], tp, -1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// with copies offsets with one changed, or left out if off is negative.
func with(offsets map[TopicPartition]int64, tp TopicPartition, off int64) map[TopicPartition]int64 {
	out := make(map[TopicPartition]int64, len(offsets))
	for k, v := range offsets {
		out[k] = v
	}
	if off < 0 {
		delete(out, tp)
	} else {
		out[tp] = off
	}
	return out
}

const (
	deleteDirSuffix = "-delete"
	strayDirSuffix  = "-stray"
	futureDirSuffix = "-future"
)

// parseLogDir splits the name of a log's directory. Names of logs on their way out or in are not ok.
func parseLogDir(name string) (TopicPartition, bool) {
	for _, suffix := range []string{deleteDirSuffix, strayDirSuffix, futureDirSuffix} {
		if strings.HasSuffix(name, suffix) {
			return TopicPartition{}, false
		}
	}
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return TopicPartition{}, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil || n < 0 || name[i+1:] != strconv.FormatInt(n, 10) {
		return TopicPartition{}, false
	}
	return TopicPartition{name[:i], int32(n)}, true
}
