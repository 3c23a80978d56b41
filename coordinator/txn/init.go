package txn

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// InitProducerID gives the producer of a transactional id its producer id and
// epoch, and fences whoever had them before. newID is a fresh producer id, or -1
// to be told whether one is needed.
//
// An ongoing transaction is aborted first; the answer is CONCURRENT_TRANSACTIONS
// until that is done. A producer that says which id and epoch it has (v3,
// KIP-360) wants to go on after an error: it is fenced if another came between.
func (s *Shard) InitProducerID(now time.Time, t runtime.Ticket, req *kmsg.InitProducerIDRequest, newID int64) runtime.Result {
	return s.wholly(*req.TransactionalID, func() runtime.Result { return s.initProducerID(now, t, req, newID) })
}

func (s *Shard) initProducerID(now time.Time, t runtime.Ticket, req *kmsg.InitProducerIDRequest, newID int64) runtime.Result {
	st := &step{now: now}
	next, err := s.initProducer(st, req, newID)
	switch {
	case errors.Is(err, errNeedProducerID):
		st.reply(t, NeedProducerID{})
		return st.Result
	case err != nil:
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = code(err), noProducerID, noEpoch
		st.reply(t, resp)
		return st.Result
	}
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = next.producerID, next.epoch
	st.reply(t, resp)
	return st.Result
}

var errNeedProducerID = errors.New("a new producer id is needed")

func (s *Shard) initProducer(st *step, req *kmsg.InitProducerIDRequest, newID int64) (*transaction, error) {
	if *req.TransactionalID == "" {
		return nil, kerr.InvalidRequest
	}
	if ms := req.TransactionTimeoutMillis; ms <= 0 || int64(ms) > s.cfg.MaxTimeout.Milliseconds() {
		return nil, kerr.InvalidTransactionTimeout
	}
	tx := s.ids[*req.TransactionalID]
	if tx == nil {
		return s.initNew(st, req, newID)
	}
	known := req.ProducerID != noProducerID
	if tx.becomes(req.ProducerID, req.ProducerEpoch) {
		return nil, kerr.ConcurrentTransactions
	}
	if known && !tx.knows(req.ProducerID, req.ProducerEpoch) {
		return nil, kerr.ProducerFenced
	}
	switch tx.state {
	case PrepareCommit, PrepareAbort:
		return nil, kerr.ConcurrentTransactions
	case Ongoing:
		s.cfg.count(Fenced)
		s.fence(st, tx)
		return nil, kerr.ConcurrentTransactions
	}
	next := *tx
	next.state, next.topics, next.startMs, next.updatedMs = Empty, nil, -1, st.nowMs()
	next.timeoutMs, next.nextProducerID = req.TransactionTimeoutMillis, noProducerID
	last := int16(noEpoch)
	switch {
	case exhausted(tx.epoch) && (!known || req.ProducerEpoch == tx.epoch || tx.outOfEpochs() && req.ProducerEpoch == tx.lastEpoch):
		if newID < 0 {
			return nil, errNeedProducerID
		}
		next.producerID, next.epoch = newID, 0
		if known {
			last = req.ProducerEpoch
		}
	case !known:
		next.epoch++
	case req.ProducerEpoch == tx.epoch:
		next.epoch++
		last = tx.epoch
	case req.ProducerEpoch == tx.lastEpoch:
		last = tx.lastEpoch // a retry of what was done
	default:
		return nil, kerr.ProducerFenced
	}
	tx.lastEpoch = last
	s.put(st, &next)
	return &next, nil
}

// initNew is the first request with a transactional id. Whatever id and epoch a
// producer believes to have, they are not known any more.
func (s *Shard) initNew(st *step, req *kmsg.InitProducerIDRequest, newID int64) (*transaction, error) {
	if newID < 0 {
		return nil, errNeedProducerID
	}
	next := &transaction{
		id: *req.TransactionalID, producerID: newID, prevProducerID: noProducerID, nextProducerID: noProducerID,
		timeoutMs: req.TransactionTimeoutMillis, startMs: -1, updatedMs: st.nowMs(), lastEpoch: noEpoch,
	}
	s.put(st, next)
	return next, nil
}

// knows tells whether a producer that names its id may be the present one: its
// epoch is looked at later.
func (tx *transaction) knows(producerID int64, epoch int16) bool {
	return producerID == tx.producerID || (producerID == tx.prevProducerID && exhausted(epoch))
}

func code(err error) int16 {
	if err == nil {
		return 0
	}
	if e := (*kerr.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return kerr.UnknownServerError.Code
}
