package runtime

import "time"

// Record is one record of a coordinator's topic. A nil Value is a tombstone.
type Record struct {
	Key, Value []byte
}

// Size is what the record takes of a batch at most.
func (r Record) Size() int { return recordOverhead + len(r.Key) + len(r.Value) }

// recordOverhead is what a record takes at most beside its key and value: its
// attributes, the delta of a timestamp that is the batch's own, that it has no
// headers, and the varints of its length, its offset, its key and its value.
const recordOverhead = 1 + 1 + 1 + 4*5

// Producer is the transactional producer on whose behalf records are written
// (TxnOffsetCommit, KIP-98): they take effect when its transaction commits.
type Producer struct {
	ID    int64
	Epoch int16
}

// Marker ends the transaction of a producer on this partition.
type Marker struct {
	Producer         Producer
	Commit           bool
	CoordinatorEpoch int32
	// Version is the transaction version of the producer (KIP-890): from 2 on
	// the log takes only an epoch that it has not seen. It is not part of what
	// is written.
	Version int16
}

// Ticket names a caller who waits for a reply.
type Ticket uint64

// Reply answers the caller who holds the ticket. With Err set the caller gets
// that instead of the response.
type Reply struct {
	Ticket   Ticket
	Response any
	Err      error
}

// Timer sets the timer of the given key to go off at At, replacing one that is
// set already. A zero At cancels it.
type Timer struct {
	Key string
	At  time.Time
}

// Result is what a handler wants to happen.
type Result struct {
	// Records are appended in this order and, unless they are Divisible, atomically.
	Records []Record
	// SkipReplay keeps Records from being replayed here: the handler has
	// changed the state already. They must describe just that state, for it is
	// what a load finds.
	SkipReplay bool
	// Refusable tells that Records or Marker are all that the handler's caller
	// asked for and nothing of it is done yet. While too few replicas are in sync
	// the caller alone is refused; of other results the state must be loaded again.
	Refusable bool
	// Check says whether the log takes Records or Marker, which are not replayed
	// yet. It is asked when all that was handled before is in the log, but for what
	// the same Producer wrote: a handler that asks for itself would not see what
	// waits for the same append. With an error the caller alone is refused.
	Check func() error
	// Refused answers the handler's caller at once, without waiting for what was
	// written before, and is all that happens but for the timers.
	Refused error
	// Divisible tells that each of Records is good without the others: those
	// that one append does not take are written in several.
	Divisible bool
	// Producer is set if Records belong to its transaction.
	Producer *Producer
	// Marker is written instead of Records.
	Marker *Marker
	// Replies leave after Records are committed. A handler may answer its own
	// caller, others that were parked before, or nobody yet.
	Replies []Reply
	Timers  []Timer
	// Effects are handed to Options.OnEffect, in this order, once Records are
	// committed: what must happen outside of the shard because of them, and
	// must not if they are lost. A load forgets what it finds undone; Loaded
	// has to ask for it again.
	Effects []any
}

// Shard is the state of one partition of a coordinator's topic. All methods
// are called by one goroutine; none may block or read a clock.
type Shard interface {
	// Replay applies a record that is in the log, or is about to be. The
	// record's bytes are only valid during the call. An error is corruption: it
	// stops the shard.
	Replay(offset int64, producer *Producer, r Record) error
	// ReplayMarker applies the end of a producer's transaction.
	ReplayMarker(offset int64, m Marker) error
	// Loaded is called when the log has been replayed, before the first
	// request, to set timers and to write what a change of leaders asks for.
	Loaded(now time.Time) Result
	// Timeout is called when a timer went off.
	Timeout(now time.Time, key string) Result
}

// Wholly runs what a request does to a shard's state so that all of it happens or
// nothing.
//
// Handlers change the state before their records are appended, so that a failed
// append costs the state of the whole shard: it has to be loaded again. That too few
// replicas are in sync is known beforehand, as writable says, and lasts. Then what
// remember returns puts the state back if the handler wrote anything, and its caller
// alone is refused; what only reads, and what is not in the log, goes on.
func Wholly(writable func() error, remember func() (undo func()), handle func() Result) Result {
	err := writable()
	if err == nil {
		return handle()
	}
	undo := remember()
	r := handle()
	if len(r.Records) == 0 {
		return r
	}
	undo()
	return Result{Refused: err}
}

// PartitionLog is the replicated log under a shard, as the leader sees it.
type PartitionLog interface {
	// Append writes one batch and returns the offset of its first record. It
	// returns before the batch is committed. It refuses a batch whose leader
	// epoch is not the partition's, so that a shard which has not yet heard of
	// its successor cannot write behind its back.
	Append(b Batch) (firstOffset int64, err error)
	// Writable is the error with which Append would fail now because too few
	// replicas are in sync, nil if enough are.
	Writable() error
	// MaxBatchBytes bounds the records of one batch ([Record.Size]). It may change
	// at any time.
	MaxBatchBytes() int
	// Read appends whole batches from the offset on to buf: at least one, and
	// at most about maxBytes; none at the end of the log.
	Read(offset int64, maxBytes int, buf []byte) ([]byte, error)
	// Bounds returns the log start offset, the high watermark, and the log end
	// offset.
	Bounds() (start, highWatermark, end int64, err error)
	// OnHighWatermark has fn called whenever the high watermark moved, until
	// stop is called. fn does not block.
	OnHighWatermark(fn func(highWatermark int64)) (stop func())
}

// Batch is what is appended at once.
type Batch struct {
	LeaderEpoch int32
	Timestamp   time.Time
	Records     []Record
	Producer    *Producer
	Marker      *Marker
}
