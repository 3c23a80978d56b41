package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions (37), versions 0 to 3 (KIP-195). The versions answer alike.
// A topic that a request holds twice is INVALID_REQUEST, once.
func createPartitions(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	topics := make([]metadata.NewPartitions, len(req.Topics))
	for i := range req.Topics {
		t := &req.Topics[i]
		topics[i] = metadata.NewPartitions{Topic: t.Topic, Count: t.Count}
		if t.Assignment != nil {
			topics[i].Assignment = make([][]int32, len(t.Assignment))
		}
		for n, a := range t.Assignment {
			topics[i].Assignment[n] = a.Replicas
		}
	}
	ctx, cancel := r.withTimeout(req.TimeoutMillis)
	defer cancel()
	for _, res := range b.Cluster.CreatePartitions(ctx, topics, req.ValidateOnly) {
		o := kmsg.NewCreatePartitionsResponseTopic()
		o.Topic = res.Name
		o.ErrorCode, o.ErrorMessage = failure(res.Err, res.Message)
		if o.ErrorCode == kerr.UnknownTopicOrPartition.Code {
			o.ErrorMessage = nil
		}
		resp.Topics = append(resp.Topics, o)
	}
	return resp, nil
}
