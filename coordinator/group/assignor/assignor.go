// Package assignor holds the server-side assignors of consumer groups
// (KIP-848): pure functions from members and topics to who gets what.
//
// Both give every partition of a subscribed topic to exactly one of its
// subscribers, and depend on nothing but their arguments: the same group gets
// the same assignment from every coordinator.
package assignor

import (
	"cmp"
	"maps"
	"slices"
)

// TopicID identifies a topic.
type TopicID = [16]byte

// Assignment is what one member gets: partitions by topic, ascending. A topic
// without partitions has no entry.
type Assignment map[TopicID][]int32

// Member is one member to be assigned to.
type Member struct {
	ID string
	// InstanceID is empty for a dynamic member. Static members keep their
	// place in the order when they come back under another member id.
	InstanceID string
	// Rack is empty where the client gave none.
	Rack string
	// Topics are the ids of those subscribed to that exist.
	Topics []TopicID
	// Current is what the member was to have until now.
	Current Assignment
}

// Topic is one topic to be assigned.
type Topic struct {
	ID         TopicID
	Name       string
	Partitions int32
	// Racks tells, by partition, where its replicas are; nil if unknown.
	Racks [][]string
}

// Func is an assignor. It returns an entry for every member.
type Func func(members []Member, topics map[TopicID]Topic) map[string]Assignment

// ByName finds an assignor: "uniform" or "range".
func ByName(name string) (Func, bool) {
	switch name {
	case "uniform":
		return Uniform, true
	case "range":
		return Range, true
	}
	return nil, false
}

// sorted returns the members in their stable order.
func sorted(members []Member) []*Member {
	out := make([]*Member, len(members))
	for i := range members {
		out[i] = &members[i]
	}
	slices.SortFunc(out, func(a, b *Member) int {
		return cmp.Or(cmp.Compare(a.key(), b.key()), cmp.Compare(a.ID, b.ID))
	})
	return out
}

func (m *Member) key() string {
	if m.InstanceID != "" {
		return m.InstanceID
	}
	return m.ID
}

// inOrder returns the topics by name.
func inOrder(topics map[TopicID]Topic) []Topic {
	return slices.SortedFunc(maps.Values(topics), func(a, b Topic) int { return cmp.Compare(a.Name, b.Name) })
}

func (a Assignment) add(t TopicID, p int32) { a[t] = append(a[t], p) }

func (a Assignment) sort() {
	for _, ps := range a {
		slices.Sort(ps)
	}
}

func inRack(t *Topic, p int32, rack string) bool {
	return rack != "" && int(p) < len(t.Racks) && slices.Contains(t.Racks[p], rack)
}
