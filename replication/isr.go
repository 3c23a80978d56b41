package replication

import "slices"

// ISR is the in-sync set of a partition as its leader has to count it.
//
// A change of the set is proposed to the controller and may have taken effect
// before the leader hears of it. Until it knows, it counts both sets (KIP-497):
// the member about to join already holds the high watermark back, the member
// about to leave still does.
type ISR struct {
	// Committed is the set in the metadata.
	Committed []int32
	// Proposed is the set asked for; nil while no change is in flight. Only
	// one change is in flight at a time.
	Proposed []int32
}

// Maximal is the union of the committed and the proposed set: the replicas a
// record must have reached to count as committed.
func (s ISR) Maximal() []int32 {
	if s.Proposed == nil {
		return s.Committed
	}
	all := slices.Clone(s.Committed)
	for _, id := range s.Proposed {
		if !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	return all
}

// InMaximal reports whether the replica counts for the high watermark.
func (s ISR) InMaximal(id int32) bool {
	return slices.Contains(s.Committed, id) || slices.Contains(s.Proposed, id)
}

// EffectiveMinISR is min.insync.replicas bounded by the number of replicas: a
// topic with fewer replicas than it demands in sync is served with all of them.
func EffectiveMinISR(minISR int32, replicas int) int {
	return min(int(minISR), replicas)
}

// UnderMin reports whether the committed set is too small for the partition to
// commit anything. The proposed set is not asked: a member that may join is no
// member yet.
func (s ISR) UnderMin(minISR int32, replicas int) bool {
	return len(s.Committed) < EffectiveMinISR(minISR, replicas)
}

// Unknown stands for an offset, epoch or time nobody told yet.
const Unknown = -1

// Replica is what a leader knows of one follower, all of it from one fetch:
// taking the end offset from one fetch and the broker epoch from another let
// emptied brokers join (KAFKA-15221).
type Replica struct {
	ID int32
	// LogStart and LogEnd are the follower's offsets as of its last fetch in
	// this leader's epoch, Unknown before the first.
	LogStart, LogEnd int64
	// LeaderEpoch is the epoch in which the last fetch was received.
	LeaderEpoch int32
	// BrokerEpoch is the incarnation that sent the last fetch; Unknown where
	// the fetch did not say (KIP-903).
	BrokerEpoch int64
	// Turn is the last fetch's place among all fetches; see ReadOptions.
	Turn int64
	// LastFetchMs is when the last fetch came, and LeaderEndThen where the
	// leader's log ended at that moment.
	LastFetchMs   int64
	LeaderEndThen int64
	// CaughtUpMs is the last moment at which the follower was known to have
	// everything the leader had.
	CaughtUpMs int64
}

// NewReplica is a follower at the begin of a leader's epoch: nothing is known
// of its log. A member of the ISR gets a full lag period to make itself heard.
func NewReplica(id int32, inISR bool, nowMs int64) Replica {
	r := Replica{ID: id, LogStart: Unknown, LogEnd: Unknown, LeaderEpoch: Unknown, BrokerEpoch: Unknown}
	if inISR {
		r.CaughtUpMs = nowMs
	}
	return r
}

// Fetched is the replica after it asked for offset at nowMs, when the leader's
// log ended at leaderEnd. It has caught up as of now when it asked for the end,
// and as of its previous fetch when it asked for what was the end then: a
// follower that is always one fetch behind is in sync.
func (r Replica) Fetched(offset, logStart, leaderEnd int64, leaderEpoch int32, brokerEpoch, nowMs int64) Replica {
	switch {
	case offset >= leaderEnd:
		r.CaughtUpMs = max(r.CaughtUpMs, nowMs)
	case r.LeaderEpoch == leaderEpoch && offset >= r.LeaderEndThen:
		r.CaughtUpMs = max(r.CaughtUpMs, r.LastFetchMs)
	}
	r.LogStart, r.LogEnd = logStart, offset
	r.LeaderEpoch, r.BrokerEpoch = leaderEpoch, brokerEpoch
	r.LastFetchMs, r.LeaderEndThen = nowMs, leaderEnd
	return r
}

// CaughtUp reports whether the follower has all of the leader's log or had it
// within the last maxLagMs (replica.lag.time.max.ms).
func (r Replica) CaughtUp(leaderEnd, nowMs, maxLagMs int64) bool {
	return r.LogEnd >= leaderEnd || nowMs-r.CaughtUpMs <= maxLagMs
}

// Leadership is a leader's own side of the question who may join its ISR.
type Leadership struct {
	Epoch int32
	// EpochStart is the leader's log end when its epoch began.
	EpochStart    int64
	HighWatermark int64
}

// MayJoin reports whether the follower has proved that it has everything that
// was ever committed: it fetched in this epoch, from the incarnation that is
// registered, and asked for an offset that is neither below the high watermark
// nor below the start of the epoch (the watermark alone may lag behind what
// the former leader acknowledged). eligible tells that the broker is neither
// fenced nor shutting down (KIP-841).
func (r Replica) MayJoin(l Leadership, registeredEpoch int64, eligible bool) bool {
	return eligible &&
		r.LeaderEpoch == l.Epoch &&
		r.LogEnd >= l.HighWatermark &&
		r.LogEnd >= l.EpochStart &&
		(r.BrokerEpoch == Unknown || r.BrokerEpoch == registeredEpoch)
}

// OutOfSync are the members of the committed ISR other than the leader that
// have not caught up within maxLagMs, in the order of the set. A member of
// which nothing is known (not in followers) is out of sync.
func (s ISR) OutOfSync(leader int32, followers []Replica, leaderEnd, nowMs, maxLagMs int64) []int32 {
	var out []int32
	for _, id := range s.Committed {
		if id == leader {
			continue
		}
		i := slices.IndexFunc(followers, func(r Replica) bool { return r.ID == id })
		if i < 0 || !followers[i].CaughtUp(leaderEnd, nowMs, maxLagMs) {
			out = append(out, id)
		}
	}
	return out
}
