package check

import (
	"strings"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// clients notes what the clients did by themselves, so that it is never silent.
// A driver that ends again and again is a finding: too much is not tried then.
func clients(a *analysis) {
	aborted := 0
	for i := range a.ops {
		op := &a.ops[i]
		switch {
		case op.F == history.Txn && strings.Contains(op.Error, history.ErrAborted.Error()):
			aborted++
		case op.F == history.Gone && op.Type == history.OK:
			a.note("%s", op.Note)
		case op.F == history.Gone:
			a.find(Finding{"P0", "driver", history.Key{}, op.Note, indexes(op)})
		}
	}
	if aborted > 0 {
		a.note("franz-go aborted %d transactions that it was to commit", aborted)
	}
}
