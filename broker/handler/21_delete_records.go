package handler

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// deleteRecords answers DeleteRecords (KIP-107), versions 0 to 2; v2 is
// flexible.
//
// Records below the offset become unreadable at once and their segments are
// removed. Offset -1 stands for the high watermark. The answer is the low
// watermark, the smallest log start of all replicas that are up, and leaves
// when that has reached the offset, at the latest after the request's timeout
// with REQUEST_TIMED_OUT. Errors: OFFSET_OUT_OF_RANGE for an offset that is
// negative or above the high watermark, POLICY_VIOLATION for a topic that is
// only compacted, INVALID_TOPIC_EXCEPTION for the brokers' own topics. Of a
// partition that is named twice the last offset counts.
func deleteRecords(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DeleteRecordsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	ctx, cancel := context.WithTimeout(r.Ctx, time.Duration(req.TimeoutMillis)*time.Millisecond)
	defer cancel()

	topics := mergeDeletions(req.Topics)
	var waits []*replication.LowWatermarkWait
	for _, t := range topics {
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewDeleteRecordsResponseTopicPartition()
			rp.Partition = p.Partition
			wait, err := b.deleteBelow(t.Topic, p.Partition, p.Offset)
			rp.ErrorCode = protocol.Code(err)
			waits = append(waits, wait)
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	// Every partition was cut before the first is waited for.
	for _, rt := range resp.Topics {
		for i := range rt.Partitions {
			rp, wait := &rt.Partitions[i], waits[0]
			waits = waits[1:]
			rp.LowWatermark = -1
			if wait == nil {
				continue
			}
			low, err := wait.Wait(ctx)
			if rp.ErrorCode = protocol.Code(err); err == nil {
				rp.LowWatermark = low
			}
		}
	}
	return resp, nil
}

// mergeDeletions names every partition once, in the order of the request.
func mergeDeletions(asked []kmsg.DeleteRecordsRequestTopic) []kmsg.DeleteRecordsRequestTopic {
	var topics []kmsg.DeleteRecordsRequestTopic
	topicAt := map[string]int{}
	partitionAt := map[storage.TopicPartition]int{}
	for _, t := range asked {
		i, ok := topicAt[t.Topic]
		if !ok {
			i = len(topics)
			topicAt[t.Topic] = i
			topics = append(topics, kmsg.DeleteRecordsRequestTopic{Topic: t.Topic})
		}
		merged := &topics[i]
		for _, p := range t.Partitions {
			tp := storage.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			if j, ok := partitionAt[tp]; ok {
				merged.Partitions[j].Offset = p.Offset
				continue
			}
			partitionAt[tp] = len(merged.Partitions)
			merged.Partitions = append(merged.Partitions, p)
		}
	}
	return topics
}

func (b *Broker) deleteBelow(topic string, partition int32, offset int64) (*replication.LowWatermarkWait, error) {
	p, err := b.Partitions.Partition(topic, partition)
	if err != nil {
		return nil, err
	}
	return p.DeleteRecords(offset)
}
