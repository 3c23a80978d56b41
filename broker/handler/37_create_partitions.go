package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions (37), versions 0 to 3 (KIP-195). The versions answer alike.
// A topic that a request holds twice is INVALID_REQUEST, once. Above the
// client's controller_mutation_rate (KIP-599), v3 gets
// THROTTLING_QUOTA_EXCEEDED.
func createPartitions(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	topics := make([]metadata.NewPartitions, 0, len(req.Topics))
	counted := make(map[string]int, len(req.Topics))
	img := b.Cluster.Image()
	for i := range req.Topics {
		t := requestedPartitions(&req.Topics[i])
		n := 0
		if old := img.Topic(t.Topic); old != nil {
			n = max(0, int(t.Count)-len(old.Partitions))
		}
		if !r.mutate(n, 3) {
			o := kmsg.NewCreatePartitionsResponseTopic()
			o.Topic = t.Topic
			o.ErrorCode, o.ErrorMessage = failure(kerr.ThrottlingQuotaExceeded, throttledText)
			resp.Topics = append(resp.Topics, o)
			continue
		}
		counted[t.Topic] += n
		topics = append(topics, t)
	}
	if len(topics) == 0 {
		return resp, nil
	}
	ctx, cancel := r.withTimeout(req.TimeoutMillis)
	defer cancel()
	for _, res := range b.Cluster.CreatePartitions(ctx, topics, req.ValidateOnly) {
		o := kmsg.NewCreatePartitionsResponseTopic()
		o.Topic = res.Name
		if res.Err != nil {
			r.unmutate(counted[res.Name])
		} else if !req.ValidateOnly {
			res.Err = b.awaitReplicas(ctx, res.Name)
		}
		o.ErrorCode, o.ErrorMessage = failure(res.Err, res.Message)
		if o.ErrorCode == kerr.UnknownTopicOrPartition.Code {
			o.ErrorMessage = nil
		}
		resp.Topics = append(resp.Topics, o)
	}
	return resp, nil
}

func requestedPartitions(t *kmsg.CreatePartitionsRequestTopic) metadata.NewPartitions {
	n := metadata.NewPartitions{Topic: t.Topic, Count: t.Count}
	if t.Assignment != nil {
		n.Assignment = make([][]int32, len(t.Assignment))
	}
	for i, a := range t.Assignment {
		n.Assignment[i] = a.Replicas
	}
	return n
}
