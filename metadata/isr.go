package metadata

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ISRMember is a replica that a leader wants in its in-sync set. BrokerEpoch is
// the one that its fetches carried, so that a process which came after it, with
// less on its disk, cannot enter in its name (KIP-903); -1 where the leader does
// not know it.
//
// Registration is the revision of the broker's registration that the leader saw
// when it decided that the broker may join, 0 for none in particular. A leader that
// was told that a broker may not be in sync does not wait for it any more; had the
// broker been unfenced since, a copy of the same request that arrives late would
// still put it in sync.
type ISRMember struct {
	BrokerID     int32
	BrokerEpoch  int64
	Registration int64 `json:",omitempty"`
}

// ISRChange asks for another in-sync set of one partition. LeaderEpoch and
// PartitionEpoch are what the leader's decision rests on.
type ISRChange struct {
	Topic                       ID
	Partition                   int32
	LeaderEpoch, PartitionEpoch int32
	// NewISR is the whole set, the leader in it.
	NewISR []ISRMember
	// Recovering says that the leader, elected without proof of holding all
	// committed records, has not recovered yet.
	Recovering bool
}

// ISRRequest is an AlterPartition request: changes that one broker, the leader,
// asks for.
type ISRRequest struct {
	BrokerID    int32
	BrokerEpoch int64
	Changes     []ISRChange
}

// ISRResult answers one ISRChange. Err is nil or holds a *kerr.Error. The other
// fields are the partition as it is now, if Err is nil.
type ISRResult struct {
	Topic     ID
	Partition int32
	Err       error

	Leader                      int32
	LeaderEpoch, PartitionEpoch int32
	ISR                         []int32
	Recovering                  bool
}

// AlterISR decides on AlterPartition (KIP-497, KIP-903, KIP-966). What is
// checked, in which order, and the errors are Kafka's. The plans compare, besides
// the partition, the registration and the epoch of every broker that joins a
// set, so that one which restarts meanwhile does not (rule 7). With retried,
// a change that shows in the image is taken for the caller's own.
func AlterISR(img *Image, env *Env, req ISRRequest, retried bool) ([]ISRResult, []Plan) {
	results := make([]ISRResult, 0, len(req.Changes))
	if s := img.brokerState(req.BrokerID); s == nil || s.reg.Pending || s.epoch != req.BrokerEpoch {
		for _, ch := range req.Changes {
			results = append(results, ISRResult{Topic: ch.Topic, Partition: ch.Partition, Err: kerr.StaleBrokerEpoch})
		}
		return results, nil
	}
	edits := newPartitionEdits(img)
	guards := map[partitionRef][]Compare{}
	for _, ch := range req.Changes {
		r := ISRResult{Topic: ch.Topic, Partition: ch.Partition}
		t := img.TopicByID(ch.Topic)
		p := edits.get(t, ch.Partition)
		switch {
		case t == nil:
			r.Err = kerr.UnknownTopicID
		case p == nil:
			r.Err = kerr.UnknownTopicOrPartition
		case retried && ch.isDone(p):
			r.show(p)
		default:
			if r.Err = img.checkISRChange(req.BrokerID, ch, p); r.Err != nil {
				break
			}
			next := p.withISR(ch, img.rulesFor(env, t, ch.Partition))
			if next != p {
				edits.set(t, ch.Partition, next)
				ref := partitionRef{t.Name, ch.Partition}
				guards[ref] = append(guards[ref], img.joinGuards(ch.NewISR, p.ISR)...)
			}
			if next.Leader != req.BrokerID {
				// The change completed a reassignment that drops the
				// leader. It happens, and the leader has to learn of it.
				r.Err = kerr.NewLeaderElected
				break
			}
			r.show(next)
		}
		results = append(results, r)
	}
	plans := edits.plans()
	for i, ref := range edits.order {
		plans[i].Guard = guards[ref]
	}
	return results, plans
}

func (r *ISRResult) show(p *Partition) {
	r.Leader, r.LeaderEpoch, r.PartitionEpoch = p.Leader, p.LeaderEpoch, p.PartitionEpoch
	r.ISR, r.Recovering = p.ISR, p.Recovering
}

// isDone says whether the partition is as the change makes it.
func (ch *ISRChange) isDone(p *Partition) bool {
	return p.LeaderEpoch == ch.LeaderEpoch && p.PartitionEpoch == ch.PartitionEpoch+1 &&
		p.Recovering == ch.Recovering && slices.EqualFunc(ch.NewISR, p.ISR, func(m ISRMember, id int32) bool { return m.BrokerID == id })
}

// checkISRChange returns the error of a change that may not be, as Kafka's
// ReplicationControlManager finds it.
func (i *Image) checkISRChange(broker int32, ch ISRChange, p *Partition) error {
	switch {
	case ch.LeaderEpoch > p.LeaderEpoch || ch.PartitionEpoch > p.PartitionEpoch:
		// The leader has seen more than this controller (KAFKA-14154).
		return kerr.NotController
	case ch.LeaderEpoch < p.LeaderEpoch:
		return kerr.FencedLeaderEpoch
	case broker != p.Leader:
		return kerr.InvalidRequest
	case ch.PartitionEpoch < p.PartitionEpoch:
		return kerr.InvalidUpdateVersion
	case !validISR(ch.NewISR, p):
		return kerr.InvalidRequest
	case ch.Recovering && (len(ch.NewISR) > 1 || !p.Recovering):
		return kerr.InvalidRequest
	}
	for _, m := range ch.NewISR {
		if !i.eligible(ch.Topic, ch.Partition, m) {
			return kerr.IneligibleReplica
		}
	}
	return nil
}

// validISR says whether a set is made of replicas of the partition, each once,
// the leader among them.
func validISR(set []ISRMember, p *Partition) bool {
	leads := false
	for n, m := range set {
		if !slices.Contains(p.Replicas, m.BrokerID) {
			return false
		}
		if slices.ContainsFunc(set[:n], func(o ISRMember) bool { return o.BrokerID == m.BrokerID }) {
			return false
		}
		leads = leads || m.BrokerID == p.Leader
	}
	return leads
}

// eligible says whether a broker may be in sync: it is up and has a log, is still
// the process that fetched, and was not fenced since the leader looked.
func (i *Image) eligible(topic ID, n int32, m ISRMember) bool {
	s := i.brokerState(m.BrokerID)
	return s != nil && i.activeAt(topic, n)(m.BrokerID) && (m.BrokerEpoch == -1 || m.BrokerEpoch == s.epoch) &&
		(m.Registration == 0 || m.Registration == s.regRevision)
}

// joinGuards are the compares by which a broker joins an in-sync set only as
// the process it is, and not while it is being fenced.
func (i *Image) joinGuards(set []ISRMember, isr []int32) []Compare {
	var guards []Compare
	for _, m := range set {
		if slices.Contains(isr, m.BrokerID) {
			continue
		}
		s := i.brokerState(m.BrokerID)
		guards = append(guards,
			Compare{Key: epochKey(m.BrokerID), Target: ModRevision, Revision: s.epoch},
			Compare{Key: regKey(m.BrokerID), Target: ModRevision, Revision: s.regRevision})
	}
	return guards
}

// withISR returns the partition with the in-sync set that its leader asked for
// and what follows from it: a reassignment that is now complete, members that
// leave a set below min.insync.replicas as eligible leaders. It is p itself if
// nothing changes.
func (p *Partition) withISR(ch ISRChange, r rules) *Partition {
	next := *p
	next.ISR = make([]int32, 0, len(ch.NewISR))
	for _, m := range ch.NewISR {
		next.ISR = append(next.ISR, m.BrokerID)
	}
	next.Recovering = ch.Recovering
	next.finishReassignment(p, r)
	if sameSet(next.ISR, p.ISR) && next.Recovering == p.Recovering && slices.Equal(next.Replicas, p.Replicas) {
		return p
	}
	next.demote(p, r)
	next.elect(p, r)
	next.settleELR(p, r)
	return next.succeed(p)
}
