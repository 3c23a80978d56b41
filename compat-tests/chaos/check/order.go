package check

import (
	"fmt"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// polls is P8 to P11: the values of a key must be polled in the order of the
// log, each the one after the other; within one operation (P8 skip, P9 back)
// and from one ok operation of a process to its next that reads the key (P10
// skip, P11 back), unless it assigned in between. A process that subscribes
// may lose a key to others and get it back, so P10 and P11 are not asked of it.
func polls(a *analysis) {
	type position struct {
		at int
		op *history.Op
	}
	last := map[int]map[history.Key]position{}
	for i := range a.ops {
		op := &a.ops[i]
		mine := last[op.Process]
		if mine == nil || op.F == history.Assign || op.F == history.Subscribe || op.F == history.Crash {
			mine = map[history.Key]position{}
			last[op.Process] = mine
		}
		within := map[history.Key]int{}
		op.Reads(func(k history.Key, reads []history.Read) {
			for _, r := range reads {
				at := a.first[k][r.Value]
				before, is := within[k]
				if is && !op.Rebalanced[k] {
					a.step("P8", "int-poll-skip", "P9", "int-nonmonotonic-poll", k, before, at, indexes(op))
				}
				if !is && op.Type == history.OK && !a.under[op.Process] {
					if p, is := mine[k]; is {
						a.step("P10", "poll-skip", "P11", "nonmonotonic-poll", k, p.at, at, indexes(p.op, op))
					}
				}
				within[k] = at
			}
		})
		if op.Type == history.OK {
			for k, at := range within {
				mine[k] = position{at, op}
			}
		}
	}
}

func (a *analysis) step(skip, skipName, back, backName string, k history.Key, from, to int, ops []int) {
	switch {
	case to-from > 1:
		a.find(Finding{skip, skipName, k, fmt.Sprintf("from value %d to %d, over %d values, the first of them %d", a.order[k][from], a.order[k][to], to-from-1, a.order[k][from+1]), ops})
	case to-from < 1:
		a.find(Finding{back, backName, k, fmt.Sprintf("from value %d back to %d", a.order[k][from], a.order[k][to]), ops})
	}
}

// sendOrder is P12: one producer sent v1 before v2 to a key and v2 lies before
// v1. Gaps are allowed: others write too, and unknown sends may be missing.
func sendOrder(a *analysis) {
	type position struct {
		at int
		op *history.Op
	}
	last := map[int]map[history.Key]position{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.F != history.Send && op.F != history.Txn {
			continue
		}
		mine := last[op.Process]
		if mine == nil {
			mine = map[history.Key]position{}
			last[op.Process] = mine
		}
		for _, s := range op.Sends() {
			at, placed := a.first[s.Key][s.Value]
			if !placed {
				continue
			}
			if before, is := mine[s.Key]; is && at <= before.at {
				name := "nonmonotonic-send"
				if before.op == op {
					name = "int-nonmonotonic-send"
				}
				a.find(Finding{"P12", name, s.Key, fmt.Sprintf("value %d lies before %d", s.Value, a.order[s.Key][before.at]), indexes(before.op, op)})
			}
			mine[s.Key] = position{at, op}
		}
	}
}

// consumeCounts is P15, a report: how often the values that subscribers'
// transactions consumed were consumed.
func consumeCounts(a *analysis) {
	counts := map[written]int{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK || op.F != history.Txn || !a.under[op.Process] {
			continue
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			for _, r := range reads {
				counts[written{k, r.Value}]++
			}
		})
	}
	spread := map[int]int{}
	for _, n := range counts {
		spread[n]++
	}
	if len(spread) > 0 {
		a.note("P15 times consumed in subscribers' transactions: number of values: %v", spread)
	}
}

// lag is P16: how far behind polls were, a report, and a finding where after all
// faults were healed a key that clients had sent to, or polled, was not sent to,
// or polled, within RecoverWithin.
func lag(a *analysis) {
	// known[k][i] is when order[k][i] was first known: sent or polled.
	known := map[history.Key][]int64{}
	for k, order := range a.order {
		times := make([]int64, len(order))
		for i := range times {
			times[i] = history.Never
		}
		known[k] = times
	}
	learn := func(k history.Key, v int64, at int64) {
		if p, is := a.first[k][v]; is {
			known[k][p] = min(known[k][p], at)
		}
	}
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type == history.OK {
			for _, s := range op.Sends() {
				learn(s.Key, s.Value, op.Returned)
			}
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			for _, r := range reads {
				learn(k, r.Value, op.Returned)
			}
		})
	}
	// When anything at or after a position was first known.
	for _, times := range known {
		for i := len(times) - 2; i >= 0; i-- {
			times[i] = min(times[i], times[i+1])
		}
	}
	var worst int64
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK || op.Final {
			continue
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			if len(reads) == 0 {
				return
			}
			next := a.first[k][reads[len(reads)-1].Value] + 1
			if next < len(known[k]) && known[k][next] < op.Invoked {
				worst = max(worst, op.Invoked-known[k][next])
			}
		})
	}
	a.note("P16 largest lag of a poll behind what was known: %s", milliseconds(worst))
	a.recovery()
}

func (a *analysis) recovery() {
	if a.o.RecoverWithin == 0 {
		return
	}
	healed := int64(-1)
	for i := range a.ops {
		if a.ops[i].F == history.Healed {
			healed = a.ops[i].Returned
		}
	}
	if healed < 0 {
		a.find(Finding{"P16", "recovery", history.Key{}, "the history does not say when the faults were healed", nil})
		return
	}
	recovery := history.NewRecovery(healed)
	for i := range a.ops {
		recovery.Take(&a.ops[i])
	}
	slowest, longest := history.Service{}, int64(-1)
	recovery.Each(func(s history.Service, at int64) {
		if at == history.Never {
			a.find(Finding{"P16", "recovery", s.Key, "no " + string(s.Kind) + " succeeded after all faults were healed", nil})
			return
		}
		if at-healed > longest {
			slowest, longest = s, at-healed
		}
		if at-healed > int64(a.o.RecoverWithin) {
			a.find(Finding{"P16", "recovery", s.Key, fmt.Sprintf("the first %s succeeded %s after all faults were healed", s.Kind, milliseconds(at-healed)), nil})
		}
	})
	if longest >= 0 {
		a.note("P16 the last to be served again after all faults were healed: a %s, after %s", slowest, milliseconds(longest))
	}
}
