package replication

import "time"

// What a leader's log knows of transactions, for those who write on behalf of
// transactional producers. All fail with NOT_LEADER_OR_FOLLOWER elsewhere.

// StartVerification returns 0 if the producer has a transaction open in the
// partition, else the guard to append with once the transaction coordinator
// knows of it; see storage.Log.StartVerification.
func (p *Partition) StartVerification(producerID int64, epoch int16, baseSequence int32, bumps bool) (guard uint64, err error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.leads()
	if err != nil {
		return 0, err
	}
	return log.StartVerification(producerID, epoch, baseSequence, bumps), nil
}

// CheckTransactional says whether a coordinator's batch of a transactional
// producer would be taken now.
func (p *Partition) CheckTransactional(producerID int64, epoch int16, guard uint64, verify bool) error {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.leads()
	if err != nil {
		return err
	}
	return log.CheckTransactional(producerID, epoch, guard, verify)
}

// CheckMarker says whether a marker would be taken now.
func (p *Partition) CheckMarker(producerID int64, epoch int16, coordinatorEpoch int32, version int16) error {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.leads()
	if err != nil {
		return err
	}
	return log.CheckMarker(producerID, epoch, coordinatorEpoch, version)
}

// ProducerStats sum up what the logs of this broker know of producers.
type ProducerStats struct {
	// Producers counts producer ids, once for each replica that knows them.
	Producers int
	// Late counts the partitions led here with a transaction that should have
	// been ended: readers of committed records wait there.
	Late int
}

// ProducerStats counts. Late are partitions whose earliest open transaction was
// last written to more than limit before now.
func (m *Manager) ProducerStats(now time.Time, limit time.Duration) ProducerStats {
	var st ProducerStats
	for _, p := range m.all() {
		known, oldestMs, leads := p.producers()
		st.Producers += known
		if leads && oldestMs > 0 && now.UnixMilli()-oldestMs > limit.Milliseconds() {
			st.Late++
		}
	}
	return st
}

func (p *Partition) producers() (known int, oldestTxnMs int64, leads bool) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.usable()
	if err != nil {
		return 0, -1, false // offline or deleted
	}
	known, oldestTxnMs = log.Producers()
	return known, oldestTxnMs, p.isLeader()
}
