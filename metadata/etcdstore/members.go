package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// statusTimeout bounds the question to a server how far it has come.
const statusTimeout = time.Second

// removeTimeout bounds the removal of a server, which a majority must agree on.
const removeTimeout = 10 * time.Second

// soundPause is the time between two attempts to remove a server.
const soundPause = 200 * time.Millisecond

// Member is one server of the quorum.
type Member struct {
	// Name is empty for one that never started.
	Name string
	// Address is its host and port.
	Address string
	// Learner members have no vote yet.
	Learner bool
	// Revision is how far its copy of the metadata has come, -1 where it did
	// not say.
	Revision int64
}

// Members are the servers of the quorum. Each is asked how far it has come; who
// does not answer in time counts as unknown.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*statusTimeout)
	defer cancel()
	list, err := s.client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("etcd: members: %w", err)
	}
	ctx, cancelStatus := context.WithTimeout(ctx, statusTimeout)
	defer cancelStatus()
	members := make([]Member, len(list.Members))
	done := make(chan struct{})
	for i, m := range list.Members {
		members[i] = Member{Name: m.Name, Learner: m.IsLearner, Revision: -1}
		if len(m.PeerURLs) > 0 {
			members[i].Address = strings.TrimPrefix(m.PeerURLs[0], "http://")
		}
		go func() {
			defer func() { done <- struct{}{} }()
			if len(m.ClientURLs) > 0 {
				members[i].Revision = revision(ctx, m.ClientURLs)
			}
		}()
	}
	for range list.Members {
		<-done
	}
	return members, nil
}

// revision asks one server how far it has come, -1 if it does not say.
func revision(ctx context.Context, endpoints []string) int64 {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: statusTimeout, Logger: zap.NewNop()})
	if err != nil {
		return -1
	}
	defer func() { _ = client.Close() }()
	status, err := client.Status(ctx, endpoints[0])
	if err != nil {
		return -1
	}
	return status.Header.GetRevision()
}

// ErrNoMember says that the quorum has no such member.
var ErrNoMember = errors.New("no such member of the metadata's quorum")

// RemoveMember takes a server's vote away for good. If it runs, it stops.
func (s *Store) RemoveMember(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	list, err := s.client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("etcd: members: %w", err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			return s.removeMember(ctx, m.ID)
		}
	}
	return ErrNoMember
}

// removeMember waits until the quorum is sound enough to lose a member.
func (s *Store) removeMember(ctx context.Context, id uint64) error {
	return OnceSound(ctx, soundPause, nil, func() error {
		_, err := s.client.MemberRemove(ctx, id)
		return err
	})
}

// OnceSound changes the members of a quorum once it is sound enough: etcd wants
// those that stay to have been connected for some seconds. refused, where not
// nil, is told why there will be another attempt after a pause.
func OnceSound(ctx context.Context, pause time.Duration, refused func(error), change func() error) error {
	for {
		err := change()
		if !errors.Is(rpctypes.Error(err), rpctypes.ErrUnhealthy) {
			return err
		}
		if refused != nil {
			refused(err)
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return errors.Join(err, ctx.Err())
		}
	}
}
