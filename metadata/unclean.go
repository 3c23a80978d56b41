package metadata

// PartitionID names a partition of one life of a topic.
type PartitionID struct {
	Topic     ID
	Partition int32
}

// LogEnd is how far a replica's log goes: the last leader epoch that it knows of
// and the offset after its last batch. Of two logs the one with the later epoch
// has more of what the last leaders acknowledged, and within an epoch the longer
// one.
type LogEnd struct {
	Epoch  int32
	Offset int64
}

func (e LogEnd) above(other LogEnd) bool {
	return e.Epoch > other.Epoch || e.Epoch == other.Epoch && e.Offset > other.Offset
}

// LogEnds is what brokers said of their logs, by partition and broker. It is
// advice for unclean elections, in which nobody is known to have everything:
// decisions are right, if perhaps worse, without it or with an old one.
type LogEnds map[PartitionID]map[int32]LogEnd

// UncleanElections returns, by broker, the partitions that would get a leader
// which may lack committed records while several brokers could be it, so that
// they are worth being asked for their logs: in the next Sweep where permitted by
// configuration, or in an ElectLeaders of kind UncleanElection.
func UncleanElections(img *Image, env *Env, forced bool) map[int32][]PartitionID {
	asked := map[int32][]PartitionID{}
	for _, t := range img.topics.all() {
		r := img.rulesOf(env, t)
		if !r.unclean && !forced {
			continue
		}
		r.unclean = false
		for n, p := range t.Partitions {
			r.active = img.activeAt(t.ID, int32(n))
			candidates := keep(p.Replicas, r.electable)
			if len(candidates) < 2 || p.reassess(r).Leader != NoLeader {
				continue
			}
			for _, id := range candidates {
				asked[id] = append(asked[id], PartitionID{t.ID, int32(n)})
			}
		}
	}
	return asked
}

// mostComplete returns the active replica with the most complete log as far as is
// known, the first in order of preference where that is open.
func (p *Partition) mostComplete(r rules) int32 {
	best, end := NoLeader, LogEnd{Epoch: -1, Offset: -1}
	for _, id := range p.Replicas {
		if !r.electable(id) {
			continue
		}
		said, ok := r.ends[id]
		if best == NoLeader || ok && said.above(end) {
			best = id
			if ok {
				end = said
			}
		}
	}
	return best
}
