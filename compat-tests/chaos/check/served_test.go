package check

import (
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

var second = int64(time.Second)

func sendAt(k history.Key, value, offset, from, to int64) history.Op {
	return history.Op{
		F: history.Send, Type: history.OK, Invoked: from * second, Returned: to * second, Process: 1,
		Mops: []history.Mop{{Send: &history.Sent{Key: k, Value: value, Offset: offset}}},
	}
}

func pollAt(k history.Key, value, offset, from, to int64) history.Op {
	return history.Op{
		F: history.Poll, Type: history.OK, Invoked: from * second, Returned: to * second, Process: 2,
		Mops: []history.Mop{{Poll: map[history.Key][]history.Read{k: {{Offset: offset, Value: value}}}}},
	}
}

func TestServedWithoutControllers(t *testing.T) {
	k := history.Key{Topic: "t"}
	must := history.Op{F: history.Serving, Type: history.OK, Invoked: 0, Returned: 20 * second, Note: "without a majority"}
	good := []history.Op{must}
	for i := int64(1); i < 20; i += 3 {
		good = append(good, sendAt(k, i, i, i, i+1), pollAt(k, i, i, i+1, i+2))
	}
	o := Options{ServeWithin: 5 * time.Second}
	wantClean(t, history.Sorted(good), o)
	for name, keep := range map[string]func(history.Op) bool{
		"no sends": func(op history.Op) bool { return op.F != history.Send },
		"a gap": func(op history.Op) bool {
			return op.F == history.Serving || op.Invoked < 4*second || op.Invoked > 12*second
		},
		"the end": func(op history.Op) bool { return op.F == history.Serving || op.Invoked < 10*second },
	} {
		t.Run(name, func(t *testing.T) {
			var ops []history.Op
			for _, op := range good {
				if keep(op) {
					ops = append(ops, op)
				}
			}
			wantFound(t, history.Sorted(ops), o, "P16")
		})
	}
}

func TestTopicsThatAreDeletedAndCreatedAgain(t *testing.T) {
	a, b := history.Key{Topic: "churn#A"}, history.Key{Topic: "churn#B"}
	deleted := history.Op{F: history.Deleted, Type: history.OK, Keys: []history.Key{a}, Invoked: 3 * second, Returned: 4 * second}
	named := func(k history.Key, at int64) history.Op {
		return history.Op{
			F: history.Metadata, Type: history.OK, Invoked: at * second, Returned: at*second + 1, Process: 3,
			Leaders: []history.Leader{{Key: k, Broker: 1, Leader: 1, PartitionEpoch: -1, ControllerEpoch: -1}},
		}
	}
	// The second record of the first topic nobody read before it was deleted.
	good := []history.Op{
		named(a, 0), sendAt(a, 1, 0, 1, 2), pollAt(a, 1, 0, 2, 3), sendAt(a, 2, 1, 2, 3), deleted,
		named(b, 5), sendAt(b, 3, 0, 6, 7), pollAt(b, 3, 0, 8, 9),
	}
	wantClean(t, history.Sorted(append([]history.Op{}, good...)), Options{Final: true})
	for name, c := range map[string]struct {
		op       history.Op
		property string
	}{
		"a record of the old topic in the new one": {pollAt(b, 2, 1, 9, 10), "P5"},
		"the new topic lost a record":              {sendAt(b, 4, 1, 9, 10), "P4"},
		"the old topic is back":                    {named(a, 9), "P27"},
	} {
		t.Run(name, func(t *testing.T) {
			wantFound(t, history.Sorted(append([]history.Op{c.op}, good...)), Options{Final: true}, c.property)
		})
	}
	if got := a.Name(); got != "churn" {
		t.Fatalf("the name is %q", got)
	}
}
