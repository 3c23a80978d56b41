package handler

import (
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// describeGroups answers DescribeGroups, versions 0 to 6: the state and the
// members of classic groups. v3 adds the allowed operations (KIP-430), v4
// instance ids (KIP-345), v6 says GROUP_ID_NOT_FOUND instead of Dead (KIP-1043).
func describeGroups(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeGroupsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	room := b.room()
	for _, id := range req.Groups {
		if room.full(&kmsg.DescribeGroupsResponse{Version: req.Version, Groups: last(resp.Groups)}) {
			g := kmsg.NewDescribeGroupsResponseGroup()
			g.Group, g.ErrorCode = id, errNoRoom.Code
			resp.Groups = append(resp.Groups, g)
			continue
		}
		g, err := callGroup[*kmsg.DescribeGroupsResponseGroup](r.Ctx, b, id, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
			return s.DescribeGroup(now, t, id, req.Version)
		})
		if err != nil {
			failed := kmsg.NewDescribeGroupsResponseGroup()
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

// groupOperations are the operations on a group that everybody may do while
// there is no authorizer: READ, DELETE and DESCRIBE, as bits (KIP-430).
const groupOperations = 1<<3 | 1<<6 | 1<<8
