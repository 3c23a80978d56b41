package handler

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
)

// ConfigRules is what the controller needs to know of configuration keys; v
// are the settings of the broker that asks.
func ConfigRules(v *config.Values) metadata.ConfigRules {
	return metadata.ConfigRules{
		Validate: func(r metadata.ConfigResource, configs map[string]string, changed []string) error {
			switch r.Type {
			case metadata.ConfigTopic:
				return checkTopicConfigs(v, configs)
			case metadata.ConfigBroker:
				return checkBrokerConfigs(r.Name == "", configs, changed)
			case metadata.ConfigGroup:
				return checkGroupConfigs(v, configs)
			case metadata.ConfigClientMetrics:
				return checkClientMetrics(configs)
			}
			return nil
		},
		IsList: func(t metadata.ConfigType, key string) bool {
			k := configKey(t, key)
			return k != nil && k.Type == config.TypeList
		},
		Default: func(t metadata.ConfigType, key string) string {
			if t == metadata.ConfigTopic {
				return v.TopicDefault(key)
			}
			if k := configKey(t, key); k != nil {
				return k.Default
			}
			return ""
		},
	}
}

// DynamicConfig returns a subscriber to metadata that keeps the dynamic
// settings of v as the cluster has them. It must come before those who read
// what depends on them.
func DynamicConfig(v *config.Values, nodeID int32, log zerolog.Logger) func(*metadata.Delta, *metadata.Image) {
	all := metadata.ConfigResource{Type: metadata.ConfigBroker}
	own := metadata.ConfigResource{Type: metadata.ConfigBroker, Name: strconv.Itoa(int(nodeID))}
	return func(d *metadata.Delta, img *metadata.Image) {
		if !slices.Contains(d.Configs, all) && !slices.Contains(d.Configs, own) {
			return
		}
		if err := v.SetDynamic(img.Config(all), img.Config(own)); err != nil {
			log.Warn().Err(err).Msg("dynamic configuration")
		}
		log.Info().Int64("revision", img.Revision).Msg("dynamic configuration changed")
	}
}

func configKey(t metadata.ConfigType, key string) *config.Key {
	switch t {
	case metadata.ConfigTopic:
		return config.TopicKey(key)
	case metadata.ConfigBroker:
		return config.BrokerKeyFor(key)
	case metadata.ConfigGroup:
		return config.EntityKey("group", key)
	case metadata.ConfigClientMetrics:
		return config.EntityKey("client-metrics", key)
	}
	return nil
}

// configError is a refusal with another code than INVALID_CONFIG.
type configError struct {
	code *kerr.Error
	text string
}

func (e *configError) Error() string { return e.text }
func (e *configError) Unwrap() error { return e.code }

func refuse(format string, args ...any) error {
	return &configError{kerr.InvalidRequest, fmt.Sprintf(format, args...)}
}

func sortedConfigs(configs map[string]string) []string {
	keys := make([]string, 0, len(configs))
	for k := range configs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// checkTopicConfigs is Kafka's LogConfig.validate.
func checkTopicConfigs(v *config.Values, configs map[string]string) error {
	keys := sortedConfigs(configs)
	for _, k := range keys {
		if config.TopicKey(k) == nil {
			return fmt.Errorf("Unknown topic config name: %s", k)
		}
	}
	for _, k := range keys {
		if err := config.ValidateTopicConfig(k, configs[k]); err != nil {
			return err
		}
	}
	c := v.Topic(configs)
	if c.MinCompactionLagMs > c.MaxCompactionLagMs {
		return fmt.Errorf("conflict topic config setting min.compaction.lag.ms (%d) > max.compaction.lag.ms (%d)", c.MinCompactionLagMs, c.MaxCompactionLagMs)
	}
	if c.RemoteStorage {
		return fmt.Errorf("Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.")
	}
	return nil
}

// checkBrokerConfigs is Kafka's DynamicBrokerConfig.validate. Keys that no
// table knows are kept, as Kafka does.
func checkBrokerConfigs(allBrokers bool, configs map[string]string, changed []string) error {
	var readOnly, needPrefix, perBroker []string
	for _, name := range changed {
		k := config.BrokerKeyFor(name)
		_, prefixed := strings.CutPrefix(name, "listener.name.")
		switch {
		case k == nil || prefixed && !allBrokers:
		case k.Mode == config.ReadOnly || notAtRunTime(name):
			readOnly = append(readOnly, name)
		case dynamicSecurity(name):
			needPrefix = append(needPrefix, name)
		case allBrokers && (k.Mode == config.PerBroker || prefixed):
			perBroker = append(perBroker, name)
		}
	}
	for _, c := range []struct {
		names []string
		text  string
	}{
		{readOnly, "Cannot update these configs dynamically"},
		{needPrefix, "These security configs can be dynamically updated only per-listener using the listener prefix"},
		{perBroker, "Cannot update these configs at default cluster level, broker id must be specified"},
	} {
		if len(c.names) > 0 {
			return refuse("%s: [%s]", c.text, strings.Join(c.names, ", "))
		}
	}
	for _, name := range sortedConfigs(configs) {
		if config.BrokerKeyFor(name) == nil {
			continue
		}
		if _, err := config.ParseBroker(name, configs[name]); err != nil {
			return refuse("%s", err)
		}
		if name == "log.retention.ms" && strings.TrimSpace(configs[name]) == "0" {
			return refuse("requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1")
		}
	}
	return nil
}

// notAtRunTime tells keys that Kafka can change while it runs and this broker
// cannot: to say so is better than to take them without effect.
func notAtRunTime(name string) bool {
	return name == "listeners" || name == "listener.security.protocol.map"
}

func dynamicSecurity(name string) bool {
	switch name {
	case "ssl.keystore.type", "ssl.keystore.location", "ssl.keystore.password", "ssl.keystore.key", "ssl.keystore.certificate.chain",
		"ssl.key.password", "ssl.truststore.type", "ssl.truststore.location", "ssl.truststore.password", "ssl.truststore.certificates":
		return true
	}
	return false
}

// groupBounds are the group keys in the order in which Kafka checks them, each
// held between two broker keys. A key that is marked is checked only if set.
var groupBounds = []struct {
	key      string
	min, max string
	onlySet  bool
}{
	{"consumer.heartbeat.interval.ms", "group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms", false},
	{"consumer.session.timeout.ms", "group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms", false},
	{"consumer.assignment.interval.ms", "group.consumer.min.assignment.interval.ms", "group.consumer.max.assignment.interval.ms", true},
	{"share.heartbeat.interval.ms", "group.share.min.heartbeat.interval.ms", "group.share.max.heartbeat.interval.ms", false},
	{"share.session.timeout.ms", "group.share.min.session.timeout.ms", "group.share.max.session.timeout.ms", false},
	{"share.record.lock.duration.ms", "group.share.min.record.lock.duration.ms", "group.share.max.record.lock.duration.ms", false},
	{"share.delivery.count.limit", "group.share.min.delivery.count.limit", "group.share.max.delivery.count.limit", false},
	{"share.partition.max.record.locks", "group.share.min.partition.max.record.locks", "group.share.max.partition.max.record.locks", false},
	{"share.assignment.interval.ms", "group.share.min.assignment.interval.ms", "group.share.max.assignment.interval.ms", true},
	{"streams.heartbeat.interval.ms", "group.streams.min.heartbeat.interval.ms", "group.streams.max.heartbeat.interval.ms", false},
	{"streams.session.timeout.ms", "group.streams.min.session.timeout.ms", "group.streams.max.session.timeout.ms", false},
	{"streams.num.standby.replicas", "", "group.streams.max.standby.replicas", false},
	{"streams.assignment.interval.ms", "group.streams.min.assignment.interval.ms", "group.streams.max.assignment.interval.ms", true},
}

// checkGroupConfigs is Kafka's GroupConfig.validate.
func checkGroupConfigs(v *config.Values, configs map[string]string) error {
	for _, name := range sortedConfigs(configs) {
		k := config.EntityKey("group", name)
		if k == nil {
			return fmt.Errorf("Unknown group config name: %s", name)
		}
		if _, err := k.Parse(configs[name]); err != nil {
			return err
		}
	}
	value := func(name string) int64 { return v.GroupInt(name, configs) }
	for _, b := range groupBounds {
		if _, ok := configs[b.key]; b.onlySet && !ok {
			continue
		}
		if b.min != "" && value(b.key) < v.Int64(b.min) {
			return fmt.Errorf("%s must be greater than or equal to %s", b.key, b.min)
		}
		if value(b.key) > v.Int64(b.max) {
			return fmt.Errorf("%s must be less than or equal to %s", b.key, b.max)
		}
	}
	for _, kind := range []string{"consumer", "share", "streams"} {
		session, heartbeat := kind+".session.timeout.ms", kind+".heartbeat.interval.ms"
		if value(session) <= value(heartbeat) {
			return fmt.Errorf("%s must be greater than %s", session, heartbeat)
		}
	}
	return nil
}

// checkClientMetrics is Kafka's ClientMetricsConfigs.validate (KIP-714).
func checkClientMetrics(configs map[string]string) error {
	for _, name := range sortedConfigs(configs) {
		if config.EntityKey("client-metrics", name) == nil {
			return refuse("Unknown client metrics configuration: %s", name)
		}
	}
	for _, name := range sortedConfigs(configs) {
		val, err := config.EntityKey("client-metrics", name).Parse(configs[name])
		if err != nil {
			return err
		}
		switch name {
		case "interval.ms":
			if n := val.Int64(); n < 100 || n > 3_600_000 {
				return refuse("Invalid value %d for interval.ms, interval must be between 100 and 3600000 (1 hour)", n)
			}
		case "match":
			for _, pattern := range val.List() {
				if !clientMatch(pattern) {
					return fmt.Errorf("Illegal client matching pattern: %s", pattern)
				}
			}
		}
	}
	return nil
}

func clientMatch(pattern string) bool {
	name, expr, ok := strings.Cut(pattern, "=")
	if !ok || strings.Contains(expr, "=") || expr == "" {
		return false
	}
	switch strings.TrimSpace(name) {
	case "client_instance_id", "client_id", "client_software_name", "client_software_version", "client_source_address", "client_source_port":
	default:
		return false
	}
	_, err := regexp.Compile(strings.TrimSpace(expr))
	return err == nil
}
