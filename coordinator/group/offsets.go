package group

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupOffsets are the committed offsets of one group.
type groupOffsets struct {
	byPartition map[topicPartition]offset
	// unstable counts, by partition, the open transactions that hold an offset
	// for it: a fetch that asks for stable offsets waits for them (KIP-447).
	unstable map[topicPartition]int
}

func (s *Shard) replayOffset(at int64, producer *runtime.Producer, r runtime.Record) error {
	// There may be millions of records to replay. The strings of this key are
	// the record's bytes: what is kept of them is copied.
	k := kmsg.NewOffsetCommitKey()
	if err := k.UnsafeReadFrom(r.Key); err != nil {
		return fmt.Errorf("key of an offset: %w", err)
	}
	if r.Value == nil {
		s.forgetOffset(k.Group, topicPartition{k.Topic, k.Partition})
		return nil
	}
	tp := topicPartition{s.topicName(k.Topic), k.Partition}
	o, err := parseOffset(r.Value)
	if err != nil {
		return fmt.Errorf("offset of group %q, %s-%d: %w", k.Group, tp.topic, tp.partition, err)
	}
	o.at = at
	if s.classic[k.Group] == nil && s.consumer[k.Group] == nil {
		// Offsets without a group: who commits them does not use membership.
		s.groupOr(strings.Clone(k.Group), time.UnixMilli(o.commitTimestamp))
	}
	if producer != nil {
		s.holdOffset(producer.ID, strings.Clone(k.Group), tp, o)
		return nil
	}
	g := s.offsets[k.Group]
	if g == nil {
		g = s.groupOffsets(strings.Clone(k.Group))
	}
	g.byPartition[tp] = o
	return nil
}

// topicName returns the shard's own copy of a name.
func (s *Shard) topicName(name string) string {
	if own, ok := s.topics[name]; ok {
		return own
	}
	own := strings.Clone(name)
	s.topics[own] = own
	return own
}

// forgetTopicNames drops the names that no offset has any more. It looks at all
// offsets.
func (s *Shard) forgetTopicNames() {
	used := make(map[string]string)
	for _, g := range s.offsets {
		for tp := range g.byPartition {
			used[tp.topic] = tp.topic
		}
		for tp := range g.unstable { // what open transactions hold
			used[tp.topic] = tp.topic
		}
	}
	s.topics = used
}

func (s *Shard) groupOffsets(group string) *groupOffsets {
	g := s.offsets[group]
	if g == nil {
		g = &groupOffsets{byPartition: make(map[topicPartition]offset), unstable: make(map[topicPartition]int)}
		s.offsets[group] = g
	}
	return g
}

func (s *Shard) holdOffset(producerID int64, group string, tp topicPartition, o offset) {
	groups := s.open[producerID]
	if groups == nil {
		groups = make(map[string]map[topicPartition]offset)
		s.open[producerID] = groups
	}
	held := groups[group]
	if held == nil {
		held = make(map[topicPartition]offset)
		groups[group] = held
	}
	if _, ok := held[tp]; !ok {
		s.groupOffsets(group).unstable[tp]++
	}
	held[tp] = o
}

func (s *Shard) forgetOffset(group string, tp topicPartition) {
	g := s.offsets[group]
	if g == nil {
		return
	}
	delete(g.byPartition, tp)
	if g.unstable[tp] > 0 {
		s.unholdOffset(group, tp)
		delete(g.unstable, tp)
	}
	s.maybeForgetOffsets(group, g)
}

// unholdOffset takes from open transactions what they hold for a partition: what was
// deleted does not come back when they are committed.
func (s *Shard) unholdOffset(group string, tp topicPartition) {
	for producerID, groups := range s.open {
		delete(groups[group], tp)
		if len(groups[group]) == 0 {
			delete(groups, group)
		}
		if len(groups) == 0 {
			delete(s.open, producerID)
		}
	}
}

func (s *Shard) maybeForgetOffsets(group string, g *groupOffsets) {
	if len(g.byPartition) == 0 && len(g.unstable) == 0 {
		delete(s.offsets, group)
	}
}

// ReplayMarker ends a producer's transaction: its offsets become the group's,
// or never were. One that is older in the log than what was committed meanwhile
// does not replace it: the marker may come long after the client was told that
// its transaction is committed, and went on.
func (s *Shard) ReplayMarker(_ int64, m runtime.Marker) error {
	for group, held := range s.open[m.Producer.ID] {
		g := s.groupOffsets(group)
		for tp, o := range held {
			if now, is := g.byPartition[tp]; m.Commit && (!is || o.at > now.at) {
				g.byPartition[tp] = o
			}
			if g.unstable[tp]--; g.unstable[tp] <= 0 {
				delete(g.unstable, tp)
			}
		}
		s.maybeForgetOffsets(group, g)
	}
	delete(s.open, m.Producer.ID)
	return nil
}

// checkCommit tells whether a commit may take effect: whether it comes from a
// member of the current generation, or from outside while there are none.
func (g *classicGroup) checkCommit(memberID string, instanceID *string, generation int32, txn bool) error {
	if generation < 0 && g.state == stateEmpty {
		return nil
	}
	if generation >= 0 || memberID != "" || instanceID != nil {
		if _, err := g.check(memberID, instanceID); err != nil {
			return err
		}
		if generation != g.generation {
			return kerr.IllegalGeneration
		}
	} else if !txn {
		return kerr.UnknownMemberID
	}
	if !txn && g.state == stateCompleting {
		return kerr.RebalanceInProgress
	}
	return nil
}

// OffsetCommit commits offsets for a group (v2 to v10). Names of topics must
// be filled in by the caller, who knows the ids.
func (s *Shard) OffsetCommit(now time.Time, t runtime.Ticket, req *kmsg.OffsetCommitRequest) runtime.Result {
	st := refusable(now)
	stale, groupErr := s.admitCommit(st, req.Group, req.MemberID, req.InstanceID, req.Generation, req.Version >= 9)
	if stale != nil {
		groupErr = anyStale(req.Topics, stale)
	}
	resp := kmsg.NewPtrOffsetCommitResponse()
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, 0, len(req.Topics))
	for _, topic := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		rt.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, 0, len(topic.Partitions))
		st.Records = slices.Grow(st.Records, len(topic.Partitions))
		for _, p := range topic.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			o := offset{
				offset: p.Offset, leaderEpoch: p.LeaderEpoch, commitTimestamp: now.UnixMilli(),
				expireTimestamp: -1, topicID: topic.TopicID,
			}
			if req.RetentionTimeMillis >= 0 && req.Version >= 2 && req.Version <= 4 {
				o.expireTimestamp = now.UnixMilli() + req.RetentionTimeMillis
			}
			rp.ErrorCode = code(s.commit(st, req.Group, topicPartition{topic.Topic, p.Partition}, o, p.Metadata, groupErr))
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	st.reply(t, resp)
	return st.Result
}

// anyStale returns the error of the first partition that the member may not
// commit any more: as in Kafka, the whole request fails with it.
func anyStale(topics []kmsg.OffsetCommitRequestTopic, stale func(topicIDPartition) error) error {
	for _, t := range topics {
		for _, p := range t.Partitions {
			if err := stale(topicIDPartition{t.TopicID, p.Partition}); err != nil {
				return err
			}
		}
	}
	return nil
}

// admitCommit checks the committer and keeps its session alive. The check that
// it returns, if any, decides for each partition.
func (s *Shard) admitCommit(st *step, group, memberID string, instanceID *string, generation int32, knowsGroupIDNotFound bool) (func(topicIDPartition) error, error) {
	if g := s.consumer[group]; g != nil {
		return g.checkCommit(memberID, generation, knowsGroupIDNotFound)
	}
	g := s.classic[group]
	if g == nil {
		switch {
		case generation < 0:
			// A group that only stores offsets ("simple").
			s.groupOr(group, st.now)
			return nil, nil
		case knowsGroupIDNotFound:
			return nil, kerr.GroupIDNotFound
		default:
			return nil, kerr.IllegalGeneration
		}
	}
	if err := g.checkCommit(memberID, instanceID, generation, false); err != nil {
		return nil, err
	}
	if m := g.members[memberID]; m != nil && (g.state == stateStable || g.state == statePreparing) {
		s.watchSession(st, g, m)
	}
	return nil, nil
}

func (s *Shard) commit(st *step, group string, tp topicPartition, o offset, metadata *string, groupErr error) error {
	if groupErr != nil {
		return groupErr
	}
	if metadata != nil {
		if utf16Len(*metadata) > s.cfg.OffsetMetadataMax {
			return kerr.OffsetMetadataTooLarge
		}
		o.metadata = *metadata
	}
	st.Records = append(st.Records, offsetRecord(group, tp, o))
	s.cfg.count(OffsetCommitted)
	return nil
}

// utf16Len is the length that Java gives a string, which is what Kafka bounds.
func utf16Len(s string) int {
	n := 0
	for _, r := range s {
		n += max(1, utf16.RuneLen(r))
	}
	return n
}

// TxnOffsetCommit stores offsets that take effect when the producer's
// transaction commits (v0 to v5; KIP-447 from v3).
func (s *Shard) TxnOffsetCommit(now time.Time, t runtime.Ticket, req *kmsg.TxnOffsetCommitRequest) runtime.Result {
	st := refusable(now)
	groupErr := s.admitTxnCommit(req)
	resp := kmsg.NewPtrTxnOffsetCommitResponse()
	for _, topic := range req.Topics {
		rt := kmsg.NewTxnOffsetCommitResponseTopic()
		rt.Topic = topic.Topic
		id := s.topicID(topic.Topic)
		for _, p := range topic.Partitions {
			rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			o := offset{offset: p.Offset, leaderEpoch: p.LeaderEpoch, commitTimestamp: now.UnixMilli(), expireTimestamp: -1, topicID: id}
			rp.ErrorCode = code(s.commit(st, req.Group, topicPartition{topic.Topic, p.Partition}, o, p.Metadata, groupErr))
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if len(st.Records) > 0 {
		st.Producer = &runtime.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}
	}
	st.reply(t, resp)
	return st.Result
}

func (s *Shard) admitTxnCommit(req *kmsg.TxnOffsetCommitRequest) error {
	if g := s.consumer[req.Group]; g != nil {
		return s.admitConsumerTxn(g, req)
	}
	g := s.classic[req.Group]
	if g == nil {
		if req.Generation < 0 {
			return nil
		}
		return kerr.IllegalGeneration
	}
	return g.checkCommit(req.MemberID, req.InstanceID, req.Generation, true)
}

// admitConsumerTxn checks the committer of a consumer group. A producer that says
// nothing about membership may commit (KIP-447 came later than transactions);
// who is behind is told so in the words of the classic protocol.
func (s *Shard) admitConsumerTxn(g *consumerGroup, req *kmsg.TxnOffsetCommitRequest) error {
	if req.Generation == -1 && req.MemberID == "" && req.InstanceID == nil {
		return nil
	}
	stale, err := g.checkCommit(req.MemberID, req.Generation, true)
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			if err != nil || stale == nil {
				break
			}
			err = stale(topicIDPartition{s.topicID(t.Topic), p.Partition})
		}
	}
	if errors.Is(err, kerr.StaleMemberEpoch) {
		return kerr.IllegalGeneration
	}
	return err
}

// EndTransaction writes the marker that commits or aborts the offsets of a
// producer's transaction.
func (s *Shard) EndTransaction(_ time.Time, t runtime.Ticket, m runtime.Marker) runtime.Result {
	return runtime.Result{Marker: &m, Refusable: true, Replies: []runtime.Reply{{Ticket: t}}}
}

// OffsetFetch answers with the committed offsets of one group: those asked
// for, or all of them if no topics are named (nil).
func (s *Shard) OffsetFetch(_ time.Time, t runtime.Ticket, req *kmsg.OffsetFetchRequestGroup, requireStable bool) runtime.Result {
	resp := kmsg.NewOffsetFetchResponseGroup()
	resp.Group = req.Group
	if g := s.consumer[req.Group]; g != nil {
		if err := g.checkFetch(req.MemberID, req.MemberEpoch); err != nil {
			resp.ErrorCode = code(err)
			return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: &resp}}}
		}
	}
	g := s.offsets[req.Group]
	if req.Topics == nil {
		resp.Topics = s.allOffsets(g, requireStable)
	}
	for _, topic := range req.Topics {
		id := s.topicID(topic.Topic)
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		for _, p := range topic.Partitions {
			rt.Partitions = append(rt.Partitions, fetchOffset(g, topicPartition{topic.Topic, p}, id, requireStable))
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: &resp}}}
}

// topicID is the id that a topic has now, zero if there is none of that name.
func (s *Shard) topicID(name string) assignor.TopicID {
	if t := s.image().Topic(name); t != nil {
		return t.ID
	}
	return assignor.TopicID{}
}

// isOf tells whether the offset is one of the topic that has this id: not if it was
// committed for another of the same name. Who wrote the record, or deleted the
// topic, may not have known an id: that is none.
func (o offset) isOf(id assignor.TopicID) bool {
	var none assignor.TopicID
	return o.topicID == id || o.topicID == none || id == none
}

func fetchOffset(g *groupOffsets, tp topicPartition, id assignor.TopicID, requireStable bool) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition = tp.partition
	p.Offset, p.LeaderEpoch = -1, -1
	metadata := ""
	p.Metadata = &metadata
	if g == nil {
		return p
	}
	if requireStable && g.unstable[tp] > 0 {
		p.ErrorCode = kerr.UnstableOffsetCommit.Code
		return p
	}
	if o, ok := g.byPartition[tp]; ok && o.isOf(id) {
		p.Offset, p.LeaderEpoch, metadata = o.offset, o.leaderEpoch, o.metadata
	}
	return p
}

func (s *Shard) allOffsets(g *groupOffsets, requireStable bool) []kmsg.OffsetFetchResponseGroupTopic {
	topics := []kmsg.OffsetFetchResponseGroupTopic{}
	if g == nil {
		return topics
	}
	for _, tp := range sortedPartitions(g.byPartition) {
		id := s.topicID(tp.topic)
		if !g.byPartition[tp].isOf(id) {
			continue
		}
		if n := len(topics); n == 0 || topics[n-1].Topic != tp.topic {
			rt := kmsg.NewOffsetFetchResponseGroupTopic()
			rt.Topic = tp.topic
			rt.TopicID = g.byPartition[tp].topicID
			topics = append(topics, rt)
		}
		last := &topics[len(topics)-1]
		last.Partitions = append(last.Partitions, fetchOffset(g, tp, id, requireStable))
	}
	return topics
}

func sortedPartitions(m map[topicPartition]offset) []topicPartition {
	return inOrder(slices.Collect(maps.Keys(m)))
}

// partitions are those with an offset that is committed or held.
func (g *groupOffsets) partitions() []topicPartition {
	tps := slices.AppendSeq(slices.Collect(maps.Keys(g.byPartition)), maps.Keys(g.unstable))
	return slices.Compact(inOrder(tps))
}

func inOrder(tps []topicPartition) []topicPartition {
	slices.SortFunc(tps, func(a, b topicPartition) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	return tps
}

// OffsetDelete deletes offsets of topics that the group does not subscribe to
// (KIP-496).
func (s *Shard) OffsetDelete(now time.Time, t runtime.Ticket, req *kmsg.OffsetDeleteRequest) runtime.Result {
	st := refusable(now)
	resp := kmsg.NewPtrOffsetDeleteResponse()
	subscribed, err := s.subscribed(req.Group)
	if req.Group == "" {
		err = kerr.InvalidGroupID
	}
	if err != nil {
		resp.ErrorCode = code(err)
		st.reply(t, resp)
		return st.Result
	}
	offsets := s.offsets[req.Group]
	for _, topic := range req.Topics {
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = topic.Topic
		for _, p := range topic.Partitions {
			rp := kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition = p.Partition
			tp := topicPartition{topic.Topic, p.Partition}
			if subscribed(topic.Topic) {
				rp.ErrorCode = kerr.GroupSubscribedToTopic.Code
			} else if offsets != nil {
				if _, ok := offsets.byPartition[tp]; ok {
					st.Records = append(st.Records, offsetTombstone(req.Group, tp))
					s.cfg.count(OffsetDeleted)
				}
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	st.reply(t, resp)
	return st.Result
}

// subscribed returns which topics must keep their offsets. Only consumers
// tell what they subscribe to; a group of another kind must be empty.
func (s *Shard) subscribed(id string) (func(topic string) bool, error) {
	if g := s.consumer[id]; g != nil {
		return g.subscribes, nil
	}
	g := s.classic[id]
	switch {
	case g == nil:
		return nil, kerr.GroupIDNotFound
	case g.state == stateEmpty || g.state == stateDead:
		return func(string) bool { return false }, nil
	case g.protocolType != "consumer":
		return nil, kerr.NonEmptyGroup
	}
	topics := g.subscriptions()
	if topics == nil {
		return func(string) bool { return true }, nil
	}
	return func(topic string) bool { return topics[topic] }, nil
}

// subscriptions are the topics that the members' metadata names, nil if one
// cannot be read or the choice of protocol is not made. All versions begin as
// version 0 does, which has the topics; what follows is not looked at, because
// there are clients that claim a later version and leave it out.
func (g *classicGroup) subscriptions() map[string]bool {
	if !g.hasProtocol {
		return nil
	}
	topics := make(map[string]bool)
	for _, m := range g.members {
		b := m.metadata(g.protocol)
		if len(b) < 2 {
			return nil
		}
		sub := kmsg.NewConsumerMemberMetadata()
		if err := sub.ReadFrom(append([]byte{0, 0}, b[2:]...)); err != nil {
			return nil
		}
		for _, t := range sub.Topics {
			topics[t] = true
		}
	}
	return topics
}

// ForgetTopics drops the offsets of deleted topics, which it is told by name, with
// the id that each had. Offsets of a topic that has the name since stay.
func (s *Shard) ForgetTopics(_ time.Time, t runtime.Ticket, topics map[string]metadata.ID) runtime.Result {
	st := refusable(time.Time{})
	st.Divisible = true
	for _, group := range sortedKeys(s.offsets) {
		for _, tp := range s.offsets[group].partitions() {
			if id, gone := topics[tp.topic]; gone && s.areOf(group, tp, id) {
				st.Records = append(st.Records, offsetTombstone(group, tp))
			}
		}
	}
	st.reply(t, nil)
	return st.Result
}

// areOf tells whether all offsets of a partition, committed or held, are of the
// topic that has this id.
func (s *Shard) areOf(group string, tp topicPartition, id metadata.ID) bool {
	g := s.offsets[group]
	if o, ok := g.byPartition[tp]; ok && !o.isOf(id) {
		return false
	}
	if g.unstable[tp] == 0 {
		return true
	}
	for _, groups := range s.open {
		if o, ok := groups[group][tp]; ok && !o.isOf(id) {
			return false
		}
	}
	return true
}

// expireOffsets drops what nobody used for offsets.retention.minutes
// (KIP-211) and groups that have nothing left.
func (s *Shard) expireOffsets(st *step) {
	st.Divisible = true
	st.setTimer(timerKey(timerOffsets, "", ""), s.cfg.OffsetsCheckInterval)
	s.forgetTopicNames()
	now := st.now.UnixMilli()
	retention := s.cfg.OffsetsRetention.Milliseconds()
	for _, id := range sortedKeys(s.offsets) {
		expired := s.expiry(id)
		offsets := s.offsets[id]
		var gone []topicPartition
		for tp, o := range offsets.byPartition {
			if offsets.unstable[tp] == 0 && expired(tp, o, now, retention) {
				gone = append(gone, tp)
			}
		}
		for _, tp := range inOrder(gone) {
			st.Records = append(st.Records, offsetTombstone(id, tp))
			s.cfg.count(OffsetExpired)
		}
	}
	// Empty groups without offsets go. Their tombstones are replayed, unlike
	// other records of a group.
	for _, id := range sortedKeys(s.classic) {
		if g := s.classic[id]; g.state == stateEmpty && len(g.pending) == 0 && s.nothingKept(id, now, retention) {
			st.Records = append(st.Records, groupTombstone(id))
		}
	}
	for _, id := range sortedKeys(s.consumer) {
		if g := s.consumer[id]; len(g.members) == 0 && s.nothingKept(id, now, retention) {
			st.Records = append(st.Records, g.tombstones()...)
		}
	}
}

// nothingKept tells whether all offsets of a group are over.
func (s *Shard) nothingKept(id string, now, retention int64) bool {
	offsets := s.offsets[id]
	if offsets == nil {
		return true
	}
	expired := s.expiry(id)
	for tp, o := range offsets.byPartition {
		if !expired(tp, o, now, retention) {
			return false
		}
	}
	return len(offsets.unstable) == 0
}

// expiry returns what decides whether an offset of the group is over.
func (s *Shard) expiry(id string) func(tp topicPartition, o offset, now, retention int64) bool {
	if g := s.consumer[id]; g != nil {
		return g.offsetExpired
	}
	g := s.classic[id]
	var topics map[string]bool
	asked := false
	subscribes := func() map[string]bool {
		if !asked {
			topics, asked = g.subscriptions(), true
		}
		return topics
	}
	return func(tp topicPartition, o offset, now, retention int64) bool {
		return offsetExpired(g, subscribes, tp, o, now, retention)
	}
}

// offsetExpired: an offset lives as long as its group has members that may
// want it, and the retention time beyond. What they subscribe to is asked only of
// what is old enough.
func offsetExpired(g *classicGroup, subscribes func() map[string]bool, tp topicPartition, o offset, now, retention int64) bool {
	switch {
	case o.expireTimestamp >= 0:
		return (g == nil || g.state == stateEmpty) && now >= o.expireTimestamp
	case g == nil || g.isSimple():
		return now >= o.commitTimestamp+retention
	case g.state == stateEmpty:
		since := max(g.since, o.commitTimestamp)
		return now >= since+retention
	case now < o.commitTimestamp+retention:
		return false
	case g.protocolType == "consumer" && g.state == stateStable:
		topics := subscribes()
		return topics != nil && !topics[tp.topic]
	}
	return false
}
