package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
)

// offsetDelete answers OffsetDelete, version 0 (KIP-496): deletes committed
// offsets of topics that the group's members do not subscribe to.
func offsetDelete(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.OffsetDeleteRequest)
	resp, err := callGroup[*kmsg.OffsetDeleteResponse](r.Ctx, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.OffsetDelete(now, t, req)
	})
	if err != nil {
		resp = req.ResponseKind().(*kmsg.OffsetDeleteResponse)
		resp.ErrorCode = protocol.Code(err)
		return resp, nil
	}
	resp.Version = req.Version
	img := b.Cluster.Image()
	for i := range resp.Topics {
		t := img.Topic(resp.Topics[i].Topic)
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			if t == nil || p.Partition < 0 || int(p.Partition) >= len(t.Partitions) {
				p.ErrorCode = kerr.UnknownTopicOrPartition.Code
			}
		}
	}
	return resp, nil
}
