package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// mark is a mark with the operation that saw it.
type mark struct {
	history.Mark
	op *history.Op
}

func (a *analysis) marks() map[history.Key][]mark {
	out := map[history.Key][]mark{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		for _, m := range op.Marks {
			out[m.Key] = append(out[m.Key], mark{m, op})
		}
	}
	return out
}

// watermarks is P17. Within one answer: log start <= last stable offset <=
// high watermark <= log end. From one answer to a request sent later: log
// start, last stable offset and high watermark of a leader epoch never go
// back, nor does the epoch that a broker names. And ListOffsets(latest) of a
// leader whose watermark has not reached the start of its epoch is refused
// with OFFSET_NOT_AVAILABLE, not answered with a lower number.
func watermarks(a *analysis) {
	marks := a.marks()
	for _, k := range sortedKeys(marks) {
		list := marks[k]
		for _, m := range list {
			a.one(m)
		}
		a.monotone(k, list, "leader epoch", func(m mark) (int64, int64) { return int64(m.Broker), int64(m.LeaderEpoch) })
		epoch := func(m mark) int64 { return int64(m.LeaderEpoch) }
		a.monotone(k, list, "high watermark", func(m mark) (int64, int64) { return epoch(m), m.High })
		a.monotone(k, list, "last stable offset", func(m mark) (int64, int64) { return epoch(m), m.LastStable })
		a.monotone(k, list, "log start", func(m mark) (int64, int64) { return epoch(m), m.LogStart })
	}
}

func (a *analysis) one(m mark) {
	names := []string{"log start", "last stable offset", "high watermark", "log end"}
	values := []int64{m.LogStart, m.LastStable, m.High, m.End}
	for i := range values {
		for j := i + 1; j < len(values); j++ {
			if values[i] >= 0 && values[j] >= 0 && values[i] > values[j] {
				a.find(Finding{"P17", "watermark order", m.Key, fmt.Sprintf("%s %d above %s %d", names[i], values[i], names[j], values[j]), indexes(m.op)})
			}
		}
	}
	if m.FromOffsets && m.EpochStart >= 0 && m.High >= 0 && m.High < m.EpochStart {
		a.find(Finding{"P17", "watermark order", m.Key, fmt.Sprintf("the latest offset %d of a leader whose epoch begins at %d", m.High, m.EpochStart), indexes(m.op)})
	}
}

// monotone finds values of marks that go back, among those of the same group.
func (a *analysis) monotone(k history.Key, list []mark, what string, of func(mark) (group, value int64)) {
	groups := map[int64][]mark{}
	for _, m := range list {
		g, _ := of(m)
		groups[g] = append(groups[g], m)
	}
	value := func(m mark) int64 { _, v := of(m); return v }
	for _, group := range groups {
		backwards(group, func(m mark) *history.Op { return m.op }, value, func(before, after mark) {
			a.find(Finding{"P17", "watermark order", k, fmt.Sprintf("the %s goes from %d back to %d (broker %d, leader epoch %d)", what, value(before), value(after), after.Broker, after.LeaderEpoch), indexes(before.op, after.op)})
		})
	}
}

// backwards finds values, of those that are not negative, that are lower than
// one in an answer that was there before the question was asked.
func backwards[T any](list []T, op func(T) *history.Op, value func(T) int64, found func(before, after T)) {
	called := slices.Clone(list)
	slices.SortStableFunc(called, func(x, y T) int { return cmp.Compare(op(x).Invoked, op(y).Invoked) })
	answered := slices.Clone(list)
	slices.SortStableFunc(answered, func(x, y T) int { return cmp.Compare(op(x).Returned, op(y).Returned) })
	top, done := 0, 0 // of what was answered
	for _, t := range called {
		for ; done < len(answered) && op(answered[done]).Returned < op(t).Invoked; done++ {
			if value(answered[done]) > value(answered[top]) {
				top = done
			}
		}
		if done > 0 && value(t) >= 0 && value(answered[top]) > value(t) {
			found(answered[top], t)
		}
	}
}

// successorHeard is how long after a latest offset a successor may be heard of
// that was there before it: while brokers are cut off few clients reach it.
const successorHeard = int64(5 * time.Second)

// aroundThen is how far from an answer of a deposed leader a read may have been
// refused by it.
const aroundThen = int64(5 * time.Second)

// refusals tells of reads that were refused since the log ends before them
// whether a leader did it that was deposed and could not know it, so that what it
// has is shorter than what its successor handed out. Where the refusal does not
// say whose it is, such a leader must have answered about then, and have no more
// than ended before the read.
type refusals struct {
	heard *heard
	past  map[history.Key][]mark
}

func (a *analysis) refusals(h *heard) *refusals {
	r := &refusals{h, map[history.Key][]mark{}}
	for k, list := range a.marks() {
		for _, m := range list {
			if r.excused(m, 0) {
				r.past[k] = append(r.past[k], m)
			}
		}
	}
	return r
}

// excused tells whether an answer was a deposed leader's, whose successor was
// known within a time after it.
func (r *refusals) excused(m mark, within int64) bool {
	return m.LeaderEpoch >= 0 && r.heard.unaware(leaderSeat{m.Broker, m.Key}, m.op, m.op.Returned+within)
}

func (r *refusals) explain(k history.Key, end int64, op *history.Op) bool {
	for _, m := range op.Marks {
		if m.Key == k {
			return r.excused(mark{m, op}, 0)
		}
	}
	return slices.ContainsFunc(r.past[k], func(m mark) bool {
		return m.op.Invoked-aroundThen < op.Returned && op.Invoked < m.op.Returned+aroundThen && m.High <= end+1
	})
}

// repeatable is P18: what a consumer read stays. Another value at the offset
// is P1; here: a latest offset, or a refused read, below what was read before, or
// an epoch that ends before a record of it that was read.
// A latest offset of a leader that was cut off and deposed is an answer of the
// past, which Kafka does not rule out; nor does it that a new consumer is sent to
// such a leader, whose log is shorter than what it asks for, see [refusals].
func repeatable(a *analysis) {
	type readTo struct {
		offset int64
		epoch  int32
		op     *history.Op
	}
	reads := map[history.Key][]readTo{}
	for i := range a.ops {
		op := &a.ops[i]
		op.Reads(func(k history.Key, list []history.Read) {
			for _, r := range list {
				reads[k] = append(reads[k], readTo{r.Offset, r.Epoch, op})
			}
		})
	}
	type question struct {
		key   history.Key
		end   int64 // the broker says that the log ends here
		op    *history.Op
		words string
	}
	var questions []question
	refused := a.refusals(a.heard())
	for k, list := range a.marks() {
		for _, m := range list {
			if m.FromOffsets && m.High >= 0 && !refused.excused(m, successorHeard) {
				questions = append(questions, question{k, m.High, m.op, "the latest offset is %d, offset %d was read before"})
			}
		}
	}
	past := 0
	for i := range a.ops {
		for k, end := range a.ops[i].Ended {
			if refused.explain(k, end, &a.ops[i]) {
				past++
				continue
			}
			questions = append(questions, question{k, end, &a.ops[i], "a read was refused as the log ends at %d, offset %d was read before"})
		}
	}
	for i := range a.ops {
		op := &a.ops[i]
		for k, e := range op.EpochEnded {
			if refused.explain(k, e.End-1, op) {
				past++
				continue
			}
			at := slices.IndexFunc(reads[k], func(r readTo) bool {
				return r.op.Returned < op.Invoked && r.epoch <= e.Epoch && r.offset >= e.End
			})
			if at >= 0 {
				r := reads[k][at]
				a.find(Finding{"P18", "repeatable read", k, fmt.Sprintf("epoch %d ends at %d, offset %d of epoch %d was read before", e.Epoch, e.End, r.offset, r.epoch), indexes(r.op, op)})
			}
		}
	}
	if past > 0 {
		a.note("P18 %d reads were refused by a deposed leader that heard nothing of it", past)
	}
	slices.SortStableFunc(questions, func(x, y question) int { return cmp.Compare(x.op.Invoked, y.op.Invoked) })
	for _, list := range reads {
		slices.SortStableFunc(list, func(x, y readTo) int { return cmp.Compare(x.op.Returned, y.op.Returned) })
	}
	done := map[history.Key]int{}
	top := map[history.Key]readTo{}
	for _, q := range questions {
		list, i := reads[q.key], done[q.key]
		for ; i < len(list) && list[i].op.Returned < q.op.Invoked; i++ {
			if t, is := top[q.key]; !is || list[i].offset > t.offset {
				top[q.key] = list[i]
			}
		}
		done[q.key] = i
		if t, is := top[q.key]; is && t.offset >= q.end {
			a.find(Finding{"P18", "repeatable read", q.key, fmt.Sprintf(q.words, q.end, t.offset), indexes(t.op, q.op)})
		}
	}
}

// unwatched is the longest that a gap between two answers counts as time in
// which a last stable offset stood still: a broker that is down or paused
// cannot abort what is overdue.
const unwatched = int64(2 * time.Second)

// stuck is P26: a last stable offset that stays where it is, below the high
// watermark, for longer than any transaction may be open.
func stuck(a *analysis) {
	if a.o.StuckAfter == 0 {
		return
	}
	marks := a.marks()
	for _, k := range sortedKeys(marks) {
		list := marks[k]
		slices.SortStableFunc(list, func(x, y mark) int { return cmp.Compare(x.op.Invoked, y.op.Invoked) })
		a.stands(k, list)
	}
}

func (a *analysis) stands(k history.Key, list []mark) {
	var since, before *mark
	var held int64
	for i := range list {
		m := &list[i]
		if m.LastStable < 0 || m.High < 0 {
			continue
		}
		if m.LastStable >= m.High || since == nil || since.LastStable != m.LastStable {
			since, before, held = nil, m, 0
			if m.LastStable < m.High {
				since = m
			}
			continue
		}
		gap := min(m.op.Invoked-before.op.Invoked, unwatched)
		if held <= int64(a.o.StuckAfter) && held+gap > int64(a.o.StuckAfter) {
			a.find(Finding{"P26", "LSO progress", k, fmt.Sprintf("the last stable offset stays at %d, below the high watermark %d, for %s in which the broker answered", m.LastStable, m.High, milliseconds(held+gap)), indexes(since.op, m.op)})
		}
		held, before = held+gap, m
	}
}

// metadata is P27: what one broker says of a partition's leader epoch,
// partition epoch and controller epoch never goes back, and a leader epoch has
// one leader, whoever says it.
func metadata(a *analysis) {
	type seat struct {
		broker int32
		key    history.Key
	}
	type reign struct {
		key   history.Key
		epoch int32
	}
	type said struct {
		history.Leader
		op *history.Op
	}
	by := map[seat][]said{}
	leaders := map[reign]said{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		for _, l := range op.Leaders {
			if l.Broker >= 0 { // else it is not known who said it
				by[seat{l.Broker, l.Key}] = append(by[seat{l.Broker, l.Key}], said{l, op})
			}
			if l.Leader < 0 || l.Epoch < 0 {
				continue
			}
			r := reign{l.Key, l.Epoch}
			if before, is := leaders[r]; is && before.Leader.Leader != l.Leader {
				a.find(Finding{"P27", "metadata monotone", l.Key, fmt.Sprintf("leader epoch %d has the leaders %d and %d", l.Epoch, before.Leader.Leader, l.Leader), indexes(before.op, op)})
			}
			leaders[r] = said{l, op}
		}
	}
	for s, list := range by {
		for _, e := range []struct {
			what string
			of   func(said) int64
		}{
			{"leader epoch", func(l said) int64 { return int64(l.Epoch) }},
			{"partition epoch", func(l said) int64 { return int64(l.PartitionEpoch) }},
			{"controller epoch", func(l said) int64 { return int64(l.ControllerEpoch) }},
		} {
			backwards(list, func(l said) *history.Op { return l.op }, e.of, func(before, after said) {
				a.find(Finding{"P27", "metadata monotone", s.key, fmt.Sprintf("broker %d: the %s goes from %d back to %d", s.broker, e.what, e.of(before), e.of(after)), indexes(before.op, after.op)})
			})
		}
	}
}

// incarnations is P27 of topics that are deleted and created again under the
// same name: a broker that named a later one never again names an earlier one.
// What was deleted does not come back.
func incarnations(a *analysis) {
	type seat struct {
		broker int32
		name   string
	}
	type said struct {
		topic string
		op    *history.Op
	}
	last := map[seat]said{}
	over := map[seat]map[string]*history.Op{} // by topic: the operation that named another one after it
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		for _, l := range op.Leaders {
			if l.Key.Name() == l.Key.Topic || l.Broker < 0 {
				continue
			}
			s := seat{l.Broker, l.Key.Name()}
			before, is := last[s]
			switch {
			case is && before.topic == l.Key.Topic:
			case is && before.op.Returned >= op.Invoked:
				continue // neither is before the other
			case over[s][l.Key.Topic] != nil:
				a.find(Finding{"P27", "metadata monotone", l.Key, fmt.Sprintf("broker %d names a topic that it had named another one after", l.Broker), indexes(over[s][l.Key.Topic], op)})
			case is:
				if over[s] == nil {
					over[s] = map[string]*history.Op{}
				}
				over[s][before.topic] = op
			}
			last[s] = said{l.Key.Topic, op}
		}
	}
}
