package handler

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// movingGroups are two shards, one of which has an error for everybody.
type movingGroups struct{ err error }

func (movingGroups) Partitions() map[int32]bool { return map[int32]bool{0: true, 1: true} }

func (g movingGroups) Call(_ context.Context, partition int32, _ runtime.Handler[*group.Shard]) (any, error) {
	if partition == 0 {
		return nil, fmt.Errorf("partition 0: %w", g.err)
	}
	return []kmsg.ListGroupsResponseGroup{{Group: "g"}}, nil
}

// A shard that another broker has taken over meanwhile is that one's to list. As
// Kafka, which leaves it out too.
func TestListGroupsWhileShardsMove(t *testing.T) {
	b := newTestBroker(t)
	for _, c := range []struct {
		shard, want *kerr.Error
		groups      int
	}{
		{kerr.NotCoordinator, nil, 1},
		{kerr.CoordinatorLoadInProgress, kerr.CoordinatorLoadInProgress, 0},
	} {
		b.Groups = movingGroups{c.shard}
		req := kmsg.NewPtrListGroupsRequest()
		req.Version = 5
		r, err := listGroups(b.Broker, &Request{Body: req, Ctx: t.Context()})
		if err != nil {
			t.Fatal(err)
		}
		resp := r.(*kmsg.ListGroupsResponse)
		if got := kerr.TypedErrorForCode(resp.ErrorCode); got != c.want || len(resp.Groups) != c.groups {
			t.Errorf("%v: answered %v, %d groups", c.shard, got, len(resp.Groups))
		}
	}
}
