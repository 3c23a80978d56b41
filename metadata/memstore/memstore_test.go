package memstore

import (
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

func mustPut(t *testing.T, s *Store) {
	t.Helper()
	r, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{{Key: "a"}}})
	if err != nil || !r.Succeeded {
		t.Fatalf("%+v, %v", r, err)
	}
}
