package handler

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// RemoveRaftVoter (81), version 0 (KIP-853): takes a controller's vote away, for
// good. Directory ids are not told apart: a node has one directory for the
// metadata.
func removeRaftVoter(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.RemoveRaftVoterRequest)
	resp := req.ResponseKind().(*kmsg.RemoveRaftVoterResponse)
	fail := func(err *kerr.Error, message string) (kmsg.Response, error) {
		resp.ErrorCode, resp.ErrorMessage = err.Code, &message
		return resp, nil
	}
	if req.ClusterID != nil && *req.ClusterID != b.ClusterID {
		return fail(kerr.InconsistentClusterID, "The cluster id is "+b.ClusterID)
	}
	if b.Quorum == nil {
		return fail(kerr.UnsupportedVersion, "The metadata of this cluster is not kept by its controllers.")
	}
	found, err := b.Quorum.RemoveMember(r.Ctx, req.VoterID)
	switch {
	case err != nil:
		return fail(kerr.RequestTimedOut, err.Error())
	case !found:
		return fail(kerr.VoterNotFound, fmt.Sprintf("There is no controller %d.", req.VoterID))
	}
	return resp, nil
}
