package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// syncGroup answers SyncGroup, versions 0 to 5: takes the assignment from the
// leader of a classic group and hands each member its part; a member waits for
// the leader. v5 checks the protocol that the member believes in (KIP-559).
func syncGroup(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.SyncGroupRequest)
	resp, err := awaitGroup[*kmsg.SyncGroupResponse](r.Draining, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.SyncGroup(now, t, req)
	})
	if err != nil {
		resp = req.ResponseKind().(*kmsg.SyncGroupResponse)
		resp.ErrorCode, resp.MemberAssignment = protocol.Code(err), []byte{}
	}
	resp.Version = req.Version
	return resp, nil
}
