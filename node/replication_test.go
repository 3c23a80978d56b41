package node

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata"
)

// client is a client of all nodes that run.
func (c *testCluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	var seeds []string
	for _, n := range c.nodes {
		seeds = append(seeds, n.Addr(""))
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seeds...)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// createTopic makes a topic of three replicas through the controller.
func (c *testCluster) createTopic(cl *kgo.Client, name string, partitions int32, configs ...string) {
	c.t.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 3
	for i := 0; i+1 < len(configs); i += 2 {
		topic.Configs = append(topic.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: configs[i], Value: &configs[i+1]})
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, topic), 20_000
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// awaitInSync waits until all partitions of a topic have three members in sync.
func (c *testCluster) awaitInSync(topic string) {
	c.t.Helper()
	for id := range c.nodes {
		c.await(id, "all in sync", func(img *metadata.Image) bool {
			t := img.Topic(topic)
			return t != nil && !slices.ContainsFunc(t.Partitions, func(p *metadata.Partition) bool { return len(p.ISR) != 3 })
		})
	}
}

// sameLogs fails unless the logs of the partitions are the same on all nodes.
func (c *testCluster) sameLogs(topic string, partitions int32) {
	c.t.Helper()
	for i := range partitions {
		var want []byte
		var first int32
		for id, n := range c.nodes {
			p, err := n.partitions.Partition(topic, i)
			if err != nil {
				c.t.Fatal(err)
			}
			got, _, err := p.ReadBytes(nil, 0, 100<<20)
			if err != nil {
				c.t.Fatal(err)
			}
			if want == nil {
				want, first = got, id
			}
			if string(got) != string(want) || len(want) == 0 {
				c.t.Errorf("%s-%d: %d bytes on node %d, %d on node %d", topic, i, len(got), id, len(want), first)
			}
		}
	}
}

// TestReplication: what is written with acks=all is on three brokers, byte for
// byte.
func TestReplication(t *testing.T) {
	c := newCluster(t, 3)
	c.start("broker,controller", 1, 2, 3)
	for id := range c.nodes {
		c.await(id, "three brokers", serving(3))
	}
	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	c.createTopic(cl, "t", 3, "min.insync.replicas", "2")
	write := func(n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var records []*kgo.Record
		for i := range n {
			records = append(records, &kgo.Record{Topic: "t", Partition: int32(i % 3), Value: fmt.Appendf(nil, "value %d", i)})
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write(3000)
	c.awaitInSync("t")
	c.sameLogs("t", 3)
}
