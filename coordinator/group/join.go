package group

import (
	"bytes"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// joinRequest is a JoinGroup with who sent it and who waits for the answer.
type joinRequest struct {
	*kmsg.JoinGroupRequest
	client Client
	ticket runtime.Ticket
}

// JoinGroup lets a member into a classic group (v0 to v9).
func (s *Shard) JoinGroup(now time.Time, t runtime.Ticket, req *kmsg.JoinGroupRequest, c Client) runtime.Result {
	return s.wholly(req.Group, func() runtime.Result {
		st := &step{now: now}
		r := &joinRequest{req, c, t}
		if err := s.join(st, r); err != nil {
			st.reply(t, joinError(req.MemberID, err))
		}
		return st.Result
	})
}

func joinError(memberID string, err error) *kmsg.JoinGroupResponse {
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.ErrorCode = code(err)
	resp.Generation = -1
	resp.MemberID = memberID
	return resp
}

func (s *Shard) join(st *step, r *joinRequest) error {
	if r.Group == "" {
		return kerr.InvalidGroupID
	}
	session := time.Duration(r.SessionTimeoutMillis) * time.Millisecond
	if session < s.cfg.MinSessionTimeout || session > s.cfg.MaxSessionTimeout {
		return kerr.InvalidSessionTimeout
	}
	if r.Version == 0 {
		// v0 knows one timeout only.
		r.RebalanceTimeoutMillis = r.SessionTimeoutMillis
	}
	if cg := s.consumer[r.Group]; cg != nil {
		if len(cg.members) > 0 {
			if err := s.joinConsumer(st, cg, r); err != nil {
				r.MemberID = "" // as in Kafka, which does not repeat it here
				return err
			}
			return nil
		}
		if r.MemberID != "" {
			return kerr.UnknownMemberID
		}
		// An empty group may change its protocol without ado.
		for _, t := range cg.tombstones() {
			s.emit(st, t)
		}
	}
	g := s.classic[r.Group]
	if g == nil {
		if r.MemberID != "" {
			return kerr.UnknownMemberID
		}
		g = s.groupOr(r.Group, st.now)
		// The log learns of the group at once, so that what is written about
		// it later has a beginning, as in Kafka.
		st.Records, st.SkipReplay = append(st.Records, g.record()), true
	}
	if !g.accepts(r.MemberID, s.cfg.MaxSize) {
		g.remove(r.MemberID)
		r.MemberID = ""
		return kerr.GroupMaxSizeReached
	}
	ps := protocolsOf(r.JoinGroupRequest)
	if !g.supportsAny(r.ProtocolType, ps) {
		return kerr.InconsistentGroupProtocol
	}
	if r.MemberID == "" {
		return s.joinNew(st, g, r, ps)
	}
	return s.joinKnown(st, g, r, ps)
}

func (s *Shard) joinNew(st *step, g *classicGroup, r *joinRequest, ps []protocol) error {
	if r.InstanceID != nil {
		id := *r.InstanceID + "-" + s.newID()
		if old, ok := g.static[*r.InstanceID]; ok {
			return s.replaceStatic(st, g, g.members[old], id, r, ps)
		}
		s.addMember(st, g, id, r, ps)
		return nil
	}
	id := r.client.ID + "-" + s.newID()
	if r.Version >= 4 { // KIP-394: first learn the id, then join with it
		g.pending[id] = true
		st.setTimer(timerKey(timerSession, g.id, id), time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
		st.reply(r.ticket, joinError(id, kerr.MemberIDRequired))
		return nil
	}
	s.addMember(st, g, id, r, ps)
	return nil
}

func (s *Shard) joinKnown(st *step, g *classicGroup, r *joinRequest, ps []protocol) error {
	if g.pending[r.MemberID] {
		if r.InstanceID != nil {
			return kerr.UnknownMemberID // only dynamic members are ever pending
		}
		s.addMember(st, g, r.MemberID, r, ps)
		return nil
	}
	m, err := g.check(r.MemberID, r.InstanceID)
	if err != nil {
		return err
	}
	switch g.state {
	case statePreparing:
		s.updateMember(st, g, m, r, ps)
	case stateCompleting:
		if m.matches(ps) {
			// The answer to its join was lost: give it again.
			st.reply(r.ticket, g.joinResponse(m, false))
			return nil
		}
		s.updateMember(st, g, m, r, ps)
	case stateStable:
		if g.leader != m.id && m.matches(ps) {
			st.reply(r.ticket, g.joinResponse(m, false))
			return nil
		}
		// The leader asks for a rebalance by joining again; a follower by
		// offering something else.
		s.updateMember(st, g, m, r, ps)
	default:
		return kerr.UnknownMemberID
	}
	return nil
}

// joinResponse describes the current generation to a member.
func (g *classicGroup) joinResponse(m *member, skipAssignment bool) *kmsg.JoinGroupResponse {
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.MemberID = m.id
	resp.Generation = g.generation
	protocolType, name := g.protocolType, g.protocol
	resp.ProtocolType, resp.Protocol = &protocolType, &name
	resp.LeaderID = g.leader
	resp.SkipAssignment = skipAssignment
	if m.id == g.leader {
		for _, o := range g.inOrder() {
			e := kmsg.NewJoinGroupResponseMember()
			e.MemberID = o.id
			e.InstanceID = o.instanceID
			e.ProtocolMetadata = bytes.Clone(o.metadata(g.protocol))
			resp.Members = append(resp.Members, e)
		}
	}
	return resp
}

func (s *Shard) addMember(st *step, g *classicGroup, id string, r *joinRequest, ps []protocol) {
	m := &member{
		id: id, instanceID: r.InstanceID, client: r.client,
		rebalanceTimeoutMs: r.RebalanceTimeoutMillis, sessionTimeoutMs: r.SessionTimeoutMillis,
		protocols: ps, joining: r.ticket, isNew: true,
	}
	g.add(m, r.ProtocolType)
	if g.state == statePreparing && g.before == stateEmpty {
		g.added = true
	}
	st.setTimer(timerKey(timerSession, g.id, id), newMemberJoinTimeout)
	s.rebalanceOrComplete(st, g)
}

func (s *Shard) updateMember(st *step, g *classicGroup, m *member, r *joinRequest, ps []protocol) {
	if m.joining != 0 {
		// It asked again on another connection: the old call ends.
		st.reply(m.joining, joinError(m.id, kerr.UnknownMemberID))
	}
	m.protocols = ps
	m.rebalanceTimeoutMs, m.sessionTimeoutMs = r.RebalanceTimeoutMillis, r.SessionTimeoutMillis
	m.client = r.client
	m.joining = r.ticket
	s.rebalanceOrComplete(st, g)
}

// replaceStatic lets a static member back in under a new member id and fences
// the old one (KIP-345). In a stable group whose choice of protocol it does
// not change it gets its place back without a rebalance.
func (s *Shard) replaceStatic(st *step, g *classicGroup, m *member, id string, r *joinRequest, ps []protocol) error {
	leader := g.leader
	st.reply(m.joining, joinError(m.id, kerr.FencedInstanceID))
	st.reply(m.syncing, syncError(kerr.FencedInstanceID))
	m.joining, m.syncing = 0, 0
	st.cancelTimer(timerKey(timerSession, g.id, m.id))
	g.replaceStatic(m, id)
	m.protocols = ps
	m.rebalanceTimeoutMs, m.sessionTimeoutMs = r.RebalanceTimeoutMillis, r.SessionTimeoutMillis
	m.client = r.client
	s.watchSession(st, g, m)

	switch g.state {
	case stateStable:
		record := g.record()
		if g.selectProtocol() != g.protocol || s.tooLarge(record) {
			m.joining = r.ticket
			s.rebalanceOrComplete(st, g)
			return nil
		}
		st.Records, st.SkipReplay = append(st.Records, record), true
		resp := g.joinResponse(m, g.leader == m.id)
		if r.Version < 9 {
			// Before KIP-814 a leader that came back must not assign again: it
			// is shown its former self as the leader.
			resp.LeaderID, resp.Members, resp.SkipAssignment = leader, nil, false
		}
		st.reply(r.ticket, resp)
	case stateCompleting, statePreparing:
		m.joining = r.ticket
		s.rebalanceOrComplete(st, g)
	default:
		return kerr.UnknownMemberID
	}
	return nil
}

// rebalanceOrComplete starts a rebalance, or ends the join phase of the one
// that is under way if this was the member it waited for.
func (s *Shard) rebalanceOrComplete(st *step, g *classicGroup) {
	if g.canRebalance() {
		s.prepareRebalance(st, g)
		return
	}
	s.maybeCompleteJoin(st, g)
}

func (s *Shard) maybeCompleteJoin(st *step, g *classicGroup) {
	if g.state == statePreparing && g.before != stateEmpty && g.allJoined() {
		s.completeJoin(st, g)
	}
}

func (s *Shard) prepareRebalance(st *step, g *classicGroup) {
	if g.state == stateCompleting {
		s.failSyncs(st, g, kerr.RebalanceInProgress)
	}
	st.cancelTimer(timerKey(timerSync, g.id, ""))
	initial := g.state == stateEmpty
	g.to(statePreparing, st.now)
	if initial {
		// More members are likely on their way: wait for them a little, so
		// that a starting application rebalances once.
		g.added = false
		delay := s.cfg.InitialRebalanceDelay
		g.initialLeft = max(0, g.rebalanceTimeout()-delay)
		if delay == 0 {
			s.completeJoin(st, g)
			return
		}
		st.setTimer(timerKey(timerJoin, g.id, ""), delay)
		return
	}
	st.setTimer(timerKey(timerJoin, g.id, ""), g.rebalanceTimeout())
	s.maybeCompleteJoin(st, g)
}

// failSyncs answers the members that wait in SyncGroup. Their sessions may have
// run out meanwhile, which was ignored, so they begin anew: a member that is never
// heard of again would else hold up the next join phase to its end.
func (s *Shard) failSyncs(st *step, g *classicGroup, err error) {
	for _, m := range g.inOrder() {
		if m.syncing != 0 {
			st.reply(m.syncing, syncError(err))
			m.syncing = 0
			s.watchSession(st, g, m)
		}
	}
}

// joinTimeout ends the join phase, or prolongs the initial delay while members
// keep coming.
func (s *Shard) joinTimeout(st *step, g *classicGroup) {
	if g.state != statePreparing {
		return
	}
	if g.before == stateEmpty && g.added && g.initialLeft > 0 {
		g.added = false
		delay := min(s.cfg.InitialRebalanceDelay, g.initialLeft)
		g.initialLeft -= delay
		st.setTimer(timerKey(timerJoin, g.id, ""), delay)
		return
	}
	s.completeJoin(st, g)
}

// completeJoin forms the next generation of those who joined.
func (s *Shard) completeJoin(st *step, g *classicGroup) {
	st.cancelTimer(timerKey(timerJoin, g.id, ""))
	s.expelAbsent(st, g)
	if !g.electJoinedLeader() && len(g.members) > 0 {
		// Only static members are left and none came back yet: they keep
		// their places for another round.
		st.setTimer(timerKey(timerJoin, g.id, ""), g.rebalanceTimeout())
		return
	}
	g.nextGeneration(st.now)
	if g.state == stateEmpty {
		st.Records, st.SkipReplay = append(st.Records, g.record()), true
		return
	}
	st.setTimer(timerKey(timerSync, g.id, ""), g.rebalanceTimeout())
	for _, m := range g.inOrder() {
		// A static member that has not come back has no call to answer.
		st.reply(m.joining, g.joinResponse(m, false))
		m.joining, m.isNew = 0, false
		g.pendingSync[m.id] = true
		s.watchSession(st, g, m)
	}
}

// expelAbsent removes the dynamic members that did not join in time.
func (s *Shard) expelAbsent(st *step, g *classicGroup) {
	for _, m := range g.inOrder() {
		if m.joining == 0 && !m.isStatic() {
			g.remove(m.id)
			st.cancelTimer(timerKey(timerSession, g.id, m.id))
		}
	}
}

// watchSession (re)starts the timer of a member's session.
func (s *Shard) watchSession(st *step, g *classicGroup, m *member) {
	st.setTimer(timerKey(timerSession, g.id, m.id), time.Duration(m.sessionTimeoutMs)*time.Millisecond)
}

func (s *Shard) sessionExpired(st *step, g *classicGroup, memberID string) {
	if g.pending[memberID] {
		delete(g.pending, memberID)
		s.maybeCompleteJoin(st, g)
		return
	}
	m := g.members[memberID]
	if m == nil {
		return
	}
	if m.heartbeatSatisfied() && !m.isNew {
		return
	}
	s.removeMember(st, g, m)
}

// removeMember takes a member out and lets the others rebalance.
func (s *Shard) removeMember(st *step, g *classicGroup, m *member) {
	g.remove(m.id)
	st.cancelTimer(timerKey(timerSession, g.id, m.id))
	st.reply(m.joining, joinError(m.id, kerr.UnknownMemberID))
	st.reply(m.syncing, syncError(kerr.UnknownMemberID))
	m.joining, m.syncing = 0, 0
	switch g.state {
	case stateStable, stateCompleting:
		s.prepareRebalance(st, g)
	case statePreparing:
		s.maybeCompleteJoin(st, g)
	}
}
