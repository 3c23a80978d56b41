package handler

import (
	"slices"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteTopics (20), versions 1 to 6.
//
//   - v5 added messages, v6 (KIP-516) topics named by id.
//   - delete.topic.enable=false: TOPIC_DELETION_DISABLED for every topic,
//     INVALID_REQUEST before v3.
//   - A topic that a request holds twice, by name or by id, is INVALID_REQUEST,
//     once.
func deleteTopics(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DeleteTopicsRequest)
	d := topicDeletion{img: b.Cluster.Image(), resp: req.ResponseKind().(*kmsg.DeleteTopicsResponse)}
	asked := req.Topics
	if req.Version < 6 {
		asked = make([]kmsg.DeleteTopicsRequestTopic, len(req.TopicNames))
		for i := range req.TopicNames {
			asked[i].Topic = &req.TopicNames[i]
		}
	}
	if !b.Config.Bool("delete.topic.enable") {
		err := kerr.TopicDeletionDisabled
		if req.Version < 3 {
			err = kerr.InvalidRequest
		}
		for i := range asked {
			d.fail(asked[i].Topic, asked[i].TopicID, err, "Topic deletion is disabled.")
		}
		return d.resp, nil
	}
	d.check(asked)
	d.meter(r)
	if len(d.refs) > 0 {
		ctx, cancel := r.withTimeout(req.TimeoutMillis)
		defer cancel()
		for i, res := range b.Cluster.DeleteTopics(ctx, d.refs) {
			if res.Err == nil {
				res.Err = b.awaitReplicas(ctx, res.Name)
			}
			d.result(d.refs[i], res)
		}
	}
	return d.resp, nil
}

// meter keeps what the client's controller_mutation_rate permits (KIP-599):
// from v5 on, the others get THROTTLING_QUOTA_EXCEEDED.
func (d *topicDeletion) meter(r *Request) {
	d.refs = slices.DeleteFunc(d.refs, func(ref metadata.TopicRef) bool {
		t := d.img.Topic(ref.Name)
		if ref.Name == "" {
			t = d.img.TopicByID(ref.ID)
		}
		if t == nil || r.mutate(len(t.Partitions), 5) {
			return false
		}
		d.fail(&t.Name, t.ID, kerr.ThrottlingQuotaExceeded, throttledText)
		return true
	})
}

const unknownTopicText = "This server does not host this topic-partition."

// topicDeletion fills in one response.
type topicDeletion struct {
	img  *metadata.Image
	resp *kmsg.DeleteTopicsResponse
	refs []metadata.TopicRef // what is in order so far
}

// check sorts out what cannot be meant.
func (d *topicDeletion) check(asked []kmsg.DeleteTopicsRequestTopic) {
	names, ids := make(map[string]int), make(map[metadata.ID]int)
	valid := func(t *kmsg.DeleteTopicsRequestTopic) bool { return (t.Topic != nil) != (t.TopicID != metadata.ID{}) }
	for i := range asked {
		if t := &asked[i]; valid(t) {
			if t.Topic != nil {
				names[*t.Topic]++
			} else {
				ids[t.TopicID]++
			}
		}
	}
	for i := range asked {
		t := &asked[i]
		switch {
		case t.Topic != nil && t.TopicID != metadata.ID{}:
			d.fail(t.Topic, t.TopicID, kerr.InvalidRequest, "You may not specify both topic name and topic id.")
		case t.Topic == nil && t.TopicID == metadata.ID{}:
			d.fail(nil, metadata.ID{}, kerr.InvalidRequest, "Neither topic name nor id were specified.")
		case t.Topic != nil && *t.Topic == "":
			d.fail(t.Topic, metadata.ID{}, kerr.UnknownTopicOrPartition, unknownTopicText)
		case t.Topic != nil:
			d.name(*t.Topic, names, ids)
		default:
			d.id(t.TopicID, names, ids)
		}
	}
}

// name and id take each topic once: a count of 0 says that it was dealt with.
func (d *topicDeletion) name(name string, names map[string]int, ids map[metadata.ID]int) {
	n := names[name]
	names[name] = 0
	if n == 0 {
		return
	}
	if n > 1 {
		d.fail(&name, metadata.ID{}, kerr.InvalidRequest, "Duplicate topic name.")
		return
	}
	if t := d.img.Topic(name); t != nil && ids[t.ID] > 0 {
		ids[t.ID] = 0
		d.fail(&name, t.ID, kerr.InvalidRequest, "The provided topic name maps to an ID that was already supplied.")
		return
	}
	d.refs = append(d.refs, metadata.TopicRef{Name: name})
}

func (d *topicDeletion) id(id metadata.ID, names map[string]int, ids map[metadata.ID]int) {
	n := ids[id]
	ids[id] = 0
	if n == 0 {
		return
	}
	if n > 1 {
		d.fail(nil, id, kerr.InvalidRequest, "Duplicate topic id.")
		return
	}
	if t := d.img.TopicByID(id); t != nil && names[t.Name] == 1 {
		names[t.Name] = 0
		d.fail(&t.Name, id, kerr.InvalidRequest, "The provided topic name maps to an ID that was already supplied.")
		return
	}
	d.refs = append(d.refs, metadata.TopicRef{ID: id})
}

func (d *topicDeletion) fail(name *string, id metadata.ID, err *kerr.Error, text string) {
	t := kmsg.NewDeleteTopicsResponseTopic()
	t.Topic, t.TopicID = name, id
	t.ErrorCode, t.ErrorMessage = err.Code, &text
	d.resp.Topics = append(d.resp.Topics, t)
}

func (d *topicDeletion) result(ref metadata.TopicRef, res metadata.TopicResult) {
	t := kmsg.NewDeleteTopicsResponseTopic()
	t.TopicID = ref.ID
	if ref.ID == (metadata.ID{}) {
		t.Topic = &ref.Name
	}
	switch code := protocol.Code(res.Err); code {
	case 0:
		t.Topic, t.TopicID = &res.Name, res.ID
	case kerr.UnknownTopicID.Code:
		t.ErrorCode, t.ErrorMessage = code, message("This server does not host this topic ID.")
	case kerr.UnknownTopicOrPartition.Code:
		t.ErrorCode, t.ErrorMessage = code, message(unknownTopicText)
	default:
		t.ErrorCode, t.ErrorMessage = failure(res.Err, res.Message)
	}
	d.resp.Topics = append(d.resp.Topics, t)
}
