package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreateAcls (30), versions 1 to 3 (KIP-140, KIP-290). v2 is flexible. Without
// an authorizer every creation fails; see describeACLs.
func createACLs(_ *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.CreateACLsRequest)
	resp := req.ResponseKind().(*kmsg.CreateACLsResponse)
	text := noAuthorizer + "."
	for range req.Creations {
		result := kmsg.NewCreateACLsResponseResult()
		result.ErrorCode, result.ErrorMessage = kerr.SecurityDisabled.Code, &text
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}
