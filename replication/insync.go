package replication

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
)

// AlterPartition asks the controller for other in-sync sets of partitions that
// this broker leads. The results are in the order of the changes. An error of
// a result that is none of Kafka's decided ones leaves the outcome open.
type AlterPartition func(ctx context.Context, changes []metadata.ISRChange) []metadata.ISRResult

// inSync keeps the in-sync sets of the partitions that are led here: one
// goroutine, run, looks for members that fell behind twice within
// replica.lag.time.max.ms, and at followers that caught up when they did; it
// proposes what should change and takes over what was decided.
//
// One change of a partition is in flight at a time. While its outcome is open
// the partition counts both sets (ISR.Maximal), and the change is proposed
// again until its outcome is known or metadata shows it (rule 12).
type inSync struct {
	env   *environment
	alter AlterPartition
	log   zerolog.Logger
	// all lists the partitions of the broker.
	all func() []*Partition

	mu sync.Mutex
	// caughtUp are partitions with a follower that may join.
	caughtUp map[*Partition]struct{}
	wake     chan struct{}
}

func newInSync(env *environment, alter AlterPartition, all func() []*Partition, log zerolog.Logger) *inSync {
	return &inSync{env: env, alter: alter, all: all, log: log, caughtUp: map[*Partition]struct{}{}, wake: make(chan struct{}, 1)}
}

// mayGrow tells that a follower of p may join. It does not block.
func (s *inSync) mayGrow(p *Partition) {
	s.mu.Lock()
	s.caughtUp[p] = struct{}{}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// proposeAgain is the pause before a proposal of unknown outcome is repeated.
const proposeAgain = 50 * time.Millisecond

// run proposes until ctx ends.
func (s *inSync) run(ctx context.Context) {
	look := time.NewTicker(max(time.Duration(s.env.maxLagMs)*time.Millisecond/2, time.Millisecond))
	defer look.Stop()
	var open []*Partition // proposed, and the outcome is not known
	for {
		var again <-chan time.Time
		if len(open) > 0 {
			again = time.After(proposeAgain)
		}
		var propose []*Partition
		select {
		case <-s.wake:
			propose = s.takeCaughtUp()
		case <-look.C:
			propose = s.all()
		case <-again:
			propose, open = open, nil
		case <-ctx.Done():
			return
		}
		for _, p := range s.propose(ctx, propose) {
			if !slices.Contains(open, p) {
				open = append(open, p)
			}
		}
	}
}

func (s *inSync) takeCaughtUp() []*Partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Partition, 0, len(s.caughtUp))
	for p := range s.caughtUp {
		out = append(out, p)
	}
	clear(s.caughtUp)
	return out
}

// maxProposals bounds one request to the controller.
const maxProposals = 1000

// propose asks for what should change in the partitions, and returns those
// whose outcome is open.
func (s *inSync) propose(ctx context.Context, parts []*Partition) (open []*Partition) {
	var changes []metadata.ISRChange
	var of []*Partition
	ask := func() {
		if len(changes) == 0 {
			return
		}
		for i, r := range s.alter(ctx, changes) {
			if s.decided(of[i], changes[i], r) {
				open = append(open, of[i])
			}
		}
		changes, of = changes[:0], of[:0]
	}
	for _, p := range parts {
		ch, ok := p.proposal()
		if !ok {
			continue
		}
		changes, of = append(changes, ch), append(of, p)
		if len(changes) == maxProposals {
			ask()
		}
	}
	ask()
	return open
}

// decided takes over one result and reports whether to ask again.
func (s *inSync) decided(p *Partition, ch metadata.ISRChange, r metadata.ISRResult) (again bool) {
	log := func(e *zerolog.Event) *zerolog.Event {
		return e.Stringer("partition", p.TopicPartition()).Interface("proposed", isrIDs(ch.NewISR)).Int32("partition_epoch", ch.PartitionEpoch)
	}
	switch err := r.Err; {
	case err == nil:
		log(s.log.Info()).Ints32("isr", r.ISR).Msg("the in-sync set changed")
		p.committed(ch, r)
	case errors.Is(err, kerr.IneligibleReplica), errors.Is(err, kerr.OperationNotAttempted):
		// The controller knows more than we do; not at once, or we would ask until
		// metadata tells us.
		log(s.log.Info()).Err(err).Msg("the in-sync set stays")
		p.rolledBack(ch)
		return true
	case errors.Is(err, kerr.FencedLeaderEpoch), errors.Is(err, kerr.InvalidUpdateVersion), errors.Is(err, kerr.InvalidRequest),
		errors.Is(err, kerr.NewLeaderElected), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
		// The partition is not what we take it for; metadata on its way says
		// what it is. Until then both sets count.
		log(s.log.Info()).Err(err).Msg("the change of the in-sync set waits for metadata")
		p.awaitsMetadata(ch)
	default:
		log(s.log.Debug()).Err(err).Msg("the change of the in-sync set is proposed again")
		return true
	}
	return false
}

func isrIDs(set []metadata.ISRMember) []int32 {
	ids := make([]int32, len(set))
	for i, m := range set {
		ids[i] = m.BrokerID
	}
	return ids
}

// pendingChange is a change of the in-sync set that was proposed.
type pendingChange struct {
	change metadata.ISRChange
	// settled tells that asking again is of no use: metadata decides.
	settled bool
}

// proposal returns the change of the in-sync set that this leader should ask
// for: the one in flight if there is one, else what the followers' state asks
// for, which is in flight then. The state is looked at once, under the locks
// that guard it, for all of the decision (KAFKA-15221).
//
// The lock is taken exclusively only for something to propose. Who waits for it so
// behind a write that hangs keeps all readers out, and a follower with all that it
// fetches in one request with this partition.
func (p *Partition) proposal() (ch metadata.ISRChange, ok bool) {
	if !p.mayPropose() {
		return ch, false
	}
	p.role.Lock()
	defer p.role.Unlock()
	log, err := p.leads()
	if err != nil {
		return ch, false
	}
	s := &p.state
	if p.pending != nil {
		return p.pending.change, !p.pending.settled
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.nextInSync(log)
	if slices.Equal(next, s.isr.Committed) && !s.recovering {
		return ch, false
	}
	ch = metadata.ISRChange{Topic: metadata.ID(p.id), Partition: p.index, LeaderEpoch: s.leaderEpoch, PartitionEpoch: s.partitionEpoch}
	for _, id := range next {
		m := metadata.ISRMember{BrokerID: id, BrokerEpoch: p.fetchedWith(id)}
		if p.env.registration != nil && !slices.Contains(s.isr.Committed, id) {
			m.Registration = p.env.registration(id)
		}
		ch.NewISR = append(ch.NewISR, m)
	}
	p.pending = &pendingChange{change: ch}
	s.isr.Proposed = next
	p.advance()
	return ch, true
}

// mayPropose reports whether proposal has something to look at more closely.
func (p *Partition) mayPropose() bool {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.leads()
	if err != nil || p.pending != nil || p.state.recovering {
		return err == nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.Equal(p.nextInSync(log), p.state.isr.Committed)
}

// nextInSync is the in-sync set that the followers' state asks for. The caller holds
// role and mu, and leads.
func (p *Partition) nextInSync(log *storage.Log) []int32 {
	committed := p.state.isr.Committed
	out := p.state.isr.OutOfSync(p.env.nodeID, p.followers, max(p.logEnd, log.LogEndOffset()), p.env.now().UnixMilli(), p.env.maxLagMs)
	next := slices.DeleteFunc(slices.Clone(committed), func(id int32) bool { return slices.Contains(out, id) })
	for i := range p.followers {
		if r := &p.followers[i]; p.mayJoin(r) {
			next = append(next, r.ID)
		}
	}
	return next
}

// inviteFollowers has the in-sync set looked at if a follower may join it. It
// is called whenever something of what decides that has changed: a follower
// that has everything does not speak again by itself. The caller holds role and
// mu, and leads.
func (p *Partition) inviteFollowers() {
	if p.env.mayGrow == nil || p.pending != nil || len(p.state.isr.Committed) > len(p.followers) {
		return
	}
	for i := range p.followers {
		if p.mayJoin(&p.followers[i]) {
			p.env.mayGrow(p)
			return
		}
	}
}

// mayJoin reports whether a follower that is not in the committed set has
// proved that it belongs there. The caller holds role and mu.
func (p *Partition) mayJoin(r *Replica) bool {
	s := &p.state
	if slices.Contains(s.isr.Committed, r.ID) {
		return false
	}
	epoch, _ := p.env.brokerState(r.ID)
	return r.MayJoin(Leadership{Epoch: s.leaderEpoch, EpochStart: s.epochStart, HighWatermark: p.watermark.Load()}, epoch, p.eligible(r.ID))
}

// fetchedWith is the broker epoch with which a member fetched last; its
// registered one for ourselves, Unknown if it did not fetch in this epoch. The
// caller holds role and mu.
func (p *Partition) fetchedWith(id int32) int64 {
	if id == p.env.nodeID {
		epoch, _ := p.env.brokerState(id)
		return epoch
	}
	i := slices.IndexFunc(p.followers, func(r Replica) bool { return r.ID == id })
	if i < 0 {
		return Unknown
	}
	return p.followers[i].BrokerEpoch
}

// committed takes over the answer to a change that was made. Metadata may have
// shown it before.
func (p *Partition) committed(ch metadata.ISRChange, r metadata.ISRResult) {
	p.role.Lock()
	defer p.role.Unlock()
	s := &p.state
	if !p.isPending(ch) || r.LeaderEpoch != s.leaderEpoch || r.PartitionEpoch < s.partitionEpoch {
		return
	}
	s.partitionEpoch, s.isr, s.recovering = r.PartitionEpoch, ISR{Committed: r.ISR}, r.Recovering
	p.settle(true)
}

// rolledBack takes a change back that was not made.
func (p *Partition) rolledBack(ch metadata.ISRChange) {
	p.role.Lock()
	defer p.role.Unlock()
	if !p.isPending(ch) {
		return
	}
	p.state.isr.Proposed = nil
	p.settle(false)
}

// awaitsMetadata keeps a change pending, but not to be asked for again.
func (p *Partition) awaitsMetadata(ch metadata.ISRChange) {
	p.role.Lock()
	defer p.role.Unlock()
	if p.isPending(ch) {
		p.pending.settled = true
	}
}

// isPending reports whether ch is the change in flight. The caller holds role.
func (p *Partition) isPending(ch metadata.ISRChange) bool {
	return p.pending != nil && p.pending.change.LeaderEpoch == ch.LeaderEpoch && p.pending.change.PartitionEpoch == ch.PartitionEpoch
}

// settle ends the change in flight: the sets that count are others now. With
// invite who may join is proposed at once. The caller holds role exclusively.
func (p *Partition) settle(invite bool) {
	p.pending = nil
	if _, err := p.leads(); err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
	if invite {
		p.inviteFollowers()
	}
}
