package txn

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// Config is what the coordinator's settings say.
type Config struct {
	// MaxTimeout is transaction.max.timeout.ms.
	MaxTimeout time.Duration
	// IDExpiration is transactional.id.expiration.ms.
	IDExpiration time.Duration
	// TimeoutInterval and ExpirationInterval are how often timed out
	// transactions and expired ids are looked for
	// (transaction.abort.timed.out.transaction.cleanup.interval.ms,
	// transaction.remove.expired.transaction.cleanup.interval.ms).
	TimeoutInterval, ExpirationInterval time.Duration
	// MaxRecordBytes bounds the record of one transaction, and with it the
	// number of its partitions.
	MaxRecordBytes int
	// Version is the finalized level of transaction.version. It may rise while
	// the shard runs.
	Version func() int16

	// Count is told what happens, by all shards; it may be nil.
	Count func(Event)
}

// Shard holds the transactions of one partition of __transaction_state. It
// satisfies runtime.Shard.
type Shard struct {
	cfg *Config
	ids map[string]*transaction
	// waiting are requests for partitions, by transactional id, that wait for
	// the transaction before to complete. Each is tried once more then.
	waiting map[string][]waiter
	// writable is the error with which records would be refused now because too
	// few replicas are in sync.
	writable func() error
}

type waiter struct {
	ticket runtime.Ticket
	req    AddPartitions
	until  time.Time
}

// NewShard returns a shard without transactions. writable is the error with which
// its records would be refused now because too few replicas are in sync; see
// runtime.PartitionLog.
func NewShard(cfg *Config, writable func() error) *Shard {
	return &Shard{cfg: cfg, ids: make(map[string]*transaction), waiting: make(map[string][]waiter), writable: writable}
}

// SendMarkers is the effect of a decision that is committed: markers are to be
// written to the partitions, however long it takes, and then Complete called.
// The coordinator epoch is that of the shard.
type SendMarkers struct {
	TransactionalID string
	ProducerID      int64
	Epoch           int16
	Commit          bool
	// Version is the transaction version by whose rules the markers are judged.
	Version    int16
	Partitions []TopicPartition
	// DecidedMs is when it was decided: a producer that keeps its epoch has many
	// transactions that look the same but for this.
	DecidedMs int64
}

// NeedProducerID is the response to a request that cannot be answered without
// a new producer id: it is to be made again with one.
type NeedProducerID struct{}

// Timers' keys.
const (
	timerTimeouts    = "timeouts"
	timerExpiration  = "expiration"
	timerWaiterStart = "w" // followed by a transactional id
)

// step collects what one input makes happen.
type step struct {
	now time.Time
	runtime.Result
}

func (st *step) nowMs() int64 { return st.now.UnixMilli() }

func (st *step) reply(t runtime.Ticket, response any) {
	st.Replies = append(st.Replies, runtime.Reply{Ticket: t, Response: response})
}

// put writes the next state of a transaction.
func (s *Shard) put(st *step, next *transaction) {
	if old := s.ids[next.id]; old != nil {
		next.prevProducerID = old.producerID
	}
	st.Records = append(st.Records, next.record(s.valueVersion(next)))
}

func (s *Shard) valueVersion(tx *transaction) int16 {
	if s.cfg.Version() > 0 || tx.version >= V2 {
		return 1 // flexible: the only one that holds what version 2 needs
	}
	return 0
}

// Replay applies a record; see runtime.Shard.
func (s *Shard) Replay(_ int64, _ *runtime.Producer, r runtime.Record) error {
	if len(r.Key) < 2 {
		return fmt.Errorf("a record's key has %d bytes, less than its version takes", len(r.Key))
	}
	if v := int16(binary.BigEndian.Uint16(r.Key)); v != 0 {
		return nil // of a later version, as Kafka: skipped
	}
	k := kmsg.NewTxnMetadataKey()
	if err := k.ReadFrom(r.Key); err != nil {
		return fmt.Errorf("key of a transaction: %w", err)
	}
	if r.Value == nil {
		delete(s.ids, k.TransactionalID)
		return nil
	}
	tx, err := parse(k.TransactionalID, r.Value)
	if err != nil {
		return fmt.Errorf("transaction of %q: %w", k.TransactionalID, err)
	}
	if old := s.ids[tx.id]; old != nil {
		tx.lastEpoch = old.lastEpoch
	}
	s.ids[tx.id] = tx
	return nil
}

// ReplayMarker: there are no transactions on __transaction_state itself, so a marker
// that got there, as Kafka's brokers write it if they are asked to, ends nothing.
func (s *Shard) ReplayMarker(int64, runtime.Marker) error { return nil }

// Loaded asks for the markers of all transactions whose end is decided.
func (s *Shard) Loaded(now time.Time) runtime.Result {
	st := &step{now: now}
	for _, id := range slices.Sorted(maps.Keys(s.ids)) {
		if tx := s.ids[id]; tx.ending() {
			s.sendMarkers(st, tx)
		}
	}
	s.setTimer(st, timerTimeouts, s.cfg.TimeoutInterval)
	s.setTimer(st, timerExpiration, s.cfg.ExpirationInterval)
	return st.Result
}

func (s *Shard) setTimer(st *step, key string, after time.Duration) {
	st.Timers = append(st.Timers, runtime.Timer{Key: key, At: st.now.Add(after)})
}

// Timeout handles a timer that went off; see runtime.Shard.
func (s *Shard) Timeout(now time.Time, key string) runtime.Result {
	st := &step{now: now}
	// There may be more ids than the records of one append: what is refused as too
	// large would be refused the next time again.
	st.Divisible = true
	switch key {
	case timerTimeouts:
		if s.writable() == nil { // else the next time
			s.abortTimedOut(st)
		}
		s.setTimer(st, key, s.cfg.TimeoutInterval)
	case timerExpiration:
		if s.writable() == nil {
			s.expire(st)
		}
		s.setTimer(st, key, s.cfg.ExpirationInterval)
	default:
		s.stopWaiting(st, key[len(timerWaiterStart):])
	}
	return st.Result
}

// abortTimedOut fences the producers of transactions that ran for too long.
func (s *Shard) abortTimedOut(st *step) {
	for _, id := range slices.Sorted(maps.Keys(s.ids)) {
		tx := s.ids[id]
		if tx.state == Ongoing && tx.startMs+int64(tx.timeoutMs) < st.nowMs() {
			s.cfg.count(TimedOut)
			s.fence(st, tx)
		}
	}
}

// expire forgets transactional ids that nobody used for long.
func (s *Shard) expire(st *step) {
	for _, id := range slices.Sorted(maps.Keys(s.ids)) {
		tx := s.ids[id]
		idle := tx.state == Empty || tx.state == CompleteCommit || tx.state == CompleteAbort
		if idle && tx.updatedMs+s.cfg.IDExpiration.Milliseconds() <= st.nowMs() {
			st.Records = append(st.Records, runtime.Record{Key: recordKey(id)})
			s.cfg.count(Expired)
		}
	}
}

// fence aborts an ongoing transaction with an epoch that its producer does not
// have. The producer may take that epoch over, if it names its own and no other
// comes before (KIP-360).
func (s *Shard) fence(st *step, tx *transaction) {
	fenced := *tx
	version := s.cfg.Version()
	if version < V2 {
		if fenced.epoch < maxEpoch {
			fenced.epoch++
		}
		tx.lastEpoch = noEpoch
	}
	s.decide(st, tx, &fenced, PrepareAbort, version, noProducerID)
}

// decide ends a transaction, as commit or abort, and asks for its markers. from
// is its state now with the epoch that the end counts from.
func (s *Shard) decide(st *step, tx, from *transaction, state State, version int16, newID int64) {
	next := *from
	next.state, next.version, next.nextProducerID = state, version, newID
	next.updatedMs = st.nowMs()
	if state == PrepareCommit {
		s.cfg.count(Committed)
	} else {
		s.cfg.count(Aborted)
	}
	if version >= V2 {
		tx.lastEpoch = from.epoch
		if next.epoch < maxEpoch {
			next.epoch++
		}
	}
	if tx.state != Ongoing {
		// An abort without a transaction: it bumps the epoch all the same.
		next.startMs = next.updatedMs
		next.topics = nil
	}
	s.put(st, &next)
	if len(next.topics) > 0 {
		s.sendMarkers(st, &next)
		return
	}
	done := next.completed(st.nowMs())
	done.prevProducerID = next.producerID
	st.Records = append(st.Records, done.record(s.valueVersion(&done)))
}

func (s *Shard) sendMarkers(st *step, tx *transaction) {
	st.Effects = append(st.Effects, SendMarkers{
		TransactionalID: tx.id, ProducerID: tx.producerID, Epoch: tx.epoch,
		Commit: tx.state == PrepareCommit, Version: tx.version, Partitions: tx.partitions(), DecidedMs: tx.updatedMs,
	})
}

// Completion reports that all markers of a transaction are written.
type Completion struct {
	TransactionalID string
	ProducerID      int64
	Epoch           int16
	Commit          bool
	DecidedMs       int64
}

// of tells whether it is this transaction that waits for the report.
func (c *Completion) of(tx *transaction) bool {
	return tx != nil && tx.ending() && tx.producerID == c.ProducerID && tx.epoch == c.Epoch &&
		(tx.state == PrepareCommit) == c.Commit && tx.updatedMs == c.DecidedMs
}

// Pending answers whether a transaction still waits for its completion (a bool).
func (s *Shard) Pending(_ time.Time, t runtime.Ticket, c Completion) runtime.Result {
	return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: c.of(s.ids[c.TransactionalID])}}}
}

// Complete completes the transaction whose markers are written. A report of
// another transaction than the one that waits for it, and a second report,
// change nothing.
func (s *Shard) Complete(now time.Time, t runtime.Ticket, c Completion) runtime.Result {
	return s.wholly(c.TransactionalID, func() runtime.Result { return s.complete(now, t, c) })
}

func (s *Shard) complete(now time.Time, t runtime.Ticket, c Completion) runtime.Result {
	st := &step{now: now}
	st.Divisible = true // whatever waits for it, the completion is written
	st.reply(t, nil)
	tx := s.ids[c.TransactionalID]
	if !c.of(tx) {
		return st.Result
	}
	done := tx.completed(st.nowMs())
	s.put(st, &done)
	// The first one that waits starts the next transaction; its record follows
	// this one's.
	s.resume(st, &done)
	return st.Result
}
