package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// PartitionResult answers one partition of a request. Err is nil or holds a
// *kerr.Error; Message is what Kafka says about it, empty where it says
// nothing.
type PartitionResult struct {
	Topic     string
	Partition int32
	Err       error
	Message   string
}

func (r *PartitionResult) fail(err *kerr.Error, message string) { r.Err, r.Message = err, message }

// partitionRef names one partition.
type partitionRef struct {
	topic string
	n     int32
}

// partitionEdits gathers the next states of partitions during one request,
// which may name a partition several times: each is written once, with the
// compare of what the image has.
type partitionEdits struct {
	img   *Image
	next  map[partitionRef]*Partition
	order []partitionRef
}

func newPartitionEdits(img *Image) *partitionEdits {
	return &partitionEdits{img: img, next: map[partitionRef]*Partition{}}
}

// get returns a partition as the request left it so far; nil if there is none.
func (e *partitionEdits) get(t *Topic, n int32) *Partition {
	if t == nil || n < 0 || int(n) >= len(t.Partitions) {
		return nil
	}
	if p := e.next[partitionRef{t.Name, n}]; p != nil {
		return p
	}
	return t.Partitions[n]
}

func (e *partitionEdits) set(t *Topic, n int32, p *Partition) {
	ref := partitionRef{t.Name, n}
	if e.next[ref] == nil {
		e.order = append(e.order, ref)
	}
	e.next[ref] = p
}

// plans are the writes, one plan for each partition: they do not depend on
// each other.
func (e *partitionEdits) plans() []Plan {
	plans := make([]Plan, 0, len(e.order))
	for _, ref := range e.order {
		t := e.img.Topic(ref.topic)
		plans = append(plans, Plan{Commit: []Change{putPart(t.ID, ref.n, e.next[ref], t.Partitions[ref.n].Revision)}})
	}
	return plans
}

// ElectionType is Kafka's number of a kind of election.
type ElectionType int8

const (
	// PreferredElection makes the first replica leader, if it is in sync.
	PreferredElection ElectionType = 0
	// UncleanElection gives a partition without leader one that may lack
	// committed records.
	UncleanElection ElectionType = 1
)

// TopicPartitions names partitions of one topic.
type TopicPartitions struct {
	Topic      string
	Partitions []int32
}

// ElectLeaders decides on elections that an operator asks for (KIP-183,
// KIP-460). Nil topics stand for all partitions, of which those that need no
// election are left out of the results. Errors and messages are Kafka's.
func ElectLeaders(img *Image, env *Env, kind ElectionType, topics []TopicPartitions) ([]PartitionResult, []Plan) {
	edits := newPartitionEdits(img)
	var results []PartitionResult
	if topics == nil {
		for _, t := range img.topics.all() {
			for n := range t.Partitions {
				r := edits.elect(env, kind, t.Name, int32(n))
				if !errors.Is(r.Err, kerr.ElectionNotNeeded) {
					results = append(results, r)
				}
			}
		}
		return results, edits.plans()
	}
	for _, t := range topics {
		for _, n := range t.Partitions {
			results = append(results, edits.elect(env, kind, t.Topic, n))
		}
	}
	return results, edits.plans()
}

// GiveBack plans for brokers to lead the partitions whose preferred leader they are,
// where they are in sync and up; to says which brokers.
func GiveBack(img *Image, to func(id int32) bool) []Plan {
	edits := newPartitionEdits(img)
	for _, t := range img.topics.all() {
		for n, p := range t.Partitions {
			if p.Leader == p.Replicas[0] || !to(p.Replicas[0]) {
				continue
			}
			if next := p.electPreferred(img.activeAt(t.ID, int32(n))); next != p {
				edits.set(t, int32(n), next)
			}
		}
	}
	return edits.plans()
}

func (e *partitionEdits) elect(env *Env, kind ElectionType, topic string, n int32) PartitionResult {
	r := PartitionResult{Topic: topic, Partition: n}
	t := e.img.Topic(topic)
	p := e.get(t, n)
	switch {
	case t == nil:
		r.fail(kerr.UnknownTopicOrPartition, "No such topic as "+topic)
	case p == nil:
		r.fail(kerr.UnknownTopicOrPartition, fmt.Sprintf("No such partition as %s-%d", topic, n))
	case kind == PreferredElection && p.Leader == p.Replicas[0], kind == UncleanElection && p.Leader != NoLeader:
		r.fail(kerr.ElectionNotNeeded, "Leader election not needed for topic partition.")
	case kind == PreferredElection:
		next := p.electPreferred(e.img.activeAt(t.ID, n))
		if next == p {
			r.fail(kerr.PreferredLeaderNotAvailable, "The preferred leader was not available.")
			break
		}
		e.set(t, n, next)
	default:
		rules := e.img.rulesFor(env, t, n)
		rules.unclean, rules.ends = true, env.LogEnds[PartitionID{t.ID, n}]
		next := p.reassess(rules)
		if next.Leader == NoLeader {
			r.fail(kerr.EligibleLeadersNotAvailable, "Eligible topic partition leaders are not available.")
			break
		}
		e.set(t, n, next)
	}
	return r
}

// electPreferred returns the partition led by its first replica; p itself if
// that one is not in sync or not up.
func (p *Partition) electPreferred(active func(int32) bool) *Partition {
	first := p.Replicas[0]
	if !slices.Contains(p.ISR, first) || !active(first) {
		return p
	}
	next := *p
	next.Leader = first
	next.LeaderEpoch++
	next.PartitionEpoch++
	return &next
}

// Reassignment asks for a partition to live on other brokers; nil Replicas
// ask for the reassignment under way to be undone.
type Reassignment struct {
	Topic     string
	Partition int32
	Replicas  []int32
}

// Reassign decides on reassignments (KIP-455). With allowRFChange, a partition
// may get another number of replicas (KIP-860). The replicas that a partition
// gets are added to those it has; those it loses go when all added ones are in
// sync, which is at once where none is added. Errors and messages are Kafka's.
func Reassign(img *Image, env *Env, asked []Reassignment, allowRFChange bool) ([]PartitionResult, []Plan) {
	edits := newPartitionEdits(img)
	results := make([]PartitionResult, 0, len(asked))
	for _, a := range asked {
		r := PartitionResult{Topic: a.Topic, Partition: a.Partition}
		t := img.Topic(a.Topic)
		p := edits.get(t, a.Partition)
		var next *Partition
		switch {
		case t == nil:
			r.fail(kerr.UnknownTopicOrPartition, fmt.Sprintf("Unable to find a topic named %s.", a.Topic))
		case p == nil:
			r.fail(kerr.UnknownTopicOrPartition, fmt.Sprintf("Unable to find partition %s:%d.", a.Topic, a.Partition))
		case a.Replicas == nil:
			next = p.cancelReassignment(img.rulesFor(env, t, a.Partition), &r)
		default:
			if problem := assignmentProblem(img, a.Replicas, -1); problem != "" {
				r.fail(kerr.InvalidReplicaAssignment, problem)
				break
			}
			original := without(p.Replicas, p.Adding)
			if !allowRFChange && len(a.Replicas) != len(original) {
				r.fail(kerr.InvalidReplicationFactor, fmt.Sprintf("The replication factor is changed from %d to %d", len(original), len(a.Replicas)))
				break
			}
			next = p.reassign(a.Replicas, img.rulesFor(env, t, a.Partition))
		}
		if next != nil && next != p {
			edits.set(t, a.Partition, next)
		}
		results = append(results, r)
	}
	return results, edits.plans()
}

// Reassigning says whether a reassignment of the partition is under way.
func (p *Partition) Reassigning() bool { return len(p.Adding) > 0 || len(p.Removing) > 0 }

// reassign returns the partition on its way to the target replicas, or there
// already; p itself if it is there and was not on its way.
func (p *Partition) reassign(target []int32, r rules) *Partition {
	if !p.Reassigning() && slices.Equal(p.Replicas, target) {
		return p
	}
	next := *p
	next.Adding = without(target, without(p.Replicas, p.Adding))
	next.Removing = without(p.Replicas, target)
	next.Replicas = append(slices.Clone(target), next.Removing...)
	return next.completeReassignment(p, r)
}

// cancelReassignment returns the partition without the replicas that were
// being added, nil if that is an error.
func (p *Partition) cancelReassignment(r rules, result *PartitionResult) *Partition {
	if !p.Reassigning() {
		result.fail(kerr.NoReassignmentInProgress, "")
		return nil
	}
	next := *p
	if len(without(p.ISR, p.Adding)) == 0 {
		if next.revert(p, r); !r.unclean || next.Leader == NoLeader {
			result.fail(kerr.InvalidReplicaAssignment, fmt.Sprintf(
				"Unable to revert partition assignment for %s:%d because it would require an unclean leader election.", result.Topic, result.Partition))
			return nil
		}
		return next.succeed(p)
	}
	next.Removing = p.Adding
	next.Adding = nil
	return next.completeReassignment(p, r)
}

// revert drops the replicas that were being added to old though nobody else is in sync.
// The leader is elected as ever, the eligible first; of those that are not, the first
// that is up, whatever their logs have. Kafka makes the first replica the
// leader whether it is up or not, and whoever is complete.
func (next *Partition) revert(old *Partition, r rules) {
	next.Replicas = without(old.Replicas, old.Adding)
	next.Adding, next.Removing = nil, nil
	next.ISR, next.ELR, next.LastKnownELR = nil, without(old.ELR, old.Adding), without(old.LastKnownELR, old.Adding)
	next.elect(old, r)
	next.settleELR(old, r)
}

// completeReassignment returns next, the successor of old, with the reassignment
// done if it can be. The leader is elected anew if it was dropped.
func (next *Partition) completeReassignment(old *Partition, r rules) *Partition {
	next.finishReassignment(old, r)
	next.elect(old, r)
	return next.succeed(old)
}

// finishReassignment drops the replicas being removed if all those being added
// are in sync, and enough of those that stay: while the in-sync set is below
// min.insync.replicas, nobody is dropped who was in sync or eligible in old (rule 20).
func (next *Partition) finishReassignment(old *Partition, r rules) {
	isr := without(next.ISR, next.Removing)
	stay := without(next.Replicas, next.Removing)
	complete := slices.Concat(old.ISR, old.ELR, next.ISR)
	switch {
	case len(isr) == 0, len(without(next.Adding, isr)) > 0:
		return
	case len(isr) < min(r.minISR, len(stay)) && len(without(complete, next.Removing)) < len(complete):
		return
	}
	next.Replicas, next.ISR = stay, isr
	next.ELR, next.LastKnownELR = without(next.ELR, next.Removing), without(next.LastKnownELR, next.Removing)
	next.Adding, next.Removing = nil, nil
}

// without returns the ids that are not among the others, nil if there is none.
func without(ids, others []int32) []int32 {
	return keep(ids, func(id int32) bool { return !slices.Contains(others, id) })
}
