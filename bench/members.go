package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/wire"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// beat is how often a simulated member sends a heartbeat. Both protocols
// default to seconds; what is to be seen is the broker's part of the time.
const beat = 500 * time.Millisecond

// member is a member of a group, with a connection of its own, that speaks one
// of the two protocols and has no consumer behind it.
type member struct {
	group, topic string
	partitions   int32
	c            *wire.Conn
	id           string
	// epoch is the generation, or the member epoch.
	epoch int32
	beats atomic.Int64
}

func newMember(s *subject, group, topic string, partitions int32) (*member, error) {
	c, err := wire.Dial(s.addr)
	return &member{group: group, topic: topic, partitions: partitions, c: c}, err
}

// memberSession is as long as brokers allow: a member that only commits, or is
// stopped with its broker, stays.
const memberSession = 30 * time.Minute

// join joins the group with the classic protocol until a generation has formed,
// assigns the partitions if it is the leader, and returns what it got.
func (m *member) join() ([]int32, error) {
	for {
		leaderOf, err := m.joinGroup()
		if err != nil {
			return nil, err
		}
		assigned, err := m.syncGroup(leaderOf)
		if errors.Is(err, kerr.RebalanceInProgress) {
			continue
		}
		return assigned, err
	}
}

// joinGroup returns the members if this one is their leader.
func (m *member) joinGroup() ([]string, error) {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version = 9
	req.Group, req.ProtocolType = m.group, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(memberSession.Milliseconds()), 60_000
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version, meta.Topics = 1, []string{m.topic}
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", meta.AppendTo(nil)
	req.Protocols = append(req.Protocols, p)
	for {
		req.MemberID = m.id
		r, err := m.c.Do(req)
		if err != nil {
			return nil, err
		}
		resp := r.(*kmsg.JoinGroupResponse)
		m.id = resp.MemberID
		if resp.ErrorCode == kerr.MemberIDRequired.Code {
			continue // KIP-394: once more, with the id
		}
		if slices.Contains(passing, resp.ErrorCode) {
			m.id = ""
			time.Sleep(settle) // the shard is new
			continue
		}
		if err := failed("JoinGroup", resp.ErrorCode); err != nil {
			return nil, err
		}
		m.epoch = resp.Generation
		var ids []string
		for _, o := range resp.Members {
			ids = append(ids, o.MemberID)
		}
		return ids, nil
	}
}

func (m *member) syncGroup(leaderOf []string) ([]int32, error) {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version = 5
	req.Group, req.Generation, req.MemberID = m.group, m.epoch, m.id
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	for i, id := range leaderOf {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = id, m.share(i, len(leaderOf))
		req.GroupAssignment = append(req.GroupAssignment, a)
	}
	r, err := m.c.Do(req)
	if err != nil {
		return nil, err
	}
	resp := r.(*kmsg.SyncGroupResponse)
	if err := failed("SyncGroup", resp.ErrorCode); err != nil {
		return nil, err
	}
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(resp.MemberAssignment); err != nil || len(a.Topics) != 1 {
		return nil, fmt.Errorf("SyncGroup: an assignment of %d topics, %w", len(a.Topics), err)
	}
	return a.Topics[0].Partitions, nil
}

// share is the assignment of one of n members: every n-th partition.
func (m *member) share(i, n int) []byte {
	a := kmsg.NewConsumerMemberAssignment()
	t := kmsg.NewConsumerMemberAssignmentTopic()
	t.Topic = m.topic
	for p := int32(i); p < m.partitions; p += int32(n) {
		t.Partitions = append(t.Partitions, p)
	}
	a.Topics = append(a.Topics, t)
	return a.AppendTo(nil)
}

// heartbeat tells whether the group rebalances.
func (m *member) heartbeat() (rebalance bool, err error) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version = 4
	req.Group, req.Generation, req.MemberID = m.group, m.epoch, m.id
	r, err := m.c.Do(req)
	if err != nil {
		return false, err
	}
	m.beats.Add(1)
	code := r.(*kmsg.HeartbeatResponse).ErrorCode
	if code == kerr.RebalanceInProgress.Code {
		return true, nil
	}
	return false, failed("Heartbeat", code)
}

// consumerBeat sends the one request of the consumer protocol (KIP-848): owned
// is what the member has, nil where that is known. It returns what it is
// assigned now, nil for no news.
func (m *member) consumerBeat(owned []kmsg.ConsumerGroupHeartbeatRequestTopic) ([]kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic, error) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version = 1
	req.Group, req.MemberID, req.MemberEpoch = m.group, m.id, m.epoch
	req.RebalanceTimeoutMillis = -1
	if m.epoch == 0 {
		req.RebalanceTimeoutMillis = 60_000
		req.SubscribedTopicNames = []string{m.topic}
		owned = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	req.Topics = owned
	r, err := m.c.Do(req)
	if err != nil {
		return nil, err
	}
	resp := r.(*kmsg.ConsumerGroupHeartbeatResponse)
	m.beats.Add(1)
	if err := failed("ConsumerGroupHeartbeat", resp.ErrorCode); err != nil {
		return nil, err
	}
	m.epoch = resp.MemberEpoch
	if resp.Assignment == nil {
		return nil, nil
	}
	if resp.Assignment.Topics == nil {
		return []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{}, nil
	}
	return resp.Assignment.Topics, nil
}

// uuid is a member id as clients make them; equal runs have equal ones.
func uuid(n int) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// crowd is a group of simulated members that all do their part until it is
// closed. A member that fails ends it.
type crowd struct {
	members []*member
	consume bool // with the consumer protocol
	stop    chan struct{}
	wg      sync.WaitGroup

	mu    sync.Mutex
	views []view
	// changed is closed and replaced whenever a view changed.
	changed chan struct{}
	err     error
}

// view is what a member knows of itself.
type view struct {
	epoch      int32
	partitions []int32
}

func newCrowd(consume bool) *crowd {
	return &crowd{consume: consume, stop: make(chan struct{}), changed: make(chan struct{})}
}

// add lets a member in, and returns at once.
func (c *crowd) add(m *member) {
	c.mu.Lock()
	at := len(c.members)
	c.members = append(c.members, m)
	c.views = append(c.views, view{})
	c.mu.Unlock()
	c.wg.Go(func() {
		live := m.liveClassic
		if c.consume {
			live = m.liveConsumer
		}
		err := live(c.stop, func(v view) { c.note(at, v, nil) })
		if err != nil {
			c.note(at, view{}, err)
		}
	})
}

func (c *crowd) note(at int, v view, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views[at] = v
	c.err = errors.Join(c.err, err)
	close(c.changed)
	c.changed = make(chan struct{})
}

// settled tells whether all members are at the same epoch, with every partition
// at exactly one of them and none without.
func settled(views []view, partitions int32) bool {
	seen := make([]bool, partitions)
	total := 0
	for _, v := range views {
		if v.epoch != views[0].epoch || len(v.partitions) == 0 {
			return false
		}
		for _, p := range v.partitions {
			if seen[p] {
				return false
			}
			seen[p] = true
			total++
		}
	}
	return total == int(partitions)
}

// await returns once the group has settled.
func (c *crowd) await(partitions int32) error {
	limit := time.After(2 * time.Minute)
	for {
		c.mu.Lock()
		done, err, changed := settled(c.views, partitions), c.err, c.changed
		c.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-limit:
			return errors.New("the group does not settle")
		}
	}
}

// beats is how many heartbeats were answered.
func (c *crowd) beats() int64 {
	var n int64
	for _, m := range c.members {
		n += m.beats.Load()
	}
	return n
}

// leave ends the crowd, takes all members out of the group and closes their
// connections.
func (c *crowd) leave() error {
	close(c.stop)
	c.wg.Wait()
	err := c.err
	if err == nil && c.consume {
		for _, m := range c.members {
			m.epoch = -1
			_, leaveErr := m.consumerBeat(nil)
			err = errors.Join(err, leaveErr)
		}
	} else if err == nil {
		err = leaveGroup(c.members)
	}
	for _, m := range c.members {
		err = errors.Join(err, m.c.Close())
	}
	return err
}

// leaveGroup takes members of the classic protocol out of their group.
func leaveGroup(members []*member) error {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version = 5
	req.Group = members[0].group
	for _, m := range members {
		l := kmsg.NewLeaveGroupRequestMember()
		l.MemberID = m.id
		req.Members = append(req.Members, l)
	}
	resp, err := members[0].c.Do(req)
	if err != nil {
		return err
	}
	return failed("LeaveGroup", resp.(*kmsg.LeaveGroupResponse).ErrorCode)
}

// liveClassic joins, and joins again whenever the group rebalances.
func (m *member) liveClassic(stop <-chan struct{}, note func(view)) error {
	for {
		partitions, err := m.join()
		if err != nil {
			return err
		}
		note(view{m.epoch, partitions})
		for rebalance := false; !rebalance; {
			select {
			case <-stop:
				return nil
			case <-time.After(beat):
			}
			if rebalance, err = m.heartbeat(); err != nil {
				return err
			}
		}
	}
}

// liveConsumer joins, takes and gives back at once what it is told to, and says
// so at once, as clients do.
func (m *member) liveConsumer(stop <-chan struct{}, note func(view)) error {
	var has view
	var owned []kmsg.ConsumerGroupHeartbeatRequestTopic
	for {
		assigned, err := m.consumerBeat(owned)
		if err != nil {
			return err
		}
		owned = nil
		if assigned != nil {
			owned, has.partitions = []kmsg.ConsumerGroupHeartbeatRequestTopic{}, nil
			for _, t := range assigned {
				o := kmsg.NewConsumerGroupHeartbeatRequestTopic()
				o.TopicID, o.Partitions = t.TopicID, t.Partitions
				owned = append(owned, o)
				has.partitions = append(has.partitions, t.Partitions...)
			}
		}
		if has.epoch != m.epoch || assigned != nil {
			has.epoch = m.epoch
			note(view{has.epoch, slices.Clone(has.partitions)})
		}
		if assigned != nil {
			continue
		}
		select {
		case <-stop:
			return nil
		case <-time.After(beat):
		}
	}
}
