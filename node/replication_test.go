package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
	c.stop(2)
	write(3000)
	c.start("broker,controller", 2)
	c.awaitInSync("t")
	c.sameLogs("t", 3)
}

// TestFailover: the process of the leader is killed while clients write with
// acks=all and two replicas required. What was acknowledged is there, and
// writing goes on long before the session of the dead runs out.
func TestFailover(t *testing.T) {
	failOver(t, newCluster(t, 3))
}

// TestFailoverOnExternalEtcd: the same where the metadata is in an etcd of its own.
func TestFailoverOnExternalEtcd(t *testing.T) {
	failOver(t, newCluster(t, 3, "metadata.etcd.endpoints="+externalEtcd(t)))
}

func failOver(t *testing.T, c *testCluster) {
	c.start("broker,controller", 1, 2)
	kill := c.startProcess(3)
	for id := range c.nodes {
		c.await(id, "three brokers", serving(3))
	}
	two := "2"
	r := c.nodes[1].controller.CreateTopics(t.Context(), []metadata.NewTopic{{
		Name: "t", Partitions: -1, ReplicationFactor: -1, Configs: map[string]*string{"min.insync.replicas": &two},
		Assignment: []metadata.PartitionAssignment{{Replicas: []int32{3, 1, 2}}},
	}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	w := startWriter(c)
	w.await(200)
	kill()
	killed := w.count()
	w.await(killed + 500)
	acked, gap := w.stop()
	t.Logf("%d records acknowledged, the longest gap %v", len(acked), gap)
	// A session takes 9s. That a dead process is noticed by its connections
	// leaves far less, on a machine that is not busy with anything else.
	if gap > 6*time.Second {
		t.Errorf("no record was acknowledged for %v", gap)
	}
	missing := c.missing("t", acked)
	if len(missing) > 0 {
		t.Errorf("%d of %d acknowledged records are lost, the first of them %q", len(missing), len(acked), missing[0])
	}
	c.startProcess(3)
	c.awaitInSync("t")
}

// writer writes one record after the other to topic "t" and notes what was
// acknowledged.
type writer struct {
	t     testing.TB
	stopC context.CancelFunc
	done  chan struct{}

	mu    sync.Mutex
	acked []string
	last  time.Time
	gap   time.Duration
	more  chan struct{} // closed and replaced with each
}

func startWriter(c *testCluster) *writer {
	cl := c.client(kgo.ProducerLinger(0), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DefaultProduceTopic("t"), kgo.MetadataMinAge(10*time.Millisecond))
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{t: c.t, stopC: cancel, done: make(chan struct{}), more: make(chan struct{}), last: time.Now()}
	go func() {
		defer close(w.done)
		for i := 0; ctx.Err() == nil; i++ {
			value := fmt.Sprintf("record %d", i)
			if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte(value)}).FirstErr(); err != nil {
				if ctx.Err() == nil {
					w.t.Error(err)
				}
				return
			}
			w.note(value)
		}
	}()
	c.t.Cleanup(func() { cancel(); <-w.done })
	return w
}

func (w *writer) note(value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if len(w.acked) > 0 {
		w.gap = max(w.gap, now.Sub(w.last))
	}
	w.last, w.acked = now, append(w.acked, value)
	close(w.more)
	w.more = make(chan struct{})
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// await waits until n records are acknowledged.
func (w *writer) await(n int) {
	w.t.Helper()
	late := time.After(60 * time.Second)
	for {
		w.mu.Lock()
		got, more := len(w.acked), w.more
		w.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-more:
		case <-w.done:
			w.t.Fatal("the writer stopped")
		case <-late:
			w.t.Fatalf("%d records acknowledged, waiting for %d", got, n)
		}
	}
}

// stop ends the writing and returns what was acknowledged, and the longest time
// between two.
func (w *writer) stop() ([]string, time.Duration) {
	w.stopC()
	<-w.done
	return w.acked, w.gap
}

// missing returns which of the values cannot be read from a topic.
func (c *testCluster) missing(topic string, values []string) []string {
	c.t.Helper()
	left := map[string]bool{}
	for _, v := range values {
		left[v] = true
	}
	cl := c.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for len(left) > 0 && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { delete(left, string(r.Value)) })
	}
	return slices.Sorted(maps.Keys(left))
}
