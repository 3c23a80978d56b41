package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeAcls (29), versions 1 to 3 (KIP-140, KIP-290). v2 is flexible.
//
// There is no authorizer: a broker configured with one does not start. So the
// answer is SECURITY_DISABLED, as Kafka's without one.
func describeACLs(_ *Broker, r *Request) (kmsg.Response, error) {
	resp := r.Body.(*kmsg.DescribeACLsRequest).ResponseKind().(*kmsg.DescribeACLsResponse)
	text := noAuthorizer + " on the broker"
	resp.ErrorCode, resp.ErrorMessage = kerr.SecurityDisabled.Code, &text
	return resp, nil
}

const noAuthorizer = "No Authorizer is configured"
