package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
)

// findCoordinator answers FindCoordinator, versions 0 to 6: the broker that
// coordinates a group (v1 adds transactional ids, KIP-98; v4 asks for many at
// once, KIP-699).
//
// The coordinator's topic is made when it is first asked for. Kafka answers
// COORDINATOR_NOT_AVAILABLE meanwhile and clients try again after a back-off;
// here the topic is usable when its creation returns, so the first answer is
// the right one.
func findCoordinator(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.FindCoordinatorRequest)
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	if req.Version < 4 {
		c := b.coordinator(r, req.CoordinatorType, req.CoordinatorKey)
		resp.ErrorCode, resp.ErrorMessage = c.ErrorCode, c.ErrorMessage
		resp.NodeID, resp.Host, resp.Port = c.NodeID, c.Host, c.Port
		return resp, nil
	}
	for _, key := range req.CoordinatorKeys {
		resp.Coordinators = append(resp.Coordinators, b.coordinator(r, req.CoordinatorType, key))
	}
	return resp, nil
}

func (b *Broker) coordinator(r *Request, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	c := kmsg.NewFindCoordinatorResponseCoordinator()
	c.Key, c.NodeID, c.Port = key, -1, -1
	broker, endpoint, err := b.findCoordinator(r, kind, key)
	if err != nil {
		c.ErrorCode = protocol.Code(err)
		return c
	}
	c.NodeID, c.Host, c.Port = broker.ID, endpoint.Host, endpoint.Port
	return c
}

func (b *Broker) findCoordinator(r *Request, kind int8, key string) (*metadata.Broker, *metadata.Endpoint, error) {
	const groupCoordinator = 0
	if kind != groupCoordinator {
		return nil, nil, kerr.CoordinatorNotAvailable
	}
	img, err := b.ensureOffsetsTopic(r)
	if err != nil {
		return nil, nil, kerr.CoordinatorNotAvailable
	}
	p := img.Topic(OffsetsTopic).Partitions[b.groupPartition(img, key)]
	broker, endpoint := endpointOf(img, p.Leader, r.Conn.Listener)
	if endpoint == nil {
		return nil, nil, kerr.CoordinatorNotAvailable
	}
	return broker, endpoint, nil
}

// ensureOffsetsTopic returns an image in which __consumer_offsets exists.
func (b *Broker) ensureOffsetsTopic(r *Request) (*metadata.Image, error) {
	img := b.Cluster.Image()
	if img.Topic(OffsetsTopic) != nil {
		return img, nil
	}
	value := func(s string) *string { return &s }
	segment, _ := b.Config.Lookup("offsets.topic.segment.bytes")
	results := b.Cluster.CreateTopics(r.Ctx, []metadata.NewTopic{{
		Name:              OffsetsTopic,
		Partitions:        b.Config.Int32("offsets.topic.num.partitions"),
		ReplicationFactor: b.internalReplicas(img, b.Config.Int("offsets.topic.replication.factor")),
		Configs: map[string]*string{
			"cleanup.policy":   value("compact"),
			"compression.type": value("producer"),
			"segment.bytes":    &segment,
		},
	}}, false)
	if img = b.Cluster.Image(); img.Topic(OffsetsTopic) != nil {
		return img, nil // here, or by another request at the same time
	}
	if err := results[0].Err; err != nil {
		b.Log.Warn().Err(err).Str("topic", OffsetsTopic).Str("why", results[0].Message).
			Msg("cannot create the group coordinator's topic")
		return nil, err
	}
	return nil, kerr.CoordinatorNotAvailable
}

// internalReplicas is the replication factor of a coordinator's topic: the
// configured one, unless the whole cluster is a single broker, on which the
// default of three would leave it without groups.
func (b *Broker) internalReplicas(img *metadata.Image, configured int) int16 {
	if len(img.Brokers()) == 1 {
		return 1
	}
	return int16(configured)
}
