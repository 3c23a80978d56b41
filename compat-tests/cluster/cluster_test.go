package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// patience is how long anything may take at most, on a machine that has far more
// to do than it can. What is not there by then never comes.
const patience = 3 * time.Minute

// soon are settings with which a cluster notices and mends within seconds what
// by default takes it minutes.
var soon = []string{
	"leader.imbalance.check.interval.seconds=1",
	"broker.session.timeout.ms=3000",
	"broker.heartbeat.interval.ms=500",
	"replica.lag.time.max.ms=5000",
	"offsets.topic.num.partitions=3",
	"group.initial.rebalance.delay.ms=0",
}

// cluster is a set of processes that one test drives.
type cluster struct {
	t     *testing.T
	name  string            // gregor or kafka
	nodes []*harness.Broker // brokers first; the broker with the id n is nodes[n-1]
	ids   []int32           // of those that are brokers
	cl    *kgo.Client       // asks; writers and readers have clients of their own
	adm   *kadm.Client
	live  []syscall.Signal // nothing while a node runs, SIGSTOP while it is paused
}

// start starts a cluster that ends with the test.
func start(t *testing.T, name string, layout harness.Layout, more ...string) *cluster {
	t.Helper()
	bin := ""
	if name == "gregor" {
		var err error
		if bin, err = world.gregor(); err != nil {
			t.Fatal(err)
		}
	}
	nodes, err := harness.NewClusterOf(bin, harness.SmallJVM, home(t), layout, append(slices.Clone(soon), more...)...)
	if err != nil {
		missing(t, err)
	}
	c := &cluster{t: t, name: name, nodes: nodes, live: make([]syscall.Signal, len(nodes))}
	for i := range layout.Brokers {
		c.ids = append(c.ids, int32(i+1))
	}
	t.Cleanup(func() {
		for i, n := range nodes {
			if c.live[i] == syscall.SIGSTOP {
				_ = syscall.Kill(n.Pid(), syscall.SIGCONT) // it is killed next
			}
			n.Kill()
		}
		if t.Failed() {
			for i, n := range nodes {
				t.Logf("the end of the log of %d:\n%s", i+1, n.Log())
			}
		}
	})
	if err := harness.StartAll(nodes); err != nil {
		t.Fatal(err)
	}
	c.cl = c.client()
	c.adm = kadm.NewClient(c.cl)
	c.await("all brokers", func(ctx context.Context) (bool, error) {
		m, err := c.metadata(ctx)
		if err != nil {
			return false, err
		}
		return len(m.Brokers) == len(c.ids), nil
	})
	return c
}

// client is a client of the cluster that ends with the test.
func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.addrs()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.UnknownTopicRetries(-1),
		// A broker that stops may close a connection before its first request; by
		// itself franz-go takes that for a lack of SASL and gives up.
		kgo.AlwaysRetryEOF(),
		// A paused broker answers nothing; nobody waits half a minute for it.
		kgo.DialTimeout(2 * time.Second), kgo.RequestTimeoutOverhead(3 * time.Second), kgo.ProduceRequestTimeout(3 * time.Second),
	}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// addrs are the addresses of all brokers.
func (c *cluster) addrs() []string {
	var out []string
	for _, id := range c.ids {
		out = append(out, c.node(id).Addr)
	}
	return out
}

func (c *cluster) bootstrap() string { return strings.Join(c.addrs(), ",") }

func (c *cluster) node(id int32) *harness.Broker { return c.nodes[id-1] }

// await asks again and again until the answer is yes. An error is asked again
// too: nodes are down, leaders unknown.
func (c *cluster) await(what string, ask func(context.Context) (bool, error)) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		one, done := context.WithTimeout(ctx, 3*time.Second)
		yes, err := ask(one)
		done()
		if yes && err == nil {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			c.t.Fatalf("not within %v: %s (%v)", patience, what, err)
		}
	}
}

// metadata asks any broker, past the client's cache.
func (c *cluster) metadata(ctx context.Context, topics ...string) (*kmsg.MetadataResponse, error) {
	return c.metadataOf(ctx, c.cl, topics...)
}

func (c *cluster) metadataOf(ctx context.Context, from kmsg.Requestor, topics ...string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, t := range topics {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr(t)
		req.Topics = append(req.Topics, topic)
	}
	return req.RequestWith(ctx, from)
}

// partition is a partition as a broker describes it.
type partition = kmsg.MetadataResponseTopicPartition

// partitions describes a topic, by partition.
func (c *cluster) partitions(ctx context.Context, topic string) ([]partition, error) {
	return c.partitionsOf(ctx, c.cl, topic)
}

func (c *cluster) partitionsOf(ctx context.Context, from kmsg.Requestor, topic string) ([]partition, error) {
	m, err := c.metadataOf(ctx, from, topic)
	if err != nil {
		return nil, err
	}
	if len(m.Topics) != 1 {
		return nil, fmt.Errorf("metadata of one topic has %d", len(m.Topics))
	}
	ps := m.Topics[0].Partitions
	slices.SortFunc(ps, func(a, b partition) int { return cmp.Compare(a.Partition, b.Partition) })
	return ps, kerr.ErrorForCode(m.Topics[0].ErrorCode)
}

// awaitTopic returns a topic once each of its partitions is as wanted.
func (c *cluster) awaitTopic(topic, what string, is func(partition) bool) []partition {
	c.t.Helper()
	var last []partition
	defer func() {
		if c.t.Failed() {
			for _, p := range last {
				c.t.Logf("%s-%d: leader %d, replicas %v, in sync %v, offline %v, error %v",
					topic, p.Partition, p.Leader, p.Replicas, p.ISR, p.OfflineReplicas, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	}()
	c.await(topic+": "+what, func(ctx context.Context) (bool, error) {
		ps, err := c.partitions(ctx, topic)
		if err != nil || len(ps) == 0 {
			return false, err
		}
		last = ps
		return !slices.ContainsFunc(ps, func(p partition) bool { return !is(p) }), nil
	})
	return last
}

// whole tells whether all replicas are in sync and the first of them leads.
func whole(p partition) bool {
	return len(p.ISR) == len(p.Replicas) && p.Leader == p.Replicas[0] && len(p.OfflineReplicas) == 0
}

// awaitWhole returns once all replicas of a topic are in sync and its preferred
// leaders lead, and every broker knows it: one that was cut off takes things for
// what they were until it hears of the others again.
func (c *cluster) awaitWhole(topic string) {
	c.t.Helper()
	c.awaitTopic(topic, "all in sync, preferred leaders lead", whole)
	c.await(topic+": every broker says so", func(ctx context.Context) (bool, error) {
		m, err := c.metadata(ctx)
		if err != nil {
			return false, err
		}
		epochs := map[int32]int32{}
		for _, b := range m.Brokers {
			ps, err := c.partitionsOf(ctx, c.cl.Broker(int(b.NodeID)), topic)
			if err != nil {
				return false, err
			}
			for _, p := range ps {
				if e, ok := epochs[p.Partition]; !whole(p) || ok && e != p.LeaderEpoch {
					return false, nil
				}
				epochs[p.Partition] = p.LeaderEpoch
			}
		}
		return true, nil
	})
}

// create creates a topic under a name of its own, a partition for each list of
// brokers, and returns once every partition is whole.
func (c *cluster) create(replicas [][]int32, conf ...string) string {
	c.t.Helper()
	topic := fmt.Sprintf("t-%08x", rand.Uint32())
	c.createAs(topic, replicas, conf...)
	return topic
}

func (c *cluster) createAs(topic string, replicas [][]int32, conf ...string) {
	c.t.Helper()
	if err := harness.CreateAssigned(c.t.Context(), c.cl, topic, replicas, conf...); err != nil {
		c.t.Fatal(err)
	}
	c.awaitWhole(topic)
}

// spread gives n partitions three of the cluster's brokers each, in turn.
func (c *cluster) spread(n int) [][]int32 {
	var out [][]int32
	for i := range n {
		var r []int32
		for j := range 3 {
			r = append(r, c.ids[(i+j)%len(c.ids)])
		}
		out = append(out, r)
	}
	return out
}

// leader is who leads a partition.
func (c *cluster) leader(topic string, partition int32) int32 {
	c.t.Helper()
	var id int32
	c.await("a leader", func(ctx context.Context) (bool, error) {
		ps, err := c.partitions(ctx, topic)
		if err != nil || int(partition) >= len(ps) {
			return false, err
		}
		id = ps[partition].Leader
		return id > 0, nil
	})
	return id
}

// controller is the node that is the controller now.
func (c *cluster) controller() int32 {
	c.t.Helper()
	var id int32
	c.await("a controller", func(ctx context.Context) (bool, error) {
		req := kmsg.NewPtrDescribeQuorumRequest()
		topic := kmsg.NewDescribeQuorumRequestTopic()
		topic.Topic = "__cluster_metadata"
		topic.Partitions = append(topic.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
		req.Topics = append(req.Topics, topic)
		r, err := req.RequestWith(ctx, c.cl)
		if err != nil {
			return false, err
		}
		if len(r.Topics) == 0 || len(r.Topics[0].Partitions) == 0 {
			return false, errors.Join(errors.New("no quorum"), kerr.ErrorForCode(r.ErrorCode))
		}
		id = r.Topics[0].Partitions[0].LeaderID
		return id > 0, nil
	})
	return id
}

func (c *cluster) stop(id int32) {
	c.t.Helper()
	if err := c.node(id).Stop(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) kill(id int32) { c.node(id).Kill() }

func (c *cluster) restart(id int32) {
	c.t.Helper()
	if err := c.node(id).Start(); err != nil {
		c.t.Fatal(err)
	}
}

// pause stops a node's process where it is; resume lets it go on.
func (c *cluster) pause(id int32)  { c.signal(id, syscall.SIGSTOP) }
func (c *cluster) resume(id int32) { c.signal(id, syscall.SIGCONT) }

func (c *cluster) signal(id int32, s syscall.Signal) {
	c.t.Helper()
	c.live[id-1] = s
	if err := syscall.Kill(c.node(id).Pid(), s); err != nil {
		c.t.Fatal(err)
	}
}

// dirs are the log directories of a broker.
func (c *cluster) dirs(ctx context.Context, id int32) (kadm.DescribedLogDirs, error) {
	return c.adm.DescribeBrokerLogDirs(ctx, id, nil)
}

// properties writes a properties file for a client's program.
func properties(t *testing.T, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "client.properties")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}
