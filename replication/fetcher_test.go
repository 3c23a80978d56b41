package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
)

// scriptedLeader answers each fetch with what the test says.
type scriptedLeader struct {
	asked   chan FetchRequest
	answers chan func(*FetchResponse) error
	// start and end are the leader's log; 100 and 200 if both are 0.
	start, end int64
}

func (l *scriptedLeader) Fetch(ctx context.Context, req *FetchRequest, resp *FetchResponse) error {
	copied := *req
	copied.Partitions, copied.Forgotten = slices.Clone(req.Partitions), slices.Clone(req.Forgotten)
	select {
	case l.asked <- copied:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case answer := <-l.answers:
		*resp = FetchResponse{SessionID: 9}
		return answer(resp)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *scriptedLeader) Bounds(context.Context, BoundsRequest) (start, end int64, err error) {
	if l.end > 0 {
		return l.start, l.end, nil
	}
	return 100, 200, nil
}

func (l *scriptedLeader) Close() {}

// follower is partition n of a topic on broker 1, which follows broker 2 in
// epoch 1.
func follower(tb testing.TB, n int32) *Partition {
	tb.Helper()
	p := ledBy1(tb, 1, 2)
	p.index = n
	mustAssign(tb, p, 2, 2, 1, 2)
	return p
}

// leadersBatch is a batch as broker 2 has it at an offset.
func leadersBatch(tb testing.TB, offset int64, n int) []byte {
	tb.Helper()
	p := ledBy1(tb, 1)
	if offset > 0 {
		produce(tb, p, int(offset))
	}
	produce(tb, p, n)
	data, _, err := p.ReadBytes(nil, offset, 1<<20)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// TestFetcherKeepsASession: after the first request only what changed is named;
// a partition that fails leaves the session and comes back, one that is added
// does not wait for the long poll, and a forgotten session is made anew.
func TestFetcherKeepsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &scriptedLeader{asked: make(chan FetchRequest), answers: make(chan func(*FetchResponse) error)}
		f := newFetcher(l, fetchConfig{maxBytes: 1 << 20, responseMaxBytes: 1 << 20, minBytes: 1, maxWait: time.Second, backoff: time.Second}, func() int64 { return 7 }, zerolog.Nop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); f.run(ctx) }()
		defer func() { cancel(); <-done }()
		a, b, c := follower(t, 0), follower(t, 1), follower(t, 2)
		f.follow(a, 2)
		f.follow(b, 2)
		expect := func(epoch int32, forgotten int, offsets map[int32]int64) {
			t.Helper()
			req := <-l.asked
			got := map[int32]int64{}
			for _, p := range req.Partitions {
				got[p.Partition] = p.Offset
			}
			if req.SessionEpoch != epoch || len(req.Forgotten) != forgotten || len(got) != len(offsets) || req.BrokerEpoch != 7 {
				t.Fatalf("asked %+v, want epoch %d, %d forgotten and %v", req, epoch, forgotten, offsets)
			}
			for n, o := range offsets {
				if got[n] != o {
					t.Fatalf("asked %+v, want %v", req, offsets)
				}
			}
		}
		answer := func(fn func(*FetchResponse) error) { l.answers <- fn }
		synctest.Wait()
		req := <-l.asked // the second may have come while the first was asked for
		if len(req.Partitions) == 1 {
			expect(0, 0, map[int32]int64{0: 0, 1: 0})
		}
		batch := leadersBatch(t, 0, 3)
		answer(func(r *FetchResponse) error {
			r.Partitions = []Fetched{{PartitionID: PartitionID{a.id, 0}, HighWatermark: 2, Records: batch}}
			return nil
		})
		expect(1, 0, map[int32]int64{0: 3})
		if s := a.Snapshot(); s.HighWatermark != 2 || s.LogEnd != 3 {
			t.Errorf("%+v", s)
		}
		// A corrupt batch: the partition leaves the session for a while.
		corrupt := slices.Clone(batch)
		corrupt[len(corrupt)-1] ^= 1
		answer(func(r *FetchResponse) error {
			r.Partitions = []Fetched{{PartitionID: PartitionID{b.id, 1}, HighWatermark: 2, Records: corrupt}}
			return nil
		})
		began := time.Now()
		expect(2, 1, nil)
		answer(func(*FetchResponse) error { return nil })
		for i := int32(3); ; i++ {
			req := <-l.asked
			if len(req.Partitions) == 1 && req.Partitions[0].Partition == 1 && req.Partitions[0].Offset == 0 {
				break
			}
			time.Sleep(req.MaxWait) // the leader's long poll, in synctest's time
			answer(func(*FetchResponse) error { return nil })
		}
		if time.Since(began) < firstBackoff {
			t.Error("a corrupt batch is asked for again at once")
		}
		answer(func(*FetchResponse) error { return kerr.FetchSessionIDNotFound })
		expect(0, 0, map[int32]int64{0: 3, 1: 0})
		// During this long poll another partition comes.
		f.follow(c, 2)
		expect(0, 0, map[int32]int64{0: 3, 1: 0, 2: 0})
		// Its log lies outside of the leader's: it begins anew where that does.
		answer(func(r *FetchResponse) error {
			r.Partitions = []Fetched{{PartitionID: PartitionID{c.id, 2}, Err: kerr.OffsetOutOfRange}}
			return nil
		})
		expect(1, 0, map[int32]int64{2: 100})
		f.unfollow(PartitionID{b.id, 1})
		answer(func(r *FetchResponse) error { return nil })
		expect(2, 1, nil)
	})
}

// TestTruncationBeforeWatermark: what diverges is cut and nothing of the same
// answer counts; a late answer of another epoch does nothing.
func TestTruncationBeforeWatermark(t *testing.T) {
	p := ledBy1(t, 1, 2)
	produce(t, p, 5) // epoch 1, not committed
	mustAssign(t, p, 2, 2, 1, 2)
	if _, err := p.truncate(1, EpochEnd{Epoch: 1, EndOffset: 0}); !errors.Is(err, errNotFollowing) {
		t.Errorf("an answer of an older epoch: %v", err)
	}
	if to, err := p.truncate(2, EpochEnd{Epoch: 1, EndOffset: 0}); err != nil || to != 0 {
		t.Errorf("truncated to %d, %v", to, err)
	}
	if s := p.Snapshot(); s.LogEnd != 0 || s.HighWatermark != 0 {
		t.Errorf("%+v", s)
	}
	if err := p.take(2, 5, &Fetched{HighWatermark: 5}); err != nil {
		t.Error(err)
	}
	if s := p.Snapshot(); s.HighWatermark != 0 {
		t.Errorf("a stale answer moved the watermark: %+v", s)
	}
}

// TestNearestReplica: a consumer that names its rack is sent to a replica in
// sync there that has the offset, and stays where the leader's rack is its own
// (KIP-392).
func TestNearestReplica(t *testing.T) {
	p := ledBy1(t, 1, 2, 3)
	racks := map[int32]string{1: "a", 2: "b", 3: "b"}
	down := int32(0)
	p.env.rackOf = func(id int32) (string, bool) { return racks[id], id != down }
	produce(t, p, 4)
	for id, end := range map[int32]int64{2: 2, 3: 4} {
		if err := follow(p, id, end); err != nil {
			t.Fatal(err)
		}
	}
	preferred := func(rack string, offset int64) int32 {
		o := from(offset)
		o.Rack = rack
		res, err := p.Read(o)
		if err != nil {
			t.Fatal(err)
		}
		res.Slice.Release()
		return res.PreferredReplica
	}
	for _, c := range []struct {
		rack   string
		offset int64
		want   int32
	}{{"a", 0, -1}, {"", 0, -1}, {"c", 0, -1}, {"b", 0, 3}, {"b", 2, 3}} {
		if got := preferred(c.rack, c.offset); got != c.want {
			t.Errorf("from rack %q at %d: %d, want %d", c.rack, c.offset, got, c.want)
		}
	}
	if down = 3; preferred("b", 0) != 2 || preferred("b", 3) != -1 {
		t.Error("sent to a replica that is down, or has not the offset")
	}
}

// TestEpochWithoutRecords: a broker that led an epoch without a record in it, as
// before any hand-over of a quiet partition, drops that epoch, and goes on at once.
func TestEpochWithoutRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &scriptedLeader{asked: make(chan FetchRequest), answers: make(chan func(*FetchResponse) error)}
		f := newFetcher(l, fetchConfig{maxBytes: 1 << 20, responseMaxBytes: 1 << 20, minBytes: 1, maxWait: time.Second, backoff: time.Second},
			func() int64 { return 7 }, zerolog.Nop())
		p := ledBy1(t, 1, 2)
		produce(t, p, 5)
		mustAssign(t, p, 1, 2, 1, 2)
		mustAssign(t, p, 2, 3, 1, 2)
		f.follow(p, 3)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); f.run(ctx) }()
		if req := <-l.asked; req.Partitions[0].LastEpoch != 2 {
			t.Errorf("asked with %+v", req.Partitions)
		}
		began := time.Now()
		l.answers <- func(r *FetchResponse) error {
			r.Partitions = []Fetched{{PartitionID: PartitionID{p.id, p.index}, Diverging: &EpochEnd{Epoch: 1, EndOffset: 5}}}
			return nil
		}
		if req := <-l.asked; len(req.Partitions) != 1 || req.Partitions[0].LastEpoch != 1 || req.Partitions[0].Offset != 5 {
			t.Errorf("asked with %+v", req.Partitions)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("asked again after %v", waited)
		}
		cancel()
		<-done
	})
}

// TestNoCommonPast: a leader that does not know an epoch of the follower's, as
// after the metadata was restored from a backup, is asked again after a pause
// that grows, and it is said once. What tells nothing new is no reason to hurry.
func TestNoCommonPast(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(*Fetched)
		lines  int
		end    int64
	}{
		{"out of range", func(f *Fetched) { f.Err = kerr.OffsetOutOfRange }, 1, 5},
		// All of the follower's is cut first: no record of that epoch is there.
		{"diverging", func(f *Fetched) { f.Diverging = &EpochEnd{Epoch: 0, EndOffset: 200} }, 2, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &scriptedLeader{asked: make(chan FetchRequest), answers: make(chan func(*FetchResponse) error), end: 200}
				var logged bytes.Buffer
				f := newFetcher(l, fetchConfig{maxBytes: 1 << 20, responseMaxBytes: 1 << 20, minBytes: 1, maxWait: time.Second, backoff: time.Second},
					func() int64 { return 7 }, zerolog.New(&logged).Level(zerolog.InfoLevel))
				p := ledBy1(t, 1, 2)
				produce(t, p, 5)
				mustAssign(t, p, 2, 2, 1, 2)
				f.follow(p, 2)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); f.run(ctx) }()
				ask := func(fill func(*Fetched)) {
					<-l.asked
					l.answers <- func(r *FetchResponse) error {
						got := Fetched{PartitionID: PartitionID{p.id, p.index}, HighWatermark: 5}
						fill(&got)
						r.Partitions = []Fetched{got}
						return nil
					}
				}
				began := time.Now()
				for range 20 {
					ask(c.answer)
				}
				if took := time.Since(began); took < 10*time.Second {
					t.Errorf("asked 20 times in %v", took)
				}
				ask(func(*Fetched) {})
				<-l.asked
				cancel()
				<-done
				if got := bytes.Count(logged.Bytes(), []byte("\n")); got != c.lines {
					t.Errorf("%d lines: %s", got, logged.Bytes())
				}
				if s := p.Snapshot(); s.LogEnd != c.end || s.HighWatermark != c.end {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// TestNumberOfFetchers: partitions of one leader are spread over num.replica.fetchers
// connections, each on one, and end with the last of their partitions.
func TestNumberOfFetchers(t *testing.T) {
	v, _, err := config.Build(config.Source{Name: "test", Lines: []config.Line{{Key: "num.replica.fetchers", Value: "3"}}})
	if err != nil {
		t.Fatal(err)
	}
	var clients []string
	m := New(Options{
		Logs: openLogs(t), NodeID: 1, Config: v, Now: time.Now, Log: zerolog.Nop(),
		Connect: func(leader int32, clientID string) Leader {
			clients = append(clients, fmt.Sprint(leader, " ", clientID))
			return &scriptedLeader{asked: make(chan FetchRequest), answers: make(chan func(*FetchResponse) error)}
		},
	})
	t.Cleanup(m.Close)
	w := &world{tb: t, img: metadata.Empty(), m: m}
	topic := topicT
	topic.partitions, topic.replicas = 12, []int32{2, 1}
	other := testTopic{name: "u", n: 2, partitions: 12, replicas: []int32{3, 1}}
	w.set(topic, other)
	slices.Sort(clients)
	want := []string{"2 broker-1-fetcher-0", "2 broker-1-fetcher-1", "2 broker-1-fetcher-2", "3 broker-1-fetcher-0", "3 broker-1-fetcher-1", "3 broker-1-fetcher-2"}
	if !slices.Equal(clients, want) {
		t.Errorf("fetchers %q", clients)
	}
	followed := func() (total int) {
		m.lanes[0].fetchers.mu.Lock()
		defer m.lanes[0].fetchers.mu.Unlock()
		for id, f := range m.lanes[0].fetchers.all {
			f.mu.Lock()
			total += len(f.parts)
			if len(f.parts) < 2 {
				t.Errorf("fetcher %v has %d partitions", id, len(f.parts))
			}
			f.mu.Unlock()
		}
		return total
	}
	if n := followed(); n != 24 {
		t.Errorf("%d partitions are followed", n)
	}
	w.set(topic)
	if n := followed(); n != 12 || len(m.lanes[0].fetchers.all) != 3 {
		t.Errorf("%d partitions are followed by %d fetchers", n, len(m.lanes[0].fetchers.all))
	}
}
