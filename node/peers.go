package node

import (
	"context"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/peer"
)

// newNodes makes the way to the other nodes as parts of the cluster: to the
// controller, and to brokers where they listen for brokers.
func newNodes(v *config.Values, id int32, image func() *metadata.Image) *peer.Peers {
	listener := v.InterBrokerListener()
	return peer.New(peer.Options{
		ClientID: fmt.Sprintf("node-%d", id),
		Address:  func(id int32) (string, bool) { return nodeAddress(image(), id, listener) },

		ConnectTimeout: v.Duration("socket.connection.setup.timeout.ms"),
		RequestTimeout: v.Duration("controller.socket.timeout.ms"),
	})
}

func nodeAddress(img *metadata.Image, id int32, listener string) (string, bool) {
	if address, ok := controllerAddress(img, id, listener); ok {
		return address, true
	}
	return brokerAddress(img, id, listener)
}

// controllerAddress is where the node that is controller is asked.
func controllerAddress(img *metadata.Image, id int32, listener string) (string, bool) {
	switch {
	case img.ControllerID() != id:
		return "", false
	case img.ControllerAddress() != "":
		return img.ControllerAddress(), true
	}
	return brokerAddress(img, id, listener)
}

// call asks another node; see controller.Call.
func (n *Node) call(ctx context.Context, id int32, message []byte) ([]byte, error) {
	req := kmsg.NewPtrEnvelopeRequest()
	req.RequestData = message
	req.ClientHostAddress = []byte{}
	resp, err := n.nodes.Request(ctx, id, req)
	if err != nil {
		return nil, err
	}
	answer := resp.(*kmsg.EnvelopeResponse)
	if answer.ErrorCode != 0 {
		return nil, kerr.ErrorForCode(answer.ErrorCode)
	}
	return answer.ResponseData, nil
}

// guard watches over the processes of other nodes; see sentinel.
func (n *Node) guard(v *config.Values) {
	listener := v.InterBrokerListener()
	s := &sentinel{
		controller: n.controller, id: n.id, candidate: n.quorum.controller, log: n.log,
		address: func(img *metadata.Image, id int32) (string, bool) {
			if address, ok := brokerAddress(img, id, listener); ok {
				return address, true
			}
			return controllerAddress(img, id, listener)
		},
		gone: n.memberGone, sleep: sleep,
	}
	n.background.Go(func() { s.run(n.ctx, func(f func()) { n.background.Go(f) }) })
}

// memberGone lets the store elect another leader, if it keeps members in nodes and
// the one of a dead process was it.
func (n *Node) memberGone(ctx context.Context, id int32) {
	store, ok := n.store.(interface {
		MemberGone(ctx context.Context, name string) error
	})
	if !ok {
		return
	}
	if err := store.MemberGone(ctx, strconv.Itoa(int(id))); err != nil && ctx.Err() == nil {
		n.log.Warn().Err(err).Int32("node", id).Msg("the members of the store elect their leader in their own time")
	}
}
