package txn

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// EndTxn commits or aborts a transaction (v0 to v5). The answer leaves when the
// decision is committed; the markers follow. newID is a fresh producer id, or
// -1 to be told whether one is needed.
func (s *Shard) EndTxn(now time.Time, t runtime.Ticket, req *kmsg.EndTxnRequest, newID int64) runtime.Result {
	return s.wholly(req.TransactionalID, func() runtime.Result { return s.endTxn(now, t, req, newID) })
}

func (s *Shard) endTxn(now time.Time, t runtime.Ticket, req *kmsg.EndTxnRequest, newID int64) runtime.Result {
	st := &step{now: now}
	resp := req.ResponseKind().(*kmsg.EndTxnResponse)
	var tx *transaction
	var err error
	if req.TransactionalID == "" {
		err = kerr.InvalidRequest
	} else if tx = s.ids[req.TransactionalID]; tx == nil {
		err = kerr.InvalidProducerIDMapping
	} else if req.Version >= 5 {
		tx, err = s.endV2(st, tx, req, newID)
	} else {
		tx, err = s.endV1(st, tx, req)
	}
	if errors.Is(err, errNeedProducerID) {
		st.reply(t, NeedProducerID{})
		return st.Result
	}
	resp.ProducerID, resp.ProducerEpoch = noProducerID, noEpoch
	if err != nil {
		resp.ErrorCode = code(err)
	} else if req.Version >= 5 {
		resp.ProducerID, resp.ProducerEpoch = tx.producerID, tx.epoch
	}
	st.reply(t, resp)
	return st.Result
}

// decision is the state that a request asks for and the one that it leads to.
func decision(commit bool) (prepare, complete State) {
	if commit {
		return PrepareCommit, CompleteCommit
	}
	return PrepareAbort, CompleteAbort
}

// endV1 is the end of a transaction whose client keeps its epoch. A request that
// arrives twice finds the transaction ended as it wants.
func (s *Shard) endV1(st *step, tx *transaction, req *kmsg.EndTxnRequest) (*transaction, error) {
	switch {
	case tx.producerID != req.ProducerID:
		return nil, kerr.InvalidProducerIDMapping
	case tx.epoch != req.ProducerEpoch:
		return nil, kerr.ProducerFenced
	}
	prepare, complete := decision(req.Commit)
	switch tx.state {
	case Ongoing:
		s.decide(st, tx, tx, prepare, 0, noProducerID)
		return tx, nil
	case prepare:
		return nil, kerr.ConcurrentTransactions
	case complete:
		return tx, nil
	}
	return nil, kerr.InvalidTxnState
}

// endV2 is the end of a transaction whose epoch is bumped with it. The same
// epoch as the transaction's is a new request, the one before it a retry: so a
// request that was under way for long ends no transaction but its own.
func (s *Shard) endV2(st *step, tx *transaction, req *kmsg.EndTxnRequest, newID int64) (*transaction, error) {
	bumps := tx.version >= V2
	bumped := bumps && tx.producerID == req.ProducerID && int32(tx.epoch) == int32(req.ProducerEpoch)+1
	overflown := bumps && tx.prevProducerID == req.ProducerID && req.ProducerEpoch == maxEpoch-1 && tx.epoch == 0
	retry := bumped || overflown
	if tx.becomes(req.ProducerID, req.ProducerEpoch) {
		return nil, kerr.ConcurrentTransactions
	}
	if tx.producerID != req.ProducerID && !overflown {
		return nil, kerr.InvalidProducerIDMapping
	}
	prepare, complete := decision(req.Commit)
	current := tx.producerID == req.ProducerID && tx.epoch == req.ProducerEpoch
	switch tx.state {
	case Empty, Ongoing:
		if !current {
			return nil, kerr.ProducerFenced
		}
	case PrepareCommit, PrepareAbort:
		if bumps && !bumped || !bumps && !current {
			return nil, kerr.ProducerFenced
		}
	default:
		if !retry && !current {
			return nil, kerr.ProducerFenced
		}
	}
	switch {
	case tx.state == Ongoing, current && !req.Commit && !tx.ending():
		return s.endCurrent(st, tx, prepare, newID)
	case tx.state == prepare:
		return nil, kerr.ConcurrentTransactions
	case tx.state == complete && retry:
		return s.ended(st, tx, newID)
	}
	return nil, kerr.InvalidTxnState
}

// ended answers who asks for the end that a transaction has.
func (s *Shard) ended(st *step, tx *transaction, newID int64) (*transaction, error) {
	if !tx.outOfEpochs() {
		return tx, nil
	}
	if newID < 0 {
		return nil, errNeedProducerID
	}
	next := *tx
	next.producerID, next.epoch, next.updatedMs = newID, 0, st.nowMs()
	s.put(st, &next)
	return &next, nil
}

// endCurrent decides a transaction of version 2 and returns what the client is
// to continue with. An abort may come without a transaction: the client does
// not know whether its writes have begun one.
func (s *Shard) endCurrent(st *step, tx *transaction, prepare State, newID int64) (*transaction, error) {
	if !exhausted(tx.epoch) {
		newID = noProducerID
	} else if newID < 0 {
		return nil, errNeedProducerID
	}
	s.decide(st, tx, tx, prepare, V2, newID)
	next := *tx
	next.epoch = tx.epoch
	if next.epoch < maxEpoch {
		next.epoch++
	}
	if newID >= 0 {
		next.producerID, next.epoch = newID, 0
	}
	return &next, nil
}
