package node

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
)

// configRules tells the decisions about metadata what the tables of keys know.
func configRules(v *config.Values) metadata.ConfigRules {
	return metadata.ConfigRules{
		Validate: func(r metadata.ConfigResource, configs map[string]string, changed []string) error {
			for _, name := range changed {
				if err := validateConfig(r, name, configs[name]); err != nil {
					return err
				}
			}
			if r.Type == metadata.ConfigTopic {
				return validateTopicTogether(v, configs)
			}
			return nil
		},
		IsList: func(t metadata.ConfigType, name string) bool {
			k := keyOf(t, name)
			return k != nil && k.Type == config.TypeList
		},
		Default: func(t metadata.ConfigType, name string) string {
			switch t {
			case metadata.ConfigTopic:
				for _, e := range v.DescribeTopic(nil) {
					if e.Name == name && e.Value != nil {
						return *e.Value
					}
				}
			case metadata.ConfigBroker:
				if config.BrokerKey(name) != nil {
					value, _ := v.Lookup(name)
					return value
				}
			default:
				if k := keyOf(t, name); k != nil {
					return k.Default
				}
			}
			return ""
		},
	}
}

// keyOf finds the key of a kind of resource, or nil.
func keyOf(t metadata.ConfigType, name string) *config.Key {
	switch t {
	case metadata.ConfigTopic:
		return config.TopicKey(name)
	case metadata.ConfigBroker:
		return config.BrokerKey(name)
	case metadata.ConfigGroup:
		return config.EntityKey("group", name)
	case metadata.ConfigClientMetrics:
		return config.EntityKey("client-metrics", name)
	case metadata.ConfigBrokerLogger:
	}
	return nil
}

// validateConfig checks one setting that a request makes.
func validateConfig(r metadata.ConfigResource, name, value string) error {
	switch r.Type {
	case metadata.ConfigTopic:
		return config.ValidateTopicConfig(name, value)
	case metadata.ConfigBroker:
		// A key that no table knows may belong to a plugin; Kafka stores it.
		if k := config.BrokerKey(name); k != nil && (k.Mode == config.ReadOnly || k.Mode == config.PerBroker && r.Name == "") {
			return fmt.Errorf("%w: Cannot update these configs dynamically: Set(%s)", kerr.InvalidRequest, name)
		} else if k != nil {
			_, err := k.Parse(value)
			return err
		}
		return fmt.Errorf("Unknown broker config name: %s", name)
	default:
		k := keyOf(r.Type, name)
		if k == nil {
			return fmt.Errorf("Unknown config name: %s", name)
		}
		_, err := k.Parse(value)
		return err
	}
}

// validateTopicTogether checks settings that only conflict with each other.
// What the topic leaves open is the broker's default.
func validateTopicTogether(v *config.Values, configs map[string]string) error {
	t := v.Topic(configs)
	if lo, hi := t.MinCompactionLagMs, t.MaxCompactionLagMs; lo > hi {
		return fmt.Errorf("conflict topic config setting min.compaction.lag.ms (%d) > max.compaction.lag.ms (%d)", lo, hi)
	}
	return nil
}
