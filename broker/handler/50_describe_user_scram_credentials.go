package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeUserScramCredentials (50), version 0 (KIP-554): the mechanisms and
// iteration counts of users' credentials, of all users if none is named. Keys
// and salts never leave the broker.
func describeUserScramCredentials(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeUserSCRAMCredentialsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeUserSCRAMCredentialsResponse)
	set := b.Cluster.Image().Scram()
	times, users := map[string]int{}, []string{}
	for _, u := range req.Users {
		if times[u.Name]++; times[u.Name] == 1 {
			users = append(users, u.Name)
		}
	}
	if len(req.Users) == 0 {
		for _, id := range set.IDs() {
			if times[id.User]++; times[id.User] == 1 {
				users = append(users, id.User)
			}
		}
		clear(times)
	}
	resp.ErrorMessage = new(string)
	resp.Results = []kmsg.DescribeUserSCRAMCredentialsResponseResult{}
	for _, user := range users {
		resp.Results = append(resp.Results, describeScram(set, user, times[user] > 1))
	}
	return resp, nil
}

func describeScram(set *metadata.ScramSet, user string, twice bool) kmsg.DescribeUserSCRAMCredentialsResponseResult {
	res := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
	res.User = user
	res.CredentialInfos = []kmsg.DescribeUserSCRAMCredentialsResponseResultCredentialInfo{}
	if twice {
		res.ErrorCode, res.ErrorMessage = failure(kerr.DuplicateResource, "Cannot describe SCRAM credentials for the same user twice in a single request: "+user)
		return res
	}
	for _, m := range []metadata.ScramMechanism{metadata.ScramSHA256, metadata.ScramSHA512} {
		if c := set.Get(metadata.ScramID{User: user, Mechanism: m}); c != nil {
			info := kmsg.NewDescribeUserSCRAMCredentialsResponseResultCredentialInfo()
			info.Mechanism, info.Iterations = int8(m), c.Iterations
			res.CredentialInfos = append(res.CredentialInfos, info)
		}
	}
	res.ErrorMessage = new(string)
	if len(res.CredentialInfos) == 0 {
		res.ErrorCode, res.ErrorMessage = failure(kerr.ResourceNotFound, "Attempt to describe a user credential that does not exist: "+user)
	}
	return res
}
