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
// sent twice may take effect twice. An answer of a coordinator that had been
// deposed and could not know it yet may be from the past, see [pasts].
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
	pasts, past := a.pasts(), 0
	for i := range a.ops {
		op := &a.ops[i]
		from, is := pasts.from(op)
		if is {
			past++
		}
		for k, v := range op.Offsets {
			c := committed{op.Group, k}
			if len(fetched[c]) == 0 || repeated[c] {
				continue
			}
			o := porcupine.Operation{ClientId: op.Process, Call: from, Return: op.Returned}
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

// pasts tells which fetched offsets may be from the past. A coordinator that is
// cut off while another takes its place goes on answering what was committed
// when it was deposed, in Kafka too, until it hears of its successor. Nothing
// that a group commits with such an offset is accepted. This explains an answer
//
//   - of a broker that, in its newest Metadata answer of before, led the group's
//     partition, while another one did in a later epoch;
//   - with an offset that the register held at some time since the last commit
//     that the broker acknowledged, since it was not deposed by then.
type pasts struct {
	heard   *heard
	commits map[committed][]*history.Op // that were acknowledged, it is known by whom
	acks    map[leaderSeat][]*history.Op
	writers map[committed]map[int64]*history.Op
}

func (a *analysis) pasts() *pasts {
	p := &pasts{
		heard: a.heard(), commits: map[committed][]*history.Op{}, acks: map[leaderSeat][]*history.Op{}, writers: map[committed]map[int64]*history.Op{},
	}
	for i := range a.ops {
		if op := &a.ops[i]; p.heard.partitions > 0 && op.F == history.Commit {
			p.acknowledged(op)
		}
	}
	return p
}

func (p *pasts) acknowledged(op *history.Op) {
	for k, v := range op.Offsets {
		c := committed{op.Group, k}
		if p.writers[c] == nil {
			p.writers[c] = map[int64]*history.Op{}
		}
		p.writers[c][v] = op
		// What is part of a transaction takes effect with the marker, which may
		// reach a successor.
		if op.Type == history.OK && op.TxnID == "" && op.Broker != 0 {
			p.commits[c] = append(p.commits[c], op)
		}
	}
	if op.Type == history.OK && op.Broker != 0 {
		s := leaderSeat{op.Broker, history.Coordinates(op.Group, p.heard.partitions)}
		p.acks[s] = append(p.acks[s], op)
	}
}

// from is the time since when the register may have held what an operation
// read: its call, or an earlier time where the answer may be from the past.
func (p *pasts) from(op *history.Op) (int64, bool) {
	if op.F != history.FetchOffset || op.Type != history.OK || op.Broker == 0 || p.heard.partitions == 0 {
		return op.Invoked, false
	}
	s := leaderSeat{op.Broker, history.Coordinates(op.Group, p.heard.partitions)}
	if !p.heard.unaware(s, op, op.Returned+coordinatorHeard) {
		return op.Invoked, false
	}
	for k, v := range op.Offsets {
		if p.over(committed{op.Group, k}, v, op) {
			return op.Invoked, false
		}
	}
	var since int64
	for _, ack := range p.acks[s] {
		if ack.Returned < op.Invoked {
			since = max(since, ack.Invoked)
		}
	}
	return since, true
}

// over tells whether the broker that answered had itself acknowledged a later
// commit than the one of an offset.
func (p *pasts) over(c committed, offset int64, op *history.Op) bool {
	w := p.writers[c][offset]
	for _, ack := range p.commits[c] {
		if ack.Broker != op.Broker || ack.Returned >= op.Invoked || ack.Offsets[c.key] == offset {
			continue
		}
		if offset < 0 || w != nil && w.Type == history.OK && w.Returned < ack.Invoked {
			return true
		}
	}
	return false
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
