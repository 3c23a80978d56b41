package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// UpdateFeatures (57), versions 0 to 2 (KIP-584): finalizes levels of features
// for the whole cluster, all of a request or none.
//
//   - v0 has a flag for downgrades in place of the kind of change that v1 names;
//     only v1 can be asked what would happen.
//   - Up to v1 each feature of a request that succeeds has a row, with an error
//     of NONE; v2 leaves the rows out (KIP-1022).
func updateFeatures(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.UpdateFeaturesRequest)
	resp := req.ResponseKind().(*kmsg.UpdateFeaturesResponse)
	if len(req.FeatureUpdates) == 0 {
		return resp, nil
	}
	var updates []metadata.FeatureUpdate
	for _, u := range req.FeatureUpdates {
		change := metadata.FeatureChange(u.UpgradeType)
		if req.Version == 0 {
			if change = metadata.FeatureUpgrade; u.AllowDowngrade {
				change = metadata.FeatureSafeDowngrade
			}
		}
		updates = append(updates, metadata.FeatureUpdate{Name: u.Feature, Level: u.MaxVersionLevel, Change: change})
	}
	ctx, cancel := r.withTimeout(req.TimeoutMillis)
	defer cancel()
	result, err := b.Cluster.UpdateFeatures(ctx, updates, req.ValidateOnly && req.Version > 0)
	if err != nil {
		result.Err = err
	}
	resp.ErrorCode, resp.ErrorMessage = failure(result.Err, result.Message)
	if result.Err != nil || req.Version > 1 {
		return resp, nil
	}
	none := "NONE"
	for _, u := range updates {
		row := kmsg.NewUpdateFeaturesResponseResult()
		row.Feature, row.ErrorMessage = u.Name, &none
		resp.Results = append(resp.Results, row)
	}
	return resp, nil
}
