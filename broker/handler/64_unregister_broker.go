package handler

import "github.com/twmb/franz-go/pkg/kmsg"

// UnregisterBroker (64), version 0 (KIP-631): forgets a broker that does not come
// back. Unlike in Kafka it must be down.
func unregisterBroker(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.UnregisterBrokerRequest)
	resp := req.ResponseKind().(*kmsg.UnregisterBrokerResponse)
	result, err := b.Cluster.UnregisterBroker(r.Ctx, req.BrokerID)
	if err != nil {
		result.Err = err
	}
	resp.ErrorCode, resp.ErrorMessage = failure(result.Err, result.Message)
	return resp, nil
}
