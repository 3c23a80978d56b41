package node

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/peer"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// newPeers makes the way to the other brokers' inter-broker listeners.
func newPeers(v *config.Values, id int32, image func() *metadata.Image) *peer.Peers {
	listener := v.InterBrokerListener()
	return peer.New(peer.Options{
		ClientID:       fmt.Sprintf("broker-%d", id),
		Address:        func(id int32) (string, bool) { return brokerAddress(image(), id, listener) },
		ConnectTimeout: v.Duration("socket.connection.setup.timeout.ms"),
		RequestTimeout: v.Duration("replica.socket.timeout.ms"),
		MaxAnswerBytes: max(v.Int("socket.request.max.bytes"), 2*v.Int("replica.fetch.response.max.bytes")),
	})
}

// brokerAddress is where a broker listens for brokers.
func brokerAddress(img *metadata.Image, id int32, listener string) (string, bool) {
	b := img.Broker(id)
	if b == nil {
		return "", false
	}
	for _, e := range b.Endpoints {
		if strings.EqualFold(e.Listener, listener) {
			return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))), true
		}
	}
	return "", false
}

// replicationOptions connects the partitions with the other brokers and the
// controller.
func (n *Node) replicationOptions(o Options) replication.Options {
	var isolated func() bool
	if !n.quorum.alone() || o.Shared {
		isolated = func() bool { return n.controller.Isolated() }
	}
	return replication.Options{
		Isolated: isolated, Logs: n.logs, NodeID: n.id, Config: o.Config, Now: o.Now, Log: n.log, Incarnation: n.incarnation,
		Connect: func(leader int32, clientID string) replication.Leader { return n.peers.Leader(leader, clientID) },
		AlterPartition: func(ctx context.Context, changes []metadata.ISRChange) []metadata.ISRResult {
			return n.controller.AlterPartition(ctx, changes)
		},
		Offline: func(replicas metadata.Replicas) {
			if err := n.controller.SetOffline(replicas); err != nil {
				n.fail(err)
			}
		},
	}
}

// logEnds says how far this broker's logs go; see controller.Options.
func (n *Node) logEnds(ids []metadata.PartitionID) []controller.ReplicaEnd {
	ends := make([]controller.ReplicaEnd, len(ids))
	for i, id := range ids {
		p, err := n.partitions.PartitionByID(storage.TopicID(id.Topic), id.Partition)
		if err != nil {
			continue
		}
		if epoch, end, err := p.LogEnd(); err == nil {
			ends[i] = controller.ReplicaEnd{LogEnd: metadata.LogEnd{Epoch: epoch, Offset: end}, Known: true}
		}
	}
	return ends
}
