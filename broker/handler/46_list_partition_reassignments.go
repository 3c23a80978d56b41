package handler

import (
	"slices"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListPartitionReassignments (46), version 0 (KIP-455): the reassignments
// under way, of the named partitions or, for null topics, of all. What is
// unknown or at rest is left out.
func listPartitionReassignments(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ListPartitionReassignmentsRequest)
	resp := req.ResponseKind().(*kmsg.ListPartitionReassignmentsResponse)
	img := b.Cluster.Image()
	add := func(t *metadata.Topic, asked func(int32) bool) {
		rt := kmsg.NewListPartitionReassignmentsResponseTopic()
		rt.Topic = t.Name
		for n, p := range t.Partitions {
			if !p.Reassigning() || !asked(int32(n)) {
				continue
			}
			rp := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			rp.Partition, rp.Replicas = int32(n), p.Replicas
			rp.AddingReplicas, rp.RemovingReplicas = p.Adding, p.Removing
			rt.Partitions = append(rt.Partitions, rp)
		}
		if len(rt.Partitions) > 0 {
			resp.Topics = append(resp.Topics, rt)
		}
	}
	if req.Topics == nil {
		img.TopicsFrom("", func(t *metadata.Topic) bool {
			add(t, func(int32) bool { return true })
			return true
		})
		return resp, nil
	}
	for _, asked := range req.Topics {
		if t := img.Topic(asked.Topic); t != nil {
			add(t, func(n int32) bool { return slices.Contains(asked.Partitions, n) })
		}
	}
	return resp, nil
}
