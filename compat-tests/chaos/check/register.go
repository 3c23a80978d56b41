package check

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
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
//     partition: one that said that another does knows that it was deposed, and
//     of one that said nothing there is no telling;
//   - while another one led the partition in a later epoch;
//   - with an offset that the register held at some time since the last commit
//     that the broker acknowledged, since it was not deposed by then.
type pasts struct {
	a          *analysis
	partitions int32
	reigns     map[history.Key]map[int32]reign
	said       map[leaderSeat][]reign
	commits    map[committed][]*history.Op // that were acknowledged, with the broker that did
	acks       map[leaderSeat][]*history.Op
	writers    map[committed]map[int64]*history.Op
}

// reign is a leader's epoch. In reigns, at is when the first question was asked
// that the epoch answered; in said, when an answer came.
type reign struct {
	leader, epoch int32
	at            int64
}

// leaderSeat is a broker and a partition that it may lead.
type leaderSeat struct {
	broker int32
	key    history.Key
}

func (a *analysis) pasts() *pasts {
	p := &pasts{
		a: a, reigns: map[history.Key]map[int32]reign{}, said: map[leaderSeat][]reign{},
		commits: map[committed][]*history.Op{}, acks: map[leaderSeat][]*history.Op{}, writers: map[committed]map[int64]*history.Op{},
	}
	for i := range a.ops {
		for _, l := range a.ops[i].Leaders {
			if a.ops[i].Type == history.OK && l.Key.Topic == history.GroupTopic {
				p.hear(&a.ops[i], l)
			}
		}
	}
	for i := range a.ops {
		if op := &a.ops[i]; p.partitions > 0 && op.F == history.Commit {
			p.acknowledged(op)
		}
	}
	p.settle()
	return p
}

func (p *pasts) hear(op *history.Op, l history.Leader) {
	p.partitions = max(p.partitions, l.Key.Partition+1)
	if l.Broker >= 0 {
		s := leaderSeat{l.Broker, l.Key}
		p.said[s] = append(p.said[s], reign{l.Leader, l.Epoch, op.Returned})
	}
	if l.Leader < 0 {
		return
	}
	if p.reigns[l.Key] == nil {
		p.reigns[l.Key] = map[int32]reign{}
	}
	if _, is := p.reigns[l.Key][l.Epoch]; !is {
		p.reigns[l.Key][l.Epoch] = reign{l.Leader, l.Epoch, op.Invoked}
	}
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
		s := leaderSeat{op.Broker, history.Coordinates(op.Group, p.partitions)}
		p.acks[s] = append(p.acks[s], op)
	}
}

// settle leaves in said what a broker knew by the time of each answer: one may
// overtake another, but no broker goes back to an earlier epoch (P27).
func (p *pasts) settle() {
	for _, list := range p.said {
		slices.SortStableFunc(list, func(x, y reign) int { return cmp.Compare(x.at, y.at) })
		for i := 1; i < len(list); i++ {
			if list[i].epoch < list[i-1].epoch {
				list[i].leader, list[i].epoch = list[i-1].leader, list[i-1].epoch
			}
		}
	}
}

// from is the time since when the register may have held what an operation
// read: its call, or an earlier time where the answer may be from the past.
func (p *pasts) from(op *history.Op) (int64, bool) {
	if op.F != history.FetchOffset || op.Type != history.OK || op.Broker == 0 || p.partitions == 0 {
		return op.Invoked, false
	}
	s := leaderSeat{op.Broker, history.Coordinates(op.Group, p.partitions)}
	if !p.deposed(s, op) {
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

// deposed tells whether the broker that answered had been succeeded and could
// not know it.
func (p *pasts) deposed(s leaderSeat, op *history.Op) bool {
	said := p.said[s]
	n := sort.Search(len(said), func(i int) bool { return said[i].at >= op.Invoked })
	if n == 0 || said[n-1].leader != s.broker {
		return false
	}
	for _, r := range p.reigns[s.key] {
		if r.epoch > said[n-1].epoch && r.leader != s.broker && r.at <= op.Returned+coordinatorHeard {
			return true
		}
	}
	return false
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
