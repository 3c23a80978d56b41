package group

import (
	"bytes"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func syncError(err error) *kmsg.SyncGroupResponse {
	resp := kmsg.NewPtrSyncGroupResponse()
	resp.ErrorCode = code(err)
	resp.MemberAssignment = []byte{}
	return resp
}

// SyncGroup takes the assignment from the leader and gives each member its
// part (v0 to v5).
func (s *Shard) SyncGroup(now time.Time, t runtime.Ticket, req *kmsg.SyncGroupRequest) runtime.Result {
	return s.wholly(req.Group, func() runtime.Result {
		st := &step{now: now}
		if err := s.sync(st, t, req); err != nil {
			st.reply(t, syncError(err))
		}
		return st.Result
	})
}

func (s *Shard) sync(st *step, t runtime.Ticket, req *kmsg.SyncGroupRequest) error {
	if req.Group == "" {
		return kerr.InvalidGroupID
	}
	if cg := s.consumer[req.Group]; cg != nil {
		return s.syncConsumer(st, t, cg, req)
	}
	g := s.classic[req.Group]
	if g == nil {
		return kerr.UnknownMemberID
	}
	m, err := g.check(req.MemberID, req.InstanceID)
	if err != nil {
		return err
	}
	switch {
	case req.Generation != g.generation:
		return kerr.IllegalGeneration
	case req.ProtocolType != nil && *req.ProtocolType != g.protocolType,
		req.Protocol != nil && *req.Protocol != g.protocol:
		return kerr.InconsistentGroupProtocol
	}
	switch g.state {
	case statePreparing:
		return kerr.RebalanceInProgress
	case stateCompleting:
		st.reply(m.syncing, syncError(kerr.UnknownMemberID)) // an older call of its own
		m.syncing = t
		delete(g.pendingSync, m.id)
		if m.id == g.leader {
			s.assign(st, g, req.GroupAssignment)
		}
	case stateStable:
		delete(g.pendingSync, m.id)
		st.reply(t, g.syncResponse(m))
		s.watchSession(st, g, m)
	default:
		return kerr.UnknownMemberID
	}
	return nil
}

func (g *classicGroup) syncResponse(m *member) *kmsg.SyncGroupResponse {
	resp := kmsg.NewPtrSyncGroupResponse()
	protocolType, name := g.protocolType, g.protocol
	resp.ProtocolType, resp.Protocol = &protocolType, &name
	resp.MemberAssignment = append([]byte{}, m.assignment...)
	return resp
}

// assign makes the group stable with the leader's assignment; who is left out
// of it gets nothing.
func (s *Shard) assign(st *step, g *classicGroup, assignment []kmsg.SyncGroupRequestGroupAssignment) {
	for _, m := range g.members {
		m.assignment = nil
	}
	for _, a := range assignment {
		if m := g.members[a.MemberID]; m != nil {
			m.assignment = bytes.Clone(a.MemberAssignment)
		}
	}
	g.to(stateStable, st.now)
	record := g.record()
	if s.tooLarge(record) {
		// The log would not take it, and then the whole shard, with all its groups, would have to be loaded again. As in
		// Kafka, this group alone begins another round.
		for _, m := range g.members {
			m.assignment = nil
		}
		s.failSyncs(st, g, kerr.UnknownServerError)
		s.prepareRebalance(st, g)
		return
	}
	s.cfg.count(ClassicRebalance)
	st.Records, st.SkipReplay = append(st.Records, record), true
	for _, m := range g.inOrder() {
		if m.syncing != 0 {
			st.reply(m.syncing, g.syncResponse(m))
			m.syncing = 0
			s.watchSession(st, g, m)
		}
	}
	if len(g.pendingSync) == 0 {
		st.cancelTimer(timerKey(timerSync, g.id, ""))
	}
}

func (s *Shard) tooLarge(r runtime.Record) bool {
	return s.cfg.MaxRecordBytes != nil && r.Size() > s.cfg.MaxRecordBytes()
}

// syncTimeout removes the members that joined a generation but never asked for
// their part of it.
func (s *Shard) syncTimeout(st *step, g *classicGroup) {
	if (g.state != stateCompleting && g.state != stateStable) || len(g.pendingSync) == 0 {
		return
	}
	for _, m := range g.inOrder() {
		if g.pendingSync[m.id] && m.syncing == 0 {
			g.remove(m.id)
			st.cancelTimer(timerKey(timerSession, g.id, m.id))
		}
	}
	s.prepareRebalance(st, g)
}

// Heartbeat keeps a member's session alive and tells it of a rebalance (v0 to
// v4).
func (s *Shard) Heartbeat(now time.Time, t runtime.Ticket, req *kmsg.HeartbeatRequest) runtime.Result {
	st := &step{now: now}
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.ErrorCode = code(s.heartbeat(st, req))
	st.reply(t, resp)
	return st.Result
}

func (s *Shard) heartbeat(st *step, req *kmsg.HeartbeatRequest) error {
	if req.Group == "" {
		return kerr.InvalidGroupID
	}
	if cg := s.consumer[req.Group]; cg != nil {
		return s.heartbeatConsumer(st, cg, req)
	}
	g := s.classic[req.Group]
	if g == nil {
		return kerr.UnknownMemberID
	}
	m, err := g.check(req.MemberID, req.InstanceID)
	if err != nil {
		return err
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	s.watchSession(st, g, m)
	if g.state == statePreparing {
		return kerr.RebalanceInProgress
	}
	return nil
}

// LeaveGroup takes members out: the sender itself, or static members by their
// instance ids (v0 to v5, batched from v3: KIP-345).
func (s *Shard) LeaveGroup(now time.Time, t runtime.Ticket, req *kmsg.LeaveGroupRequest) runtime.Result {
	return s.wholly(req.Group, func() runtime.Result {
		st := &step{now: now}
		s.leaveGroup(st, t, req)
		return st.Result
	})
}

func (s *Shard) leaveGroup(st *step, t runtime.Ticket, req *kmsg.LeaveGroupRequest) {
	resp := kmsg.NewPtrLeaveGroupResponse()
	g := s.classic[req.Group]
	members := req.Members
	if req.Version < 3 {
		one := kmsg.NewLeaveGroupRequestMember()
		one.MemberID = req.MemberID
		members = []kmsg.LeaveGroupRequestMember{one}
	}
	if req.Group == "" {
		resp.ErrorCode = kerr.InvalidGroupID.Code
		st.reply(t, resp)
		return
	}
	if cg := s.consumer[req.Group]; cg != nil {
		resp.Members = s.leaveConsumer(st, cg, members)
		members = nil
	}
	for _, who := range members {
		e := kmsg.NewLeaveGroupResponseMember()
		e.MemberID, e.InstanceID = who.MemberID, who.InstanceID
		e.ErrorCode = code(s.leave(st, g, who))
		resp.Members = append(resp.Members, e)
	}
	if req.Version < 3 {
		resp.ErrorCode = resp.Members[0].ErrorCode
	}
	st.reply(t, resp)
}

func (s *Shard) leave(st *step, g *classicGroup, who kmsg.LeaveGroupRequestMember) error {
	if g == nil {
		return kerr.UnknownMemberID
	}
	if who.InstanceID != nil {
		id, ok := g.static[*who.InstanceID]
		switch {
		case !ok:
			return kerr.UnknownMemberID
		case who.MemberID != "" && who.MemberID != id:
			return kerr.FencedInstanceID
		}
		s.removeMember(st, g, g.members[id])
		return nil
	}
	if g.pending[who.MemberID] {
		delete(g.pending, who.MemberID)
		st.cancelTimer(timerKey(timerSession, g.id, who.MemberID))
		s.maybeCompleteJoin(st, g)
		return nil
	}
	m := g.members[who.MemberID]
	if m == nil {
		return kerr.UnknownMemberID
	}
	s.removeMember(st, g, m)
	return nil
}
