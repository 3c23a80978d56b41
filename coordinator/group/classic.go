package group

import (
	"maps"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// state of a classic group.
type state int8

// A classic group goes around
//
//	Empty -> PreparingRebalance -> CompletingRebalance -> Stable
//
// and back to PreparingRebalance whenever its members or what they offer
// change, to Empty when the last one left.
const (
	stateEmpty state = iota
	statePreparing
	stateCompleting
	stateStable
	stateDead
)

func (s state) String() string {
	switch s {
	case stateEmpty:
		return "Empty"
	case statePreparing:
		return "PreparingRebalance"
	case stateCompleting:
		return "CompletingRebalance"
	case stateStable:
		return "Stable"
	default:
		return "Dead"
	}
}

// classicGroup is a group of the classic protocol, where the clients' leader
// assigns the partitions.
type classicGroup struct {
	id            string
	state, before state
	// since is when the state was entered, in ms, as the log remembers it: a
	// group's offsets expire that long after it became empty. -1 if unknown.
	since        int64
	generation   int32
	protocolType string
	protocol     string // selected; "" if none is
	hasProtocol  bool
	leader       string // member id, "" for none

	members map[string]*member
	// order is the order in which members joined: the first becomes leader,
	// and answers list members in it.
	order []string
	// static maps group instance ids to member ids.
	static map[string]string
	// pending are member ids given out that have not joined with them yet
	// (KIP-394).
	pending map[string]bool
	// pendingSync are members that owe a SyncGroup of this generation.
	pendingSync map[string]bool
	// unsettled is set when the log says that a rebalance is due: the group was
	// a consumer group until just before.
	unsettled bool
	// added is set when a member came during the initial delay.
	added bool
	// initialLeft is what remains of the initial delay's bound.
	initialLeft time.Duration
}

func newClassicGroup(id string, now time.Time) *classicGroup {
	return &classicGroup{
		id: id, state: stateEmpty, before: stateEmpty, since: now.UnixMilli(),
		members: make(map[string]*member), static: make(map[string]string),
		pending: make(map[string]bool), pendingSync: make(map[string]bool),
	}
}

func (g *classicGroup) to(s state, now time.Time) {
	g.before, g.state = g.state, s
	g.since = now.UnixMilli()
}

func (g *classicGroup) isSimple() bool { return g.protocolType == "" && len(g.members) == 0 }

func (g *classicGroup) add(m *member, protocolType string) {
	if len(g.members) == 0 {
		g.protocolType = protocolType
	}
	if g.leader == "" {
		g.leader = m.id
	}
	g.members[m.id] = m
	g.order = append(g.order, m.id)
	if m.isStatic() {
		g.static[*m.instanceID] = m.id
	}
	delete(g.pending, m.id)
}

func (g *classicGroup) remove(id string) *member {
	m := g.members[id]
	if m == nil {
		return nil
	}
	delete(g.members, id)
	g.order = slices.DeleteFunc(g.order, func(o string) bool { return o == id })
	if m.isStatic() && g.static[*m.instanceID] == id {
		delete(g.static, *m.instanceID)
	}
	delete(g.pendingSync, id)
	if g.leader == id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0]
		}
	}
	return m
}

// replaceStatic gives a static member that came back its new member id, in the
// old one's place.
func (g *classicGroup) replaceStatic(old *member, id string) {
	was := old.id
	old.id = id
	delete(g.members, was)
	g.members[id] = old
	g.order[slices.Index(g.order, was)] = id
	g.static[*old.instanceID] = id
	if g.pendingSync[was] {
		delete(g.pendingSync, was)
		g.pendingSync[id] = true
	}
	if g.leader == was {
		g.leader = id
	}
}

// inOrder lists the members in the order in which they joined.
func (g *classicGroup) inOrder() []*member {
	ms := make([]*member, len(g.order))
	for i, id := range g.order {
		ms[i] = g.members[id]
	}
	return ms
}

// canRebalance: a group that is rebalancing already need not start again.
func (g *classicGroup) canRebalance() bool {
	return g.state == stateEmpty || g.state == stateCompleting || g.state == stateStable
}

func (g *classicGroup) allJoined() bool {
	if len(g.pending) > 0 {
		return false
	}
	for _, m := range g.members {
		if m.joining == 0 {
			return false
		}
	}
	return true
}

func (g *classicGroup) joiningCount() int {
	n := 0
	for _, m := range g.members {
		if m.joining != 0 {
			n++
		}
	}
	return n
}

// accepts tells whether the group has room for a member, KIP-389.
func (g *classicGroup) accepts(memberID string, maxSize int) bool {
	switch g.state {
	case stateEmpty, stateDead:
		return true
	case statePreparing:
		// Members of the last generation may be gone: those that have
		// rejoined, and this one if it was there, hold the places.
		if m := g.members[memberID]; m != nil && m.joining != 0 {
			return true
		}
		return g.joiningCount() < maxSize
	default:
		return g.members[memberID] != nil || len(g.members) < maxSize
	}
}

// candidates are the protocols that every member supports.
func (g *classicGroup) candidates() map[string]bool {
	count := make(map[string]int)
	for _, m := range g.members {
		for _, p := range m.protocols {
			count[p.name]++
		}
	}
	maps.DeleteFunc(count, func(_ string, n int) bool { return n < len(g.members) })
	out := make(map[string]bool, len(count))
	for name := range count {
		out[name] = true
	}
	return out
}

// supportsAny tells whether a (re)joining member fits the group.
func (g *classicGroup) supportsAny(protocolType string, ps []protocol) bool {
	if g.state == stateEmpty {
		return protocolType != "" && len(ps) > 0
	}
	if g.protocolType != protocolType {
		return false
	}
	candidates := g.candidates()
	return slices.ContainsFunc(ps, func(p protocol) bool { return candidates[p.name] })
}

// selectProtocol has each member vote for the first of its protocols that all
// support. Ties go to the one voted for first.
func (g *classicGroup) selectProtocol() string {
	candidates := g.candidates()
	votes := make(map[string]int)
	best := ""
	var order []string
	for _, m := range g.inOrder() {
		for _, p := range m.protocols {
			if candidates[p.name] {
				if votes[p.name] == 0 {
					order = append(order, p.name)
				}
				votes[p.name]++
				break
			}
		}
	}
	for _, name := range order {
		if best == "" || votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

func (g *classicGroup) rebalanceTimeout() time.Duration {
	var ms int32
	for _, m := range g.members {
		ms = max(ms, m.rebalanceTimeoutMs)
	}
	return time.Duration(ms) * time.Millisecond
}

// nextGeneration begins the generation of those who joined.
func (g *classicGroup) nextGeneration(now time.Time) {
	g.generation++
	clear(g.pendingSync)
	if len(g.members) == 0 {
		g.protocol, g.hasProtocol = "", false
		g.to(stateEmpty, now)
		return
	}
	g.protocol, g.hasProtocol = g.selectProtocol(), true
	g.to(stateCompleting, now)
}

// electJoinedLeader makes a member leader that has joined if the leader
// has not. False if nobody joined.
func (g *classicGroup) electJoinedLeader() bool {
	if m := g.members[g.leader]; m != nil && m.joining != 0 {
		return true
	}
	for _, m := range g.inOrder() {
		if m.joining != 0 {
			g.leader = m.id
			return true
		}
	}
	return false
}

// check finds the member a request speaks for. Errors: FENCED_INSTANCE_ID if
// another member holds the instance id, UNKNOWN_MEMBER_ID.
func (g *classicGroup) check(memberID string, instanceID *string) (*member, error) {
	if instanceID != nil {
		current, ok := g.static[*instanceID]
		switch {
		case !ok:
			return nil, kerr.UnknownMemberID
		case current != memberID:
			return nil, kerr.FencedInstanceID
		}
	}
	m := g.members[memberID]
	if m == nil {
		return nil, kerr.UnknownMemberID
	}
	return m, nil
}

// record is the group's metadata with its members' assignments.
func (g *classicGroup) record() runtime.Record {
	v := kmsg.NewGroupMetadataValue()
	v.Version = groupMetadataVersion
	v.ProtocolType = g.protocolType
	v.Generation = g.generation
	if g.hasProtocol {
		v.Protocol = &g.protocol
	}
	if g.leader != "" {
		v.Leader = &g.leader
	}
	v.CurrentStateTimestamp = g.since
	for _, m := range g.inOrder() {
		e := kmsg.NewGroupMetadataValueMember()
		e.MemberID = m.id
		e.InstanceID = m.instanceID
		e.ClientID = m.client.ID
		e.ClientHost = m.client.Host
		e.RebalanceTimeoutMillis = m.rebalanceTimeoutMs
		e.SessionTimeoutMillis = m.sessionTimeoutMs
		e.Subscription = m.metadata(g.protocol)
		e.Assignment = m.assignment
		v.Members = append(v.Members, e)
	}
	return runtime.Record{Key: groupKey(g.id), Value: v.AppendTo(nil)}
}

// classicFrom is the group that a record describes.
func classicFrom(id string, value []byte) (*classicGroup, error) {
	v := kmsg.NewGroupMetadataValue()
	if err := v.ReadFrom(value); err != nil {
		return nil, err
	}
	g := newClassicGroup(id, time.UnixMilli(v.CurrentStateTimestamp))
	g.since = v.CurrentStateTimestamp
	g.protocolType = v.ProtocolType
	g.generation = v.Generation
	if v.Protocol != nil {
		g.protocol, g.hasProtocol = *v.Protocol, true
	}
	for _, e := range v.Members {
		timeout := e.RebalanceTimeoutMillis
		if timeout < 0 {
			timeout = e.SessionTimeoutMillis
		}
		g.add(&member{
			id: e.MemberID, instanceID: e.InstanceID, client: Client{e.ClientID, e.ClientHost},
			rebalanceTimeoutMs: timeout, sessionTimeoutMs: e.SessionTimeoutMillis,
			protocols:  []protocol{{g.protocol, slices.Clone(e.Subscription)}},
			assignment: slices.Clone(e.Assignment),
		}, v.ProtocolType)
	}
	if v.Leader != nil {
		g.leader = *v.Leader
	}
	if len(v.Members) > 0 {
		g.state = stateStable
		g.unsettled = v.Leader == nil
	}
	return g, nil
}
