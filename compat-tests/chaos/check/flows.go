package check

import (
	"fmt"
	"slices"
	"sort"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// pipes is P22: what was read from the output of a pipe is what was read from
// its input: each value once and in the order of its partition.
func pipes(a *analysis) {
	for _, p := range a.o.Pipes {
		in, out := a.visible(p.In), a.visible(p.Out)
		for n, values := range out {
			out[n] = a.origins(history.Key{Topic: p.Out, Partition: n}, values)
		}
		if len(in) == 0 {
			a.find(Finding{"P22", "exactly-once pipe", history.Key{Topic: p.In}, "nothing went through", nil})
		}
		partitions := map[int32]bool{}
		for n := range in {
			partitions[n] = true
		}
		for n := range out {
			partitions[n] = true
		}
		for n := range partitions {
			a.samePipe(history.Key{Topic: p.Out, Partition: n}, in[n], out[n])
		}
	}
}

// visible are the values of a topic's partitions that consumers read, in order.
func (a *analysis) visible(topic string) map[int32][]int64 {
	out := map[int32][]int64{}
	for _, k := range a.keys() {
		if k.Topic != topic {
			continue
		}
		for _, v := range a.order[k] {
			if a.read[written{k, v}] {
				out[k.Partition] = append(out[k.Partition], v)
			}
		}
	}
	return out
}

// origins are the values of the input that the values of the output hand on.
func (a *analysis) origins(k history.Key, values []int64) []int64 {
	from := make([]int64, len(values))
	for i, v := range values {
		if s := a.sent[written{k, v}]; s != nil {
			from[i] = s.From
		}
	}
	return from
}

func (a *analysis) samePipe(k history.Key, in, out []int64) {
	if slices.Equal(in, out) {
		return
	}
	at := 0
	for at < len(in) && at < len(out) && in[at] == out[at] {
		at++
	}
	times := map[int64]int{}
	for _, v := range out {
		times[v]++
	}
	missing, twice := 0, 0
	for _, v := range in {
		switch n := times[v]; {
		case n == 0:
			missing++
		case n > 1:
			twice++
		}
	}
	a.find(Finding{"P22", "exactly-once pipe", k, fmt.Sprintf("%d records in, %d out, %d missing, %d more than once; they part at record %d: %v in, %v out", len(in), len(out), missing, twice, at, window(in, at), window(out, at)), nil})
}

func window(values []int64, at int) []int64 {
	at = min(at, len(values))
	return values[at:min(len(values), at+3)]
}

// banks is P23: each transfer takes from one account what it gives to another
// in one transaction, so whatever a read_committed consumer finds by reading
// all accounts adds up to nothing, and of no transfer only a part.
func banks(a *analysis) {
	for _, topic := range a.o.Banks {
		var sum int64
		legs := map[*history.Op]int{}
		any := false
		for w := range a.read {
			if w.key.Topic != topic || a.sent[w] == nil {
				continue
			}
			any = true
			sum += a.sent[w].Delta
			legs[a.writer[w]]++
		}
		if !any {
			a.find(Finding{"P23", "bank", history.Key{Topic: topic}, "no transfer was read", nil})
		}
		if sum != 0 && a.o.Final {
			a.find(Finding{"P23", "bank", history.Key{Topic: topic}, fmt.Sprintf("the accounts add up to %d", sum), nil})
		}
		for op, n := range legs {
			want := 0
			for _, s := range op.Sends() {
				if s.Key.Topic == topic {
					want++
				}
			}
			if n != want && a.o.Final {
				a.find(Finding{"P23", "bank", history.Key{Topic: topic}, fmt.Sprintf("of a transfer %d of %d records were read", n, want), indexes(op)})
			}
		}
	}
}

// groups is P25. At most one member owns a partition in a generation; a commit
// of a generation older than one that a member already had is refused
// (classic protocol, where the generation is the whole group's); a member that
// gets a partition begins where the group committed, so nothing is passed over;
// and all that lies below what was committed was given to some member.
func groups(a *analysis) {
	a.owners()
	a.oldCommits()
	g := a.commits()
	a.starts(g)
	a.delivered(g)
}

func (a *analysis) owners() {
	type seat struct {
		group      string
		key        history.Key
		generation int32
	}
	owner := map[seat]*history.Op{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.F != history.Owned {
			continue
		}
		for _, k := range op.Keys {
			s := seat{op.Group, k, op.Generation}
			before := owner[s]
			if before != nil && before.Process != op.Process {
				a.find(Finding{"P25", "group exclusivity", k, fmt.Sprintf("group %s generation %d: owned by %s and by %s", op.Group, op.Generation, before.Member, op.Member), indexes(before, op)})
			}
			owner[s] = op
		}
	}
}

func (a *analysis) oldCommits() {
	// Owned events are instants, so one pass in the order of the calls knows
	// the newest generation that a member had before each commit was sent.
	newest := map[string]*history.Op{}
	for i := range a.ops {
		op := &a.ops[i]
		if !op.Classic {
			continue
		}
		if op.F == history.Owned {
			if n := newest[op.Group]; n == nil || op.Generation > n.Generation {
				newest[op.Group] = op
			}
			continue
		}
		if n := newest[op.Group]; n != nil && op.Type == history.OK && op.Generation > 0 && len(op.Offsets) > 0 && n.Generation > op.Generation {
			a.find(Finding{"P25", "fenced commit", history.Key{}, fmt.Sprintf("group %s: a commit of generation %d was accepted after generation %d had begun", op.Group, op.Generation, n.Generation), indexes(n, op)})
		}
	}
}

// committed is what a group committed of one key, in the order of the calls.
type committed struct {
	group string
	key   history.Key
}

func (a *analysis) commits() map[committed][]*history.Op {
	out := map[committed][]*history.Op{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.F != history.Commit && op.F != history.Txn || op.Type == history.Fail {
			continue
		}
		for k := range op.Offsets {
			c := committed{op.Group, k}
			out[c] = append(out[c], op)
		}
	}
	return out
}

// starts looks at the first read of each key after it came to a subscriber.
func (a *analysis) starts(commits map[committed][]*history.Op) {
	offsetsOf := map[history.Key][]int64{}
	for k, order := range a.order {
		list := make([]int64, len(order))
		for i, v := range order {
			list[i] = a.offset[k][v]
		}
		offsetsOf[k] = list
	}
	group := map[int]string{}
	fresh := map[int]map[history.Key]bool{} // keys that were read since they came
	for i := range a.ops {
		op := &a.ops[i]
		if op.F == history.Subscribe {
			group[op.Process] = op.Group
			fresh[op.Process] = map[history.Key]bool{}
		}
		if group[op.Process] == "" {
			continue
		}
		for k := range op.Rebalanced {
			delete(fresh[op.Process], k)
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			if len(reads) == 0 || fresh[op.Process][k] {
				return
			}
			fresh[op.Process][k] = true
			var from int64
			var by *history.Op
			for _, c := range commits[committed{group[op.Process], k}] {
				if c.Invoked > op.Returned {
					break
				}
				if c.Offsets[k] > from {
					from, by = c.Offsets[k], c
				}
			}
			p := sort.Search(len(offsetsOf[k]), func(i int) bool { return offsetsOf[k][i] >= from })
			if at := a.first[k][reads[0].Value]; at > p {
				a.find(Finding{"P25", "passed over", k, fmt.Sprintf("group %s: a new owner begins at offset %d, the highest commit is %d and value %d lies at %d", group[op.Process], reads[0].Offset, from, a.order[k][p], offsetsOf[k][p]), indexes(by, op)})
			}
		})
		if op.Type == history.Fail {
			// An aborted transaction rewinds to what is committed.
			op.Reads(func(k history.Key, _ []history.Read) { delete(fresh[op.Process], k) })
		}
	}
}

func (a *analysis) delivered(commits map[committed][]*history.Op) {
	group := map[int]string{}
	got := map[committed]map[int64]bool{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.F == history.Subscribe {
			group[op.Process] = op.Group
		}
		g := group[op.Process]
		if g == "" {
			continue
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			c := committed{g, k}
			if got[c] == nil {
				got[c] = map[int64]bool{}
			}
			for _, r := range reads {
				got[c][r.Value] = true
			}
		})
	}
	for c, list := range commits {
		if got[c] == nil {
			continue // a register that nobody consumes by
		}
		var upTo int64
		for _, op := range list {
			if op.Type == history.OK {
				upTo = max(upTo, op.Offsets[c.key])
			}
		}
		for _, v := range a.order[c.key] {
			if o := a.offset[c.key][v]; o < upTo && !got[c][v] {
				a.find(Finding{"P25", "not delivered", c.key, fmt.Sprintf("group %s committed %d and no member was given value %d at offset %d", c.group, upTo, v, o), nil})
			}
		}
	}
}
