package handler

import (
	"slices"

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
// the controller leads, the servers of the store are the voters, and the other
// brokers, which follow by watching, are observers. Where the servers are not
// known, as with a store elsewhere, the controller stands for them. Any other
// partition is unknown. Directory ids are
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
				resp.Nodes = b.describeQuorum(r, &rp)
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
func (b *Broker) describeQuorum(r *Request, p *kmsg.DescribeQuorumResponseTopicPartition) []kmsg.DescribeQuorumResponseNode {
	v := b.view(r)
	p.ErrorMessage = new(string)
	p.LeaderID, p.LeaderEpoch, p.HighWatermark = v.img.ControllerID(), v.img.ControllerEpoch(), v.img.Revision
	now := b.Now().UnixMilli()
	var nodes []kmsg.DescribeQuorumResponseNode
	members := b.quorumMembers(r, v)
	for _, m := range members {
		s := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		s.ReplicaID, s.LogEndOffset = m.ID, m.Revision
		if m.ID == p.LeaderID {
			s.LogEndOffset = max(m.Revision, v.img.Revision)
		}
		if s.LogEndOffset >= 0 {
			s.LastFetchTimestamp = now
		}
		if s.LogEndOffset >= v.img.Revision {
			s.LastCaughtUpTimestamp = now
		}
		if !m.Voter {
			p.Observers = append(p.Observers, s)
			continue
		}
		p.CurrentVoters = append(p.CurrentVoters, s)
		node := kmsg.NewDescribeQuorumResponseNode()
		node.NodeID = m.ID
		if m.Host != "" {
			l := kmsg.NewDescribeQuorumResponseNodeListener()
			l.Name, l.Host, l.Port = m.Listener, m.Host, m.Port
			node.Listeners = append(node.Listeners, l)
		}
		nodes = append(nodes, node)
	}
	for _, br := range v.img.Brokers() {
		if slices.ContainsFunc(members, func(m QuorumMember) bool { return m.ID == br.ID }) {
			continue
		}
		s := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		// How far a watch has come is known to its broker alone.
		s.ReplicaID, s.LogEndOffset = br.ID, -1
		p.Observers = append(p.Observers, s)
	}
	return nodes
}

// quorumMembers are the servers of the metadata; the controller alone where they
// are not known.
func (b *Broker) quorumMembers(r *Request, v view) []QuorumMember {
	if b.Quorum != nil {
		members, err := b.Quorum.Members(r.Ctx)
		if err != nil {
			b.Log.Warn().Err(err).Msg("the servers of the metadata do not answer")
		}
		if len(members) > 0 {
			return members
		}
	}
	id := v.img.ControllerID()
	if id < 0 {
		return nil
	}
	m := QuorumMember{ID: id, Voter: true, Revision: -1}
	if br := v.img.Broker(id); br != nil {
		if e, ok := v.endpoint(br); ok {
			m.Listener, m.Host, m.Port = e.Listener, e.Host, uint16(e.Port)
		}
	}
	return []QuorumMember{m}
}
