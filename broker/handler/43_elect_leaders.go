package handler

import (
	"fmt"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ElectLeaders (43), versions 0 to 2 (KIP-183). v1 added unclean elections and
// the error of the whole request (KIP-460), v2 is flexible.
//
// Null topics stand for all partitions. Then, as Kafka does, every topic is
// answered, with those of its partitions for which there was something to do.
func electLeaders(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ElectLeadersRequest)
	resp := req.ResponseKind().(*kmsg.ElectLeadersResponse)
	var topics []metadata.TopicPartitions
	if req.Topics != nil {
		topics = make([]metadata.TopicPartitions, 0, len(req.Topics))
	}
	for _, t := range req.Topics {
		topics = append(topics, metadata.TopicPartitions{Topic: t.Topic, Partitions: t.Partitions})
	}
	var results []metadata.PartitionResult
	var err error
	text := ""
	kind := metadata.ElectionType(req.ElectionType)
	if kind != metadata.PreferredElection && kind != metadata.UncleanElection {
		err, text = kerr.InvalidRequest, fmt.Sprintf("Unknown election type %d", kind)
	} else {
		ctx, cancel := r.withTimeout(req.TimeoutMillis)
		defer cancel()
		results, err = b.Cluster.ElectLeaders(ctx, kind, topics)
	}
	if err != nil {
		resp.ErrorCode = protocol.Code(err)
		for _, t := range topics {
			for _, n := range t.Partitions {
				results = append(results, metadata.PartitionResult{Topic: t.Topic, Partition: n, Err: err, Message: text})
			}
		}
	}
	if topics == nil && err == nil {
		for _, t := range b.Cluster.Image().Topics() {
			topics = append(topics, metadata.TopicPartitions{Topic: t.Name})
		}
	}
	resp.Topics = electionsByTopic(topics, results)
	return resp, nil
}

// electionsByTopic groups results, which are in the order of the topics and,
// where these name partitions, as many.
func electionsByTopic(topics []metadata.TopicPartitions, results []metadata.PartitionResult) []kmsg.ElectLeadersResponseTopic {
	out := make([]kmsg.ElectLeadersResponseTopic, 0, len(topics))
	for _, t := range topics {
		rt := kmsg.NewElectLeadersResponseTopic()
		rt.Topic = t.Topic
		for len(results) > 0 && results[0].Topic == t.Topic && (t.Partitions == nil || len(rt.Partitions) < len(t.Partitions)) {
			p := kmsg.NewElectLeadersResponseTopicPartition()
			p.Partition = results[0].Partition
			p.ErrorCode, p.ErrorMessage = failure(results[0].Err, results[0].Message)
			rt.Partitions = append(rt.Partitions, p)
			results = results[1:]
		}
		out = append(out, rt)
	}
	return out
}
