package metadata_test

import (
	"errors"
	"maps"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
)

func featureEnv() *metadata.Env {
	return &metadata.Env{NodeID: 1, MinInsyncReplicas: 2, Features: []metadata.FeatureRange{
		{Name: "eligible.leader.replicas.version", Max: 1},
		{Name: "group.version", Max: 1},
		{Name: "metadata.version", Min: 7, Max: 30},
		{Name: "transaction.version", Max: 2},
	}}
}

func formed(t *testing.T, features map[string]int16) *metadata.Image {
	t.Helper()
	img, err := metadata.Empty().With(metadata.Form("AAAAAAAAAAAAAAAAAAAAAQ", features, 2))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestUpdateFeatures: the levels, codes and messages that Apache Kafka 4.3.1
// answered, all of a request or none of it.
func TestUpdateFeatures(t *testing.T) {
	const all = "The update failed for all features since the following feature had an error: "
	up, safe, unsafe := metadata.FeatureUpgrade, metadata.FeatureSafeDowngrade, metadata.FeatureUnsafeDowngrade
	one := func(name string, level int16, change metadata.FeatureChange) []metadata.FeatureUpdate {
		return []metadata.FeatureUpdate{{Name: name, Level: level, Change: change}}
	}
	for name, c := range map[string]struct {
		updates []metadata.FeatureUpdate
		problem string
		level   int16 // of transaction.version
	}{
		"unknown":             {one("x", 1, up), "Invalid update version 1 for feature x. Local controller 1 does not support this feature.", 2},
		"the same":            {one("transaction.version", 2, up), "", 2},
		"too high":            {one("transaction.version", 3, up), "Invalid update version 3 for feature transaction.version. Local controller 1 only supports versions 0-2", 2},
		"too low":             {one("metadata.version", 0, safe), "Invalid update version 0 for feature metadata.version. Local controller 1 only supports versions 7-30", 2},
		"negative":            {one("group.version", -1, safe), "Invalid update version -1 for feature group.version. A feature version cannot be less than 0.", 2},
		"no kind":             {one("transaction.version", 1, 0), "Invalid update version 1 for feature transaction.version. The controller does not support the given upgrade type.", 2},
		"unknown kind":        {one("transaction.version", 1, 9), "Invalid update version 1 for feature transaction.version. The controller does not support the given upgrade type.", 2},
		"down as an upgrade":  {one("transaction.version", 1, up), "Invalid update version 1 for feature transaction.version. Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade.", 2},
		"down":                {one("transaction.version", 1, safe), "", 1},
		"away":                {one("transaction.version", 0, unsafe), "", 0},
		"metadata":            {one("metadata.version", 29, safe), "Unsupported metadata.version downgrade from 30 to 29. Refusing to perform the requested downgrade because it might delete metadata information.", 2},
		"metadata, unsafe":    {one("metadata.version", 29, unsafe), "Unsupported metadata.version downgrade from 30 to 29. Unsafe metadata downgrade is not supported in this version.", 2},
		"always served":       {one("group.version", 0, safe), "Invalid update version 0 for feature group.version. Level 1 is in use and cannot be given up.", 2},
		"one good, one wrong": {append(one("transaction.version", 1, safe), one("x", 1, up)...), "Invalid update version 1 for feature x. Local controller 1 does not support this feature.", 2},
	} {
		t.Run(name, func(t *testing.T) {
			img := formed(t, map[string]int16{"group.version": 1, "metadata.version": 30, "transaction.version": 2})
			before := maps.Clone(img.Features())
			result, plan := metadata.UpdateFeatures(img, featureEnv(), c.updates)
			want := ""
			if c.problem != "" {
				if want = c.problem; !errors.Is(result.Err, kerr.InvalidUpdateVersion) {
					t.Errorf("error %v", result.Err)
				}
				want = all + want
			} else if result.Err != nil {
				t.Errorf("error %v", result.Err)
			}
			if result.Message != want {
				t.Errorf("message %q, want %q", result.Message, want)
			}
			next, err := img.With(plan.Commit)
			if err != nil {
				t.Fatal(err)
			}
			if level := next.Features()["transaction.version"]; level != c.level {
				t.Errorf("transaction.version is %d, want %d", level, c.level)
			}
			if !maps.Equal(before, img.Features()) {
				t.Errorf("the image that was looked at has %v, had %v", img.Features(), before)
			}
		})
	}
}

// TestOneMinISR: with eligible leader replicas (KIP-966) all brokers have the same
// min.insync.replicas, from the start or from when the feature is switched on.
func TestOneMinISR(t *testing.T) {
	const feature, key = "eligible.leader.replicas.version", "min.insync.replicas"
	all := metadata.ConfigResource{Type: metadata.ConfigBroker}
	img := formed(t, map[string]int16{"transaction.version": 2})
	if _, ok := img.Config(all)[key]; ok {
		t.Fatal("set without the feature")
	}
	own, one, other := metadata.ConfigResource{Type: metadata.ConfigBroker, Name: "1"}, "1", "other"
	altered := metadata.AlterConfigs(img, &metadata.Env{}, []metadata.ConfigAlteration{{Resource: own, Ops: []metadata.ConfigOp{
		{Key: key, Value: &one, Kind: metadata.ConfigSet}, {Key: other, Value: &one, Kind: metadata.ConfigSet},
	}}})[0]
	img, err := img.With(altered.Plan.Commit)
	if err != nil || altered.Result.Err != nil || img.Config(own)[key] != one {
		t.Fatal(err, altered)
	}
	result, plan := metadata.UpdateFeatures(img, featureEnv(), []metadata.FeatureUpdate{{Name: feature, Level: 1, Change: metadata.FeatureUpgrade}})
	if result.Err != nil {
		t.Fatal(result)
	}
	updated, err := img.With(plan.Commit)
	if err != nil {
		t.Fatal(err)
	}
	if got := updated.Config(own); len(got) != 1 || got[other] != one {
		t.Errorf("the broker's own are %v", got)
	}
	for name, img := range map[string]*metadata.Image{"formed": formed(t, map[string]int16{feature: 1}), "updated": updated} {
		if v := img.Config(all)[key]; v != "2" || img.Features()[feature] != 1 {
			t.Errorf("%s: %s=%q, features %v", name, key, v, img.Features())
		}
		three := "3"
		set := []metadata.ConfigOp{{Key: key, Value: &three, Kind: metadata.ConfigSet}}
		for _, c := range []struct {
			broker  string
			ops     []metadata.ConfigOp
			replace bool
			want    string
		}{
			{"", set, false, ""},
			{"", []metadata.ConfigOp{{Key: key, Kind: metadata.ConfigDelete}}, false, "Cluster-level min.insync.replicas cannot be removed while ELR is enabled."},
			{"", nil, true, "Cluster-level min.insync.replicas cannot be removed while ELR is enabled."},
			{"1", set, false, "Broker-level min.insync.replicas cannot be altered while ELR is enabled."},
			{"1", []metadata.ConfigOp{{Key: key, Kind: metadata.ConfigDelete}}, false, "Broker-level min.insync.replicas cannot be altered while ELR is enabled."},
			{"1", nil, true, ""},
		} {
			d := metadata.AlterConfigs(img, &metadata.Env{}, []metadata.ConfigAlteration{{
				Resource: metadata.ConfigResource{Type: metadata.ConfigBroker, Name: c.broker}, Ops: c.ops, Replace: c.replace,
			}})[0]
			if d.Result.Message != c.want || (c.want != "") != errors.Is(d.Result.Err, kerr.InvalidConfig) {
				t.Errorf("%s: broker %q, %v, replace %t: %v %q, want %q", name, c.broker, c.ops, c.replace, d.Result.Err, d.Result.Message, c.want)
			}
		}
	}
}
