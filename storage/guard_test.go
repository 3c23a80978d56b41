package storage

import (
	"bytes"
	"strconv"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// The guards count what an append and a read cost in allocations and in calls to the file system. They must not grow.

func guardLog(t testing.TB, fs vfs.FS, dir string) *Log {
	m, err := Open(Options{FS: fs, Dirs: []string{dir}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.CreateLog(TopicPartition{"guard", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(t.Context()) })
	return l
}

// guardBatch is a batch that may be appended again and again, once its offset is 0 again.
func guardBatch(size int, p protocol.BatchParams) protocol.Batch {
	p.BaseTimestamp = time.Now().UnixMilli()
	return protocol.AppendBatch(nil, p, []protocol.Record{{Key: []byte("k"), Value: bytes.Repeat([]byte("v"), size)}})
}

func TestAppendAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("counts allocations")
	}
	l := guardLog(t, vfs.OS{}, t.TempDir())
	now := time.Now()
	strict := guardLog(t, vfs.OS{}, t.TempDir())
	cfg := DefaultLogConfig()
	cfg.Validation = Strict
	strict.SetConfig(cfg)
	for name, c := range map[string]struct {
		l *Log
		p protocol.BatchParams
	}{
		"plain":                {l, protocol.BatchParams{}},
		"compressed":           {l, protocol.BatchParams{Codec: protocol.LZ4}},
		"decompressed, lz4":    {strict, protocol.BatchParams{Codec: protocol.LZ4}},
		"decompressed, snappy": {strict, protocol.BatchParams{Codec: protocol.Snappy}},
		"decompressed, zstd":   {strict, protocol.BatchParams{Codec: protocol.Zstd}},
	} {
		l, b := c.l, guardBatch(20_000, c.p)
		appendOnce := func() {
			b.SetBaseOffset(0)
			if _, err := l.AppendAsLeader(b, AppendOptions{LeaderEpoch: 1, Version: 9, Now: now}); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			appendOnce()
		}
		// The index grows now and then.
		if n := testing.AllocsPerRun(1000, appendOnce); n > 0.1 {
			t.Errorf("%s: %v allocations per append", name, n)
		}
	}
}

func TestIdempotentAppendAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("counts allocations")
	}
	l := guardLog(t, vfs.OS{}, t.TempDir())
	now := time.Now()
	seq := int32(0)
	b := guardBatch(100, protocol.BatchParams{Producer: &protocol.Producer{ID: 7, BaseSequence: 0}})
	n := testing.AllocsPerRun(1000, func() {
		b.SetBaseOffset(0)
		put32(53, seq)(b)
		b.ResetCRC()
		seq++
		if _, err := l.AppendAsLeader(b, AppendOptions{LeaderEpoch: 1, Version: 9, Now: now}); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0.1 {
		t.Errorf("%v allocations per append", n)
	}
}

func TestReadAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("counts allocations")
	}
	l := guardLog(t, vfs.OS{}, t.TempDir())
	for range 2000 {
		if _, err := l.AppendAsLeader(guardBatch(500, protocol.BatchParams{}), AppendOptions{Version: 9}); err != nil {
			t.Fatal(err)
		}
	}
	end := l.LogEndOffset()
	buf := make([]byte, 0, 1<<20)
	for name, read := range map[string]func(){
		"tail": func() {
			s, err := l.Read(end-1, 1<<20, end, true)
			if err != nil || s.Len == 0 {
				t.Fatal(s, err)
			}
			s.Release()
		},
		"nothing new": func() {
			s, err := l.Read(end, 1<<20, end, true)
			if err != nil || s.Len != 0 {
				t.Fatal(s, err)
			}
			s.Release()
		},
		"middle": func() {
			s, err := l.Read(777, 100_000, end, true)
			if err != nil || s.Len == 0 {
				t.Fatal(s, err)
			}
			if buf, err = s.AppendTo(buf[:0]); err != nil {
				t.Fatal(err)
			}
			s.Release()
		},
	} {
		if n := testing.AllocsPerRun(500, read); n > 0.1 {
			t.Errorf("%s: %v allocations per read", name, n)
		}
	}
}

// TestFileCalls counts the calls to the file system: one write per append, none to find the tail.
func TestFileCalls(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	l := guardLog(t, faulty, "data")
	appendOne := func() {
		if _, err := l.AppendAsLeader(guardBatch(500, protocol.BatchParams{}), AppendOptions{LeaderEpoch: 3, Version: 9}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		appendOne()
	}
	count := func(f func()) int {
		faulty.SetRule(nil)
		f()
		return faulty.Ops()
	}
	if n := count(appendOne); n != 1 {
		t.Errorf("%d calls for an append", n)
	}
	end := l.LogEndOffset()
	for name, c := range map[string]struct {
		off, upTo int64
		max, want int
	}{
		"tail": {end - 1, end, 1 << 20, 0}, "below the high watermark": {end - 9, end - 3, 1 << 20, 0}, "nothing new": {end, end, 1 << 20, 0},
		"from the middle": {20, end, 1 << 20, 1}, "cut": {20, end, 10_000, 1},
	} {
		got := count(func() {
			s, err := l.Read(c.off, c.max, c.upTo, true)
			if err != nil {
				t.Fatal(err)
			}
			s.Release()
		})
		if got != c.want {
			t.Errorf("%s: %d calls for a read", name, got)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{100, 16_000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			l := guardLog(b, vfs.OS{}, b.TempDir())
			batch := guardBatch(size, protocol.BatchParams{})
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			now := time.Now()
			for b.Loop() {
				batch.SetBaseOffset(0)
				if _, err := l.AppendAsLeader(batch, AppendOptions{LeaderEpoch: 1, Version: 9, Now: now}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadTail(b *testing.B) {
	l := guardLog(b, vfs.OS{}, b.TempDir())
	for range 1000 {
		if _, err := l.AppendAsLeader(guardBatch(500, protocol.BatchParams{}), AppendOptions{Version: 9}); err != nil {
			b.Fatal(err)
		}
	}
	end := l.LogEndOffset()
	b.ReportAllocs()
	for b.Loop() {
		s, err := l.Read(end-1, 1<<20, end, true)
		if err != nil {
			b.Fatal(err)
		}
		s.Release()
	}
}
