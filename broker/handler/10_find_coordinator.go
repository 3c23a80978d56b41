package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
)

// findCoordinator answers FindCoordinator, versions 0 to 6: the broker that
// coordinates a group or, from v1 on, the transactions of a transactional id
// (KIP-98); v4 asks for many at once (KIP-699).
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
	resp.Coordinators = make([]kmsg.FindCoordinatorResponseCoordinator, 0, len(req.CoordinatorKeys))
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
	topic, partition := OffsetsTopic, b.groupPartition
	switch kind {
	case groupCoordinator:
	case transactionCoordinator:
		topic, partition = TransactionsTopic, b.txnPartition
	default:
		return nil, nil, kerr.CoordinatorNotAvailable
	}
	img, err := b.ensureTopic(r, topic)
	if err != nil {
		return nil, nil, kerr.CoordinatorNotAvailable
	}
	p := img.Topic(topic).Partitions[partition(img, key)]
	broker, endpoint := endpointOf(img, p.Leader, r.Conn.Listener)
	if endpoint == nil {
		return nil, nil, kerr.CoordinatorNotAvailable
	}
	return broker, endpoint, nil
}

// The kinds of coordinators, as FindCoordinator numbers them.
const (
	groupCoordinator       = 0
	transactionCoordinator = 1
)

// ensureTopic returns an image in which a coordinator's topic exists.
func (b *Broker) ensureTopic(r *Request, name string) (*metadata.Image, error) {
	img := b.Cluster.Image()
	if img.Topic(name) != nil {
		return img, nil
	}
	results := b.Cluster.CreateTopics(r.Ctx, []metadata.NewTopic{b.newTopic(name)}, false)
	if img = b.Cluster.Image(); img.Topic(name) != nil {
		return img, nil // here, or by another request at the same time
	}
	if err := results[0].Err; err != nil {
		b.Log.Warn().Err(err).Str("topic", name).Str("why", results[0].Message).
			Msg("cannot create a coordinator's topic")
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
