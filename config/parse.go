package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Value is the parsed value of a key.
type Value struct {
	// Raw is the value as Kafka prints it: trimmed, lists joined by commas.
	Raw  string
	Null bool

	num  int64
	flt  float64
	flag bool
	list []string
}

// Int64 is the value of a number.
func (v Value) Int64() int64 { return v.num }

// List is the value of a list. It is shared and must not be changed.
func (v Value) List() []string { return v.list }

// InvalidError says why a value does not suit a key, in Kafka's words.
type InvalidError struct {
	Key, Value string
	Reason     string
	// Whole, if set, is the whole text: some checks do not name the value.
	Whole string
}

// Error is the text of Kafka's ConfigException.
func (e *InvalidError) Error() string {
	if e.Whole != "" {
		return e.Whole
	}
	s := "Invalid value " + e.Value + " for configuration " + e.Key
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// Parse turns text into a checked value of the key.
func (k *Key) Parse(raw string) (Value, error) {
	v, err := parse(k.Type, raw)
	if err != "" {
		shown := raw
		if k.Sensitive() {
			shown = "[hidden]"
		}
		return Value{}, &InvalidError{Key: k.Name, Value: shown, Reason: err}
	}
	if k.valid != nil {
		if err := k.valid.check(k, v); err != nil {
			return Value{}, err
		}
	}
	return v, nil
}

// DefaultValue is the parsed default of the key.
func (k *Key) DefaultValue() Value {
	if k.Null {
		return Value{Null: true}
	}
	v, reason := parse(k.Type, k.Default)
	if reason != "" {
		panic("config: bad default of " + k.Name + ": " + reason)
	}
	return v
}

// parse follows ConfigDef.parseType: it trims, and it accepts what Java's
// number parsers accept. The second result is the reason of a refusal.
func parse(t Type, raw string) (Value, string) {
	s := strings.TrimFunc(raw, func(r rune) bool { return r <= ' ' })
	v := Value{Raw: s}
	switch t {
	case TypeBoolean:
		switch {
		case strings.EqualFold(s, "true"):
			v.Raw, v.flag = "true", true
		case strings.EqualFold(s, "false"):
			v.Raw = "false"
		default:
			return v, "Expected value to be either true or false"
		}
	case TypeInt, TypeShort, TypeLong:
		bits := map[Type]int{TypeInt: 32, TypeShort: 16, TypeLong: 64}[t]
		n, err := strconv.ParseInt(s, 10, bits)
		if err != nil {
			return v, "Not a number of type " + t.String()
		}
		v.num, v.flt, v.Raw = n, float64(n), strconv.FormatInt(n, 10)
	case TypeDouble:
		f, ok := parseDouble(s)
		if !ok {
			return v, "Not a number of type DOUBLE"
		}
		v.flt = f
		v.Raw = formatDouble(f)
	case TypeList:
		v.list = splitList(s)
		v.Raw = strings.Join(v.list, ",")
	}
	return v, ""
}

// javaDouble is the grammar of Java's Double.parseDouble without hexadecimal.
var javaDouble = regexp.MustCompile(`^[+-]?(NaN|Infinity|(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[fFdD]?)$`)

func parseDouble(s string) (float64, bool) {
	if !javaDouble.MatchString(s) {
		return 0, false
	}
	if !strings.HasSuffix(s, "Infinity") {
		s = strings.TrimRight(s, "fFdD")
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

// formatDouble writes a double as Java does: always with a fraction, with an
// exponent from 1e7 on and below 1e-3.
func formatDouble(f float64) string {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return strings.Replace(strconv.FormatFloat(f, 'g', -1, 64), "Inf", "Infinity", 1)
	}
	if a := math.Abs(f); a != 0 && (a >= 1e7 || a < 1e-3) {
		s := strconv.FormatFloat(f, 'E', -1, 64)
		mant, exp, _ := strings.Cut(s, "E")
		if !strings.Contains(mant, ".") {
			mant += ".0"
		}
		n, _ := strconv.Atoi(exp) // FormatFloat wrote it
		return mant + "E" + strconv.Itoa(n)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

var comma = regexp.MustCompile(`\s*,\s*`)

// splitList splits at commas and drops repeated elements, as Kafka does. An
// empty text is an empty list; an empty element stays, for the validator.
func splitList(s string) []string {
	if s == "" {
		return []string{}
	}
	parts := comma.Split(s, -1)
	out := make([]string, 0, len(parts))
	seen := make(map[string]bool, len(parts))
	for _, p := range parts {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// validator checks a parsed value.
type validator interface {
	check(k *Key, v Value) error
}

func invalid(k *Key, v Value, format string, args ...any) error {
	return &InvalidError{Key: k.Name, Value: v.Raw, Reason: fmt.Sprintf(format, args...)}
}

// between is Kafka's ConfigDef.Range.
type between struct {
	lo, hi       float64
	hasLo, hasHi bool
}

func (b between) check(k *Key, v Value) error {
	// The comparison is on doubles, as in Kafka.
	if b.hasLo && v.flt < b.lo {
		return invalid(k, v, "Value must be at least %s", b.format(k, b.lo))
	}
	if b.hasHi && v.flt > b.hi {
		return invalid(k, v, "Value must be no more than %s", b.format(k, b.hi))
	}
	return nil
}

func (b between) format(k *Key, f float64) string {
	// Kafka prints the bound as it was written in the definition: 0 and 1 are
	// integers even for a ratio.
	if f == math.Trunc(f) {
		return strconv.FormatInt(int64(f), 10)
	}
	return formatDouble(f)
}

// oneOf is Kafka's ConfigDef.ValidString.
type oneOf struct {
	values  []string
	anyCase bool
}

func (o oneOf) check(k *Key, v Value) error {
	for _, s := range o.values {
		if s == v.Raw || o.anyCase && strings.EqualFold(s, v.Raw) {
			return nil
		}
	}
	if o.anyCase {
		return invalid(k, v, "String must be one of (case insensitive): %s", strings.Join(o.values, ", "))
	}
	return invalid(k, v, "String must be one of: %s", strings.Join(o.values, ", "))
}

// listOf is Kafka's ConfigDef.ValidList.
type listOf struct {
	emptyOK, nullOK bool
	values          []string
}

func (l listOf) check(k *Key, v Value) error {
	if len(v.list) == 0 && !l.emptyOK {
		valid := "any non-empty value"
		if len(l.values) > 0 {
			valid = "[" + strings.Join(l.values, ", ") + "]"
		}
		return &InvalidError{Key: k.Name, Whole: "Configuration '" + k.Name + "' must not be empty. Valid values include: " + valid}
	}
	for _, e := range v.list {
		if e == "" {
			return &InvalidError{Key: k.Name, Whole: "Configuration '" + k.Name + "' values must not be empty."}
		}
		if len(l.values) > 0 {
			if err := (oneOf{values: l.values}).check(k, Value{Raw: e}); err != nil {
				return err
			}
		}
	}
	return nil
}

type nonEmpty struct{}

func (nonEmpty) check(k *Key, v Value) error {
	if v.Raw == "" {
		return invalid(k, v, "String must be non-empty")
	}
	return nil
}

// nonNull refuses nothing here: text is never null.
type nonNull struct{}

func (nonNull) check(*Key, Value) error { return nil }

// gzipLevel allows Deflater's levels and its default.
type gzipLevel struct{}

func (gzipLevel) check(k *Key, v Value) error {
	if v.num == -1 || v.num >= 1 && v.num <= 9 {
		return nil
	}
	return invalid(k, v, "Value must be between 1 and 9 or equal to -1")
}

type throttledReplicas struct{}

var replicaPair = regexp.MustCompile(`^[0-9]+:[0-9]+$`)

func (throttledReplicas) check(k *Key, v Value) error {
	if len(v.list) == 1 && v.list[0] == "*" {
		return nil
	}
	for _, e := range v.list {
		if !replicaPair.MatchString(e) {
			v.Raw = "[" + strings.Join(v.list, ", ") + "]"
			return invalid(k, v, "%s must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...", k.Name)
		}
	}
	return nil
}

type quorumVoters struct{}

var voter = regexp.MustCompile(`^(\d+)@\[?([0-9a-zA-Z\-%._:]*)\]?:([0-9]+)$`)

func (quorumVoters) check(k *Key, v Value) error {
	for _, e := range v.list {
		if !voter.MatchString(e) {
			return &InvalidError{Key: k.Name, Whole: "Invalid configuration value for controller.quorum.voters. Each entry should be in the form `{id}@{host}:{port}`."}
		}
	}
	return nil
}

type bootstrapServers struct{}

var hostPort = regexp.MustCompile(`^\[?([0-9a-zA-Z\-%._:]+)\]?:([0-9]+)$`)

func (bootstrapServers) check(k *Key, v Value) error {
	for _, e := range v.list {
		if !hostPort.MatchString(e) {
			return invalid(k, v, "Failed to parse host name from %s for the configuration %s. Each entry should be in the form \"{host}:{port}\"", e, k.Name)
		}
	}
	return nil
}

// offsetReset is Kafka's ShareGroupAutoOffsetResetStrategy.Validator (KIP-1106).
type offsetReset struct{}

var isoDuration = regexp.MustCompile(`^by_duration:[pP](\d+[dD])?([tT](\d+[hH])?(\d+[mM])?(\d+(\.\d{0,9})?[sS])?)?$`)

func (offsetReset) check(k *Key, v Value) error {
	if v.Raw == "latest" || v.Raw == "earliest" {
		return nil
	}
	last := v.Raw
	if last != "" {
		last = strings.ToUpper(last[len(last)-1:])
	}
	if isoDuration.MatchString(v.Raw) && last != "P" && last != "T" {
		return nil
	}
	return invalid(k, v, "Invalid value `%s` for configuration %s. The value must be either 'earliest', 'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'.", v.Raw, k.Name)
}

// ParseBroker checks and parses the value of a broker key, also of one for a
// listener.
func ParseBroker(name, raw string) (Value, error) {
	k := BrokerKeyFor(name)
	if k == nil {
		return Value{}, fmt.Errorf("%w: %s", ErrUnknownKey, name)
	}
	return k.Parse(raw)
}
