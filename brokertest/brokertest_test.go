package brokertest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/gregor-broker/gregor/brokertest"
)

// TestMain finds what a broker left running after its test.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// roundTrip produces one record with acks=all and consumes it again.
func roundTrip(ctx context.Context, addr, topic string, value []byte) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.AllowAutoTopicCreation(),
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: value}).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	fetches := client.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	records := fetches.Records()
	if len(records) != 1 || !bytes.Equal(records[0].Value, value) || records[0].Offset != 0 {
		return fmt.Errorf("fetched %d records, want the one that was produced", len(records))
	}
	return nil
}

func TestProduceAndConsume(t *testing.T) {
	b := brokertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := roundTrip(ctx, b.Addr(), "orders", []byte("first")); err != nil {
		t.Fatal(err)
	}
	if len(b.ClusterID()) != 22 {
		t.Errorf("cluster id %q", b.ClusterID())
	}
	b.Stop()
	b.Stop() // a second time is harmless
}

func TestWithOverridesKeys(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Start(t, brokertest.With("log.dirs", dir), brokertest.With("num.partitions", "3"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := roundTrip(ctx, b.Addr(), "three", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := os.Stat(fmt.Sprintf("%s/three-%d", dir, i)); err != nil {
			t.Error(err)
		}
	}
}

// TestHundredsInParallel runs many brokers in one process at once: none starts
// to stop before all of them have started.
func TestHundredsInParallel(t *testing.T) {
	brokers := 200
	if testing.Short() {
		brokers = 20
	}
	addrs := make([]string, brokers)
	for i := range addrs {
		addrs[i] = brokertest.Start(t).Addr()
	}
	t.Run("all", func(t *testing.T) {
		for i, addr := range addrs {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
				defer cancel()
				if err := roundTrip(ctx, addr, "t", fmt.Appendf(nil, "value of %d", i)); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

// TestCluster runs three brokers: a transaction over partitions of all of them
// is committed everywhere, and what was acknowledged is there without any one.
func TestCluster(t *testing.T) {
	brokers := brokertest.StartCluster(t, 3, brokertest.With("default.replication.factor", "3"),
		brokertest.With("min.insync.replicas", "2"), brokertest.With("num.partitions", "6"),
		brokertest.With("offsets.topic.num.partitions", "3"), brokertest.With("transaction.state.log.num.partitions", "3"))
	var seeds []string
	for _, b := range brokers {
		seeds = append(seeds, b.Addr())
		if b.ClusterID() != brokers[0].ClusterID() {
			t.Errorf("cluster %s, want %s", b.ClusterID(), brokers[0].ClusterID())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	producer, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.AllowAutoTopicCreation(), kgo.TransactionalID("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	transact := func(value string, end kgo.TransactionEndTry) {
		t.Helper()
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for p := range int32(6) {
			if err := producer.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: p, Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := producer.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	consume := func(n int) map[string]int {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"+fmt.Sprint(n)),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got := map[string]int{}
		for range n {
			for seen := 0; seen == 0; {
				f := c.PollRecords(ctx, 1)
				if ctx.Err() != nil {
					t.Fatalf("got %v", got)
				}
				f.EachRecord(func(r *kgo.Record) { seen++; got[string(r.Value)]++ })
			}
		}
		return got
	}
	transact("committed", kgo.TryCommit)
	transact("aborted", kgo.TryAbort)
	transact("committed too", kgo.TryCommit)
	if got := consume(12); got["committed"] != 6 || got["committed too"] != 6 {
		t.Errorf("got %v", got)
	}
	brokers[0].Stop()
	transact("without one", kgo.TryCommit)
	if got := consume(18); got["committed"] != 6 || got["committed too"] != 6 || got["without one"] != 6 {
		t.Errorf("got %v", got)
	}
}
