package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/broker/handler"
)

// TestCoordinatorsMove: the process that coordinates a group and a
// transactional id is killed, and another goes on with what they had: offsets
// that were committed, and a transaction that was open.
func TestCoordinatorsMove(t *testing.T) {
	c := newCluster(t, 3, "offsets.topic.num.partitions=1", "transaction.state.log.num.partitions=1",
		"group.initial.rebalance.delay.ms=0", "offsets.topic.replication.factor=3", "transaction.state.log.replication.factor=3")
	c.start("broker,controller", 1, 2)
	kill := c.startProcess(3)
	for id := range c.nodes {
		c.await(id, "three brokers", serving(3))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cl := c.client(kgo.DefaultProduceTopic("t"), kgo.TransactionalID("tx"), kgo.MetadataMinAge(10*time.Millisecond))
	c.createTopic(cl, "t", 1, "min.insync.replicas", "2")

	write := func(commit bool, values ...string) error {
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
		for _, v := range values {
			if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte(v)}).FirstErr(); err != nil {
				return err
			}
		}
		return cl.EndTransaction(ctx, kgo.TransactionEndTry(commit))
	}
	if err := write(true, "a", "b"); err != nil {
		t.Fatal(err)
	}
	if err := write(false, "x"); err != nil {
		t.Fatal(err)
	}
	// read consumes n records as a member of the group and commits.
	read := func(n int) (got []string) {
		t.Helper()
		m := c.client(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10*time.Millisecond))
		defer m.Close()
		for len(got) < n {
			f := m.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatalf("%v after %q", f.Err(), got)
			}
			f.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		}
		if err := m.CommitUncommittedOffsets(ctx); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := fmt.Sprint(read(2)); got != "[a b]" {
		t.Errorf("read %s", got)
	}
	c.awaitInSync("t")
	c.awaitInSync(handler.OffsetsTopic)
	c.awaitInSync(handler.TransactionsTopic)

	// Whoever coordinates goes: a node of this process in order, or the other
	// by force, with a transaction open.
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte("c")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	img := c.nodes[1].controller.Image()
	leader := img.Topic(handler.TransactionsTopic).Partitions[0].Leader
	t.Logf("transactions are coordinated by %d, groups by %d, t is led by %d", leader,
		img.Topic(handler.OffsetsTopic).Partitions[0].Leader, img.Topic("t").Partitions[0].Leader)
	if leader == 3 {
		kill()
	} else {
		c.stop(leader)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if err := write(true, "d"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(read(2)); got != "[c d]" {
		t.Errorf("then read %s", got)
	}
}
