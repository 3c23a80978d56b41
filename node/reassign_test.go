package node

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
)

// TestReassignment: a partition moves to other brokers while it is written to.
// Nothing acknowledged is lost, and the logs of who left are gone.
func TestReassignment(t *testing.T) {
	c := newCluster(t, 3)
	c.start("broker,controller", 1, 2, 3)
	for id := range c.nodes {
		c.await(id, "three brokers", serving(3))
	}
	r := c.nodes[1].controller.CreateTopics(t.Context(), []metadata.NewTopic{{
		Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{1}}},
	}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	w := startWriter(c)
	w.await(100)
	for _, to := range [][]int32{{1, 2}, {3, 2}, {3}} {
		move := []metadata.Reassignment{{Topic: "t", Partition: 0, Replicas: to}}
		if res, err := c.nodes[2].controller.Reassign(t.Context(), move, true); err != nil || res[0].Err != nil {
			t.Fatal(res, err)
		}
		for id := range c.nodes {
			c.await(id, fmt.Sprintf("moved to %v", to), func(img *metadata.Image) bool {
				p := img.Topic("t").Partitions[0]
				return len(p.Replicas) == len(to) && len(p.ISR) == len(to) && p.Leader == to[0] && len(p.Adding) == 0
			})
		}
		w.await(w.count() + 100)
	}
	acked, gap := w.stop()
	t.Logf("%d records acknowledged, the longest gap %v", len(acked), gap)
	if missing := c.missing("t", acked); len(missing) > 0 {
		t.Errorf("%d of %d acknowledged records are lost", len(missing), len(acked))
	}
	for _, id := range []int32{1, 2} {
		if c.nodes[id].logs.Log(storage.TopicPartition{Topic: "t"}) != nil {
			t.Errorf("node %d still has a log", id)
		}
	}
}

// TestNearestReplicaServes: a consumer in the rack of a follower is sent there
// and reads what is written from then on (KIP-392).
func TestNearestReplicaServes(t *testing.T) {
	c := newCluster(t, 3)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for id := int32(1); id <= 3; id++ {
		one := *c
		one.nodes = map[int32]*Node{}
		one.lines = []string{fmt.Sprintf("broker.rack=rack-%d", id), "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector"}
		wg.Go(func() {
			err := one.tryStart("broker,controller", id)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			c.nodes[id] = one.nodes[id]
		})
	}
	wg.Wait()
	for id := range c.nodes {
		c.await(id, "three brokers", serving(3))
	}
	r := c.nodes[1].controller.CreateTopics(t.Context(), []metadata.NewTopic{{
		Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{1, 2, 3}}},
	}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	w := startWriter(c)
	var h fetchedFrom
	cl := c.client(kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.Rack("rack-2"), kgo.WithHooks(&h))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for next := int64(0); h.count(2) < 20; {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		f.EachRecord(func(r *kgo.Record) {
			if r.Offset != next {
				t.Fatalf("offset %d, want %d", r.Offset, next)
			}
			next++
		})
	}
	w.stop()
	t.Logf("fetches from the leader %d, from the replica in the rack %d, from the other %d", h.count(1), h.count(2), h.count(3))
	if h.count(3) > 0 || h.count(1) > h.count(2) {
		t.Error("the consumer reads elsewhere")
	}
}

// fetchedFrom counts the fetches that a client sent to each broker.
type fetchedFrom struct {
	mu sync.Mutex
	n  map[int32]int
}

func (h *fetchedFrom) OnBrokerE2E(meta kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	if key != 1 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n == nil {
		h.n = map[int32]int{}
	}
	h.n[meta.NodeID]++
}

func (h *fetchedFrom) count(id int32) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n[id]
}
