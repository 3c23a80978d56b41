package node

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Listener is one address that clients can connect to.
type Listener struct {
	// Name is the listener's name in upper case, e.g. "PLAINTEXT".
	Name string
	// Host and Port are where to bind; an empty host is every interface.
	Host string
	Port int
	// AdvertisedHost and AdvertisedPort are what Metadata tells clients. Port
	// 0 stands for the port that was bound.
	AdvertisedHost string
	AdvertisedPort int
	// Security is the security protocol, e.g. "PLAINTEXT".
	Security string
}

// listenerSettings are the broker keys that describe listeners, as configured.
type listenerSettings struct {
	listeners, advertised []string
	protocolMap           []string
	controllerNames       []string
	interBrokerName       string
	// configured tells that listeners was set and is not the default.
	configured bool
	hostname   func() (string, error)
}

// clientListeners checks the settings with Kafka's rules and returns the
// listeners that clients may use, in the order configured. Listeners named in
// controller.listener.names carry the traffic of the quorum: they are checked,
// but neither bound nor advertised, because a single node has nobody to talk to.
func clientListeners(s listenerSettings) ([]Listener, error) {
	protocols, err := parseProtocolMap(s.protocolMap)
	if err != nil {
		return nil, err
	}
	all, err := parseEndpoints("listeners", s.listeners)
	if err != nil {
		return nil, err
	}
	if err := distinct(all); err != nil {
		return nil, err
	}
	advertised, err := parseEndpoints("advertised.listeners", s.advertised)
	if err != nil {
		return nil, err
	}
	controllers := upper(s.controllerNames)

	var out []Listener
	for _, e := range all {
		if slices.Contains(controllers, e.name) {
			continue
		}
		l := Listener{Name: e.name, Host: e.host, Port: e.port, Security: protocols[e.name]}
		switch l.Security {
		case "PLAINTEXT":
		case "":
			return nil, fmt.Errorf("listeners: no security protocol for listener %s: name it in listener.security.protocol.map", e.name)
		default:
			return nil, fmt.Errorf("listeners: listener %s has security protocol %s, of which gregor serves only PLAINTEXT", e.name, l.Security)
		}
		if err := l.advertise(s, advertised); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, errors.New("listeners: no listener for clients, only for the controller")
	}
	for _, a := range advertised {
		if !slices.ContainsFunc(out, func(l Listener) bool { return l.Name == a.name }) {
			if slices.Contains(controllers, a.name) {
				continue
			}
			return nil, fmt.Errorf("advertised.listeners: listener %s is not in listeners", a.name)
		}
	}
	if n := strings.ToUpper(s.interBrokerName); n != "" && !slices.ContainsFunc(out, func(l Listener) bool { return l.Name == n }) {
		return nil, fmt.Errorf("inter.broker.listener.name: listener %s is not in listeners", n)
	}
	return out, nil
}

// advertise fills in what clients are told: the advertised listener of that
// name, else the bound host, else this machine's name. With no listener
// configured at all the broker is one to try things with, and localhost is
// where its clients are.
func (l *Listener) advertise(s listenerSettings, advertised []endpoint) error {
	l.AdvertisedHost, l.AdvertisedPort = l.Host, l.Port
	i := slices.IndexFunc(advertised, func(e endpoint) bool { return e.name == l.Name })
	if i >= 0 {
		l.AdvertisedHost, l.AdvertisedPort = advertised[i].host, advertised[i].port
		if unspecified(l.AdvertisedHost) {
			return fmt.Errorf("advertised.listeners: listener %s advertises %s, which no client can connect to: write the name or address that clients reach this broker by",
				l.Name, l.AdvertisedHost)
		}
	}
	if l.AdvertisedHost != "" && !unspecified(l.AdvertisedHost) {
		return nil
	}
	if !s.configured {
		l.AdvertisedHost = "localhost"
		return nil
	}
	if l.Host != "" && i < 0 {
		return fmt.Errorf("advertised.listeners: listener %s is bound to %s, which no client can connect to: set advertised.listeners to the name or address that clients reach this broker by",
			l.Name, l.Host)
	}
	host, err := s.hostname()
	if err != nil {
		return fmt.Errorf("advertised.listeners: listener %s has no host, and this machine's name is unknown: %w", l.Name, err)
	}
	l.AdvertisedHost = host
	return nil
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

type endpoint struct {
	name, host string
	port       int
}

// parseEndpoints reads NAME://host:port entries of a key. Empty entries are
// skipped: images and scripts leave commas behind.
func parseEndpoints(key string, entries []string) ([]endpoint, error) {
	var out []endpoint
	for _, entry := range entries {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, address, ok := strings.Cut(entry, "://")
		colon := strings.LastIndexByte(address, ':')
		if !ok || name == "" || colon < 0 {
			return nil, fmt.Errorf("%s: %q is not of the form NAME://host:port", key, entry)
		}
		port, err := strconv.Atoi(address[colon+1:])
		if err != nil || port < 0 || port > 65535 {
			return nil, fmt.Errorf("%s: %q: port %q is not between 0 and 65535", key, entry, address[colon+1:])
		}
		host := address[:colon]
		if bare, ok := strings.CutPrefix(host, "["); ok {
			if host, ok = strings.CutSuffix(bare, "]"); !ok || net.ParseIP(host) == nil {
				return nil, fmt.Errorf("%s: %q: malformed IPv6 address", key, entry)
			}
		} else if strings.ContainsAny(host, ":/ ") {
			return nil, fmt.Errorf("%s: %q: malformed host (an IPv6 address stands in brackets)", key, entry)
		}
		out = append(out, endpoint{name: strings.ToUpper(name), host: host, port: port})
	}
	return out, nil
}

func distinct(endpoints []endpoint) error {
	for i, a := range endpoints {
		for _, b := range endpoints[:i] {
			if a.name == b.name {
				return fmt.Errorf("listeners: two listeners are named %s", a.name)
			}
			if a.port != 0 && a.port == b.port && (a.host == b.host || a.host == "" || b.host == "") {
				return fmt.Errorf("listeners: %s and %s both use port %d", b.name, a.name, a.port)
			}
		}
	}
	return nil
}

// parseProtocolMap reads NAME:PROTOCOL entries. The names of the security
// protocols, and CONTROLLER, stand for themselves where the map is silent.
func parseProtocolMap(entries []string) (map[string]string, error) {
	protocols := map[string]string{
		"PLAINTEXT": "PLAINTEXT", "SSL": "SSL", "SASL_PLAINTEXT": "SASL_PLAINTEXT", "SASL_SSL": "SASL_SSL", "CONTROLLER": "PLAINTEXT",
	}
	for _, entry := range entries {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, protocol, ok := strings.Cut(entry, ":")
		name, protocol = strings.ToUpper(strings.TrimSpace(name)), strings.ToUpper(strings.TrimSpace(protocol))
		if !ok || name == "" {
			return nil, fmt.Errorf("listener.security.protocol.map: %q is not of the form NAME:PROTOCOL", entry)
		}
		switch protocol {
		case "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL":
			protocols[name] = protocol
		default:
			return nil, fmt.Errorf("listener.security.protocol.map: %q names no security protocol", entry)
		}
	}
	return protocols, nil
}

func upper(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		if n = strings.ToUpper(strings.TrimSpace(n)); n != "" {
			out = append(out, n)
		}
	}
	return out
}
