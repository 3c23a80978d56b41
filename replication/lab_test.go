package replication

import (
	"testing"
	"time"

	"github.com/gregor-broker/gregor/storage"
)

// ledBy1 is a partition on broker 1, which leads it in epoch 1 with all the
// replicas in sync.
func ledBy1(tb testing.TB, replicas ...int32) *Partition {
	tb.Helper()
	env := &environment{nodeID: 1, now: time.Now, maxLagMs: 30_000, brokerState: func(int32) (int64, bool) { return 7, true }}
	p := newPartition(env, "t", storage.TopicID{1}, 0, false, &storage.Log{}, nil)
	mustAssign(tb, p, 1, 1, replicas...)
	return p
}

// mustAssign makes leader lead in an epoch with all the replicas in sync.
func mustAssign(tb testing.TB, p *Partition, leader, epoch int32, replicas ...int32) {
	tb.Helper()
	if _, err := p.assign(assignment{leader: leader, leaderEpoch: epoch, partitionEpoch: epoch, replicas: replicas, isr: replicas}); err != nil {
		tb.Fatal(err)
	}
}
