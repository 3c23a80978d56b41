package storage

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

const preallocatedBytes = 256 << 10

func preallocatedConfig() LogConfig {
	cfg := DefaultLogConfig()
	cfg.Preallocate, cfg.SegmentBytes = true, preallocatedBytes
	return cfg
}

// logSizes are the lengths of a log's files by their names.
func logSizes(t *testing.T, fsys vfs.FS, dir string) map[string]int64 {
	t.Helper()
	infos, err := fsys.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for _, in := range infos {
		if suffix := filepath.Ext(in.Name); suffix == logSuffix || suffix == nextSuffix {
			sizes[in.Name] = in.Size
		}
	}
	return sizes
}

func appendValues(t *testing.T, l *Log, n, size int) {
	t.Helper()
	for range n {
		b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, []protocol.Record{{Value: make([]byte, size)}})
		if _, err := l.AppendAsLeader(b, AppendOptions{Version: 9}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPreallocate: segments have their whole length from the start, and the length of what was appended when they are
// sealed and when the log is closed. (Crashes: TestPowerCuts and its like preallocate in a third of their runs.)
func TestPreallocate(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.OS{}} {
		t.Run(name, func(t *testing.T) {
			dir := "/d"
			if name == "disk" {
				dir = t.TempDir()
			}
			open := func() (*Manager, *Log, *Log) {
				t.Helper()
				m, err := Open(Options{FS: fsys, Dirs: []string{dir}, NodeID: 1, Defaults: preallocatedConfig()})
				if err != nil {
					t.Fatal(err)
				}
				used, err := m.CreateLog(TopicPartition{"used", 0}, TopicID{1}, preallocatedConfig())
				if err != nil {
					t.Fatal(err)
				}
				unused, err := m.CreateLog(TopicPartition{"unused", 0}, TopicID{2}, preallocatedConfig())
				if err != nil {
					t.Fatal(err)
				}
				return m, used, unused
			}
			m, l, _ := open()
			for _, of := range []string{"/used-0", "/unused-0"} {
				if got := logSizes(t, fsys, dir+of)[fileName(0, logSuffix)]; got != preallocatedBytes {
					t.Errorf("%s begins with %d bytes", of, got)
				}
			}
			if name == "disk" {
				reserved(t, filepath.Join(dir, "used-0", fileName(0, logSuffix)))
			}
			appendValues(t, l, 30, 10_000)
			m.AwaitIdle()
			if l.Segments() != 2 {
				t.Fatalf("%d segments", l.Segments())
			}
			segs := *l.segs.Load()
			sizes := logSizes(t, fsys, dir+"/used-0")
			if got := sizes[fileName(0, logSuffix)]; got != segs[0].size.Load() {
				t.Errorf("the sealed segment has %d bytes, %d were appended", got, segs[0].size.Load())
			}
			if got := sizes[fileName(segs[1].base, logSuffix)]; got != preallocatedBytes {
				t.Errorf("the active segment has %d bytes", got)
			}
			base, size, end := segs[1].base, segs[1].size.Load(), l.LogEndOffset()
			if err := m.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := logSizes(t, fsys, dir+"/used-0"); len(got) != 2 || got[fileName(base, logSuffix)] != size {
				t.Errorf("after the close %v, the active segment had %d bytes", got, size)
			}
			if got := logSizes(t, fsys, dir+"/unused-0"); len(got) != 1 || got[fileName(0, logSuffix)] != 0 {
				t.Errorf("of an unused log %v", got)
			}

			m, l, unused := open()
			if l.LogEndOffset() != end || unused.LogEndOffset() != 0 {
				t.Errorf("the logs end at %d and %d, want %d and 0", l.LogEndOffset(), unused.LogEndOffset(), end)
			}
			appendValues(t, l, 1, 10)
			s, err := l.Read(0, 1<<20, end+1, true)
			if err != nil || s.Len == 0 {
				t.Errorf("%d bytes, %v", s.Len, err)
			}
			s.Release()
			if err := m.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// reserved sees that a file has its blocks, where the file system can do that.
func reserved(t *testing.T, name string) {
	t.Helper()
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Blocks > 0 && st.Blocks*512 < fi.Size() {
		t.Errorf("%d of %d bytes are reserved", st.Blocks*512, fi.Size())
	}
}

// TestPreallocatedSegmentAfterKill: a sealed segment that was not cut yet when the process ended, and its successor.
func TestPreallocatedSegmentAfterKill(t *testing.T) {
	mem := vfs.NewMem()
	open := func(fsys vfs.FS) (*Manager, *Log) {
		t.Helper()
		m, err := Open(Options{FS: fsys, Dirs: []string{"/d"}, NodeID: 1, Defaults: preallocatedConfig()})
		if err != nil {
			t.Fatal(err)
		}
		l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, preallocatedConfig())
		if err != nil {
			t.Fatal(err)
		}
		return m, l
	}
	m, l := open(mem)
	appendValues(t, l, 70, 10_000) // rolls twice; the background, which cuts and names, did not come to it
	if l.Segments() != 3 {
		t.Fatalf("%d segments", l.Segments())
	}
	killed := mem.KillClone()
	again, r := open(killed)
	if r.LogEndOffset() != l.LogEndOffset() || r.Size() != l.Size() || r.Segments() != 3 {
		t.Errorf("%d segments with %d bytes up to %d, want 3 with %d up to %d", r.Segments(), r.Size(), r.LogEndOffset(), l.Size(), l.LogEndOffset())
	}
	var onDisk int64
	for _, size := range logSizes(t, killed, "/d/t-0") {
		onDisk += size
	}
	if onDisk != r.Size() {
		t.Errorf("%d bytes on disk, %d of them are records", onDisk, r.Size())
	}
	for _, m := range []*Manager{m, again} {
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoSpaceToPreallocate: as in Kafka a full disk takes the directory offline when a segment is begun, and who appends
// hears of a storage error.
func TestNoSpaceToPreallocate(t *testing.T) {
	full := vfs.Fault{Err: syscall.ENOSPC}
	open := func(rule vfs.Rule) *Manager {
		m, err := Open(Options{FS: vfs.NewFaulty(vfs.NewMem(), rule), Dirs: []string{"/d"}, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close(t.Context()) })
		return m
	}
	offline := func(m *Manager, err error) {
		t.Helper()
		if !errors.Is(err, kerr.KafkaStorageError) || !errors.Is(err, syscall.ENOSPC) || m.Dirs()[0].Err == nil {
			t.Errorf("%v, directory %v", err, m.Dirs()[0].Err)
		}
	}
	m := open(vfs.FailNth(0, full, vfs.OpReserve))
	_, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, preallocatedConfig())
	offline(m, err)

	m = open(vfs.FailNth(1, full, vfs.OpReserve))
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, preallocatedConfig())
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; err == nil; n++ {
		b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, []protocol.Record{{Value: make([]byte, 10_000)}})
		if _, err = l.AppendAsLeader(b, AppendOptions{Version: 9}); n > 100 {
			t.Fatal("no segment was begun")
		}
	}
	offline(m, err)
}
