package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// failsUnder makes everything below some directories fail.
func failsUnder(dirs ...string) vfs.Rule {
	return func(op vfs.Op) *vfs.Fault {
		for _, dir := range dirs {
			if op.Name == dir || strings.HasPrefix(op.Name, dir+"/") {
				return &vfs.Fault{Err: errors.New("the disk is broken")}
			}
		}
		return nil
	}
}

// startTwoDirs starts a cluster of two nodes, of which the first has two log directories
// on files. startFirst starts that one again.
func startTwoDirs(t *testing.T, files vfs.FS, lines ...string) (c *testCluster, good, bad string, startFirst func()) {
	t.Helper()
	c = newCluster(t, 2, append([]string{"min.insync.replicas=1"}, lines...)...)
	good, bad = filepath.Join(c.dir, "1"), filepath.Join(c.dir, "1-bad")
	startFirst = func() {
		t.Helper()
		lines := append(c.config(1, "broker,controller"), "log.dirs="+good+","+bad)
		log := zerolog.New(zerolog.ConsoleWriter{Out: t.Output(), NoColor: true}).With().Int32("node", 1).Logger().Level(zerolog.InfoLevel)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		n, err := Start(ctx, Options{Config: values(t, lines...), Log: log, FS: files})
		if err != nil {
			t.Error(err)
			return
		}
		c.nodes[1] = n
	}
	other := &testCluster{t: t, dir: c.dir, voters: c.voters, ports: c.ports, nodes: map[int32]*Node{}, lines: c.lines}
	t.Cleanup(other.stopAll)
	started := make(chan error, 1)
	go func() { started <- other.tryStart("broker,controller", 2) }()
	startFirst()
	if err := <-started; err != nil || t.Failed() {
		t.Fatal(err)
	}
	c.nodes[2] = other.nodes[2]
	delete(other.nodes, 2)
	for id := range c.nodes {
		c.await(id, "two brokers", serving(2))
	}
	return c, good, bad, startFirst
}

// TestLogDirFails: one of two log directories of a broker fails while clients
// write. What it led there is led by the other broker at once, everybody says
// that its replicas are offline, what is in its other directory goes on, and
// nothing acknowledged is lost; a restart with the disk mended brings it back.
// With its last directory the broker stops.
func TestLogDirFails(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.OS{}, nil)
	c, good, bad, startFirst := startTwoDirs(t, faulty)
	const partitions = 4
	topic := metadata.NewTopic{Name: "t", Partitions: -1, ReplicationFactor: -1}
	for n := range int32(partitions) {
		topic.Assignment = append(topic.Assignment, metadata.PartitionAssignment{Partition: n, Replicas: []int32{1, 2}})
	}
	if r := c.nodes[2].controller.CreateTopics(t.Context(), []metadata.NewTopic{topic}, false); r[0].Err != nil {
		t.Fatal(r)
	}
	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MetadataMinAge(10*time.Millisecond))
	written := 0
	write := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var records []*kgo.Record
		for i := range 40 {
			records = append(records, &kgo.Record{Topic: "t", Partition: int32(i % partitions), Value: fmt.Appendf(nil, "%d", written)})
			written++
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write()
	inBad := map[int32]bool{}
	for _, l := range c.nodes[1].logs.Logs() {
		inBad[l.TopicPartition().Partition] = l.Dir() == bad
	}

	faulty.SetRule(failsUnder(bad))
	began := time.Now()
	write()
	t.Logf("written on after %v", time.Since(began))
	asFailed := func(img *metadata.Image) bool {
		for n, p := range img.Topic("t").Partitions {
			leader, isr := int32(1), 2
			if inBad[int32(n)] {
				leader, isr = 2, 1
			}
			if p.Leader != leader || len(p.ISR) != isr || slices.Contains(p.OfflineReplicas, 1) != inBad[int32(n)] {
				return false
			}
		}
		return true
	}
	for id := range c.nodes {
		c.await(id, "the failed directory's leaderships move, the others' stay", asFailed)
	}
	write()
	c.await(2, "nothing comes back", asFailed)
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range resp.Topics[0].Partitions {
		if slices.Contains(p.OfflineReplicas, 1) != inBad[p.Partition] {
			t.Errorf("partition %d, on the failed disk %v: offline %v", p.Partition, inBad[p.Partition], p.OfflineReplicas)
		}
	}
	dirs, err := kmsg.NewPtrDescribeLogDirsRequest().RequestWith(t.Context(), c.brokerClient(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs.Dirs {
		if want := d.Dir == bad; (d.ErrorCode == kerr.KafkaStorageError.Code) != want {
			t.Errorf("%s: %v", d.Dir, kerr.ErrorForCode(d.ErrorCode))
		}
	}

	faulty.SetRule(nil)
	first := c.nodes[1]
	delete(c.nodes, 1)
	if err := first.Close(t.Context()); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("closed with a broken directory: %v", err)
	}
	write()
	startFirst()
	for id := range c.nodes {
		c.await(id, "all in sync", func(img *metadata.Image) bool {
			return !slices.ContainsFunc(img.Topic("t").Partitions, func(p *metadata.Partition) bool {
				return len(p.ISR) != 2 || len(p.OfflineReplicas) > 0
			})
		})
	}
	write()
	c.sameLogs("t", partitions)
	for n := range int32(partitions) {
		p, err := c.nodes[2].partitions.Partition("t", n)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := p.Snapshot().HighWatermark, int64(written/partitions); got < want {
			t.Errorf("partition %d: %d records, %d were acknowledged", n, got, want)
		}
	}

	faulty.SetRule(failsUnder(good, bad))
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for n := range int32(partitions) {
			cl.Produce(ctx, &kgo.Record{Topic: "t", Partition: n}, nil)
		}
	}()
	select {
	case <-c.nodes[1].Failed():
		if err := c.nodes[1].Err(); !strings.Contains(err.Error(), "every log directory is offline") {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("goes on without a log directory")
	}
	faulty.SetRule(nil)
	first = c.nodes[1]
	delete(c.nodes, 1)
	_ = first.Close(context.Background()) // its logs cannot be closed in order
}

// brokerClient is a client that knows one node.
func (c *testCluster) brokerClient(id int32) kmsg.Requestor {
	c.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.nodes[id].Addr("")))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl.SeedBrokers()[0]
}

// TestLogDirHangs: one of two log directories of a broker hangs, for all that changes
// something there, while clients write. What is in the other goes on: topics are made
// and deleted, leaders change, followers copy. What is asked of the one that hangs is
// not acknowledged before it is done, and done when it answers again.
func TestLogDirHangs(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.OS{}, nil)
	c, good, bad, _ := startTwoDirs(t, faulty, "replica.lag.time.max.ms=1500")
	const partitions = 4
	create := func(name string, n int, replicas ...int32) error {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, -1, -1
		for i := range n {
			topic.ReplicaAssignment = append(topic.ReplicaAssignment, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: int32(i), Replicas: replicas})
		}
		req := kmsg.NewPtrCreateTopicsRequest()
		req.TimeoutMillis, req.Topics = 2500, append(req.Topics, topic)
		resp, err := req.RequestWith(t.Context(), c.brokerClient(1))
		if err != nil {
			t.Fatal(err)
		}
		return kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err := create("t", partitions, 1, 2); err != nil {
		t.Fatal(err)
	}
	home := func(topic string) map[int32]string {
		in := map[int32]string{}
		for _, l := range c.nodes[1].logs.Logs() {
			if tp := l.TopicPartition(); tp.Topic == topic {
				in[tp.Partition] = l.Dir()
			}
		}
		return in
	}
	at := home("t")
	client := func() *kgo.Client {
		// What was sent to where it hangs has to be sent again soon.
		return c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MetadataMinAge(10*time.Millisecond),
			kgo.ProduceRequestTimeout(time.Second), kgo.RequestTimeoutOverhead(time.Second))
	}
	cl := client()
	write := func(topic string, to func(int32) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for n := range int32(partitions) {
			if to(n) {
				if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: n, Value: []byte("v")}).FirstErr(); err != nil {
					t.Fatalf("%s-%d: %v", topic, n, err)
				}
			}
		}
	}
	all := func(int32) bool { return true }
	inGood := func(n int32) bool { return at[n] == good }
	write("t", all)

	until := make(chan struct{})
	faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		switch op.Kind {
		case vfs.OpOpen, vfs.OpRead, vfs.OpList, vfs.OpStat, vfs.OpSize:
			return nil
		}
		return hangsUntil(op, bad, until)
	})
	release := sync.OnceFunc(func() {
		faulty.SetRule(nil)
		close(until)
	})
	t.Cleanup(release) // before the nodes are closed
	hung := make(chan error, 1)
	writer := client()
	go func() {
		var records []*kgo.Record
		for n := range int32(partitions) {
			if !inGood(n) {
				records = append(records, &kgo.Record{Topic: "t", Partition: n, Value: []byte("hangs")})
			}
		}
		hung <- writer.ProduceSync(t.Context(), records...).FirstErr()
	}()
	if err := create("u", partitions, 1); !errors.Is(err, kerr.RequestTimedOut) {
		t.Errorf("half of a topic could not be made: %v", err)
	}
	made := home("u")
	write("u", func(n int32) bool { return made[n] == good })
	began := time.Now()
	if err := create("v", partitions, 1); err != nil {
		t.Errorf("created: %v", err)
	}
	write("v", all)
	t.Logf("another topic was created and written within %v", time.Since(began))

	moved := func(leader int32, which func(int32) bool) func(img *metadata.Image) bool {
		return func(img *metadata.Image) bool {
			for n, p := range img.Topic("t").Partitions {
				if which(int32(n)) && (p.Leader != leader || len(p.ISR) != 2) {
					return false
				}
			}
			return true
		}
	}
	move := func(leader int32, replicas ...int32) {
		t.Helper()
		var to []metadata.Reassignment
		for n := range int32(partitions) {
			to = append(to, metadata.Reassignment{Topic: "t", Partition: n, Replicas: replicas})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := c.nodes[1].controller.Reassign(ctx, to, true); err != nil {
			t.Fatal(err)
		}
		if _, err := c.nodes[1].controller.ElectLeaders(ctx, metadata.PreferredElection, nil); err != nil {
			t.Fatal(err)
		}
		for id := range c.nodes {
			c.await(id, fmt.Sprintf("led by %d", leader), moved(leader, inGood))
		}
	}
	began = time.Now()
	move(2, 2, 1)
	write("t", inGood)
	t.Logf("the other node leads, and what is not in the directory that hangs was written within %v", time.Since(began))
	c.await(1, "in sync without what hangs", func(img *metadata.Image) bool {
		for n, p := range img.Topic("t").Partitions {
			if !inGood(int32(n)) && (len(p.ISR) != 1 || p.Leader != 2) || inGood(int32(n)) && len(p.ISR) != 2 {
				return false
			}
		}
		return true
	})
	write("t", all)
	move(1, 1, 2)
	write("t", inGood)

	release()
	if err := <-hung; err != nil {
		t.Error(err)
	}
	for id := range c.nodes {
		c.await(id, "all in sync", moved(1, inGood))
		c.await(id, "all in sync", func(img *metadata.Image) bool {
			return !slices.ContainsFunc(img.Topic("t").Partitions, func(p *metadata.Partition) bool { return len(p.ISR) != 2 })
		})
	}
	write("u", all)
	write("t", all)
	c.sameLogs("t", partitions)
}

// hangsUntil makes what is done below a directory wait until a channel is closed.
func hangsUntil(op vfs.Op, dir string, until <-chan struct{}) *vfs.Fault {
	if !strings.HasPrefix(op.Name, dir+"/") {
		return nil
	}
	return &vfs.Fault{Until: until}
}
