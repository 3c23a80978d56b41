package config

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// Listener is one entry of listeners or advertised.listeners.
type Listener struct {
	// Name is in capital letters, e.g. "PLAINTEXT" or "INTERNAL".
	Name string
	// Host is empty for every interface.
	Host string
	Port int32
	// Protocol is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
	Protocol string
}

// Address is the listener's host and port as net.Listen takes them.
func (l Listener) Address() string { return net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port))) }

var endpoint = regexp.MustCompile(`^(.*)://\[?([0-9a-zA-Z\-%._:]*)\]?:(-?[0-9]+)$`)

// Listeners are the addresses to accept connections on, the controller's among
// them.
func (v *Values) Listeners() ([]Listener, error) { return v.parseListeners("listeners") }

// AdvertisedListeners are the addresses that clients are told: those of
// advertised.listeners, or else of listeners, without the controller's. A host
// that was left open is empty.
func (v *Values) AdvertisedListeners() ([]Listener, error) {
	name := "advertised.listeners"
	if _, ok := v.Lookup(name); !ok {
		name = "listeners"
	}
	all, err := v.parseListeners(name)
	if err != nil {
		return nil, err
	}
	out := all[:0]
	for _, l := range all {
		if v.isControllerListener(l.Name) {
			continue
		}
		if name == "listeners" && (l.Host == "0.0.0.0" || l.Host == "::") {
			l.Host = ""
		}
		out = append(out, l)
	}
	return out, nil
}

func (v *Values) isControllerListener(name string) bool {
	for _, c := range v.List("controller.listener.names") {
		if strings.EqualFold(c, name) {
			return true
		}
	}
	return false
}

func (v *Values) parseListeners(key string) ([]Listener, error) {
	protocols, err := v.SecurityProtocols()
	if err != nil {
		return nil, err
	}
	var out []Listener
	for _, e := range v.List(key) {
		m := endpoint.FindStringSubmatch(e)
		if m == nil {
			return nil, fmt.Errorf("Error creating broker listeners from '%s': Unable to parse %s to a broker endpoint", strings.Join(v.List(key), ","), e)
		}
		l := Listener{Name: strings.ToUpper(strings.TrimSpace(m[1])), Host: m[2]}
		port, err := strconv.ParseUint(m[3], 10, 16)
		if err != nil {
			return nil, fmt.Errorf("the port of %s is not between 0 and 65535", e)
		}
		l.Port = int32(port)
		l.Protocol = protocols[l.Name]
		if l.Protocol == "" {
			return nil, fmt.Errorf("No security protocol defined for listener %s", l.Name)
		}
		out = append(out, l)
	}
	return out, nil
}

// SecurityProtocols maps the names of listeners to their security protocols.
// Where the map was not given, the controller's listeners are PLAINTEXT
// (KIP-1034).
func (v *Values) SecurityProtocols() (map[string]string, error) {
	const key = "listener.security.protocol.map"
	out := make(map[string]string)
	for _, e := range splitList(v.String(key)) {
		if e == "" {
			continue
		}
		name, protocol, ok := cutLast(e, ":")
		name, protocol = strings.ToUpper(strings.TrimSpace(name)), strings.ToUpper(strings.TrimSpace(protocol))
		if !ok || name == "" {
			return nil, fmt.Errorf("%s: %q is not <listener>:<protocol>", key, e)
		}
		switch protocol {
		case "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL":
		default:
			return nil, fmt.Errorf("%s: %q is no security protocol", key, protocol)
		}
		out[name] = protocol
	}
	if !v.IsSet(key) {
		for _, n := range v.List("controller.listener.names") {
			if n = strings.ToUpper(n); out[n] == "" {
				out[n] = "PLAINTEXT"
			}
		}
	}
	return out, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// InterBrokerListener is the name of the listener between brokers.
func (v *Values) InterBrokerListener() string {
	if n := v.String("inter.broker.listener.name"); n != "" {
		return strings.ToUpper(n)
	}
	return v.String("security.inter.broker.protocol")
}

// check finds contradictions between keys, as Kafka does when it starts.
func (v *Values) check() []error {
	var errs []error
	at := func(key, format string, args ...any) {
		errs = append(errs, &LineError{Origin: v.Origin(key), Key: key, Err: fmt.Errorf(format, args...)})
	}
	if listeners, err := v.Listeners(); err != nil {
		at("listeners", "%w", err)
	} else {
		v.checkListeners(listeners, at)
	}
	for _, key := range []string{"log.retention.ms", "log.retention.minutes", "log.retention.hours"} {
		if raw, ok := v.Lookup(key); ok && raw == "0" {
			at(key, "%s must be unlimited (-1) or, equal or greater than 1", key)
		}
	}
	v.checkLogs(at)
	v.checkRelations(at)
	v.checkAddresses(at)
	if v.IsSet("inter.broker.listener.name") && v.IsSet("security.inter.broker.protocol") {
		at("inter.broker.listener.name", "Only one of inter.broker.listener.name and security.inter.broker.protocol should be set.")
	}
	if lo, hi := v.Int("group.min.session.timeout.ms"), v.Int("group.max.session.timeout.ms"); lo > hi {
		at("group.min.session.timeout.ms", "%d is greater than group.max.session.timeout.ms (%d)", lo, hi)
	}
	if lo, hi := v.Int64("log.cleaner.min.compaction.lag.ms"), v.Int64("log.cleaner.max.compaction.lag.ms"); lo > hi {
		at("log.cleaner.min.compaction.lag.ms", "%d is greater than log.cleaner.max.compaction.lag.ms (%d)", lo, hi)
	}
	if !v.HasRole("broker") && !v.HasRole("controller") {
		at("process.roles", "names neither broker nor controller")
	}
	return errs
}

func (v *Values) checkLogs(at func(key, format string, args ...any)) {
	for _, c := range []struct {
		key   string
		least int64
	}{{"log.roll.ms", 1}, {"log.roll.jitter.ms", 0}} {
		if _, set := v.Lookup(c.key); set && v.Int64(c.key) < c.least {
			at(c.key, "%s must be greater than or equal to %d", c.key, c.least)
		}
	}
}

// checkAddresses looks at what is listened or connected to besides listeners.
func (v *Values) checkAddresses(at func(key, format string, args ...any)) {
	if v.Int("max.connections.per.ip") == 0 && v.String("max.connections.per.ip.overrides") == "" {
		at("max.connections.per.ip", "max.connections.per.ip can be set to zero only if max.connections.per.ip.overrides property is set.")
	}
	addresses := map[string][]string{"metadata.etcd.endpoints": v.List("metadata.etcd.endpoints")}
	if a := v.String("http.address"); a != "" {
		addresses["http.address"] = []string{a}
	}
	for _, key := range []string{"http.address", "metadata.etcd.endpoints"} {
		for _, a := range addresses[key] {
			if _, rest, ok := strings.Cut(a, "://"); ok && key != "http.address" {
				a = strings.TrimSuffix(rest, "/")
			}
			if _, _, err := net.SplitHostPort(a); err != nil {
				at(key, "%w", err)
			}
		}
	}
}

func (v *Values) checkListeners(listeners []Listener, at func(key, format string, args ...any)) {
	names, addresses := make(map[string]bool), make(map[string]bool)
	for _, l := range listeners {
		if names[l.Name] {
			at("listeners", "Each listener must have a different name unless you have exactly one listener on IPv4 and the other IPv6 on the same port, listeners: %s", strings.Join(v.List("listeners"), ","))
		}
		if l.Port != 0 && addresses[l.Address()] {
			at("listeners", "Each listener must have a different port, listeners: %s", strings.Join(v.List("listeners"), ","))
		}
		names[l.Name], addresses[l.Address()] = true, true
	}
	advertised, err := v.AdvertisedListeners()
	if err != nil {
		at("advertised.listeners", "%w", err)
		return
	}
	if !v.HasRole("broker") {
		return
	}
	if len(advertised) == 0 {
		at("listeners", "There must be at least one broker advertised listener")
	}
	if raw, ok := v.Lookup("advertised.listeners"); ok {
		for _, l := range advertised {
			if !names[l.Name] {
				at("advertised.listeners", "%s names a listener that is not in listeners: %s", l.Name, raw)
			}
			if l.Host == "0.0.0.0" || l.Host == "::" {
				at("advertised.listeners", "advertised.listeners cannot use the nonroutable meta-address %s. Use a routable IP address.", l.Host)
			}
		}
	}
	if n := v.String("inter.broker.listener.name"); n != "" {
		for _, l := range advertised {
			if strings.EqualFold(l.Name, n) {
				return
			}
		}
		at("inter.broker.listener.name", "inter.broker.listener.name must be a listener name defined in advertised.listeners: %s", n)
	}
}
