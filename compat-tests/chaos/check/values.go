package check

import (
	"fmt"
	"slices"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// offsets is P1, inconsistent offsets: two values at one offset.
func offsets(a *analysis) {
	for _, k := range a.keys() {
		for o, values := range a.log[k] {
			if len(values) > 1 {
				a.find(Finding{"P1", "inconsistent-offsets", k, fmt.Sprintf("offset %d holds %v", o, values), nil})
			}
		}
	}
}

// duplicates is P2: one value at two offsets.
func duplicates(a *analysis) {
	for _, k := range a.keys() {
		at := map[int64][]int64{}
		for o, values := range a.log[k] {
			for _, v := range values {
				at[v] = append(at[v], o)
			}
		}
		for v, offsets := range at {
			if len(offsets) > 1 {
				slices.Sort(offsets)
				a.find(Finding{"P2", "duplicate", k, fmt.Sprintf("value %d lies at offsets %v", v, offsets), indexes(a.writer[written{k, v}])})
			}
		}
	}
}

// lost is P3: a value that must be there, lies before one that a consumer
// read, and that no consumer read.
func lost(a *analysis) {
	bound := map[history.Key]int{}
	for w := range a.read {
		p := a.first[w.key][w.value]
		if b, is := bound[w.key]; !is || p > b {
			bound[w.key] = p
		}
	}
	for i := range a.ops {
		op := &a.ops[i]
		if !a.must[op.Index] {
			continue
		}
		for _, s := range op.Sends() {
			w := written{s.Key, s.Value}
			if a.read[w] {
				continue
			}
			p, placed := a.last[s.Key][s.Value]
			b, readAny := bound[s.Key]
			switch {
			case placed && readAny && p <= b:
				a.find(Finding{"P3", "lost-write", s.Key, fmt.Sprintf("value %d of offset %d was never read, the value %d after it was", s.Value, a.offset[s.Key][s.Value], a.order[s.Key][b]), indexes(op)})
			case op.Type == history.Info && a.o.Final:
				// Another value of the same operation was read and the final
				// polls read all there is: the operation was torn.
				a.find(Finding{"P3", "lost-write", s.Key, fmt.Sprintf("value %d was never read, others of its transaction were", s.Value), indexes(op)})
			}
		}
	}
}

// unseen is P4: acknowledged, and not read by the end of the final polls. What
// a deleted topic held nobody can read any more, see [deletions].
func unseen(a *analysis) {
	if !a.o.Final {
		return
	}
	deleted, excused := a.deletions(), 0
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		for _, s := range op.Sends() {
			switch {
			case a.read[written{s.Key, s.Value}]:
			case deleted.explain(op, s):
				excused++
			default:
				a.find(Finding{"P4", "unseen", s.Key, fmt.Sprintf("value %d was acknowledged at offset %d and never read", s.Value, s.Offset), indexes(op)})
			}
		}
	}
	if excused > 0 {
		a.note("P4 %d records were never read since their topic was deleted", excused)
	}
}

// aborted is P5, G1a: an ok poll read a value of an operation that failed.
func aborted(a *analysis) {
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			for _, r := range reads {
				if w := a.writer[written{k, r.Value}]; w != nil && w.Type == history.Fail {
					a.find(Finding{"P5", "G1a aborted read", k, fmt.Sprintf("value %d at offset %d", r.Value, r.Offset), indexes(w, op)})
				} else if w == nil {
					a.find(Finding{"P5", "read from nowhere", k, fmt.Sprintf("value %d at offset %d was never sent", r.Value, r.Offset), indexes(op)})
				}
			}
		})
	}
}

// precommitted is P6: a transaction polls a value that it sent itself.
func precommitted(a *analysis) {
	for i := range a.ops {
		op := &a.ops[i]
		if op.F != history.Txn {
			continue
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			for _, r := range reads {
				if a.writer[written{k, r.Value}] == op {
					a.find(Finding{"P6", "precommitted read", k, fmt.Sprintf("value %d", r.Value), indexes(op)})
				}
			}
		})
	}
}

// session is what one process read of one key without losing it in between.
type session struct {
	values   map[int64]bool
	min, max int64
}

// intermediate is P7, G1b: a session read one write of a transaction on a key,
// passed over another write of it on the same key, and read on.
func intermediate(a *analysis) {
	for _, perKey := range sessions(a) {
		for k, s := range perKey {
			judgeSession(a, k, s)
		}
	}
}

func judgeSession(a *analysis, k history.Key, list []*session) {
	for _, s := range list {
		for v := range s.values {
			w := a.writer[written{k, v}]
			if w == nil || w.F != history.Txn {
				continue
			}
			for _, other := range w.Sends() {
				if other.Key != k || s.values[other.Value] {
					continue
				}
				offset := other.Offset
				if offset < 0 {
					known, is := a.offset[k][other.Value]
					if !is {
						continue // not placed: P3's matter
					}
					offset = known
				}
				if s.min < offset && offset < s.max {
					a.find(Finding{"P7", "G1b intermediate read", k, fmt.Sprintf("read value %d and passed over %d of the same transaction at offset %d", v, other.Value, offset), indexes(w)})
				}
			}
		}
	}
}

// sessions splits the reads of each process into those that follow each other.
func sessions(a *analysis) map[int]map[history.Key][]*session {
	out := map[int]map[history.Key][]*session{}
	for i := range a.ops {
		op := &a.ops[i]
		per := out[op.Process]
		if per == nil {
			per = map[history.Key][]*session{}
			out[op.Process] = per
		}
		if op.F == history.Assign || op.F == history.Subscribe {
			for k := range per {
				per[k] = append(per[k], newSession())
			}
			continue
		}
		for k := range op.Rebalanced {
			per[k] = append(per[k], newSession())
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			if len(per[k]) == 0 {
				per[k] = []*session{newSession()}
			}
			s := per[k][len(per[k])-1]
			for _, r := range reads {
				s.values[r.Value] = true
				s.min, s.max = min(s.min, r.Offset), max(s.max, r.Offset)
			}
		})
	}
	return out
}

func newSession() *session {
	return &session{values: map[int64]bool{}, min: history.Never, max: -1}
}
