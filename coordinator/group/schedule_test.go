package group

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// topics of the random schedules, with their partitions.
var scheduleTopics = map[string]int{"t": 5, "u": 3}

// consumer is a client as it sees itself, whichever protocol it speaks.
type consumer interface {
	// step takes what was answered and sends what comes next. It never waits.
	step(w *world)
	// holds are the partitions it believes to own, subscribed the topics it
	// wants.
	holds() assignor.Assignment
	subscribed() []string
	// member is the name it commits under: its member id and epoch.
	member() (id string, instance *string, epoch int32)
	// settled: it has joined and knows of nothing left to do.
	settled() bool
	// lose forgets the answer to its last request, as when a connection breaks.
	lose()
	leave(w *world)
}

// classicConsumer is a consumer of the classic protocol with the assignment of
// the range assignor, eager or cooperative.
type classicConsumer struct {
	id          string
	instance    *string
	cooperative bool
	topics      []string
	generation  int32
	owned       assignor.Assignment
	joining     runtime.Ticket // waits for JoinGroup
	syncing     runtime.Ticket // waits for SyncGroup
	in          bool           // has its part of the generation
}

func (c *classicConsumer) holds() assignor.Assignment { return c.owned }
func (c *classicConsumer) subscribed() []string       { return c.topics }
func (c *classicConsumer) settled() bool              { return c.in }
func (c *classicConsumer) lose()                      { c.joining, c.syncing = 0, 0 }
func (c *classicConsumer) member() (string, *string, int32) {
	return c.id, c.instance, c.generation
}

func (c *classicConsumer) reset() {
	*c = classicConsumer{instance: c.instance, cooperative: c.cooperative, topics: c.topics}
}

func (c *classicConsumer) protocol() string {
	if c.cooperative {
		return "cooperative"
	}
	return "range"
}

func (c *classicConsumer) step(w *world) {
	switch {
	case c.in:
		c.beat(w)
	case c.syncing != 0:
		switch r := w.replies[c.syncing].(type) {
		case *kmsg.SyncGroupResponse:
			c.syncing = 0
			c.synced(r)
		case error: // it joins again
			c.syncing = 0
		}
	case c.joining != 0:
		switch r := w.replies[c.joining].(type) {
		case *kmsg.JoinGroupResponse:
			c.joining = 0
			c.joined(w, r)
		case error:
			c.joining = 0
		}
	default:
		c.join(w)
	}
}

func (c *classicConsumer) join(w *world) {
	if !c.cooperative {
		c.owned = nil // given back before it joins
	}
	m := kmsg.NewConsumerMemberMetadata()
	m.Version, m.Topics, m.Generation = 3, c.topics, c.generation
	for id, ps := range c.owned {
		m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: topicOf(id), Partitions: ps})
	}
	opts := []joinOpt{offers(c.protocol(), string(m.AppendTo(nil)))}
	if c.instance != nil {
		opts = append(opts, instance(*c.instance))
	}
	c.joining = w.join(c.id, opts...)
}

func (c *classicConsumer) joined(w *world, r *kmsg.JoinGroupResponse) {
	switch err := kerr.ErrorForCode(r.ErrorCode); {
	case errors.Is(err, kerr.MemberIDRequired):
		c.id = r.MemberID
		c.join(w)
		return
	case errors.Is(err, kerr.RebalanceInProgress):
		return
	case err != nil:
		c.reset()
		return
	}
	c.id, c.generation = r.MemberID, r.Generation
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 5, "g", c.id, c.instance, c.generation
	req.ProtocolType, req.Protocol = r.ProtocolType, r.Protocol
	if r.LeaderID == c.id && !r.SkipAssignment {
		req.GroupAssignment = assignRange(w, c.cooperative, r.Members)
	}
	c.syncing = w.ticket()
	w.apply(w.s.SyncGroup(w.now, c.syncing, req))
}

func (c *classicConsumer) synced(r *kmsg.SyncGroupResponse) {
	switch err := kerr.ErrorForCode(r.ErrorCode); {
	case errors.Is(err, kerr.RebalanceInProgress):
		return
	case err != nil:
		c.reset()
		return
	}
	now := decodeAssignment(r.MemberAssignment)
	// A cooperative consumer that had to give something back joins again.
	c.in = !c.cooperative || subset(c.owned, now)
	c.owned = now
}

func (c *classicConsumer) beat(w *world) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, "g", c.id, c.instance, c.generation
	t := w.ticket()
	w.apply(w.s.Heartbeat(w.now, t, req))
	switch err := kerr.ErrorForCode(w.replies[t].(*kmsg.HeartbeatResponse).ErrorCode); {
	case errors.Is(err, kerr.RebalanceInProgress):
		c.in = false
	case err != nil:
		c.reset()
	}
}

func (c *classicConsumer) leave(w *world) {
	if c.id != "" {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group = 5, "g"
		req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: c.id, InstanceID: c.instance}}
		w.apply(w.s.LeaveGroup(w.now, w.ticket(), req))
	}
}

// assignRange is what the leader computes: each topic's partitions in ranges
// over the members that want it; cooperatively, none that another member still
// has.
func assignRange(w *world, cooperative bool, members []kmsg.JoinGroupResponseMember) []kmsg.SyncGroupRequestGroupAssignment {
	byTopic, owner := make(map[string][]string), make(map[topicIDPartition]string)
	for _, m := range members {
		sub, err := parseSubscription(m.ProtocolMetadata)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, t := range sub.Topics {
			byTopic[t] = append(byTopic[t], m.MemberID)
		}
		for _, o := range sub.OwnedPartitions {
			for _, p := range o.Partitions {
				owner[topicIDPartition{testID(o.Topic), p}] = m.MemberID
			}
		}
	}
	parts := make(map[string]assignor.Assignment)
	for _, t := range sortedKeys(byTopic) {
		ms := byTopic[t]
		slices.Sort(ms)
		for p := range scheduleTopics[t] {
			id := ms[p*len(ms)/scheduleTopics[t]]
			tp := topicIDPartition{testID(t), int32(p)}
			if o := owner[tp]; cooperative && o != "" && o != id {
				continue
			}
			if parts[id] == nil {
				parts[id] = make(assignor.Assignment)
			}
			parts[id][tp.topic] = append(parts[id][tp.topic], tp.partition)
		}
	}
	var out []kmsg.SyncGroupRequestGroupAssignment
	for _, m := range members {
		out = append(out, kmsg.SyncGroupRequestGroupAssignment{MemberID: m.MemberID, MemberAssignment: encodeAssignment(w.img, parts[m.MemberID], m.ProtocolMetadata)})
	}
	return out
}

func decodeAssignment(b []byte) assignor.Assignment {
	out := make(assignor.Assignment)
	a := kmsg.NewConsumerMemberAssignment()
	if a.ReadFrom(b) != nil {
		return out
	}
	for _, t := range a.Topics {
		out[testID(t.Topic)] = t.Partitions
	}
	return out
}

func topicOf(id assignor.TopicID) string { return string(id[:1]) }

// modernConsumer is a consumer of KIP-848's protocol.
type modernConsumer struct {
	*client
	before *client // as it was when it sent its last request
}

func (c *modernConsumer) holds() assignor.Assignment { return c.owned }
func (c *modernConsumer) subscribed() []string       { return c.topics }
func (c *modernConsumer) settled() bool              { return !c.joining && c.target == nil && c.told }

func (c *modernConsumer) member() (string, *string, int32) {
	return c.id, nil, c.epoch
}

func (c *modernConsumer) step(w *world) {
	before := *c.client
	c.before = &before
	switch err := c.heartbeat(w); {
	case errors.Is(err, kerr.CoordinatorNotAvailable):
		c.full = true
	case err != nil: // fenced: it drops everything and joins again
		c.client, c.before = newClient(c.id, c.topics...), nil
	}
	c.adopt()
}

func (c *modernConsumer) lose() {
	if c.before != nil {
		c.client, c.before = c.before, nil
		c.full = true
	}
}

func (c *modernConsumer) leave(w *world) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.MemberID, req.MemberEpoch = c.id, -1
	w.beat(req)
}

// schedule runs consumers against a coordinator and checks, after every step,
// that no two of them own a partition in one generation and that no committed
// offset goes back.
type schedule struct {
	w         *world
	t         *rapid.T
	consumers []consumer
	// next numbers the consumers; positions are how far each has read.
	next      int
	positions map[consumer]map[topicIDPartition]int64
	committed map[topicIDPartition]int64
	late      []lateCommit
}

func newSchedule(t *testing.T, rt *rapid.T) *schedule {
	w := newWorld(t)
	w.img = testTopics(rt, 1, scheduleTopics)
	return &schedule{w: w, t: rt, positions: make(map[consumer]map[topicIDPartition]int64), committed: make(map[topicIDPartition]int64)}
}

// owns tells whether the coordinator would take a commit of the consumer for a
// partition, which is what owning means: one that it has given up may not know
// yet.
func (s *schedule) owns(c consumer, tp topicIDPartition) bool {
	id, instance, epoch := c.member()
	if g := s.w.s.consumer["g"]; g != nil {
		stale, err := g.checkCommit(id, epoch, true)
		return err == nil && (stale == nil || stale(tp) == nil)
	}
	g := s.w.s.classic["g"]
	if g == nil {
		return false
	}
	_, err := g.check(id, instance)
	return err == nil && epoch == g.generation
}

func (s *schedule) check() {
	owner := make(map[topicIDPartition]consumer)
	for _, c := range s.consumers {
		for tp := range partitionsOf(c.holds()) {
			if !s.owns(c, tp) {
				continue
			}
			if other := owner[tp]; other != nil {
				s.t.Fatalf("%s: both %+v and %+v own %s-%d", s.describe(), other, c, topicOf(tp.topic), tp.partition)
			}
			owner[tp] = c
		}
	}
	for _, c := range s.consumers {
		s.read(c)
	}
}

func (s *schedule) describe() string {
	return fmt.Sprintf("classic %+v, consumer %+v", s.w.s.classic["g"], s.w.s.consumer["g"])
}

// read lets a consumer begin where the group left off with what it got, and
// forget what it lost.
func (s *schedule) read(c consumer) {
	was, is := s.positions[c], make(map[topicIDPartition]int64)
	for tp := range partitionsOf(c.holds()) {
		at, had := was[tp]
		if !had {
			at = s.committed[tp]
		}
		is[tp] = at
	}
	s.positions[c] = is
}

// commit lets a consumer read on and commit all it has. What is late arrives
// some time, in the order in which its consumer sent it.
func (s *schedule) commit(c consumer, late bool) {
	if slices.ContainsFunc(s.late, func(l lateCommit) bool { return l.from == c }) {
		late = true
	}
	id, instance, epoch := c.member()
	for _, tp := range slices.SortedFunc(maps.Keys(s.positions[c]), func(a, b topicIDPartition) int {
		return cmp.Or(cmp.Compare(topicOf(a.topic), topicOf(b.topic)), cmp.Compare(a.partition, b.partition))
	}) {
		if s.positions[c][tp]++; !late {
			s.positions[c][tp] += 5 // so that what arrives late is behind
		}
		at := s.positions[c][tp]
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 9, "g", id, instance, epoch
		req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: topicOf(tp.topic), TopicID: tp.topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{
			{Partition: tp.partition, Offset: at, LeaderEpoch: -1},
		}}}
		send := func() {
			t := s.w.ticket()
			s.w.apply(s.w.s.OffsetCommit(s.w.now, t, req))
			if r, ok := s.w.replies[t].(*kmsg.OffsetCommitResponse); !ok || r.Topics[0].Partitions[0].ErrorCode != 0 {
				return
			}
			if at < s.committed[tp] {
				s.t.Fatalf("%s: %s at %d committed %d of %s-%d, where %d was", s.describe(), id, epoch, at, topicOf(tp.topic), tp.partition, s.committed[tp])
			}
			s.committed[tp] = at
		}
		if late {
			s.late = append(s.late, lateCommit{c, send})
		} else {
			send()
		}
	}
}

// deliver lets a commit arrive that was on its way.
func (s *schedule) deliver(i int) {
	l := s.late[i]
	s.late = slices.Delete(s.late, i, i+1)
	l.send()
}

// lateCommit is a commit that its sender has not heard of yet.
type lateCommit struct {
	from consumer
	send func()
}

// settle leaves the group alone: it must come to rest with every partition of a
// subscribed topic owned.
func (s *schedule) settle() {
	s.w.refused = nil
	for range 300 {
		for _, c := range s.consumers {
			c.step(s.w)
			s.check()
		}
		s.w.advance(500 * time.Millisecond)
	}
	want, got := 0, 0
	wanted := make(map[string]bool)
	for _, c := range s.consumers {
		if !c.settled() {
			s.t.Fatalf("%s: %+v has not come to rest", s.describe(), c)
		}
		for _, t := range c.subscribed() {
			wanted[t] = true
		}
		got += count(c.holds())
	}
	for t := range wanted {
		want += scheduleTopics[t]
	}
	if got != want {
		s.t.Fatalf("%s: %d partitions are owned, %d are subscribed to", s.describe(), got, want)
	}
}

func (s *schedule) run(join func(n int, topics []string) consumer) {
	pick := func(rt *rapid.T) consumer {
		if len(s.consumers) == 0 {
			rt.Skip()
		}
		return s.consumers[rapid.IntRange(0, len(s.consumers)-1).Draw(rt, "consumer")]
	}
	remove := func(c consumer) {
		s.consumers = slices.DeleteFunc(s.consumers, func(o consumer) bool { return o == c })
	}
	step := func(rt *rapid.T) { pick(rt).step(s.w) }
	s.t.Repeat(map[string]func(*rapid.T){
		"join": func(rt *rapid.T) {
			if len(s.consumers) < 5 {
				s.next++
				topics := rapid.SampledFrom([][]string{{"t"}, {"u"}, {"t", "u"}}).Draw(rt, "topics")
				s.consumers = append(s.consumers, join(s.next, topics))
			}
		},
		"step": step, "step again": step, "and again": step,
		"all step": func(*rapid.T) {
			for _, c := range s.consumers {
				c.step(s.w)
				s.check()
			}
		},
		"work a while": func(*rapid.T) {
			for range 8 {
				for _, c := range s.consumers {
					c.step(s.w)
					s.check()
				}
				s.w.advance(time.Second)
			}
		},
		"commit":      func(rt *rapid.T) { s.commit(pick(rt), false) },
		"late commit": func(rt *rapid.T) { s.commit(pick(rt), true) },
		"arrive": func(rt *rapid.T) {
			if len(s.late) == 0 {
				rt.Skip()
			}
			i := rapid.IntRange(0, len(s.late)-1).Draw(rt, "which")
			from := s.late[i].from
			s.deliver(slices.IndexFunc(s.late, func(l lateCommit) bool { return l.from == from }))
		},
		"lose an answer": func(rt *rapid.T) {
			c := pick(rt)
			c.step(s.w)
			c.lose()
		},
		"leave": func(rt *rapid.T) {
			c := pick(rt)
			c.leave(s.w)
			remove(c)
		},
		"die": func(rt *rapid.T) { remove(pick(rt)) },
		"time passes": func(rt *rapid.T) {
			s.w.advance(time.Duration(rapid.SampledFrom([]int{100, 3_000, 11_000, 61_000}).Draw(rt, "ms")) * time.Millisecond)
		},
		"new coordinator": func(*rapid.T) {
			s.w.load()
			for _, c := range s.consumers {
				c.lose() // its connection with it
			}
		},
		"too few replicas": func(*rapid.T) { s.w.refused = kerr.NotEnoughReplicas },
		"enough replicas":  func(*rapid.T) { s.w.refused = nil },
		"":                 func(*rapid.T) { s.check() },
	})
	s.settle()
}

// TestClassicSchedules runs members of the classic protocol, eager or
// cooperative, some of them static.
func TestClassicSchedules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSchedule(t, rt)
		cooperative := rapid.Bool().Draw(rt, "cooperative")
		s.run(func(n int, topics []string) consumer {
			c := &classicConsumer{cooperative: cooperative, topics: topics}
			if rapid.Bool().Draw(rt, "static") {
				id := fmt.Sprint("i", n)
				c.instance = &id
			}
			return c
		})
		if len(s.consumers) > 0 && s.w.s.classic["g"].state != stateStable {
			rt.Fatalf("the group is %v", s.w.s.classic["g"].state)
		}
	})
}

// TestMigrationSchedules mixes members of both protocols, so that the group
// changes its own back and forth.
func TestMigrationSchedules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSchedule(t, rt)
		cooperative := rapid.Bool().Draw(rt, "cooperative")
		s.run(func(n int, topics []string) consumer {
			if rapid.Bool().Draw(rt, "modern") {
				return &modernConsumer{client: newClient(fmt.Sprint("m", n), topics...)}
			}
			return &classicConsumer{cooperative: cooperative, topics: topics}
		})
		modern := slices.ContainsFunc(s.consumers, func(c consumer) bool { _, ok := c.(*modernConsumer); return ok })
		if modern != (s.w.s.consumer["g"] != nil && len(s.w.s.consumer["g"].members) > 0) && len(s.consumers) > 0 {
			rt.Fatalf("a group with members of the consumer protocol: %v; %s", modern, s.describe())
		}
	})
}
