package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// consumerGroupHeartbeat answers ConsumerGroupHeartbeat, versions 0 and 1
// (KIP-848): the whole life of a member of a consumer group. v1 adds
// subscription by regular expression, and leaves the choice of member ids to
// the clients. Where the protocol is switched off the answer is
// UNSUPPORTED_VERSION.
func consumerGroupHeartbeat(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ConsumerGroupHeartbeatRequest)
	if !b.consumerProtocol() {
		resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		return resp, nil
	}
	client := groupClient(r)
	resp, err := callGroup[*kmsg.ConsumerGroupHeartbeatResponse](r.Ctx, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.ConsumerGroupHeartbeat(now, t, req, client)
	})
	if err != nil {
		resp = req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		resp.ErrorCode = protocol.Code(err)
	}
	resp.Version = req.Version
	return resp, nil
}
