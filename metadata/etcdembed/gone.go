package etcdembed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/gregor-broker/gregor/metadata"
)

// turnToStand is how much later the second of the members stands for election
// than the first, and so on: the first has won by then, unless it lacks what the
// others have. Two that stood at once would split the votes.
const turnToStand = 100 * time.Millisecond

// MemberGone takes notice that the process of a member is known to be dead. If it
// led, those that are left elect another leader now, instead of when they have
// missed its heartbeats for the election timeout, which has to be long enough for
// a machine that is busy. Nothing rests on the word being true: a leader that
// lives is only replaced, as when it hands over.
//
// It returns when there is another leader, or nothing more to do about it.
func (s *Store) MemberGone(ctx context.Context, name string) error {
	server := s.server.Server
	dead := memberNamed(server.Cluster().Members(), name)
	if dead == nil || dead.ID == server.MemberID() || server.Leader() != dead.ID {
		return nil
	}
	voters := slices.DeleteFunc(server.Cluster().Members(), func(m *membership.Member) bool {
		return m.IsLearner || m.ID == dead.ID
	})
	slices.SortFunc(voters, func(a, b *membership.Member) int { return cmp.Compare(a.ID, b.ID) })
	place := slices.IndexFunc(voters, func(m *membership.Member) bool { return m.ID == server.MemberID() })
	if place < 0 {
		return nil // a learner
	}
	turn := time.NewTimer(time.Duration(place) * turnToStand)
	defer turn.Stop()
	select {
	case <-turn.C:
	case <-server.LeaderChanged():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	if lead := server.Leader(); lead != dead.ID && lead != 0 {
		return nil
	}
	// What a leader says that steps down in favour of this member.
	err := server.Process(ctx, &raftpb.Message{
		Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(dead.ID)), To: new(uint64(server.MemberID())), Term: new(server.Term()),
	})
	if err != nil {
		return fmt.Errorf("stand for election: %w", err)
	}
	return nil
}

func memberNamed(members []*membership.Member, name string) *membership.Member {
	n := slices.IndexFunc(members, func(m *membership.Member) bool { return m.Name == name })
	if n < 0 {
		return nil
	}
	return members[n]
}

var errLeaderChanged = errors.New("another leader was elected meanwhile")

// Txn implements metadata.Store. What a member was asked while it did not know
// that the leader is dead went to the dead one, and nobody says so: with another
// leader there is nothing to be gained from waiting for the answer.
func (s *Store) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	changed := s.server.Server.LeaderChanged()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-changed:
			cancel(errLeaderChanged)
		case <-ctx.Done():
		}
	}()
	r, err := s.Store.Txn(ctx, txn)
	if err != nil && errors.Is(context.Cause(ctx), errLeaderChanged) {
		err = fmt.Errorf("%w: %w", metadata.ErrLeaderChanged, err)
	}
	cancel(nil)
	<-watched
	return r, err
}
