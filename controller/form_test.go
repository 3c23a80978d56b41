package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
)

// electing is a store whose members have no leader for the first requests.
type electing struct {
	metadata.Store
	refuse int
}

func (s *electing) refused() error {
	if s.refuse == 0 {
		return nil
	}
	s.refuse--
	return fmt.Errorf("etcd: %w: leader changed", metadata.ErrUnavailable)
}

func (s *electing) Get(ctx context.Context, prefix string) ([]metadata.KV, int64, error) {
	if err := s.refused(); err != nil {
		return nil, 0, err
	}
	return s.Store.Get(ctx, prefix)
}

func (s *electing) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	result, err := s.Store.Txn(ctx, txn) // it happens, and the answer is lost
	if refused := s.refused(); refused != nil {
		return metadata.TxnResult{}, refused
	}
	return result, err
}

// TestFormWhileTheStoreElects: nodes that start together ask a store that may
// lose its leader at any moment; that must not end them.
func TestFormWhileTheStoreElects(t *testing.T) {
	for refuse := range 4 {
		inner := memstore.New()
		defer inner.Close()
		store := &electing{Store: inner, refuse: refuse}
		id, err := Form(t.Context(), store, "", nil, 1)
		if err != nil {
			t.Fatalf("%d requests refused: %v", refuse, err)
		}
		again, err := Form(t.Context(), inner, "", nil, 1)
		if err != nil || again != id {
			t.Fatalf("%d requests refused: the cluster is %s, then %s, %v", refuse, id, again, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Form(ctx, &electing{refuse: 1 << 30}, "", nil, 1); !errors.Is(err, context.Canceled) || !errors.Is(err, metadata.ErrUnavailable) {
		t.Fatalf("a store without a leader: %v", err)
	}
}
