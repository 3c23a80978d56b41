package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// leaveGroup answers LeaveGroup, versions 0 to 5: takes the sender out of its
// group, from v3 on several members of an administrator's choice (KIP-345),
// from v5 on with a reason for the log (KIP-800).
func leaveGroup(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.LeaveGroupRequest)
	resp, err := callGroup[*kmsg.LeaveGroupResponse](r.Ctx, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.LeaveGroup(now, t, req)
	})
	if err != nil {
		resp = req.ResponseKind().(*kmsg.LeaveGroupResponse)
		resp.ErrorCode = protocol.Code(err)
	}
	resp.Version = req.Version
	return resp, nil
}
