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

// offsetFetch answers OffsetFetch, versions 1 to 10: the committed offsets of
// a group. From v2 on no topics (null) means all; v7 can insist on offsets
// that no open transaction may change (KIP-447); v8 asks for many groups
// (KIP-709); v9 comes from members of consumer groups (KIP-848); v10 names
// topics by id.
func offsetFetch(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.OffsetFetchRequest)
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.Version >= 8 {
		room := b.room()
		for i := range req.Groups {
			if room.full(&kmsg.OffsetFetchResponse{Version: req.Version, Groups: last(resp.Groups)}) {
				g := kmsg.NewOffsetFetchResponseGroup()
				g.Group, g.ErrorCode = req.Groups[i].Group, errNoRoom.Code
				resp.Groups = append(resp.Groups, g)
				continue
			}
			resp.Groups = append(resp.Groups, b.fetchGroup(r, &req.Groups[i], req.Version, req.RequireStable))
		}
		return resp, nil
	}
	one := kmsg.NewOffsetFetchRequestGroup()
	one.Group = req.Group
	if req.Topics != nil {
		one.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = t.Topic, t.Partitions
		one.Topics = append(one.Topics, gt)
	}
	g := b.fetchGroup(r, &one, req.Version, req.RequireStable)
	resp.ErrorCode = g.ErrorCode
	for _, t := range g.Topics {
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (b *Broker) fetchGroup(r *Request, req *kmsg.OffsetFetchRequestGroup, version int16, requireStable bool) kmsg.OffsetFetchResponseGroup {
	img := b.Cluster.Image()
	unknown := map[[16]byte]bool{}
	if version >= 10 {
		nameTopics(img, req, unknown)
	}
	g, err := callGroup[*kmsg.OffsetFetchResponseGroup](r.Ctx, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.OffsetFetch(now, t, req, requireStable)
	})
	if err != nil {
		failed := kmsg.NewOffsetFetchResponseGroup()
		failed.Group, failed.ErrorCode = req.Group, protocol.Code(err)
		if version < 2 {
			failed.Topics = failedTopics(req.Topics, failed.ErrorCode)
		}
		return failed
	}
	if version >= 10 {
		identifyTopics(img, g, req.Topics == nil, unknown)
	}
	return *g
}

// nameTopics fills in the names of topics that are given by id, and notes
// those that do not exist.
func nameTopics(img *metadata.Image, req *kmsg.OffsetFetchRequestGroup, unknown map[[16]byte]bool) {
	for i := range req.Topics {
		if t := img.TopicByID(req.Topics[i].TopicID); t != nil {
			req.Topics[i].Topic = t.Name
		} else {
			unknown[req.Topics[i].TopicID] = true
		}
	}
}

// identifyTopics gives the topics of an answer their ids. Of all offsets of a
// group, those of topics that are gone cannot be named and are left out.
func identifyTopics(img *metadata.Image, g *kmsg.OffsetFetchResponseGroup, all bool, unknown map[[16]byte]bool) {
	kept := g.Topics[:0]
	for _, rt := range g.Topics {
		if t := img.Topic(rt.Topic); all && t != nil {
			rt.TopicID = t.ID
		} else if all {
			continue
		}
		if unknown[rt.TopicID] {
			for i := range rt.Partitions {
				p := &rt.Partitions[i]
				p.Offset, p.LeaderEpoch, p.ErrorCode = -1, -1, kerr.UnknownTopicID.Code
			}
		}
		kept = append(kept, rt)
	}
	g.Topics = kept
}

// failedTopics carries an error where v1 has no other place for it.
func failedTopics(topics []kmsg.OffsetFetchRequestGroupTopic, code int16) []kmsg.OffsetFetchResponseGroupTopic {
	var out []kmsg.OffsetFetchResponseGroupTopic
	for _, t := range topics {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			empty := ""
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p, -1, -1, &empty, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		out = append(out, rt)
	}
	return out
}
