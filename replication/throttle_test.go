package replication

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// TestThrottleWindows: the rate is that of the windows kept, of which the first
// counts whole, and the pause is what it takes for the rate to come down.
func TestThrottleWindows(t *testing.T) {
	now := time.Unix(1000, 0)
	th := newThrottle(11, time.Second, func() time.Time { return now })
	th.record(1 << 30)
	if th.exceeded() {
		t.Error("exceeded without a limit")
	}
	now = now.Add(time.Minute)
	th.limit.Store(1000)
	for _, step := range []struct {
		after time.Duration
		bytes int
		want  time.Duration
	}{
		{0, 1000, 0},
		{0, 500, 500 * time.Millisecond},
		{400 * time.Millisecond, 0, 500 * time.Millisecond}, // the first window counts as a second
		{1100 * time.Millisecond, 0, 0},
		{0, 2000, 2 * time.Second},
		{time.Second, 0, time.Second},
		{time.Second, 0, 0},
		{20 * time.Second, 0, 0},
		{0, 1 << 30, 10 * time.Second}, // all is forgotten after 11
		{11 * time.Second, 0, 0},
	} {
		now = now.Add(step.after)
		if step.bytes > 0 {
			th.record(step.bytes)
		}
		if got := th.pause(); got != step.want || th.exceeded() != (step.want > 0) {
			t.Errorf("%+v: pause %v", step, got)
		}
	}
	th.limit.Store(0)
	if th.record(1); !th.exceeded() || th.pause() <= 0 {
		t.Error("a limit of 0 lets something through")
	}
	if st := th.stats(); st.Limit != 0 || st.Bytes != 2<<30+3501 {
		t.Errorf("%+v", st)
	}
}

func TestThrottledReplicas(t *testing.T) {
	for _, c := range []struct {
		list []string
		want [3]bool // partitions 0 to 2 on broker 1
	}{
		{nil, [3]bool{}},
		{[]string{"*"}, [3]bool{true, true, true}},
		{[]string{"0:1", "1:2", "02:01"}, [3]bool{true, false, true}},
		{[]string{""}, [3]bool{}},
	} {
		th := throttledOn(c.list, 1)
		if got := [3]bool{th.has(0), th.has(1), th.has(2)}; got != c.want {
			t.Errorf("%v: %v", c.list, got)
		}
	}
}

// throttled gives a partition throttles over which it is, once a byte has gone
// through, for as long as the limit is 1.
func throttled(p *Partition) {
	p.env.leaderThrottle, p.env.followerThrottle = newThrottle(11, time.Second, time.Now), newThrottle(11, time.Second, time.Now)
	p.env.leaderThrottle.limit.Store(1)
	p.env.followerThrottle.limit.Store(1)
	p.throttledAsLeader.Store(true)
	p.throttledAsFollower.Store(true)
}

// TestLeaderThrottles: over its limit the leader sends nothing of a listed
// partition to a follower that is not in sync; its progress counts all the same,
// and followers in sync are served.
func TestLeaderThrottles(t *testing.T) {
	p := ledBy1(t, 1, 2, 3)
	if _, err := p.assign(assignment{leader: 1, leaderEpoch: 1, partitionEpoch: 2, replicas: []int32{1, 2, 3}, isr: []int32{1, 2}}); err != nil {
		t.Fatal(err)
	}
	throttled(p)
	produce(t, p, 5)
	read := func(replica int32, want bool) {
		t.Helper()
		o := from(0)
		o.ReplicaID, o.BrokerEpoch = replica, 7
		res, err := p.Read(o)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Slice.Release()
		if got := res.Slice.Len > 0; got != want || res.Throttled == want || res.LogEndOffset != 5 {
			t.Errorf("replica %d: %d bytes, throttled %v", replica, res.Slice.Len, res.Throttled)
		}
	}
	read(3, true) // nothing was sent yet
	p.SentToFollower(1000)
	read(3, false)
	read(2, true)
	if r := p.followers[1]; r.LogEnd != 0 {
		t.Errorf("the throttled fetch is no progress: %+v", r)
	}
	p.throttledAsLeader.Store(false)
	read(3, true)
	p.throttledAsLeader.Store(true)
	p.env.leaderThrottle.limit.Store(unlimited)
	read(3, true)
}

// TestFollowerThrottles: over its limit the follower does not ask for a listed
// partition that is not in sync, takes it out of the session even if the leader
// was silent about it, and asks again when the rate came down. What is in sync
// or not listed goes on.
func TestFollowerThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &scriptedLeader{asked: make(chan FetchRequest), answers: make(chan func(*FetchResponse) error)}
		f := newFetcher(l, fetchConfig{maxBytes: 1 << 20, responseMaxBytes: 1 << 20, minBytes: 1, maxWait: 500 * time.Millisecond, backoff: time.Second}, func() int64 { return 7 }, zerolog.Nop())
		behind, silent, inSync, unlisted := follower(t, 0), follower(t, 1), follower(t, 2), follower(t, 3)
		throttled(behind)
		f.throttle = behind.env.followerThrottle
		f.throttle.limit.Store(100)
		for _, p := range []*Partition{silent, inSync, unlisted} {
			p.env.followerThrottle = f.throttle
			p.throttledAsFollower.Store(p != unlisted)
			f.follow(p, 2)
		}
		f.follow(behind, 2)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); f.run(ctx) }()
		defer func() { cancel(); <-done }()

		batch := leadersBatch(t, 0, 3)
		if req := <-l.asked; len(req.Partitions) != 4 {
			t.Fatalf("asked %+v", req)
		}
		// One batch exceeds the limit: its partition is behind, the other is in
		// sync with it. Of the third nothing was told.
		l.answers <- func(r *FetchResponse) error {
			r.Partitions = []Fetched{
				{PartitionID: PartitionID{behind.id, 0}, HighWatermark: 9, Records: batch},
				{PartitionID: PartitionID{inSync.id, 2}, HighWatermark: 3, Records: batch},
				{PartitionID: PartitionID{unlisted.id, 3}, HighWatermark: 9, Records: batch},
			}
			return nil
		}
		began := time.Now()
		req := <-l.asked
		asked := map[int32]int64{}
		for _, p := range req.Partitions {
			asked[p.Partition] = p.Offset
		}
		if len(asked) != 2 || asked[2] != 3 || asked[3] != 3 || len(req.Forgotten) != 2 {
			t.Fatalf("asked %+v", req)
		}
		// Once the rate is down both are asked for again.
		due := time.Duration(2*len(batch))*time.Second/100 - time.Second
		for back := 0; back < 2; {
			time.Sleep(req.MaxWait) // the leader's long poll, in synctest's time
			l.answers <- func(*FetchResponse) error { return nil }
			req = <-l.asked
			back += len(req.Partitions)
		}
		if took := time.Since(began); took < due || took > due+2*time.Second {
			t.Errorf("asked again after %v, due after %v", took, due)
		}
		l.answers <- func(*FetchResponse) error { return errors.New("the end") }
	})
}
