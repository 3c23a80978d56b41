package handler

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
)

// writeTxnMarkers answers WriteTxnMarkers, versions 1 and 2: transaction
// coordinators end transactions on the partitions that this broker leads, and
// administrators those that hang (KIP-664). v2 tells the transaction version, by
// which the marker's epoch is judged (KIP-1228).
func writeTxnMarkers(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.WriteTxnMarkersRequest)
	resp := req.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	behind := !b.catchUp(r.Ctx, &req.UnknownTags)
	for i := range req.Markers {
		resp.Markers = append(resp.Markers, b.writeMarker(r, &req.Markers[i], behind))
	}
	return resp, nil
}

// writeMarker writes to the partitions, unless the metadata here is behind that of
// the coordinator.
func (b *Broker) writeMarker(r *Request, m *kmsg.WriteTxnMarkersRequestMarker, behind bool) kmsg.WriteTxnMarkersResponseMarker {
	var tps []txn.TopicPartition
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			tps = append(tps, txn.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	var errs []error
	switch {
	case b.Markers == nil:
		errs = same(make([]error, len(tps)), kerr.UnknownTopicOrPartition)
	case behind:
		errs = same(make([]error, len(tps)), kerr.NotLeaderForPartition)
	default:
		errs = b.Markers.Write(r.Ctx, runtime.Marker{
			Producer: runtime.Producer{ID: m.ProducerID, Epoch: m.ProducerEpoch}, Commit: m.Committed,
			CoordinatorEpoch: m.CoordinatorEpoch, Version: int16(m.TransactionVersion),
		}, tps)
	}
	o := kmsg.NewWriteTxnMarkersResponseMarker()
	o.ProducerID = m.ProducerID
	for _, t := range m.Topics {
		rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
			rp.Partition, rp.ErrorCode = p, markerError(errs[0])
			rt.Partitions = append(rt.Partitions, rp)
			errs = errs[1:]
		}
		o.Topics = append(o.Topics, rt)
	}
	return o
}

// markerError is what a transaction coordinator knows of the errors of a group
// coordinator: that it is to find the partition's leader again.
func markerError(err error) int16 {
	for _, e := range []error{kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable} {
		if errors.Is(err, e) {
			return kerr.NotLeaderForPartition.Code
		}
	}
	return protocol.Code(err)
}
