package storage

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// env is what a log needs of its surroundings.
type env struct {
	fs    vfs.FS
	cache *segmentCache
	log   zerolog.Logger
	now   func() time.Time
	// inflater is shared by all logs.
	inflater *inflater
	// nudge asks the background loop to call Log.housekeep soon. It never blocks.
	nudge func(*Log)
	// remove asks for a file to be removed at a time.
	remove func(name string, at time.Time)
	// lowerCheckpoints makes durable that the log neither begins nor is flushed beyond off, before it is truncated there.
	lowerCheckpoints func(l *Log, off int64) error
}

// Log is one partition on disk. All methods may be called from any goroutine.
type Log struct {
	env
	tp   TopicPartition
	dir  *logDir
	path string
	id   atomic.Pointer[TopicID]
	cfg  atomic.Pointer[LogConfig]

	// hk serialises housekeeping: flush, sealing, retention, truncation, close. It is taken before mu and may be held
	// over fsync and rename; an append never waits for it, except for the fsync that flush.messages asks of it.
	hk             sync.Mutex
	recoveryPoint  atomic.Int64      // everything below is durable; written under hk
	dirUnsynced    bool              // names in the log's directory changed since the last SyncDir. hk
	parentUnsynced bool              // so did the log's own name. hk
	idUnsynced     bool              // partition.metadata was written since. hk
	snapshots      []pendingSnapshot // hk
	lastFlush      time.Time         // hk

	// mu is the append lock. Under it: no fsync, no rename, no create.
	mu        sync.Mutex
	closed    bool
	active    *segment
	out       *handle // of active, once it was written to
	ready     bool    // active's indexes are loaded for appending
	touched   bool    // something changed since the last clean shut-down
	producers *producers
	spare     *spare
	spareSeq  int64
	seals     []seal // rolled, not yet renamed and sealed
	jitterMs  int64  // of the active segment
	queued    bool   // housekeep is under way or asked for

	spareMu sync.Mutex // one maker of a spare at a time; before mu

	epochMu sync.RWMutex // innermost
	epochs  epochCache

	segs          atomic.Pointer[[]*segment] // ascending; replaced as a whole under mu
	start         atomic.Int64               // log start offset; written under mu
	hw            atomic.Int64
	firstUnstable atomic.Int64 // -1: none; written under mu
	txnsEnded     atomic.Bool  // producers.ended is not empty; written under mu

	tailMu sync.RWMutex // innermost; guards tail, held for a few instructions
	tail   tail

	cleaned atomic.Int64 // where the next clean begins; -1: never cleaned. Written under logDir.ckptMu
	cuts    int64        // how often the log was truncated. logDir.ckptMu
	// lowestCut is how far down it was truncated since a Move looked, math.MaxInt64 if it was not. logDir.ckptMu
	lowestCut int64

	removed atomic.Bool // by DeleteLog
	moving  atomic.Bool // a Move is under way

	shortened bool // found shorter than the checkpointed high watermark when it was loaded
}

// tail is where the log ends: what readers need to know of the active segment, always in step with each other.
type tail struct {
	seg   *segment
	size  int64 // of seg
	end   int64 // log end offset
	marks [tailMarks]mark
	next  int // where the next mark goes
}

// mark remembers where a recent batch stands, so that a read at the tail needs no search in the file.
type mark struct{ offset, pos int64 }

const tailMarks = 32

// add notes the batch at offset and pos, and the new end behind it.
func (t *tail) add(offset, pos, size, end int64) {
	t.marks[t.next] = mark{offset, pos + 1} // 0 means unused
	t.next = (t.next + 1) % tailMarks
	t.size, t.end = size, end
}

func (t *tail) find(offset int64) (pos int64, ok bool) {
	for i := range t.marks {
		if m := &t.marks[i]; m.offset == offset && m.pos > 0 {
			return m.pos - 1, true
		}
	}
	return 0, false
}

// setTail moves the end of the log. Under mu.
func (l *Log) setTail(seg *segment, size, end int64) {
	l.tailMu.Lock()
	l.tail = tail{seg: seg, size: size, end: end}
	l.tailMu.Unlock()
}

// TopicPartition names the log.
func (l *Log) TopicPartition() TopicPartition { return l.tp }

// ID is the topic id, zero if none was ever stored.
func (l *Log) ID() TopicID { return *l.id.Load() }

// Dir is the log directory (one of Options.Dirs) that holds the log.
func (l *Log) Dir() string { return l.dir.path }

// Config returns the configuration in force.
func (l *Log) Config() LogConfig { return *l.cfg.Load() }

// SetConfig replaces the configuration; it holds for appends and background work from now on.
func (l *Log) SetConfig(cfg LogConfig) { l.cfg.Store(&cfg) }

// Err is not nil if the log's directory is offline: kerr.KafkaStorageError with the cause.
func (l *Log) Err() error { return l.dir.err() }

// LogStartOffset is the first offset that may be read.
func (l *Log) LogStartOffset() int64 { return l.start.Load() }

// LogEndOffset is the offset of the next record to be appended.
func (l *Log) LogEndOffset() int64 {
	l.tailMu.RLock()
	defer l.tailMu.RUnlock()
	return l.tail.end
}

// RecoveryPoint is the offset below which everything is durable.
func (l *Log) RecoveryPoint() int64 { return l.recoveryPoint.Load() }

// HighWatermark is what SetHighWatermark said last, within [LogStartOffset, LogEndOffset]; after Open, what the
// checkpoint said.
func (l *Log) HighWatermark() int64 { return l.hw.Load() }

// SetHighWatermark tells the log how far it is committed. It returns the high watermark in force, which differs from hw
// when that was out of range.
func (l *Log) SetHighWatermark(hw int64) int64 {
	hw = max(min(hw, l.LogEndOffset()), l.start.Load())
	l.hw.Store(hw)
	if l.txnsEnded.Load() {
		l.mu.Lock()
		l.producers.passWatermark(l.hw.Load())
		l.publishTxns()
		l.mu.Unlock()
	}
	return hw
}

// publishTxns makes the state of transactions visible to readers. Under mu.
func (l *Log) publishTxns() {
	off := l.producers.firstUnstable()
	if off >= 0 {
		off = max(off, l.start.Load()) // where the transaction began may be deleted
	}
	l.firstUnstable.Store(off)
	l.txnsEnded.Store(len(l.producers.ended) > 0)
}

// FirstUnstableOffset is the first offset of the earliest transaction that is open or whose end is not below the high
// watermark.
func (l *Log) FirstUnstableOffset() (int64, bool) {
	off := l.firstUnstable.Load()
	return off, off >= 0
}

// LastStableOffset is the high watermark or the first unstable offset if that is lower.
func (l *Log) LastStableOffset() int64 {
	hw := l.hw.Load()
	if off := l.firstUnstable.Load(); off >= 0 && off < hw {
		return off
	}
	return hw
}

// Size is the number of bytes in all segments.
func (l *Log) Size() int64 {
	var n int64
	for _, s := range *l.segs.Load() {
		n += s.size.Load()
	}
	return n
}

// Segments is the number of segments.
func (l *Log) Segments() int { return len(*l.segs.Load()) }

// LatestEpoch is the leader epoch of the last entry in the epoch file, or -1.
func (l *Log) LatestEpoch() int32 {
	l.epochMu.RLock()
	defer l.epochMu.RUnlock()
	return l.epochs.latest()
}

// EpochEntries returns a copy of the leader-epoch entries.
func (l *Log) EpochEntries() []EpochStart {
	l.epochMu.RLock()
	defer l.epochMu.RUnlock()
	return append([]EpochStart(nil), l.epochs.entries...)
}

// EndOffsetForEpoch answers OffsetForLeaderEpoch: the largest epoch that is not above the one asked for, and where it
// ended. (-1, -1) if unknown.
func (l *Log) EndOffsetForEpoch(epoch int32) (foundEpoch int32, endOffset int64) {
	end := l.LogEndOffset()
	l.epochMu.RLock()
	defer l.epochMu.RUnlock()
	return l.epochs.endOffset(epoch, end)
}

// AssignEpoch notes that epoch begins at startOffset. A new leader calls it; appends do it themselves. The file follows
// with the next flush, checkpoint or close, and always before the recovery point passes a record of that epoch: until
// then recovery finds the epoch in the batches.
func (l *Log) AssignEpoch(epoch int32, startOffset int64) error {
	if err := l.dir.err(); err != nil {
		return err
	}
	l.epochMu.Lock()
	l.epochs.assign(epoch, startOffset)
	l.epochMu.Unlock()
	return nil
}

// ActiveProducers returns the state of every known producer, sorted by id.
func (l *Log) ActiveProducers() []ProducerState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers.list()
}

// Producers returns how many producers are known, and when the one with the earliest open transaction wrote last, in ms;
// -1 if no transaction is open.
func (l *Log) Producers() (known int, oldestTxnMs int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.producers.byID), l.producers.oldestTxnMs()
}

// usable says whether the log may be worked on. Under mu.
func (l *Log) usable() error {
	if err := l.dir.err(); err != nil {
		return err
	}
	if l.closed {
		return clientErrorf(kerr.NotLeaderForPartition, "log %s is closed", l.tp)
	}
	return nil
}

// inService is usable for who has hk: the log is neither closed nor deleted before hk is let go.
func (l *Log) inService() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usable()
}

// floorSegment returns the index of the last segment whose base is at most offset, or -1.
func floorSegment(segs []*segment, offset int64) int {
	return sort.Search(len(segs), func(i int) bool { return segs[i].base > offset }) - 1
}
