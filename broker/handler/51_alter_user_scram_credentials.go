package handler

import (
	"bytes"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterUserScramCredentials (51), version 0 (KIP-554): stores and deletes SCRAM
// credentials in the cluster's metadata. A client sends the salted password,
// never the password; what is kept are the two keys made of it (RFC 5802).
func alterUserScramCredentials(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.AlterUserSCRAMCredentialsRequest)
	resp := req.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
	resp.Results = []kmsg.AlterUserSCRAMCredentialsResponseResult{}
	var deletions []metadata.ScramID
	for _, d := range req.Deletions {
		deletions = append(deletions, metadata.ScramID{User: d.Name, Mechanism: metadata.ScramMechanism(d.Mechanism)})
	}
	var upsertions []metadata.ScramUpsertion
	for _, u := range req.Upsertions {
		upsertions = append(upsertions, metadata.ScramUpsertion{
			ScramID:    metadata.ScramID{User: u.Name, Mechanism: metadata.ScramMechanism(u.Mechanism)},
			Iterations: u.Iterations, Salt: bytes.Clone(u.Salt), SaltedPassword: bytes.Clone(u.SaltedPassword),
		})
	}
	if len(deletions)+len(upsertions) == 0 {
		return resp, nil
	}
	ctx, cancel := r.withTimeout(0)
	defer cancel()
	results, err := b.Cluster.AlterScram(ctx, deletions, upsertions)
	if err != nil {
		results = failedScram(deletions, upsertions, err)
	}
	for _, res := range results {
		e := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		e.User = res.User
		e.ErrorCode, e.ErrorMessage = failure(res.Err, res.Message)
		resp.Results = append(resp.Results, e)
	}
	return resp, nil
}

// failedScram answers each user once with the same error.
func failedScram(deletions []metadata.ScramID, upsertions []metadata.ScramUpsertion, err error) (out []metadata.ScramResult) {
	ids := deletions
	for _, u := range upsertions {
		ids = append(ids, u.ScramID)
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if !seen[id.User] {
			seen[id.User] = true
			out = append(out, metadata.ScramResult{User: id.User, Err: err})
		}
	}
	return out
}
