package handler

import (
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// consumerGroupDescribe answers ConsumerGroupDescribe, versions 0 and 1
// (KIP-848): epochs, members, and what each has and is to have. v1 tells which
// protocol a member speaks.
func consumerGroupDescribe(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ConsumerGroupDescribeRequest)
	resp := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	room := b.room()
	for _, id := range req.Groups {
		if !b.consumerProtocol() {
			g := kmsg.NewConsumerGroupDescribeResponseGroup()
			g.Group, g.ErrorCode = id, kerr.UnsupportedVersion.Code
			resp.Groups = append(resp.Groups, g)
			continue
		}
		if room.full(&kmsg.ConsumerGroupDescribeResponse{Version: req.Version, Groups: last(resp.Groups)}) {
			g := kmsg.NewConsumerGroupDescribeResponseGroup()
			g.Group, g.ErrorCode = id, errNoRoom.Code
			resp.Groups = append(resp.Groups, g)
			continue
		}
		g, err := callGroup[*kmsg.ConsumerGroupDescribeResponseGroup](r.Ctx, b, id, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
			return s.DescribeConsumerGroup(now, t, id)
		})
		if err != nil {
			failed := kmsg.NewConsumerGroupDescribeResponseGroup()
			failed.Group, failed.ErrorCode = id, protocol.Code(err)
			g = &failed
		}
		g.AuthorizedOperations = math.MinInt32
		if req.IncludeAuthorizedOperations && g.ErrorCode == 0 {
			g.AuthorizedOperations = groupOperations
		}
		resp.Groups = append(resp.Groups, *g)
	}
	return resp, nil
}
