package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions (18), versions 0 to 4.
//
//   - v0 to v2 list the served APIs; v1 added the throttle time.
//   - v3 (KIP-511, KIP-584) is flexible, names the client's software and
//     carries the features this broker supports and the levels finalized in
//     the cluster, as of a revision of the metadata. As Kafka does, v3 leaves
//     out supported features whose lowest version is 0, which older clients
//     take for an error (KAFKA-17011); v4 lists them all.
//   - A version that is too new is answered as v0 with UNSUPPORTED_VERSION and
//     the one row of this API, so that the client can ask again.
//   - A client software name or version that does not match
//     [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])? gets INVALID_REQUEST.
//
// The response header is always v0, whatever the version: a client that does
// not know yet what the broker speaks must be able to read it.
func apiVersions(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ApiVersionsRequest)
	resp := req.ResponseKind().(*kmsg.ApiVersionsResponse)
	if req.Version >= 3 {
		if !validSoftwareName(req.ClientSoftwareName) || !validSoftwareName(req.ClientSoftwareVersion) {
			resp.ErrorCode = kerr.InvalidRequest.Code
			return resp, nil
		}
		r.Conn.SoftwareName, r.Conn.SoftwareVersion = req.ClientSoftwareName, req.ClientSoftwareVersion
	}
	resp.ApiKeys = b.apiKeys
	if req.Version < 3 {
		return resp, nil
	}
	img := b.Cluster.Image()
	levels := img.Features()
	for _, f := range b.Features {
		if f.Min > 0 || req.Version >= 4 {
			s := kmsg.NewApiVersionsResponseSupportedFeature()
			s.Name, s.MinVersion, s.MaxVersion = f.Name, f.Min, f.Max
			resp.SupportedFeatures = append(resp.SupportedFeatures, s)
		}
		if level := levels[f.Name]; level > 0 {
			s := kmsg.NewApiVersionsResponseFinalizedFeature()
			s.Name, s.MinVersionLevel, s.MaxVersionLevel = f.Name, level, level
			resp.FinalizedFeatures = append(resp.FinalizedFeatures, s)
		}
	}
	resp.FinalizedFeaturesEpoch = img.Revision
	return resp, nil
}

// UnsupportedApiVersions is the answer to an ApiVersions request whose version
// this broker does not know.
func UnsupportedApiVersions(b *Broker) kmsg.Response {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = kerr.UnsupportedVersion.Code
	for _, k := range b.apiKeys {
		if k.ApiKey == int16(kmsg.ApiVersions) {
			resp.ApiKeys = append(resp.ApiKeys, k)
		}
	}
	return resp
}

// validSoftwareName checks KIP-511's pattern.
func validSoftwareName(s string) bool {
	if s == "" || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
