package handler

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
)

// offsetForLeaderEpoch answers OffsetForLeaderEpoch (KIP-101, KIP-279),
// versions 2 to 4: where an epoch ended in the leader's log, by which consumers
// and followers find out what they have that the leader has not. The answer
// names the largest epoch that is not above the one asked for; -1 and -1 when
// the log does not know. v2 brought the current leader epoch (KIP-320), v3 the
// replica id, v4 is flexible. Whoever asks gets the same answer, from the
// leader only.
func offsetForLeaderEpoch(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.OffsetForLeaderEpochRequest)
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	var news newsWait
	defer news.end()
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		for _, q := range t.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition = q.Partition
			end, err := b.epochEnd(r, &news, req.ReplicaID, t.Topic, q)
			rp.ErrorCode = protocol.Code(err)
			rp.LeaderEpoch, rp.EndOffset = end.Epoch, end.EndOffset
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (b *Broker) epochEnd(r *Request, news *newsWait, replica int32, topic string, q kmsg.OffsetForLeaderEpochRequestTopicPartition) (replication.EpochEnd, error) {
	p, err := b.Partitions.Partition(topic, q.Partition)
	if err != nil {
		return replication.EpochEnd{Epoch: -1, EndOffset: -1}, err
	}
	end, err := p.EpochEnd(q.CurrentLeaderEpoch, q.LeaderEpoch)
	if news.heard(r, p, replica, q.CurrentLeaderEpoch, err) {
		return p.EpochEnd(q.CurrentLeaderEpoch, q.LeaderEpoch)
	}
	return end, err
}
