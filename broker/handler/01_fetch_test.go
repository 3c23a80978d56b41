package handler_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/protocol"
)

// fetcher sends the fetches of one client.
type fetcher struct {
	*lab
	r       *handler.Request
	session int32
	epoch   int32
}

func newFetcher(l *lab) *fetcher { return &fetcher{lab: l, r: new(handler.Request)} }

func (f *fetcher) fetch(req *kmsg.FetchRequest) *kmsg.FetchResponse {
	f.t.Helper()
	api := f.API(1)
	f.r.Header = protocol.Header{Key: 1, Version: req.Version}
	f.r.Conn, f.r.Ctx, f.r.Draining = &handler.ConnInfo{Listener: "PLAINTEXT"}, context.Background(), context.Background()
	if err := api.Decode(f.r, req.AppendTo(nil)); err != nil {
		f.t.Fatal(err)
	}
	resp, err := api.Handle(f.Broker, f.r)
	if err != nil {
		f.t.Fatal(err)
	}
	got := req.ResponseKind().(*kmsg.FetchResponse)
	if err := got.ReadFrom(resp.AppendTo(nil)); err != nil {
		f.t.Fatal(err)
	}
	return got
}

// poll fetches in the session, from the given offsets on.
func (f *fetcher) poll(topic string, wait time.Duration, minBytes int32, offsets map[int32]int64) *kmsg.FetchResponse {
	f.t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID = 12, -1
	req.SessionID, req.SessionEpoch = f.session, f.epoch
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(wait.Milliseconds()), minBytes, 1<<20
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	for n, offset := range offsets {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = n, offset, 1<<20
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	resp := f.fetch(req)
	if resp.ErrorCode != 0 {
		f.t.Fatalf("fetch: %+v", resp)
	}
	f.session, f.epoch = resp.SessionID, f.epoch+1
	return resp
}

func answered(resp *kmsg.FetchResponse) int {
	n := 0
	for _, t := range resp.Topics {
		n += len(t.Partitions)
	}
	return n
}

// TestPollCostsWhatIsReady: a session with many partitions looks at those where
// something happened, and an idle one at none.
func TestPollCostsWhatIsReady(t *testing.T) {
	l := newLab(t)
	const n = 1000
	l.create("t", n, nil)
	f := newFetcher(l)
	start := map[int32]int64{}
	for i := range int32(n) {
		start[i] = 0
	}
	if got := answered(f.poll("t", 0, 1, start)); got != n {
		t.Fatalf("%d partitions in the first answer", got)
	}
	f.poll("t", 0, 1, nil) // what was linked since then is looked at once
	for range 3 {
		if got := answered(f.poll("t", 0, 1, nil)); got != 0 || f.r.PartitionsLookedAt() != 0 {
			t.Errorf("an idle poll looked at %d partitions and answered for %d", f.r.PartitionsLookedAt(), got)
		}
	}
	for _, p := range []int32{3, 500, 999} {
		l.produce("t", p, nil, time.Now().UnixMilli())
	}
	if got := answered(f.poll("t", 0, 1, nil)); got != 3 || f.r.PartitionsLookedAt() != 3 {
		t.Errorf("looked at %d partitions and answered for %d, want 3", f.r.PartitionsLookedAt(), got)
	}
	f.poll("t", 0, 1, map[int32]int64{3: 1, 500: 1, 999: 1})
	if f.poll("t", 0, 1, nil); f.r.PartitionsLookedAt() != 0 {
		t.Errorf("looked at %d partitions with nothing new", f.r.PartitionsLookedAt())
	}
}

// TestWaitIsByEvent: on a clock that runs only when nobody has anything to do,
// a poll ends at the very moment of the append, or exactly after max wait, and
// does not look at its partitions in between.
func TestWaitIsByEvent(t *testing.T) {
	l := newLab(t)
	l.create("t", 10, nil)
	synctest.Test(t, func(t *testing.T) {
		for _, session := range []int32{0, -1} {
			f := newFetcher(l)
			ends := map[int32]int64{}
			for i := range int32(10) {
				ends[i] = l.partition("t", i).Snapshot().LogEnd
			}
			f.epoch = session
			begin := time.Now()
			f.poll("t", time.Minute, 1, ends)
			if d := time.Since(begin); d != time.Minute {
				t.Errorf("epoch %d: the first poll took %v", session, d)
			}
			if session == -1 {
				f.epoch = session
			} else {
				f.poll("t", 0, 1, nil)
			}
			again := ends
			if session == 0 {
				again = nil
			}
			go func() {
				time.Sleep(7 * time.Second)
				l.produce("t", 4, nil, time.Now().UnixMilli())
			}()
			begin = time.Now()
			resp := f.poll("t", time.Minute, 1, again)
			if d := time.Since(begin); d != 7*time.Second {
				t.Errorf("epoch %d: woken after %v", session, d)
			}
			if looks := f.r.PartitionsLookedAt(); session == 0 && (looks != 1 || answered(resp) != 1) {
				t.Errorf("looked at %d partitions", looks)
			}
		}
	})
}
