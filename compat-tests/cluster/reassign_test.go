package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// reassigned is what the brokers of these scenarios have in common: old records
// are deleted soon, and nothing is acknowledged before all three replicas have
// it, so that a move that loses one replica of a partition shows.
var (
	reassigned      = []string{"log.retention.check.interval.ms=500", "log.initial.task.delay.ms=500"}
	reassignedTopic = []string{"min.insync.replicas=3"}
)

// TestReassign: partitions move from brokers to brokers under load, while every
// other broker is bounced or not, with logs that start at 0 or not.
// It found that a fetch which a follower had given up set the follower back for
// good, and that retention took a directory offline when the log it worked on
// moved away.
func TestReassign(t *testing.T) {
	long(t)
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			c := start(t, name, apart(4), reassigned...)
			for _, bounce := range []bool{false, true} {
				for _, zero := range []bool{true, false} {
					t.Run(fmt.Sprintf("bounce=%t,from_zero=%t", bounce, zero), func(t *testing.T) { c.in(t).shuffle(client, bounce, zero) })
				}
			}
		})
	})
}

func (c *cluster) shuffle(client string, bounce, zero bool) {
	const partitions = 8
	topic := c.create(c.spread(partitions), reassignedTopic...)
	if !zero {
		c.moveStart(topic, partitions)
	}
	l := c.load(client, topic, loadConfig{})
	to := c.spread(partitions)
	rand.Shuffle(partitions, func(i, j int) { to[i], to[j] = to[j], to[i] })
	to[0] = []int32{c.ids[3], c.ids[2], c.ids[1]} // whatever the shuffle, something moves
	c.t.Logf("to %v", to)
	c.reassign(topic, to)
	if bounce {
		for i := 0; i < len(c.ids); i += 2 {
			c.stop(c.ids[i])
			c.restart(c.ids[i])
		}
	}
	c.awaitAssigned(topic, to)
	l.more(20)
	l.end()
	c.awaitPlaced(topic, to)
}

// moveStart makes each partition of a topic begin above 0: records that are far
// too old are written, and deleted.
func (c *cluster) moveStart(topic string, partitions int) {
	c.t.Helper()
	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	var old []*kgo.Record
	for n := range 10 * partitions {
		old = append(old, &kgo.Record{Topic: topic, Partition: int32(n % partitions), Value: []byte("0"), Timestamp: time.UnixMilli(1000)})
	}
	if err := cl.ProduceSync(c.t.Context(), old...).FirstErr(); err != nil {
		c.t.Fatal(err)
	}
	c.await("the old records deleted", func(ctx context.Context) (bool, error) {
		starts, err := c.adm.ListStartOffsets(ctx, topic)
		if err != nil {
			return false, err
		}
		n := 0
		starts.Each(func(o kadm.ListedOffset) {
			if o.Offset == 10 {
				n++
			}
		})
		return n == partitions, starts.Error()
	})
}

// reassign asks for replicas, by partition; nil cancels.
func (c *cluster) reassign(topic string, to [][]int32) {
	c.t.Helper()
	var req kadm.AlterPartitionAssignmentsReq
	for p, replicas := range to {
		if replicas == nil {
			req.CancelAssign(topic, int32(p))
		} else {
			req.Assign(topic, int32(p), replicas)
		}
	}
	r, err := c.adm.AlterPartitionAssignments(c.t.Context(), req)
	if err == nil {
		err = r.Error()
	}
	if err != nil {
		c.t.Fatalf("reassign: %v", err)
	}
}

// awaitAssigned returns once a topic is where it was moved to, nothing of it is
// under way any more, and its preferred leaders lead.
func (c *cluster) awaitAssigned(topic string, to [][]int32) {
	c.t.Helper()
	c.awaitTopic(topic, fmt.Sprintf("moved to %v", to), func(p partition) bool {
		return slices.Equal(p.Replicas, to[p.Partition]) && whole(p)
	})
	c.await("no reassignment", func(ctx context.Context) (bool, error) {
		r, err := c.adm.ListPartitionReassignments(ctx, nil)
		return len(r[topic]) == 0, err
	})
}

// awaitPlaced returns once exactly the brokers of each partition have a log of it.
func (c *cluster) awaitPlaced(topic string, to [][]int32) {
	c.t.Helper()
	for _, id := range c.ids {
		c.await(fmt.Sprintf("the logs of broker %d", id), func(ctx context.Context) (bool, error) {
			dirs, err := c.dirs(ctx, id)
			if err != nil {
				return false, err
			}
			has := map[int32]bool{}
			for _, d := range dirs {
				for p := range d.Topics[topic] {
					has[p] = true
				}
			}
			for p, replicas := range to {
				if has[int32(p)] != slices.Contains(replicas, id) {
					return false, fmt.Errorf("it has %v", has)
				}
			}
			return true, nil
		})
	}
}

// TestGrowShrinkCancel: a partition gets more replicas and fewer under load; a
// move that cannot end, because where it goes is down, is cancelled, and leaves
// nothing behind.
func TestGrowShrinkCancel(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			c := start(t, name, apart(4), reassigned...)
			topic := c.create([][]int32{{1}, {2}, {3}}, "min.insync.replicas=1")
			l := c.load(client, topic, loadConfig{})
			for _, to := range [][][]int32{
				{{1, 2}, {2, 3}, {3, 1}},
				{{4, 1, 2}, {1, 2, 3}, {2, 3, 4}},
				{{2, 4}, {3, 1}, {4, 2}},
				{{3, 1}, {4, 2}, {1, 3}},
			} {
				c.reassign(topic, to)
				c.awaitAssigned(topic, to)
				c.awaitPlaced(topic, to)
				l.more(10)
			}
			before := [][]int32{{3, 1}, {2, 3}, {1, 3}}
			c.reassign(topic, before)
			c.awaitAssigned(topic, before)
			c.kill(4)
			c.await("broker 4 is out", func(ctx context.Context) (bool, error) {
				m, err := c.metadata(ctx)
				return err == nil && len(m.Brokers) == len(c.ids)-1, err
			})
			c.reassign(topic, [][]int32{{4, 1}, {4, 3}, {3, 4}})
			c.awaitTopic(topic, "moving", func(p partition) bool { return slices.Contains(p.Replicas, 4) })
			l.more(10)
			c.reassign(topic, [][]int32{nil, nil, nil})
			// Who stays comes in the order of the move that was cancelled.
			back := [][]int32{{1, 3}, {3, 2}, {3, 1}}
			c.awaitAssigned(topic, back)
			c.restart(4)
			l.more(10)
			l.end()
			c.awaitPlaced(topic, back)
		})
	})
}
