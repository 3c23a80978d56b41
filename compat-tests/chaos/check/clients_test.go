package check

import (
	"slices"
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

func TestWhatClientsDoByThemselves(t *testing.T) {
	gone := func(how history.Type) history.Op {
		return history.Op{F: history.Gone, Type: how, Note: "x ended by itself", Invoked: 1, Returned: 1}
	}
	ops := []history.Op{
		gone(history.OK),
		{F: history.Txn, Type: history.Fail, Error: history.ErrAborted.Error(), Invoked: 2, Returned: 3, Process: 1},
		{F: history.Txn, Type: history.Fail, Error: "EOF", Invoked: 4, Returned: 5, Process: 1},
	}
	report := Run(history.Sorted(ops), Options{})
	for _, note := range []string{"x ended by itself", "franz-go aborted 1 transactions that it was to commit"} {
		if !slices.Contains(report.Notes, note) {
			t.Errorf("no note %q in %q", note, report.Notes)
		}
	}
	wantClean(t, history.Sorted(ops), Options{})
	wantFound(t, history.Sorted(append(ops, gone(history.Fail))), Options{}, "P0")
}
