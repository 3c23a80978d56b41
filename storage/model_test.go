package storage

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// model is a log as one would write it without files: a list of batches.
type model struct {
	batches []protocol.Batch // since the last full truncation, those below start too
	origin  int64            // where that began
	start   int64
	end     int64
}

func (m *model) clone() *model {
	return &model{slices.Clone(m.batches), m.origin, m.start, m.end}
}

func (m *model) append(stored []byte) {
	for len(stored) > 0 {
		b, rest, err := protocol.NextBatch(stored)
		if err != nil {
			panic(err)
		}
		b = slices.Clone(b)
		m.batches = append(m.batches, b)
		m.end = b.LastOffset() + 1
		stored = rest
	}
}

// truncate removes what is from off on; a batch that holds off goes whole.
func (m *model) truncate(off int64) {
	if off >= m.end {
		return
	}
	if off <= m.start {
		*m = model{origin: off, start: off, end: off}
		return
	}
	for n := len(m.batches); n > 0 && m.batches[n-1].LastOffset() >= off; n-- {
		m.batches = m.batches[:n-1]
	}
	m.end = m.origin
	if n := len(m.batches); n > 0 {
		m.end = m.batches[n-1].LastOffset() + 1
	}
	if m.end < m.start {
		*m = model{origin: m.end, start: m.end, end: m.end}
	}
}

// visible are the batches that a reader from start on sees.
func (m *model) visible() []protocol.Batch {
	i := sort.Search(len(m.batches), func(i int) bool { return m.batches[i].LastOffset() >= m.start })
	return m.batches[i:]
}

// facts are what follows from the batches.
type facts struct {
	producers []ProducerState
	unstable  int64
	aborted   []abortedTxn // by marker
	epochs    []EpochStart
}

func (m *model) facts() facts {
	f := facts{unstable: -1}
	byID := map[int64]*ProducerState{}
	for _, b := range m.batches {
		if n := len(f.epochs); b.LeaderEpoch() >= 0 && (n == 0 || f.epochs[n-1].Epoch < b.LeaderEpoch()) {
			f.epochs = append(f.epochs, EpochStart{b.LeaderEpoch(), b.BaseOffset()})
		}
		id := b.ProducerID()
		if id < 0 {
			continue
		}
		p := byID[id]
		if p == nil {
			p = &ProducerState{ProducerID: id, ProducerEpoch: -1, LastSequence: -1, CoordinatorEpoch: -1, TxnStartOffset: -1, LastOffset: -1}
			byID[id] = p
		}
		if p.ProducerEpoch != b.ProducerEpoch() {
			p.ProducerEpoch, p.LastSequence, p.LastOffset = b.ProducerEpoch(), -1, -1
		}
		p.LastTimestamp = b.MaxTimestamp()
		if b.IsControl() {
			kind, epoch, err := protocol.ParseControlBatch(b)
			if err != nil {
				panic(err)
			}
			p.CoordinatorEpoch = epoch
			if kind == protocol.ControlAbort && p.TxnStartOffset >= 0 {
				f.aborted = append(f.aborted, abortedTxn{producerID: id, firstOffset: p.TxnStartOffset, lastOffset: b.LastOffset()})
			}
			p.TxnStartOffset = -1
			continue
		}
		p.LastSequence, p.LastOffset = b.LastSequence(), b.LastOffset()
		if b.IsTransactional() && p.TxnStartOffset < 0 {
			p.TxnStartOffset = b.BaseOffset()
		}
	}
	for _, p := range byID {
		f.producers = append(f.producers, *p)
		if p.TxnStartOffset >= 0 && (f.unstable < 0 || p.TxnStartOffset < f.unstable) {
			f.unstable = p.TxnStartOffset
		}
	}
	sort.Slice(f.producers, func(i, j int) bool { return f.producers[i].ProducerID < f.producers[j].ProducerID })
	return f
}

// readAll reads a log from its start to its end, in reads of about maxBytes.
func readAll(l *Log, maxBytes int) ([]protocol.Batch, error) {
	var got []protocol.Batch
	end := l.LogEndOffset()
	for off := l.LogStartOffset(); off < end; {
		s, err := l.Read(off, maxBytes, end, true)
		if err != nil {
			return got, err
		}
		data, err := s.AppendTo(nil)
		s.Release()
		if err != nil {
			return got, err
		}
		n := len(got)
		for len(data) > 0 {
			b, rest, err := protocol.NextBatch(data)
			if protocol.IsBatchShort(err) && len(got) > n {
				break
			}
			if err != nil {
				return got, fmt.Errorf("read at %d: %w", off, err)
			}
			if !b.ValidCRC() {
				return got, fmt.Errorf("batch at %d: CRC", b.BaseOffset())
			}
			if b.LastOffset() >= s.UpTo {
				return got, fmt.Errorf("batch up to %d in a slice up to %d", b.LastOffset(), s.UpTo)
			}
			if b.LastOffset() < off {
				return got, fmt.Errorf("batch up to %d in a read from %d", b.LastOffset(), off)
			}
			got = append(got, b)
			data = rest
		}
		if len(got) == n {
			if len(data) == 0 && s.Len == 0 {
				return got, nil // records at the end were compacted away, or truncation left a gap
			}
			return got, fmt.Errorf("read at %d: nothing in %d bytes", off, s.Len)
		}
		off = got[len(got)-1].LastOffset() + 1
	}
	return got, nil
}

// compare checks that the log holds exactly the model's batches, and that everything else agrees with them.
func (m *model) compare(l *Log) error {
	if l.LogStartOffset() != m.start || l.LogEndOffset() != m.end {
		return fmt.Errorf("log is [%d, %d), model [%d, %d)", l.LogStartOffset(), l.LogEndOffset(), m.start, m.end)
	}
	got, err := readAll(l, 1500)
	if err != nil {
		return err
	}
	want := m.visible()
	if len(got) != len(want) {
		return fmt.Errorf("read %d batches, model has %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			return fmt.Errorf("batch %d at %d differs from the model's at %d", i, got[i].BaseOffset(), want[i].BaseOffset())
		}
	}
	return m.compareFacts(l)
}

func (m *model) compareFacts(l *Log) error {
	f := m.facts()
	if got := l.ActiveProducers(); !slices.Equal(got, f.producers) {
		return fmt.Errorf("producers\n%+v, model\n%+v", got, f.producers)
	}
	l.SetHighWatermark(m.end) // forgets the transactions that have ended
	unstable, ok := l.FirstUnstableOffset()
	if !ok {
		unstable = -1
	}
	want := f.unstable
	if want >= 0 {
		want = max(want, m.start)
	}
	if unstable != want {
		return fmt.Errorf("first unstable offset %d, model %d", unstable, want)
	}
	aborted, err := l.AbortedTxns(m.start, m.end)
	if err != nil {
		return err
	}
	first := (*l.segs.Load())[0].base
	var listed []AbortedTxn
	for _, t := range f.aborted {
		if t.lastOffset >= max(first, m.start) {
			listed = append(listed, AbortedTxn{t.producerID, t.firstOffset})
		}
	}
	if !slices.Equal(aborted, listed) {
		return fmt.Errorf("aborted %v, model %v", aborted, listed)
	}
	// Of an epoch without a record left nothing needs to be known, and of the first one not where it began.
	oldest := m.end
	for _, b := range m.batches {
		if b.LastOffset() >= first {
			oldest = b.BaseOffset()
			break
		}
	}
	if got, want := trimEpochs(l.EpochEntries(), oldest, m.end), trimEpochs(f.epochs, oldest, m.end); !slices.Equal(got, want) {
		return fmt.Errorf("epochs %v, model %v", got, want)
	}
	return m.compareTimes(l)
}

func trimEpochs(entries []EpochStart, oldest, end int64) []EpochStart {
	var out []EpochStart
	for _, e := range entries {
		if e.StartOffset <= oldest {
			e.StartOffset, out = oldest, out[:0]
		}
		if e.StartOffset < end {
			out = append(out, e)
		}
	}
	return out
}

// compareTimes searches for some timestamps.
func (m *model) compareTimes(l *Log) error {
	visible := m.visible()
	if len(visible) == 0 {
		return nil
	}
	for i := 0; i < len(visible); i += 1 + len(visible)/5 {
		ts := visible[i].MaxTimestamp()
		want := int64(-1)
		for _, b := range visible {
			if b.MaxTimestamp() >= ts {
				want = b.BaseOffset()
				break
			}
		}
		got, ok, err := l.OffsetForTimestamp(ts, m.end)
		// All records of a test batch have its timestamp.
		if err != nil || !ok || got.Offset != max(want, m.start) {
			return fmt.Errorf("offset for %d: %+v %v %v, want %d", ts, got, ok, err, want)
		}
	}
	return nil
}

// rig drives a log through random steps and keeps a model of it.
type rig struct {
	rng   *rand.Rand
	m     *Manager
	l     *Log
	model *model
	now   time.Time
	epoch int32
	cfg   LogConfig
	tried []byte // what the last append wrote or tried to
}

var rigPartition = TopicPartition{"crash", 0}

func rigConfig(rng *rand.Rand) LogConfig {
	cfg := DefaultLogConfig()
	cfg.SegmentBytes = int64(600 + rng.IntN(3000))
	cfg.IndexIntervalBytes = int32(100 + rng.IntN(400))
	cfg.RetentionBytes = -1
	cfg.RetentionMs = -1
	if rng.IntN(3) == 0 {
		cfg.RetentionBytes = int64(3000 + rng.IntN(9000))
	}
	if rng.IntN(4) == 0 {
		cfg.FlushMessages = int64(1 + rng.IntN(8))
	}
	cfg.FileDeleteDelayMs = 10_000
	cfg.Preallocate = rng.IntN(3) == 0
	return cfg
}

func (r *rig) open(fs vfs.FS) error { return r.openDirs(fs, "data") }

func (r *rig) openDirs(fs vfs.FS, dirs ...string) error {
	m, err := Open(Options{FS: fs, Dirs: dirs, NodeID: 1, Defaults: r.cfg, Now: func() time.Time { return r.now }, RecoveryThreads: 1})
	if err != nil {
		return err
	}
	l, err := m.CreateLog(rigPartition, TopicID{9}, r.cfg)
	if err != nil {
		return err
	}
	r.m, r.l = m, l
	return nil
}

func newRig(seed uint64) *rig {
	rng := rand.New(rand.NewPCG(seed, 1))
	return &rig{rng: rng, model: &model{}, now: time.UnixMilli(1_700_000_000_000), cfg: rigConfig(rng)}
}

// batch makes a batch that the log must take.
func (r *rig) batch() ([]byte, Origin) {
	n := 1 + r.rng.IntN(4)
	records := make([]protocol.Record, n)
	for i := range records {
		records[i] = protocol.Record{OffsetDelta: int32(i), Key: []byte{byte(i)}, Value: bytes.Repeat([]byte{byte(r.rng.Uint32())}, r.rng.IntN(120))}
	}
	p := protocol.BatchParams{BaseTimestamp: r.now.UnixMilli() - int64(r.rng.IntN(500))}
	id := int64(r.rng.IntN(4)) // 0: not idempotent
	if id == 0 {
		return protocol.AppendBatch(nil, p, records), Client
	}
	state := ProducerState{LastSequence: -1, TxnStartOffset: -1, CoordinatorEpoch: -1}
	for _, known := range r.model.facts().producers {
		if known.ProducerID == id {
			state = known
		}
	}
	if id > 1 && state.TxnStartOffset >= 0 && r.rng.IntN(3) == 0 {
		return protocol.AppendControlBatch(nil, protocol.ControlParams{
			TimestampMs: r.now.UnixMilli(), ProducerID: id, ProducerEpoch: state.ProducerEpoch,
			CoordinatorEpoch: max(state.CoordinatorEpoch, 0) + int32(r.rng.IntN(2)), Type: protocol.ControlType(r.rng.IntN(2)),
		}), Coordinator
	}
	epoch, seq := max(state.ProducerEpoch, 0), int32(0)
	if state.LastSequence >= 0 {
		seq = protocol.NextSequence(state.LastSequence, 1)
	}
	if state.TxnStartOffset < 0 && r.rng.IntN(10) == 0 {
		epoch, seq = epoch+1, 0
	}
	p.Producer = &protocol.Producer{ID: id, Epoch: epoch, BaseSequence: seq}
	p.Transactional = id > 1
	return protocol.AppendBatch(nil, p, records), Client
}

// step does one random thing to log and model. An error means that the disk failed.
func (r *rig) step() error {
	r.now = r.now.Add(time.Duration(r.rng.IntN(1000)) * time.Millisecond)
	switch k := r.rng.IntN(100); {
	case k < 70:
		return r.append()
	case k < 74:
		return r.replicate()
	case k < 80:
		return r.l.Flush()
	case k < 85:
		r.m.AwaitIdle()
	case k < 92:
		r.now = r.now.Add(time.Duration(r.rng.IntN(400)) * time.Second)
		r.m.Tick(r.now)
		r.model.start = max(r.model.start, r.l.LogStartOffset())
	case k < 95:
		return r.deleteRecords()
	case k < 99:
		return r.truncate()
	case r.rng.IntN(4) == 0:
		off := r.model.end + int64(r.rng.IntN(100))
		if err := r.l.TruncateFullyAndStartAt(off); err != nil {
			return err
		}
		*r.model = model{origin: off, start: off, end: off}
	}
	return r.l.Err()
}

func (r *rig) append() error {
	b, origin := r.batch()
	if r.rng.IntN(12) == 0 {
		r.epoch++
	}
	r.tried = b
	res, err := r.l.AppendAsLeader(b, AppendOptions{LeaderEpoch: r.epoch, Origin: origin, Version: 9, Now: r.now})
	if err != nil {
		return err
	}
	if res.FirstOffset != r.model.end || res.Duplicate {
		return fmt.Errorf("appended at %d, model ends at %d: %+v", res.FirstOffset, r.model.end, res)
	}
	r.model.append(b)
	if r.rng.IntN(4) > 0 {
		r.l.SetHighWatermark(r.model.end)
	}
	return nil
}

// replicate appends several batches at once, perhaps with gaps between them, as from a leader that compacts.
func (r *rig) replicate() error {
	var all []byte
	off := r.model.end
	for range 1 + r.rng.IntN(5) {
		off += int64(r.rng.IntN(2) * r.rng.IntN(5))
		b := protocol.Batch(protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: r.now.UnixMilli(), BaseOffset: off, LeaderEpoch: r.epoch}, three()))
		off = b.LastOffset() + 1
		all = append(all, b...)
	}
	r.tried = all
	if _, err := r.l.AppendAsFollower(all, math.MaxInt32); err != nil {
		return err
	}
	r.model.append(all)
	return nil
}

func (r *rig) deleteRecords() error {
	hw := r.l.HighWatermark()
	if hw <= r.model.start {
		return nil
	}
	off := r.model.start + r.rng.Int64N(hw-r.model.start+1)
	if err := r.l.SetLogStartOffset(off); err != nil {
		return err
	}
	r.model.start = max(r.model.start, off)
	return nil
}

func (r *rig) truncate() error {
	span := min(r.model.end-r.model.start, 30)
	if span == 0 {
		return nil
	}
	off := r.model.end - r.rng.Int64N(span)
	if err := r.l.TruncateTo(off); err != nil {
		return err
	}
	r.model.truncate(off)
	return nil
}

func TestModel(t *testing.T) {
	for seed := range uint64(60 / fewer) {
		r := newRig(seed)
		fs := vfs.NewMem()
		if err := r.open(fs); err != nil {
			t.Fatal(err)
		}
		for i := range 250 {
			if err := r.step(); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, i, err)
			}
			if i%10 == 0 {
				if err := r.model.compare(r.l); err != nil {
					t.Fatalf("seed %d step %d: %v", seed, i, err)
				}
			}
			if r.rng.IntN(60) == 0 { // a clean restart
				if err := r.m.Close(t.Context()); err != nil {
					t.Fatalf("seed %d step %d: close: %v", seed, i, err)
				}
				if err := r.open(fs); err != nil {
					t.Fatalf("seed %d step %d: open: %v", seed, i, err)
				}
				if !r.m.dirs[0].clean {
					t.Fatalf("seed %d: not clean", seed)
				}
				if err := r.model.compare(r.l); err != nil {
					t.Fatalf("seed %d step %d, after restart: %v", seed, i, err)
				}
			}
		}
	}
}
