package group

import (
	"slices"
	"time"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// checkCommit tells whether a commit comes from a member, or from outside while
// the group is empty. A member that is behind its epoch may still commit what
// it was given by then and has not lost since: the returned check, if there is
// one, tells for each partition (KIP-1251).
func (g *consumerGroup) checkCommit(memberID string, epoch int32, knowsMemberEpochs bool) (func(topicIDPartition) error, error) {
	if epoch < 0 && len(g.members) == 0 {
		return nil, nil
	}
	m := g.members[memberID]
	switch {
	case m == nil:
		return nil, kerr.UnknownMemberID
	case m.classic == nil && !knowsMemberEpochs:
		return nil, kerr.UnsupportedVersion
	case epoch > m.epoch:
		return nil, m.staleEpoch()
	case epoch == m.epoch:
		return nil, nil
	}
	return func(tp topicIDPartition) error {
		if since, owned := m.since[tp]; !owned || epoch < since {
			return m.staleEpoch()
		}
		return nil
	}, nil
}

// staleEpoch is what a member is told whose epoch is not the current one, in
// the words of its protocol.
func (m *consumerMember) staleEpoch() error {
	if m.classic != nil {
		return kerr.IllegalGeneration
	}
	return kerr.StaleMemberEpoch
}

// checkFetch tells whether a member that gives its epoch is where it thinks it
// is; who gives none may read.
func (g *consumerGroup) checkFetch(memberID *string, epoch int32) error {
	if memberID == nil && epoch < 0 {
		return nil
	}
	if memberID == nil || g.members[*memberID] == nil {
		return kerr.UnknownMemberID
	}
	if m := g.members[*memberID]; m.epoch != epoch {
		return m.staleEpoch()
	}
	return nil
}

func (g *consumerGroup) offsetExpired(tp topicPartition, o offset, now, retention int64) bool {
	if o.expireTimestamp >= 0 {
		return now >= o.expireTimestamp && !g.subscribes(tp.topic)
	}
	return now >= o.commitTimestamp+retention && !g.subscribes(tp.topic)
}

// tombstones remove all that the log holds about a group.
func (g *consumerGroup) tombstones() []runtime.Record {
	var out []runtime.Record
	for _, id := range sortedKeys(g.members) {
		out = append(out, tombstone(typeCurrentMember, g.id, id))
	}
	for _, id := range sortedKeys(g.target) {
		out = append(out, tombstone(typeTargetMember, g.id, id))
	}
	for _, id := range sortedKeys(g.members) {
		out = append(out, tombstone(typeConsumerMember, g.id, id))
	}
	for _, e := range sortedKeys(g.regexes) {
		out = append(out, tombstone(typeRegex, g.id, e))
	}
	return append(out, tombstone(typeTargetEpoch, g.id), tombstone(typeConsumerGroup, g.id))
}

// DescribeConsumerGroup describes one consumer group (ConsumerGroupDescribe
// v0, v1).
func (s *Shard) DescribeConsumerGroup(_ time.Time, t runtime.Ticket, id string) runtime.Result {
	resp := kmsg.NewConsumerGroupDescribeResponseGroup()
	resp.Group = id
	g := s.consumer[id]
	if id == "" {
		resp.ErrorCode = kerr.InvalidGroupID.Code
		return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: &resp}}}
	}
	if g == nil {
		message := "Group " + id + " not found."
		if s.classic[id] != nil {
			message = "Group " + id + " is not a consumer group."
		}
		resp.ErrorCode, resp.ErrorMessage = kerr.GroupIDNotFound.Code, &message
		return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: &resp}}}
	}
	img := s.image()
	resp.State, resp.Epoch, resp.AssignmentEpoch = g.stateName(), g.epoch, g.targetEpoch
	resp.AssignorName = g.assignorName(s.cfg.ConsumerAssignors[0])
	for _, m := range g.sortedMembers() {
		e := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		e.MemberID, e.InstanceID, e.RackID = m.id, m.instanceID, m.rackID
		e.MemberEpoch, e.ClientID, e.ClientHost = m.epoch, m.client.ID, m.client.Host
		e.SubscribedTopics = slices.Clone(m.topics)
		regex := m.regex
		e.SubscribedTopicRegex = &regex
		e.Assignment = describeAssignment(img, union(m.assigned, m.revoking)) // what it still has
		e.TargetAssignment = describeAssignment(img, g.target[m.id])
		e.MemberType = 1
		if m.classic != nil {
			e.MemberType = 0
		}
		resp.Members = append(resp.Members, e)
	}
	return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: &resp}}}
}

// describeAssignment names the topics of an assignment; those that are gone
// have no name and are left out.
func describeAssignment(img *metadata.Image, a assignor.Assignment) kmsg.Assignment {
	var out kmsg.Assignment
	for _, id := range sortedIDs(a) {
		t := img.TopicByID(id)
		if t == nil {
			continue
		}
		tp := kmsg.NewAssignmentTopicPartition()
		tp.TopicID, tp.Topic, tp.Partitions = id, t.Name, slices.Clone(a[id])
		out.TopicPartitions = append(out.TopicPartitions, tp)
	}
	return out
}
