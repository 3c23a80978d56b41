package metadata

import (
	"fmt"
	"maps"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
)

const (
	featureMetadata    = "metadata.version"
	featureTransaction = "transaction.version"
	// featureELR is KIP-966's. A cluster that has it keeps min.insync.replicas
	// as the default of all brokers, because who may lead is decided by that
	// key and so must not depend on the broker that decides.
	featureELR = "eligible.leader.replicas.version"
)

// FeatureRange is the levels of a feature (KIP-584) that a node serves.
type FeatureRange struct {
	Name     string
	Min, Max int16
}

// FeatureChange says in which direction a level may go.
type FeatureChange int8

// The values of UpdateFeatures v1.
const (
	FeatureUpgrade         FeatureChange = 1
	FeatureSafeDowngrade   FeatureChange = 2
	FeatureUnsafeDowngrade FeatureChange = 3
)

// FeatureUpdate asks for a finalized level of a feature; 0 is none.
type FeatureUpdate struct {
	Name   string
	Level  int16
	Change FeatureChange
}

// UpdateFeatures decides on the finalized levels of features, all of a request
// or none. Errors and messages are Kafka's, but for features whose lower levels
// are served no more than those of metadata.version.
func UpdateFeatures(img *Image, env *Env, updates []FeatureUpdate) (Outcome, Plan) {
	levels := maps.Clone(img.Features())
	if levels == nil {
		levels = map[string]int16{}
	}
	for _, u := range updates {
		if problem := featureProblem(env, u, levels[u.Name]); problem != "" {
			return Outcome{
				Err:     kerr.InvalidUpdateVersion,
				Message: "The update failed for all features since the following feature had an error: " + problem,
			}, Plan{}
		}
		if levels[u.Name] = u.Level; u.Level == 0 {
			delete(levels, u.Name)
		}
	}
	if maps.Equal(levels, img.Features()) {
		return Outcome{}, Plan{}
	}
	record := img.cluster.record
	record.Features = levels
	plan := Plan{Commit: []Change{{Op: Op{Kind: OpPut, Key: keyCluster, Value: encode(record)}, Expect: img.cluster.revision}}}
	plan.Commit = append(plan.Commit, defaultMinISR(img, env.MinInsyncReplicas, levels)...)
	return Outcome{}, plan
}

// defaultMinISR gives all brokers the min.insync.replicas of this one, where
// features ask for a common one and there is none, and takes away what single
// brokers have instead: nobody could once the feature is on.
func defaultMinISR(img *Image, static int, features map[string]int16) []Change {
	if features[featureELR] == 0 {
		return nil
	}
	var changes []Change
	for r, c := range img.configs.all() {
		if _, has := c.values[minISRKey]; has && r.Type == ConfigBroker && r != allBrokers() {
			next := maps.Clone(c.values)
			delete(next, minISRKey)
			changes = append(changes, putConfig(img, r, next))
		}
	}
	defaults := img.Config(allBrokers())
	if _, has := defaults[minISRKey]; !has {
		next := map[string]string{minISRKey: strconv.Itoa(max(static, 1))}
		maps.Copy(next, defaults)
		changes = append(changes, putConfig(img, allBrokers(), next))
	}
	return changes
}

// featureProblem says why a feature cannot go from a level to the one asked
// for, nothing if it can.
func featureProblem(env *Env, u FeatureUpdate, level int16) string {
	invalid := fmt.Sprintf("Invalid update version %d for feature %s. ", u.Level, u.Name)
	var served *FeatureRange
	for i := range env.Features {
		if env.Features[i].Name == u.Name {
			served = &env.Features[i]
		}
	}
	switch {
	case u.Change < FeatureUpgrade || u.Change > FeatureUnsafeDowngrade:
		return invalid + "The controller does not support the given upgrade type."
	case u.Level < 0:
		return invalid + "A feature version cannot be less than 0."
	case served == nil:
		return invalid + fmt.Sprintf("Local controller %d does not support this feature.", env.NodeID)
	case u.Level < served.Min || u.Level > served.Max:
		return invalid + fmt.Sprintf("Local controller %d only supports versions %d-%d", env.NodeID, served.Min, served.Max)
	case u.Level > level && u.Change != FeatureUpgrade:
		return invalid + "Can't downgrade to a newer version."
	case u.Level >= level:
		return ""
	case u.Change == FeatureUpgrade:
		return invalid + "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade."
	case u.Name == featureTransaction:
		return ""
	case u.Name != featureMetadata:
		return invalid + fmt.Sprintf("Level %d is in use and cannot be given up.", level)
	}
	problem := fmt.Sprintf("Unsupported metadata.version downgrade from %d to %d. ", level, u.Level)
	if u.Change == FeatureSafeDowngrade {
		return problem + "Refusing to perform the requested downgrade because it might delete metadata information."
	}
	return problem + "Unsafe metadata downgrade is not supported in this version."
}

// allBrokers is the resource of configs that hold for every broker.
func allBrokers() ConfigResource { return ConfigResource{Type: ConfigBroker} }

// minISRProblem refuses changes of min.insync.replicas by which brokers would
// differ in who may lead.
func minISRProblem(img *Image, r ConfigResource, ops []ConfigOp, next map[string]string) string {
	if r.Type != ConfigBroker || img.Features()[featureELR] == 0 {
		return ""
	}
	if r == allBrokers() {
		_, had := img.Config(r)[minISRKey]
		if _, has := next[minISRKey]; had && !has {
			return "Cluster-level min.insync.replicas cannot be removed while ELR is enabled."
		}
		return ""
	}
	for _, op := range ops {
		if op.Key == minISRKey {
			return "Broker-level min.insync.replicas cannot be altered while ELR is enabled."
		}
	}
	return ""
}
