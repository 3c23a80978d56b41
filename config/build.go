package config

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Line is one assignment in a source.
type Line struct {
	Key, Value string
	// Line is its place in the source, counted from 1; 0 where there is none.
	Line int
}

// Source is where assignments come from: a file, the environment, the command
// line. Within a source a later line wins.
type Source struct {
	// Name is what messages call it: the file's path, "environment", ...
	Name  string
	Lines []Line
	// Lenient turns unknown keys into warnings: an environment holds much that
	// was never meant for the broker.
	Lenient bool
}

// Origin says where a value comes from.
type Origin struct {
	// Level is the layer: DefaultConfig, StaticBroker, DynamicDefaultBroker or
	// DynamicBroker.
	Level ConfigSource
	// Source and Line are the place of a StaticBroker value.
	Source string
	Line   int
}

// String is the place as messages name it, e.g. "server.properties:12".
func (o Origin) String() string {
	switch o.Level {
	case DynamicBroker:
		return "dynamic (this broker)"
	case DynamicDefaultBroker:
		return "dynamic (all brokers)"
	case StaticBroker:
		if o.Line > 0 {
			return fmt.Sprintf("%s:%d", o.Source, o.Line)
		}
		return o.Source
	}
	return "default"
}

// Warning is about a line that was accepted but does not do what it says.
type Warning struct {
	Origin Origin
	Key    string
	// Text says why, without naming the key.
	Text string
	// Unused marks a key that Kafka knows and that has no effect here; many of
	// those stand in every file and are best reported in one line.
	Unused bool
}

// LineError is an error in one line of a source.
type LineError struct {
	Origin Origin
	Key    string
	Err    error
}

func (e *LineError) Error() string { return e.Origin.String() + ": " + e.Key + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// ErrUnknownKey is the cause in a LineError about a key that no table knows.
var ErrUnknownKey = errors.New("unknown configuration key")

// setting is one value that was set statically.
type setting struct {
	value  Value
	origin Origin
}

// builder collects what the sources say.
type builder struct {
	set      map[string]setting // by key, also listener.name... keys
	copies   map[string]setting // by target key, from removed keys
	parts    map[string]setting // host.name, port, advertised.*
	warnings []Warning
	warned   map[string]bool
	errs     []error
}

// Build resolves the sources, given in ascending precedence, into Values. It
// reports every bad line at once; the errors in the result are LineErrors that
// name source, line and key.
func Build(sources ...Source) (*Values, []Warning, error) {
	b := &builder{
		set:    make(map[string]setting),
		copies: make(map[string]setting),
		parts:  make(map[string]setting),
		warned: make(map[string]bool),
	}
	for _, s := range sources {
		for _, l := range s.Lines {
			b.line(s, l)
		}
	}
	b.old()
	b.nodeID()
	v := newValues(b.set)
	b.errs = append(b.errs, v.check()...)
	if len(b.errs) > 0 {
		return nil, b.warnings, errors.Join(b.errs...)
	}
	return v, b.warnings, nil
}

func (b *builder) line(s Source, l Line) {
	o := Origin{Level: StaticBroker, Source: s.Name, Line: l.Line}
	name := strings.TrimSpace(l.Key)
	k := BrokerKey(name)
	if base, _, ok := listenerKey(name); k == nil && ok {
		k = BrokerKey(base)
		if after, found := strings.CutPrefix(name, "listener.name."); found {
			// Listener names are case-insensitive; keep one spelling.
			listener, rest, _ := strings.Cut(after, ".")
			name = "listener.name." + strings.ToLower(listener) + "." + rest
		}
	}
	if k == nil {
		b.other(s, o, name, l.Value)
		return
	}
	raw := l.Value
	if k.Name == "listeners" || k.Name == "advertised.listeners" {
		raw = strings.TrimRight(raw, ", \t") // several containers' scripts leave a comma behind
	}
	if raw == "" && k.Null && k.Type != TypeString && k.Type != TypePassword {
		// An empty number is how a file or an environment unsets a key.
		delete(b.set, name)
		return
	}
	v, err := k.Parse(raw)
	if err != nil {
		b.errs = append(b.errs, &LineError{Origin: o, Key: name, Err: err})
		return
	}
	b.set[name] = setting{v, o}
	if k.Tier > 1 {
		b.warn(Warning{Origin: o, Key: name, Text: "accepted, but without effect here", Unused: true})
	}
}

// other deals with a name that is in no table.
func (b *builder) other(s Source, o Origin, name, raw string) {
	r := findRemoved(name)
	switch {
	case r == nil && passedThrough(name):
		b.warn(Warning{Origin: o, Key: name, Text: "accepted, but without effect here", Unused: true})
	case r == nil && s.Lenient:
		b.warn(Warning{Origin: o, Key: name, Text: ErrUnknownKey.Error()})
	case r == nil:
		b.errs = append(b.errs, &LineError{Origin: o, Key: name, Err: unknownKey(name)})
	case r.action == "silent" || strings.HasPrefix(raw, "tcp://"):
		// Kubernetes sets KAFKA_PORT=tcp://... for a service named kafka.
	case r.action == "ignore":
		b.warn(Warning{Origin: o, Key: name, Text: "ignored: " + r.note})
	case r.action == "copy":
		for _, to := range r.to {
			v, err := BrokerKey(to).Parse(raw)
			if err != nil {
				b.errs = append(b.errs, &LineError{Origin: o, Key: name, Err: err})
				return
			}
			b.copies[to] = setting{v, o}
		}
		b.warn(Warning{Origin: o, Key: name, Text: r.note + "; use " + strings.Join(r.to, " and ")})
	case r.action == "listener":
		b.parts[name] = setting{Value{Raw: strings.TrimSpace(raw)}, o}
		b.warn(Warning{Origin: o, Key: name, Text: "outdated; " + r.note})
	}
}

// warn keeps one warning per key.
func (b *builder) warn(w Warning) {
	if !b.warned[w.Key] {
		b.warned[w.Key] = true
		b.warnings = append(b.warnings, w)
	}
}

// old lets removed keys set what nobody set under its present name.
func (b *builder) old() {
	for to, s := range b.copies {
		if _, ok := b.set[to]; !ok {
			b.set[to] = s
		}
	}
	b.listenerParts("listeners", "host.name", "port")
	b.listenerParts("advertised.listeners", "advertised.host.name", "advertised.port")
}

func (b *builder) listenerParts(key, hostKey, portKey string) {
	host, hasHost := b.parts[hostKey]
	port, hasPort := b.parts[portKey]
	if _, ok := b.set[key]; ok || !hasHost && !hasPort {
		return
	}
	o := host.origin
	p := port.value.Raw
	if hasPort {
		o = port.origin
	} else {
		p = "9092"
		if bound, ok := b.parts["port"]; ok {
			p = bound.value.Raw
		}
	}
	name := host.value.Raw
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	v, err := BrokerKey(key).Parse("PLAINTEXT://" + name + ":" + p)
	if err != nil {
		b.errs = append(b.errs, &LineError{Origin: o, Key: portKey, Err: err})
		return
	}
	b.set[key] = setting{v, o}
}

// nodeID lets broker.id stand in for node.id and the other way round, and
// refuses two different ones, as Kafka does.
func (b *builder) nodeID() {
	node, hasNode := b.set["node.id"]
	broker, hasBroker := b.set["broker.id"]
	switch {
	case hasNode && hasBroker && node.value.num != broker.value.num:
		b.errs = append(b.errs, &LineError{
			Origin: broker.origin, Key: "broker.id",
			Err: errors.New("You must set `node.id` to the same value as `broker.id`."),
		})
	case hasBroker && !hasNode:
		if broker.value.num >= 0 {
			b.set["node.id"] = broker
		}
	case hasNode && !hasBroker:
		b.set["broker.id"] = node
	}
}

// unknownKey names the nearest known key, if one is near.
func unknownKey(name string) error {
	best, dist := "", 4
	for i := range brokerKeys {
		if d := distance(name, brokerKeys[i].Name, dist); d < dist {
			best, dist = brokerKeys[i].Name, d
		}
	}
	if best == "" {
		return ErrUnknownKey
	}
	return fmt.Errorf("%w; did you mean %s?", ErrUnknownKey, best)
}

// distance is the edit distance of two names, or at least limit.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		if slices.Min(cur) >= limit {
			return limit
		}
		prev = cur
	}
	return prev[len(b)]
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}
