package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// dirsOf is where node 1 has the partitions of a topic.
func (c *testCluster) dirsOf(topic string) map[int32]string {
	in := map[int32]string{}
	for _, l := range c.nodes[1].logs.Logs() {
		if tp := l.TopicPartition(); tp.Topic == topic {
			in[tp.Partition] = l.Dir()
		}
	}
	return in
}

// move asks node 1 to move a partition.
func (c *testCluster) move(topic string, partition int32, dir string) error {
	c.t.Helper()
	req := kmsg.NewPtrAlterReplicaLogDirsRequest()
	d := kmsg.NewAlterReplicaLogDirsRequestDir()
	d.Dir = dir
	tp := kmsg.NewAlterReplicaLogDirsRequestDirTopic()
	tp.Topic, tp.Partitions = topic, []int32{partition}
	d.Topics = append(d.Topics, tp)
	req.Dirs = append(req.Dirs, d)
	resp, err := req.RequestWith(c.t.Context(), c.brokerClient(1))
	if err != nil {
		c.t.Fatal(err)
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// awaitTrue asks until something is so.
func awaitTrue(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestReplicasMove: replicas go from one log directory of a broker to the other while
// they lead, follow and are written; slow as they are told to be, also over a restart;
// a move ends with the topic, and a destination that fails takes nothing along.
func TestReplicasMove(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.OS{}, nil)
	c, one, two, startFirst := startTwoDirs(t, faulty)
	const partitions = 4
	other := func(dir string) string {
		if dir == one {
			return two
		}
		return one
	}
	topic := metadata.NewTopic{Name: "t", Partitions: -1, ReplicationFactor: -1}
	for n := range int32(partitions) {
		replicas := []int32{1, 2}
		if n >= 2 {
			replicas = []int32{2, 1}
		}
		topic.Assignment = append(topic.Assignment, metadata.PartitionAssignment{Partition: n, Replicas: replicas})
	}
	if r := c.nodes[2].controller.CreateTopics(t.Context(), []metadata.NewTopic{topic}, false); r[0].Err != nil {
		t.Fatal(r)
	}
	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond), kgo.ProducerBatchCompression(kgo.NoCompression()))
	write := func(ctx context.Context, n int32, size int) error {
		return cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: n, Value: make([]byte, size)}).FirstErr()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers sync.WaitGroup
	var mu sync.Mutex
	written := map[int32]int64{}
	for n := range int32(partitions) {
		writers.Go(func() {
			for ctx.Err() == nil {
				if err := write(t.Context(), n, 300); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				written[n]++
				mu.Unlock()
			}
		})
	}
	awaitTrue(t, "the replicas", func() bool { return len(c.dirsOf("t")) == partitions })
	for range 3 {
		for n, dir := range c.dirsOf("t") {
			if err := c.move("t", n, other(dir)); err != nil {
				t.Fatal(err)
			}
			awaitTrue(t, fmt.Sprintf("t-%d in %s", n, other(dir)), func() bool { return c.dirsOf("t")[n] == other(dir) })
		}
	}
	cancel()
	writers.Wait()
	for id := range c.nodes {
		c.await(id, "in sync", func(img *metadata.Image) bool {
			topic := img.Topic("t")
			return topic != nil && !slices.ContainsFunc(topic.Partitions, func(p *metadata.Partition) bool { return len(p.ISR) != 2 })
		})
	}
	awaitTrue(t, "the follower to have all", func() bool {
		for n := range int32(partitions) {
			for _, node := range c.nodes {
				p, err := node.partitions.Partition("t", n)
				if err != nil || p.Snapshot().LogEnd != written[n] {
					return false
				}
			}
		}
		return true
	})
	c.sameLogs("t", partitions)

	rate := func(v string) {
		t.Helper()
		c.alterConfigs(metadata.ConfigResource{Type: metadata.ConfigBroker, Name: "1"}, map[string]string{"replica.alter.log.dirs.io.max.bytes.per.second": v})
	}
	moving := func() []storage.MoveInfo { return c.nodes[1].logs.Moves() }
	rate("1")
	for range 4 {
		if err := write(t.Context(), 0, 600<<10); err != nil {
			t.Fatal(err)
		}
	}
	from := c.dirsOf("t")[0]
	if err := c.move("t", 0, other(from)); err != nil {
		t.Fatal(err)
	}
	first := c.nodes[1]
	delete(c.nodes, 1)
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	startFirst()
	awaitTrue(t, "the move to go on", func() bool { m := moving(); return len(m) == 1 && m[0].Dir == other(from) })
	if c.dirsOf("t")[0] != from {
		t.Error("it moved at a byte per second")
	}
	rate("")
	awaitTrue(t, "the move to end", func() bool { return len(moving()) == 0 && c.dirsOf("t")[0] == other(from) })
	c.await(2, "in sync", func(img *metadata.Image) bool { return len(img.Topic("t").Partitions[0].ISR) == 2 })
	c.sameLogs("t", 1)

	rate("1")
	u := metadata.NewTopic{Name: "u", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{1}}}}
	if r := c.nodes[1].controller.CreateTopics(t.Context(), []metadata.NewTopic{u}, false); r[0].Err != nil {
		t.Fatal(r)
	}
	for range 3 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "u", Value: make([]byte, 600<<10)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.move("u", 0, other(c.dirsOf("u")[0])); err != nil {
		t.Fatal(err)
	}
	if r := c.nodes[1].controller.DeleteTopics(t.Context(), []metadata.TopicRef{{Name: "u"}}); r[0].Err != nil {
		t.Fatal(r)
	}
	futures := func() (found []string) {
		for _, dir := range []string{one, two} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if strings.HasSuffix(e.Name(), "-future") {
					found = append(found, filepath.Join(dir, e.Name()))
				}
			}
		}
		return found
	}
	awaitTrue(t, "the move to end with its topic", func() bool { return len(moving()) == 0 && len(futures()) == 0 })

	from = c.dirsOf("t")[0]
	if err := c.move("t", 0, other(from)); err != nil {
		t.Fatal(err)
	}
	faulty.SetRule(failsUnder(other(from)))
	rate("")
	awaitTrue(t, "the destination to be offline", func() bool { return c.nodes[1].logs.DirErr(other(from)) != nil })
	awaitTrue(t, "the move to end", func() bool { return len(moving()) == 0 })
	if err := write(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if c.nodes[1].logs.DirErr(from) != nil || c.dirsOf("t")[0] != from {
		t.Error("the source went with the destination")
	}
	if err := c.move("t", 0, other(from)); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("to a directory that failed: %v", err)
	}
	faulty.SetRule(nil)
	first = c.nodes[1]
	delete(c.nodes, 1)
	_ = first.Close(t.Context()) // says that a directory has failed
	startFirst()
	awaitTrue(t, "the move to be made at last", func() bool { return len(moving()) == 0 && c.dirsOf("t")[0] == other(from) })
	c.await(2, "in sync", func(img *metadata.Image) bool { return len(img.Topic("t").Partitions[0].ISR) == 2 })
	c.sameLogs("t", partitions)
}
