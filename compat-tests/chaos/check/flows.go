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
// is refused of a generation older than one that a member already had (classic
// protocol, where the generation is the whole group's), or than one in which
// another member already had the partition (consumer protocol, where each member
// has its own); a member that gets a partition begins where the group committed,
// so nothing is passed over and nothing that an earlier generation's commit
// settled comes again; and all that lies below what was committed was given to
// some member.
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
		if op.F != history.Owned || op.Generation <= 0 {
			continue // some clients do not tell the generation
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
	newest := map[string]*history.Op{}    // of classic groups
	holder := map[committed]*history.Op{} // the newest of each key
	for i := range a.ops {
		op := &a.ops[i]
		if op.F == history.Owned {
			if n := newest[op.Group]; op.Classic && (n == nil || op.Generation > n.Generation) {
				newest[op.Group] = op
			}
			for _, k := range op.Keys {
				c := committed{op.Group, k}
				if n := holder[c]; n == nil || op.Generation > n.Generation {
					holder[c] = op
				}
			}
			continue
		}
		if op.Type != history.OK || op.Generation <= 0 || len(op.Offsets) == 0 {
			continue
		}
		if n := newest[op.Group]; n != nil && op.Classic && n.Generation > op.Generation {
			a.find(Finding{"P25", "fenced commit", history.Key{}, fmt.Sprintf("group %s: a commit of generation %d was accepted after generation %d had begun", op.Group, op.Generation, n.Generation), indexes(n, op)})
			continue
		}
		for k := range op.Offsets {
			if n := holder[committed{op.Group, k}]; n != nil && n.Process != op.Process && n.Generation > op.Generation {
				a.find(Finding{"P25", "fenced commit", k, fmt.Sprintf("group %s: a commit of member epoch %d was accepted after another member had the partition in %d", op.Group, op.Generation, n.Generation), indexes(n, op)})
			}
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
	at := func(k history.Key, offset int64) int { // position of the first value from an offset on
		return sort.Search(len(offsetsOf[k]), func(i int) bool { return offsetsOf[k][i] >= offset })
	}
	group := map[int]string{}
	came := map[int]map[history.Key]*history.Op{}
	fresh := map[int]map[history.Key]bool{} // keys that were read since they came
	for i := range a.ops {
		op := &a.ops[i]
		if op.F == history.Subscribe {
			group[op.Process] = op.Group
			fresh[op.Process], came[op.Process] = map[history.Key]bool{}, map[history.Key]*history.Op{}
		}
		if group[op.Process] == "" {
			continue
		}
		if op.F == history.Owned {
			for _, k := range op.Keys {
				came[op.Process][k] = op
			}
		}
		for k := range op.Rebalanced {
			delete(fresh[op.Process], k)
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			if len(reads) == 0 || fresh[op.Process][k] {
				return
			}
			fresh[op.Process][k] = true
			list := commits[committed{group[op.Process], k}]
			first := a.first[k][reads[0].Value]
			if from, by := highest(list, k, op); first > at(k, from) {
				p := at(k, from)
				a.find(Finding{"P25", "passed over", k, fmt.Sprintf("group %s: a new owner begins at offset %d, the highest commit is %d and value %d lies at %d", group[op.Process], reads[0].Offset, from, a.order[k][p], offsetsOf[k][p]), indexes(by, op)})
			}
			owned := came[op.Process][k]
			if from, by := settled(list, k, owned); by != nil && first < at(k, from) {
				a.find(Finding{"P25", "committed before", k, fmt.Sprintf("group %s: an owner of generation %d begins at offset %d, in generation %d not less than %d was committed", group[op.Process], owned.Generation, reads[0].Offset, by.Generation, from), indexes(by, owned, op)})
			}
			delete(came[op.Process], k)
		})
		if op.Type == history.Fail {
			// An aborted transaction rewinds to what is committed.
			op.Reads(func(k history.Key, _ []history.Read) { delete(fresh[op.Process], k) })
		}
	}
}

// highest is the highest offset that a read may begin at: that of a commit that
// was called before the read ended.
func highest(commits []*history.Op, k history.Key, read *history.Op) (from int64, by *history.Op) {
	for _, c := range commits {
		if c.Invoked > read.Returned {
			break
		}
		if c.Offsets[k] > from {
			from, by = c.Offsets[k], c
		}
	}
	return from, by
}

// settled is the lowest offset that an owner may begin at. What an earlier
// generation was told to be committed, before the owner had the key, no older
// generation can take back: of the newest such generation, and of those after it,
// the lowest commit may be the one that holds, as a client or a network may repeat
// it.
func settled(commits []*history.Op, k history.Key, owned *history.Op) (from int64, by *history.Op) {
	if owned == nil {
		return 0, nil
	}
	for _, c := range commits {
		if c.Type == history.OK && c.Generation > 0 && c.Generation < owned.Generation && c.Returned < owned.Invoked && (by == nil || c.Generation > by.Generation) {
			by = c
		}
	}
	if by == nil {
		return 0, nil
	}
	from = by.Offsets[k]
	for _, c := range commits {
		if c.Generation >= by.Generation || c.Generation <= 0 {
			from = min(from, c.Offsets[k])
		}
	}
	return from, by
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
