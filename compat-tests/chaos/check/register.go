package check

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// registers is P24: the committed offset of a group and a partition is a
// linearizable register under OffsetCommit, TxnOffsetCommit (from its call to
// the answer of EndTxn) and OffsetFetch with require_stable. A refused commit,
// of an old generation say, must have no effect: a fetch that sees it has no
// explanation. Only commits that nobody repeated are judged: one that a client
// sent twice may take effect twice. Nor are answers of a coordinator that was
// cut off and had been deposed: it answers from the past, in Kafka too, until it
// hears of its successor. Nothing that a group commits with such an offset is
// accepted.
func registers(a *analysis) {
	limit := a.o.Linearize
	if limit == 0 {
		limit = 20 * time.Second
	}
	deadline := time.Now().Add(limit)
	checked, left := 0, 0
	for r, ops := range a.registerOps() {
		remaining := time.Until(deadline)
		if remaining <= 0 {
			left++
			continue
		}
		switch porcupine.CheckOperationsTimeout(registerModel, ops, remaining) {
		case porcupine.Ok:
			checked++
		case porcupine.Unknown:
			left++
		case porcupine.Illegal:
			a.find(Finding{"P24", "committed offset register", r.key, fmt.Sprintf("group %s: no order of %d commits and fetches explains what was fetched", r.group, len(ops)), a.around(r)})
		}
	}
	if checked+left > 0 {
		a.note("P24 %d registers of committed offsets are linearizable, %d were left out for lack of time", checked, left)
	}
}

type registerInput struct {
	write bool
	value int64
}

var registerModel = porcupine.Model{
	Init: func() any { return int64(-1) },
	Step: func(state, input, output any) (bool, any) {
		in := input.(registerInput)
		if in.write {
			return true, in.value
		}
		return output.(int64) == state.(int64), state
	},
}

func (a *analysis) registerOps() map[committed][]porcupine.Operation {
	fetched := map[committed]map[int64]bool{}
	repeated := map[committed]bool{}
	for i := range a.ops {
		op := &a.ops[i]
		for k, v := range op.Offsets {
			c := committed{op.Group, k}
			if op.F == history.FetchOffset && op.Type == history.OK {
				if fetched[c] == nil {
					fetched[c] = map[int64]bool{}
				}
				fetched[c][v] = true
			}
			if op.F != history.FetchOffset && !op.Once {
				repeated[c] = true
			}
		}
	}
	out := map[committed][]porcupine.Operation{}
	deposed, past := a.deposedCoordinator(), 0
	for i := range a.ops {
		op := &a.ops[i]
		if deposed(op) {
			past++
			continue
		}
		for k, v := range op.Offsets {
			c := committed{op.Group, k}
			if len(fetched[c]) == 0 || repeated[c] {
				continue
			}
			o := porcupine.Operation{ClientId: op.Process, Call: op.Invoked, Return: op.Returned}
			switch {
			case op.F == history.FetchOffset && op.Type == history.OK:
				o.Input, o.Output = registerInput{}, v
			case op.F == history.FetchOffset || op.Type == history.Fail:
				continue
			default:
				if op.Type == history.Info {
					// What nobody saw may as well happen after the end.
					if !fetched[c][v] {
						continue
					}
					o.Return = history.Never
				}
				o.Input, o.Output = registerInput{true, v}, v
			}
			out[c] = append(out[c], o)
		}
	}
	if past > 0 {
		a.note("P24 %d offsets were fetched from a deposed coordinator that heard nothing of it", past)
	}
	return out
}

// coordinatorHeard is how long after an answer a successor may be heard of that
// was there before it: observers ask some times a second.
const coordinatorHeard = int64(time.Second)

// deposedCoordinator tells of a fetchOffset whether another broker than the one
// that answered was known to lead the group's partition, in a later leader epoch
// than any in which the one that answered did.
func (a *analysis) deposedCoordinator() func(*history.Op) bool {
	type reign struct {
		leader, epoch int32
		from          int64
	}
	reigns := map[history.Key][]reign{}
	brokers, partitions := map[int32]bool{}, int32(0)
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		for _, l := range op.Leaders {
			if l.Key.Topic != history.GroupTopic || l.Leader < 0 {
				continue
			}
			brokers[l.Broker] = true
			partitions = max(partitions, l.Key.Partition+1)
			reigns[l.Key] = append(reigns[l.Key], reign{l.Leader, l.Epoch, op.Invoked})
		}
	}
	return func(op *history.Op) bool {
		if op.F != history.FetchOffset || op.Type != history.OK || op.Broker == 0 || len(brokers) < 2 {
			return false
		}
		own, other := int32(-1), int32(-1)
		for _, r := range reigns[history.Coordinates(op.Group, partitions)] {
			switch {
			case r.from > op.Returned+coordinatorHeard:
				return other > own
			case r.leader == op.Broker:
				own = max(own, r.epoch)
			default:
				other = max(other, r.epoch)
			}
		}
		return other > own
	}
}

// around are the operations of a register, for a finding.
func (a *analysis) around(c committed) []int {
	var out []int
	for i := range a.ops {
		op := &a.ops[i]
		if _, is := op.Offsets[c.key]; is && op.Group == c.group {
			out = append(out, op.Index)
		}
	}
	return out
}
