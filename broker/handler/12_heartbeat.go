package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// heartbeat answers Heartbeat, versions 0 to 4: keeps a member of a classic
// group alive and tells it to join again. v3 adds static members (KIP-345).
func heartbeat(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.HeartbeatRequest)
	resp, err := callGroup[*kmsg.HeartbeatResponse](r.Ctx, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.Heartbeat(now, t, req)
	})
	if err != nil {
		resp = req.ResponseKind().(*kmsg.HeartbeatResponse)
		// A member is alive while its group is still being loaded: it learns of
		// everything else with the next heartbeat.
		if resp.ErrorCode = protocol.Code(err); resp.ErrorCode == kerr.CoordinatorLoadInProgress.Code {
			resp.ErrorCode = 0
		}
	}
	resp.Version = req.Version
	return resp, nil
}
