package config

// ConfigSource is the source of a value, numbered as in DescribeConfigs
// responses.
type ConfigSource int8

// The sources.
const (
	UnknownConfig        ConfigSource = 0
	DynamicTopic         ConfigSource = 1
	DynamicBroker        ConfigSource = 2
	DynamicDefaultBroker ConfigSource = 3
	StaticBroker         ConfigSource = 4
	DefaultConfig        ConfigSource = 5
	DynamicBrokerLogger  ConfigSource = 6
	DynamicClientMetrics ConfigSource = 7
	DynamicGroup         ConfigSource = 8
)

// Entry is one key as DescribeConfigs shows it.
type Entry struct {
	Name string
	// Value is nil for null and for what must not be shown.
	Value     *string
	ReadOnly  bool
	Sensitive bool
	Source    ConfigSource
	Type      Type
	Doc       string
	Synonyms  []Synonym
}

// Synonym is one value that the key has or would have, the strongest first.
type Synonym struct {
	Name   string
	Value  *string
	Source ConfigSource
}

// DescribeBroker shows every key of this broker that is not internal.
func (v *Values) DescribeBroker() []Entry {
	l := v.cur.Load()
	out := make([]Entry, 0, len(brokerKeys))
	for i := range brokerKeys {
		if k := &brokerKeys[i]; !k.Internal {
			out = append(out, l.brokerEntry(k, k.Name, l.effective[i], true))
		}
	}
	for _, name := range l.otherSettings() {
		val, _, _ := l.lookup(name)
		out = append(out, l.brokerEntry(describedBy(name), name, val, true))
	}
	return out
}

// DescribeBrokerDefaults shows the dynamic settings of all brokers.
func (v *Values) DescribeBrokerDefaults() []Entry {
	l := v.cur.Load()
	var out []Entry
	for _, name := range sortedKeys(l.cluster) {
		out = append(out, l.brokerEntry(describedBy(name), name, l.cluster[name], false))
	}
	return out
}

func (l *layers) brokerEntry(k *Key, name string, val Value, thisBroker bool) Entry {
	e := Entry{
		Name: name, Value: shown(k, val), ReadOnly: k.Mode == ReadOnly, Sensitive: k.Sensitive(),
		Source: DefaultConfig, Type: k.Type, Doc: k.Doc,
	}
	for _, s := range l.synonyms(name, brokerSynonyms(name), k.Sensitive()) {
		if thisBroker || s.Source == DynamicDefaultBroker {
			e.Synonyms = append(e.Synonyms, s)
		}
	}
	if len(e.Synonyms) > 0 {
		e.Source = e.Synonyms[0].Source
	}
	return e
}

// synonyms lists what the names are set to, layer by layer from the strongest
// on. What stands before the key's own name would only confuse, so it is left
// out, as Kafka does.
func (l *layers) synonyms(name string, names []string, sensitive bool) []Synonym {
	var out []Synonym
	add := func(n string, val Value, source ConfigSource) {
		if n == name || len(out) > 0 {
			s := Synonym{Name: n, Source: source}
			if !sensitive && !val.Null {
				raw := val.Raw
				s.Value = &raw
			}
			out = append(out, s)
		}
	}
	for _, n := range names {
		if val, ok := l.broker[n]; ok {
			add(n, val, DynamicBroker)
		}
	}
	for _, n := range names {
		if val, ok := l.cluster[n]; ok {
			add(n, val, DynamicDefaultBroker)
		}
	}
	for _, n := range names {
		if s, ok := l.static[n]; ok {
			add(n, s.value, StaticBroker)
		}
	}
	for _, n := range names {
		if k := BrokerKey(n); k != nil && !k.Null {
			add(n, k.DefaultValue(), DefaultConfig)
		}
	}
	return out
}

// DescribeTopic shows every key of a topic with these settings of its own. An
// internal key is shown where it is set.
func (v *Values) DescribeTopic(overrides map[string]string) []Entry {
	l := v.cur.Load()
	out := make([]Entry, 0, len(topicKeys))
	for i := range topicKeys {
		k := &topicKeys[i]
		if _, set := overrides[k.Name]; k.Internal && !set {
			continue
		}
		val, own := v.topicValue(k.Name, overrides)
		e := Entry{Name: k.Name, Value: shown(k, val), Sensitive: k.Sensitive(), Source: DefaultConfig, Type: k.Type, Doc: k.Doc}
		if own {
			e.Synonyms = append(e.Synonyms, Synonym{Name: k.Name, Value: e.Value, Source: DynamicTopic})
		}
		if len(k.Synonyms) > 0 {
			first := k.Synonyms[0]
			e.Synonyms = append(e.Synonyms, l.synonyms(first, brokerSynonyms(first), k.Sensitive())...)
		}
		if len(e.Synonyms) > 0 {
			e.Source = e.Synonyms[0].Source
		}
		out = append(out, e)
	}
	return out
}

// DescribeGroup shows the keys of a group with these settings of its own. What
// a group does not set comes from the broker key of the same name with "group."
// before it, if there is one.
func (v *Values) DescribeGroup(overrides map[string]string) []Entry {
	l := v.cur.Load()
	keys := EntityKeys("group")
	out := make([]Entry, 0, len(keys))
	for i := range keys {
		k := &keys[i]
		val, own := v.groupValue(k, overrides)
		e := Entry{Name: k.Name, Value: shown(k, val), Type: k.Type, Doc: k.Doc}
		if own {
			e.Synonyms = append(e.Synonyms, Synonym{Name: k.Name, Value: e.Value, Source: DynamicGroup})
		}
		if broker := "group." + k.Name; BrokerKey(broker) != nil {
			e.Synonyms = append(e.Synonyms, l.synonyms(broker, []string{broker}, false)...)
		} else {
			def := k.Default
			e.Synonyms = append(e.Synonyms, Synonym{Name: k.Name, Value: &def, Source: DefaultConfig})
		}
		e.Source = e.Synonyms[0].Source
		out = append(out, e)
	}
	return out
}

// groupValue resolves one key of a group and says whether the group itself sets
// it.
func (v *Values) groupValue(k *Key, overrides map[string]string) (Value, bool) {
	if raw, ok := overrides[k.Name]; ok {
		if val, err := k.Parse(raw); err == nil {
			return val, true
		}
	}
	if i := index(brokerKeys, "group."+k.Name); i >= 0 {
		return v.cur.Load().effective[i], false
	}
	return k.DefaultValue(), false
}

// GroupInt resolves a number among the settings of a group.
func (v *Values) GroupInt(name string, overrides map[string]string) int64 {
	k := EntityKey("group", name)
	if k == nil {
		panic("config: no such group key: " + name)
	}
	val, _ := v.groupValue(k, overrides)
	return val.num
}

// DescribeClientMetrics shows the keys of a client metrics subscription with
// these settings of its own.
func DescribeClientMetrics(overrides map[string]string) []Entry {
	keys := EntityKeys("client-metrics")
	out := make([]Entry, 0, len(keys))
	for i := range keys {
		k := &keys[i]
		e := Entry{Name: k.Name, Value: shown(k, k.DefaultValue()), Source: DefaultConfig, Type: k.Type, Doc: k.Doc}
		if raw, ok := overrides[k.Name]; ok {
			if val, err := k.Parse(raw); err == nil {
				e.Value, e.Source = shown(k, val), DynamicClientMetrics
				e.Synonyms = []Synonym{{Name: k.Name, Value: e.Value, Source: DynamicClientMetrics}}
			}
		}
		out = append(out, e)
	}
	return out
}

func shown(k *Key, v Value) *string {
	if v.Null || k.Sensitive() {
		return nil
	}
	raw := v.Raw
	return &raw
}
