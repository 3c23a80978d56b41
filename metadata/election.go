package metadata

import (
	"slices"
	"strconv"
)

// The topic configs that elections depend on.
const (
	minISRKey  = "min.insync.replicas"
	uncleanKey = "unclean.leader.election.enable"
)

// AffectsElections says whether partitions must be swept after these changes.
func AffectsElections(alterations []ConfigAlteration) bool {
	for _, a := range alterations {
		if a.Resource.Type != ConfigTopic && a.Resource.Type != ConfigBroker {
			continue
		}
		if a.Replace {
			return true
		}
		for _, op := range a.Ops {
			if op.Key == minISRKey || op.Key == uncleanKey {
				return true
			}
		}
	}
	return false
}

// rules is what the next state of a partition depends on besides itself.
type rules struct {
	// active says whether a broker may lead and be in sync.
	active func(id int32) bool
	// alive says whether a broker gives signs of life. One that does not is active
	// until it is fenced, which nobody should be made a leader for.
	alive func(id int32) bool
	// lossy says whether a broker may have lost what it acknowledged: it
	// restarted and could not prove a clean shutdown.
	lossy func(id int32) bool
	// minISR is min.insync.replicas, at least 1.
	minISR int
	// unclean permits a leader that may lack committed records.
	unclean bool
	// ends is what is known of the logs of the partition's replicas.
	ends map[int32]LogEnd
}

// electable says whether a broker is active and gives signs of life.
func (r *rules) electable(id int32) bool { return r.active(id) && r.alive(id) }

// reassess returns the state that a partition should have, given which brokers
// are up; p itself if that is the state it has. Replicas that are not active
// leave the ISR. While the ISR is below min.insync.replicas, the high watermark
// does not move, so that those who leave it stay complete: they are kept as
// eligible leaders (KIP-966) unless they are lossy. The leader is the first of
// the ISR, else of the eligible, in order of preference; else the last known
// leader, if nobody else can have more; else, where that is permitted, who has the
// most complete log; else there is none.
func (p *Partition) reassess(r rules) *Partition {
	next := *p
	next.ISR = keep(p.ISR, r.active)
	next.demote(p, r)
	next.elect(p, r)
	next.settleELR(p, r)
	if next.Leader == p.Leader && next.Recovering == p.Recovering && slices.Equal(next.ISR, p.ISR) &&
		sameSet(next.ELR, p.ELR) && slices.Equal(next.LastKnownELR, p.LastKnownELR) {
		return p
	}
	return next.succeed(p)
}

// demote makes those who leave the in-sync set of old eligible leaders, unless
// they are lossy. It comes before an election, settleELR after it.
func (next *Partition) demote(old *Partition, r rules) {
	next.ELR = keep(next.Replicas, func(id int32) bool {
		return (slices.Contains(old.ELR, id) || slices.Contains(old.ISR, id)) &&
			!slices.Contains(next.ISR, id) && !r.lossy(id)
	})
	if len(next.ISR) == 0 && old.Leader != NoLeader {
		next.LastKnownELR = []int32{old.Leader}
	}
}

// settleELR forgets the eligible leaders of a partition whose high watermark
// moves, and remembers who once was one where it does not.
func (next *Partition) settleELR(old *Partition, r rules) {
	switch {
	case len(next.ISR) >= min(r.minISR, len(next.Replicas)):
		next.ELR, next.LastKnownELR = nil, nil
	case len(next.ISR) > 0:
		next.LastKnownELR = keep(next.Replicas, func(id int32) bool {
			known := slices.Contains(old.ISR, id) || slices.Contains(old.ELR, id) || slices.Contains(old.LastKnownELR, id)
			return known && !slices.Contains(next.ISR, id) && !slices.Contains(next.ELR, id)
		})
	}
}

// succeed gives next the epochs of the state after old. A leader epoch begins
// with every leader, and when a replica is dropped, so that it stops following.
func (next *Partition) succeed(old *Partition) *Partition {
	if next.Leader != old.Leader || len(without(old.Replicas, next.Replicas)) > 0 {
		next.LeaderEpoch++
	}
	next.PartitionEpoch++
	return next
}

// elect sets the leader, and what follows from it for ISR and ELR.
func (next *Partition) elect(old *Partition, r rules) {
	if slices.Contains(next.ISR, old.Leader) {
		return
	}
	first := func(among []int32, may func(int32) bool) int32 {
		for _, id := range next.Replicas {
			if slices.Contains(among, id) && may(id) {
				return id
			}
		}
		return NoLeader
	}
	// Of the in-sync set a leader that is gone is better than none: it is known
	// as the last one then.
	if next.Leader = first(next.ISR, r.active); next.Leader != NoLeader {
		return
	}
	if next.Leader = first(next.ELR, r.electable); next.Leader != NoLeader {
		next.ISR = []int32{next.Leader}
		next.ELR = keep(next.ELR, func(id int32) bool { return id != next.Leader })
		return
	}
	if len(next.ISR) == 0 && len(next.ELR) == 0 && len(next.LastKnownELR) == 1 {
		next.Leader = first(next.LastKnownELR, r.electable)
	}
	if next.Leader == NoLeader && r.unclean {
		next.Leader = next.mostComplete(r)
	}
	if next.Leader != NoLeader {
		next.ISR, next.ELR, next.LastKnownELR = []int32{next.Leader}, nil, nil
		next.Recovering = true
	}
}

func keep(ids []int32, ok func(int32) bool) []int32 {
	var kept []int32
	for _, id := range ids {
		if ok(id) {
			kept = append(kept, id)
		}
	}
	return kept
}

func sameSet(a, b []int32) bool {
	if len(a) != len(b) {
		return false
	}
	return !slices.ContainsFunc(a, func(id int32) bool { return !slices.Contains(b, id) })
}

// rulesOf returns the rules that all partitions of a topic have. Who is active
// differs: see activeAt.
func (i *Image) rulesOf(env *Env, t *Topic) rules {
	return rules{
		alive:   i.alive,
		lossy:   i.lossy,
		minISR:  max(1, i.intConfig(t, minISRKey, env.MinInsyncReplicas)),
		unclean: i.boolConfig(t, uncleanKey, env.UncleanLeaderElection),
	}
}

// rulesFor returns the rules of one partition of a topic.
func (i *Image) rulesFor(env *Env, t *Topic, n int32) rules {
	r := i.rulesOf(env, t)
	r.active = i.activeAt(t.ID, n)
	return r
}

// topicConfig returns a config as set for the topic or as the default of all
// brokers.
func (i *Image) topicConfig(t *Topic, key string) (string, bool) {
	if v, ok := t.Configs[key]; ok {
		return v, true
	}
	v, ok := i.Config(ConfigResource{Type: ConfigBroker})[key]
	return v, ok
}

func (i *Image) intConfig(t *Topic, key string, static int) int {
	if v, ok := i.topicConfig(t, key); ok {
		if n, err := strconv.Atoi(v); err == nil {
			return n
		}
	}
	return static
}

func (i *Image) boolConfig(t *Topic, key string, static bool) bool {
	if v, ok := i.topicConfig(t, key); ok {
		if b, err := strconv.ParseBool(v); err == nil {
			return b
		}
	}
	return static
}

// lossy says whether a broker waits for its registration to be granted without
// proof of a clean shutdown of its former incarnation.
func (i *Image) lossy(id int32) bool {
	s := i.brokerState(id)
	return s != nil && s.reg.Pending && (s.epoch == 0 || s.reg.PreviousEpoch != s.epoch)
}

// alive says whether the registered process of a broker gives signs of life.
func (i *Image) alive(id int32) bool {
	s := i.brokerState(id)
	return s != nil && s.alive()
}

// Sweep returns the changes of all partitions that are not as they should be,
// given which brokers are up. Each compares the revision of what it replaces,
// so that any part of them may be written and the rest be asked for again.
func Sweep(img *Image, env *Env) []Change { return sweep(img, env, true) }

// CleanSweep is Sweep without the partitions for which only an unclean election is
// left: they can wait for what their replicas say of their logs.
func CleanSweep(img *Image, env *Env) []Change { return sweep(img, env, false) }

func sweep(img *Image, env *Env, unclean bool) []Change {
	var changes []Change
	for _, t := range img.topics.all() {
		r := img.rulesOf(env, t)
		for n, p := range t.Partitions {
			r.active, r.ends = img.activeAt(t.ID, int32(n)), env.LogEnds[PartitionID{t.ID, int32(n)}]
			next := p.reassess(r)
			if next != p && (unclean || !r.unclean || !next.Recovering) {
				changes = append(changes, putPart(t.ID, int32(n), next, p.Revision))
			}
		}
	}
	return changes
}

// AwaitsElection says whether the controller still has to make leaders out of
// brokers that are up, for partitions that a broker is a replica of.
func AwaitsElection(img *Image, id int32) bool {
	r := rules{alive: img.alive, lossy: img.lossy, minISR: 1}
	for _, t := range img.topics.all() {
		for n, p := range t.Partitions {
			r.active = img.activeAt(t.ID, int32(n))
			if p.Leader == NoLeader && slices.Contains(p.Replicas, id) && p.reassess(r).Leader != NoLeader {
				return true
			}
		}
	}
	return false
}
