package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// clusterNodes are in a cluster: three brokers that are controllers too, with
// three replicas of everything, of which two have to be in sync.
const clusterNodes = 3

// cluster is a cluster of one of the brokers, in which node i has the id i+1.
type cluster struct {
	name  string
	dir   string
	nodes []*harness.Broker
	// cl is for asking and ordering, not for what is measured.
	cl *kgo.Client
}

// clusters starts one of each broker, on the broker's CPU or wherever there is
// one free.
func (b *bench) clusters(launch func(func() error) error) (cs []*cluster, stop func(), err error) {
	stop = func() {
		for _, c := range cs {
			c.stop()
		}
	}
	for _, s := range b.brokers() {
		c, err := b.newCluster(s.name, launch)
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("cluster of %s: %w", s.name, err)
		}
		cs = append(cs, c)
	}
	return cs, stop, nil
}

func (b *bench) newCluster(name string, launch func(func() error) error) (*cluster, error) {
	bin := ""
	if name == "gregor" {
		bin = b.tools.gregor
	}
	dir, err := os.MkdirTemp(b.dir, "cluster-")
	if err != nil {
		return nil, err
	}
	c := &cluster{name: name, dir: dir}
	err = onAnyCPU(func() (err error) {
		c.nodes, err = harness.NewClusterOn(bin, kafkaJVM, dir, clusterNodes, common...)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := launch(func() error { return harness.StartAll(c.nodes) }); err != nil {
		c.stop()
		return nil, err
	}
	c.cl, err = kgo.NewClient(kgo.SeedBrokers(c.addrs()...), kgo.MetadataMinAge(100*time.Millisecond))
	return c, err
}

func (c *cluster) addrs() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.Addr)
	}
	return out
}

func (c *cluster) stop() {
	if c.cl != nil {
		c.cl.Close()
	}
	for _, n := range c.nodes {
		n.Kill()
	}
	_ = os.RemoveAll(c.dir)
}

// subject is the cluster as a client sees it that talks to its first node
// alone.
func (c *cluster) subject() *subject {
	return &subject{name: c.name, addr: c.nodes[0].Addr, pid: c.nodes[0].Pid(), broker: c.nodes[0], nodes: c.nodes}
}

func withTimeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

// createTopic creates a topic with the given replicas of each partition, the
// leader first, and waits until all are in sync.
func (c *cluster) createTopic(name string, replicas ...[]int32) error {
	ctx, cancel := withTimeout()
	defer cancel()
	if err := harness.CreateAssigned(ctx, c.cl, name, replicas); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if err := c.awaitPartitions(name, inSync); err != nil {
		return err
	}
	ctx, cancel = withTimeout()
	defer cancel()
	for { // the metadata names leaders a moment before they have taken over
		ok, err := c.leads(ctx, name, replicas)
		if err != nil || ok {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// leads tells whether the first replica of each partition leads it.
func (c *cluster) leads(ctx context.Context, topic string, replicas [][]int32) (bool, error) {
	if ctx.Err() != nil {
		return false, fmt.Errorf("%s: topic %s has no leaders", c.name, topic)
	}
	for i, r := range replicas {
		s := &subject{name: c.name, addr: c.nodes[r[0]-1].Addr}
		if ok, err := s.leadsPartition(topic, int32(i)); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// inSync: all replicas are.
func inSync(p kmsg.MetadataResponseTopicPartition) bool {
	return p.ErrorCode == 0 && len(p.ISR) == clusterNodes
}

// preferred: the first replica leads, too.
func preferred(p kmsg.MetadataResponseTopicPartition) bool {
	return inSync(p) && p.Leader == p.Replicas[0]
}

// awaitPartitions waits until all nodes say of all partitions of a topic what is
// wanted.
func (c *cluster) awaitPartitions(topic string, ok func(kmsg.MetadataResponseTopicPartition) bool) error {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		all := true
		for _, n := range c.nodes {
			ps, err := (&subject{name: c.name, addr: n.Addr}).partitions(topic)
			all = all && err == nil && len(ps) > 0 && !slices.ContainsFunc(ps, func(p kmsg.MetadataResponseTopicPartition) bool { return !ok(p) })
		}
		if all {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: the partitions of %s do not become what they should", c.name, topic)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// partitions are a topic's partitions as one broker knows them.
func (s *subject) partitions(topic string) ([]kmsg.MetadataResponseTopicPartition, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 8
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := s.do(req)
	if err != nil {
		return nil, err
	}
	if ts := resp.(*kmsg.MetadataResponse).Topics; len(ts) == 1 {
		return ts[0].Partitions, nil
	}
	return nil, errors.New("no such topic")
}

// electPreferred gives all partitions of a topic back to their first replicas.
func (c *cluster) electPreferred(topic string, partitions int32) error {
	if err := c.awaitPartitions(topic, inSync); err != nil {
		return err
	}
	ctx, cancel := withTimeout()
	defer cancel()
	req := kmsg.NewPtrElectLeadersRequest()
	req.TimeoutMillis = 30_000
	t := kmsg.NewElectLeadersRequestTopic()
	t.Topic = topic
	for p := range partitions {
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, c.cl)
	if err != nil {
		return err
	}
	if err := failed("ElectLeaders", resp.ErrorCode); err != nil {
		return err
	}
	return c.awaitPartitions(topic, preferred)
}

// controller is the node that leads the quorum.
func (c *cluster) controller() (int32, error) {
	ctx, cancel := withTimeout()
	defer cancel()
	req := kmsg.NewPtrDescribeQuorumRequest()
	t := kmsg.NewDescribeQuorumRequestTopic()
	t.Topic = "__cluster_metadata"
	t.Partitions = append(t.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, c.cl)
	if err != nil {
		return -1, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return -1, errors.New("DescribeQuorum: no quorum")
	}
	return resp.Topics[0].Partitions[0].LeaderID, nil
}
