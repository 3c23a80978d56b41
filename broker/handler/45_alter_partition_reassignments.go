package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterPartitionReassignments (45), versions 0 and 1 (KIP-455). v1 says
// whether the number of replicas may change (KIP-860); before, it may.
//
// Null replicas undo the reassignment under way. The answer leaves when the
// metadata says where the partition is to be, not when it is there.
func alterPartitionReassignments(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := req.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
	var asked []metadata.Reassignment
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			asked = append(asked, metadata.Reassignment{Topic: t.Topic, Partition: p.Partition, Replicas: p.Replicas})
		}
	}
	if len(req.Topics) == 0 {
		resp.ErrorMessage = new(string) // so answers Kafka
		return resp, nil
	}
	ctx, cancel := r.withTimeout(req.TimeoutMillis)
	defer cancel()
	results, err := b.Cluster.Reassign(ctx, asked, req.Version < 1 || req.AllowReplicationFactorChange)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = failure(err, "")
		return resp, nil
	}
	for _, t := range req.Topics {
		rt := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		rt.Topic = t.Topic
		for range t.Partitions {
			p := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			p.Partition = results[0].Partition
			p.ErrorCode, p.ErrorMessage = protocol.Code(results[0].Err), message(results[0].Message)
			rt.Partitions = append(rt.Partitions, p)
			results = results[1:]
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}
