package controller

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
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
