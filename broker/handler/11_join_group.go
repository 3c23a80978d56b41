package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// joinGroup answers JoinGroup, versions 0 to 9: v4 has a new member learn its
// id first (KIP-394), v5 adds static members (KIP-345), v9 tells a leader that
// came back not to assign again (KIP-814). The call waits until the rebalance
// that it belongs to is over.
func joinGroup(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.JoinGroupRequest)
	client := groupClient(r)
	resp, err := awaitGroup[*kmsg.JoinGroupResponse](r.Draining, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.JoinGroup(now, t, req, client)
	})
	if err != nil {
		resp = req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode, resp.Generation, resp.MemberID = protocol.Code(err), -1, req.MemberID
	}
	resp.Version = req.Version
	return resp, nil
}
