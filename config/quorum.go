package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Voter is a controller that the configuration names.
type Voter struct {
	// ID is the node id, -1 where only the address is known.
	ID   int32
	Host string
	Port int32
}

// Address is the voter's host and port.
func (q Voter) Address() string { return net.JoinHostPort(q.Host, strconv.Itoa(int(q.Port))) }

// Voters are the controllers that take part in the quorum: those of
// controller.quorum.voters, else those of controller.quorum.bootstrap.servers,
// whose ids are not known.
func (v *Values) Voters() ([]Voter, error) {
	key := v.VotersKey()
	var out []Voter
	seen := map[string]bool{}
	for _, e := range v.List(key) {
		e = strings.TrimSpace(e)
		q := Voter{ID: -1}
		address := e
		if key == votersKey {
			id, rest, _ := strings.Cut(e, "@")
			n, err := strconv.ParseInt(strings.TrimSpace(id), 10, 32)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%q: the node id is no number", e)
			}
			q.ID, address = int32(n), rest
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", e, err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q: the port is not between 0 and 65535", e)
		}
		q.Host, q.Port = host, int32(n)
		if seen[q.Address()] || q.ID >= 0 && seen[strconv.Itoa(int(q.ID))] {
			return nil, fmt.Errorf("%q is named twice", e)
		}
		seen[q.Address()], seen[strconv.Itoa(int(q.ID))] = true, true
		out = append(out, q)
	}
	return out, nil
}

const votersKey = "controller.quorum.voters"

// VotersKey is the key that Voters come from.
func (v *Values) VotersKey() string {
	if len(v.List(votersKey)) > 0 {
		return votersKey
	}
	return "controller.quorum.bootstrap.servers"
}

// ControllerListeners are the listeners for the traffic of the quorum, in the
// order of controller.listener.names; those that this node does not have are
// left out.
func (v *Values) ControllerListeners() ([]Listener, error) { return v.controllersOf("listeners") }

// AdvertisedControllers are the listeners for the traffic of the quorum with the
// addresses at which others reach them, as far as the configuration says.
func (v *Values) AdvertisedControllers() ([]Listener, error) {
	if _, ok := v.Lookup("advertised.listeners"); ok {
		if all, err := v.controllersOf("advertised.listeners"); err != nil || len(all) > 0 {
			return all, err
		}
	}
	return v.controllersOf("listeners")
}

func (v *Values) controllersOf(key string) ([]Listener, error) {
	all, err := v.parseListeners(key)
	if err != nil {
		return nil, err
	}
	var out []Listener
	for _, name := range v.List("controller.listener.names") {
		for _, l := range all {
			if strings.EqualFold(strings.TrimSpace(name), l.Name) {
				out = append(out, l)
			}
		}
	}
	return out, nil
}
