package storage

import (
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestTruncateDropsEpochsWithoutRecords: a leader that wrote nothing in its
// epoch forgets the epoch when it has to truncate to where it ends already.
func TestTruncateDropsEpochsWithoutRecords(t *testing.T) {
	m, err := Open(Options{FS: vfs.NewMem(), Dirs: []string{"d"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, three())
	if _, err := l.AppendAsLeader(b, AppendOptions{LeaderEpoch: 3, Version: 9}); err != nil {
		t.Fatal(err)
	}
	if err := l.AssignEpoch(5, l.LogEndOffset()); err != nil {
		t.Fatal(err)
	}
	if err := l.TruncateTo(l.LogEndOffset()); err != nil {
		t.Fatal(err)
	}
	if e := l.LatestEpoch(); e != 3 {
		t.Errorf("the latest epoch is %d", e)
	}
}

// TestStoppedBeforeGranted: a process that ends cleanly before it got a broker
// epoch leaves the proof that it found.
func TestStoppedBeforeGranted(t *testing.T) {
	fs := vfs.NewMem()
	for life, want := range []int64{-1, 5, 5} {
		m, err := Open(Options{FS: fs, Dirs: []string{"d"}, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.PreviousBrokerEpoch(); got != want {
			t.Errorf("previous epoch %d in life %d", got, life)
		}
		if life == 0 {
			m.SetBrokerEpoch(5)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestShortenedLogIsNoCleanShutdown: whatever the marker says, a log that ends
// below its high watermark has lost what was committed (rule 17).
func TestShortenedLogIsNoCleanShutdown(t *testing.T) {
	for _, hw := range []int64{3, 4} {
		fs := vfs.NewMem()
		open := func() *Manager {
			m, err := Open(Options{FS: fs, Dirs: []string{"d"}, NodeID: 1, BrokerEpoch: 7})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := open()
		tp := TopicPartition{"t", 0}
		l, err := m.CreateLog(tp, TopicID{1}, DefaultLogConfig())
		if err != nil {
			t.Fatal(err)
		}
		b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, three())
		if _, err := l.AppendAsLeader(b, AppendOptions{Version: 9}); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := writeFileAtomic(fs, "d/"+highWatermarkFile, formatOffsets(map[TopicPartition]int64{tp: hw})); err != nil {
			t.Fatal(err)
		}
		want := int64(7)
		if hw > 3 {
			want = -1
		}
		if m := open(); m.PreviousBrokerEpoch() != want {
			t.Errorf("high watermark %d of 3 records: previous epoch %d", hw, m.PreviousBrokerEpoch())
		}
	}
}

// TestMissingLogIsNoCleanShutdown: nor is a log whose directory somebody has removed; where it was moved to another log
// directory, nothing is lost (rule 17).
func TestMissingLogIsNoCleanShutdown(t *testing.T) {
	for name, want := range map[string]int64{"nothing": 7, "removed": -1, "removed without records": 7, "moved": 7} {
		fs := vfs.NewMem()
		open := func() *Manager {
			m, err := Open(Options{FS: fs, Dirs: []string{"a", "b"}, NodeID: 1, BrokerEpoch: 7})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := open()
		for n, records := range [][]protocol.Record{three(), nil} { // t-0 in a, t-1 in b
			l, err := m.CreateLog(TopicPartition{"t", int32(n)}, TopicID{1}, DefaultLogConfig())
			if err != nil {
				t.Fatal(err)
			}
			if records == nil {
				continue
			}
			b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, records)
			if _, err := l.AppendAsLeader(b, AppendOptions{Version: 9}); err != nil {
				t.Fatal(err)
			}
			l.SetHighWatermark(l.LogEndOffset())
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		var err error
		switch name {
		case "removed":
			err = fs.Rename("a/t-0", "elsewhere")
		case "removed without records":
			err = fs.Rename("b/t-1", "elsewhere")
		case "moved":
			err = fs.Rename("a/t-0", "b/t-0")
		}
		if err != nil {
			t.Fatal(err)
		}
		if m := open(); m.PreviousBrokerEpoch() != want {
			t.Errorf("%s: previous epoch %d", name, m.PreviousBrokerEpoch())
		}
	}
}
