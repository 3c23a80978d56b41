package node

import (
	"errors"
	"fmt"

	"github.com/gregor-broker/gregor/config"
)

// listener is one address that clients can connect to.
type listener struct {
	config.Listener
	// advertisedHost and advertisedPort are what Metadata tells clients. Port
	// 0 stands for the port that was bound.
	advertisedHost string
	advertisedPort int32
}

// clientListeners returns the listeners that clients may use, in the order
// configured. Listeners named in controller.listener.names carry the traffic of
// the quorum (quorum.go) and are not among them. What the configuration says of listeners was checked by
// config.Build, except for what gregor does not serve.
func clientListeners(v *config.Values, hostname func() (string, error)) ([]listener, error) {
	bound, err := v.Listeners()
	if err != nil {
		return nil, at(v, "listeners", err)
	}
	advertised, err := v.AdvertisedListeners()
	if err != nil {
		return nil, at(v, "advertised.listeners", err)
	}
	controllers := upper(v.List("controller.listener.names"))
	var out []listener
	for _, b := range bound {
		if controllers[b.Name] {
			continue
		}
		if b.Protocol != "PLAINTEXT" {
			return nil, at(v, "listeners", fmt.Errorf("listener %s has security protocol %s, of which gregor serves only PLAINTEXT", b.Name, b.Protocol))
		}
		l := listener{Listener: b, advertisedHost: b.Host, advertisedPort: b.Port}
		for _, a := range advertised {
			if a.Name == b.Name {
				l.advertisedHost, l.advertisedPort = a.Host, a.Port
			}
		}
		if l.advertisedHost, err = reachable(v, l, hostname); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, at(v, "listeners", errors.New("no listener for clients, only for the controller"))
	}
	return out, nil
}

// reachable decides on the host that clients are told of: the advertised one,
// or else this machine's name. With no listener configured at all the broker is
// one to try things with, and localhost is where its clients are.
func reachable(v *config.Values, l listener, hostname func() (string, error)) (string, error) {
	switch l.advertisedHost {
	case "", "0.0.0.0", "::":
	default:
		return l.advertisedHost, nil
	}
	if !v.IsSet("listeners") && !v.IsSet("advertised.listeners") {
		return "localhost", nil
	}
	host, err := hostname()
	if err != nil {
		return "", at(v, "advertised.listeners", fmt.Errorf("listener %s advertises no host, and this machine's name is unknown: %w", l.Name, err))
	}
	return host, nil
}

// at names the place of a key whose value does not do.
func at(v *config.Values, key string, err error) error {
	return &config.LineError{Origin: v.Origin(key), Key: key, Err: err}
}
