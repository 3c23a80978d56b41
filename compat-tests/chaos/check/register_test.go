package check

import (
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// coordinated makes histories of one group whose coordinator is broker 3 until
// it is cut off, and broker 1 from then on.
type coordinated struct {
	key   history.Key
	group string
}

// led is what a broker says of who coordinates.
func (coordinated) led(by, leader, epoch int32, at int64) history.Op {
	op := history.Op{F: history.Metadata, Type: history.OK, Invoked: at * second, Returned: at*second + 1, Process: int(by)}
	for p := range int32(5) {
		op.Leaders = append(op.Leaders, history.Leader{
			Key: history.Key{Topic: history.GroupTopic, Partition: p}, Broker: by, Leader: leader, Epoch: epoch, PartitionEpoch: -1, ControllerEpoch: -1,
		})
	}
	return op
}

func (c coordinated) fetched(by int32, offset, at int64) history.Op {
	return history.Op{
		F: history.FetchOffset, Type: history.OK, Group: c.group, Broker: by, Offsets: map[history.Key]int64{c.key: offset},
		Invoked: at * second, Returned: at*second + 1, Process: 9,
	}
}

func (c coordinated) committed(by int32, offset, at int64) history.Op {
	return history.Op{
		F: history.Commit, Type: history.OK, Group: c.group, Broker: by, Once: true, Offsets: map[history.Key]int64{c.key: offset},
		Invoked: at * second, Returned: (at + 1) * second, Process: 8,
	}
}

func TestDeposedCoordinatorsAnswerFromThePast(t *testing.T) {
	c := coordinated{history.Key{Topic: "t"}, "g"}
	// Broker 3 goes on naming itself; 1 and 2 name 1 from second 10 on.
	cutOff := []history.Op{
		c.led(1, 3, 4, 1), c.led(2, 3, 4, 1), c.led(3, 3, 4, 1), c.committed(3, 5, 2), c.committed(3, 6, 4),
		c.led(1, 1, 5, 10), c.led(2, 1, 5, 10), c.committed(1, 7, 11), c.fetched(1, 7, 13), c.led(3, 3, 4, 14),
	}
	with := func(ops ...history.Op) []history.Op { return history.Sorted(append(ops, cutOff...)) }
	wantClean(t, with(c.fetched(3, 6, 15)), Options{})
	late := c.led(3, 3, 4, 12)
	late.Returned = 14 * second
	for name, ops := range map[string][]history.Op{
		"the successor itself":                         with(c.fetched(1, 6, 15)),
		"who has heard of its successor":               with(c.led(3, 1, 5, 14), c.fetched(3, 6, 15)),
		"who has heard that it does not lead":          with(c.led(3, -1, 5, 14), c.fetched(3, 6, 15)),
		"who heard, though an older answer came later": history.Sorted(append([]history.Op{late, c.led(3, 1, 5, 13), c.fetched(3, 6, 15)}, cutOff[:len(cutOff)-1]...)),
		"who never led":                                with(c.fetched(2, 6, 15)),
		"what was never committed":                     with(c.fetched(3, 99, 15)),
		"what it had acknowledged to be over":          with(c.fetched(3, 5, 15)),
		"as if it had never acknowledged anything":     with(c.fetched(3, -1, 15)),
		"what was committed later":                     with(c.fetched(3, 8, 15), c.committed(1, 8, 20)),
		// Nobody had succeeded it yet.
		"who leads": history.Sorted([]history.Op{
			c.led(1, 3, 4, 1), c.led(2, 3, 4, 1), c.led(3, 3, 4, 1), c.committed(3, 7, 11), c.fetched(3, 7, 13), c.fetched(3, -1, 15), c.led(1, 1, 5, 20),
		}),
		// It cannot be told from one that is not cut off.
		"who says nothing of itself": history.Sorted([]history.Op{
			c.led(1, 3, 4, 1), c.led(2, 3, 4, 1), c.led(1, 1, 5, 10), c.committed(1, 7, 11), c.fetched(1, 7, 13), c.fetched(3, -1, 15),
		}),
	} {
		t.Run(name, func(t *testing.T) { wantFound(t, ops, Options{}, "P24") })
	}
}

// What a coordinator took into a transaction takes effect with the marker, which
// may reach its successor.
func TestDeposedCoordinatorsMissMarkers(t *testing.T) {
	c := coordinated{history.Key{Topic: "t"}, "g"}
	txn := c.committed(3, 7, 8)
	txn.TxnID, txn.Returned = "x", 12*second
	wantClean(t, history.Sorted([]history.Op{
		c.led(1, 3, 4, 1), c.led(3, 3, 4, 1), c.committed(3, 5, 2), txn, c.led(1, 1, 5, 10), c.fetched(1, 7, 13), c.led(3, 3, 4, 14), c.fetched(3, 5, 15),
	}), Options{})
}

// Histories of before commits had brokers are judged too.
func TestDeposedCoordinatorsOfOldHistories(t *testing.T) {
	c := coordinated{history.Key{Topic: "t"}, "g"}
	ops := []history.Op{
		c.led(1, 3, 4, 1), c.led(3, 3, 4, 1), c.committed(0, 5, 2), c.led(1, 1, 5, 10), c.committed(0, 7, 11), c.fetched(1, 7, 13),
	}
	wantClean(t, history.Sorted(append([]history.Op{c.fetched(3, 5, 15)}, ops...)), Options{})
	wantFound(t, history.Sorted(append([]history.Op{c.fetched(3, 99, 15)}, ops...)), Options{}, "P24")
}

func TestCoordinatesAsKafka(t *testing.T) {
	// The last one hashes to -2^31, of which only the sign bit is set.
	for group, want := range map[string]int32{"": 0, "a": 97 % 50, "polygenelubricants": 0} {
		if got := history.Coordinates(group, 50).Partition; got != want {
			t.Errorf("%q: partition %d, not %d", group, got, want)
		}
	}
}
