package config

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Values are the settings of a broker: what was configured at start, and above
// it the dynamic settings of all brokers and of this one.
//
// A getter panics for a name that is in no table and for a value of another
// type: that is a bug of the caller, not of the configuration.
type Values struct {
	mu  sync.Mutex // serialises SetDynamic
	cur atomic.Pointer[layers]
}

// layers is one immutable state of Values.
type layers struct {
	static  map[string]setting
	cluster map[string]Value // dynamic, the default of all brokers
	broker  map[string]Value // dynamic, this broker
	// effective holds the strongest value of every key, parallel to brokerKeys.
	effective []Value
}

func newValues(static map[string]setting) *Values {
	v := new(Values)
	v.cur.Store(resolve(static, nil, nil))
	return v
}

func resolve(static map[string]setting, cluster, broker map[string]Value) *layers {
	l := &layers{static: static, cluster: cluster, broker: broker, effective: make([]Value, len(brokerKeys))}
	for i := range brokerKeys {
		k := &brokerKeys[i]
		if v, _, ok := l.lookup(k.Name); ok {
			l.effective[i] = v
		} else {
			l.effective[i] = k.DefaultValue()
		}
	}
	return l
}

// lookup finds the strongest layer that sets the key.
func (l *layers) lookup(name string) (Value, Origin, bool) {
	if v, ok := l.broker[name]; ok {
		return v, Origin{Level: DynamicBroker}, true
	}
	if v, ok := l.cluster[name]; ok {
		return v, Origin{Level: DynamicDefaultBroker}, true
	}
	if s, ok := l.static[name]; ok {
		return s.value, s.origin, true
	}
	return Value{}, Origin{Level: DefaultConfig}, false
}

// Defaults returns Values in which nothing is set.
func Defaults() *Values { return newValues(nil) }

// SetDynamic replaces the dynamic settings: those of all brokers and those of
// this one. Settings that no longer suit their key are left out and returned as
// an error; the others take effect. Getters see the change at once; what a
// component computed from a value before is its own to renew.
func (v *Values) SetDynamic(cluster, broker map[string]string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var bad []string
	parseAll := func(in map[string]string) map[string]Value {
		out := make(map[string]Value, len(in))
		for _, name := range sortedKeys(in) {
			if BrokerKeyFor(name) == nil {
				out[name] = Value{Raw: in[name]} // kept and shown, as Kafka does
				continue
			}
			val, err := ParseBroker(name, in[name])
			if err != nil {
				bad = append(bad, err.Error())
				continue
			}
			out[name] = val
		}
		return out
	}
	c, b := parseAll(cluster), parseAll(broker)
	v.cur.Store(resolve(v.cur.Load().static, c, b))
	if len(bad) > 0 {
		return fmt.Errorf("dynamic settings left out: %s", strings.Join(bad, "; "))
	}
	return nil
}

func (v *Values) get(name string, types ...Type) Value {
	i := index(brokerKeys, name)
	if i < 0 {
		panic("config: no such key: " + name)
	}
	for _, t := range types {
		if brokerKeys[i].Type == t {
			return v.cur.Load().effective[i]
		}
	}
	panic("config: " + name + " is of type " + brokerKeys[i].Type.String())
}

// Lookup returns the text of any key's value, and false if the value is null.
func (v *Values) Lookup(name string) (string, bool) {
	i := index(brokerKeys, name)
	if i < 0 {
		panic("config: no such key: " + name)
	}
	val := v.cur.Load().effective[i]
	return val.Raw, !val.Null
}

// IsSet tells whether the key was set, statically or dynamically.
func (v *Values) IsSet(name string) bool {
	_, _, ok := v.cur.Load().lookup(name)
	return ok
}

// String returns a STRING, CLASS or PASSWORD value; null is "".
func (v *Values) String(name string) string {
	return v.get(name, TypeString, TypeClass, TypePassword).Raw
}

// Int returns an INT or SHORT value; null is 0.
func (v *Values) Int(name string) int {
	return int(v.get(name, TypeInt, TypeShort).num)
}

// Int32 returns an INT or SHORT value; null is 0.
func (v *Values) Int32(name string) int32 {
	return int32(v.get(name, TypeInt, TypeShort).num)
}

// Int64 returns a LONG, INT or SHORT value; null is 0.
func (v *Values) Int64(name string) int64 {
	return v.get(name, TypeLong, TypeInt, TypeShort).num
}

// Duration returns a number of milliseconds as a duration, cut off at the
// longest one. Negative values stay negative.
func (v *Values) Duration(name string) time.Duration {
	return Milliseconds(v.Int64(name))
}

// Milliseconds converts to a duration without overflow.
func Milliseconds(ms int64) time.Duration {
	const limit = int64(1<<63-1) / int64(time.Millisecond)
	if ms > limit {
		return time.Duration(1<<63 - 1)
	}
	if ms < -limit {
		return -time.Duration(1<<63 - 1)
	}
	return time.Duration(ms) * time.Millisecond
}

// Throttle returns the bytes per second of a replication throttle
// (leader.replication.throttled.rate, follower.replication.throttled.rate), or of
// moves between log directories (replica.alter.log.dirs.io.max.bytes.per.second),
// math.MaxInt64 while none is set.
func (v *Values) Throttle(name string) int64 {
	k := EntityKey("quota-broker", name)
	if k == nil {
		panic("config: no such throttle: " + name)
	}
	if val, _, ok := v.cur.Load().lookup(name); ok {
		return val.num
	}
	return k.DefaultValue().num
}

// Bool returns a BOOLEAN value.
func (v *Values) Bool(name string) bool { return v.get(name, TypeBoolean).flag }

// Float returns a DOUBLE value.
func (v *Values) Float(name string) float64 { return v.get(name, TypeDouble).flt }

// List returns a LIST value; null and empty are nil. The slice is shared and
// must not be changed.
func (v *Values) List(name string) []string {
	l := v.get(name, TypeList).list
	if len(l) == 0 {
		return nil
	}
	return l
}

// Origin says where a key's value comes from.
func (v *Values) Origin(name string) Origin {
	_, o, _ := v.cur.Load().lookup(name)
	return o
}

// Setting is one key with its value.
type Setting struct {
	Name string
	// Key describes it; for a listener.name... key, the key that it overrides;
	// for a dynamic setting that no table knows, a nameless one.
	Key    *Key
	Value  Value
	Origin Origin
}

// All returns every key with its effective value, sorted by name, followed by
// what is set beside them.
func (v *Values) All() []Setting {
	l := v.cur.Load()
	out := make([]Setting, 0, len(brokerKeys))
	for i := range brokerKeys {
		k := &brokerKeys[i]
		_, o, _ := l.lookup(k.Name)
		out = append(out, Setting{k.Name, k, l.effective[i], o})
	}
	for _, name := range l.otherSettings() {
		val, o, _ := l.lookup(name)
		out = append(out, Setting{name, describedBy(name), val, o})
	}
	return out
}

// unknown describes dynamic settings that no table knows. They may be anything,
// so they are not shown.
var unknown = &Key{Type: TypeUnknown}

// describedBy is the key that describes a setting.
func describedBy(name string) *Key {
	if k := BrokerKeyFor(name); k != nil {
		return k
	}
	return unknown
}

// otherSettings are the names that are set and are in no table: those of
// listeners, and dynamic ones that nobody knows.
func (l *layers) otherSettings() []string {
	set := make(map[string]bool)
	for n := range l.static {
		set[n] = true
	}
	for n := range l.cluster {
		set[n] = true
	}
	for n := range l.broker {
		set[n] = true
	}
	for n := range set {
		if BrokerKey(n) != nil {
			delete(set, n)
		}
	}
	return sortedKeys(set)
}

// ForListener returns the value of a key for a listener: its override
// listener.name.<listener>.<key> if set, and the key's own value otherwise.
// False means null.
func (v *Values) ForListener(listener, name string) (string, bool) {
	if val, _, ok := v.cur.Load().lookup("listener.name." + strings.ToLower(listener) + "." + name); ok {
		return val.Raw, !val.Null
	}
	return v.Lookup(name)
}

// LogDirs are the directories of the logs: log.dirs, or else log.dir.
func (v *Values) LogDirs() []string {
	if d := v.List("log.dirs"); d != nil {
		return d
	}
	return v.List("log.dir")
}

// NodeID is this broker's id.
func (v *Values) NodeID() int32 { return v.Int32("node.id") }

// HasRole tells whether process.roles names the role "broker" or "controller".
func (v *Values) HasRole(role string) bool {
	for _, r := range v.List("process.roles") {
		if r == role {
			return true
		}
	}
	return false
}
