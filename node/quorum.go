package node

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata/etcdembed"
)

// quorum is this node's part in keeping the metadata, as the KRaft keys of its
// configuration describe it.
type quorum struct {
	// broker and controller are the roles of the process.
	broker, controller bool
	// listener carries the traffic of the quorum; nil where this node has
	// none. address is where others reach it.
	listener *config.Listener
	address  string
	// external says that the metadata is in an etcd outside of this process
	// which the configuration names.
	external bool
	// member is the name of the etcd member that this process runs, members
	// where it and the others are reached; both empty where the process runs
	// one for itself alone, or none.
	member  string
	members map[string]string
	// dial names the controllers to ask for the metadata, where this process
	// runs no member; contacts those that may make this process one.
	dial, contacts []string
}

// alone says that no other process can have a part in the metadata.
func (q *quorum) alone() bool {
	return !q.external && len(q.dial) == 0 && len(q.members) <= 1 && q.listener == nil
}

// embeds says whether this process runs an etcd member.
func (q *quorum) embeds() bool { return !q.external && len(q.dial) == 0 }

// self answers what only this machine knows.
type self struct {
	hostname func() (string, error)
	// addresses are those of the machine's interfaces, lookup resolves names.
	addresses func() ([]net.Addr, error)
	lookup    func(host string) ([]net.IP, error)
}

func thisMachine(hostname func() (string, error)) self {
	return self{hostname: hostname, addresses: net.InterfaceAddrs, lookup: net.LookupIP}
}

// planQuorum reads process.roles, controller.quorum.voters,
// controller.quorum.bootstrap.servers, controller.listener.names and what
// listeners says of these.
func planQuorum(v *config.Values, me self) (*quorum, error) {
	q := &quorum{broker: v.HasRole("broker"), controller: v.HasRole("controller"), external: external(v)}
	voters, err := v.Voters()
	if err != nil {
		return nil, at(v, v.VotersKey(), err)
	}
	if err := q.findListener(v, me); err != nil {
		return nil, err
	}
	switch {
	case q.external || v.String("metadata.store") == "memory":
		return q, nil
	case !q.controller && len(voters) == 0:
		return nil, at(v, "controller.quorum.voters", errors.New("a node without the role controller needs to know the controllers: name them here or in controller.quorum.bootstrap.servers"))
	case !q.controller:
		q.dialAll(voters)
		return q, nil
	case len(voters) == 0:
		if q.listener != nil {
			q.member = strconv.Itoa(int(v.NodeID()))
			q.members = map[string]string{q.member: q.address}
		}
		return q, nil
	}
	return q, q.findSelf(v, voters, me)
}

func (q *quorum) dialAll(voters []config.Voter) {
	for _, o := range voters {
		q.dial = append(q.dial, o.Address())
	}
}

// findListener finds the listener for the traffic of the quorum.
func (q *quorum) findListener(v *config.Values, me self) error {
	bound, err := v.ControllerListeners()
	if err != nil {
		return at(v, "listeners", err)
	}
	switch {
	case !q.controller && len(bound) > 0:
		return at(v, "listeners", fmt.Errorf("the listener %s of controller.listener.names is only for nodes with the role controller", bound[0].Name))
	case len(bound) == 0 && q.controller && !q.broker:
		return at(v, "listeners", errors.New("names no listener of controller.listener.names, by which a controller is reached"))
	case len(bound) == 0:
		return nil
	case len(bound) > 1:
		return at(v, "controller.listener.names", fmt.Errorf("%d of them are in listeners, gregor's controllers have one", len(bound)))
	case bound[0].Protocol != "PLAINTEXT":
		return at(v, "listeners", fmt.Errorf("listener %s has security protocol %s, of which gregor serves only PLAINTEXT", bound[0].Name, bound[0].Protocol))
	}
	q.listener = &bound[0]
	advertised, err := v.AdvertisedControllers()
	if err != nil {
		return at(v, "advertised.listeners", err)
	}
	host, port := bound[0].Host, bound[0].Port
	for _, a := range advertised {
		if a.Name == bound[0].Name {
			host, port = a.Host, a.Port
		}
	}
	switch host {
	case "", "0.0.0.0", "::":
		if host, err = me.hostname(); err != nil {
			return at(v, "advertised.listeners", fmt.Errorf("listener %s advertises no host, and this machine's name is unknown: %w", bound[0].Name, err))
		}
	}
	q.address = net.JoinHostPort(host, strconv.Itoa(int(port)))
	return nil
}

// findSelf finds which of the voters this node is, by its id where ids are
// given, else by its address. A controller that is none of them works with the
// metadata of those that are.
func (q *quorum) findSelf(v *config.Values, voters []config.Voter, me self) error {
	id := v.NodeID()
	own := slices.IndexFunc(voters, func(o config.Voter) bool { return o.ID == id })
	if own < 0 && voters[0].ID >= 0 {
		return at(v, v.VotersKey(), fmt.Errorf("node %d has the role controller, but is not among the voters %s", id, strings.Join(v.List(v.VotersKey()), ",")))
	}
	if own < 0 {
		own = q.findAddress(voters, me)
	}
	if own < 0 {
		q.dialAll(voters)
		if q.listener != nil && (v.Bool("controller.quorum.auto.join.enable") || etcdembed.Started(etcdDir(v))) {
			q.contacts, q.dial = q.dial, nil
			q.member = strconv.Itoa(int(id))
			q.members = map[string]string{q.member: q.address}
		}
		return nil
	}
	if len(voters) > 1 && q.listener == nil {
		return at(v, "listeners", errors.New("names no listener of controller.listener.names, by which the other voters reach this one"))
	}
	if q.listener == nil {
		return nil // the only voter, and nobody else asks
	}
	q.address = voters[own].Address()
	q.member = strconv.Itoa(int(id))
	q.members = map[string]string{}
	for n, o := range voters {
		name := strconv.Itoa(int(o.ID))
		switch {
		case n == own:
			name = q.member
		case o.ID < 0:
			name = o.Address() // until it says its name itself
		}
		q.members[name] = o.Address()
	}
	return nil
}

// findAddress finds the voter that is reached at an address of this node, -1 if
// there is none: the one advertised, or one of its port and this machine's.
func (q *quorum) findAddress(voters []config.Voter, me self) int {
	if n := slices.IndexFunc(voters, func(o config.Voter) bool { return o.Address() == q.address }); n >= 0 {
		return n
	}
	if q.listener == nil {
		if len(voters) == 1 {
			return 0 // a configuration that starts a single node
		}
		return -1
	}
	local, err := me.addresses()
	if err != nil {
		return -1
	}
	return slices.IndexFunc(voters, func(o config.Voter) bool {
		if o.Port != q.listener.Port {
			return false
		}
		ips, err := me.lookup(o.Host)
		return err == nil && slices.ContainsFunc(ips, func(ip net.IP) bool {
			return ip.IsLoopback() || slices.ContainsFunc(local, func(a net.Addr) bool {
				n, ok := a.(*net.IPNet)
				return ok && n.IP.Equal(ip)
			})
		})
	})
}
