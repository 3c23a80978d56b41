package group

import (
	"encoding/binary"
	"hash/fnv"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/metadata"
)

// memberState says how far a member has come towards its target assignment.
// The numbers are those of the log.
type memberState int8

const (
	// memberStable has what the target of its epoch gives it.
	memberStable memberState = 0
	// memberUnrevoked still has to give partitions back.
	memberUnrevoked memberState = 1
	// memberUnreleased waits for partitions that others have not given back.
	memberUnreleased memberState = 2
)

// Epochs that a member sends to say that it leaves.
const (
	epochLeave       = -1
	epochLeaveStatic = -2 // to come back under the same instance id
)

// consumerMember is a member of a consumer group.
type consumerMember struct {
	id                 string
	instanceID, rackID *string
	client             Client
	rebalanceTimeoutMs int32
	topics             []string // subscribed by name, sorted
	regex              string   // subscribed by pattern, "" for none
	assignor           *string
	// classic is set while the member speaks the classic protocol.
	classic *classicMember

	epoch, previousEpoch int32
	state                memberState
	// assigned are the partitions it owns; revoking those it has to give back
	// first.
	assigned, revoking assignor.Assignment
	// since is the epoch at which the member was given each of them: a commit of
	// an older epoch speaks for an earlier ownership (KIP-1251).
	since map[topicIDPartition]int32
	// toldToJoin: a member that speaks the classic protocol knows that it must
	// join again. Soft: a new coordinator tells it anew.
	toldToJoin bool
}

// classicMember is what a member that speaks the classic protocol brought.
type classicMember struct {
	sessionTimeoutMs int32
	protocols        []protocol
}

// resolvedRegex is what a regular expression matched.
type resolvedRegex struct {
	topics []string // sorted
	// revision of the metadata it was resolved with; timestamp in ms.
	revision, timestamp int64
}

// consumerGroup is a group whose assignment the broker makes (KIP-848).
type consumerGroup struct {
	id string
	// epoch grows when the members or what they subscribe to change;
	// targetEpoch is the one that target was computed for.
	epoch, targetEpoch int32
	// assignedAt is when target was computed, in ms; 0 if it never was, or not by
	// the broker.
	assignedAt int64
	// hash of the topics subscribed to, as they were at epoch.
	hash    int64
	members map[string]*consumerMember
	static  map[string]string // instance id -> member id
	target  map[string]assignor.Assignment
	regexes map[string]*resolvedRegex
	// owners tells who has a partition, or has yet to give it back.
	owners map[topicIDPartition]string
	// pending are member ids given out to members of the classic protocol that
	// have not joined with them yet (KIP-394). Soft.
	pending map[string]bool
	// checked is the revision of the metadata that hash was last compared at.
	// Soft: zero after a load.
	checked int64
}

// firstEpoch is that of a new group, before anybody joined.
const firstEpoch = 1

type topicIDPartition struct {
	topic     assignor.TopicID
	partition int32
}

// partitionsOf iterates over the partitions of assignments.
func partitionsOf(assignments ...assignor.Assignment) iter.Seq[topicIDPartition] {
	return func(yield func(topicIDPartition) bool) {
		for _, a := range assignments {
			for t, ps := range a {
				for _, p := range ps {
					if !yield(topicIDPartition{t, p}) {
						return
					}
				}
			}
		}
	}
}

// heldSince makes the since of a member whose partitions are all as old.
func heldSince(epoch int32, assignments ...assignor.Assignment) map[topicIDPartition]int32 {
	since := make(map[topicIDPartition]int32)
	for k := range partitionsOf(assignments...) {
		since[k] = epoch
	}
	return since
}

func newConsumerGroup(id string) *consumerGroup {
	return &consumerGroup{
		id: id, epoch: firstEpoch, members: make(map[string]*consumerMember), static: make(map[string]string),
		target: make(map[string]assignor.Assignment), regexes: make(map[string]*resolvedRegex),
		owners: make(map[topicIDPartition]string), pending: make(map[string]bool),
	}
}

// stateName is what ListGroups and ConsumerGroupDescribe call the group's
// state.
func (g *consumerGroup) stateName() string {
	switch {
	case len(g.members) == 0:
		return "Empty"
	case g.epoch > g.targetEpoch:
		return "Assigning"
	}
	for _, m := range g.members {
		if m.epoch != g.targetEpoch || m.state != memberStable {
			return "Reconciling"
		}
	}
	return "Stable"
}

func (g *consumerGroup) sortedMembers() []*consumerMember {
	return slices.SortedFunc(maps.Values(g.members), byID)
}

// own notes that the member has its assigned and revoking partitions, and no
// others.
func (g *consumerGroup) own(m *consumerMember, was *consumerMember) {
	for k := range partitionsOf(was.assigned, was.revoking) {
		if g.owners[k] == m.id {
			delete(g.owners, k)
		}
	}
	for k := range partitionsOf(m.assigned, m.revoking) {
		g.owners[k] = m.id
	}
}

// subscribedNames are the topics that the member wants, by name or pattern.
func (g *consumerGroup) subscribedNames(m *consumerMember) []string {
	names := m.topics
	if m.regex != "" {
		if r := g.regexes[m.regex]; r != nil {
			names = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(names), r.topics...))))
		}
	}
	return names
}

func (g *consumerGroup) subscribes(topic string) bool {
	for _, m := range g.members {
		if _, ok := slices.BinarySearch(g.subscribedNames(m), topic); ok {
			return true
		}
	}
	return false
}

// subscriptionHash sums up the subscribed topics that exist: ids, partitions
// and racks. Another value means that the group has to be assigned anew.
func (g *consumerGroup) subscriptionHash(img *metadata.Image) int64 {
	names := make(map[string]bool)
	for _, m := range g.members {
		for _, n := range g.subscribedNames(m) {
			names[n] = true
		}
	}
	var sum uint64
	var b [8]byte
	for name := range names {
		t := img.Topic(name)
		if t == nil {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(name)) // a hash's Write never fails
		_, _ = h.Write(t.ID[:])
		binary.BigEndian.PutUint64(b[:], uint64(len(t.Partitions)))
		_, _ = h.Write(b[:])
		for _, racks := range topicRacks(img, t) {
			for _, r := range racks {
				_, _ = h.Write([]byte(r))
			}
			_, _ = h.Write([]byte{0})
		}
		sum += h.Sum64()
	}
	return int64(sum)
}

// topicRacks lists the racks of each partition's replicas; nil if no broker
// has one.
func topicRacks(img *metadata.Image, t *metadata.Topic) [][]string {
	hasRack := func(b *metadata.Broker) bool { return b.Rack != "" }
	if !slices.ContainsFunc(img.Brokers(), hasRack) {
		return nil
	}
	any := false
	out := make([][]string, len(t.Partitions))
	for i, p := range t.Partitions {
		for _, id := range p.Replicas {
			if b := img.Broker(id); b != nil && b.Rack != "" {
				out[i] = append(out[i], b.Rack)
				any = true
			}
		}
	}
	if !any {
		return nil
	}
	return out
}

// mayAssign tells whether the last target assignment has stood for long enough.
func (g *consumerGroup) mayAssign(now time.Time, interval time.Duration) bool {
	return g.assignedAt == 0 || now.UnixMilli() >= g.assignedAt+interval.Milliseconds()
}

// assign computes the target assignment of the group as it is.
func (g *consumerGroup) assign(img *metadata.Image, defaultAssignor string) map[string]assignor.Assignment {
	topics := make(map[assignor.TopicID]assignor.Topic)
	var members []assignor.Member
	for _, m := range g.sortedMembers() {
		am := assignor.Member{ID: m.id, Current: g.target[m.id]}
		if m.instanceID != nil {
			am.InstanceID = *m.instanceID
		}
		if m.rackID != nil {
			am.Rack = *m.rackID
		}
		for _, name := range g.subscribedNames(m) {
			t := img.Topic(name)
			if t == nil {
				continue
			}
			id := t.ID
			if _, ok := topics[id]; !ok {
				topics[id] = assignor.Topic{ID: id, Name: name, Partitions: int32(len(t.Partitions)), Racks: topicRacks(img, t)}
			}
			am.Topics = append(am.Topics, id)
		}
		members = append(members, am)
	}
	f, ok := assignor.ByName(g.assignorName(defaultAssignor))
	if !ok {
		f = assignor.Uniform
	}
	return f(members, topics)
}

// assignorName is the assignor that most members ask for, or the default.
func (g *consumerGroup) assignorName(fallback string) string {
	votes := make(map[string]int)
	for _, m := range g.members {
		if m.assignor != nil {
			votes[*m.assignor]++
		}
	}
	best := fallback
	for _, name := range sortedKeys(votes) {
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}
