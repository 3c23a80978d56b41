package storage

import (
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
)

// How a log makes sure that a transaction may begin in it (KIP-890): the transaction coordinator must know of the
// partition, or no marker would ever end the transaction and readers of committed records would wait for good.
//
// Who wants to write first takes a guard, asks the coordinator, and hands the guard in with the batch. A marker makes
// all guards of its producer worthless. So an answer of the coordinator that was overtaken by the end of the transaction
// it speaks of opens no transaction here: the ABA of "verified, aborted, written".

// verification is a producer of which the coordinator is asked.
type verification struct {
	guard     uint64
	epoch     int16
	lowestSeq int32
	// bumps: the producer's epoch grows with every transaction, so each begins with sequence 0.
	bumps     bool
	timestamp int64
}

// ongoing tells whether a transaction of the producer is open in this epoch.
func (ps *producers) ongoing(id int64, epoch int16) bool {
	p := ps.byID[id]
	return p != nil && p.txnFirst >= 0 && p.epoch == epoch
}

// startVerification returns the guard for a batch, or 0 if a transaction is open so that none is needed.
func (ps *producers) startVerification(id int64, epoch int16, seq int32, bumps bool, nowMs int64) uint64 {
	if ps.ongoing(id, epoch) {
		return 0
	}
	v := ps.unverified[id]
	switch {
	case v == nil:
		ps.guards++
		v = &verification{guard: ps.guards, epoch: epoch, lowestSeq: seq, bumps: bumps, timestamp: nowMs}
		ps.unverified[id] = v
	case epoch > v.epoch:
		v.epoch, v.lowestSeq, v.bumps = epoch, seq, bumps
	case epoch == v.epoch && seq < v.lowestSeq:
		v.lowestSeq = seq
	}
	return v.guard
}

// endVerification makes the guard worthless that a producer has when a marker is written: whoever was verified before the
// end may not write after it. A producer of transaction version 2 that asks in the epoch of the marker asks for its next
// transaction, which it may begin while the marker is under way.
func (ps *producers) endVerification(id int64, markerEpoch int16) {
	if v := ps.unverified[id]; v != nil && !(v.bumps && v.epoch >= markerEpoch) {
		delete(ps.unverified, id)
	}
}

func (ps *producers) checkGuard(id int64, epoch int16, guard uint64) error {
	if ps.ongoing(id, epoch) {
		return nil
	}
	if v := ps.unverified[id]; v == nil || v.guard != guard {
		return clientErrorf(kerr.InvalidTxnState, "producer %d epoch %d has no transaction in this partition", id, epoch)
	}
	return nil
}

// checkLowestSequence refuses a batch that overtook an earlier one while the coordinator was asked: nothing of the
// producer is in the log yet that would tell.
func (ps *producers) checkLowestSequence(p *producer, b protocol.Batch) error {
	v := ps.unverified[b.ProducerID()]
	if v == nil || !b.IsTransactional() {
		return nil
	}
	// Where there is something of this epoch in the log, that tells. The network may have kept or repeated a request of a
	// transaction before, which asks in vain: the producer is past that, and would be refused for good.
	if p != nil && p.epoch == b.ProducerEpoch() && p.batchesUsed > 0 {
		return nil
	}
	first := b.BaseSequence()
	if first > v.lowestSeq {
		return clientErrorf(kerr.OutOfOrderSequenceNumber, "producer %d: sequence %d, but %d came before and is not written", b.ProducerID(), first, v.lowestSeq)
	}
	if v.bumps && first != 0 && (p == nil || p.batchesUsed == 0) {
		return clientErrorf(kerr.OutOfOrderSequenceNumber, "producer %d: sequence %d where nothing of its transaction is", b.ProducerID(), first)
	}
	return nil
}

// checkMarker says whether a marker may be appended.
//
// From transaction version 2 on the coordinator bumps the epoch before the marker, so an epoch that the log has seen
// belongs to a marker that comes late, and must not end the transaction that runs in that epoch (KIP-1228). If none
// runs, it is the retry of a marker that is here, and refusing it would make the coordinator retry for ever
// (KAFKA-19999): it is taken once more, which changes nothing.
func (p *producer) checkMarker(epoch int16, coordEpoch int32, version int16) error {
	const bumpsEpoch = 2
	late := version >= bumpsEpoch && epoch == p.epoch && p.txnFirst >= 0
	switch {
	case epoch < p.epoch || late:
		return clientErrorf(kerr.InvalidProducerEpoch, "producer %d has epoch %d, the marker has %d (transaction version %d)", p.id, p.epoch, epoch, version)
	case coordEpoch < p.coordEpoch:
		return clientErrorf(kerr.TransactionCoordinatorFenced, "producer %d: coordinator epoch %d, known %d", p.id, coordEpoch, p.coordEpoch)
	}
	return nil
}

// StartVerification prepares for a batch of a transactional producer: it returns 0 if the producer has a transaction open
// in this log, else the guard to hand in with AppendOptions once the transaction coordinator knows of the partition.
// bumps tells that the producer's epoch grows with every transaction (transaction version 2).
func (l *Log) StartVerification(producerID int64, epoch int16, baseSequence int32, bumps bool) (guard uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers.startVerification(producerID, epoch, baseSequence, bumps, l.now().UnixMilli())
}

// CheckTransactional says whether a coordinator's batch of a transactional producer would be taken. verify asks for an
// open transaction or a valid guard.
func (l *Log) CheckTransactional(producerID int64, epoch int16, guard uint64, verify bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if verify {
		if err := l.producers.checkGuard(producerID, epoch, guard); err != nil {
			return err
		}
	}
	if p := l.producers.byID[producerID]; p != nil && epoch < p.epoch {
		return clientErrorf(kerr.InvalidProducerEpoch, "producer %d has epoch %d, the batch has %d", p.id, p.epoch, epoch)
	}
	return nil
}

// CheckMarker says whether a marker would be taken.
func (l *Log) CheckMarker(producerID int64, epoch int16, coordinatorEpoch int32, version int16) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.producers.byID[producerID]
	if p == nil {
		return nil
	}
	return p.checkMarker(epoch, coordinatorEpoch, version)
}
