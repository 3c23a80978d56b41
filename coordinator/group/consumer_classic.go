package group

import (
	"cmp"
	"maps"
	"slices"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A member of a consumer group may speak the classic protocol: that is how a
// group moves from one protocol to the other while it works. To such a member
// the group looks like a classic one that somebody else leads. Its generation
// is its member epoch; REBALANCE_IN_PROGRESS tells it to join again, which is
// where it says what it still owns; SyncGroup brings what it has been given.

// consumerProtocol is the type of the classic groups that consumers form, and
// can become consumer groups.
const consumerProtocol = "consumer"

// newestConsumerProtocol is the last version of the consumers' metadata and
// assignments inside the classic protocol.
const newestConsumerProtocol = 3

func (c *classicMember) same(o *classicMember) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.sessionTimeoutMs == o.sessionTimeoutMs && sameProtocols(c.protocols, o.protocols)
}

// joinConsumer lets a member that speaks the classic protocol into a consumer
// group that has members. Nobody waits for the others to join.
func (s *Shard) joinConsumer(st *step, g *consumerGroup, r *joinRequest) error {
	if s.cfg.MigrationPolicy == "disabled" {
		return kerr.InconsistentGroupProtocol
	}
	if err := s.checkRoom(len(g.members), g.members[r.MemberID] != nil); err != nil {
		return err
	}
	ps := protocolsOf(r.JoinGroupRequest)
	if !g.supportsAny(r.ProtocolType, ps) {
		return kerr.InconsistentGroupProtocol
	}
	subscription, err := parseSubscription(ps[0].metadata)
	if err != nil {
		return kerr.InconsistentGroupProtocol
	}
	id, isNew := r.MemberID, r.MemberID == ""
	if isNew {
		id = s.newID()
		if r.Version >= 4 && r.InstanceID == nil { // KIP-394
			g.pending[id] = true
			st.setTimer(timerKey(timerConsumerSession, g.id, id), milliseconds(r.SessionTimeoutMillis))
			st.reply(r.ticket, joinError(id, kerr.MemberIDRequired))
			return nil
		}
	}
	// The last of the members that spoke the consumer protocol comes back
	// speaking the classic one: then all do.
	var replaced *consumerMember
	if old := g.staticMember(r.InstanceID); old != nil && isNew && old.classic == nil && s.downgradable(g, old) {
		replaced = old
	}
	was, err := s.admitClassic(st, g, id, isNew, r.InstanceID)
	if err != nil {
		return err
	}
	now := classicallyJoined(was, r, ps, subscription)
	_, after := s.advance(st, g, was, now, s.ownedOf(subscription), true)

	resp := kmsg.NewPtrJoinGroupResponse()
	protocolType, name := consumerProtocol, ps[0].name
	resp.MemberID, resp.Generation = after.id, after.epoch
	resp.ProtocolType, resp.Protocol = &protocolType, &name
	st.reply(r.ticket, resp)
	if replaced != nil && s.downgrade(st, g, nil, after) {
		return nil
	}
	s.cancelClassicTimers(st, g, after)
	s.watchConsumer(st, g, after)
	s.watchRevocation(st, g, after)
	st.setTimer(timerKey(timerConsumerSync, g.id, after.id), milliseconds(r.RebalanceTimeoutMillis))
	return nil
}

// admitClassic finds the member that joins with the classic protocol, or makes
// it. A static member takes over from its former self at once.
func (s *Shard) admitClassic(st *step, g *consumerGroup, id string, isNew bool, instanceID *string) (*consumerMember, error) {
	old := g.staticMember(instanceID)
	switch {
	case instanceID == nil && g.members[id] != nil:
		return g.members[id], nil
	case instanceID == nil && !isNew && !g.pending[id]:
		// It was removed and does not know: what it believes to own may be
		// another's by now. Kafka lets it in.
		return nil, kerr.UnknownMemberID
	case instanceID == nil || isNew && old == nil:
		delete(g.pending, id)
		return &consumerMember{id: id}, nil
	case isNew:
		return s.replaceConsumer(st, g, old, id), nil
	case old == nil:
		return nil, kerr.UnknownMemberID
	case old.id != id:
		return nil, kerr.FencedInstanceID
	}
	return old, nil
}

func (g *consumerGroup) staticMember(instanceID *string) *consumerMember {
	if instanceID == nil {
		return nil
	}
	return g.members[g.static[*instanceID]]
}

// supportsAny tells whether one of the protocols is supported by all members
// that speak the classic protocol.
func (g *consumerGroup) supportsAny(protocolType string, ps []protocol) bool {
	return protocolType == consumerProtocol && slices.ContainsFunc(ps, func(p protocol) bool {
		for _, m := range g.members {
			if m.classic != nil && !slices.ContainsFunc(m.classic.protocols, func(o protocol) bool { return o.name == p.name }) {
				return false
			}
		}
		return true
	})
}

// classicallyJoined is the member with what its JoinGroup says about it.
func classicallyJoined(m *consumerMember, r *joinRequest, ps []protocol, subscription *kmsg.ConsumerMemberMetadata) *consumerMember {
	u := *m
	u.client = r.client
	u.classic = &classicMember{sessionTimeoutMs: r.SessionTimeoutMillis, protocols: ps}
	u.rebalanceTimeoutMs = r.RebalanceTimeoutMillis
	u.topics, u.regex = slices.Compact(slices.Sorted(slices.Values(subscription.Topics))), ""
	if r.InstanceID != nil {
		u.instanceID = r.InstanceID
	}
	if subscription.Rack != nil {
		u.rackID = subscription.Rack
	}
	return &u
}

// parseSubscription reads what a consumer offers for a protocol.
func parseSubscription(b []byte) (*kmsg.ConsumerMemberMetadata, error) {
	m := kmsg.NewConsumerMemberMetadata()
	return &m, m.ReadFrom(b)
}

// ownedOf are the partitions that a member says it owns, of topics that exist.
func (s *Shard) ownedOf(m *kmsg.ConsumerMemberMetadata) assignor.Assignment {
	img, owned := s.image(), make(assignor.Assignment)
	for _, o := range m.OwnedPartitions {
		if t := img.Topic(o.Topic); t != nil {
			owned[t.ID] = o.Partitions
		}
	}
	return owned
}

// classicMemberOf finds a member that speaks the classic protocol, at the
// generation that it believes in.
func (g *consumerGroup) classicMemberOf(memberID string, instanceID *string, generation int32) (*consumerMember, error) {
	m := g.members[memberID]
	if instanceID != nil {
		m = g.staticMember(instanceID)
	}
	switch {
	case m == nil:
		return nil, kerr.UnknownMemberID
	case m.id != memberID:
		return nil, kerr.FencedInstanceID
	case m.classic == nil:
		return nil, kerr.UnknownMemberID
	case m.epoch != generation:
		return nil, kerr.IllegalGeneration
	}
	return m, nil
}

// syncConsumer gives a member that speaks the classic protocol the partitions
// that it has.
func (s *Shard) syncConsumer(st *step, t runtime.Ticket, g *consumerGroup, req *kmsg.SyncGroupRequest) error {
	m, err := g.classicMemberOf(req.MemberID, req.InstanceID, req.Generation)
	if err != nil {
		return err
	}
	name := m.classic.protocols[0].name
	if req.ProtocolType != nil && *req.ProtocolType != consumerProtocol || req.Protocol != nil && *req.Protocol != name {
		return kerr.InconsistentGroupProtocol
	}
	if m.epoch < g.epoch && m.state != memberUnrevoked {
		s.awaitJoin(st, g, m)
		return kerr.RebalanceInProgress
	}
	st.cancelTimer(timerKey(timerConsumerSync, g.id, m.id))
	s.watchConsumer(st, g, m)
	resp := kmsg.NewPtrSyncGroupResponse()
	resp.ProtocolType, resp.Protocol = req.ProtocolType, req.Protocol
	resp.MemberAssignment = encodeAssignment(s.image(), m.assigned, m.classic.protocols[0].metadata)
	st.reply(t, resp)
	return nil
}

// encodeAssignment writes an assignment for a consumer of the classic protocol,
// in the version of its own metadata.
func encodeAssignment(img *metadata.Image, a assignor.Assignment, subscription []byte) []byte {
	out := kmsg.NewConsumerMemberAssignment()
	if v, err := recordType(subscription); err == nil { // both begin with two bytes
		out.Version = min(v, newestConsumerProtocol)
	}
	for id, ps := range a {
		if t := img.TopicByID(id); t != nil {
			out.Topics = append(out.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: t.Name, Partitions: ps})
		}
	}
	slices.SortFunc(out.Topics, func(a, b kmsg.ConsumerMemberAssignmentTopic) int { return cmp.Compare(a.Topic, b.Topic) })
	return out.AppendTo(nil)
}

// heartbeatConsumer keeps a member that speaks the classic protocol alive, and
// has it join again if there is a new epoch, if it has to give partitions back,
// or if what it waits for is free.
func (s *Shard) heartbeatConsumer(st *step, g *consumerGroup, req *kmsg.HeartbeatRequest) error {
	m, err := g.classicMemberOf(req.MemberID, req.InstanceID, req.Generation)
	if err != nil {
		return err
	}
	s.watchConsumer(st, g, m)
	if m.epoch < g.epoch || m.state == memberUnrevoked || m.state == memberUnreleased && !g.awaitsRelease(m) {
		s.awaitJoin(st, g, m)
		return kerr.RebalanceInProgress
	}
	return nil
}

// awaitsRelease tells whether others still have what is to be the member's.
func (g *consumerGroup) awaitsRelease(m *consumerMember) bool {
	for tp := range partitionsOf(g.target[m.id]) {
		if owner, taken := g.owners[tp]; taken && owner != m.id {
			return true
		}
	}
	return false
}

// awaitJoin bounds how long a member that was told to join may take. The timer
// is not prolonged by being told again.
func (s *Shard) awaitJoin(st *step, g *consumerGroup, m *consumerMember) {
	if !m.toldToJoin {
		m.toldToJoin = true
		st.setTimer(timerKey(timerConsumerJoin, g.id, m.id), milliseconds(m.rebalanceTimeoutMs))
	}
}

// leaveConsumer takes members out of a consumer group by LeaveGroup, whichever
// protocol they speak.
func (s *Shard) leaveConsumer(st *step, g *consumerGroup, members []kmsg.LeaveGroupRequestMember) []kmsg.LeaveGroupResponseMember {
	var out []kmsg.LeaveGroupResponseMember
	gone := make(map[string]*consumerMember)
	for _, who := range members {
		e := kmsg.NewLeaveGroupResponseMember()
		e.MemberID, e.InstanceID = who.MemberID, who.InstanceID
		m := g.members[who.MemberID]
		if who.InstanceID != nil {
			m = g.staticMember(who.InstanceID)
		}
		switch {
		case m == nil:
			e.ErrorCode = kerr.UnknownMemberID.Code
		case who.InstanceID != nil && who.MemberID != "" && who.MemberID != m.id:
			e.ErrorCode = kerr.FencedInstanceID.Code
		default:
			gone[m.id] = m
		}
		out = append(out, e)
	}
	if len(gone) > 0 {
		s.removeConsumers(st, g, slices.SortedFunc(maps.Values(gone), byID)...)
	}
	return out
}

func byID(a, b *consumerMember) int { return cmp.Compare(a.id, b.id) }
