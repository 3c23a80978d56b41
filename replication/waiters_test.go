package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// grow is an append as far as waiters see it: records and bytes of them at the
// log's end.
func grow(p *Partition, records, bytes int64) {
	p.role.RLock()
	defer p.role.RUnlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.appended(p.logEnd+records, bytes)
}

// follow is the fetch of a follower that has everything below offset.
func follow(p *Partition, id int32, offset int64) error {
	p.role.RLock()
	defer p.role.RUnlock()
	_, err := p.progressed(ReadOptions{ReplicaID: id, Offset: offset, CurrentLeaderEpoch: NoEpoch, BrokerEpoch: -1}, p.logEnd)
	return err
}

func TestProduceWaitCommittedAtOnce(t *testing.T) {
	p := ledBy1(t, 1)
	grow(p, 5, 100)
	var w ProduceWait
	w.Add(p, 5)
	w.Wait(context.Background(), 0)
	if err := w.Err(0); err != nil {
		t.Fatal(err)
	}
}

func TestProduceWaitIsUsedAgain(t *testing.T) {
	p := ledBy1(t, 1, 2)
	grow(p, 1, 1)
	var w ProduceWait
	w.Add(p, 1)
	w.Wait(t.Context(), 0)
	if !errors.Is(w.Err(0), kerr.RequestTimedOut) {
		t.Fatal(w.Err(0))
	}
	w.Reset()
	grow(p, 1, 1)
	w.Add(p, 2)
	go func() {
		if err := follow(p, 2, 2); err != nil {
			t.Error(err)
		}
	}()
	w.Wait(t.Context(), time.Minute)
	if w.Err(0) != nil {
		t.Fatal(w.Err(0))
	}
	w.Reset()
	if got := testing.AllocsPerRun(100, func() {
		w.Add(p, 2)
		w.Wait(context.Background(), time.Minute)
		w.Reset()
	}); got > 0 && !raceEnabled {
		t.Errorf("waiting for what is committed allocates %v times", got)
	}
}

func TestProduceWaitForFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := ledBy1(t, 1, 2, 3), ledBy1(t, 1, 2)
		grow(a, 5, 100)
		grow(b, 1, 100)
		var w ProduceWait
		w.Add(a, 5)
		w.Add(b, 1)
		done := false
		go func() { w.Wait(t.Context(), time.Hour); done = true }()
		step := func(want bool, p *Partition, id int32, offset int64) {
			t.Helper()
			if err := follow(p, id, offset); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if done != want {
				t.Errorf("after %d fetched from %d: done %v", id, offset, done)
			}
		}
		step(false, a, 2, 5)
		step(false, b, 2, 1)
		step(false, a, 3, 4)
		step(true, a, 3, 5)
		if w.Err(0) != nil || w.Err(1) != nil {
			t.Error(w.Err(0), w.Err(1))
		}
	})
}

func TestProduceWaitTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := ledBy1(t, 1, 2), ledBy1(t, 1)
		grow(a, 1, 1)
		grow(b, 1, 1)
		var w ProduceWait
		w.Add(a, 1)
		w.Add(b, 1)
		start := time.Now()
		w.Wait(t.Context(), 3*time.Second)
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("waited %v", got)
		}
		if !errors.Is(w.Err(0), kerr.RequestTimedOut) || w.Err(1) != nil {
			t.Error(w.Err(0), w.Err(1))
		}
		if a.acks.head != nil {
			t.Error("a timed out wait stays linked")
		}
		// Its outcome stands whatever happens later.
		if err := follow(a, 2, 1); err != nil {
			t.Error(err)
		}
		if !errors.Is(w.Err(0), kerr.RequestTimedOut) {
			t.Error(w.Err(0))
		}
	})
}

func TestProduceWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ledBy1(t, 1, 2)
		grow(p, 1, 1)
		var w ProduceWait
		w.Add(p, 1)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		w.Wait(ctx, time.Hour)
		if time.Since(start) != time.Second || !errors.Is(w.Err(0), kerr.RequestTimedOut) {
			t.Error(time.Since(start), w.Err(0))
		}
	})
}

func TestProduceWaitFailsWithTheLeadership(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(p *Partition)
		want error
	}{
		"another leader": {func(p *Partition) { mustAssign(t, p, 2, 9, 1, 2) }, kerr.NotLeaderForPartition},
		"no leader":      {func(p *Partition) { mustAssign(t, p, -1, 9, 1, 2) }, kerr.NotLeaderForPartition},
		"deleted":        {func(p *Partition) { p.retire(kerr.UnknownTopicOrPartition) }, kerr.UnknownTopicOrPartition},
		"disk failed":    {func(p *Partition) { p.diskFailed() }, kerr.KafkaStorageError},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := ledBy1(t, 1, 2)
				grow(p, 1, 1)
				var w ProduceWait
				w.Add(p, 1)
				time.AfterFunc(time.Second, func() { c.do(p) })
				w.Wait(t.Context(), time.Hour)
				if !errors.Is(w.Err(0), c.want) {
					t.Error(w.Err(0))
				}
				if name == "disk failed" {
					return // who appends now is told by storage
				}
				w.Add(p, 1) // too late
				w.Wait(t.Context(), time.Hour)
				if w.Err(1) == nil {
					t.Error("waited for a partition that is not led here")
				}
			})
		})
	}
}

// The ISR shrank below its minimum after the append: the watermark is frozen,
// the producer must not be told that its record is safe.
func TestProduceWaitUnderMinISR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ledBy1(t, 1, 2, 3)
		p.setMinISR(2)
		grow(p, 1, 1)
		var w ProduceWait
		w.Add(p, 1)
		if _, err := p.assign(assignment{leader: 1, leaderEpoch: 1, partitionEpoch: 7, replicas: []int32{1, 2, 3}, isr: []int32{1}}); err != nil {
			t.Error(err)
		}
		for _, id := range []int32{2, 3} {
			if err := follow(p, id, 1); err != nil {
				t.Error(err)
			}
		}
		w.Wait(t.Context(), time.Second)
		if !errors.Is(w.Err(0), kerr.RequestTimedOut) || p.highWatermark() != 0 {
			t.Error(w.Err(0), p.highWatermark())
		}
		// Committed before, asked for after: the answer names what is missing.
		q := ledBy1(t, 1, 2, 3)
		q.setMinISR(2)
		grow(q, 1, 1)
		for _, id := range []int32{2, 3} {
			if err := follow(q, id, 1); err != nil {
				t.Error(err)
			}
		}
		if _, err := q.assign(assignment{leader: 1, leaderEpoch: 1, partitionEpoch: 7, replicas: []int32{1, 2, 3}, isr: []int32{1}}); err != nil {
			t.Error(err)
		}
		var late ProduceWait
		late.Add(q, 1)
		late.Wait(t.Context(), time.Second)
		if !errors.Is(late.Err(0), kerr.NotEnoughReplicasAfterAppend) {
			t.Error(late.Err(0))
		}
	})
}

func TestNotifyAtFiresInOrderOnce(t *testing.T) {
	p := ledBy1(t, 1, 2)
	grow(p, 10, 10)
	var got []int64
	at := func(offset int64) func(error) {
		return p.NotifyAt(offset, func(err error) {
			if err != nil {
				offset = -offset
			}
			got = append(got, offset)
		})
	}
	at(0)
	at(7)
	at(3)
	cancel := at(5)
	at(3)
	cancel(kerr.RequestTimedOut)
	if err := follow(p, 2, 6); err != nil {
		t.Fatal(err)
	}
	cancel(kerr.RequestTimedOut) // does nothing: it was fired
	if err := follow(p, 2, 10); err != nil {
		t.Fatal(err)
	}
	want := []int64{0, -5, 3, 3, 7}
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

func TestHighWatermarkListener(t *testing.T) {
	p := ledBy1(t, 1)
	grow(p, 2, 1)
	var got []int64
	remove := p.OnHighWatermark(func(hw int64) { got = append(got, hw) })
	grow(p, 1, 1)
	grow(p, 4, 1)
	remove()
	grow(p, 1, 1)
	if len(got) != 3 || got[0] != 2 || got[1] != 3 || got[2] != 7 {
		t.Fatalf("%v, want 2 3 7", got)
	}
}

func TestWatchWakesAtMinBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := ledBy1(t, 1), ledBy1(t, 1)
		w := NewWatcher()
		na, nb := w.Watch(a, BoundHighWatermark, "a"), w.Watch(b, BoundHighWatermark, "b")
		if got := w.TakeReady(nil); len(got) != 2 {
			t.Errorf("new watches must be read once: %v", got)
		}
		woken := false
		go func() { woken = w.Wait(t.Context(), 100, nil) }()
		synctest.Wait()
		grow(a, 1, 60)
		synctest.Wait()
		if woken {
			t.Error("woken by 60 of 100 bytes")
		}
		grow(b, 1, 40)
		synctest.Wait()
		if !woken {
			t.Error("not woken by 100 bytes of two partitions")
		}
		if got := w.TakeReady(nil); len(got) != 2 || got[0] != na || got[1] != nb {
			t.Errorf("ready: %v", got)
		}
		na.Close()
		nb.Close()
		if a.watches != nil || b.watches != nil {
			t.Error("closed watches stay linked")
		}
	})
}

// What comes between looking and waiting is not missed.
func TestWatchSeesWhatComesBeforeWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ledBy1(t, 1)
		w := NewWatcher()
		w.Watch(p, BoundHighWatermark, nil)
		w.TakeReady(nil)
		grow(p, 1, 10)
		start := time.Now()
		if !w.Wait(t.Context(), 10, time.After(time.Hour)) || time.Since(start) != 0 {
			t.Error("waited for bytes that were there:", time.Since(start))
		}
		w.TakeReady(nil)
		mustAssign(t, p, 1, 9, 1)
		if !w.Wait(t.Context(), 10, time.After(time.Hour)) || time.Since(start) != 0 {
			t.Error("waited although the epoch had changed:", time.Since(start))
		}
	})
}

// Two appends report in the other order than they were written in: the
// watermark does not go back, and the bytes of both count.
func TestAppendsThatReportOutOfOrder(t *testing.T) {
	p := ledBy1(t, 1)
	w := NewWatcher()
	w.Watch(p, BoundHighWatermark, nil)
	w.TakeReady(nil)
	for _, end := range []int64{20, 10} {
		p.role.RLock()
		p.mu.Lock()
		p.appended(end, 100)
		p.mu.Unlock()
		p.role.RUnlock()
	}
	if p.logEnd != 20 || p.highWatermark() != 20 || w.bytes != 200 {
		t.Errorf("log end %d, watermark %d, %d bytes", p.logEnd, p.highWatermark(), w.bytes)
	}
}

func TestWatchDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ledBy1(t, 1)
		w := NewWatcher()
		n := w.Watch(p, BoundHighWatermark, nil)
		defer n.Close()
		w.TakeReady(nil)
		start := time.Now()
		grow(p, 1, 10)
		if w.Wait(t.Context(), 11, time.After(500*time.Millisecond)) || time.Since(start) != 500*time.Millisecond {
			t.Error("did not time out after 500ms:", time.Since(start))
		}
		if got := w.TakeReady(nil); len(got) != 1 {
			t.Error("what came too late to wake is still ready", got)
		}
		// The next wait is not woken by a signal of the last.
		if w.Wait(t.Context(), 1, time.After(time.Second)) {
			t.Error("woken by nothing")
		}
	})
}

func TestWatchIsUrgentWhenThePartitionGoes(t *testing.T) {
	for name, do := range map[string]func(p *Partition){
		"deleted":     func(p *Partition) { p.retire(kerr.UnknownTopicOrPartition) },
		"leader":      func(p *Partition) { mustAssign(t, p, 2, 9, 1, 2) },
		"epoch":       func(p *Partition) { mustAssign(t, p, 1, 9, 1, 2) },
		"disk failed": func(p *Partition) { p.diskFailed() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := ledBy1(t, 1, 2)
				w := NewWatcher()
				n := w.Watch(p, BoundHighWatermark, nil)
				w.TakeReady(nil)
				time.AfterFunc(time.Second, func() { do(p) })
				if !w.Wait(t.Context(), 1<<30, time.After(time.Hour)) {
					t.Error("not woken")
				}
				if got := w.TakeReady(nil); len(got) != 1 || got[0] != n {
					t.Error(got)
				}
			})
		})
	}
}

// A watch at the high watermark gets nothing for an append that is not
// committed, and all its bytes when it is, in however many steps.
func TestWatchCreditsWhatBecomesVisible(t *testing.T) {
	p := ledBy1(t, 1, 2)
	consumer, replica := NewWatcher(), NewWatcher()
	consumer.Watch(p, BoundHighWatermark, nil)
	replica.Watch(p, BoundLogEnd, nil)
	consumer.TakeReady(nil)
	replica.TakeReady(nil)
	grow(p, 1, 60)
	grow(p, 1, 40)
	if consumer.bytes != 0 || consumer.first != nil {
		t.Fatal("credited for what is not committed")
	}
	if replica.bytes != 100 || replica.first == nil {
		t.Fatal("a replica sees the log end", replica.bytes)
	}
	replica.TakeReady(nil)
	if err := follow(p, 2, 1); err != nil {
		t.Fatal(err)
	}
	if consumer.bytes != 60 {
		t.Fatal("credited for the first step:", consumer.bytes)
	}
	if replica.bytes != 0 || replica.first == nil {
		t.Fatal("a replica must hear of the new high watermark, without bytes")
	}
	consumer.TakeReady(nil) // the reader saw one record, and needs more
	if err := follow(p, 2, 2); err != nil {
		t.Fatal(err)
	}
	if consumer.bytes != 40 {
		t.Fatal("credited for the second step:", consumer.bytes)
	}
}

// More appends wait for the watermark than the partition keeps account of:
// readers may be woken too early, but are woken by the last step too.
func TestWatchCreditsBeyondItsAccount(t *testing.T) {
	p := ledBy1(t, 1, 2)
	w := NewWatcher()
	w.Watch(p, BoundHighWatermark, nil)
	for range maxProgressSteps + 10 {
		grow(p, 1, 1)
	}
	if n := len(p.progress.steps); n != maxProgressSteps {
		t.Fatalf("%d steps are kept", n)
	}
	w.TakeReady(nil)
	if err := follow(p, 2, maxProgressSteps+5); err != nil {
		t.Fatal(err)
	}
	if w.bytes < maxProgressSteps+5 {
		t.Fatalf("credited %d", w.bytes)
	}
	w.TakeReady(nil)
	if err := follow(p, 2, maxProgressSteps+10); err != nil {
		t.Fatal(err)
	}
	if w.bytes < 5 && !w.urgent {
		t.Fatal("a lost wake-up")
	}
	w.TakeReady(nil)
	grow(p, 1, 1)
	if err := follow(p, 2, maxProgressSteps+11); err != nil {
		t.Fatal(err)
	}
	if w.bytes != 1 || w.urgent {
		t.Fatalf("the account is exact again: %d bytes, urgent %v", w.bytes, w.urgent)
	}
}

// Sessions of readers against appenders: every reader must see all of every
// partition without ever being helped by a deadline. A lost wake-up leaves a
// reader parked for ever; synctest then reports a deadlock.
func TestNoLostWakeUp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(30) {
		synctest.Test(t, func(t *testing.T) { wakeUpRound(t, rand.New(rand.NewPCG(seed, round)), false) })
	}
}

// The same with real scheduling, for the race detector.
func TestNoLostWakeUpRealTime(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(5) {
		wakeUpRound(t, rand.New(rand.NewPCG(seed, round)), true)
	}
}

func wakeUpRound(t *testing.T, rng *rand.Rand, realTime bool) {
	const partitions, appends = 4, 60
	// Readers never ask for more than is still to come, so that each wait must
	// end.
	var parts []*Partition
	for range partitions {
		if rng.IntN(2) == 0 {
			parts = append(parts, ledBy1(t, 1))
		} else {
			parts = append(parts, ledBy1(t, 1, 2))
		}
	}
	pause := func(r *rand.Rand) {
		if !realTime {
			<-time.After(time.Duration(r.IntN(20)) * time.Millisecond)
		}
	}
	var wg sync.WaitGroup
	for _, p := range parts {
		appender := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for n := int64(1); n <= appends; n++ {
				grow(p, 1, 1) // one byte for each record
				pause(appender)
			}
		})
		if len(p.followers) > 0 {
			follower := rand.New(rand.NewPCG(rng.Uint64(), 0))
			wg.Go(func() { followToEnd(t, p, appends, follower, pause) })
		}
	}
	for range 5 {
		reader := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() { readToEnd(t, parts, appends, reader, realTime) })
	}
	wg.Wait()
}

// followToEnd is a follower that copies a little at a time, woken by the log
// end.
func followToEnd(t *testing.T, p *Partition, until int64, rng *rand.Rand, pause func(*rand.Rand)) {
	w := NewWatcher()
	n := w.Watch(p, BoundLogEnd, nil)
	defer n.Close()
	for have := int64(0); have < until; {
		w.TakeReady(nil)
		p.mu.Lock()
		end := p.logEnd
		p.mu.Unlock()
		if end == have {
			w.Wait(t.Context(), 1, nil)
			continue
		}
		have += 1 + rng.Int64N(end-have)
		if err := follow(p, 2, have); err != nil {
			t.Error(err)
			return
		}
		w.Requeue(n)
		pause(rng)
	}
}

// readToEnd is a fetch session that reads every partition to its end in polls
// of a random number of bytes, never more than are still to come.
func readToEnd(t *testing.T, parts []*Partition, until int64, rng *rand.Rand, realTime bool) {
	w := NewWatcher()
	at := make([]int64, len(parts))
	watches := make([]*Watch, len(parts))
	for i, p := range parts {
		watches[i] = w.Watch(p, BoundHighWatermark, i)
	}
	left := until * int64(len(parts))
	for left > 0 {
		need := 1 + rng.Int64N(min(left, 30))
		for {
			got := int64(0)
			for _, n := range w.TakeReady(nil) {
				i := n.Owner.(int)
				if more := parts[i].highWatermark() - at[i]; more > 0 {
					got += more
					w.Requeue(n)
				}
			}
			if got >= need {
				break
			}
			var deadline <-chan time.Time
			if realTime {
				deadline = time.After(20 * time.Second)
			}
			if !w.Wait(t.Context(), need-got, deadline) {
				t.Error("lost wake-up: still parked after 20s")
				return
			}
		}
		// Answer: positions move, which the next poll says again.
		for _, n := range w.TakeReady(nil) {
			i := n.Owner.(int)
			end := parts[i].highWatermark()
			left -= end - at[i]
			at[i] = end
			w.Requeue(n)
		}
		if rng.IntN(10) == 0 { // the session forgets a partition and takes it up again
			i := rng.IntN(len(parts))
			watches[i].Close()
			watches[i] = w.Watch(parts[i], BoundHighWatermark, i)
		}
	}
	for _, n := range watches {
		n.Close()
	}
}

func BenchmarkAppendWakes(b *testing.B) {
	for name, watchers := range map[string]int{"alone": 0, "one": 1, "hundred": 100} {
		b.Run(name, func(b *testing.B) {
			p := ledBy1(b, 1)
			for range watchers {
				NewWatcher().Watch(p, BoundHighWatermark, nil)
			}
			b.ReportAllocs()
			for b.Loop() {
				grow(p, 1, 100)
			}
		})
	}
}

func TestProduceWaitSurvivesANewEpochOfTheSameLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ledBy1(t, 1, 2)
		produce(t, p, 1)
		var w ProduceWait
		w.Add(p, 1)
		go func() {
			mustAssign(t, p, 1, 9, 1, 2)
			if err := follow(p, 2, 1); err != nil {
				t.Error(err)
			}
		}()
		w.Wait(t.Context(), time.Hour)
		if w.Err(0) != nil {
			t.Error(w.Err(0))
		}
	})
}

// TestAwaitRole: a client may know of a new leader before it does itself.
func TestAwaitRole(t *testing.T) {
	// wait is who waits a minute at most.
	wait := func(t *testing.T, await func(context.Context) bool) (outcome <-chan bool) {
		t.Helper()
		answer := make(chan bool, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			answer <- await(ctx)
		}()
		synctest.Wait()
		return answer
	}
	// asked is who waits for broker 1 to lead.
	asked := func(t *testing.T, p *Partition) <-chan bool {
		t.Helper()
		return wait(t, p.AwaitLeadership)
	}
	epoch := func(t *testing.T, p *Partition, epoch int32) <-chan bool {
		t.Helper()
		return wait(t, func(ctx context.Context) bool { return p.AwaitEpoch(ctx, epoch) })
	}
	waits := func(t *testing.T, answer <-chan bool) {
		t.Helper()
		select {
		case outcome := <-answer:
			t.Errorf("%v at once", outcome)
		default:
		}
	}
	answers := func(t *testing.T, answer <-chan bool, want bool) {
		t.Helper()
		synctest.Wait()
		select {
		case outcome := <-answer:
			if outcome != want {
				t.Error(outcome)
			}
		default:
			t.Error("still waits")
		}
	}
	for name, test := range map[string]func(t *testing.T, p *Partition){
		"leads": func(t *testing.T, p *Partition) {
			answers(t, asked(t, p), true)
		},
		"resigned just now, which the client does not know": func(t *testing.T, p *Partition) {
			mustAssign(t, p, 2, 2, 1, 2)
			answers(t, asked(t, p), false)
		},
		"resigned for another": func(t *testing.T, p *Partition) {
			successor := func(want int32) {
				t.Helper()
				if id, ok := p.Successor(time.Second); ok != (want > 0) || ok && id != want {
					t.Errorf("followed by %d, %t; want %d", id, ok, want)
				}
			}
			successor(0)
			mustAssign(t, p, 2, 2, 1, 2)
			successor(2)
			mustAssign(t, p, 3, 3, 1, 2, 3)
			successor(3)
			p.SendAway()
			successor(0)
			mustAssign(t, p, 1, 4, 1, 2)
			successor(0)
			mustAssign(t, p, 2, 5, 1, 2)
			successor(2)
			mustAssign(t, p, -1, 6, 1, 2)
			successor(0)
			mustAssign(t, p, 2, 7, 1, 2)
			successor(0)
			mustAssign(t, p, 1, 8, 1, 2)
			mustAssign(t, p, 2, 9, 1, 2)
			successor(2)
			time.Sleep(time.Second)
			successor(0)
			mustAssign(t, p, 1, 10, 1, 2)
			successor(0)
		},
		"resigned long ago, and its turn comes again": func(t *testing.T, p *Partition) {
			mustAssign(t, p, 2, 2, 1, 2)
			time.Sleep(staleFor)
			one, other := asked(t, p), asked(t, p)
			waits(t, one)
			mustAssign(t, p, 1, 3, 1, 2)
			answers(t, one, true)
			answers(t, other, true)
		},
		"its turn does not come": func(t *testing.T, p *Partition) {
			mustAssign(t, p, 2, 2, 1, 2)
			time.Sleep(staleFor)
			answer := asked(t, p)
			waits(t, answer)
			mustAssign(t, p, 3, 3, 1, 2, 3)
			waits(t, answer)
			time.Sleep(time.Minute)
			answers(t, answer, false)
		},
		"deleted meanwhile": func(t *testing.T, p *Partition) {
			mustAssign(t, p, 2, 2, 1, 2)
			time.Sleep(staleFor)
			answer := asked(t, p)
			waits(t, answer)
			p.retire(kerr.UnknownTopicOrPartition)
			answers(t, answer, false)
			answers(t, asked(t, p), false)
			answers(t, epoch(t, p, 9), false)
		},
		"an epoch of another leader": func(t *testing.T, p *Partition) {
			answers(t, epoch(t, p, 1), true)
			answer := epoch(t, p, 3)
			waits(t, answer)
			mustAssign(t, p, 2, 2, 1, 2)
			waits(t, answer)
			mustAssign(t, p, 2, 3, 1, 2)
			answers(t, answer, true)
		},
		"an epoch that does not come": func(t *testing.T, p *Partition) {
			answer := epoch(t, p, 2)
			time.Sleep(time.Minute)
			answers(t, answer, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, ledBy1(t, 1, 2)) })
		})
	}
}

// TestLeaderOfAMovedReplica: who waited for a replica that moved away hears who leads
// it now.
func TestLeaderOfAMovedReplica(t *testing.T) {
	p := ledBy1(t, 1, 2)
	p.movesTo(3, 2)
	if leader, epoch := p.Leader(); leader != 1 || epoch != 1 {
		t.Errorf("before it moves: %d in epoch %d", leader, epoch)
	}
	if !p.retire(kerr.NotLeaderForPartition) {
		t.Error("did not lead")
	}
	if leader, epoch := p.Leader(); leader != 3 || epoch != 2 {
		t.Errorf("afterwards: %d in epoch %d", leader, epoch)
	}
}
