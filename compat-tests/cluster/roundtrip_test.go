package cluster

import (
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/chaos/netns"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// TestPause: the leader of all partitions is stopped where it is, beyond its
// session, under load, and goes on later, believing that it leads. The others
// take over; what it says afterwards counts for nothing.
func TestPause(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			c := start(t, name, here(3))
			c.roundTrip(client, c.pause, c.resume)
		})
	})
}

// TestCutOff: the leader of all partitions is cut off from the other nodes while
// clients still reach it, then in one direction only.
func TestCutOff(t *testing.T) {
	long(t)
	if err := netns.Supported(); err != nil {
		missing(t, &harness.MissingError{What: "networks of their own", Reason: err.Error()})
	}
	onEach(t, func(t *testing.T, name string) {
		for _, way := range []struct {
			name    string
			in, out bool
		}{{"both", true, true}, {"deaf", true, false}, {"mute", false, true}} {
			t.Run(way.name, func(t *testing.T) {
				withEach(t, func(t *testing.T, client string) {
					net, err := netns.New(3)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						if err := net.Close(); err != nil {
							t.Error(err)
						}
					})
					places := here(3)
					for i := range places.Brokers {
						places.Brokers[i] = harness.Place{Host: net.Host(i), Command: net.Command(i)}
					}
					c := start(t, name, places)
					c.roundTrip(client, func(id int32) {
						var others []int
						for _, o := range c.ids {
							if o != id {
								others = append(others, int(o)-1)
							}
						}
						if err := net.Cut(int(id)-1, others, way.in, way.out); err != nil {
							t.Fatal(err)
						}
					}, func(int32) {
						if err := net.Heal(); err != nil {
							t.Fatal(err)
						}
					})
				})
			})
		}
	})
}

// roundTrip writes and reads while the leader of everything is struck and healed
// again.
func (c *cluster) roundTrip(client string, strike, heal func(int32)) {
	topic := c.create([][]int32{{1, 2, 3}, {1, 3, 2}}, "min.insync.replicas=2")
	l := c.load(client, topic, loadConfig{})
	strike(1)
	c.awaitTopic(topic, "led by others, who are in sync", func(p partition) bool { return p.Leader > 1 && len(p.ISR) == 2 })
	l.more(100)
	heal(1)
	c.awaitWhole(topic)
	l.more(20)
	l.end()
}
