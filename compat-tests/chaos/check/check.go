// Package check judges a history: which of the properties P1 to P27 that a
// Kafka broker promises does it break? The numbers are those of the notes on
// reliability that Jepsen's Kafka workload began; each property says in its
// comment what breaks it.
//
// Every property but P24 is a pass or two over the operations; P24 asks
// porcupine, one small register at a time. All of it is pure: the same history
// gives the same report.
package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// Finding is one broken promise.
type Finding struct {
	Property string // "P2"
	Name     string // "duplicate"
	Key      history.Key
	Detail   string
	Ops      []int // the operations it is about
}

func (f Finding) String() string {
	where := ""
	if f.Key.Topic != "" {
		where = " " + f.Key.String()
	}
	return fmt.Sprintf("%s %s%s: %s %v", f.Property, f.Name, where, f.Detail, f.Ops)
}

// Report is what a history is worth.
type Report struct {
	Findings []Finding
	// Notes are what is allowed and still of interest: G0, the lag of
	// consumers, how often a value was consumed.
	Notes []string
	// Ops counts the operations that ended in each way, by kind.
	Ops map[history.Kind]map[history.Type]int
	// Records that were acknowledged, and that consumers read.
	Acknowledged, Polled int
}

// Options say what the run was.
type Options struct {
	// Final: the history ends with polls of everything (P4, P22, P23).
	Final bool
	// Pipes are pairs of topics where each record of the one must arrive once
	// in the same partition of the other (P22).
	Pipes []Pipe
	// Banks are topics whose deltas must add up to nothing (P23).
	Banks []string
	// StuckAfter is how long a last stable offset may stand still below the
	// high watermark: transaction.max.timeout.ms and five minutes, or what the
	// run set (P26). 0 does not look.
	StuckAfter time.Duration
	// RecoverWithin is how long after healing every key must be served again
	// (P16). 0 does not look.
	RecoverWithin time.Duration
	// Replicas are the logs of the brokers' disks after the run (P19 to P21).
	Replicas []Replica
	// Kept are the keys of the topics that are there after the run, and Copies
	// how many of the Replicas must have each (P20).
	Kept   []history.Key
	Copies int
	// ServeWithin is the longest that no send or no poll may succeed while
	// clients must be served (P16). 0 does not look.
	ServeWithin time.Duration
	// Linearize bounds the search of P24; a register that takes longer is a
	// note. 0 means 20 seconds.
	Linearize time.Duration
}

// Pipe is a pair of topics.
type Pipe struct{ In, Out string }

// maxPerProperty bounds what is kept of one property: the first ones tell.
const maxPerProperty = 20

// Run judges.
func Run(ops []history.Op, o Options) *Report {
	a := newAnalysis(ops, o)
	for _, judge := range []func(*analysis){
		offsets, duplicates, lost, unseen, aborted, precommitted, intermediate,
		polls, sendOrder, cycles, consumeCounts, lag,
		watermarks, repeatable, disks, producers, pipes, banks, registers, groups, stuck, metadata, incarnations, served, clients,
	} {
		judge(a)
	}
	slices.SortStableFunc(a.report.Findings, func(x, y Finding) int {
		return cmp.Compare(number(x.Property), number(y.Property))
	})
	return a.report
}

func number(property string) int {
	n := 0
	_, _ = fmt.Sscanf(property, "P%d", &n) // what is no number sorts first
	return n
}

// Summary is the report in words, a line each.
func (r *Report) Summary() string {
	var b strings.Builder
	kinds := make([]string, 0, len(r.Ops))
	for k := range r.Ops {
		kinds = append(kinds, string(k))
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		by := r.Ops[history.Kind(k)]
		fmt.Fprintf(&b, "%-12s %7d ok %6d fail %6d unknown\n", k, by[history.OK], by[history.Fail], by[history.Info])
	}
	fmt.Fprintf(&b, "%d records acknowledged, %d read\n", r.Acknowledged, r.Polled)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	if len(r.Findings) == 0 {
		b.WriteString("no finding\n")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "FINDING %s\n", f)
	}
	return b.String()
}

type written struct {
	key   history.Key
	value int64
}

// analysis is what the passes share.
type analysis struct {
	ops    []history.Op
	o      Options
	report *Report
	count  map[string]int

	writer map[written]*history.Op // the operation that sent the value
	sent   map[written]*history.Sent
	read   map[written]bool                  // by an ok operation
	seen   map[written]bool                  // by any operation
	must   map[int]bool                      // by index: the operation took effect
	log    map[history.Key]map[int64][]int64 // offset to the values seen there
	order  map[history.Key][]int64           // values by ascending offset, holes removed
	first  map[history.Key]map[int64]int     // value to its first position in order
	last   map[history.Key]map[int64]int     // value to its last position in order
	offset map[history.Key]map[int64]int64   // value to its first offset
	under  map[int]bool                      // processes under subscribe
}

func newAnalysis(ops []history.Op, o Options) *analysis {
	a := &analysis{
		ops: ops, o: o, count: map[string]int{},
		report: &Report{Ops: map[history.Kind]map[history.Type]int{}},
		writer: map[written]*history.Op{}, sent: map[written]*history.Sent{},
		read: map[written]bool{}, seen: map[written]bool{}, must: map[int]bool{},
		log: map[history.Key]map[int64][]int64{}, order: map[history.Key][]int64{},
		first: map[history.Key]map[int64]int{}, last: map[history.Key]map[int64]int{},
		offset: map[history.Key]map[int64]int64{}, under: map[int]bool{},
	}
	for i := range ops {
		a.take(&ops[i])
	}
	a.report.Polled = len(a.read)
	a.settle()
	a.arrange()
	return a
}

// take counts an operation and notes what it wrote and read.
func (a *analysis) take(op *history.Op) {
	by := a.report.Ops[op.F]
	if by == nil {
		by = map[history.Type]int{}
		a.report.Ops[op.F] = by
	}
	by[op.Type]++
	if op.F == history.Subscribe {
		a.under[op.Process] = true
	}
	for _, s := range op.Sends() {
		w := written{s.Key, s.Value}
		if before := a.writer[w]; before != nil {
			a.find(Finding{"P0", "unsound history", s.Key, fmt.Sprintf("the value %d was sent twice", s.Value), []int{before.Index, op.Index}})
		}
		a.writer[w], a.sent[w] = op, s
		if op.Type == history.OK {
			a.report.Acknowledged++
		}
	}
	op.Reads(func(k history.Key, reads []history.Read) {
		for _, r := range reads {
			a.saw(k, r.Offset, r.Value)
			a.seen[written{k, r.Value}] = true
			if op.Type == history.OK {
				a.read[written{k, r.Value}] = true
			}
		}
	})
}

func (a *analysis) saw(k history.Key, offset, value int64) {
	at := a.log[k]
	if at == nil {
		at = map[int64][]int64{}
		a.log[k] = at
	}
	if !slices.Contains(at[offset], value) {
		at[offset] = append(at[offset], value)
	}
}

// settle decides which operations took effect as a whole: those that were told
// so, and the unknown transactions of which a consumer saw something.
func (a *analysis) settle() {
	for i := range a.ops {
		op := &a.ops[i]
		sends := op.Sends()
		took := op.Type == history.OK
		for _, s := range sends {
			took = took || op.F == history.Txn && op.Type == history.Info && a.read[written{s.Key, s.Value}]
		}
		if !took {
			continue
		}
		a.must[op.Index] = true
		for _, s := range sends {
			if s.Offset >= 0 {
				a.saw(s.Key, s.Offset, s.Value)
			}
		}
	}
}

// arrange puts the values of each key in the order of their offsets.
func (a *analysis) arrange() {
	for k, at := range a.log {
		offsets := make([]int64, 0, len(at))
		for o := range at {
			offsets = append(offsets, o)
		}
		slices.Sort(offsets)
		first, last, where := map[int64]int{}, map[int64]int{}, map[int64]int64{}
		var order []int64
		for _, o := range offsets {
			for _, v := range at[o] {
				if _, is := first[v]; !is {
					first[v], where[v] = len(order), o
				}
				last[v] = len(order)
				order = append(order, v)
			}
		}
		a.order[k], a.first[k], a.last[k], a.offset[k] = order, first, last, where
	}
}

func (a *analysis) find(f Finding) {
	if a.count[f.Property]++; a.count[f.Property] <= maxPerProperty {
		a.report.Findings = append(a.report.Findings, f)
	}
}

func (a *analysis) note(format string, args ...any) {
	a.report.Notes = append(a.report.Notes, fmt.Sprintf(format, args...))
}

// keys are the keys of which anything is known, in order.
func (a *analysis) keys() []history.Key { return sortedKeys(a.log) }

func sortedKeys[V any](m map[history.Key]V) []history.Key {
	keys := make([]history.Key, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y history.Key) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return keys
}

func indexes(ops ...*history.Op) []int {
	var out []int
	for _, o := range ops {
		if o != nil {
			out = append(out, o.Index)
		}
	}
	return out
}

func milliseconds(ns int64) string { return time.Duration(ns).Round(time.Millisecond).String() }
