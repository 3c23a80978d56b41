package group

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// DescribeGroup describes one classic group. A group that does not exist is
// Dead; from v6 on it is GROUP_ID_NOT_FOUND.
func (s *Shard) DescribeGroup(_ time.Time, t runtime.Ticket, id string, version int16) runtime.Result {
	resp := kmsg.NewDescribeGroupsResponseGroup()
	resp.Group = id
	resp.Members = []kmsg.DescribeGroupsResponseGroupMember{}
	g := s.classic[id]
	if g == nil {
		resp.State = stateDead.String()
		if version >= 6 {
			resp.ErrorCode = kerr.GroupIDNotFound.Code
			message := "Group " + id + " not found."
			if s.consumer[id] != nil {
				message = "Group " + id + " is not a classic group."
			}
			resp.ErrorMessage = &message
		}
		return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: &resp}}}
	}
	resp.State = g.state.String()
	resp.ProtocolType = g.protocolType
	stable := g.state == stateStable
	if stable {
		resp.Protocol = g.protocol
	}
	for _, m := range g.inOrder() {
		e := kmsg.NewDescribeGroupsResponseGroupMember()
		e.MemberID, e.InstanceID = m.id, m.instanceID
		e.ClientID, e.ClientHost = m.client.ID, m.client.Host
		if stable {
			e.ProtocolMetadata = slices.Clone(m.metadata(g.protocol))
		}
		e.MemberAssignment = slices.Clone(m.assignment)
		resp.Members = append(resp.Members, e)
	}
	return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: &resp}}}
}

// ListGroups lists the groups whose state and type the filters let through;
// an empty filter lets all through. Names of states and types are compared
// without regard to case, as Kafka does.
func (s *Shard) ListGroups(_ time.Time, t runtime.Ticket, states, types []string) runtime.Result {
	var out []kmsg.ListGroupsResponseGroup
	for _, id := range sortedKeys(s.classic) {
		g := s.classic[id]
		if !passes(states, g.state.String()) || !passes(types, "classic") {
			continue
		}
		e := kmsg.NewListGroupsResponseGroup()
		e.Group, e.ProtocolType = id, g.protocolType
		e.GroupState, e.GroupType = g.state.String(), "classic"
		out = append(out, e)
	}
	for _, id := range sortedKeys(s.consumer) {
		g := s.consumer[id]
		if !passes(states, g.stateName()) || !passes(types, "consumer") {
			continue
		}
		e := kmsg.NewListGroupsResponseGroup()
		e.Group, e.ProtocolType = id, "consumer"
		e.GroupState, e.GroupType = g.stateName(), "consumer"
		out = append(out, e)
	}
	return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: out}}}
}

func passes(filter []string, value string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, value) })
}

// DeleteGroup deletes an empty group with its offsets (KIP-229).
func (s *Shard) DeleteGroup(now time.Time, t runtime.Ticket, id string) runtime.Result {
	return s.wholly(id, func() runtime.Result {
		st := &step{now: now}
		s.deleteGroup(st, t, id)
		return st.Result
	})
}

func (s *Shard) deleteGroup(st *step, t runtime.Ticket, id string) {
	st.Divisible = true // the group itself comes last
	resp := kmsg.NewDeleteGroupsResponseGroup()
	resp.Group = id
	g, cg := s.classic[id], s.consumer[id]
	switch {
	case g == nil && cg == nil:
		resp.ErrorCode = kerr.GroupIDNotFound.Code
	case g != nil && g.state != stateEmpty, cg != nil && len(cg.members) > 0:
		resp.ErrorCode = kerr.NonEmptyGroup.Code
	default:
		if offsets := s.offsets[id]; offsets != nil {
			for _, tp := range offsets.partitions() {
				st.Records = append(st.Records, offsetTombstone(id, tp))
			}
		}
		if cg != nil {
			st.Records = append(st.Records, cg.tombstones()...)
		} else {
			st.Records = append(st.Records, groupTombstone(id))
			s.drop(st, g)
		}
	}
	st.reply(t, &resp)
}
