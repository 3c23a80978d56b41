package broker

import (
	"testing"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// followerFetch is a request of broker id that begins a session.
func followerFetch(id int32, topic [16]byte, offset int64) *kmsg.FetchRequest {
	r := fetchRequest(14)
	r.ReplicaID, r.SessionEpoch = id, 0
	p := addFetch(r, "", topic, 0, offset)
	p.CurrentLeaderEpoch, p.LogStartOffset = 0, 0
	return r
}

// followerPoll is a request of broker id in a session in which nothing changed.
func followerPoll(id, session, epoch int32) *kmsg.FetchRequest {
	r := fetchRequest(14)
	r.ReplicaID, r.SessionID, r.SessionEpoch = id, session, epoch
	return r
}

// TestFetchGivenUpByAFollower: a follower that gives up a request, because it is
// to follow more partitions, goes on with another one on a new connection. What
// the leader still does with the old one does not set the follower back: it would
// not tell again where it stands, and what all have would never be committed.
func TestFetchGivenUpByAFollower(t *testing.T) {
	const two, three = 2, 3
	b := startBroker(t, nil)
	b.register(two)
	b.register(three)
	record := func() []byte { return records(protocol.BatchParams{}, 1, 10) }

	// follow makes broker 2 have the one record of a topic, of which it told in a
	// session, and returns who waits for all to have it.
	follow := func(t *testing.T, topic string, id [16]byte) (writer, follower *client, write *kmsg.ProduceRequest, session int32) {
		t.Helper()
		writer, follower = b.dial(), b.dial()
		write = addRecords(produceRequest(12, -1), topic, id, 0, record())
		write.TimeoutMillis = 60_000
		writer.send(writer.frame(write))
		r := followerFetch(two, id, 0)
		r.MaxWaitMillis = 60_000
		resp := follower.fetch(r)
		if got := follower.only(resp); len(got.RecordBatches) == 0 {
			t.Fatalf("no records for the follower: %+v", got)
		}
		told := followerPoll(two, resp.SessionID, 1)
		p := addFetch(told, "", id, 0, 1)
		p.CurrentLeaderEpoch, p.LogStartOffset = 0, 0
		if resp := follower.fetch(told); resp.ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
		return writer, follower, write, resp.SessionID
	}
	// committed has broker 3 tell that it has the record too.
	committed := func(t *testing.T, id [16]byte, writer *client, write *kmsg.ProduceRequest) {
		t.Helper()
		c := b.dial()
		if resp := c.fetch(followerFetch(three, id, 1)); c.only(resp).ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
		resp := writer.answer(write, writer.correlation).(*kmsg.ProduceResponse)
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Errorf("all have the record: %v", kerr.ErrorForCode(p.ErrorCode))
		}
	}

	t.Run("its wait is over later", func(t *testing.T) {
		id := b.createTopicOn("wait", 1, two, three)
		old := b.dial()
		r := followerFetch(two, id, 0)
		r.MaxWaitMillis, r.MinBytes = 60_000, int32(len(record())+1)
		old.send(old.frame(r))
		old.expectOpen()
		writer, _, write, _ := follow(t, "wait", id)
		b.dial().produce(12, 1, "wait", id, 0, record())
		if got := old.only(old.answer(r, old.correlation).(*kmsg.FetchResponse)); len(got.RecordBatches) == 0 {
			t.Fatalf("%+v", got)
		}
		committed(t, id, writer, write)
	})
	t.Run("it arrives later", func(t *testing.T) {
		id := b.createTopicOn("late", 1, two, three)
		writer, follower, write, session := follow(t, "late", id)
		old := b.dial()
		old.fetch(followerFetch(two, id, 0))
		if resp := follower.fetch(followerPoll(two, session, 2)); resp.ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
		committed(t, id, writer, write)
	})
	t.Run("it arrives while the new one waits", func(t *testing.T) {
		id := b.createTopicOn("beside", 1, two, three)
		writer, follower, write, session := follow(t, "beside", id)
		r := followerPoll(two, session, 2)
		r.MaxWaitMillis = 60_000
		follower.send(follower.frame(r))
		follower.expectOpen()
		b.dial().fetch(followerFetch(two, id, 0))
		next := b.dial()
		if resp := next.fetch(followerPoll(two, session, 3)); resp.ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
		committed(t, id, writer, write)
	})
}
