package group

import (
	"bytes"
	"slices"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// protocol is one assignment strategy that a member offers, with its metadata
// for that strategy.
type protocol struct {
	name     string
	metadata []byte
}

// member is a member of a classic group.
type member struct {
	id         string
	instanceID *string // static members (KIP-345)
	client     Client
	// rebalanceTimeoutMs bounds how long a rebalance waits for this member;
	// sessionTimeoutMs how long it may be silent.
	rebalanceTimeoutMs int32
	sessionTimeoutMs   int32
	protocols          []protocol
	assignment         []byte

	// joining and syncing hold the caller parked in JoinGroup and SyncGroup,
	// zero if there is none.
	joining, syncing runtime.Ticket

	// isNew until the first rebalance that includes the member is over.
	isNew bool
}

func (m *member) isStatic() bool { return m.instanceID != nil }

func (m *member) metadata(name string) []byte {
	for i := range m.protocols {
		if m.protocols[i].name == name {
			return m.protocols[i].metadata
		}
	}
	return nil
}

// offered is the member's metadata for the protocol of its group or, while that
// is not chosen, for the one it likes best.
func (m *member) offered(name string) []byte {
	if b := m.metadata(name); b != nil {
		return b
	}
	return m.protocols[0].metadata
}

// matches tells whether a rejoin offers what the member offered before.
func (m *member) matches(ps []protocol) bool { return sameProtocols(ps, m.protocols) }

func sameProtocols(a, b []protocol) bool {
	return slices.EqualFunc(a, b, func(a, b protocol) bool { return a.name == b.name && bytes.Equal(a.metadata, b.metadata) })
}

// heartbeatSatisfied: a member whose call is parked here is alive, whatever
// its session says.
func (m *member) heartbeatSatisfied() bool {
	return m.joining != 0 || m.syncing != 0
}

func protocolsOf(req *kmsg.JoinGroupRequest) []protocol {
	ps := make([]protocol, len(req.Protocols))
	for i, p := range req.Protocols {
		ps[i] = protocol{p.Name, bytes.Clone(p.Metadata)}
	}
	return ps
}
