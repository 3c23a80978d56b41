package group

import (
	"slices"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// upgrade makes a classic group with members a consumer group (KIP-848), when
// the first member that speaks the consumer protocol joins. The others keep
// what they have and stay in the group as members that speak the classic
// protocol; those in the middle of a rebalance begin it anew. Nothing is
// written if it is refused.
func (s *Shard) upgrade(st *step, old *classicGroup, joining string) (*consumerGroup, error) {
	no := func(reason string) error {
		return refuse(kerr.GroupIDNotFound, "Cannot upgrade classic group %s to consumer group because %s", old.id, reason)
	}
	switch {
	case s.cfg.MigrationPolicy != "upgrade" && s.cfg.MigrationPolicy != "bidirectional":
		return nil, no("online upgrade is disabled.")
	case old.protocolType != consumerProtocol:
		return nil, no("the group does not use the consumer embedded protocol.")
	case len(old.members) > s.cfg.ConsumerMaxSize:
		return nil, no("the group size exceeds the consumer group maximum size.")
	}
	if err := s.checkRoom(len(old.members), old.members[joining] != nil); err != nil {
		return nil, err
	}
	members := make([]*consumerMember, 0, len(old.members))
	for _, m := range old.inOrder() {
		u, reason := s.upgraded(old, m)
		if reason != "" {
			return nil, no(reason)
		}
		members = append(members, u)
	}
	s.keepClaimed(old, members)

	for _, m := range old.inOrder() {
		st.reply(m.joining, joinError(m.id, kerr.RebalanceInProgress))
		st.reply(m.syncing, syncError(kerr.RebalanceInProgress))
		st.cancelTimer(timerKey(timerSession, old.id, m.id))
	}
	s.drop(st, old)
	s.emit(st, groupTombstone(old.id))
	for _, m := range members {
		s.emit(st, consumerMemberRecord(old.id, m))
	}
	var hash int64
	if g := s.consumer[old.id]; g != nil { // it has members, and not only some that are about to join
		hash = g.subscriptionHash(s.image())
	}
	s.emit(st, consumerGroupRecord(old.id, old.generation, hash))
	for _, m := range members {
		s.emit(st, targetMemberRecord(old.id, m.id, m.assigned))
	}
	s.emit(st, targetEpochRecord(old.id, old.generation, 0))
	g := s.consumer[old.id]
	for _, m := range members {
		s.emit(st, currentMemberRecord(old.id, m))
		s.watchConsumer(st, g, m)
	}
	return g, nil
}

// keepClaimed adds to what members were last assigned what they said they own
// when they last joined, and nobody was assigned: in a cooperative rebalance
// that is on its way from one member to another, and the former owner may not
// have heard of it.
func (s *Shard) keepClaimed(old *classicGroup, members []*consumerMember) {
	taken := make(map[topicIDPartition]bool)
	for _, m := range members {
		for tp := range partitionsOf(m.assigned) {
			taken[tp] = true
		}
	}
	for _, m := range members {
		subscription, err := parseSubscription(old.members[m.id].offered(old.protocol))
		if err != nil {
			continue // checked when the member was made
		}
		for tp := range partitionsOf(s.ownedOf(subscription)) {
			if !taken[tp] {
				taken[tp] = true
				m.assigned[tp.topic] = append(m.assigned[tp.topic], tp.partition)
				m.since[tp] = old.generation
			}
		}
		for _, ps := range m.assigned {
			slices.Sort(ps)
		}
	}
}

// upgraded is the member of a classic group as one of a consumer group, or why
// there is no such thing.
func (s *Shard) upgraded(g *classicGroup, m *member) (*consumerMember, string) {
	const malformed = "the embedded consumer protocol is malformed."
	if len(m.protocols) == 0 {
		return nil, malformed
	}
	subscription, err := parseSubscription(m.offered(g.protocol))
	if err != nil {
		return nil, malformed
	}
	assigned := make(assignor.Assignment)
	if len(m.assignment) > 0 {
		a := kmsg.NewConsumerMemberAssignment()
		if err := a.ReadFrom(m.assignment); err != nil {
			return nil, malformed
		}
		if len(a.UserData) > 0 {
			return nil, "an unsupported custom assignor is in use. " +
				"Please refer to the documentation or switch to a default assignor before re-attempting the upgrade."
		}
		img := s.image()
		for _, at := range a.Topics {
			if t := img.Topic(at.Topic); t != nil {
				assigned[t.ID] = at.Partitions
			}
		}
	}
	return &consumerMember{
		id: m.id, instanceID: m.instanceID, rackID: subscription.Rack, client: m.client,
		rebalanceTimeoutMs: m.rebalanceTimeoutMs,
		topics:             slices.Compact(slices.Sorted(slices.Values(subscription.Topics))),
		classic:            &classicMember{m.sessionTimeoutMs, m.protocols},
		epoch:              g.generation, previousEpoch: g.generation,
		assigned: assigned, since: heldSince(g.generation, assigned),
	}, ""
}

// downgradable tells whether a consumer group becomes a classic one without
// these members: if the rest speaks the classic protocol and the policy lets
// it.
func (s *Shard) downgradable(g *consumerGroup, without ...*consumerMember) bool {
	for _, m := range g.members {
		if m.classic == nil && !slices.Contains(without, m) {
			return false
		}
	}
	return len(g.members)-len(without) <= s.cfg.MaxSize &&
		(s.cfg.MigrationPolicy == "downgrade" || s.cfg.MigrationPolicy == "bidirectional")
}

// downgrade makes a consumer group a classic one when the last member that
// spoke the consumer protocol left, or came back speaking the classic one
// (joined). Unless they all have what is meant for them the members rebalance.
// False if nobody would be left.
func (s *Shard) downgrade(st *step, g *consumerGroup, leaving []*consumerMember, joined *consumerMember) bool {
	c := newClassicGroup(g.id, st.now)
	c.generation = g.epoch
	settled := joined != nil
	for _, m := range g.sortedMembers() {
		s.cancelConsumer(st, g, m)
		if slices.Contains(leaving, m) {
			continue
		}
		settled = settled && m.epoch == g.epoch && m.state == memberStable
		c.add(&member{
			id: m.id, instanceID: m.instanceID, client: m.client,
			rebalanceTimeoutMs: m.rebalanceTimeoutMs, sessionTimeoutMs: m.classic.sessionTimeoutMs,
			protocols: m.classic.protocols,
		}, consumerProtocol)
	}
	if len(c.members) == 0 {
		return false
	}
	c.protocol, c.hasProtocol, c.state = c.selectProtocol(), true, stateStable
	img := s.image()
	for _, m := range c.members {
		// What it still has, and not what was meant for it: if another member of
		// the consumer protocol joins before the rebalance is over, this says what
		// is not free.
		was := g.members[m.id]
		m.assignment = encodeAssignment(img, union(was.assigned, was.revoking), m.metadata(c.protocol))
	}
	for _, t := range g.tombstones() {
		s.emit(st, t)
	}
	s.classic[g.id] = c
	leader := c.leader
	if !settled {
		c.leader = "" // in the log only, where it says that a rebalance is due
	}
	st.Records, st.SkipReplay = append(st.Records, c.record()), true
	c.leader = leader
	for _, m := range c.inOrder() {
		s.watchSession(st, c, m)
	}
	if !settled {
		s.prepareRebalance(st, c)
	}
	return true
}
