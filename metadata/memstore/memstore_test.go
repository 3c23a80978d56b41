package memstore

import (
	"context"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/storetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		s := New()
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return storetest.Subject{
			Store:   s,
			Compact: func(_ *testing.T, revision int64) { s.Compact(revision) },
			Pass:    func(_ *testing.T, ttl time.Duration) { s.Advance(ttl + 1) },
		}
	})
}

// TestHistoryIsBounded: a store that nobody compacts does not grow with what
// happened.
func TestHistoryIsBounded(t *testing.T) {
	s := New()
	s.keep = 10
	for range 100 {
		s.mu.Lock()
		s.commit(nil)
		s.mu.Unlock()
		mustPut(t, s)
	}
	if n := len(s.history); n > 2*s.keep {
		t.Errorf("%d events are kept", n)
	}
}

// TestNobodyKeepsALeaseWhoseContextEnded: time that passes after the end of a KeepAlive counts, also if the store has not
// come to take note of that end.
func TestNobodyKeepsALeaseWhoseContextEnded(t *testing.T) {
	for range 1000 {
		s := New()
		id, err := s.Grant(t.Context(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		lost, err := s.KeepAlive(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		s.Advance(time.Second)
		if s.ExpireLease(id) {
			t.Fatal("the lease is still there")
		}
		<-lost
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func mustPut(t *testing.T, s *Store) {
	t.Helper()
	r, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{{Key: "a"}}})
	if err != nil || !r.Succeeded {
		t.Fatalf("%+v, %v", r, err)
	}
}
