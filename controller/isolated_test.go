package controller

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/twmb/franz-go/pkg/kerr"
)

// noLeases is a store that can be told to grant no leases.
type noLeases struct {
	metadata.Store
	none   atomic.Bool
	denied chan struct{}
}

func (s *noLeases) Grant(ctx context.Context, ttl time.Duration) (metadata.LeaseID, error) {
	if s.none.Load() {
		select {
		case s.denied <- struct{}{}:
		default:
		}
		return 0, errCut
	}
	return s.Store.Grant(ctx, ttl)
}

// TestIsolated: a node knows when it has no session, and takes part again as soon
// as it has one.
func TestIsolated(t *testing.T) {
	store := &noLeases{Store: memstore.New(), denied: make(chan struct{}, 1)}
	c := start(t, Options{Store: store, NodeID: 1})
	if c.Isolated() {
		t.Fatal("isolated from the start")
	}
	kvs, _, err := store.Get(t.Context(), "brokers/live/1")
	if err != nil || len(kvs) != 1 {
		t.Fatal(kvs, err)
	}
	store.none.Store(true)
	if err := store.Revoke(t.Context(), kvs[0].Lease); err != nil {
		t.Fatal(err)
	}
	<-store.denied
	if !c.Isolated() {
		t.Error("without a session, and not isolated")
	}
	store.none.Store(false)
	eventually(t, c, "a new session", func(img *metadata.Image) bool {
		b := img.Broker(1)
		return b.Active() && img.ControllerID() == 1 && !c.Isolated()
	})
}

// TestWithoutTheStore: while nothing can be written nobody is fenced or elected and
// no in-sync set changes, and the outcome of what is asked for is open; afterwards
// what is due is done.
func TestWithoutTheStore(t *testing.T) {
	store := memstore.New()
	l, other := &link{Store: store}, &link{Store: store}
	a := start(t, Options{Store: l, NodeID: 1})
	b := start(t, Options{Store: other, NodeID: 2, BrokerOnly: true})
	r := a.CreateTopics(testContext(t), []metadata.NewTopic{{Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{2, 1}}}}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	eventually(t, b, "the topic", func(img *metadata.Image) bool { return img.Topic("t") != nil })
	l.set(cut, cut)
	other.set(cut, cut)
	dead := mustGet(t, store, "brokers/live/2")[0].Lease
	topic, was := b.Image().Topic("t").ID, *b.Image().Topic("t").Partitions[0]
	store.ExpireLease(dead)
	eventually(t, a, "the end of a session", func(img *metadata.Image) bool { _, alive := img.Alive(2); return !alive })
	change := metadata.ISRChange{
		Topic: topic, LeaderEpoch: was.LeaderEpoch, PartitionEpoch: was.PartitionEpoch,
		NewISR: []metadata.ISRMember{{BrokerID: 2, BrokerEpoch: b.BrokerEpoch()}},
	}
	ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
	defer cancel()
	req := metadata.ISRRequest{BrokerID: 2, BrokerEpoch: b.BrokerEpoch(), Changes: []metadata.ISRChange{change}}
	if _, _, err := decideHere(ctx, a, a.alterPartition(req), false); !errors.Is(err, kerr.RequestTimedOut) {
		t.Errorf("a change of the in-sync set: %v", err)
	}
	if p := a.Image().Topic("t").Partitions[0]; p.Leader != 2 || p.PartitionEpoch != was.PartitionEpoch || a.Image().Broker(2).Fenced {
		t.Errorf("%+v, it was %+v", p, was)
	}
	l.set(nil, nil)
	eventually(t, a, "another leader", func(img *metadata.Image) bool { return img.Topic("t").Partitions[0].Leader == 1 })
}
