package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Metadata (3), versions 0 to 13: brokers, and the partitions of topics with
// their leaders.
//
//   - v0 asks for all topics with an empty list; from v1 on null means all and
//     an empty list none. v1 added the controller, racks and the internal flag.
//   - v2 the cluster id; v4 whether topics may be created; v5 offline replicas;
//     v7 leader epochs; v8 authorized operations (of the cluster up to v10);
//     v10 topic ids; v12 topics asked for by id; v13 an error of the whole.
//   - A topic that is created by the way is usable at once and answered as
//     such; Kafka answers UNKNOWN_TOPIC_OR_PARTITION first and lets the client
//     ask again.
//   - Endpoints are those of the listener that the request came in on; brokers
//     without it are left out (KIP-103).
//   - As in Kafka, a request that holds any topic id is one by ids only, and
//     every topic is answered once.
func metadataRequest(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.MetadataRequest)
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	var ids []metadata.ID
	var names []string
	seenID, seenName := make(map[metadata.ID]bool), make(map[string]bool)
	for i := range req.Topics {
		t := &req.Topics[i]
		switch {
		case t.TopicID != metadata.ID{}:
			if !seenID[t.TopicID] {
				seenID[t.TopicID] = true
				ids = append(ids, t.TopicID)
			}
		case t.Topic == nil:
			return metadataWithoutName(resp), nil
		case !seenName[*t.Topic]:
			seenName[*t.Topic] = true
			names = append(names, *t.Topic)
		}
	}
	if len(ids) > 0 && req.Version < 12 {
		return metadataByIDTooEarly(resp, req), nil
	}
	create := req.Version < 4 || req.AllowAutoTopicCreation
	all := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	var failed map[string]int16
	if !all && len(ids) == 0 && create && b.Config.Bool("auto.create.topics.enable") {
		failed = b.autoCreate(r, names)
	}

	m := metadataAnswer{view: b.view(r), req: req, resp: resp}
	m.brokers(b)
	switch {
	case all:
		for _, t := range m.img.Topics() {
			m.topic(t)
		}
	case len(ids) > 0:
		m.byID(ids)
	default:
		m.byName(names, failed)
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = clusterOperations
	}
	return resp, nil
}

// metadataWithoutName answers a topic with neither name nor id as Kafka does.
func metadataWithoutName(resp *kmsg.MetadataResponse) kmsg.Response {
	t := kmsg.NewMetadataResponseTopic()
	t.ErrorCode = kerr.UnknownServerError.Code
	t.Topic = new(string)
	resp.Topics = append(resp.Topics, t)
	resp.ErrorCode = kerr.UnknownServerError.Code
	return resp
}

// metadataByIDTooEarly answers ids in versions that can hold them and must not
// be asked by them yet.
func metadataByIDTooEarly(resp *kmsg.MetadataResponse, req *kmsg.MetadataRequest) kmsg.Response {
	for i := range req.Topics {
		t := kmsg.NewMetadataResponseTopic()
		t.ErrorCode, t.TopicID = kerr.InvalidRequest.Code, req.Topics[i].TopicID
		if t.Topic = req.Topics[i].Topic; t.Topic == nil {
			t.Topic = new(string) // no null there
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

// autoCreate creates those of the topics that do not exist, and returns the
// errors of those that could not be.
func (b *Broker) autoCreate(r *Request, names []string) map[string]int16 {
	img := b.Cluster.Image()
	var topics []metadata.NewTopic
	for _, name := range names {
		if img.Topic(name) == nil && metadata.ValidTopicName(name) {
			topics = append(topics, b.newTopic(name))
		}
	}
	if len(topics) == 0 {
		return nil
	}
	ctx, cancel := r.withTimeout(b.Config.Int32("request.timeout.ms"))
	defer cancel()
	failed := make(map[string]int16)
	var first metadata.TopicResult
	for _, res := range b.Cluster.CreateTopics(ctx, topics, false) {
		if code := protocol.Code(res.Err); code != 0 && code != kerr.TopicAlreadyExists.Code {
			if len(failed) == 0 {
				first = res
			}
			failed[res.Name] = code
		}
	}
	if len(failed) > 0 { // one line: a request may name 100,000
		b.Log.Info().Str("topic", first.Name).Err(first.Err).Int("topics", len(failed)).Msg("automatic creation of topics failed")
	}
	return failed
}

// newTopic describes a topic that is created because it is asked for. The
// coordinators' topics have settings of their own.
func (b *Broker) newTopic(name string) metadata.NewTopic {
	t := metadata.NewTopic{Name: name, Partitions: -1, ReplicationFactor: -1}
	set := func(partitions, replication, segment string, configs ...string) {
		t.Partitions = b.Config.Int32(partitions)
		t.ReplicationFactor = b.internalReplicas(b.Cluster.Image(), b.Config.Int(replication))
		bytes, _ := b.Config.Lookup(segment)
		t.Configs = map[string]*string{"segment.bytes": &bytes}
		for i := 0; i < len(configs); i += 2 {
			t.Configs[configs[i]] = &configs[i+1]
		}
	}
	switch name {
	case OffsetsTopic:
		set("offsets.topic.num.partitions", "offsets.topic.replication.factor", "offsets.topic.segment.bytes",
			"cleanup.policy", "compact", "compression.type", "producer")
	case "__transaction_state":
		minISR, _ := b.Config.Lookup("transaction.state.log.min.isr")
		set("transaction.state.log.num.partitions", "transaction.state.log.replication.factor", "transaction.state.log.segment.bytes",
			"cleanup.policy", "compact", "compression.type", "uncompressed", "min.insync.replicas", minISR,
			"unclean.leader.election.enable", "false")
	case "__share_group_state":
		minISR, _ := b.Config.Lookup("share.coordinator.state.topic.min.isr")
		set("share.coordinator.state.topic.num.partitions", "share.coordinator.state.topic.replication.factor", "share.coordinator.state.topic.segment.bytes",
			"cleanup.policy", "delete", "compression.type", "producer", "min.insync.replicas", minISR, "retention.ms", "-1")
	}
	return t
}

// metadataAnswer fills in one response.
type metadataAnswer struct {
	view
	req  *kmsg.MetadataRequest
	resp *kmsg.MetadataResponse
}

func (m *metadataAnswer) brokers(b *Broker) {
	for br, e := range m.alive {
		o := kmsg.NewMetadataResponseBroker()
		o.NodeID, o.Host, o.Port = br.ID, e.Host, e.Port
		o.Rack = message(br.Rack)
		m.resp.Brokers = append(m.resp.Brokers, o)
	}
	m.resp.ControllerID = m.controllerID(b.NodeID)
	id := m.img.ClusterID
	if id == "" {
		id = b.ClusterID
	}
	m.resp.ClusterID = &id
}

// byID answers the ids that no topic has first, as Kafka does.
func (m *metadataAnswer) byID(ids []metadata.ID) {
	for _, id := range ids {
		if m.img.TopicByID(id) == nil {
			t := kmsg.NewMetadataResponseTopic()
			t.ErrorCode, t.TopicID = kerr.UnknownTopicID.Code, id
			m.resp.Topics = append(m.resp.Topics, t)
		}
	}
	for _, id := range ids {
		if t := m.img.TopicByID(id); t != nil {
			m.topic(t)
		}
	}
}

// byName answers the topics that exist first, as Kafka does.
func (m *metadataAnswer) byName(names []string, failed map[string]int16) {
	for _, name := range names {
		if t := m.img.Topic(name); t != nil {
			m.topic(t)
		}
	}
	for _, name := range names {
		if m.img.Topic(name) != nil {
			continue
		}
		t := kmsg.NewMetadataResponseTopic()
		t.Topic = &name
		t.IsInternal = metadata.IsInternal(name)
		t.ErrorCode = kerr.UnknownTopicOrPartition.Code
		if !metadata.ValidTopicName(name) {
			t.ErrorCode = kerr.InvalidTopicException.Code
		} else if code := failed[name]; code != 0 {
			t.ErrorCode = code
		}
		if m.req.IncludeTopicAuthorizedOperations {
			t.AuthorizedOperations = topicOperations
		}
		m.resp.Topics = append(m.resp.Topics, t)
	}
}

func (m *metadataAnswer) topic(t *metadata.Topic) {
	o := kmsg.NewMetadataResponseTopic()
	o.Topic, o.TopicID, o.IsInternal = &t.Name, t.ID, t.Internal
	o.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i, p := range t.Partitions {
		seen := m.partition(p, m.req.Version < 6, m.req.Version == 0)
		op := kmsg.NewMetadataResponseTopicPartition()
		op.Partition, op.ErrorCode = int32(i), seen.code
		op.Leader, op.LeaderEpoch = seen.leader, seen.epoch
		op.Replicas, op.ISR, op.OfflineReplicas = seen.replicas, seen.isr, seen.offline
		o.Partitions[i] = op
	}
	if m.req.IncludeTopicAuthorizedOperations {
		o.AuthorizedOperations = topicOperations
	}
	m.resp.Topics = append(m.resp.Topics, o)
}
