package replication

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage"
)

// assignment is what metadata says about a partition.
type assignment struct {
	leader         int32
	leaderEpoch    int32
	partitionEpoch int32
	replicas       []int32
	isr            []int32
	recovering     bool
}

// newPartition makes the replica that follows from a log; it leads and follows
// nobody before assign. log is nil when offline tells why there is none.
func newPartition(env *environment, topic string, id storage.TopicID, index int32, internal bool, log *storage.Log, offline error) *Partition {
	p := &Partition{topic: topic, id: id, index: index, internal: internal, env: env}
	p.log.Store(log)
	p.state = state{offline: offline, leader: -1, leaderEpoch: NoEpoch, partitionEpoch: -1}
	if log != nil {
		p.logEnd = log.LogEndOffset()
		p.watermark.Store(log.HighWatermark())
	}
	return p
}

// assign makes the partition what metadata says. It reports whether this
// broker began or ceased to lead, or leads in a new epoch. Metadata comes in
// order: an assignment older than the present one is a replay and is ignored.
//
// No append is under way while it runs. A new leader notes the start of its
// epoch in the log at once, even before the first record, so that followers can
// be told where the epoch before ended.
func (p *Partition) assign(a assignment) (changed bool, err error) {
	p.role.Lock()
	defer p.role.Unlock()
	s := &p.state
	if s.gone != nil || a.partitionEpoch < s.partitionEpoch {
		return false, nil
	}
	wasLeader, oldEpoch := p.isLeader(), s.leaderEpoch
	if a.partitionEpoch > s.partitionEpoch {
		// Whatever was proposed was made or cannot be made any more.
		p.pending, s.isr.Proposed = nil, nil
	}
	s.leader, s.leaderEpoch, s.partitionEpoch = a.leader, a.leaderEpoch, a.partitionEpoch
	s.replicas, s.isr.Committed, s.recovering = a.replicas, a.isr, a.recovering
	newEpoch := s.leaderEpoch != oldEpoch
	changed = p.isLeader() != wasLeader || p.isLeader() && newEpoch
	if s.offline != nil {
		return changed, nil
	}
	if p.isLeader() && changed {
		s.epochStart = p.log.Load().LogEndOffset()
		if err := p.log.Load().AssignEpoch(s.leaderEpoch, s.epochStart); err != nil {
			s.offline = err
			p.fail(kerr.KafkaStorageError)
			return changed, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isLeader() {
		p.lead(changed)
	} else {
		if wasLeader {
			p.resigned = p.env.now()
			p.sentAway.Store(false)
		}
		if s.leader < 0 {
			p.SendAway() // as who comes now is
		}
		p.followers = nil
		p.acks.failAll(kerr.NotLeaderForPartition)
		p.failLows(kerr.NotLeaderForPartition)
	}
	if newEpoch || changed {
		p.wakeAll() // readers that name the old epoch must hear of the new one
		p.tellRole()
	}
	return changed, nil
}

// Leader is who leads and in which epoch, as far as this replica knows: it hears of
// a change before the metadata that clients see is published.
func (p *Partition) Leader() (id, epoch int32) {
	p.role.RLock()
	defer p.role.RUnlock()
	if s := &p.state; s.gone != nil && p.next.epoch > s.leaderEpoch {
		return p.next.leader, p.next.epoch
	}
	return p.state.leader, p.state.leaderEpoch
}

// movesTo is called before a replica that moves to other brokers is retired, with who
// leads them.
func (p *Partition) movesTo(leader, epoch int32) {
	p.role.Lock()
	defer p.role.Unlock()
	p.next.leader, p.next.epoch = leader, epoch
}

// staleFor is how long clients may still come to a broker that resigned because
// they have not heard of it.
const staleFor = time.Second

// Successor is the broker that leads since this one resigned, if that is less than
// within ago and nobody was sent away since.
func (p *Partition) Successor(within time.Duration) (leader int32, ok bool) {
	p.role.RLock()
	defer p.role.RUnlock()
	s := &p.state
	if s.gone != nil || s.leader < 0 || p.isLeader() || p.resigned.IsZero() || p.sentAway.Load() || p.env.now().Sub(p.resigned) >= within {
		return -1, false
	}
	return s.leader, true
}

// SendAway ends what Successor says until this broker resigns again. It is for who
// sends a producer away: what that one sent after this must not come to the new leader
// before what it has to send again.
func (p *Partition) SendAway() { p.sentAway.Store(true) }

// AwaitLeadership waits until this broker leads, at most until ctx ends, and reports
// whether it does. It is for what only a leader takes: a client that was told of
// a new leader by another broker may come here before this one heard of it itself,
// and one that is sent away then backs off for longer than a failover lasts. Where
// this broker has just resigned it returns at once, because then it is the client
// that does not know yet, and where it cannot lead at all.
func (p *Partition) AwaitLeadership(ctx context.Context) bool {
	p.awaitRole(ctx, func() bool {
		return p.isLeader() || !p.resigned.IsZero() && p.env.now().Sub(p.resigned) < staleFor
	})
	p.role.RLock()
	defer p.role.RUnlock()
	_, err := p.leads()
	return err == nil
}

// AwaitEpoch is AwaitLeadership for a client that names the leader epoch that it was
// told: it waits until the replica knows of it, whoever leads.
func (p *Partition) AwaitEpoch(ctx context.Context, epoch int32) bool {
	p.awaitRole(ctx, func() bool { return p.state.leaderEpoch >= epoch })
	p.role.RLock()
	defer p.role.RUnlock()
	_, err := p.usable()
	return err == nil && p.state.leaderEpoch >= epoch
}

// awaitRole returns when what metadata says of the replica meets a condition, which
// is asked with role and mu held, when the replica cannot be used, or when ctx ends.
func (p *Partition) awaitRole(ctx context.Context, met func() bool) {
	for {
		next := p.nextRole(met)
		if next == nil {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

// nextRole is closed when metadata says something new of the replica; nil where
// nobody needs to wait for that.
func (p *Partition) nextRole(met func() bool) <-chan struct{} {
	p.role.RLock()
	defer p.role.RUnlock()
	if _, err := p.usable(); err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if met() {
		return nil
	}
	if p.newRole == nil {
		p.newRole = make(chan struct{})
	}
	return p.newRole
}

// tellRole wakes who waits for news of the replica's role. The caller holds mu.
func (p *Partition) tellRole() {
	if p.newRole != nil {
		close(p.newRole)
		p.newRole = nil
	}
}

// lead sets up what a leader knows of its followers and moves the watermark as
// far as the new assignment allows. The caller holds role exclusively, and mu.
func (p *Partition) lead(newLeadership bool) {
	s := &p.state
	if newLeadership {
		p.logEnd = p.log.Load().LogEndOffset()
		p.progress.restart(p.logEnd)
	}
	known := p.followers
	p.followers = nil
	for _, id := range s.replicas {
		if id == p.env.nodeID {
			continue
		}
		i := slices.IndexFunc(known, func(r Replica) bool { return r.ID == id })
		if i >= 0 && !newLeadership {
			p.followers = append(p.followers, known[i])
			continue
		}
		p.followers = append(p.followers, NewReplica(id, slices.Contains(s.isr.Committed, id), p.env.now().UnixMilli()))
	}
	p.advance()
	p.inviteFollowers()
}

// setMinISR takes over min.insync.replicas, which may free the watermark.
func (p *Partition) setMinISR(minISR int32) {
	p.role.Lock()
	defer p.role.Unlock()
	p.state.minISR = minISR
	if _, err := p.leads(); err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
}

// raiseMinISR takes over a larger min.insync.replicas, which frees nothing.
func (p *Partition) raiseMinISR(minISR int32) {
	p.role.Lock()
	defer p.role.Unlock()
	p.state.minISR = max(p.state.minISR, minISR)
}

// setConfig gives the log its configuration, if there is a log.
func (p *Partition) setConfig(cfg storage.LogConfig) {
	p.role.RLock()
	defer p.role.RUnlock()
	if log, err := p.usable(); err == nil {
		log.SetConfig(cfg)
	}
}

// retire ends the replica: it was deleted or moved away. When it returns no
// append or read is under way and none will begin. Whoever waits is told why.
// It reports whether this broker led the partition.
func (p *Partition) retire(why error) (led bool) {
	p.role.Lock()
	defer p.role.Unlock()
	p.state.gone = why
	p.fail(why)
	return p.isLeader()
}

// reconsider lets a leader recompute its watermark after a broker was fenced or
// unfenced.
func (p *Partition) reconsider() {
	p.role.RLock()
	defer p.role.RUnlock()
	if _, err := p.leads(); err != nil || len(p.state.replicas) == 1 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
	p.lowMoved()
	p.inviteFollowers()
}

// followsWhom is the leader that the replica copies from; not ok if it has none
// or cannot.
func (p *Partition) followsWhom() (leader, epoch int32, ok bool) {
	p.role.RLock()
	defer p.role.RUnlock()
	_, err := p.usable()
	s := &p.state
	return s.leader, s.leaderEpoch, err == nil && s.leader >= 0 && !p.isLeader()
}

// dir is the log directory of the replica, "" if it has none.
func (p *Partition) dir() string {
	log := p.log.Load()
	if log == nil {
		return ""
	}
	return log.Dir()
}

// lost reports whether the replica cannot be served because of its log directory. It
// takes no lock that is held while a disk is waited for: that one directory failed is
// told while another hangs.
func (p *Partition) lost() bool {
	log := p.log.Load()
	return log == nil || log.Err() != nil
}

// fail tells everybody who waits. The caller holds role.
func (p *Partition) fail(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acks.failAll(why)
	p.failLows(why)
	p.wakeAll()
	p.tellRole()
}

// diskFailed tells everybody who waits that the log's directory went offline.
func (p *Partition) diskFailed() {
	p.role.RLock()
	defer p.role.RUnlock()
	p.fail(kerr.KafkaStorageError)
}
