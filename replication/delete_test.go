package replication

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// replicaAt is the fetch of follower 2 from the log end, with its log start.
func replicaAt(tb testing.TB, p *Partition, logStart int64) {
	tb.Helper()
	o := from(p.Snapshot().LogEnd)
	o.ReplicaID, o.LogStart = 2, logStart
	res, err := p.Read(o)
	if err != nil {
		tb.Error(err)
	}
	res.Slice.Release()
}

func TestDeleteRecordsWaitsForReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ledBy1(t, 1, 2)
		produce(t, p, 5)
		replicaAt(t, p, 0)
		watcher := NewWatcher()
		watcher.Watch(p, BoundHighWatermark, nil)
		watcher.TakeReady(nil)

		wait, err := p.DeleteRecords(DeleteToHighWatermark)
		if err != nil {
			t.Fatal(err)
		}
		if len(watcher.TakeReady(nil)) != 1 {
			t.Error("readers must hear of the new log start with their next answer")
		}
		if _, err := p.Read(from(4)); !errors.Is(err, kerr.OffsetOutOfRange) {
			t.Error("the records are still readable:", err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		late, err := p.DeleteRecords(3) // below the log start: nothing to delete, everything to wait for
		if err != nil {
			t.Fatal(err)
		}
		if low, err := late.Wait(short); low != Unknown || !errors.Is(err, kerr.RequestTimedOut) {
			t.Error(low, err)
		}
		time.AfterFunc(time.Second, func() { replicaAt(t, p, 4) })
		time.AfterFunc(2*time.Second, func() { replicaAt(t, p, 5) })
		start := time.Now()
		if low, err := wait.Wait(t.Context()); low != 5 || err != nil || time.Since(start) != 2*time.Second {
			t.Error(low, err, time.Since(start))
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.lows) != 0 {
			t.Error("waits stay linked")
		}
	})
}

// A replica whose broker is fenced is not waited for (Kafka: live replicas).
func TestDeleteRecordsDoesNotWaitForTheDead(t *testing.T) {
	p := ledBy1(t, 1, 2)
	produce(t, p, 5)
	replicaAt(t, p, 0)
	wait, err := p.DeleteRecords(2)
	if err != nil {
		t.Fatal(err)
	}
	p.env.brokerState = func(int32) (int64, bool) { return 7, false }
	p.reconsider()
	if low, err := wait.Wait(t.Context()); low != 2 || err != nil {
		t.Error(low, err)
	}
}

func TestDeleteRecordsFailsWithTheLeadership(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*Partition)
		want error
	}{
		"another leader": {func(p *Partition) { mustAssign(t, p, 2, 9, 1, 2) }, kerr.NotLeaderForPartition},
		"deleted":        {func(p *Partition) { p.retire(kerr.UnknownTopicOrPartition) }, kerr.UnknownTopicOrPartition},
	} {
		p := ledBy1(t, 1, 2)
		produce(t, p, 5)
		replicaAt(t, p, 0)
		wait, err := p.DeleteRecords(2)
		if err != nil {
			t.Fatal(err)
		}
		c.do(p)
		if low, err := wait.Wait(t.Context()); low != Unknown || !errors.Is(err, c.want) {
			t.Error(name, low, err)
		}
	}
}

func TestDeleteRecordsWithoutTime(t *testing.T) {
	p := ledBy1(t, 1)
	produce(t, p, 5)
	wait, err := p.DeleteRecords(2)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if low, err := wait.Wait(over); low != 2 || err != nil {
		t.Error("what is done already needs no time:", low, err)
	}
}
