package txn

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// AddPartitions asks for partitions to take part in a producer's transaction,
// or, with VerifyOnly, whether they do (KIP-890).
type AddPartitions struct {
	TransactionalID string
	ProducerID      int64
	Epoch           int16
	Partitions      []TopicPartition
	VerifyOnly      bool
	// Version is the transaction version that the client speaks.
	Version int16
	// Patience is how long to wait for the transaction before to complete
	// rather than to answer CONCURRENT_TRANSACTIONS: with version 2 a producer
	// writes at once after EndTxn, while markers are still under way.
	Patience time.Duration
}

// AddPartitions answers with an error for each partition ([]error, all nil if
// the partitions take part). The first partition begins the transaction. The
// answer waits, as all do, until that is committed: whoever writes to a
// partition afterwards can rely on the transaction being known.
func (s *Shard) AddPartitions(now time.Time, t runtime.Ticket, req AddPartitions) runtime.Result {
	return s.wholly(req.TransactionalID, func() runtime.Result {
		st := &step{now: now}
		s.addPartitions(st, waiter{t, req, now.Add(req.Patience)}, s.ids[req.TransactionalID])
		return st.Result
	})
}

func (s *Shard) addPartitions(st *step, w waiter, tx *transaction) (added *transaction) {
	req := w.req
	err := checkProducer(tx, req.TransactionalID, req.ProducerID, req.Epoch)
	if errors.Is(err, kerr.ConcurrentTransactions) && !req.VerifyOnly && w.until.After(st.now) {
		s.wait(st, w)
		return tx
	}
	if err != nil || req.VerifyOnly {
		st.reply(w.ticket, verified(tx, req.Partitions, err))
		return tx
	}
	missing := tx.state != Ongoing
	for _, tp := range req.Partitions {
		missing = missing || !tx.has(tp)
	}
	if !missing {
		st.reply(w.ticket, make([]error, len(req.Partitions)))
		return tx
	}
	next := *tx
	if tx.state != Ongoing {
		next.topics, next.startMs = nil, st.nowMs()
	}
	next.state, next.version, next.updatedMs = Ongoing, req.Version, st.nowMs()
	next.topics = next.with(req.Partitions)
	next.prevProducerID = tx.producerID
	r := next.record(s.valueVersion(&next))
	if len(r.Value) > s.cfg.MaxRecordBytes {
		// Refused while it can still be ended: the record of the end is as large.
		st.reply(w.ticket, verified(nil, req.Partitions, kerr.MessageTooLarge))
		return tx
	}
	st.Records = append(st.Records, r)
	st.reply(w.ticket, make([]error, len(req.Partitions)))
	return &next
}

// checkProducer tells whether a producer may go on with its next transaction:
// it has the present id and epoch, and the transaction before is complete.
func checkProducer(tx *transaction, id string, producerID int64, epoch int16) error {
	switch {
	case id == "":
		return kerr.InvalidRequest
	case tx != nil && tx.becomes(producerID, epoch):
		return kerr.ConcurrentTransactions
	case tx == nil || tx.producerID != producerID:
		return kerr.InvalidProducerIDMapping
	case tx.epoch != epoch:
		return kerr.ProducerFenced
	case tx.ending():
		return kerr.ConcurrentTransactions
	}
	return nil
}

// verified is the answer for each partition: err, or whether it takes part.
func verified(tx *transaction, partitions []TopicPartition, err error) []error {
	errs := make([]error, len(partitions))
	for i, tp := range partitions {
		errs[i] = err
		if err == nil && !tx.has(tp) {
			errs[i] = kerr.TransactionAbortable
		}
	}
	return errs
}

// wait keeps a request until the transaction completes, or its patience ends.
func (s *Shard) wait(st *step, w waiter) {
	id := w.req.TransactionalID
	s.waiting[id] = append(s.waiting[id], w)
	first := w.until
	for _, o := range s.waiting[id] {
		if o.until.Before(first) {
			first = o.until
		}
	}
	st.Timers = append(st.Timers, runtime.Timer{Key: timerWaiterStart + id, At: first})
}

// resume tries again what waited for a transaction that is complete now.
func (s *Shard) resume(st *step, tx *transaction) {
	waiting := s.waiting[tx.id]
	if len(waiting) == 0 {
		return
	}
	delete(s.waiting, tx.id)
	st.Timers = append(st.Timers, runtime.Timer{Key: timerWaiterStart + tx.id})
	for _, w := range waiting {
		tx = s.addPartitions(st, w, tx)
	}
}

// stopWaiting answers those whose patience is at an end.
func (s *Shard) stopWaiting(st *step, id string) {
	waiting := s.waiting[id]
	delete(s.waiting, id)
	for _, w := range waiting {
		if w.until.After(st.now) {
			s.wait(st, w)
		} else {
			st.reply(w.ticket, verified(nil, w.req.Partitions, kerr.ConcurrentTransactions))
		}
	}
}
