package handler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// stuckGroups is a coordinator whose records are not committed: nobody is answered.
type stuckGroups struct{}

func (stuckGroups) Partitions() map[int32]bool { return map[int32]bool{0: true} }

func (stuckGroups) Call(ctx context.Context, _ int32, _ runtime.Handler[*group.Shard]) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Who waits for a follower that does not fetch is told to try again, so that what
// comes next on the connection, a heartbeat perhaps, has its turn. A member that
// waits for the others does not mind.
func TestGroupsAnswerInTime(t *testing.T) {
	b := newTestBroker(t, "offsets.commit.timeout.ms", "700")
	b.Groups = stuckGroups{}
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Group = "g"
	beat := kmsg.NewPtrHeartbeatRequest()
	leave := kmsg.NewPtrLeaveGroupRequest()
	next := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	list := kmsg.NewPtrListGroupsRequest()
	list.Version = 5
	remove := kmsg.NewPtrDeleteGroupsRequest()
	remove.Groups = []string{"g"}
	call := func(r *Request, f Func) (kmsg.Response, time.Duration) {
		began := time.Now()
		resp, err := f(b.Broker, r)
		if err != nil {
			t.Fatal(err)
		}
		return resp, time.Since(began)
	}
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			req    kmsg.Request
			handle Func
			code   func(kmsg.Response) int16
		}{
			{fetch, offsetFetch, func(r kmsg.Response) int16 { return r.(*kmsg.OffsetFetchResponse).ErrorCode }},
			{beat, heartbeat, func(r kmsg.Response) int16 { return r.(*kmsg.HeartbeatResponse).ErrorCode }},
			{leave, leaveGroup, func(r kmsg.Response) int16 { return r.(*kmsg.LeaveGroupResponse).ErrorCode }},
			{next, consumerGroupHeartbeat, func(r kmsg.Response) int16 { return r.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode }},
			{list, listGroups, func(r kmsg.Response) int16 { return r.(*kmsg.ListGroupsResponse).ErrorCode }},
			{remove, deleteGroups, func(r kmsg.Response) int16 { return r.(*kmsg.DeleteGroupsResponse).Groups[0].ErrorCode }},
		} {
			resp, took := call(&Request{Body: c.req, Ctx: t.Context(), Draining: t.Context(), Conn: &ConnInfo{}}, c.handle)
			if code := c.code(resp); code != kerr.CoordinatorNotAvailable.Code || took != 700*time.Millisecond {
				t.Errorf("%T: %v after %v", c.req, kerr.ErrorForCode(code), took)
			}
		}
		if _, err := callGroup[*kmsg.OffsetCommitResponse](t.Context(), b.Broker, "g", nil); protocol.Code(err) != kerr.CoordinatorNotAvailable.Code {
			t.Errorf("commit: %v", err)
		}
		for _, c := range []struct {
			req    kmsg.Request
			handle Func
		}{{kmsg.NewPtrJoinGroupRequest(), joinGroup}, {kmsg.NewPtrSyncGroupRequest(), syncGroup}} {
			draining, end := context.WithTimeout(t.Context(), time.Hour)
			if _, took := call(&Request{Body: c.req, Ctx: t.Context(), Draining: draining, Conn: &ConnInfo{}}, c.handle); took != time.Hour {
				t.Errorf("%T ended after %v", c.req, took)
			}
			end()
		}
	})
}
