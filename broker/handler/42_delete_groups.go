package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// deleteGroups answers DeleteGroups, versions 0 to 2 (KIP-229): deletes groups
// without members, with their offsets.
func deleteGroups(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DeleteGroupsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	for _, id := range req.Groups {
		g, err := callGroup[*kmsg.DeleteGroupsResponseGroup](r.Ctx, b, id, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
			return s.DeleteGroup(now, t, id)
		})
		if err != nil {
			failed := kmsg.NewDeleteGroupsResponseGroup()
			failed.Group, failed.ErrorCode = id, protocol.Code(err)
			g = &failed
		}
		resp.Groups = append(resp.Groups, *g)
	}
	return resp, nil
}
