package metadata

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ConfigRules is what the decisions need to know of config keys, given by
// whoever has the tables. A nil function permits everything.
type ConfigRules struct {
	// Validate checks the configs that a resource would have; changed names
	// the keys that the request set, sorted. The error's text goes to the
	// client, with the code of the *kerr.Error in its chain or else
	// INVALID_CONFIG.
	Validate func(r ConfigResource, configs map[string]string, changed []string) error
	// IsList says whether APPEND and SUBTRACT apply to a key.
	IsList func(t ConfigType, key string) bool
	// Default returns the value of a key that was not set: what APPEND and
	// SUBTRACT begin with.
	Default func(t ConfigType, key string) string
}

// check returns the error of configs that may not be, nil if they may.
func (rules ConfigRules) check(r ConfigResource, configs map[string]string, changed []string) (*kerr.Error, string) {
	if rules.Validate == nil {
		return nil, ""
	}
	err := rules.Validate(r, configs, changed)
	if err == nil {
		return nil, ""
	}
	code := kerr.InvalidConfig
	errors.As(err, &code)
	return code, err.Error()
}

// AlterConfigs decides on changes of configs: IncrementalAlterConfigs
// (KIP-339), or with Replace the older AlterConfigs. Errors and messages are
// Kafka's.
func AlterConfigs(img *Image, env *Env, alterations []ConfigAlteration) []ConfigDecision {
	decisions := make([]ConfigDecision, 0, len(alterations))
	count := map[ConfigResource]int{}
	for _, a := range alterations {
		count[a.Resource]++
	}
	done, staged := map[ConfigResource]bool{}, map[string]bool{}
	for _, a := range alterations {
		if done[a.Resource] {
			continue
		}
		done[a.Resource] = true
		d := ConfigDecision{Result: ConfigResult{Resource: a.Resource}}
		if count[a.Resource] > 1 {
			d.Result.fail(kerr.InvalidRequest, "Each resource must appear at most once.")
		} else {
			alterConfig(img, env, a, &d)
		}
		// Two of them may change the same partition, which is then changed.
		d.Plan.Stage = slices.DeleteFunc(d.Plan.Stage, func(ch Change) bool {
			again := staged[ch.Key]
			staged[ch.Key] = true
			return again
		})
		decisions = append(decisions, d)
	}
	return decisions
}

func (r *ConfigResult) fail(err *kerr.Error, message string) { r.Err, r.Message = err, message }

func alterConfig(img *Image, env *Env, a ConfigAlteration, d *ConfigDecision) {
	r := &d.Result
	if err, message := resourceProblem(img, a.Resource); err != nil {
		r.fail(err, message)
		return
	}
	if err, message := opsProblem(a.Ops); err != nil {
		r.fail(err, message)
		return
	}
	old := img.Config(a.Resource)
	next := map[string]string{}
	if !a.Replace {
		maps.Copy(next, old)
	}
	var changed []string
	for _, op := range a.Ops {
		if err := applyConfigOp(env, a.Resource.Type, next, op); err != nil {
			r.fail(kerr.InvalidConfig, err.Error())
			return
		}
		if _, ok := next[op.Key]; ok {
			changed = append(changed, op.Key)
		}
	}
	slices.Sort(changed)
	if err, message := env.Rules.check(a.Resource, next, changed); err != nil {
		r.fail(err, message)
		return
	}
	if problem := minISRProblem(img, a.Resource, a.Ops, next); problem != "" {
		r.fail(kerr.InvalidConfig, problem)
		return
	}
	if maps.Equal(old, next) {
		return
	}
	d.Plan.Commit = []Change{putConfig(img, a.Resource, next)}
	if old[minISRKey] != next[minISRKey] {
		var err error
		if d.Plan.Stage, err = forgetELR(img, env, a.Resource, d.Plan.Commit); err != nil {
			d.Plan.Commit = nil
			r.fail(kerr.InvalidConfig, err.Error())
		}
	}
}

// forgetELR returns the changes of the partitions whose eligible leaders a smaller
// min.insync.replicas makes none: a leader that hears of it commits without them.
// They must be in the store no later than the config; the sweep that follows it
// would be too late for a leader that has died meanwhile.
func forgetELR(img *Image, env *Env, resource ConfigResource, config []Change) ([]Change, error) {
	next, err := img.With(config)
	if err != nil {
		return nil, err
	}
	var topics []*Topic
	switch {
	case resource.Type == ConfigTopic:
		topics = append(topics, next.Topic(resource.Name))
	case resource.Type == ConfigBroker && resource.Name == "":
		topics = next.Topics()
	}
	var changes []Change
	for _, t := range topics {
		r := next.rulesOf(env, t)
		for n, p := range t.Partitions {
			if len(p.ELR) == 0 {
				continue
			}
			r.active = next.activeAt(t.ID, int32(n))
			if to := p.reassess(r); to != p && len(to.ELR) == 0 && !to.Recovering {
				changes = append(changes, putPart(t.ID, int32(n), to, p.Revision))
			}
		}
	}
	return changes, nil
}

// resourceProblem says why a resource cannot have configs.
func resourceProblem(img *Image, r ConfigResource) (*kerr.Error, string) {
	switch r.Type {
	case ConfigTopic:
		if r.Name == "" {
			return kerr.InvalidRequest, "Default topic resources are not allowed."
		}
		if img.Topic(r.Name) == nil {
			return kerr.UnknownTopicOrPartition, fmt.Sprintf("The topic '%s' does not exist.", r.Name)
		}
	case ConfigBroker:
		if r.Name == "" {
			break
		}
		if n, err := strconv.ParseInt(r.Name, 10, 32); err != nil || n < 0 {
			return kerr.InvalidRequest, "Node id must be an integer, but it is: " + r.Name
		}
	case ConfigClientMetrics:
		if r.Name == "" {
			return kerr.InvalidRequest, "Subscription name can't be empty"
		}
	case ConfigGroup:
		if r.Name == "" {
			return kerr.InvalidRequest, "Default group resources are not allowed."
		}
	default:
		return kerr.InvalidRequest, fmt.Sprintf("Unknown resource type %d", r.Type)
	}
	return nil, ""
}

// opsProblem says why a list of changes makes no sense.
func opsProblem(ops []ConfigOp) (*kerr.Error, string) {
	seen := map[string]bool{}
	var null []string
	for _, op := range ops {
		if seen[op.Key] {
			return kerr.InvalidRequest, "Error due to duplicate config keys"
		}
		seen[op.Key] = true
		if op.Value == nil && op.Kind != ConfigDelete {
			null = append(null, op.Key)
		}
		if op.Kind < ConfigSet || op.Kind > ConfigSubtract {
			return kerr.InvalidRequest, fmt.Sprintf("Unknown operation %d for config key %s", op.Kind, op.Key)
		}
	}
	if len(null) > 0 {
		return kerr.InvalidRequest, "Null value not supported for : " + strings.Join(null, ", ")
	}
	return nil, ""
}

// applyConfigOp changes one key in configs.
func applyConfigOp(env *Env, t ConfigType, configs map[string]string, op ConfigOp) error {
	switch op.Kind {
	case ConfigDelete:
		delete(configs, op.Key)
		return nil
	case ConfigSet:
		configs[op.Key] = *op.Value
		return nil
	}
	if env.Rules.IsList != nil && !env.Rules.IsList(t, op.Key) {
		name := "APPEND"
		if op.Kind == ConfigSubtract {
			name = "SUBTRACT"
		}
		return fmt.Errorf("Can't %s to key %s because its type is not LIST.", name, op.Key)
	}
	value, ok := configs[op.Key]
	if !ok && env.Rules.Default != nil {
		value = env.Rules.Default(t, op.Key)
	}
	list := slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return s == "" })
	operands := strings.Split(*op.Value, ",")
	if op.Kind == ConfigSubtract {
		list = slices.DeleteFunc(list, func(s string) bool { return slices.Contains(operands, s) })
	} else {
		for _, s := range operands {
			if !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
	}
	configs[op.Key] = strings.Join(list, ",")
	return nil
}

// putConfig is the change that gives a resource exactly these configs.
func putConfig(img *Image, r ConfigResource, configs map[string]string) Change {
	if r.Type == ConfigTopic {
		t := img.Topic(r.Name)
		return putTopic(t, int32(len(t.Partitions)), configs, t.Revision)
	}
	var expect int64
	if old, ok := img.configs.get(r); ok {
		expect = old.revision
	}
	if len(configs) == 0 {
		return Change{Op: Op{Kind: OpDelete, Key: configKey(r)}, Expect: expect}
	}
	return Change{Op: Op{Kind: OpPut, Key: configKey(r), Value: encode(configRecord{V: 1, Configs: configs})}, Expect: expect}
}
