package replication

// Progress is all that decides where a leader's high watermark stands.
type Progress struct {
	Leader int32
	// LogEnd is the leader's own log end offset.
	LogEnd int64
	// Current is the high watermark so far.
	Current int64
	ISR     ISR
	// Followers are the replicas other than the leader; every follower that is
	// assigned has its entry, heard of or not.
	Followers []Replica
	// MinISR is min.insync.replicas as configured.
	MinISR int32
	// NowMs and MaxLagMs (replica.lag.time.max.ms) tell who has caught up.
	NowMs, MaxLagMs int64
	// Eligible tells whether a follower could join the ISR at all: neither
	// fenced nor shutting down. nil stands for yes.
	Eligible func(id int32) bool
}

// Watermark is the high watermark that follows from p: the smallest log end
// among the leader, the maximal ISR, and those that are about to join it
// because they caught up and are eligible. It never falls below Current, and
// stays there while the committed ISR is under its minimum, whatever acks the
// producers asked for (KIP-966).
//
// Waiting for a caught-up follower that is not yet a member lets it join: it
// could never reach a watermark that runs along with the log end. Waiting for
// one that is fenced would stop the partition (KAFKA-15021).
func Watermark(p Progress) int64 {
	if p.ISR.UnderMin(p.MinISR, len(p.Followers)+1) {
		return p.Current
	}
	mark := p.LogEnd
	for _, r := range p.Followers {
		if r.LogEnd >= mark {
			continue
		}
		joining := func() bool {
			return r.CaughtUp(p.LogEnd, p.NowMs, p.MaxLagMs) && (p.Eligible == nil || p.Eligible(r.ID))
		}
		if p.ISR.InMaximal(r.ID) || joining() {
			mark = r.LogEnd
		}
	}
	return max(mark, p.Current)
}
