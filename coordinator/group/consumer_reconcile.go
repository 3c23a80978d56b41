package group

import (
	"maps"
	"slices"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
)

// reconcile takes a member one step towards its target assignment and returns
// what becomes of it; the argument stays as it is. owned are the partitions
// that the member says it has, nil if it did not say.
//
// A partition is never given to a member before its former owner has said that
// it gave it back: that is what makes ownership exclusive without a barrier
// for the whole group (KIP-848).
func (g *consumerGroup) reconcile(m *consumerMember, owned assignor.Assignment, saidOwned bool) *consumerMember {
	switch m.state {
	case memberUnrevoked:
		if !saidOwned || overlaps(owned, m.revoking) {
			return m // not given back yet
		}
		return g.next(m, owned, saidOwned) // on to the newest target
	case memberUnreleased:
		return g.next(m, owned, saidOwned)
	default:
		if m.epoch != g.targetEpoch {
			return g.next(m, owned, saidOwned)
		}
		return m
	}
}

// next is the member's next step. As in Kafka, the epoch that it was at becomes
// the previous one even where it stays at it: from then on it cannot speak with an
// older one.
func (g *consumerGroup) next(m *consumerMember, owned assignor.Assignment, saidOwned bool) *consumerMember {
	target := g.target[m.id]
	keep, revoke, add := make(assignor.Assignment), make(assignor.Assignment), make(assignor.Assignment)
	for t, ps := range m.assigned {
		for _, p := range ps {
			if has(target, t, p) {
				keep[t] = append(keep[t], p)
			} else {
				revoke[t] = append(revoke[t], p)
			}
		}
	}
	waiting := false
	for t, ps := range target {
		for _, p := range ps {
			if has(m.assigned, t, p) {
				continue
			}
			// What it was to give back itself is free as soon as it did.
			if owner, taken := g.owners[topicIDPartition{t, p}]; taken && owner != m.id {
				waiting = true
				continue
			}
			add[t] = append(add[t], p)
		}
	}
	out := *m
	out.since = maps.Clone(m.since)
	if len(revoke) > 0 && (!saidOwned || overlaps(owned, revoke)) {
		// It stays at its epoch until it gave back what it has to.
		out.state, out.assigned, out.revoking = memberUnrevoked, keep, revoke
		out.previousEpoch = m.epoch
		return &out
	}
	out.revoking, out.since = nil, make(map[topicIDPartition]int32)
	for k := range partitionsOf(keep) {
		out.since[k] = m.since[k]
	}
	for k := range partitionsOf(add) {
		keep[k.topic] = append(keep[k.topic], k.partition)
		out.since[k] = g.targetEpoch
	}
	for _, ps := range keep {
		slices.Sort(ps)
	}
	out.assigned, out.state = keep, memberStable
	if waiting {
		out.state = memberUnreleased
	}
	out.epoch, out.previousEpoch = g.targetEpoch, m.epoch
	return &out
}

func has(a assignor.Assignment, t assignor.TopicID, p int32) bool { return slices.Contains(a[t], p) }

func overlaps(a, b assignor.Assignment) bool {
	for t, ps := range a {
		for _, p := range ps {
			if has(b, t, p) {
				return true
			}
		}
	}
	return false
}

func union(a, b assignor.Assignment) assignor.Assignment {
	out := make(assignor.Assignment, len(a))
	for tp := range partitionsOf(a, b) {
		out[tp.topic] = append(out[tp.topic], tp.partition)
	}
	for _, ps := range out {
		slices.Sort(ps)
	}
	return out
}

func subset(a, of assignor.Assignment) bool {
	for t, ps := range a {
		for _, p := range ps {
			if !has(of, t, p) {
				return false
			}
		}
	}
	return true
}

func equal(a, b assignor.Assignment) bool { return subset(a, b) && subset(b, a) }
