package etcdembed

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/metadata"
)

// openMembers starts the members of a cluster in this process.
func openMembers(t *testing.T, n int, tick, election time.Duration) []*Store {
	t.Helper()
	listeners := make([]net.Listener, n)
	members := map[string]string{}
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
		members[fmt.Sprint(i+1)] = l.Addr().String()
	}
	stores := make([]*Store, n)
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			s, err := Open(ctx, Options{
				Dir: t.TempDir() + "/" + DirName, Name: fmt.Sprint(i + 1), Members: members, PeerListener: listeners[i],
				Tick: tick, Election: election, Log: zerolog.Nop(),
			})
			if err != nil {
				t.Error(err)
				return
			}
			stores[i] = s
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, s := range stores {
			if s != nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return stores
}

// TestMemberGone: members that know that their leader is dead have another one
// long before they could have missed its heartbeats, and a transaction that was
// sent to the dead one is given up.
func TestMemberGone(t *testing.T) {
	const election = 10 * time.Second
	stores := openMembers(t, 3, election/10, election)
	put := func(s *Store, key string) error {
		_, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{{Kind: metadata.OpPut, Key: key}}})
		return err
	}
	if err := put(stores[0], "before"); err != nil {
		t.Fatal(err)
	}
	var dead *Store
	var left []*Store
	for _, s := range stores {
		if server := s.server.Server; server.Leader() == server.MemberID() {
			dead = s
		} else {
			left = append(left, s)
		}
	}
	name := dead.server.Server.Cfg.Name
	if err := dead.MemberGone(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	dead.served.close() // nobody hears of it any more
	dead.server.Server.HardStop()
	began := time.Now()
	lost := make(chan error)
	go func() { lost <- put(left[0], "lost") }()
	var wg sync.WaitGroup
	for _, s := range left {
		wg.Go(func() {
			if err := s.MemberGone(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := <-lost; err != nil {
		t.Logf("what was under way: %v", err)
	}
	for _, s := range left {
		for put(s, "after") != nil { // the leader may change once more
			if time.Since(began) > election {
				break
			}
		}
	}
	// Without a word, a member waits for this time after the last heartbeat.
	if took := time.Since(began); took > election-election/10 {
		t.Errorf("another leader took %v", took)
	}
}

// TestCloseDoesNotWaitForWhoIsGone: a leader that closes hands over to a member,
// and does not wait for one that ends too, as when all of a cluster stop.
func TestCloseDoesNotWaitForWhoIsGone(t *testing.T) {
	stores := openMembers(t, 3, 50*time.Millisecond, 500*time.Millisecond)
	var leader *Store
	for _, s := range stores {
		if server := s.server.Server; server.Leader() == server.MemberID() {
			leader = s
		}
	}
	for _, s := range stores {
		if s != leader {
			s.server.Server.PauseSending() // connected, and not to be elected
		}
	}
	began := time.Now()
	if err := leader.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > transferLimit+2*time.Second {
		t.Errorf("closing took %v", took)
	}
}
