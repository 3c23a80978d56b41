package group

import (
	"fmt"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What is done most often must not cost more unnoticed. Allocations are
// counted, which is the same on every machine; time is not.

func commitOf(partitions int) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 9, "g", -1
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = "t"
	metadata := ""
	for i := range partitions {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.Metadata = int32(i), 1_000_000, &metadata
		topic.Partitions = append(topic.Partitions, p)
	}
	req.Topics = append(req.Topics, topic)
	return req
}

// A commit allocates its answer, and one piece of memory for each record.
func TestCommitAllocations(t *testing.T) {
	w := newWorld(t)
	for _, partitions := range []int{1, 6, 100} {
		req := commitOf(partitions)
		got := testing.AllocsPerRun(100, func() {
			r := w.s.OffsetCommit(w.now, 1, req)
			for _, rec := range r.Records {
				if err := w.s.Replay(0, nil, rec); err != nil {
					t.Fatal(err)
				}
			}
		})
		if most := float64(6 + partitions); got > most {
			t.Errorf("a commit of %d partitions takes %v allocations, more than %v", partitions, got, most)
		}
	}
}

// An offset that is replaced by the next one costs a load nothing but time.
func TestReplayAllocations(t *testing.T) {
	w := newWorld(t)
	records := w.s.OffsetCommit(w.now, 1, commitOf(10)).Records
	got := testing.AllocsPerRun(100, func() {
		for _, rec := range records {
			if err := w.s.Replay(0, nil, rec); err != nil {
				t.Fatal(err)
			}
		}
	})
	if got > 0 {
		t.Errorf("the replay of %d offsets takes %v allocations", len(records), got)
	}
}

// consumersAtRest is a consumer group that has settled.
func consumersAtRest(t *testing.T, members int) *world {
	w := newWorld(t)
	w.img = testTopics(t, 1, map[string]int{"t": 2 * members})
	w.cfg.ConsumerAssignmentInterval = func() time.Duration { return time.Second }
	var clients []*client
	for i := range members {
		clients = append(clients, &client{id: fmt.Sprint("m", i), topics: []string{"t"}, joining: true})
	}
	for range 4 {
		for _, c := range clients {
			if err := c.heartbeat(w); err != nil {
				t.Fatal(err)
			}
			c.adopt()
		}
		w.advance(2 * time.Second)
	}
	if got := w.s.consumer["g"].stateName(); got != "Stable" {
		t.Fatal(got)
	}
	return w
}

// Looking for what expired costs nothing for what did not: it is done by the
// goroutine that answers heartbeats.
func TestExpiryAllocations(t *testing.T) {
	const members, partitions = 20, 200
	w := newWorld(t)
	subscription := kmsg.NewConsumerMemberMetadata()
	subscription.Topics = []string{"u"}
	offer := offers("range", string(subscription.AppendTo(nil)))
	ids, joins := make([]string, members), make([]runtime.Ticket, members)
	for i := range ids {
		ids[i], joins[i] = w.member(offer)
	}
	w.advance(7 * time.Second)
	generation := w.joined(joins[0]).Generation
	w.sync(ids[0], generation, nil)
	for _, id := range ids[1:] {
		w.sync(id, generation, nil)
	}
	req := commitOf(partitions)
	req.MemberID, req.Generation = ids[0], generation
	w.apply(w.s.OffsetCommit(w.now, w.ticket(), req))
	if g := w.s.classic["g"]; g.state != stateStable || len(w.s.offsets["g"].byPartition) != partitions {
		t.Fatalf("%v, %d offsets", g.state, len(w.s.offsets["g"].byPartition))
	}
	expire := func(now time.Time, want int) float64 {
		return testing.AllocsPerRun(3, func() {
			if r := w.s.Timeout(now, timerKey(timerOffsets, "", "")); len(r.Records) != want {
				t.Fatalf("%d records, not %d", len(r.Records), want)
			}
		})
	}
	if got := expire(w.now, 0); got > 50 {
		t.Errorf("%d offsets that did not expire take %v allocations", partitions, got)
	}
	// Nobody reads their topic any more.
	if got := expire(w.now.Add(8*24*time.Hour), partitions); got > 50*members+10*partitions {
		t.Errorf("%d offsets that did expire take %v allocations", partitions, got)
	}
}

// A heartbeat costs the same in a large group as in a small one.
func TestHeartbeatAllocations(t *testing.T) {
	for _, members := range []int{4, 400} {
		w := consumersAtRest(t, members)
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID = 1, "g", "m1"
		req.MemberEpoch, req.RebalanceTimeoutMillis = w.s.consumer["g"].epoch, -1
		got := testing.AllocsPerRun(100, func() {
			r := w.s.ConsumerGroupHeartbeat(w.now, 1, req, Client{"client", "/host"})
			if resp := r.Replies[0].Response.(*kmsg.ConsumerGroupHeartbeatResponse); resp.ErrorCode != 0 || len(r.Records) > 0 {
				t.Fatalf("error %d, %d records", resp.ErrorCode, len(r.Records))
			}
		})
		if got > 20 {
			t.Errorf("a heartbeat in a group of %d takes %v allocations", members, got)
		}
	}
}

// Members that come one after another are not assigned one after another: what a
// join allocates does not grow with the group.
func TestJoinAllocations(t *testing.T) {
	for _, members := range []int{4, 400} {
		w := consumersAtRest(t, members)
		// The first of those who come may find the interval over.
		if err := (&client{id: "first", topics: []string{"t"}, joining: true}).heartbeat(w); err != nil {
			t.Fatal(err)
		}
		n := 0
		got := testing.AllocsPerRun(20, func() {
			n++
			if err := (&client{id: fmt.Sprint("new", n), topics: []string{"t"}, joining: true}).heartbeat(w); err != nil {
				t.Fatal(err)
			}
		})
		if got > 100 {
			t.Errorf("a join to a group of %d takes %v allocations", members, got)
		}
	}
}
