package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
)

// describeProducers answers DescribeProducers (KIP-664), version 0: the
// idempotent and transactional producers that a partition's leader remembers.
// An impossible topic name is INVALID_TOPIC_EXCEPTION and an unknown topic
// UNKNOWN_TOPIC_OR_PARTITION, both with a message; a partition that its topic
// does not have, the latter without one.
func describeProducers(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeProducersRequest)
	resp := req.ResponseKind().(*kmsg.DescribeProducersResponse)
	img := b.Cluster.Image()
	room := b.room()
	for _, t := range req.Topics {
		rt := kmsg.NewDescribeProducersResponseTopic()
		rt.Topic = t.Topic
		message, whole := topicProblem(img, t.Topic)
		for _, n := range t.Partitions {
			rp := kmsg.NewDescribeProducersResponseTopicPartition()
			rp.Partition = n
			before := kmsg.DescribeProducersResponseTopic{Partitions: last(rt.Partitions)}
			switch {
			case room.full(&kmsg.DescribeProducersResponse{Topics: []kmsg.DescribeProducersResponseTopic{before}}):
				rp.ErrorCode = errNoRoom.Code
			case whole != nil:
				rp.ErrorCode, rp.ErrorMessage = protocol.Code(whole), &message
			default:
				active, err := b.activeProducers(t.Topic, n)
				rp.ErrorCode, rp.ActiveProducers = protocol.Code(err), describedProducers(active)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

// topicProblem tells what is wrong with a topic as a whole, also in words.
func topicProblem(img *metadata.Image, name string) (message string, err error) {
	if problem := metadata.NameProblem(name); problem != "" {
		return problem, kerr.InvalidTopicException
	}
	if img.Topic(name) == nil {
		return kerr.UnknownTopicOrPartition.Description, kerr.UnknownTopicOrPartition
	}
	return "", nil
}

func (b *Broker) activeProducers(topic string, partition int32) ([]storage.ProducerState, error) {
	p, err := b.Partitions.Partition(topic, partition)
	if err != nil {
		return nil, err
	}
	return p.ActiveProducers()
}

func describedProducers(active []storage.ProducerState) []kmsg.DescribeProducersResponseTopicPartitionActiveProducer {
	described := make([]kmsg.DescribeProducersResponseTopicPartitionActiveProducer, 0, len(active))
	for _, s := range active {
		d := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		d.ProducerID, d.ProducerEpoch = s.ProducerID, int32(s.ProducerEpoch)
		d.LastSequence, d.LastTimestamp = s.LastSequence, s.LastTimestamp
		d.CoordinatorEpoch, d.CurrentTxnStartOffset = s.CoordinatorEpoch, s.TxnStartOffset
		described = append(described, d)
	}
	return described
}
