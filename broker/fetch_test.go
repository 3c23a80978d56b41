package broker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

type fetched = kmsg.FetchResponseTopicPartition

// fetchRequest asks without a session and without waiting.
func fetchRequest(version int16) *kmsg.FetchRequest {
	r := kmsg.NewPtrFetchRequest()
	r.Version, r.ReplicaID, r.SessionEpoch = version, -1, -1
	r.MinBytes, r.MaxBytes = 1, 50<<20
	return r
}

// addFetch asks for a partition and returns it for changes.
func addFetch(r *kmsg.FetchRequest, topic string, id [16]byte, partition int32, offset int64) *kmsg.FetchRequestTopicPartition {
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.LogStartOffset = partition, offset, 10<<20, -1
	t.Partitions = append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	return &r.Topics[len(r.Topics)-1].Partitions[0]
}

func (c *client) fetch(r *kmsg.FetchRequest) *kmsg.FetchResponse {
	c.t.Helper()
	return c.ask(r).(*kmsg.FetchResponse)
}

// parts are the partitions of a response by number.
func parts(r *kmsg.FetchResponse) map[int32]fetched {
	m := map[int32]fetched{}
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			m[p.Partition] = p
		}
	}
	return m
}

// only is the one partition of a response.
func (c *client) only(r *kmsg.FetchResponse) fetched {
	c.t.Helper()
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.ErrorCode != 0 {
		c.t.Fatalf("not one partition: %+v", r)
	}
	return r.Topics[0].Partitions[0]
}

// offsets are the first and the next offset of whole batches.
func offsets(t rapid.TB, b []byte) (first, next int64) {
	t.Helper()
	first = -1
	for len(b) > 0 {
		batch, rest, err := protocol.NextBatch(b)
		if protocol.IsBatchShort(err) {
			break
		}
		if err != nil || !batch.ValidCRC() {
			t.Fatalf("batch at %d: %v", next, err)
		}
		if first < 0 {
			first = batch.BaseOffset()
		} else if batch.BaseOffset() != next {
			t.Fatalf("offset %d follows %d", batch.BaseOffset(), next)
		}
		next = batch.LastOffset() + 1
		b = rest
	}
	return first, next
}

// TestFetchVersions fetches in all versions what was produced, from both kinds
// of connections, in responses that are copied and in ones that are sent from
// the file.
func TestFetchVersions(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 3, nil)
	c := b.dial()
	var want [3][]byte
	for p := range int32(3) {
		for range 40 {
			batch := records(protocol.BatchParams{}, 1+rand.IntN(5), 10+int(p)*9000)
			got := c.produce(9, 1, "t", id, p, bytes.Clone(batch))
			protocol.Batch(batch).SetBaseOffset(got.BaseOffset)
			protocol.Batch(batch).SetLeaderEpoch(0)
			want[p] = append(want[p], batch...)
		}
	}
	for kind, conn := range map[string]net.Conn{"tcp": c.Conn, "pipe": b.mem.dial(t)} {
		c := newClient(t, conn)
		for v := int16(4); v <= 18; v++ {
			for isolation := range int8(2) {
				r := fetchRequest(v)
				r.IsolationLevel = isolation
				for p := range int32(3) {
					addFetch(r, "t", id, p, 0)
				}
				resp := c.fetch(r)
				if len(resp.Topics) != 1 {
					t.Fatalf("%s v%d: %d topics", kind, v, len(resp.Topics))
				}
				for p, got := range parts(resp) {
					if !bytes.Equal(got.RecordBatches, want[p]) || got.RecordBatches == nil {
						t.Errorf("%s v%d/%d: %d bytes differ from the %d produced", kind, v, p, len(got.RecordBatches), len(want[p]))
					}
					_, next := offsets(t, want[p])
					if got.ErrorCode != 0 || got.HighWatermark != next || got.LastStableOffset != next {
						t.Errorf("%s v%d/%d: code %d, high watermark %d, last stable offset %d; want 0, %d", kind, v, p, got.ErrorCode, got.HighWatermark, got.LastStableOffset, next)
					}
					if (got.AbortedTransactions == nil) != (isolation == 0) {
						t.Errorf("%s v%d/%d: aborted transactions %v", kind, v, p, got.AbortedTransactions)
					}
				}
			}
		}
	}
	if b.s.o.Metrics.SendfileBytes() == 0 {
		t.Error("nothing went by sendfile")
	}
}

// TestFetchErrors: what Apache Kafka 4.3.1 answered to the same.
func TestFetchErrors(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 2, nil)
	c := b.dial()
	c.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 4, 10))
	for _, test := range []struct {
		name      string
		version   int16
		topic     string
		id        [16]byte
		partition int32
		offset    int64
		change    func(*kmsg.FetchRequestTopicPartition)
		want      *kerr.Error
	}{
		{"unknown topic", 12, "other", id, 0, 0, nil, kerr.UnknownTopicOrPartition},
		{"unknown partition", 12, "t", id, 99, 0, nil, kerr.UnknownTopicOrPartition},
		{"unknown id", 13, "", [16]byte{1}, 0, 0, nil, kerr.UnknownTopicID},
		{"unknown partition by id", 13, "", id, 99, 0, nil, kerr.UnknownTopicOrPartition},
		{"offset -1", 12, "t", id, 0, -1, nil, kerr.OffsetOutOfRange},
		{"beyond the end", 12, "t", id, 0, 5, nil, kerr.OffsetOutOfRange},
		{"newer leader epoch", 12, "t", id, 0, 0, func(p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = 5 }, kerr.UnknownLeaderEpoch},
		{"newer leader epoch by id", 17, "", id, 0, 0, func(p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = 5 }, kerr.UnknownLeaderEpoch},
		{"newer last epoch", 12, "t", id, 0, 0, func(p *kmsg.FetchRequestTopicPartition) { p.LastFetchedEpoch = 5 }, kerr.OffsetOutOfRange},
	} {
		r := fetchRequest(test.version)
		p := addFetch(r, test.topic, test.id, test.partition, test.offset)
		if test.change != nil {
			test.change(p)
		}
		r.MaxWaitMillis = 5000 // nothing of this is waited for
		start := time.Now()
		got := c.only(c.fetch(r))
		if got.ErrorCode != test.want.Code || got.HighWatermark != -1 || got.LogStartOffset != -1 || got.RecordBatches == nil || len(got.RecordBatches) > 0 {
			t.Errorf("%s: %+v, want %v", test.name, got, test.want)
		}
		if time.Since(start) > 4*time.Second {
			t.Errorf("%s: waited", test.name)
		}
	}

	// The end is no error, and empty is not null.
	r := fetchRequest(12)
	addFetch(r, "t", id, 0, 4)
	if got := c.only(c.fetch(r)); got.ErrorCode != 0 || got.RecordBatches == nil || len(got.RecordBatches) > 0 || got.HighWatermark != 4 {
		t.Errorf("at the end: %+v", got)
	}
	// A replica that is not assigned does not read.
	r = fetchRequest(14)
	r.ReplicaID = 5
	addFetch(r, "", id, 0, 0)
	if got := c.only(c.fetch(r)); got.ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Errorf("as replica 5: %+v", got)
	}
}

func TestFetchLimits(t *testing.T) {
	b := startBroker(t, nil, config.Line{Key: "fetch.max.bytes", Value: "300000"})
	id := b.createTopic("t", 3, nil)
	c := b.dial()
	for p := range int32(3) {
		for range 4 {
			c.produce(9, 1, "t", id, p, records(protocol.BatchParams{}, 1, 100_000))
		}
	}
	// count asks with limits and returns how many records came of each
	// partition.
	count := func(maxBytes, partitionMax int32) [3]int64 {
		r := fetchRequest(12)
		r.MaxBytes = maxBytes
		for p := range int32(3) {
			addFetch(r, "t", id, p, 0).PartitionMaxBytes = partitionMax
		}
		var n [3]int64
		for p, got := range parts(c.fetch(r)) {
			if got.ErrorCode != 0 || got.HighWatermark != 4 {
				t.Errorf("%d: %+v", p, got)
			}
			_, n[p] = offsets(t, got.RecordBatches)
		}
		return n
	}
	for _, test := range []struct {
		name          string
		max, partMax  int32
		want          [3]int64
		wantPartition bool
	}{
		{"the first batch is sent whole", 10, 1 << 20, [3]int64{1, 0, 0}, false},
		{"of the first partition only", 1 << 20, 10, [3]int64{1, 0, 0}, false},
		{"nothing allowed", 0, 0, [3]int64{1, 0, 0}, false},
		{"per partition", 1 << 20, 150_000, [3]int64{1, 1, 0}, false},
		{"the broker's own limit", 1 << 30, 1 << 20, [3]int64{2, 0, 0}, false},
	} {
		got := count(test.max, test.partMax)
		if test.name == "per partition" { // a cut batch may use up the rest
			if got[0] != 1 || got[1] < 1 {
				t.Errorf("%s: %v", test.name, got)
			}
			continue
		}
		if got != test.want {
			t.Errorf("%s: %v records, want %v", test.name, got, test.want)
		}
	}
}

// TestLongPoll: a fetch that finds too little is answered as soon as there is
// enough, and after max wait with what there is.
func TestLongPoll(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 2, nil)
	c, producer := b.dial(), b.dial()
	session := int32(0)
	epoch := int32(0)
	for _, kind := range []string{"no session", "new session", "session"} {
		t.Run(kind, func(t *testing.T) {
			r := fetchRequest(12)
			ask := func(offset int64, wait time.Duration, minBytes int32) {
				r = fetchRequest(12)
				if kind != "no session" {
					r.SessionID, r.SessionEpoch = session, epoch
				}
				r.MaxWaitMillis, r.MinBytes = int32(wait.Milliseconds()), minBytes
				addFetch(r, "t", id, 0, offset)
				addFetch(r, "t", id, 1, 0)
				c.send(c.frame(r))
			}
			answer := func() *kmsg.FetchResponse {
				resp := c.answer(r, c.correlation).(*kmsg.FetchResponse)
				if resp.ErrorCode != 0 {
					t.Fatal(kerr.ErrorForCode(resp.ErrorCode))
				}
				if kind != "no session" {
					session, epoch = resp.SessionID, epoch+1
				}
				return resp
			}
			end := producer.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 10)).BaseOffset + 1

			ask(end, time.Minute, 1)
			c.expectOpen()
			producer.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 10))
			if got := parts(answer())[0]; len(got.RecordBatches) == 0 || got.HighWatermark != end+1 {
				t.Errorf("woken with %+v", got)
			}
			// Less than min bytes does not wake.
			ask(end+1, time.Minute, 1000)
			producer.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 400))
			c.expectOpen()
			producer.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 700))
			if first, next := offsets(t, parts(answer())[0].RecordBatches); first != end+1 || next != end+3 {
				t.Errorf("got offsets [%d,%d), want [%d,%d)", first, next, end+1, end+3)
			}
			// Max wait ends with what came meanwhile.
			start := time.Now()
			ask(end+3, 200*time.Millisecond, 1<<20)
			producer.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 10))
			if got := parts(answer())[0]; len(got.RecordBatches) == 0 {
				t.Errorf("after max wait: %+v", got)
			}
			if d := time.Since(start); d < 200*time.Millisecond {
				t.Errorf("answered after %v", d)
			}
		})
	}
}

// TestDeletedTopicEndsLongPoll: the client shall look for new metadata.
func TestDeletedTopicEndsLongPoll(t *testing.T) {
	b := startBroker(t, nil)
	for i, session := range []int32{-1, 0} {
		name := fmt.Sprint("t", i)
		id := b.createTopic(name, 1, nil)
		c := b.dial()
		r := fetchRequest(12)
		r.SessionEpoch, r.MaxWaitMillis = session, 60_000
		addFetch(r, name, id, 0, 0)
		c.send(c.frame(r))
		c.expectOpen()
		b.deleteTopic(name)
		got := parts(c.answer(r, c.correlation).(*kmsg.FetchResponse))[0]
		if got.ErrorCode != kerr.UnknownTopicOrPartition.Code && got.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Errorf("session %d: %+v", session, got)
		}
	}
}

// TestSession goes through the life of a session, as Apache Kafka 4.3.1 does.
func TestSession(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 3, nil)
	c := b.dial()
	c.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 2, 10))
	request := func(session, epoch int32) *kmsg.FetchRequest {
		r := fetchRequest(12)
		r.SessionID, r.SessionEpoch = session, epoch
		return r
	}
	check := func(step string, resp *kmsg.FetchResponse, code int16, want ...int32) {
		t.Helper()
		got := parts(resp)
		if resp.ErrorCode != code || len(got) != len(want) {
			t.Fatalf("%s: code %d, partitions %v; want %d, %v", step, resp.ErrorCode, got, code, want)
		}
		for _, p := range want {
			if _, ok := got[p]; !ok {
				t.Fatalf("%s: no partition %d", step, p)
			}
		}
	}
	r := request(0, 0)
	addFetch(r, "t", id, 0, 0)
	addFetch(r, "t", id, 2, 0)
	addFetch(r, "other", id, 9, 0)
	resp := c.fetch(r)
	check("new", resp, 0, 0, 2, 9)
	s := resp.SessionID
	if s == 0 {
		t.Fatal("no session")
	}
	check("what was not moved on is sent again", c.fetch(request(s, 1)), 0, 0, 9)
	r = request(s, 2)
	addFetch(r, "t", id, 0, 2)
	check("moved to the end: the unknown topic is told again", c.fetch(r), 0, 9)
	resp = c.fetch(request(s, 2))
	check("an epoch twice", resp, kerr.InvalidFetchSessionEpoch.Code)
	if resp.SessionID != 0 {
		t.Errorf("the error names session %d", resp.SessionID)
	}
	byID := fetchRequest(13)
	byID.SessionID, byID.SessionEpoch = s, 3
	check("by id", c.fetch(byID), kerr.FetchSessionTopicIDError.Code)
	check("another", c.fetch(request(s+1, 3)), kerr.FetchSessionIDNotFound.Code)
	r = request(s, 3)
	forget(r, "other", 9)
	check("forgotten", c.fetch(r), 0)
	// Only what changed is told.
	b.dial().produce(9, 1, "t", id, 2, records(protocol.BatchParams{}, 1, 10))
	resp = c.fetch(request(s, 4))
	check("changed", resp, 0, 2)
	r = request(s, 5)
	addFetch(r, "t", id, 2, 1)
	check("moved on", c.fetch(r), 0)
	r = request(s, 6)
	addFetch(r, "t", id, 1, 0)
	check("added: its offsets are news", c.fetch(r), 0, 1)
	check("idle", c.fetch(request(s, 7)), 0)
	r = request(s, 8)
	addFetch(r, "t", id, 0, 1000)
	check("out of range", c.fetch(r), 0, 0)
	check("still out of range", c.fetch(request(s, 9)), 0, 0)
	r = request(s, 10)
	addFetch(r, "t", id, 0, 2)
	check("back in range: the offsets are news after an error", c.fetch(r), 0, 0)
	// A topic that comes into being is found.
	r = request(s, 11)
	addFetch(r, "late", id, 7, 0)
	check("unknown", c.fetch(r), 0, 7)
	b.createTopic("late", 8, nil)
	check("known", c.fetch(request(s, 12)), 0, 7)
	check("known and told", c.fetch(request(s, 13)), 0)
	// A topic that goes is an error, in every answer.
	b.deleteTopic("late")
	check("gone", c.fetch(request(s, 14)), 0, 7)
	check("still gone", c.fetch(request(s, 15)), 0, 7)
	// Another connection may go on with the session.
	r = request(s, 16)
	forget(r, "late", 7)
	check("other connection", b.dial().fetch(r), 0)
	r = request(s, 17)
	forget(r, "t", 0, 1, 2)
	resp = c.fetch(r)
	check("all forgotten", resp, 0)
	if resp.SessionID != 0 {
		t.Error("a session without partitions lives on")
	}
	check("after the end", c.fetch(request(s, 18)), kerr.FetchSessionIDNotFound.Code)
	check("junk epoch", c.fetch(request(0, -5)), kerr.FetchSessionIDNotFound.Code)

	// A full request ends the session it names.
	r = request(0, 0)
	addFetch(r, "t", id, 0, 2)
	s = c.fetch(r).SessionID
	r = request(s, -1)
	addFetch(r, "t", id, 0, 2)
	if resp = c.fetch(r); resp.SessionID != 0 || len(resp.Topics) != 1 {
		t.Errorf("final epoch: %+v", resp)
	}
	check("closed", c.fetch(request(s, 1)), kerr.FetchSessionIDNotFound.Code)
}

func forget(r *kmsg.FetchRequest, topic string, partitions ...int32) {
	f := kmsg.NewFetchRequestForgottenTopic()
	f.Topic, f.Partitions = topic, partitions
	r.ForgottenTopics = append(r.ForgottenTopics, f)
}

// TestSessionIsFair: with room for one partition in each answer, all take turns.
func TestSessionIsFair(t *testing.T) {
	b := startBroker(t, nil)
	const n = 5
	id := b.createTopic("t", n, nil)
	c := b.dial()
	for p := range int32(n) {
		for range 20 {
			c.produce(9, 1, "t", id, p, records(protocol.BatchParams{}, 1, 1000))
		}
	}
	r := fetchRequest(12)
	r.SessionEpoch, r.MaxBytes = 0, 100
	var next [n]int64
	for p := range int32(n) {
		addFetch(r, "t", id, p, 0).PartitionMaxBytes = 100
	}
	resp := c.fetch(r)
	session := resp.SessionID
	for epoch := int32(1); epoch <= 4*n; epoch++ {
		r = fetchRequest(12)
		r.SessionID, r.SessionEpoch, r.MaxBytes = session, epoch, 100
		for p, got := range parts(resp) {
			if len(got.RecordBatches) > 0 {
				_, next[p] = offsets(t, got.RecordBatches)
				addFetch(r, "t", id, p, next[p]).PartitionMaxBytes = 100
			}
		}
		resp = c.fetch(r)
	}
	for p, at := range next {
		if at < 3 {
			t.Errorf("partition %d is at %d after %d answers", p, at, 4*n)
		}
	}
}

// TestSecondRequestForWaitingSession: the client gave up on its first request
// and goes on elsewhere; the first one does not take what the second needs.
func TestSecondRequestForWaitingSession(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	first, second := b.dial(), b.dial()
	r := fetchRequest(12)
	r.SessionEpoch = 0
	addFetch(r, "t", id, 0, 0)
	s := first.fetch(r).SessionID
	poll := func(epoch int32) *kmsg.FetchRequest {
		r := fetchRequest(12)
		r.SessionID, r.SessionEpoch, r.MaxWaitMillis = s, epoch, 60_000
		return r
	}
	r1, r2 := poll(1), poll(2)
	first.send(first.frame(r1))
	first.expectOpen()
	second.send(second.frame(r2))
	if resp := first.answer(r1, first.correlation).(*kmsg.FetchResponse); resp.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
		t.Errorf("the first request: %+v", resp)
	}
	second.expectOpen()
	b.dial().produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 10))
	if got := second.only(second.answer(r2, second.correlation).(*kmsg.FetchResponse)); len(got.RecordBatches) == 0 {
		t.Errorf("the second request: %+v", got)
	}

	// A full request closes the session under the one that waits.
	r3 := poll(3)
	move := fetchRequest(12)
	move.SessionID, move.SessionEpoch = s, 3
	r3.Topics = nil
	addFetch(r3, "t", id, 0, 1)
	second.send(second.frame(r3))
	second.expectOpen()
	closing := fetchRequest(12)
	closing.SessionID, closing.SessionEpoch = s, -1
	first.fetch(closing)
	if resp := second.answer(r3, second.correlation).(*kmsg.FetchResponse); resp.ErrorCode == 0 {
		t.Errorf("the request for the closed session: %+v", resp)
	}
}

// TestShutdownAnswersLongPolls: what waits is answered, then all is closed.
func TestShutdownAnswersLongPolls(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	idle, polling := b.dial(), b.dial()
	idle.ask(apiVersionsRequest(0))
	r := fetchRequest(12)
	r.MaxWaitMillis = 60_000
	addFetch(r, "t", id, 0, 0)
	polling.send(polling.frame(r))
	polling.expectOpen()
	done := make(chan error, 1)
	go func() { done <- b.s.Shutdown(t.Context()) }()
	if got := polling.only(polling.answer(r, polling.correlation).(*kmsg.FetchResponse)); got.ErrorCode != 0 {
		t.Errorf("%+v", got)
	}
	polling.expectClosed()
	idle.expectClosed()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestCloseEndsEverything, whatever is in process.
func TestCloseEndsEverything(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	r := fetchRequest(12)
	r.MaxWaitMillis = 60_000
	addFetch(r, "t", id, 0, 0)
	c.send(c.frame(r))
	half := b.dial()
	half.send([]byte{0, 0, 1, 0, 0})
	c.expectOpen()
	if err := b.s.Close(); err != nil {
		t.Error(err)
	}
	half.expectClosed()
}

// TestPanicEndsOnlyItsConnection.
func TestPanicEndsOnlyItsConnection(t *testing.T) {
	b := startBroker(t, nil)
	other, c := b.dial(), b.dial()
	other.ask(apiVersionsRequest(0))
	c.ask(apiVersionsRequest(0))
	b.eachConn(func(c *conn) { await(t, func() bool { return c.idle.Load() }) })
	b.h.Now = func() time.Time { panic("for the test") }
	c.send(c.frame(produceRequest(9, 1)))
	c.expectClosed()
	other.ask(apiVersionsRequest(0))
}

// TestSessionOfATopicCreatedAgain: a session that names a topic goes on with the one that has the name now, also if that
// looks as the last one did.
func TestSessionOfATopicCreatedAgain(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	r := fetchRequest(12)
	r.SessionEpoch = 0
	addFetch(r, "t", id, 0, 0)
	s := c.fetch(r).SessionID
	poll := func(epoch int32) *kmsg.FetchResponse {
		r := fetchRequest(12)
		r.SessionID, r.SessionEpoch = s, epoch
		return c.fetch(r)
	}
	b.deleteTopic("t")
	id = b.createTopic("t", 1, nil)
	if resp := poll(1); resp.ErrorCode != 0 || len(resp.Topics) > 0 {
		t.Fatalf("an empty topic again: %+v", resp)
	}
	c.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 2, 10))
	if got := c.only(poll(2)); got.ErrorCode != 0 || got.HighWatermark != 2 || len(got.RecordBatches) == 0 {
		t.Errorf("%+v", got)
	}
}
