package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

func compactConfig(segmentBytes int64) LogConfig {
	cfg := DefaultLogConfig()
	cfg.Compact, cfg.Delete, cfg.SegmentBytes, cfg.MinCleanableRatio = true, false, segmentBytes, 0
	return cfg
}

func openCompact(t *testing.T, fs vfs.FS, dir string, cfg LogConfig, c CleanerConfig) (*Manager, *Log) {
	t.Helper()
	m, err := Open(Options{FS: fs, Dirs: []string{dir}, Log: zerolog.Nop(), Defaults: cfg, NodeID: 1, Cleaner: c})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.CreateLog(TopicPartition{"__consumer_offsets", 7}, TopicID{7}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m, l
}

func appendKeyed(t *testing.T, l *Log, key, value []byte) {
	t.Helper()
	b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, []protocol.Record{{Key: key, Value: value}})
	res, err := l.AppendAsLeader(b, AppendOptions{Origin: Coordinator})
	if err != nil {
		t.Fatal(err)
	}
	l.SetHighWatermark(res.LastOffset + 1)
}

// offsetCommit is a record of __consumer_offsets: OffsetCommitKey version 1, OffsetCommitValue version 3.
func offsetCommit(group string, partition int32, offset int64) (key, value []byte) {
	text := func(b []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	key = text(text([]byte{0, 1}, group), "orders")
	key = binary.BigEndian.AppendUint32(key, uint32(partition))
	value = binary.BigEndian.AppendUint64([]byte{0, 3}, uint64(offset))
	value = binary.BigEndian.AppendUint32(value, 0xffffffff)
	value = text(value, "")
	return key, binary.BigEndian.AppendUint64(value, 1_700_000_000_000)
}

// TestCompactionOfCommits: many commits to a handful of keys leave a small log.
func TestCompactionOfCommits(t *testing.T) {
	fs := vfs.NewMem()
	m, l := openCompact(t, fs, "/data", compactConfig(1<<20), CleanerConfig{})
	const commits = 50_000
	for i := range commits {
		key, value := offsetCommit(fmt.Sprint("group-", i%3), int32(i%2), int64(i))
		appendKeyed(t, l, key, value)
	}
	before := l.Size()
	m.AwaitIdle()
	if n := m.Clean(time.Now()); n != 1 {
		t.Fatalf("%d logs cleaned", n)
	}
	active := l.active.size.Load()
	if rest := l.Size() - active; rest > 2000 || before < 5<<20 {
		t.Errorf("%d bytes, of %d, are left below the active segment", rest, before)
	}
	got, err := readCommitted(l, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]string{}
	for _, r := range got {
		last[string(r.key)] = string(r.value)
	}
	for i := commits - 6; i < commits; i++ {
		key, value := offsetCommit(fmt.Sprint("group-", i%3), int32(i%2), int64(i))
		if last[string(key)] != string(value) {
			t.Errorf("commit %d is lost", i)
		}
	}
	s := m.CleanerStats()
	if s.Cleanings != 1 || s.RecordsRead == 0 || s.RecordsRetained > 10 || s.BytesRead == 0 || s.LastRun.IsZero() {
		t.Errorf("%+v", s)
	}
	if n := m.Clean(time.Now()); n != 0 {
		t.Errorf("%d logs cleaned again", n)
	}
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestReadsDuringCompaction reads and appends while the cleaner's threads work, with little memory so that they work a lot.
func TestReadsDuringCompaction(t *testing.T) {
	cfg := compactConfig(4000)
	cfg.FileDeleteDelayMs = 0
	m, l := openCompact(t, vfs.NewMem(), "/data", cfg, CleanerConfig{
		Threads: 2, Backoff: time.Millisecond, DedupeBufferBytes: 100 * mapSlotSize, IOBufferBytes: 4096,
	})
	m.Start()
	var wg sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				first := min(l.HighWatermark(), 6000) // the keys up to there take turns
				got, err := readCommitted(l, 3000)
				if err != nil {
					t.Error(err)
					return
				}
				// The last record of every key that was there when reading began is there, or a later one.
				seen := map[string]int64{}
				for _, r := range got {
					if want := fmt.Sprint("value ", r.offset); !strings.HasPrefix(string(r.value), want) {
						t.Errorf("record at %d is %q", r.offset, r.value)
						return
					}
					seen[string(r.key)] = r.offset
				}
				for off := max(first-20, 0); off < first; off++ {
					if key := strconv.FormatInt(off%20, 10); seen[key] < off {
						t.Errorf("key %s of offset %d: last at %d", key, off, seen[key])
						return
					}
				}
			}
		})
	}
	for i := int64(0); i < 6000; i++ {
		value := append([]byte(fmt.Sprint("value ", i, " ")), bytes.Repeat([]byte{'x'}, 50)...)
		appendKeyed(t, l, []byte(strconv.FormatInt(i%20, 10)), value)
	}
	for m.CleanerStats().Cleanings < 3 {
		appendKeyed(t, l, []byte("more"), []byte(fmt.Sprint("value ", l.LogEndOffset(), " ")))
	}
	stop.Store(true)
	wg.Wait()
	m.SetCleaner(CleanerConfig{Disabled: true})
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestUncleanableLog: a log that cannot be cleaned stays as it is, the others are cleaned.
func TestUncleanableLog(t *testing.T) {
	fs := vfs.NewMem()
	m, l := openCompact(t, fs, "/data", compactConfig(2000), CleanerConfig{})
	other, err := m.CreateLog(TopicPartition{"other", 0}, TopicID{8}, compactConfig(2000))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		appendKeyed(t, l, []byte{1}, []byte(fmt.Sprint(i, " of very many")))
		appendKeyed(t, other, []byte{1}, []byte(fmt.Sprint(i, " of very many")))
	}
	m.AwaitIdle()
	f, err := fs.Open("/data/__consumer_offsets-7/" + fileName(0, logSuffix))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 200); err != nil {
		t.Fatal(err)
	}
	before, segments := l.Size(), l.Segments()
	if n := m.Clean(time.Now()); n != 1 {
		t.Fatalf("%d logs cleaned", n)
	}
	if u := m.CleanerStats().Uncleanable["/data"]; u.Logs != 1 || u.Bytes == 0 {
		t.Errorf("uncleanable: %+v", u)
	}
	if l.Size() != before || l.Segments() != segments || l.Err() != nil {
		t.Errorf("%d bytes in %d segments, were %d in %d: %v", l.Size(), l.Segments(), before, segments, l.Err())
	}
	if rest := other.Size() - other.active.size.Load(); rest > 500 {
		t.Errorf("the other log has %d bytes below its active segment", rest)
	}
	if err := m.DeleteLog(l.TopicPartition()); err != nil {
		t.Fatal(err)
	}
	if u := m.CleanerStats().Uncleanable["/data"]; u.Logs != 0 {
		t.Errorf("uncleanable after it was deleted: %+v", u)
	}
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestDedupeBufferTooSmall: a batch with more keys than the map takes makes the log uncleanable instead of being tried for
// ever.
func TestDedupeBufferTooSmall(t *testing.T) {
	m, l := openCompact(t, vfs.NewMem(), "/data", compactConfig(2000), CleanerConfig{DedupeBufferBytes: 4 * mapSlotSize})
	for range 20 {
		if _, err := l.AppendAsLeader(testBatch(20, 1, 10), AppendOptions{Version: 9}); err != nil {
			t.Fatal(err)
		}
	}
	l.SetHighWatermark(l.LogEndOffset())
	if n := m.Clean(time.Now()); n != 0 || m.CleanerStats().Uncleanable["/data"].Logs != 1 {
		t.Errorf("%d cleaned, %+v", n, m.CleanerStats())
	}
}

// TestCompactAndDelete: retention takes the oldest segments of a log with both policies, cleaned or not.
func TestCompactAndDelete(t *testing.T) {
	cfg := compactConfig(2000)
	cfg.Delete, cfg.RetentionMs = true, 3600_000
	m, l := openCompact(t, vfs.NewMem(), "/data", cfg, CleanerConfig{})
	for i := range 200 {
		appendKeyed(t, l, []byte(fmt.Sprint(i%10)), []byte("some value or other"))
	}
	m.AwaitIdle()
	if n := m.Clean(time.Now()); n != 1 || l.LogStartOffset() != 0 {
		t.Fatalf("%d cleaned, start %d", n, l.LogStartOffset())
	}
	m.Tick(time.Now().Add(2 * time.Hour))
	if start := l.LogStartOffset(); start != 200 || l.Size() != 0 {
		t.Errorf("starts at %d with %d bytes", start, l.Size())
	}
	for i := range 200 {
		appendKeyed(t, l, []byte(fmt.Sprint(i%10)), []byte("some value or other"))
	}
	m.AwaitIdle()
	if n := m.Clean(time.Now()); n != 1 {
		t.Errorf("%d cleaned", n)
	}
}

func TestOffsetMap(t *testing.T) {
	m := newOffsetMap(1<<20, 0.9, 1000)
	if len(m.slots) > 1200 {
		t.Errorf("%d slots for 1000 records", len(m.slots))
	}
	for i := range int64(1000) {
		if !m.put(fmt.Append(nil, i%700), i) {
			t.Fatal("full at", i)
		}
	}
	for i := range int64(800) {
		want := int64(-1)
		if i < 300 {
			want = i + 700
		} else if i < 700 {
			want = i
		}
		if got := m.get(fmt.Append(nil, i)); got != want {
			t.Errorf("key %d is at %d, want %d", i, got, want)
		}
	}
	small := newOffsetMap(10*mapSlotSize, 0.9, 1000)
	n := 0
	for small.put(fmt.Append(nil, n), 1) {
		n++
	}
	if n != 9 || small.utilization() != 1 || !small.put([]byte("0"), 2) || small.get([]byte("none")) != -1 {
		t.Errorf("%d keys in 10 slots", n)
	}
}

func TestThrottle(t *testing.T) {
	now := time.Unix(1000, 0)
	th := throttle{rate: 1000}
	if d := th.count(now, 500); d != 500*time.Millisecond {
		t.Error(d)
	}
	if d := th.count(now.Add(500*time.Millisecond), 1000); d != time.Second {
		t.Error(d)
	}
	if d := th.count(now.Add(time.Hour), 100); d != 100*time.Millisecond {
		t.Errorf("what was not used was saved up: %v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := th.wait(ctx, 1<<20); err == nil {
		t.Error("waited")
	}
}

// TestDumpCompacted has Kafka's tool read a cleaned __consumer_offsets partition; see TestDumpLogSegments.
func TestDumpCompacted(t *testing.T) {
	libs := os.Getenv("GREGOR_KAFKA_LIBS")
	if libs == "" {
		t.Skip("GREGOR_KAFKA_LIBS is not set")
	}
	root := t.TempDir()
	m, l := openCompact(t, vfs.OS{}, root, compactConfig(20_000), CleanerConfig{})
	for i := range 2000 {
		key, value := offsetCommit(fmt.Sprint("group-", i%3), int32(i%100), int64(i))
		if i%7 == 0 {
			value = nil
		}
		appendKeyed(t, l, key, value)
	}
	m.AwaitIdle()
	if n := m.Clean(time.Now()); n != 1 {
		t.Fatalf("%d logs cleaned", n)
	}
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "__consumer_offsets-7", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	var whole []string
	for _, f := range files {
		if !strings.HasSuffix(f, deletedSuffix) {
			whole = append(whole, f)
		}
	}
	for _, args := range [][]string{{"--index-sanity-check"}, {"--offsets-decoder", "--print-data-log"}, {"--deep-iteration"}} {
		out, err := exec.Command("java", append([]string{
			"-cp", libs + "/*", "org.apache.kafka.tools.DumpLogSegments", "--files", strings.Join(whole, ","),
		}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		for _, bad := range []string{"Mismatches", "Exception", "mismatch", "isvalid: false", "Corrupt", "out of order"} {
			if i := strings.Index(string(out), bad); i >= 0 {
				t.Errorf("%v: %s", args, out[max(0, i-500):min(len(out), i+1000)])
			}
		}
		if args[0] == "--offsets-decoder" && !strings.Contains(string(out), `"group":"group-1"`) {
			t.Errorf("no commits in\n%s", out[:min(len(out), 3000)])
		}
	}
}

// TestLostCheckpointsOfCompactedLog: recovery takes no gap that compaction left for a loss, if only one of the checkpoints
// that vouch for it is there.
func TestLostCheckpointsOfCompactedLog(t *testing.T) {
	for _, lost := range []string{recoveryPointFile, cleanerFile} {
		t.Run(lost, func(t *testing.T) {
			fs := vfs.NewMem()
			cfg := compactConfig(600)
			m, l := openCompact(t, fs, "/data", cfg, CleanerConfig{})
			for i := range 40 {
				// Those with numbers are alone in their segment's middle, so that all around them goes.
				key := []byte("often")
				if i%10 == 3 {
					key = fmt.Append(nil, i)
				}
				appendKeyed(t, l, key, bytes.Repeat([]byte{'v'}, 40))
			}
			end := l.LogEndOffset()
			m.AwaitIdle()
			if n := m.Clean(time.Now()); n != 1 {
				t.Fatal(n)
			}
			want, err := readCommitted(l, 1000)
			if err != nil {
				t.Fatal(err)
			}
			fs = fs.KillClone()
			if err := fs.Remove("/data/" + lost); err != nil {
				t.Fatal(err)
			}
			_, l = openCompact(t, fs, "/data", cfg, CleanerConfig{})
			l.SetHighWatermark(end)
			got, err := readCommitted(l, 1000)
			if err != nil || l.LogEndOffset() != end || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%d records up to %d, were %d up to %d: %v", len(got), l.LogEndOffset(), len(want), end, err)
			}
		})
	}
}

// TestCleanBeforeRollIsSealed: a segment that was flushed and rolled at the same offset has its indexes still to be
// written; a clean in between must not have the old ones written over the new.
func TestCleanBeforeRollIsSealed(t *testing.T) {
	fs := vfs.NewMem()
	cfg := compactConfig(500)
	cfg.IndexIntervalBytes = 1
	m, l := openCompact(t, fs, "/data", cfg, CleanerConfig{})
	appendKeyed(t, l, []byte("a"), bytes.Repeat([]byte{'v'}, 150))
	appendKeyed(t, l, []byte("b"), bytes.Repeat([]byte{'v'}, 20))
	appendKeyed(t, l, []byte("a"), bytes.Repeat([]byte{'v'}, 60))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	appendKeyed(t, l, []byte("c"), bytes.Repeat([]byte{'v'}, 200))
	if n := m.Clean(time.Now()); n != 1 || l.Segments() != 2 {
		t.Fatalf("%d cleaned, %d segments", n, l.Segments())
	}
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, l = openCompact(t, fs, "/data", cfg, CleanerConfig{})
	l.SetHighWatermark(l.LogEndOffset())
	s := (*l.segs.Load())[0]
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	if _, pos, n := s.offsets.searchOffset(2); n != 1 || pos != 89 {
		t.Errorf("%d index entries, the last for position %d of %d", n, pos, s.size.Load())
	}
	if got, err := readCommitted(l, 1); err != nil || len(got) != 3 {
		t.Errorf("%d records: %v", len(got), err)
	}
}
