package group

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// testTopics makes an image with topics of the given numbers of partitions;
// a topic's id is its name.
func testTopics(t interface{ Fatal(...any) }, revision int64, topics map[string]int) *metadata.Image {
	return identifiedTopics(t, revision, topics, testID)
}

func identifiedTopics(t interface{ Fatal(...any) }, revision int64, topics map[string]int, idOf func(name string) metadata.ID) *metadata.Image {
	kvs := []metadata.KV{}
	put := func(key string, value map[string]any) {
		value["v"] = 1
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		kvs = append(kvs, metadata.KV{Key: key, Value: b, CreateRevision: 1, ModRevision: revision})
	}
	for name, n := range topics {
		id := metadata.FormatID(idOf(name))
		for p := range n {
			put(fmt.Sprintf("parts/%s/%d", id, p), map[string]any{"leader": 1, "replicas": []int{1}, "isr": []int{1}})
		}
		put("topics/"+name, map[string]any{"id": id, "partitions": n})
	}
	img, err := metadata.FromKVs(kvs, revision)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// namedTopic makes an image with one topic that has an id of its own.
func namedTopic(t interface{ Fatal(...any) }, name string, id byte) *metadata.Image {
	return identifiedTopics(t, int64(id), map[string]int{name: 1}, func(string) metadata.ID { return metadata.ID{id} })
}

func testID(name string) metadata.ID {
	var id metadata.ID
	copy(id[:], name)
	return id
}

// client is a member as it sees itself: what it believes to own is what counts
// for exclusiveness.
type client struct {
	id      string
	epoch   int32
	topics  []string
	regex   *string
	owned   assignor.Assignment
	target  assignor.Assignment // the last that it was told
	told    bool                // owned changed since it last said
	joining bool
	// full: its last call failed, so that it says everything again, as clients
	// do.
	full bool
}

func (w *world) beat(req *kmsg.ConsumerGroupHeartbeatRequest) *kmsg.ConsumerGroupHeartbeatResponse {
	w.t.Helper()
	req.Version, req.Group = 1, "g"
	t := w.ticket()
	w.apply(w.s.ConsumerGroupHeartbeat(w.now, t, req, Client{"client", "/host"}))
	if _, refused := w.replies[t].(error); refused {
		resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
		resp.ErrorCode = kerr.CoordinatorNotAvailable.Code // as the handler says it
		return resp
	}
	return w.replies[t].(*kmsg.ConsumerGroupHeartbeatResponse)
}

// heartbeat lets the client send what a Java consumer would.
func (c *client) heartbeat(w *world) error {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.MemberID, req.MemberEpoch = c.id, c.epoch
	req.RebalanceTimeoutMillis = -1
	if c.joining {
		req.MemberEpoch, req.RebalanceTimeoutMillis = 0, 60_000
		req.SubscribedTopicNames, req.SubscribedTopicRegex = c.topics, c.regex
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	} else if !c.told || c.full {
		if c.full {
			req.RebalanceTimeoutMillis = 60_000
			req.SubscribedTopicNames, req.SubscribedTopicRegex = c.topics, c.regex
		}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for id, ps := range c.owned {
			req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: id, Partitions: ps})
		}
	}
	resp := w.beat(req)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return err
	}
	c.told, c.full, c.joining, c.epoch = true, false, false, resp.MemberEpoch
	if resp.Assignment != nil {
		c.target = make(assignor.Assignment)
		for _, t := range resp.Assignment.Topics {
			c.target[t.TopicID] = t.Partitions
		}
	}
	return nil
}

// adopt makes the client own its target; it will say so even if nothing
// changed.
func (c *client) adopt() {
	if c.target != nil {
		c.owned, c.target, c.told = c.target, nil, false
	}
}

func count(a assignor.Assignment) int {
	n := 0
	for _, ps := range a {
		n += len(ps)
	}
	return n
}

func newClient(id string, topics ...string) *client {
	return &client{id: id, topics: topics, joining: true, owned: assignor.Assignment{}}
}

// settle lets everybody heartbeat until nothing changes.
func settle(w *world, clients ...*client) {
	w.t.Helper()
	for range 20 {
		for _, c := range clients {
			if err := c.heartbeat(w); err != nil {
				w.t.Fatalf("%s: %v", c.id, err)
			}
			c.adopt()
		}
	}
}

func TestConsumersShareATopic(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 4})
	a, b := newClient("a", "t"), newClient("b", "t")
	settle(w, a)
	if count(a.owned) != 4 {
		t.Fatalf("alone it owns %v", a.owned)
	}
	if err := b.heartbeat(w); err != nil || count(b.target) != 0 {
		t.Fatalf("%v: gets %v before it was given back", err, b.target)
	}
	settle(w, a, b)
	if count(a.owned) != 2 || count(b.owned) != 2 || a.epoch != b.epoch {
		t.Fatalf("a %v at %d, b %v at %d", a.owned, a.epoch, b.owned, b.epoch)
	}
	if got := w.s.consumer["g"].stateName(); got != "Stable" {
		t.Fatal(got)
	}
	w.load() // a new coordinator knows all of it
	settle(w, a, b)
	if count(a.owned) != 2 || count(b.owned) != 2 {
		t.Fatalf("after the change of coordinators: a %v, b %v", a.owned, b.owned)
	}
}

// A target assignment stands for the assignment interval; who comes meanwhile
// is in the group at its epoch, with nothing, until a heartbeat after that.
func TestAssignmentInterval(t *testing.T) {
	w := newWorld(t)
	w.cfg.ConsumerAssignmentInterval = func() time.Duration { return time.Second }
	w.img = testTopics(t, 1, map[string]int{"t": 4})
	a, b := newClient("a", "t"), newClient("b", "t")
	settle(w, a)
	if count(a.owned) != 4 {
		t.Fatalf("the first assignment waited: %v", a.owned)
	}
	w.advance(999 * time.Millisecond)
	settle(w, a, b)
	if count(a.owned) != 4 || count(b.owned) != 0 || a.epoch != 2 || b.epoch != 2 {
		t.Fatalf("within the interval: a %v at %d, b %v at %d", a.owned, a.epoch, b.owned, b.epoch)
	}
	if got := w.s.consumer["g"].stateName(); got != "Assigning" {
		t.Fatal(got)
	}
	w.load() // it is in the log
	settle(w, a, b)
	if count(b.owned) != 0 {
		t.Fatalf("a new coordinator forgot the interval: b %v", b.owned)
	}
	w.advance(time.Millisecond)
	settle(w, a, b)
	if count(a.owned) != 2 || count(b.owned) != 2 || a.epoch != 3 || b.epoch != 3 {
		t.Fatalf("after the interval: a %v at %d, b %v at %d", a.owned, a.epoch, b.owned, b.epoch)
	}
}

func TestNewPartitionsAreAssigned(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 1})
	a := newClient("a", "t")
	settle(w, a)
	w.img = testTopics(t, 2, map[string]int{"t": 3})
	settle(w, a)
	if count(a.owned) != 3 {
		t.Fatalf("owns %v", a.owned)
	}
}

// A member that changes its subscription gets what it asks for now and gives
// back what it no longer wants.
func TestSubscriptionChanges(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 2, "u": 3})
	a := newClient("a", "t")
	settle(w, a)
	for _, change := range []struct {
		topics []string
		want   int
	}{{[]string{"t", "u"}, 5}, {[]string{"u"}, 3}, {[]string{}, 0}} {
		a.topics, a.full = change.topics, true
		settle(w, a)
		if count(a.owned) != change.want {
			t.Fatalf("subscribed to %v it owns %v", change.topics, a.owned)
		}
	}
}

func TestRegexFollowsTopics(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"logs-a": 1, "logs": 1, "blogs-a": 1})
	pattern := "logs-.*"
	a := newClient("a")
	a.topics, a.regex = []string{}, &pattern
	settle(w, a)
	if count(a.owned) != 1 || a.owned[testID("logs-a")] == nil {
		t.Fatalf("owns %v", a.owned)
	}
	w.img = testTopics(t, 2, map[string]int{"logs-a": 1, "logs-b": 2})
	settle(w, a)
	if count(a.owned) != 3 {
		t.Fatalf("owns %v", a.owned)
	}
}

func TestSilentConsumerIsRemoved(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 4})
	a, b := newClient("a", "t"), newClient("b", "t")
	settle(w, a, b)
	w.advance(30 * time.Second)
	if err := a.heartbeat(w); err != nil {
		t.Fatal(err)
	}
	w.advance(20 * time.Second)
	settle(w, a)
	if count(a.owned) != 4 {
		t.Fatalf("owns %v", a.owned)
	}
	if err := b.heartbeat(w); err != kerr.UnknownMemberID {
		t.Fatal(err)
	}
}

// A member that does not give partitions back in its rebalance timeout is
// removed though it sends heartbeats.
func TestStubbornConsumerIsRemoved(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 4})
	a, b := newClient("a", "t"), newClient("b", "t")
	settle(w, a)
	for range 12 { // a never adopts
		if err := b.heartbeat(w); err != nil {
			t.Fatal(err)
		}
		b.adopt()
		_ = a.heartbeat(w)
		w.advance(6 * time.Second)
	}
	if err := a.heartbeat(w); err != kerr.UnknownMemberID {
		t.Fatal(err)
	}
	settle(w, b)
	if count(b.owned) != 4 {
		t.Fatalf("owns %v", b.owned)
	}
}

func TestStaticConsumerComesBackToItsPartitions(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 4})
	join := func(id string) *kmsg.ConsumerGroupHeartbeatResponse {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		instance := "i"
		req.MemberID, req.InstanceID, req.RebalanceTimeoutMillis = id, &instance, 60_000
		req.SubscribedTopicNames, req.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		return w.beat(req)
	}
	leave := func(id string) int16 {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		instance := "i"
		req.MemberID, req.InstanceID, req.MemberEpoch = id, &instance, -2
		return w.beat(req).ErrorCode
	}
	join("m1")
	if r := join("m2"); r.ErrorCode != kerr.UnreleasedInstanceID.Code {
		t.Fatalf("%v while the first is there", kerr.ErrorForCode(r.ErrorCode))
	}
	epoch := w.s.consumer["g"].epoch
	if c := leave("m1"); c != 0 {
		t.Fatal(kerr.ErrorForCode(c))
	}
	w.load()
	r := join("m2")
	if r.ErrorCode != 0 || r.Assignment == nil || len(r.Assignment.Topics) != 1 || len(r.Assignment.Topics[0].Partitions) != 4 {
		t.Fatalf("%+v", r)
	}
	if got := w.s.consumer["g"].epoch; got != epoch {
		t.Fatalf("its return moved the group from epoch %d to %d", epoch, got)
	}
	if c := leave("m1"); c != kerr.FencedInstanceID.Code {
		t.Fatal(kerr.ErrorForCode(c))
	}
}

func TestCommitOfAStaleEpoch(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 4})
	a, b := newClient("a", "t"), newClient("b", "t")
	settle(w, a)
	old := a.epoch
	settle(w, a, b)
	if err := w.commit("a", old, 1); err != kerr.StaleMemberEpoch {
		t.Fatal(err)
	}
	if err := w.commit("a", a.epoch, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.commit("c", 1, 1); err != kerr.UnknownMemberID {
		t.Fatal(err)
	}
}

// TestConsumersNeverShareAPartition runs random members against the
// coordinator, with lost answers and changes of coordinators: whatever
// happens, no two members believe to own the same partition, and once they
// are left alone every partition is owned.
func TestConsumersNeverShareAPartition(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.img = testTopics(rt, 1, map[string]int{"t": 5, "u": 3})
		var clients []*client
		next := 0
		exclusive := func() {
			owner := make(map[topicIDPartition]string)
			for _, c := range clients {
				for id, ps := range c.owned {
					for _, p := range ps {
						k := topicIDPartition{id, p}
						if other, ok := owner[k]; ok {
							rt.Fatalf("%s and %s both own %v", other, c.id, k)
						}
						owner[k] = c.id
					}
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"join": func(rt *rapid.T) {
				if len(clients) < 5 {
					next++
					topics := rapid.SampledFrom([][]string{{"t"}, {"u"}, {"t", "u"}}).Draw(rt, "topics")
					clients = append(clients, newClient(fmt.Sprint("m", next), topics...))
				}
			},
			"heartbeat": func(rt *rapid.T) {
				if len(clients) == 0 {
					rt.Skip()
				}
				c := rapid.SampledFrom(clients).Draw(rt, "client")
				before := *c
				err := c.heartbeat(w)
				switch {
				case err != nil: // fenced: it drops everything and joins again
					*c = *newClient(c.id, c.topics...)
				case rapid.IntRange(0, 4).Draw(rt, "answer lost") == 0:
					*c = before
					c.full = true
				}
			},
			"adopt": func(rt *rapid.T) {
				if len(clients) > 0 {
					rapid.SampledFrom(clients).Draw(rt, "client").adopt()
				}
			},
			"leave": func(rt *rapid.T) {
				if len(clients) == 0 {
					rt.Skip()
				}
				c := rapid.SampledFrom(clients).Draw(rt, "client")
				req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
				req.MemberID, req.MemberEpoch = c.id, -1
				w.beat(req)
				clients = slices.DeleteFunc(clients, func(o *client) bool { return o == c })
			},
			"new coordinator": func(*rapid.T) { w.load() },
			"":                func(*rapid.T) { exclusive() },
		})
		wanted := make(map[string]bool)
		for range 30 {
			for _, c := range clients {
				if c.heartbeat(w) != nil {
					*c = *newClient(c.id, c.topics...)
				}
				c.adopt()
				exclusive()
			}
		}
		total := 0
		for _, c := range clients {
			total += count(c.owned)
			for _, topic := range c.topics {
				wanted[topic] = true
			}
		}
		want := 0
		for topic, n := range map[string]int{"t": 5, "u": 3} {
			if wanted[topic] {
				want += n
			}
		}
		if total != want {
			rt.Fatalf("%d partitions are owned, %d are subscribed to; group %+v", total, want, w.s.consumer["g"])
		}
	})
}

// TestOffsetsBeforeTheirGroup: of a log that was compacted, offsets may come before
// all that is left of their group. They make no second group of the same name.
func TestOffsetsBeforeTheirGroup(t *testing.T) {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 1})
	w.apply(runtime.Result{Records: []runtime.Record{offsetRecord("g", topicPartition{"t", 0}, offset{offset: 7, expireTimestamp: -1})}})
	w.apply(runtime.Result{Records: []runtime.Record{consumerGroupRecord("g", 3, 0)}})
	w.load()
	ticket := w.ticket()
	w.apply(w.s.ListGroups(w.now, ticket, nil, nil))
	groups := w.replies[ticket].([]kmsg.ListGroupsResponseGroup)
	if len(groups) != 1 || groups[0].GroupType != "consumer" {
		t.Fatalf("listed: %+v", groups)
	}
	if off, err := w.fetch(false); off != 7 || err != nil {
		t.Fatalf("%d, %v", off, err)
	}
}

// TestLargeConsumerGroup: the assignment of many members is more than one append
// takes. Nobody else may suffer for it, and it has to be possible.
func TestLargeConsumerGroup(t *testing.T) {
	const members = 60
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": members})
	w.cfg.MaxRecordBytes = func() int { return 2000 }
	w.cfg.ConsumerAssignmentInterval = func() time.Duration { return 5 * time.Second }
	var clients []*client
	for i := range members {
		c := newClient(fmt.Sprintf("m%02d", i), "t")
		if err := c.heartbeat(w); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	w.advance(5 * time.Second)
	settle(w, clients...)
	for range 2 {
		for _, c := range clients {
			if count(c.owned) != 1 {
				t.Fatalf("%s owns %v", c.id, c.owned)
			}
		}
		w.load()
		settle(w, clients...)
	}
}
