package replication

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
