package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
)

// offsetCommit answers OffsetCommit, versions 2 to 10: v2 to v4 may give the
// offsets a retention time of their own, v7 adds static members (KIP-345), v9
// members of consumer groups (KIP-848), v10 names topics by id (KIP-848).
//
// Offsets of topics and partitions that do not exist are refused one by one;
// the rest is committed.
func offsetCommit(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.OffsetCommitRequest)
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	img := b.Cluster.Image()
	known := *req
	known.Topics = nil
	for _, topic := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		t, unknown := commitTopic(img, req.Version, topic)
		if t != nil {
			topic.Topic, topic.TopicID = t.Name, t.ID
		}
		existing := topic
		existing.Partitions = make([]kmsg.OffsetCommitRequestTopicPartition, 0, len(topic.Partitions))
		for _, p := range topic.Partitions {
			if t == nil || p.Partition < 0 || int(p.Partition) >= len(t.Partitions) {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, unknown.Code
				rt.Partitions = append(rt.Partitions, rp)
				continue
			}
			existing.Partitions = append(existing.Partitions, p)
		}
		if len(existing.Partitions) > 0 {
			known.Topics = append(known.Topics, existing)
		}
		if len(rt.Partitions) > 0 || len(topic.Partitions) == 0 {
			resp.Topics = append(resp.Topics, rt)
		}
	}
	if len(known.Topics) > 0 {
		resp.Topics = mergeCommitted(resp.Topics, b.commitKnown(r, &known), req.Version)
	}
	return resp, nil
}

// commitTopic finds the topic, or says with which error its offsets are
// refused.
func commitTopic(img *metadata.Image, version int16, topic kmsg.OffsetCommitRequestTopic) (*metadata.Topic, *kerr.Error) {
	if version >= 10 {
		if t := img.TopicByID(topic.TopicID); t != nil {
			return t, kerr.UnknownTopicOrPartition
		}
		return nil, kerr.UnknownTopicID
	}
	return img.Topic(topic.Topic), kerr.UnknownTopicOrPartition
}

func (b *Broker) commitKnown(r *Request, req *kmsg.OffsetCommitRequest) []kmsg.OffsetCommitResponseTopic {
	done, err := callGroup[*kmsg.OffsetCommitResponse](r.Ctx, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.OffsetCommit(now, t, req)
	})
	if err == nil {
		return done.Topics
	}
	var topics []kmsg.OffsetCommitResponseTopic
	for _, topic := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		for _, p := range topic.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, protocol.Code(err)
			rt.Partitions = append(rt.Partitions, rp)
		}
		topics = append(topics, rt)
	}
	return topics
}

// mergeCommitted joins the refused partitions of a topic with the others, one
// entry a topic.
func mergeCommitted(refused, done []kmsg.OffsetCommitResponseTopic, version int16) []kmsg.OffsetCommitResponseTopic {
	same := func(x, y *kmsg.OffsetCommitResponseTopic) bool {
		if version >= 10 {
			return x.TopicID == y.TopicID
		}
		return x.Topic == y.Topic
	}
	out := refused
next:
	for i := range done {
		for j := range refused {
			if same(&refused[j], &done[i]) {
				out[j].Partitions = append(out[j].Partitions, done[i].Partitions...)
				continue next
			}
		}
		out = append(out, done[i])
	}
	return out
}
