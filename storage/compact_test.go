package storage

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// compactRig drives a compacted log with everything that matters to the cleaner, and remembers all that was appended: the
// naive model is that list.
type compactRig struct {
	pick func(n int) int // in [0, n)
	cfg  LogConfig
	opts CleanerConfig
	now  time.Time

	fs   vfs.FS
	dirs []string // default: /data
	m    *Manager
	l    *Log

	all  []compactRecord // by offset; control records are not in it
	end  int64
	seq  map[int64]int32
	open map[int64]bool // producers with an open transaction
	txn  map[int64]int  // number of the current transaction
	fate map[string]bool
}

// compactRecord is a record that was appended.
type compactRecord struct {
	offset int64
	ts     int64
	key    []byte
	value  []byte
	header string
	txn    string // "" or producer/number
	batch  int64  // last offset of its batch
}

var compactPartition = TopicPartition{"compacted", 0}

func newCompactRig(pick func(int) int) *compactRig {
	cfg := DefaultLogConfig()
	cfg.Compact, cfg.Delete = true, false
	cfg.SegmentBytes = int64(400 + pick(2000))
	cfg.IndexIntervalBytes = int32(1 + pick(500))
	cfg.DeleteRetentionMs = int64(pick(2)) * 5000
	cfg.MinCleanableRatio = []float64{0, 0.5}[pick(2)]
	if pick(4) == 0 {
		cfg.MinCompactionLagMs = 2000
	}
	if pick(4) == 0 {
		cfg.MaxCompactionLagMs = 9000
	}
	cfg.LogAppendTime = pick(4) == 0
	opts := CleanerConfig{IOBufferBytes: 2048, DedupeBufferBytes: mapSlotSize * int64(6+pick(3)*20)}
	return &compactRig{
		pick: pick, cfg: cfg, opts: opts, now: time.UnixMilli(1_700_000_000_000),
		seq: map[int64]int32{}, open: map[int64]bool{}, txn: map[int64]int{}, fate: map[string]bool{},
	}
}

func (r *compactRig) openOn(fs vfs.FS) error {
	dirs := r.dirs
	if dirs == nil {
		dirs = []string{"/data"}
	}
	m, err := Open(Options{
		FS: fs, Dirs: dirs, Log: zerolog.Nop(), Now: func() time.Time { return r.now }, Defaults: r.cfg,
		NodeID: 1, Cleaner: r.opts,
	})
	if err != nil {
		return err
	}
	r.fs, r.m = fs, m
	r.l, err = m.CreateLog(compactPartition, TopicID{1}, r.cfg)
	return err
}

// append appends a batch of any kind.
func (r *compactRig) append() error {
	r.now = r.now.Add(time.Duration(r.pick(200)) * time.Millisecond)
	kind := r.pick(10)
	switch {
	case kind < 4:
		return r.appendData(-1, false)
	case kind < 6:
		return r.appendData(int64(1+r.pick(2)), false)
	}
	id := int64(10 + r.pick(3))
	if r.open[id] && r.pick(2) == 0 {
		return r.appendMarker(id, r.pick(2) == 0)
	}
	return r.appendData(id, true)
}

func (r *compactRig) appendData(id int64, transactional bool) error {
	p := protocol.BatchParams{
		BaseTimestamp: r.now.UnixMilli(), Transactional: transactional,
		Codec: []protocol.Codec{0, 0, 0, protocol.Gzip, protocol.Snappy, protocol.LZ4, protocol.Zstd}[r.pick(7)],
	}
	if id >= 0 {
		p.Producer = &protocol.Producer{ID: id, BaseSequence: r.seq[id]}
	}
	txn := ""
	if transactional {
		if !r.open[id] {
			r.open[id] = true
			r.txn[id]++
		}
		txn = fmt.Sprint(id, "/", r.txn[id])
	}
	n := 1 + r.pick(4)
	records := make([]protocol.Record, n)
	for i := range records {
		rec := protocol.Record{OffsetDelta: int32(i), TimestampDelta: int64(r.pick(3)), Key: []byte(strconv.Itoa(r.pick(8)))}
		if r.pick(4) > 0 {
			rec.Value = []byte(fmt.Sprint("v", r.end, "-", i, string(bytes.Repeat([]byte{'x'}, r.pick(60)))))
		}
		if r.pick(5) == 0 {
			rec.Headers = []protocol.RecordHeader{{Key: []byte("h"), Value: []byte(fmt.Sprint(r.end))}}
		}
		records[i] = rec
	}
	res, err := r.l.AppendAsLeader(protocol.AppendBatch(nil, p, records), AppendOptions{Version: 9, Now: r.now})
	if err != nil {
		return err
	}
	for i, rec := range records {
		ts := p.BaseTimestamp + rec.TimestampDelta
		if r.cfg.LogAppendTime {
			ts = res.LogAppendTimeMs
		}
		r.all = append(r.all, compactRecord{
			offset: res.FirstOffset + int64(i), ts: ts, key: rec.Key, value: rec.Value,
			header: fmt.Sprint(rec.Headers), txn: txn, batch: res.LastOffset,
		})
	}
	if id >= 0 {
		r.seq[id] = protocol.NextSequence(r.seq[id], int32(n))
	}
	r.end = res.LastOffset + 1
	return nil
}

func (r *compactRig) appendMarker(id int64, commit bool) error {
	kind := protocol.ControlAbort
	if commit {
		kind = protocol.ControlCommit
	}
	b := protocol.AppendControlBatch(nil, protocol.ControlParams{TimestampMs: r.now.UnixMilli(), ProducerID: id, Type: kind})
	res, err := r.l.AppendAsLeader(b, AppendOptions{Origin: Coordinator, Now: r.now})
	if err != nil {
		return err
	}
	r.open[id] = false
	r.fate[fmt.Sprint(id, "/", r.txn[id])] = commit
	r.end = res.LastOffset + 1
	return nil
}

// read reads the log as a consumer of committed records does, up to the last stable offset.
func (r *compactRig) read() ([]compactRecord, error) { return readCommitted(r.l, 1+r.pick(3000)) }

func readCommitted(l *Log, maxBytes int) ([]compactRecord, error) {
	var out []compactRecord
	// The end is looked at again and again, as by a consumer: a record may be gone that has a later one beyond the end that
	// was seen first.
	for off := l.LogStartOffset(); off < l.LastStableOffset(); {
		s, err := l.Read(off, maxBytes, l.LastStableOffset(), true)
		if err != nil {
			return nil, err
		}
		data, err := s.AppendTo(nil)
		s.Release()
		if err != nil {
			return nil, err
		}
		if s.Len == 0 {
			break // the rest was cleaned away
		}
		aborted, err := s.Aborted()
		if err != nil {
			return nil, err
		}
		slices.SortFunc(aborted, func(a, b AbortedTxn) int { return int(a.FirstOffset - b.FirstOffset) })
		next, records, err := consume(data, off, aborted)
		if err != nil {
			return nil, err
		}
		if next == off {
			return nil, fmt.Errorf("no progress at %d with %d bytes", off, len(data))
		}
		off, out = next, append(out, records...)
	}
	return out, nil
}

// consume does what a consumer with isolation.level=read_committed does with a fetch response.
func consume(data []byte, from int64, aborted []AbortedTxn) (next int64, out []compactRecord, err error) {
	next = from
	bad := map[int64]bool{}
	for len(data) > 0 {
		b, rest, cut := protocol.NextBatch(data)
		if cut != nil {
			break // a response may end within a batch
		}
		data = rest
		if !b.ValidCRC() || b.BaseOffset() < next && b.LastOffset() < next {
			return 0, nil, fmt.Errorf("batch %d to %d, CRC %v, expected %d", b.BaseOffset(), b.LastOffset(), b.ValidCRC(), next)
		}
		for len(aborted) > 0 && aborted[0].FirstOffset <= b.LastOffset() {
			bad[aborted[0].ProducerID] = true
			aborted = aborted[1:]
		}
		if b.IsControl() {
			if kind, _, err := protocol.ParseControlBatch(b); err == nil && kind == protocol.ControlAbort {
				delete(bad, b.ProducerID())
			}
		} else if !b.IsTransactional() || !bad[b.ProducerID()] {
			if out, err = appendRecords(out, b, next); err != nil {
				return 0, nil, err
			}
		}
		next = b.LastOffset() + 1
	}
	return next, out, nil //nolint:nilerr // a response may end within a batch
}

func appendRecords(out []compactRecord, b protocol.Batch, from int64) ([]compactRecord, error) {
	var scratch []byte
	err := eachRecord(b, &scratch, func(rec protocol.Record) {
		ts := b.BaseTimestamp() + rec.TimestampDelta
		if b.LogAppendTime() {
			ts = b.MaxTimestamp()
		}
		if offset := b.BaseOffset() + int64(rec.OffsetDelta); offset >= from {
			out = append(out, compactRecord{
				offset: offset, ts: ts, key: bytes.Clone(rec.Key), value: bytes.Clone(rec.Value),
				header: fmt.Sprint(rec.Headers), batch: b.LastOffset(),
			})
		}
	})
	return out, err
}

// check compares what a consumer sees with the model.
func (r *compactRig) check() error {
	got, err := r.read()
	if err != nil {
		return err
	}
	if r.l.LogEndOffset() != r.end {
		return fmt.Errorf("log ends at %d instead of %d", r.l.LogEndOffset(), r.end)
	}
	if r.l.LastStableOffset() < r.l.cleaned.Load() {
		// A start knows of a transaction whose marker is above the high watermark only if it replays the marker: the clean
		// came after one that did not, this one did. What is stable now is so for as long as the watermark lags.
		return nil
	}
	return r.compare(got, r.l.LastStableOffset(), r.l.cleaned.Load())
}

// compare judges the committed records below stable, of which those below cleaned were cleaned.
func (r *compactRig) compare(got []compactRecord, stable, cleaned int64) error {
	byOffset := map[int64]compactRecord{}
	want := map[string]compactRecord{}
	for _, rec := range r.all {
		if rec.batch >= stable || (rec.txn != "" && !r.fate[rec.txn]) {
			continue
		}
		byOffset[rec.offset] = rec
		want[string(rec.key)] = rec
	}
	seen := map[string]compactRecord{}
	present := map[int64]bool{}
	for _, rec := range got {
		orig, ok := byOffset[rec.offset]
		if !ok {
			return fmt.Errorf("record at %d is seen but was never committed", rec.offset)
		}
		if !bytes.Equal(rec.key, orig.key) || !bytes.Equal(rec.value, orig.value) || (rec.value == nil) != (orig.value == nil) ||
			rec.ts != orig.ts || rec.header != orig.header || rec.batch != orig.batch {
			return fmt.Errorf("record at %d is %+v, was %+v", rec.offset, rec, orig)
		}
		if old, twice := seen[string(rec.key)]; twice && rec.offset < cleaned {
			return fmt.Errorf("key %s is at %d and %d, cleaned up to %d", rec.key, old.offset, rec.offset, cleaned)
		}
		seen[string(rec.key)] = rec
		present[rec.offset] = true
	}
	for key, rec := range want {
		if !present[rec.offset] && (rec.value != nil || r.now.UnixMilli()-rec.ts < r.cfg.DeleteRetentionMs) {
			return fmt.Errorf("the last record of key %s, at %d, is gone", key, rec.offset)
		}
		if old, ok := seen[key]; ok && old.offset != rec.offset && (rec.value != nil || old.value != nil) {
			return fmt.Errorf("key %s ends at %d, should at %d", key, old.offset, rec.offset)
		}
	}
	for _, off := range slices.Sorted(maps.Keys(byOffset)) {
		if off >= cleaned && !present[off] && cleaned >= 0 && off >= r.l.active.base {
			return fmt.Errorf("record at %d in the active segment is gone", off)
		}
	}
	return nil
}

// checkProducers has recovery make the producers anew from nothing but the batches, and compares what matters.
func (r *compactRig) checkProducers() error {
	want := r.l.ActiveProducers()
	ps := newProducers()
	for _, s := range *r.l.segs.Load() {
		if err := r.l.replaySegment(ps, s, 0, r.end, nil); err != nil {
			return err
		}
	}
	got := ps.list()
	if len(got) != len(want) {
		return fmt.Errorf("%d producers, should be %d", len(got), len(want))
	}
	for i := range got {
		if got[i].ProducerID != want[i].ProducerID || got[i].LastSequence != want[i].LastSequence ||
			got[i].ProducerEpoch != want[i].ProducerEpoch || got[i].LastOffset != want[i].LastOffset {
			return fmt.Errorf("producer is %+v, should be %+v", got[i], want[i])
		}
	}
	return nil
}

// TestCompactionModel appends, cleans and restarts at random.
func TestCompactionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newCompactRig(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") })
		mem := vfs.NewMem()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(r.openOn(mem))
		t.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) {
				for range 1 + r.pick(8) {
					must(r.append())
				}
			},
			"commit":     func(*rapid.T) { r.l.SetHighWatermark(r.end) },
			"lag":        func(*rapid.T) { r.l.SetHighWatermark(r.l.HighWatermark() + int64(r.pick(5))) },
			"housekeep":  func(*rapid.T) { r.m.AwaitIdle() },
			"wait":       func(*rapid.T) { r.now = r.now.Add(time.Duration(r.pick(8)) * time.Second) },
			"clean":      func(*rapid.T) { r.m.Clean(r.now) },
			"clean more": func(*rapid.T) { r.l.SetHighWatermark(r.end); r.m.Clean(r.now); r.m.Clean(r.now) },
			"restart": func(*rapid.T) {
				hw := r.l.HighWatermark()
				if r.pick(2) == 0 {
					must(r.m.Close(context.Background()))
				} else {
					r.m.AwaitIdle()
					mem = mem.KillClone()
				}
				must(r.openOn(mem))
				r.l.SetHighWatermark(hw)
			},
			"": func(*rapid.T) {
				must(r.check())
				must(r.checkProducers())
				must(r.l.Err())
				if s := r.m.CleanerStats().Uncleanable["/data"]; s.Logs > 0 {
					t.Fatalf("uncleanable: %+v", s)
				}
			},
		})
	})
}
