package group

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// refusal is a Kafka error with a message of its own.
type refusal struct {
	code    *kerr.Error
	message string
}

func (r *refusal) Error() string { return r.code.Message + ": " + r.message }
func (r *refusal) Unwrap() error { return r.code }

// message is what to tell the client beside the code, "" for nothing.
func message(err error) string {
	if r := (*refusal)(nil); errors.As(err, &r) {
		return r.message
	}
	return ""
}

func refuse(e *kerr.Error, format string, args ...any) error {
	return &refusal{e, fmt.Sprintf(format, args...)}
}

// ConsumerGroupHeartbeat answers the one request of the consumer protocol (v0,
// v1; KIP-848): a member joins with epoch 0, lives by sending its epoch, says
// what it still owns while it has partitions to give back, and leaves with -1,
// or -2 if it is static and will come back.
func (s *Shard) ConsumerGroupHeartbeat(now time.Time, t runtime.Ticket, req *kmsg.ConsumerGroupHeartbeatRequest, c Client) runtime.Result {
	return s.wholly(req.Group, func() runtime.Result {
		st := &step{now: now}
		resp, err := s.consumerHeartbeat(st, req, c)
		if err != nil {
			resp = kmsg.NewPtrConsumerGroupHeartbeatResponse()
			resp.ErrorCode = code(err)
			if m := message(err); m != "" {
				resp.ErrorMessage = &m
			}
		}
		st.reply(t, resp)
		return st.Result
	})
}

// emit writes a record and replays it at once, for what comes next in the same
// step. What is too much for one append, as the assignment of a large group may be,
// is written in parts; of a coordinator that dies between two of them there is a
// group whose members are assigned anew or have to join again.
func (s *Shard) emit(st *step, r runtime.Record) {
	if err := s.Replay(0, nil, r); err != nil {
		panic(fmt.Sprintf("group: replay of a record just made: %v", err))
	}
	st.Records, st.SkipReplay, st.Divisible = append(st.Records, r), true, true
}

func (s *Shard) consumerHeartbeat(st *step, req *kmsg.ConsumerGroupHeartbeatRequest, c Client) (*kmsg.ConsumerGroupHeartbeatResponse, error) {
	if err := s.checkHeartbeat(req); err != nil {
		return nil, err
	}
	if req.MemberEpoch < 0 {
		return s.consumerLeave(st, req)
	}
	if err := s.checkRegex(req); err != nil {
		return nil, err
	}
	g, err := s.consumerGroupFor(st, req.Group, req.MemberID, req.MemberEpoch == 0)
	if err != nil {
		return nil, err
	}
	owned, saidOwned := ownedPartitions(req)
	m, err := s.admitMember(st, g, req, owned, saidOwned)
	if err != nil {
		return nil, err
	}
	before, after := s.advance(st, g, m, updatedMember(m, req, c), owned, saidOwned)
	s.cancelClassicTimers(st, g, after)
	s.watchConsumer(st, g, after)

	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	resp.MemberID, resp.MemberEpoch = &after.id, after.epoch
	resp.HeartbeatIntervalMillis = int32(s.cfg.consumerHeartbeat(s.groupConfig(g.id)).Milliseconds())
	full := req.MemberEpoch == 0 ||
		(req.RebalanceTimeoutMillis != -1 && (req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil) && saidOwned)
	if full || !equal(before.assigned, after.assigned) {
		resp.Assignment = assignmentOf(after.assigned)
	}
	return resp, nil
}

// advance takes what a member now says about itself, moves the group on if that
// changes who should have what, and the member towards its part of it. It
// returns the member as it was before the last step, and after.
func (s *Shard) advance(st *step, g *consumerGroup, was, now *consumerMember, owned assignor.Assignment, saidOwned bool) (before, after *consumerMember) {
	img := s.image()
	s.moveEpoch(st, g, img, s.saveSubscription(st, g, was, now, img))
	m := *g.members[now.id]
	s.saveMember(st, g, g.reconcile(&m, owned, saidOwned))
	return &m, g.members[now.id]
}

func (s *Shard) checkHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) error {
	bad := func(message string) error { return refuse(kerr.InvalidRequest, "%s", message) }
	switch {
	case req.MemberID == "" && (req.Version > 0 || req.MemberEpoch != 0):
		return bad("MemberId can't be empty.")
	case strings.TrimSpace(req.Group) == "":
		return bad("GroupId can't be empty.")
	case req.InstanceID != nil && strings.TrimSpace(*req.InstanceID) == "":
		return bad("InstanceId can't be empty.")
	case req.RackID != nil && strings.TrimSpace(*req.RackID) == "":
		return bad("RackId can't be empty.")
	case req.MemberEpoch == epochLeaveStatic && req.InstanceID == nil:
		return bad("InstanceId can't be null.")
	case req.MemberEpoch < epochLeaveStatic:
		return bad("MemberEpoch is invalid.")
	}
	if req.ServerAssignor != nil && *req.ServerAssignor != "" && !slices.Contains(s.cfg.ConsumerAssignors, *req.ServerAssignor) {
		return refuse(kerr.UnsupportedAssignor, "ServerAssignor %s is not supported. Supported assignors: %s.",
			*req.ServerAssignor, strings.Join(s.cfg.ConsumerAssignors, ", "))
	}
	if req.MemberEpoch != 0 {
		return nil
	}
	switch {
	case req.RebalanceTimeoutMillis == -1:
		return bad("RebalanceTimeoutMs must be provided in first request.")
	case req.Topics == nil || len(req.Topics) > 0:
		return bad("TopicPartitions must be empty when (re-)joining.")
	case req.SubscribedTopicNames == nil && (req.SubscribedTopicRegex == nil || *req.SubscribedTopicRegex == ""):
		return bad("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
	}
	return nil
}

func ownedPartitions(req *kmsg.ConsumerGroupHeartbeatRequest) (owned assignor.Assignment, said bool) {
	owned = make(assignor.Assignment, len(req.Topics))
	for _, t := range req.Topics {
		owned[t.TopicID] = append(owned[t.TopicID], t.Partitions...)
	}
	return owned, req.Topics != nil
}

// consumerGroupFor finds the group, or makes it for a member that joins. A
// classic group becomes a consumer group, with its members if it has some.
func (s *Shard) consumerGroupFor(st *step, id, memberID string, join bool) (*consumerGroup, error) {
	if g := s.consumer[id]; g != nil {
		return g, s.checkRoom(len(g.members), g.members[memberID] != nil)
	}
	old := s.classic[id]
	switch {
	case old == nil && !join:
		return nil, refuse(kerr.GroupIDNotFound, "Consumer group %s not found.", id)
	case old != nil && !join:
		return nil, refuse(kerr.GroupIDNotFound, "Group %s is not a consumer group.", id)
	case old != nil && old.state != stateEmpty:
		return s.upgrade(st, old, memberID)
	case old != nil:
		s.drop(st, old)
		s.emit(st, groupTombstone(id))
	}
	// Nothing can keep the member out now, whose records make the group.
	g := newConsumerGroup(id)
	s.consumer[id] = g
	return g, nil
}

func (s *Shard) checkRoom(members int, isMember bool) error {
	if !isMember && members >= s.cfg.ConsumerMaxSize {
		return refuse(kerr.GroupMaxSizeReached, "The consumer group has reached its maximum capacity of %d members.", s.cfg.ConsumerMaxSize)
	}
	return nil
}

// admitMember finds the member that the request speaks for, or makes it.
func (s *Shard) admitMember(st *step, g *consumerGroup, req *kmsg.ConsumerGroupHeartbeatRequest, owned assignor.Assignment, saidOwned bool) (*consumerMember, error) {
	if req.MemberID == "" {
		req.MemberID = s.newID() // v0 lets the broker choose
	}
	if req.InstanceID != nil {
		return s.admitStatic(st, g, req, owned, saidOwned)
	}
	m := g.members[req.MemberID]
	if m == nil {
		if req.MemberEpoch != 0 {
			return nil, refuse(kerr.UnknownMemberID, "Member %s is not a member of group %s.", req.MemberID, g.id)
		}
		return &consumerMember{id: req.MemberID}, nil
	}
	return m, m.checkEpoch(req.MemberEpoch, owned, saidOwned)
}

func (s *Shard) admitStatic(st *step, g *consumerGroup, req *kmsg.ConsumerGroupHeartbeatRequest, owned assignor.Assignment, saidOwned bool) (*consumerMember, error) {
	instance := *req.InstanceID
	id, known := g.static[instance]
	if req.MemberEpoch != 0 {
		switch {
		case !known:
			return nil, refuse(kerr.UnknownMemberID, "Instance id %s is unknown.", instance)
		case id != req.MemberID:
			return nil, refuse(kerr.FencedInstanceID, "Static member %s with instance id %s was fenced by member %s.", req.MemberID, instance, id)
		}
		m := g.members[id]
		return m, m.checkEpoch(req.MemberEpoch, owned, saidOwned)
	}
	switch {
	case !known:
		return &consumerMember{id: req.MemberID}, nil
	case id == req.MemberID:
		return g.members[id], nil
	case g.members[id].classic == nil && g.members[id].epoch != epochLeaveStatic:
		return nil, refuse(kerr.UnreleasedInstanceID, "Static member %s with instance id %s cannot join the group because the instance id is owned by %s member.", req.MemberID, instance, id)
	}
	return s.replaceConsumer(st, g, g.members[id], req.MemberID), nil
}

// replaceConsumer hands a static member's place, with its assignment, to the
// member id that it came back with.
func (s *Shard) replaceConsumer(st *step, g *consumerGroup, old *consumerMember, id string) *consumerMember {
	m := *old
	m.id, m.epoch, m.previousEpoch = id, 0, 0
	target, had := g.target[old.id]
	s.cancelConsumer(st, g, old)
	s.removeRecords(st, g, old.id)
	s.emit(st, consumerMemberRecord(g.id, &m))
	if had {
		s.emit(st, targetMemberRecord(g.id, id, target))
	}
	s.emit(st, currentMemberRecord(g.id, &m))
	return g.members[id]
}

// checkEpoch fences a member that is not where the coordinator thinks it is.
// One epoch behind is allowed to a member whose last answer was lost, if it
// claims nothing that it was not given.
func (m *consumerMember) checkEpoch(epoch int32, owned assignor.Assignment, saidOwned bool) error {
	const rest = "The member must abandon all its partitions and rejoin."
	switch {
	case epoch == 0: // it was fenced, or started anew under its old id
		return nil
	case epoch > m.epoch:
		return refuse(kerr.FencedMemberEpoch, "The consumer group member has a greater member epoch (%d) than the one known by the group coordinator (%d). %s", epoch, m.epoch, rest)
	case epoch < m.epoch && (epoch != m.previousEpoch || !saidOwned || !subset(owned, m.assigned)):
		return refuse(kerr.FencedMemberEpoch, "The consumer group member has a smaller member epoch (%d) than the one known by the group coordinator (%d). %s", epoch, m.epoch, rest)
	}
	return nil
}

// updatedMember is the member with what the request says about it.
func updatedMember(m *consumerMember, req *kmsg.ConsumerGroupHeartbeatRequest, c Client) *consumerMember {
	u := *m
	u.client, u.classic = c, nil
	if req.InstanceID != nil {
		u.instanceID = req.InstanceID
	}
	if req.RackID != nil {
		u.rackID = req.RackID
	}
	if req.RebalanceTimeoutMillis != -1 {
		u.rebalanceTimeoutMs = req.RebalanceTimeoutMillis
	}
	if req.ServerAssignor != nil {
		u.assignor = req.ServerAssignor
	}
	if req.SubscribedTopicNames != nil {
		u.topics = slices.Compact(slices.Sorted(slices.Values(req.SubscribedTopicNames)))
	}
	if req.SubscribedTopicRegex != nil {
		u.regex = *req.SubscribedTopicRegex
	}
	return &u
}

// checkRegex refuses a pattern that does not compile, before anything is
// written. Those of the group already did.
func (s *Shard) checkRegex(req *kmsg.ConsumerGroupHeartbeatRequest) error {
	if req.SubscribedTopicRegex == nil || *req.SubscribedTopicRegex == "" {
		return nil
	}
	if g := s.consumer[req.Group]; g != nil && g.regexes[*req.SubscribedTopicRegex] != nil {
		return nil
	}
	_, err := compileRegex(*req.SubscribedTopicRegex)
	return err
}

// compileRegex compiles a subscription. Kafka's are RE2 too, and match whole
// names.
func compileRegex(expression string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expression); err != nil {
		reason := err.Error()
		if i := strings.Index(reason, ": "); i >= 0 {
			reason = reason[i+2:]
		}
		if i := strings.LastIndex(reason, ": `"); i >= 0 {
			reason = reason[:i]
		}
		return nil, refuse(kerr.InvalidRegularExpression, "SubscribedTopicRegex `%s` is not a valid regular expression: %s.", expression, reason)
	}
	return regexp.Compile("^(?:" + expression + ")$")
}

// saveSubscription writes what changed about a member and tells whether the
// group has to be assigned anew because of it.
func (s *Shard) saveSubscription(st *step, g *consumerGroup, was, m *consumerMember, img *metadata.Image) (bump bool) {
	_, isMember := g.members[m.id]
	before := *was // the record changes the member in place
	was = &before
	bump = !isMember || !slices.Equal(was.topics, m.topics) || was.regex != m.regex
	if !isMember || !sameMember(was, m) {
		s.emit(st, consumerMemberRecord(g.id, m))
	}
	if m.regex != "" && g.regexes[m.regex] == nil {
		s.resolveRegex(st, g, m.regex, img)
		bump = true
	}
	if was.regex != "" && was.regex != m.regex {
		s.dropUnusedRegex(st, g, was.regex)
	}
	return bump
}

func sameMember(a, b *consumerMember) bool {
	return slices.Equal(a.topics, b.topics) && a.regex == b.regex && samePtr(a.assignor, b.assignor) &&
		samePtr(a.rackID, b.rackID) && samePtr(a.instanceID, b.instanceID) && a.client == b.client &&
		a.rebalanceTimeoutMs == b.rebalanceTimeoutMs && a.classic.same(b.classic)
}

func samePtr(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// resolveRegex writes which topics a pattern matches now, internal ones too, as
// Kafka's broker does.
func (s *Shard) resolveRegex(st *step, g *consumerGroup, expression string, img *metadata.Image) (changed bool) {
	re, err := compileRegex(expression)
	if err != nil {
		return false // it was compiled before: it came out of the log of another version
	}
	r := &resolvedRegex{revision: img.Revision, timestamp: st.now.UnixMilli()}
	for _, t := range img.Topics() {
		if re.MatchString(t.Name) {
			r.topics = append(r.topics, t.Name)
		}
	}
	slices.Sort(r.topics)
	if old := g.regexes[expression]; old != nil && slices.Equal(old.topics, r.topics) {
		return false
	}
	s.emit(st, regexRecord(g.id, expression, r))
	return true
}

func (s *Shard) dropUnusedRegex(st *step, g *consumerGroup, expression string) {
	for _, m := range g.members {
		if m.regex == expression {
			return
		}
	}
	s.emit(st, tombstone(typeRegex, g.id, expression))
}

// moveEpoch begins a new epoch if the members or their topics changed, and
// computes the target assignment of the newest epoch, but not sooner than the
// assignment interval after the last: members that come together get theirs
// together, with the first heartbeat after it. No timer waits for
// that; until then they go on with the last one.
func (s *Shard) moveEpoch(st *step, g *consumerGroup, img *metadata.Image, bump bool) {
	if bump || g.checked != img.Revision {
		for _, e := range sortedKeys(g.regexes) {
			bump = s.resolveRegex(st, g, e, img) || bump
		}
		g.checked = img.Revision
		hash := g.subscriptionHash(img)
		if bump || hash != g.hash {
			s.emit(st, consumerGroupRecord(g.id, g.epoch+1, hash))
			s.cfg.count(ConsumerRebalance)
		}
	}
	if g.epoch <= g.targetEpoch || !g.mayAssign(st.now, s.cfg.consumerAssignment(s.groupConfig(g.id))) {
		return
	}
	target := g.assign(img, s.cfg.ConsumerAssignors[0])
	for _, id := range sortedKeys(target) {
		if old, ok := g.target[id]; !ok || !equal(old, target[id]) {
			s.emit(st, targetMemberRecord(g.id, id, target[id]))
		}
	}
	s.emit(st, targetEpochRecord(g.id, g.epoch, st.now.UnixMilli()))
}

// saveMember writes a member's assignment if it changed.
func (s *Shard) saveMember(st *step, g *consumerGroup, m *consumerMember) {
	was := g.members[m.id]
	if was.epoch == m.epoch && was.previousEpoch == m.previousEpoch && was.state == m.state &&
		equal(was.assigned, m.assigned) && equal(was.revoking, m.revoking) {
		return
	}
	s.emit(st, currentMemberRecord(g.id, m))
	s.watchRevocation(st, g, m)
}

// watchConsumer (re)starts the timer of a member's session.
func (s *Shard) watchConsumer(st *step, g *consumerGroup, m *consumerMember) {
	session := s.cfg.consumerSession(s.groupConfig(g.id))
	if m.classic != nil {
		session = milliseconds(m.classic.sessionTimeoutMs)
	}
	st.setTimer(timerKey(timerConsumerSession, g.id, m.id), session)
}

// watchRevocation starts the timer that bounds how long a member may take to
// give partitions back. One that speaks the classic protocol has those of its
// rebalance instead.
func (s *Shard) watchRevocation(st *step, g *consumerGroup, m *consumerMember) {
	key := timerKey(timerRevoke, g.id, m.id)
	if m.state == memberUnrevoked && m.classic == nil && m.epoch >= 0 {
		st.setTimer(key, milliseconds(m.rebalanceTimeoutMs))
	} else {
		st.cancelTimer(key)
	}
}

func (s *Shard) cancelConsumer(st *step, g *consumerGroup, m *consumerMember) {
	st.cancelTimer(timerKey(timerConsumerSession, g.id, m.id))
	st.cancelTimer(timerKey(timerRevoke, g.id, m.id))
	s.cancelClassicTimers(st, g, m)
}

// cancelClassicTimers ends the rebalance of a member that speaks, or spoke, the
// classic protocol.
func (s *Shard) cancelClassicTimers(st *step, g *consumerGroup, m *consumerMember) {
	st.cancelTimer(timerKey(timerConsumerJoin, g.id, m.id))
	st.cancelTimer(timerKey(timerConsumerSync, g.id, m.id))
	m.toldToJoin = false
}

func milliseconds(ms int32) time.Duration { return time.Duration(ms) * time.Millisecond }

func (s *Shard) consumerLeave(st *step, req *kmsg.ConsumerGroupHeartbeatRequest) (*kmsg.ConsumerGroupHeartbeatResponse, error) {
	g := s.consumer[req.Group]
	if g == nil {
		if s.classic[req.Group] != nil {
			return nil, refuse(kerr.GroupIDNotFound, "Group %s is not a consumer group.", req.Group)
		}
		return nil, refuse(kerr.GroupIDNotFound, "Group %s not found.", req.Group)
	}
	var m *consumerMember
	if req.InstanceID == nil {
		m = g.members[req.MemberID]
		if m == nil {
			return nil, refuse(kerr.UnknownMemberID, "Member %s is not a member of group %s.", req.MemberID, g.id)
		}
	} else {
		id, known := g.static[*req.InstanceID]
		switch {
		case !known:
			return nil, refuse(kerr.UnknownMemberID, "Instance id %s is unknown.", *req.InstanceID)
		case id != req.MemberID:
			return nil, refuse(kerr.FencedInstanceID, "Static member %s with instance id %s was fenced by member %s.", req.MemberID, *req.InstanceID, id)
		}
		m = g.members[id]
	}
	if req.MemberEpoch == epochLeaveStatic {
		// It keeps its place and its partitions for a session.
		away := *m
		away.epoch, away.revoking = epochLeaveStatic, nil
		away.since = heldSince(0, away.assigned)
		s.saveMember(st, g, &away)
		s.cancelConsumer(st, g, m)
		s.watchConsumer(st, g, m)
	} else {
		s.removeConsumers(st, g, m)
	}
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	resp.MemberID, resp.MemberEpoch = &req.MemberID, req.MemberEpoch
	return resp, nil
}

// removeConsumers takes members out and begins a new epoch without them. What
// they had is free at once. If only members that speak the classic protocol are
// left, the group becomes a classic one.
func (s *Shard) removeConsumers(st *step, g *consumerGroup, members ...*consumerMember) {
	if s.downgradable(g, members...) && s.downgrade(st, g, members, nil) {
		return
	}
	epoch := g.epoch + 1
	if len(members) > 1 {
		// Before they go: if not all of this is written, what they had is free.
		s.emit(st, consumerGroupRecord(g.id, epoch, g.hash))
	}
	for _, m := range members {
		s.cancelConsumer(st, g, m)
		s.removeRecords(st, g, m.id)
		if m.regex != "" {
			s.dropUnusedRegex(st, g, m.regex)
		}
	}
	s.emit(st, consumerGroupRecord(g.id, epoch, g.subscriptionHash(s.image())))
}

func (s *Shard) removeRecords(st *step, g *consumerGroup, memberID string) {
	s.emit(st, tombstone(typeCurrentMember, g.id, memberID))
	if _, ok := g.target[memberID]; ok {
		s.emit(st, tombstone(typeTargetMember, g.id, memberID))
	}
	s.emit(st, tombstone(typeConsumerMember, g.id, memberID))
}

// consumerTimeout removes a member that was silent for a session, did not give
// partitions back in time or, of the classic protocol, did not join or sync.
func (s *Shard) consumerTimeout(st *step, group, memberID string) {
	g := s.consumer[group]
	if g == nil {
		return
	}
	delete(g.pending, memberID)
	if g.members[memberID] == nil {
		return
	}
	s.removeConsumers(st, g, g.members[memberID])
}

func assignmentOf(a assignor.Assignment) *kmsg.ConsumerGroupHeartbeatResponseAssignment {
	out := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
	out.Topics = []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{}
	for _, id := range sortedIDs(a) {
		t := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
		t.TopicID, t.Partitions = id, slices.Clone(a[id])
		out.Topics = append(out.Topics, t)
	}
	return &out
}
