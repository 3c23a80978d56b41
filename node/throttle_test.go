package node

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/metadata"
)

// alterConfigs sets keys of a topic or of a broker; an empty value deletes.
func (c *testCluster) alterConfigs(r metadata.ConfigResource, configs map[string]string) {
	c.t.Helper()
	change := metadata.ConfigAlteration{Resource: r}
	for k, v := range configs {
		op := metadata.ConfigOp{Key: k, Kind: metadata.ConfigSet, Value: &v}
		if v == "" {
			op = metadata.ConfigOp{Key: k, Kind: metadata.ConfigDelete}
		}
		change.Ops = append(change.Ops, op)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, n := range c.nodes {
		if err := n.controller.AlterConfigs(ctx, []metadata.ConfigAlteration{change}, false)[0].Err; err != nil {
			c.t.Fatal(err)
		}
		return
	}
}

// TestThrottledReassignment: a partition that moves to another broker takes the
// time that the throttle gives it, on the leader's side or the follower's, stands
// still while nothing is allowed, and finishes when the throttle is lifted
// (KIP-73).
func TestThrottledReassignment(t *testing.T) {
	c := newCluster(t, 2)
	c.lines = []string{"replica.fetch.max.bytes=65536", "replica.fetch.backoff.ms=200", "replica.fetch.wait.max.ms=200"}
	c.start("broker,controller", 1, 2)
	for id := range c.nodes {
		c.await(id, "two brokers", serving(2))
	}
	broker := func(id int32) metadata.ConfigResource {
		return metadata.ConfigResource{Type: metadata.ConfigBroker, Name: strconv.Itoa(int(id))}
	}
	cl := c.client(kgo.ProducerBatchCompression(kgo.NoCompression()))
	for _, side := range []struct {
		name, list string
		limited    int32 // broker
	}{{"leader", "0:1", 1}, {"follower", "*", 2}} {
		topic := metadata.ConfigResource{Type: metadata.ConfigTopic, Name: side.name}
		r := c.nodes[1].controller.CreateTopics(t.Context(), []metadata.NewTopic{{
			Name: side.name, Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{1}}},
		}}, false)
		if r[0].Err != nil {
			t.Fatal(r)
		}
		const size, count, rate = 32 << 10, 64, 512 << 10 // 2 MiB, which take about 4 s
		for i := range count {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: side.name, Value: fmt.Appendf(make([]byte, size), "%d", i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		c.alterConfigs(broker(side.limited), map[string]string{side.name + ".replication.throttled.rate": strconv.Itoa(rate)})
		c.alterConfigs(topic, map[string]string{side.name + ".replication.throttled.replicas": side.list})
		began := time.Now()
		move := func(to ...int32) {
			t.Helper()
			if res, err := c.nodes[1].controller.Reassign(t.Context(), []metadata.Reassignment{{Topic: side.name, Replicas: to}}, true); err != nil || res[0].Err != nil {
				t.Fatal(res, err)
			}
		}
		move(1, 2)
		inSync := func(n int) func(*metadata.Image) bool {
			return func(img *metadata.Image) bool {
				p := img.Topic(side.name).Partitions[0]
				return len(p.ISR) == n && len(p.Replicas) == n && len(p.Adding) == 0
			}
		}
		c.await(1, "moved", inSync(2))
		took, least := time.Since(began), time.Duration(size*count/rate-1)*time.Second
		t.Logf("%s: %v", side.name, took)
		if took < least {
			t.Errorf("%s: %d bytes moved in %v, at %d bytes per second", side.name, size*count, took, rate)
		}

		c.alterConfigs(broker(side.limited), map[string]string{side.name + ".replication.throttled.rate": "1"})
		move(1)
		c.await(2, "moved back", inSync(1))
		move(1, 2)
		asLeader, asFollower := c.nodes[1].partitions.Throttles()
		if side.name == "follower" {
			asLeader, asFollower = c.nodes[2].partitions.Throttles()
			asLeader, asFollower = asFollower, asLeader
		}
		if asLeader.Limit != 1 || asLeader.Bytes < size*count || asFollower.Bytes != 0 {
			t.Errorf("%s: %+v, the other side %+v", side.name, asLeader, asFollower)
		}
		c.await(2, "moving", func(img *metadata.Image) bool { return len(img.Topic(side.name).Partitions[0].Replicas) == 2 })
		lifted := time.Now()
		c.alterConfigs(broker(side.limited), map[string]string{side.name + ".replication.throttled.rate": ""})
		c.await(1, "moved once the throttle was lifted", inSync(2))
		t.Logf("%s: lifted, %v", side.name, time.Since(lifted))
		if st, _ := c.nodes[side.limited].partitions.Throttles(); side.name == "leader" && st.Limit != unthrottled {
			t.Errorf("%+v", st)
		}
	}
}

const unthrottled = 1<<63 - 1
