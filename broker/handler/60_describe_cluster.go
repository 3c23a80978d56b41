package handler

import (
	"fmt"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster (60), versions 0 to 2.
//
//   - v1 (KIP-919) says whether brokers or controllers are meant. Controllers
//     are not asked on a broker's listener: MISMATCHED_ENDPOINT_TYPE.
//   - v2 (KIP-1073) can include fenced brokers.
//   - Endpoints are those of the listener that the request came in on.
func describeCluster(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.EndpointType = endpointBrokers
	if req.Version >= 1 && req.EndpointType != endpointBrokers {
		if req.EndpointType == endpointControllers {
			resp.ErrorCode = kerr.MismatchedEndpointType.Code
			resp.ErrorMessage = message("The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER")
		} else {
			resp.ErrorCode = kerr.UnsupportedEndpointType.Code
			resp.ErrorMessage = message(fmt.Sprintf("Unsupported endpoint type %d", req.EndpointType))
		}
		resp.ControllerID = -1
		return resp, nil
	}
	v := b.view(r)
	resp.ClusterID = v.img.ClusterID
	if resp.ClusterID == "" {
		resp.ClusterID = b.ClusterID
	}
	resp.ControllerID = v.controllerID(b.NodeID)
	add := func(br *metadata.Broker, e metadata.Endpoint) {
		o := kmsg.NewDescribeClusterResponseBroker()
		o.NodeID, o.Host, o.Port, o.Rack, o.IsFenced = br.ID, e.Host, e.Port, message(br.Rack), br.Fenced
		resp.Brokers = append(resp.Brokers, o)
	}
	for _, br := range v.img.Brokers() {
		if e, ok := v.endpoint(br); ok && (!br.Fenced || req.IncludeFencedBrokers) {
			add(br, e)
		}
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	return resp, nil
}

// What DescribeCluster can be asked for (KIP-919).
const (
	endpointBrokers     = 1
	endpointControllers = 2
)
