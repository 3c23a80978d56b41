package storage

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// again is a broker that starts from what a kill leaves of another's files.
func (r *moveRig) again() *moveRig {
	fs := r.mem.KillClone()
	return &moveRig{rig: &rig{rng: r.rng, model: r.model.clone(), now: r.now.Add(time.Second), cfg: r.cfg}, mem: fs, faulty: vfs.NewFaulty(fs, nil)}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (r *moveRig) appendSome(t *testing.T) {
	t.Helper()
	for range 20 {
		must(t, r.append())
	}
	must(t, r.l.Flush())
}

// takeToSwitch begins a move and takes it as far as Switch.
func (r *moveRig) takeToSwitch(t *testing.T) error {
	t.Helper()
	must(t, r.begin(), r.mv.Copy(t.Context()))
	l, err := r.mv.Switch()
	if err == nil {
		r.l = l
	}
	return err
}

// failing has all operations on what matches fail.
func failing(match func(name string) bool) vfs.Rule {
	return func(op vfs.Op) *vfs.Fault {
		if match(op.Name) {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	}
}

// TestMoveBackFails: a log that came from a directory, by a move of which a crash left the mark, and whose move back there
// fails halfway, goes on where it is; the next start must not take what the failed move left for the log.
func TestMoveBackFails(t *testing.T) {
	r := newMoveRig(5)
	must(t, r.open())
	r.appendSome(t)
	must(t, r.takeToSwitch(t), r.mv.Finish()) // to b
	must(t, r.takeToSwitch(t))                // to a, and the broker ends
	r = r.again()
	must(t, r.open())
	if r.l.Dir() != "a" {
		t.Fatalf("in %s", r.l.Dir())
	}
	r.m.Tick(r.now)
	must(t, r.begin(), r.mv.Copy(t.Context()))
	r.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpSyncDir && op.Name == "b" {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	if _, err := r.mv.Switch(); err == nil {
		t.Fatal("switched")
	}
	must(t, r.mv.Abandon())
	r.appendSome(t)
	r = r.again()
	must(t, r.open())
	must(t, r.model.compare(r.l))
}

// TestStaleCopyAlone: what a move left that failed halfway is not taken for the log while the log itself is in a directory
// that cannot be used.
func TestStaleCopyAlone(t *testing.T) {
	r := newMoveRig(5)
	must(t, r.open())
	r.appendSome(t)
	must(t, r.begin(), r.mv.Copy(t.Context()))
	r.faulty.SetRule(failing(func(name string) bool { return name == "b" }))
	if _, err := r.mv.Switch(); err == nil {
		t.Fatal("switched")
	}
	r.appendSome(t)
	r = r.again()
	r.faulty.SetRule(failing(func(name string) bool { return strings.HasPrefix(name, "a") }))
	m, err := Open(Options{FS: r.faulty, Dirs: []string{"a", "b"}, NodeID: 1, Defaults: r.cfg})
	must(t, err)
	if l := m.Log(rigPartition); l != nil {
		t.Errorf("a copy up to %d is used for a log up to %d", l.LogEndOffset(), r.model.end)
	}
	m.unlock()
	r = r.again()
	must(t, r.open())
	must(t, r.model.compare(r.l))
}

// TestMoveOffDyingDirectory: the log is in its new place for good, also when the old directory fails before it is cleared.
func TestMoveOffDyingDirectory(t *testing.T) {
	r := newMoveRig(5)
	must(t, r.open())
	r.appendSome(t)
	must(t, r.takeToSwitch(t))
	r.faulty.SetRule(failing(func(name string) bool { return strings.HasPrefix(name, "a") }))
	_ = r.mv.Finish() // told
	r.appendSome(t)
	r = r.again()
	r.faulty.SetRule(failing(func(name string) bool { return strings.HasPrefix(name, "a") }))
	must(t, r.openDirs(r.faulty, "a", "b"))
	must(t, r.model.compare(r.l))
}

// TestLogLeftAloneKeepsItsName: no log is made over one that may be out of date.
func TestLogLeftAloneKeepsItsName(t *testing.T) {
	r := newMoveRig(5)
	must(t, r.open())
	r.appendSome(t)
	must(t, r.begin(), r.mv.Copy(t.Context()))
	r = r.again()
	r.faulty.SetRule(failing(func(name string) bool { return strings.HasPrefix(name, "b") }))
	m, err := Open(Options{FS: r.faulty, Dirs: []string{"a", "b"}, NodeID: 1, Defaults: r.cfg})
	must(t, err)
	if _, err := m.CreateLogIn("a", rigPartition, TopicID{7}, r.cfg); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("another log of its name: %v", err)
	}
	m.unlock()
	r = r.again()
	must(t, r.open())
	must(t, r.model.compare(r.l))
}

// TestMoveInterruptedByStop: a broker that stopped in order knows that the log is where it was, whatever becomes of the
// directory that it was to go to.
func TestMoveInterruptedByStop(t *testing.T) {
	r := newMoveRig(5)
	must(t, r.open())
	r.appendSome(t)
	must(t, r.begin(), r.mv.Copy(t.Context()))
	r.mv.Leave()
	must(t, r.m.Close(t.Context()))
	r = r.again()
	r.faulty.SetRule(failing(func(name string) bool { return strings.HasPrefix(name, "b") }))
	m, err := Open(Options{FS: r.faulty, Dirs: []string{"a", "b"}, NodeID: 1, Defaults: r.cfg})
	must(t, err)
	if m.Log(rigPartition) == nil {
		t.Error("the log is not used")
	}
	m.unlock()
}

// TestMoveOfCorruptLog: what is corrupt in a log fails its move, and not the directory.
func TestMoveOfCorruptLog(t *testing.T) {
	r := newRig(3)
	r.cfg = DefaultLogConfig()
	r.cfg.SegmentBytes = 2000
	dir := t.TempDir()
	must(t, r.openDirs(vfs.OS{}, dir+"/a", dir+"/b"))
	for range 40 {
		must(t, r.append())
	}
	must(t, r.m.Close(t.Context()))
	first := dir + "/a/" + rigPartition.String() + "/" + fileName(0, "")
	data, err := os.ReadFile(first + logSuffix)
	must(t, err)
	for i := 200; i < len(data); i++ {
		data[i] = 0xff
	}
	must(t, os.WriteFile(first+logSuffix, data, 0o600), os.WriteFile(first+offsetsSuffix, []byte("no index"+"no"), 0o600))
	must(t, r.openDirs(vfs.OS{}, dir+"/a", dir+"/b"))
	mv, err := r.m.BeginMove(r.l, dir+"/b")
	must(t, err)
	if err := mv.Copy(t.Context()); !errors.Is(err, kerr.CorruptMessage) {
		t.Errorf("copied: %v", err)
	}
	must(t, mv.Abandon(), r.l.Err(), r.m.DirErr(dir+"/b"), r.append(), r.m.Close(t.Context()))
}

// TestMoveThatWaitsIsSmall: a directory that is emptied has thousands of moves wait for their turn.
func TestMoveThatWaitsIsSmall(t *testing.T) {
	r := newMoveRig(5)
	must(t, r.open())
	var mv *Move
	var err error
	if grown := allocated(func() { mv, err = r.m.BeginMove(r.l, r.other()) }); grown > 64<<10 {
		t.Errorf("a move that has not begun to copy takes %d bytes", grown)
	}
	must(t, err, mv.Abandon())
}

// TestLeftoverInSlashedDirectory: a directory is known by the name that it has in log.dirs.
func TestLeftoverInSlashedDirectory(t *testing.T) {
	r := newRig(3)
	dir := t.TempDir()
	dirs := []string{dir + "/a/", dir + "/./b/"}
	must(t, r.openDirs(vfs.OS{}, dirs...), r.append())
	mv, err := r.m.BeginMove(r.l, dirs[1])
	must(t, err)
	mv.Leave()
	must(t, r.m.Close(t.Context()), r.openDirs(vfs.OS{}, dirs...))
	if got := r.m.Leftovers()[rigPartition]; got != dirs[1] {
		t.Errorf("left in %q, want %q", got, dirs[1])
	}
	must(t, r.m.Close(t.Context()))
}
