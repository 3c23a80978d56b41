package node

import (
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata/etcdstore"
)

// quorumServers are the etcd members that controllers embed, as the protocol
// shows them: a member has the name of its node's id.
type quorumServers struct {
	store interface {
		Members(ctx context.Context) ([]etcdstore.Member, error)
		RemoveMember(ctx context.Context, name string) error
	}
	listener string
}

// quorumServers is nil where other nodes have no part in the metadata or it is in
// an etcd that is not ours.
func (n *Node) quorumServers(v *config.Values) handler.Quorum {
	q := &quorumServers{}
	if names := v.List("controller.listener.names"); len(names) > 0 {
		q.listener = names[0]
	}
	var ok bool
	if q.store, ok = n.store.(interface {
		Members(ctx context.Context) ([]etcdstore.Member, error)
		RemoveMember(ctx context.Context, name string) error
	}); !ok || n.quorum.external || n.quorum.alone() {
		return nil
	}
	return q
}

// Members implements handler.Quorum.
func (q *quorumServers) Members(ctx context.Context) ([]handler.QuorumMember, error) {
	list, err := q.store.Members(ctx)
	if err != nil {
		return nil, err
	}
	var out []handler.QuorumMember
	for _, m := range list {
		id, err := strconv.ParseInt(m.Name, 10, 32)
		if err != nil {
			continue // it never started
		}
		host, port, err := net.SplitHostPort(m.Address)
		if err != nil {
			continue
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			continue
		}
		out = append(out, handler.QuorumMember{
			ID: int32(id), Listener: q.listener, Host: host, Port: uint16(n), Voter: !m.Learner, Revision: m.Revision,
		})
	}
	return out, nil
}

// RemoveMember implements handler.Quorum.
func (q *quorumServers) RemoveMember(ctx context.Context, id int32) (bool, error) {
	err := q.store.RemoveMember(ctx, strconv.Itoa(int(id)))
	if errors.Is(err, etcdstore.ErrNoMember) {
		return false, nil
	}
	return err == nil, err
}
