package controller

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
)

// TestTooManyOffline: a broker that has lost more replicas than the store takes in
// one value is told so, and what it does otherwise goes on.
func TestTooManyOffline(t *testing.T) {
	store := memstore.New()
	c := start(t, Options{Store: store, NodeID: 1})
	lost := func(topics int) metadata.Replicas {
		out := metadata.Replicas{}
		for n := range topics {
			var id metadata.ID
			binary.BigEndian.PutUint32(id[:], uint32(n)+1)
			out[id] = []int32{0}
		}
		return out
	}
	if err := c.SetOffline(lost(100_000)); !errors.Is(err, metadata.ErrTxnTooLarge) {
		t.Error(err)
	}
	create(t, c, "t", 1)
	some := lost(1000)
	if err := c.SetOffline(some); err != nil {
		t.Error(err)
	}
	eventually(t, c, "what can be told is told", func(img *metadata.Image) bool { return img.Broker(1).Offline.Equal(some) })
	create(t, c, "u", 1)
}
