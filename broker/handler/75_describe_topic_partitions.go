package handler

import (
	"slices"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTopicPartitions (75), version 0 (KIP-966): the partitions of topics
// with their eligible leader replicas, page by page.
//
//   - No topics means all of them. Topics come in order of their names.
//   - A page holds as many partitions as asked for, within
//     max.request.partition.size.limit and at least one; the cursor names the
//     partition to go on with. A cursor that is not among the topics asked for
//     is INVALID_REQUEST for all of them.
func describeTopicPartitions(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeTopicPartitionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	v := b.view(r)
	names, ok := pageTopics(v.img, req)
	if !ok {
		for i := range req.Topics {
			t := kmsg.NewDescribeTopicPartitionsResponseTopic()
			t.ErrorCode, t.Topic = kerr.InvalidRequest.Code, &req.Topics[i].Topic
			resp.Topics = append(resp.Topics, t)
		}
		return resp, nil
	}
	left := max(1, min(int(req.ResponsePartitionLimit), b.Config.Int("max.request.partition.size.limit")))
	for _, name := range names {
		if left == 0 {
			resp.NextCursor = pageCursor(name, 0)
			break
		}
		first := 0
		if req.Cursor != nil && req.Cursor.Topic == name {
			first = int(req.Cursor.Partition)
		}
		t, next := v.page(name, first, left)
		resp.Topics = append(resp.Topics, t)
		left -= len(t.Partitions)
		if next > 0 {
			resp.NextCursor = pageCursor(name, next)
			break
		}
	}
	return resp, nil
}

// pageTopics returns the names from the cursor on, sorted.
func pageTopics(img *metadata.Image, req *kmsg.DescribeTopicPartitionsRequest) (names []string, ok bool) {
	from := ""
	if req.Cursor != nil {
		if req.Cursor.Partition < 0 {
			return nil, false
		}
		from = req.Cursor.Topic
	}
	if len(req.Topics) == 0 {
		img.TopicsFrom(from, func(t *metadata.Topic) bool {
			names = append(names, t.Name)
			// A page holds no more topics than partitions.
			return len(names) <= max(1, int(req.ResponsePartitionLimit))
		})
		return names, true
	}
	for i := range req.Topics {
		if name := req.Topics[i].Topic; name >= from {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names, req.Cursor == nil || slices.Contains(names, from)
}

func pageCursor(topic string, partition int) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, int32(partition)
	return &c
}

// page describes up to limit partitions of a topic; next is the partition to go
// on with, 0 when there is none.
func (v view) page(name string, first, limit int) (o kmsg.DescribeTopicPartitionsResponseTopic, next int) {
	o = kmsg.NewDescribeTopicPartitionsResponseTopic()
	o.Topic = &name
	o.AuthorizedOperations = topicOperations
	t := v.img.Topic(name)
	if t == nil {
		o.ErrorCode = kerr.UnknownTopicOrPartition.Code
		if !metadata.ValidTopicName(name) {
			o.ErrorCode = kerr.InvalidTopicException.Code
		}
		return o, 0
	}
	o.TopicID, o.IsInternal = t.ID, t.Internal
	for i := first; i < len(t.Partitions); i++ {
		if i-first == limit {
			return o, i
		}
		p := t.Partitions[i]
		seen := v.partition(p, false, false)
		op := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		op.Partition, op.ErrorCode = int32(i), seen.code
		op.LeaderID, op.LeaderEpoch = seen.leader, seen.epoch
		op.Replicas, op.ISR, op.OfflineReplicas = seen.replicas, seen.isr, seen.offline
		op.EligibleLeaderReplicas, op.LastKnownELR = notNull(p.ELR), notNull(p.LastKnownELR)
		o.Partitions = append(o.Partitions, op)
	}
	return o, 0
}

func notNull(ids []int32) []int32 {
	if ids == nil {
		return []int32{}
	}
	return ids
}
