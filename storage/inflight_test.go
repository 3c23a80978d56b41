package storage

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestSlicesOutliveTheirLog holds slices over everything that may happen to their segment: their bytes stay.
func TestSlicesOutliveTheirLog(t *testing.T) {
	for name, happen := range map[string]func(r *rig) error{
		"truncation":      func(r *rig) error { return r.l.TruncateTo(r.model.end - 1) },
		"deep truncation": func(r *rig) error { return r.l.TruncateTo(3) },
		"reset":           func(r *rig) error { return r.l.TruncateFullyAndStartAt(9) },
		"deletion":        func(r *rig) error { return r.m.DeleteLog(rigPartition) },
		"retention": func(r *rig) error {
			cfg := r.l.Config()
			cfg.RetentionBytes, cfg.FileDeleteDelayMs = 0, 0
			r.l.SetConfig(cfg)
			r.now = r.now.Add(time.Hour)
			r.m.Tick(r.now)
			r.m.Tick(r.now)
			return nil
		},
		"close": func(r *rig) error { return r.m.Close(t.Context()) },
	} {
		for _, fs := range []vfs.FS{vfs.NewMem(), vfs.OS{}} {
			t.Run(fmt.Sprintf("%s/%T", name, fs), func(t *testing.T) {
				r := newRig(3)
				r.cfg = DefaultLogConfig()
				r.cfg.SegmentBytes = 2000
				if err := r.openDirs(fs, t.TempDir()); err != nil {
					t.Fatal(err)
				}
				for range 40 {
					if err := r.append(); err != nil {
						t.Fatal(err)
					}
				}
				r.m.AwaitIdle()
				r.l.SetHighWatermark(r.model.end)
				var slices []Slice
				var want [][]byte
				for off := int64(0); off < r.model.end; off += 2 {
					s, err := r.l.Read(off, 1000, r.model.end, true)
					if err != nil {
						t.Fatal(err)
					}
					data, err := s.AppendTo(nil)
					if err != nil {
						t.Fatal(err)
					}
					slices, want = append(slices, s), append(want, data)
				}
				if err := happen(r); err != nil {
					t.Fatal(err)
				}
				if r.l.Err() == nil && !r.l.closed { // new records where the old ones were
					r.model.end = r.l.LogEndOffset()
					for range 20 {
						b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: r.now.UnixMilli()}, []protocol.Record{{Value: bytes.Repeat([]byte{0xff}, 300)}})
						if _, err := r.l.AppendAsLeader(b, AppendOptions{LeaderEpoch: 99, Version: 9, Now: r.now}); err != nil {
							t.Fatal(err)
						}
					}
				}
				for i := range slices {
					got, err := slices[i].AppendTo(nil)
					if err != nil || !bytes.Equal(got, want[i]) {
						t.Fatalf("slice %d: %v, or other bytes", i, err)
					}
					slices[i].Release()
					slices[i].Release()
				}
			})
		}
	}
}

// TestConcurrentUse has appenders, readers, retention, truncation of another log and flushes at once. Readers check that
// what they get is whole and in order. It is for the race detector.
func TestConcurrentUse(t *testing.T) {
	m, err := Open(Options{
		Dirs: []string{t.TempDir()}, NodeID: 1, FlushCheckInterval: time.Millisecond, RetentionCheckInterval: 2 * time.Millisecond,
		HighWatermarkInterval: 3 * time.Millisecond, RecoveryCheckpointInterval: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Start()
	cfg := DefaultLogConfig()
	cfg.SegmentBytes, cfg.RetentionBytes, cfg.FileDeleteDelayMs, cfg.FlushMs = 20_000, 100_000, 1, 1
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	const appenders, each = 3, 700
	var wg, readers sync.WaitGroup
	var done atomic.Bool
	for a := range appenders {
		wg.Go(func() {
			for i := range each {
				b := protocol.AppendBatch(nil, protocol.BatchParams{
					BaseTimestamp: time.Now().UnixMilli(), Producer: &protocol.Producer{ID: int64(a), BaseSequence: int32(i * 3)},
				}, three())
				res, err := l.AppendAsLeader(b, AppendOptions{LeaderEpoch: 1, Version: 9})
				if err != nil {
					t.Error(err)
					return
				}
				for hw := l.HighWatermark(); hw <= res.LastOffset; hw = l.HighWatermark() {
					l.SetHighWatermark(res.LastOffset + 1)
				}
				if i%100 == 0 {
					if err := l.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for off := int64(0); !done.Load() || off < l.LogEndOffset(); {
				s, err := l.Read(off, 5000, l.HighWatermark(), true)
				if errors.Is(err, kerr.OffsetOutOfRange) {
					off = l.LogStartOffset()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				data, err := s.AppendTo(nil)
				s.Release()
				if err != nil {
					t.Error(err)
					return
				}
				for len(data) > 0 {
					b, rest, err := protocol.NextBatch(data)
					if protocol.IsBatchShort(err) {
						break
					}
					if err != nil || !b.ValidCRC() || b.LastOffset() < off {
						t.Errorf("at %d: batch up to %d, %v", off, b.LastOffset(), err)
						return
					}
					off, data = b.LastOffset()+1, rest
				}
				l.LastStableOffset()
				l.EndOffsetForEpoch(1)
				l.OffsetForTimestamp(time.Now().UnixMilli()-5, l.HighWatermark())
			}
		})
	}
	wg.Wait()
	done.Store(true)
	readers.Wait()
	if end := l.LogEndOffset(); end != appenders*each*3 {
		t.Errorf("log ends at %d", end)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestReplacedSegments finds what an interrupted replacement of segments leaves: a complete one is finished, others go.
func TestReplacedSegments(t *testing.T) {
	build := func() (*vfs.Mem, *rig) {
		r := newRig(5)
		r.cfg = DefaultLogConfig()
		r.cfg.SegmentBytes = 1000
		fs := vfs.NewMem()
		if err := r.open(fs); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			if err := r.append(); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		return fs, r
	}
	fs, r := build()
	dir := "data/" + rigPartition.String() + "/"
	segs := *r.l.segs.Load()
	// The first two segments become one without their second batch.
	var merged []byte
	var gone protocol.Batch
	for i, b := range r.model.batches {
		if b.LastOffset() >= segs[2].base {
			break
		}
		if i == 1 {
			gone = b
			continue
		}
		merged = append(merged, b...)
	}
	put(t, fs, dir+fileName(0, logSuffix+cleanedSuffix), merged)
	put(t, fs, dir+fileName(segs[1].base, logSuffix+deletedSuffix), nil)
	unfinished := fs.KillClone()
	if err := fs.Rename(dir+fileName(0, logSuffix+cleanedSuffix), dir+fileName(0, logSuffix+swapSuffix)); err != nil {
		t.Fatal(err)
	}
	put(t, fs, dir+fileName(0, offsetsSuffix+swapSuffix), []byte{1, 2, 3})

	if err := r.open(unfinished); err != nil {
		t.Fatal(err)
	}
	if err := r.model.compare(r.l); err != nil {
		t.Fatalf("unfinished replacement: %v", err)
	}
	if err := r.open(fs); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(r.l, 700)
	if err != nil || len(got) != len(r.model.batches)-1 || got[1].BaseOffset() != gone.LastOffset()+1 || r.l.Segments() != len(segs)-1 {
		t.Fatalf("finished replacement: %d batches in %d segments, %v", len(got), r.l.Segments(), err)
	}
	infos, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range infos {
		if bytes.Contains([]byte(in.Name), []byte(swapSuffix)) || bytes.Contains([]byte(in.Name), []byte(cleanedSuffix)) {
			t.Errorf("%s is left", in.Name)
		}
	}
}
