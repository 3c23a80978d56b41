package check

import (
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

func TestDeposedCoordinatorsAnswerFromThePast(t *testing.T) {
	k, group := history.Key{Topic: "t"}, "g"
	led := func(by, leader, epoch int32, at int64) history.Op {
		op := history.Op{F: history.Metadata, Type: history.OK, Invoked: at * second, Returned: at*second + 1, Process: int(by)}
		for p := range int32(5) {
			op.Leaders = append(op.Leaders, history.Leader{
				Key: history.Key{Topic: history.GroupTopic, Partition: p}, Broker: by, Leader: leader, Epoch: epoch, PartitionEpoch: -1, ControllerEpoch: -1,
			})
		}
		return op
	}
	fetched := func(by int32, offset, at int64) history.Op {
		return history.Op{
			F: history.FetchOffset, Type: history.OK, Group: group, Broker: by, Offsets: map[history.Key]int64{k: offset},
			Invoked: at * second, Returned: at*second + 1, Process: 9,
		}
	}
	commit := history.Op{
		F: history.Commit, Type: history.OK, Group: group, Once: true, Offsets: map[history.Key]int64{k: 7},
		Invoked: 11 * second, Returned: 12 * second, Process: 8,
	}
	// Broker 3 goes on naming itself; 1 and 2 name 1 from second 10 on.
	cutOff := []history.Op{
		led(1, 3, 4, 1), led(2, 3, 4, 1), led(3, 3, 4, 1), led(1, 1, 5, 10), led(2, 1, 5, 10), commit, fetched(1, 7, 13), led(3, 3, 4, 14),
	}
	with := func(op history.Op) []history.Op { return history.Sorted(append([]history.Op{op}, cutOff...)) }
	wantClean(t, with(fetched(3, -1, 15)), Options{})
	wantFound(t, with(fetched(1, -1, 15)), Options{}, "P24")
	// Nobody had succeeded it yet.
	sound := []history.Op{led(1, 3, 4, 1), led(2, 3, 4, 1), led(3, 3, 4, 1), commit, fetched(3, 7, 13), fetched(3, -1, 15), led(1, 1, 5, 20)}
	wantFound(t, history.Sorted(sound), Options{}, "P24")
}

func TestCoordinatesAsKafka(t *testing.T) {
	// The last one hashes to -2^31, of which only the sign bit is set.
	for group, want := range map[string]int32{"": 0, "a": 97 % 50, "polygenelubricants": 0} {
		if got := history.Coordinates(group, 50).Partition; got != want {
			t.Errorf("%q: partition %d, not %d", group, got, want)
		}
	}
}
