package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeQuorum (55), versions 0 to 2 (KIP-595). v1 added the times of
// replicas (KIP-836), v2 directory ids, messages and the nodes' endpoints
// (KIP-853).
//
// Kafka keeps its metadata in a log of its own, the topic __cluster_metadata.
// Here it is in a store whose revisions take the place of that log's offsets:
// the controller leads, and the other brokers, which follow by watching the
// store, are its observers. Any other partition is unknown. Directory ids are
// zero, as in a quorum that controller.quorum.voters describes.
func describeQuorum(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeQuorumRequest)
	resp := req.ResponseKind().(*kmsg.DescribeQuorumResponse)
	resp.ErrorMessage = new(string)
	known := len(req.Topics) == 1 && req.Topics[0].Topic == metadata.ClusterMetadataTopic &&
		len(req.Topics[0].Partitions) == 1 && req.Topics[0].Partitions[0].Partition == 0
	for _, t := range req.Topics {
		rt := kmsg.NewDescribeQuorumResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewDescribeQuorumResponseTopicPartition()
			rp.Partition = p.Partition
			if known {
				resp.Nodes = b.describeQuorum(b.view(r), &rp)
			} else {
				text := "This server does not host this topic-partition."
				rp.ErrorCode, rp.ErrorMessage = kerr.UnknownTopicOrPartition.Code, &text
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

// describeQuorum fills in the one partition there is and returns the voters'
// endpoints.
func (b *Broker) describeQuorum(v view, p *kmsg.DescribeQuorumResponseTopicPartition) []kmsg.DescribeQuorumResponseNode {
	p.ErrorMessage = new(string)
	p.LeaderID, p.LeaderEpoch, p.HighWatermark = v.img.ControllerID(), v.img.ControllerEpoch(), v.img.Revision
	now := b.Now().UnixMilli()
	var nodes []kmsg.DescribeQuorumResponseNode
	for _, br := range v.img.Brokers() {
		s := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		s.ReplicaID = br.ID
		if br.ID != p.LeaderID {
			// How far a watch has come is known to its broker alone.
			s.LogEndOffset = -1
			p.Observers = append(p.Observers, s)
			continue
		}
		s.LogEndOffset, s.LastFetchTimestamp, s.LastCaughtUpTimestamp = v.img.Revision, now, now
		p.CurrentVoters = append(p.CurrentVoters, s)
		node := kmsg.NewDescribeQuorumResponseNode()
		node.NodeID = br.ID
		if e, ok := v.endpoint(br); ok {
			l := kmsg.NewDescribeQuorumResponseNodeListener()
			l.Name, l.Host, l.Port = e.Listener, e.Host, uint16(e.Port)
			node.Listeners = append(node.Listeners, l)
		}
		nodes = append(nodes, node)
	}
	return nodes
}
