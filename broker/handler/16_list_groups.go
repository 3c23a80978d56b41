package handler

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// listGroups answers ListGroups, versions 0 to 5: the groups that this broker
// coordinates, by state from v4 on (KIP-518) and by type from v5 on (KIP-848).
// While a shard is still loading the answer is COORDINATOR_LOAD_IN_PROGRESS:
// an incomplete list would look like a complete one.
func listGroups(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ListGroupsRequest)
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	if b.Groups == nil {
		resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
		return resp, nil
	}
	ctx, cancel := b.commitTimeout(r.Ctx)
	defer cancel()
	for _, p := range slices.Sorted(maps.Keys(b.Groups.Partitions())) {
		v, err := b.Groups.Call(ctx, p, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
			return s.ListGroups(now, t, req.StatesFilter, req.TypesFilter)
		})
		if errors.Is(err, kerr.NotCoordinator) {
			continue // another broker's by now
		}
		if err != nil {
			resp.ErrorCode, resp.Groups = protocol.Code(coordinatorError(notInTime(ctx, err))), nil
			return resp, nil
		}
		groups, _ := v.([]kmsg.ListGroupsResponseGroup)
		resp.Groups = append(resp.Groups, groups...)
	}
	return resp, nil
}
