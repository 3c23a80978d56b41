package storage

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// busyDisk takes a while for each fsync, in which it takes others.
type busyDisk struct {
	vfs.FS
	fsync time.Duration
}

type busyFile struct {
	vfs.File
	fsync time.Duration
}

func (d busyDisk) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return busyFile{f, d.fsync}, nil
}

func (d busyDisk) Create(name string) (vfs.File, error)       { return d.file(d.FS.Create(name)) }
func (d busyDisk) Open(name string) (vfs.File, error)         { return d.file(d.FS.Open(name)) }
func (d busyDisk) OpenOrCreate(name string) (vfs.File, error) { return d.file(d.FS.OpenOrCreate(name)) }

func (d busyDisk) SyncDir(dir string) error {
	time.Sleep(d.fsync)
	return d.FS.SyncDir(dir)
}

func (f busyFile) Sync() error {
	time.Sleep(f.fsync)
	return f.File.Sync()
}

// TestCloseOnABusyDisk: a broker with many logs that were written to has flushed
// and marked them clean within seconds, though each fsync takes long: what kills a
// process that is slow to end waits no longer.
func TestCloseOnABusyDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		m, err := Open(Options{FS: busyDisk{mem, 20 * time.Millisecond}, Dirs: []string{"a", "b"}, NodeID: 1, BrokerEpoch: 7})
		if err != nil {
			t.Fatal(err)
		}
		for i := range int32(1200) {
			l, err := m.CreateLog(TopicPartition{"t", i}, TopicID{1}, DefaultLogConfig())
			if err != nil {
				t.Fatal(err)
			}
			b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, three())
			if _, err := l.AppendAsLeader(b, AppendOptions{Version: 9}); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		again, err := Open(Options{FS: mem, Dirs: []string{"a", "b"}, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := again.PreviousBrokerEpoch(); got != 7 {
			t.Errorf("the mark says broker epoch %d, want 7", got)
		}
		if err := again.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestFirstFlushAfterACleanStop: of a log that was never used a clean stop syncs nothing, so that the first flush after it
// has to sync all of it, its name and its topic id too. Without the id it would be set aside as stray.
func TestFirstFlushAfterACleanStop(t *testing.T) {
	tp, id := TopicPartition{"t", 0}, TopicID{1}
	open := func(fs vfs.FS) *Manager {
		m, err := Open(Options{FS: fs, Dirs: []string{"data"}, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for stops := 1; stops <= 2; stops++ {
		mem := vfs.NewMem()
		m := open(mem)
		if _, err := m.CreateLog(tp, id, DefaultLogConfig()); err != nil {
			t.Fatal(err)
		}
		for range stops {
			if err := m.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			m = open(mem)
		}
		l, err := m.CreateLog(tp, id, DefaultLogConfig())
		if err != nil {
			t.Fatal(err)
		}
		b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, three())
		if _, err := l.AppendAsLeader(b, AppendOptions{Version: 9}); err != nil {
			t.Fatal(err)
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(100) {
			again := open(mem.CrashClone(seed))
			if l := again.Log(tp); l == nil || l.ID() != id || l.LogEndOffset() != 3 {
				t.Errorf("%d stops, seed %d: the flushed log is %+v", stops, seed, l)
			}
			if err := again.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if t.Failed() {
				break
			}
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
