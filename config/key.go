package config

import (
	"sort"
	"strings"
)

// Type is the type of a key's value, numbered as in DescribeConfigs responses.
type Type int8

// The types of Kafka's configuration definitions.
const (
	TypeUnknown  Type = 0
	TypeBoolean  Type = 1
	TypeString   Type = 2
	TypeInt      Type = 3
	TypeShort    Type = 4
	TypeLong     Type = 5
	TypeDouble   Type = 6
	TypeList     Type = 7
	TypeClass    Type = 8
	TypePassword Type = 9
)

var typeNames = [...]string{"UNKNOWN", "BOOLEAN", "STRING", "INT", "SHORT", "LONG", "DOUBLE", "LIST", "CLASS", "PASSWORD"}

// String is Kafka's name of the type, e.g. "BOOLEAN".
func (t Type) String() string {
	if t < 0 || int(t) >= len(typeNames) {
		return typeNames[0]
	}
	return typeNames[t]
}

// Mode says where a broker key can be changed while the broker runs (KIP-226).
type Mode int8

// The modes of change.
const (
	ReadOnly    Mode = iota // only in the file, at the next start
	PerBroker               // for one broker at a time
	ClusterWide             // for one broker, or as the default of all
)

// String is the mode's name in Kafka's documentation, e.g. "cluster-wide".
func (m Mode) String() string {
	return [...]string{"read-only", "per-broker", "cluster-wide"}[m]
}

// Key describes one configuration key.
type Key struct {
	// Entity is the kind of resource for keys that are neither the broker's
	// nor a topic's: group, client-metrics, quota-user, ...
	Entity string
	Name   string
	Type   Type
	// Default is the text of the default; there is none where Null is set.
	Default string
	Null    bool
	// KafkaDefault is Kafka's default where ours differs, "(required)" where
	// Kafka has none.
	KafkaDefault string
	Mode         Mode
	// Internal keys are accepted but not shown.
	Internal bool
	// Own marks a key that Kafka does not have.
	Own bool
	// Tier is 1 for a key that has an effect. The others are accepted and
	// shown: 2 belongs to what is not built yet, 3 to tiered storage, 4 to what
	// has no meaning here.
	Tier int
	// Synonyms of a topic key are the broker keys that set its default, the
	// strongest first.
	Synonyms []string
	Doc      string
	valid    validator
}

// Sensitive tells whether the value must not be shown.
func (k *Key) Sensitive() bool { return k.Type == TypePassword || k.Type == TypeUnknown }

// BrokerKeys returns every broker key, sorted by name. The slice is shared and
// must not be changed.
func BrokerKeys() []Key { return brokerKeys }

// TopicKeys returns every topic key, sorted by name. The slice is shared and
// must not be changed.
func TopicKeys() []Key { return topicKeys }

// EntityKeys returns the keys of an entity ("group", "client-metrics", ...),
// sorted by name. The slice is shared and must not be changed.
func EntityKeys(entity string) []Key {
	lo := sort.Search(len(entityKeys), func(i int) bool { return entityKeys[i].Entity >= entity })
	hi := sort.Search(len(entityKeys), func(i int) bool { return entityKeys[i].Entity > entity })
	return entityKeys[lo:hi]
}

// BrokerKey returns the broker key of that name, or nil.
func BrokerKey(name string) *Key { return find(brokerKeys, name) }

// BrokerKeyFor returns the broker key of that name, or the one that a
// listener.name... key overrides, or the key of a replication throttle, which
// can be set while the broker runs only; nil if there is none.
func BrokerKeyFor(name string) *Key {
	if k := BrokerKey(name); k != nil {
		return k
	}
	if base, _, ok := listenerKey(name); ok {
		return BrokerKey(base)
	}
	if k := EntityKey("quota-broker", name); k != nil && k.Mode != ReadOnly {
		return k
	}
	return nil
}

// TopicKey returns the topic key of that name, or nil.
func TopicKey(name string) *Key { return find(topicKeys, name) }

// EntityKey returns a key of an entity, or nil.
func EntityKey(entity, name string) *Key { return find(EntityKeys(entity), name) }

func find(keys []Key, name string) *Key {
	if i := index(keys, name); i >= 0 {
		return &keys[i]
	}
	return nil
}

func index(keys []Key, name string) int {
	i, ok := sort.Find(len(keys), func(i int) int { return strings.Compare(name, keys[i].Name) })
	if !ok {
		return -1
	}
	return i
}

// brokerSynonyms lists for a broker key the keys that it is read from, itself
// among them, the strongest first (Kafka's DynamicBrokerConfig).
func brokerSynonyms(name string) []string {
	switch name {
	case "log.roll.ms", "log.roll.hours":
		return []string{"log.roll.ms", "log.roll.hours"}
	case "log.roll.jitter.ms", "log.roll.jitter.hours":
		return []string{"log.roll.jitter.ms", "log.roll.jitter.hours"}
	case "log.flush.interval.ms":
		return []string{"log.flush.interval.ms", "log.flush.scheduler.interval.ms"}
	case "log.retention.ms", "log.retention.minutes", "log.retention.hours":
		return []string{"log.retention.ms", "log.retention.minutes", "log.retention.hours"}
	}
	if base, _, ok := listenerKey(name); ok {
		return []string{name, base}
	}
	return []string{name}
}

// listenerKey splits listener.name.<listener>.[<mechanism>.]<key> and returns
// the broker key it overrides.
func listenerKey(name string) (base, listener string, ok bool) {
	rest, ok := strings.CutPrefix(name, "listener.name.")
	if !ok {
		return "", "", false
	}
	listener, base, ok = strings.Cut(rest, ".")
	if !ok || listener == "" {
		return "", "", false
	}
	if BrokerKey(base) != nil {
		return base, listener, true
	}
	// The mechanism comes in small letters and may hold a dash, never a dot.
	if _, after, ok := strings.Cut(base, "."); ok && mechanismKey(after) {
		return after, listener, true
	}
	return "", "", false
}

// mechanismKey tells the keys that can be set per SASL mechanism of a listener.
func mechanismKey(name string) bool {
	switch name {
	case "sasl.jaas.config", "sasl.login.class", "sasl.login.callback.handler.class",
		"sasl.server.callback.handler.class", "connections.max.reauth.ms":
		return true
	}
	return false
}
