package storage

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

func onlyFor(dir string, rule vfs.Rule) vfs.Rule {
	return func(op vfs.Op) *vfs.Fault {
		if path.Dir(path.Dir(op.Name)) == dir || path.Dir(op.Name) == dir {
			return rule(op)
		}
		return nil
	}
}

// hangs makes operations below a directory hang until release is closed, and tells of each of a kind that got there.
func hangs(dir string, kind vfs.OpKind, release <-chan struct{}) (rule vfs.Rule, reached <-chan string) {
	there := make(chan string, 10)
	return onlyFor(dir, func(op vfs.Op) *vfs.Fault {
		if op.Kind != kind {
			return nil
		}
		there <- op.Name
		return &vfs.Fault{Until: release}
	}), there
}

// TestOneDirectoryHangs: while a log cannot be made, or deleted, because its disk does not
// answer, the others are found, written, flushed, checkpointed, made and deleted. No
// other log of the same name is made, or a start would find two.
func TestOneDirectoryHangs(t *testing.T) {
	disk := vfs.NewFaulty(vfs.NewMem(), nil)
	m, err := Open(Options{FS: disk, Dirs: []string{"a", "b"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	create := func(dir string, n int32) error {
		_, err := m.CreateLogIn(dir, TopicPartition{"t", n}, TopicID{1}, DefaultLogConfig())
		return err
	}
	for n, dir := range []string{"a", "b"} {
		if err := create(dir, int32(n)); err != nil || m.Log(TopicPartition{"t", int32(n)}).Dir() != dir {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what string
		kind vfs.OpKind
		do   func() error
		name int32
	}{
		{"made", vfs.OpMkdir, func() error { return create("b", 2) }, 2},
		{"deleted", vfs.OpRename, func() error { return m.DeleteLog(TopicPartition{"t", 1}) }, 1},
	} {
		release := make(chan struct{})
		rule, reached := hangs("b", c.kind, release)
		disk.SetRule(rule)
		done := make(chan error, 1)
		go func() { done <- c.do() }()
		<-reached
		others := make(chan error, 1)
		go func() {
			good := m.Log(TopicPartition{"t", 0})
			b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, three())
			err := second(good.AppendAsLeader(b, AppendOptions{Version: 9}))
			m.Tick(time.Now().Add(time.Hour))
			err = errors.Join(err, good.Flush(), m.DirErr("a"), create("a", 9), m.DeleteLog(TopicPartition{"t", 9}))
			if e := create("a", c.name); !errors.Is(e, kerr.KafkaStorageError) {
				err = errors.Join(err, fmt.Errorf("a log of the same name: %w", e))
			}
			others <- err
		}()
		select {
		case err := <-others:
			if err != nil {
				t.Errorf("a log is being %s: %v", c.what, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("a log is being %s: nothing can be done in another directory", c.what)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := create("a", 1); err != nil || m.Log(TopicPartition{"t", 1}).Dir() != "a" {
		t.Errorf("the name is not free after the deletion: %v", err)
	}
	if l := m.Log(TopicPartition{"t", 2}); l == nil || l.Dir() != "b" {
		t.Error("what was made in the end is not there")
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOneDirectoryFails: the other goes on, new logs go there, the news comes once.
func TestOneDirectoryFails(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	told := make(chan string, 10)
	m, err := Open(Options{FS: faulty, Dirs: []string{"a", "b"}, NodeID: 1, OnDirFailure: func(dir string, _ error) { told <- dir }})
	if err != nil {
		t.Fatal(err)
	}
	logs := map[string]*Log{}
	for i := range 4 {
		l, err := m.CreateLog(TopicPartition{"t", int32(i)}, TopicID{1}, DefaultLogConfig())
		if err != nil {
			t.Fatal(err)
		}
		logs[l.Dir()] = l
	}
	if len(logs) != 2 {
		t.Fatal("all logs are in one directory")
	}
	add := func(dir string) error {
		b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, three())
		return second(logs[dir].AppendAsLeader(b, AppendOptions{Version: 9}))
	}
	faulty.SetRule(onlyFor("a", func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpWrite {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	}))
	for range 3 {
		if err := add("a"); !errors.Is(err, kerr.KafkaStorageError) || !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
	}
	if err := add("b"); err != nil {
		t.Fatal(err)
	}
	if dir := <-told; dir != "a" || len(told) > 0 {
		t.Fatal(dir, len(told))
	}
	faulty.SetRule(nil)
	if err := add("a"); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatalf("a failed directory came back: %v", err)
	}
	for i := range 3 {
		l, err := m.CreateLog(TopicPartition{"new", int32(i)}, TopicID{2}, DefaultLogConfig())
		if err != nil || l.Dir() != "b" {
			t.Fatal(err)
		}
	}
	dirs := m.Dirs()
	if dirs[0].Err == nil || dirs[1].Err != nil || dirs[0].ID == dirs[1].ID || dirs[1].UsableBytes <= 0 {
		t.Fatal(dirs)
	}
	if err := m.Close(t.Context()); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatal(err)
	}
	if m, err = Open(Options{FS: faulty, Dirs: []string{"a", "b"}, NodeID: 1}); err != nil || m.PreviousBrokerEpoch() != -1 || len(m.Logs()) != 7 {
		t.Fatal(err)
	}
}

// TestDirectoriesProveTogether: the markers of a clean shutdown say that the
// broker has all it had only if every directory of then is there, and none had
// failed. Whether the logs of a directory need recovery is its own matter.
func TestDirectoriesProveTogether(t *testing.T) {
	for name, tc := range map[string]struct {
		fails bool
		next  []string
		want  int64
	}{
		"the same":                 {next: []string{"b", "a"}, want: 7},
		"another one":              {next: []string{"a", "b", "new"}, want: -1},
		"one is missing":           {next: []string{"b"}, want: -1},
		"a failed one is missing":  {fails: true, next: []string{"b"}, want: -1},
		"the first is left, not b": {fails: true, next: []string{"a"}, want: -1},
	} {
		t.Run(name, func(t *testing.T) {
			faulty := vfs.NewFaulty(vfs.NewMem(), nil)
			m, err := Open(Options{FS: faulty, Dirs: []string{"a", "b"}, NodeID: 1, BrokerEpoch: 7})
			if err != nil {
				t.Fatal(err)
			}
			if tc.fails {
				_ = m.dirs[0].fail(syscall.EIO) // as with its first failed write
			}
			if err := m.Close(t.Context()); (err != nil) != tc.fails {
				t.Fatal(err)
			}
			if m, err = Open(Options{FS: faulty, Dirs: tc.next, NodeID: 1}); err != nil {
				t.Fatal(err)
			}
			if got := m.PreviousBrokerEpoch(); got != tc.want {
				t.Errorf("the epoch is %d, want %d", got, tc.want)
			}
			if b := m.dirs[0]; b.path == "b" && !b.clean {
				t.Error("the directory that was closed in order is to be recovered")
			}
			if err := m.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestTooManyOpenFiles fails requests, not the directory.
func TestTooManyOpenFiles(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	l := guardLog(t, faulty, "data")
	b := func() []byte { return guardBatch(10, protocol.BatchParams{}) }
	if _, err := l.AppendAsLeader(b(), AppendOptions{Version: 9}); err != nil {
		t.Fatal(err)
	}
	faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpCreate || op.Kind == vfs.OpOpen {
			return &vfs.Fault{Err: syscall.EMFILE}
		}
		return nil
	})
	cfg := l.Config()
	cfg.SegmentBytes = 100
	l.SetConfig(cfg)
	if _, err := l.AppendAsLeader(b(), AppendOptions{Version: 9}); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatal(err)
	}
	faulty.SetRule(nil)
	if _, err := l.AppendAsLeader(b(), AppendOptions{Version: 9}); err != nil || l.Segments() != 2 {
		t.Fatal(err)
	}
}

// TestUnusedLogsHoldNoFiles: only a log that was written to or read has its file open.
func TestUnusedLogsHoldNoFiles(t *testing.T) {
	m, err := Open(Options{FS: vfs.NewMem(), Dirs: []string{"data"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	if l.active.h != nil {
		t.Error("a new log has its file open")
	}
	for range 2 {
		if _, err := l.AppendAsLeader(guardBatch(10, protocol.BatchParams{}), AppendOptions{Version: 9}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := l.Read(0, 1<<20, 2, true)
	if err != nil || s.Len == 0 {
		t.Fatal(s, err)
	}
	s.Release()
}

// TestTooManyOpenFilesBehindTheScenes: what the broker writes by itself is tried again, and a log that could not be made
// leaves the others alone.
func TestTooManyOpenFilesBehindTheScenes(t *testing.T) {
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(mem, nil)
	m, err := Open(Options{FS: faulty, Dirs: []string{"data"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	l.AssignEpoch(3, 0)
	if _, err := l.AppendAsLeader(guardBatch(10, protocol.BatchParams{}), AppendOptions{LeaderEpoch: 3, Version: 9}); err != nil {
		t.Fatal(err)
	}
	faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpCreate || op.Kind == vfs.OpOpen || op.Kind == vfs.OpSyncDir {
			return &vfs.Fault{Err: syscall.EMFILE}
		}
		return nil
	})
	other := TopicPartition{"t", 1}
	if _, err := m.CreateLog(other, TopicID{1}, DefaultLogConfig()); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatal(err)
	}
	if err := l.Flush(); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatal(err)
	}
	if err := m.checkpoint(m.dirs[0], highWatermarkFile); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatal(err)
	}
	faulty.SetRule(nil)
	if err := m.dirs[0].err(); err != nil {
		t.Fatalf("the directory is offline: %v", err)
	}
	if _, err := m.CreateLog(other, TopicID{1}, DefaultLogConfig()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Flush(), m.checkpoint(m.dirs[0], highWatermarkFile)); err != nil {
		t.Fatal(err)
	}
	// All that was flushed is there after a power cut.
	if m, err = Open(Options{FS: mem.CrashClone(1), Dirs: []string{"data"}, NodeID: 1}); err != nil {
		t.Fatal(err)
	}
	again := m.Log(TopicPartition{"t", 0})
	if again == nil || again.LogEndOffset() != 1 || again.LatestEpoch() != 3 {
		t.Fatalf("%+v", again)
	}
}

func TestOpenRefuses(t *testing.T) {
	fs := vfs.NewMem()
	open := func(o Options) error {
		o.FS = fs
		if o.Dirs == nil {
			o.Dirs = []string{"a"}
		}
		m, err := Open(o)
		if err == nil {
			err = m.Close(t.Context())
		}
		return err
	}
	if err := open(Options{NodeID: 1, ClusterID: "c", BrokerEpoch: 5}); err != nil {
		t.Fatal(err)
	}
	if err := open(Options{NodeID: 2, ClusterID: "c"}); err == nil {
		t.Error("took another node's directory")
	}
	if err := open(Options{NodeID: 1, ClusterID: "d"}); err == nil {
		t.Error("took another cluster's directory")
	}
	m, err := Open(Options{FS: fs, Dirs: []string{"a"}, NodeID: 1, ClusterID: "c"})
	if err != nil || m.PreviousBrokerEpoch() != 5 {
		t.Fatal("the refusals cost the clean marker: ", err)
	}
	if err := open(Options{NodeID: 1}); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := fs.MkdirAll("b/t-0"); err != nil {
		t.Fatal(err)
	}
	if err := fs.MkdirAll("a/t-0"); err != nil {
		t.Fatal(err)
	}
	if err := open(Options{NodeID: 1, Dirs: []string{"a", "b"}}); err == nil {
		t.Error("took a partition that is in two directories")
	}
}

func TestBrokerEpochAcrossRestarts(t *testing.T) {
	fs := vfs.NewMem()
	for epoch := range int64(3) {
		m, err := Open(Options{FS: fs, Dirs: []string{"a", "b"}, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.PreviousBrokerEpoch(); got != epoch-1 {
			t.Fatalf("previous epoch %d in life %d", got, epoch)
		}
		m.SetBrokerEpoch(epoch)
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(Options{FS: fs.CrashClone(1), Dirs: []string{"a", "b"}, NodeID: 1})
	if err != nil || m.PreviousBrokerEpoch() != 2 {
		t.Fatal("the marker is not durable")
	}
	m, err = Open(Options{FS: fs.KillClone(), Dirs: []string{"a", "b"}, NodeID: 1})
	if err != nil || m.PreviousBrokerEpoch() != 2 {
		t.Fatal(err)
	}
	m.unlock() // killed
	if m, err = Open(Options{FS: m.opts.FS, Dirs: []string{"a", "b"}, NodeID: 1}); err != nil || m.PreviousBrokerEpoch() != -1 {
		t.Fatal("the marker outlived a start")
	}
}

// What the background has taken hold of may be deleted before it comes to it: its directory has another name by then, or
// that name is another log's, and it must be neither written nor taken for broken.
func TestHousekeepingOfADeletedLog(t *testing.T) {
	m, err := Open(Options{FS: vfs.NewMem(), Dirs: []string{"data"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	l.AssignEpoch(3, 0)
	if _, err := l.AppendAsLeader(guardBatch(10, protocol.BatchParams{}), AppendOptions{LeaderEpoch: 3, Version: 9}); err != nil {
		t.Fatal(err)
	}
	l.hk.Lock()
	err = l.forceRoll(time.Now()) // so that there is a segment below the log start
	l.hk.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	l.SetHighWatermark(1)
	if err := l.SetLogStartOffset(1); err != nil {
		t.Fatal(err)
	}
	if err := m.DeleteLog(l.TopicPartition()); err != nil {
		t.Fatal(err)
	}
	l.hk.Lock()
	err = errors.Join(l.writeEpochs(), l.flush(true))
	l.hk.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := l.applyRetention(time.Now().Add(1000 * time.Hour)); n > 0 || !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("retention: %d segments, %v", n, err)
	}
	if err := errors.Join(l.housekeep(), l.makeSpare()); err != nil {
		t.Error(err)
	}
	for _, err := range []error{l.TruncateTo(0), l.TruncateFullyAndStartAt(5), l.nameRolled()} {
		if err != nil && !errors.Is(err, kerr.NotLeaderForPartition) {
			t.Error(err)
		}
	}
	if _, _, err := l.OffsetForTimestamp(0, l.LogEndOffset()); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("search of a time: %v", err)
	}
	if _, _, err := l.MaxTimestampOffset(); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("search of the greatest time: %v", err)
	}
	if d := m.Dirs()[0]; d.Err != nil {
		t.Fatal(d.Err)
	}
}

// Who flushes what it appended to a log that is deleted meanwhile gets an error. It went round and round before, and the
// deletion waited for it.
func TestFlushOfADeletedLog(t *testing.T) {
	m, err := Open(Options{FS: vfs.NewMem(), Dirs: []string{"data"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultLogConfig()
	cfg.FlushMessages = 1
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	add := func() error {
		_, err := l.AppendAsLeader(guardBatch(10, protocol.BatchParams{}), AppendOptions{Version: 9})
		return err
	}
	if err := add(); err != nil {
		t.Fatal(err)
	}
	l.removed.Store(true) // what DeleteLog does before it waits for who works on the log
	for _, step := range []struct {
		what string
		do   func() error
		want error
	}{
		{"an append", add, kerr.NotLeaderForPartition},
		{"the deletion", func() error { return m.DeleteLog(l.TopicPartition()) }, nil},
		{"a flush", l.Flush, kerr.NotLeaderForPartition},
	} {
		ended := make(chan error, 1)
		go func() { ended <- step.do() }()
		select {
		case err := <-ended:
			if !errors.Is(err, step.want) {
				t.Errorf("%s: %v, want %v", step.what, err, step.want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s does not end", step.what)
		}
	}
	if d := m.Dirs()[0]; d.Err != nil {
		t.Error(d.Err)
	}
}

// createGate is a file system that calls before at each creation of a file for the next segment.
type createGate struct {
	vfs.FS
	before func()
}

func (g *createGate) Create(name string) (vfs.File, error) {
	if g.before != nil && strings.HasSuffix(name, nextSuffix) {
		g.before()
	}
	return g.FS.Create(name)
}

// A log that is deleted while the file of its next segment is made keeps its directory until that is there.
func TestDeleteWhileTheSpareIsMade(t *testing.T) {
	fs := &createGate{FS: vfs.NewMem()}
	m, err := Open(Options{FS: fs, Dirs: []string{"data"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	deleted := make(chan error, 1)
	fs.before = func() {
		go func() { deleted <- m.DeleteLog(l.TopicPartition()) }()
		select {
		case err := <-deleted: // it did not wait
			deleted <- err
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := l.makeSpare(); err != nil {
		t.Error(err)
	}
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	if d := m.Dirs()[0]; d.Err != nil {
		t.Error(d.Err)
	}
}
