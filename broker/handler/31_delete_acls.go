package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteAcls (31), versions 1 to 3 (KIP-140, KIP-290). v2 is flexible. Without
// an authorizer every deletion fails; see describeACLs.
func deleteACLs(_ *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DeleteACLsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteACLsResponse)
	text := noAuthorizer + "."
	for range req.Filters {
		result := kmsg.NewDeleteACLsResponseResult()
		result.ErrorCode, result.ErrorMessage = kerr.SecurityDisabled.Code, &text
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}
