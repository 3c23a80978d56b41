package check

import (
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// named is a Metadata answer of a broker that knows a topic.
func named(by int32, k history.Key, at int64) history.Op {
	return history.Op{
		F: history.Metadata, Type: history.OK, Invoked: at * second, Returned: at*second + 1, Process: 20 + int(by),
		Leaders: []history.Leader{{Key: k, Broker: by, Leader: 1, PartitionEpoch: -1, ControllerEpoch: -1}},
	}
}

// reached is a poll that found no record below the end of the log.
func reached(k history.Key, end, at int64, final bool) history.Op {
	return history.Op{
		F: history.Poll, Type: history.OK, Invoked: at * second, Returned: at*second + 1, Process: 2, Final: final,
		Marks: []history.Mark{{Key: k, Broker: 1, LeaderEpoch: -1, EpochStart: -1, LogStart: 0, LastStable: end, High: end, End: -1}},
	}
}

func TestWhatDeletionExplains(t *testing.T) {
	a, b := history.Key{Topic: "churn#A"}, history.Key{Topic: "churn#B"}
	deleted := func(how history.Type) history.Op {
		op := history.Op{F: history.Deleted, Type: how, Keys: []history.Key{a}, Invoked: 5 * second, Returned: 6 * second, Process: 4}
		if how == history.Info {
			op.Returned = history.Never
		}
		return op
	}
	by := func(broker int32, op history.Op) history.Op {
		op.Broker = broker
		return op
	}
	// The second record of the first topic nobody read.
	before := []history.Op{
		named(1, a, 0), sendAt(a, 1, 0, 1, 2), pollAt(a, 1, 0, 2, 3), reached(a, 1, 3, false), sendAt(a, 2, 1, 3, 4),
	}
	after := []history.Op{named(1, b, 10), sendAt(b, 5, 0, 11, 12), pollAt(b, 5, 0, 13, 14), reached(b, 1, 20, true)}
	late := sendAt(a, 3, 2, 7, 8) // it begins when the delete has been answered
	absent := history.Op{F: history.Metadata, Type: history.OK, Invoked: 6 * second, Returned: 6*second + 1, Process: 21, Broker: 1, Absent: []string{"churn"}}
	for name, c := range map[string]struct {
		want string
		ops  []history.Op
	}{
		"it was deleted":                            {"", append([]history.Op{deleted(history.OK)}, after...)},
		"it was, as there is another one":           {"", append([]history.Op{deleted(history.Info)}, after...)},
		"nobody tried":                              {"P4", after},
		"it was not deleted after all":              {"P4", []history.Op{deleted(history.Info), reached(a, 1, 20, true)}},
		"it was not deleted, whatever was answered": {"P4", []history.Op{deleted(history.OK), reached(a, 1, 20, true)}},
		"nobody knows what became of it":            {"P4", []history.Op{deleted(history.Info)}},
		"a reader had got beyond the record":        {"P4", append([]history.Op{deleted(history.OK), reached(a, 2, 5, false)}, after...)},
		"sent later, to who could not know":         {"", append([]history.Op{deleted(history.OK), by(1, late)}, after...)},
		"sent later, to who knew of no such topic":  {"P4", append([]history.Op{deleted(history.OK), absent, by(1, late)}, after...)},
		"sent later, to who knew of the next topic": {"P4", append([]history.Op{deleted(history.OK), named(1, b, 6), by(1, late)}, after...)},
		"sent later, to who never knew of it":       {"P4", append([]history.Op{deleted(history.OK), by(2, late)}, after...)},
		"sent later, nobody knows to whom":          {"P4", append([]history.Op{deleted(history.OK), late}, after...)},
	} {
		t.Run(name, func(t *testing.T) {
			judge(t, c.want, Options{Final: true}, history.Sorted(append(c.ops, before...)))
		})
	}
}
