package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// served is P16 while something is out of order that clients must not notice:
// within any time of ServeWithin some send and some poll succeed.
func served(a *analysis) {
	if a.o.ServeWithin == 0 {
		return
	}
	for i := range a.ops {
		must := &a.ops[i]
		if must.F != history.Serving || must.Type != history.OK {
			continue
		}
		last := map[history.Kind]int64{history.Send: must.Invoked, history.Poll: must.Invoked}
		longest := map[history.Kind]int64{}
		for _, m := range a.successes(must.Invoked, must.Returned) {
			longest[m.what] = max(longest[m.what], m.at-last[m.what])
			last[m.what] = m.at
		}
		for _, what := range []history.Kind{history.Send, history.Poll} {
			gap := max(longest[what], must.Returned-last[what])
			if gap > int64(a.o.ServeWithin) {
				a.find(Finding{"P16", "service", history.Key{}, fmt.Sprintf("no %s succeeded for %s %s", what, milliseconds(gap), must.Note), indexes(must)})
			}
		}
		a.note("P16 %s for %s: the longest without a send %s, without a poll %s", must.Note, milliseconds(must.Returned-must.Invoked),
			milliseconds(longest[history.Send]), milliseconds(longest[history.Poll]))
	}
}

type success struct {
	what history.Kind
	at   int64
}

// successes are the sends and the polls with records that ended in a span, in
// the order of their ends.
func (a *analysis) successes(from, to int64) []success {
	var out []success
	for i := range a.ops {
		op := &a.ops[i]
		if op.Returned < from || op.Returned > to {
			continue
		}
		op.Served(func(s history.Service) { out = append(out, success{s.Kind, op.Returned}) })
	}
	slices.SortFunc(out, func(x, y success) int { return cmp.Compare(x.at, y.at) })
	return out
}
