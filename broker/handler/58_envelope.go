package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Envelope (58), version 0 (KIP-590). Kafka's brokers put the requests of clients
// in it that only the controller may answer. Here it carries what a node asks of
// the one that is controller in gregor's own form, see controller.Call; nodes
// that run no broker are asked at the controllers' own port.
//
// It is for the other brokers: any other listener than theirs answers
// CLUSTER_AUTHORIZATION_FAILED, and ApiVersions does not name it.
func envelope(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.EnvelopeRequest)
	resp := req.ResponseKind().(*kmsg.EnvelopeResponse)
	switch {
	case b.Calls == nil || !b.fromBroker(r):
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
	default:
		resp.ResponseData = b.Calls(r.Ctx, req.RequestData)
	}
	return resp, nil
}
