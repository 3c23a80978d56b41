package replication

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// Producers, transactions, a follower and readers of every bound on one
// partition, over a real log. Readers wait for a number of bytes that is
// certain to come, with no deadline to help them: one that is never woken, or
// is woken and finds less than it was promised for ever, is a failure. Each
// must get every record of the log, once and in order, and nothing before its
// time.
func TestTraffic(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(8) {
		traffic(t, rand.New(rand.NewPCG(seed, round)))
	}
}

const trafficRecords = 120 // in all, markers included

func traffic(t *testing.T, rng *rand.Rand) {
	p := ledBy1(t, 1)
	replicated := rng.IntN(2) == 0
	if replicated {
		mustAssign(t, p, 1, 2, 1, 2)
	}
	var wg sync.WaitGroup
	var total int64 // bytes that will have been appended in the end
	for producer := range 3 {
		steps, bytes := trafficSteps(producer)
		total += bytes
		r := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for _, step := range steps {
				if _, err := p.Append(step.batch, AppendOptions{Acks: int16(-r.IntN(2)), Version: 13, Origin: step.origin}); err != nil {
					t.Error(err)
				}
				for range r.IntN(50) {
					runtime.Gosched()
				}
			}
		})
	}
	if replicated {
		r := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() { readTraffic(t, p, BoundLogEnd, total, r) })
	}
	for range 2 {
		for _, bound := range []Bound{BoundHighWatermark, BoundLastStable} {
			r := rand.New(rand.NewPCG(rng.Uint64(), 0))
			wg.Go(func() { readTraffic(t, p, bound, total, r) })
		}
	}
	wg.Wait()
	if s := p.Snapshot(); s.LastStable != trafficRecords || s.LogEnd != trafficRecords {
		t.Errorf("%+v", s)
	}
}

type trafficStep struct {
	batch  []byte
	origin storage.Origin
}

// trafficSteps is what one producer writes: plain batches from producer 0, and
// transactions with their ends from the others.
func trafficSteps(producer int) (steps []trafficStep, bytes int64) {
	add := func(batch []byte, origin storage.Origin) {
		steps = append(steps, trafficStep{batch, origin})
		bytes += int64(len(batch))
	}
	if producer == 0 {
		for range 40 {
			add(batchOf(1, "plain"), storage.Client)
		}
		return steps, bytes
	}
	seq := int32(0)
	for txn := range 10 { // 3 records and a marker each
		for range 3 {
			add(transactional(int64(producer), seq, 1), storage.Client)
			seq++
		}
		typ := protocol.ControlCommit
		if txn%2 == 0 {
			typ = protocol.ControlAbort
		}
		add(protocol.AppendControlBatch(nil, protocol.ControlParams{ProducerID: int64(producer), Type: typ, TimestampMs: 1}), storage.Coordinator)
	}
	return steps, bytes
}

func readTraffic(t *testing.T, p *Partition, bound Bound, left int64, rng *rand.Rand) {
	o := from(0)
	switch bound {
	case BoundHighWatermark:
	case BoundLastStable:
		o.Isolation = 1
	case BoundLogEnd:
		o.ReplicaID = 2
	}
	w := NewWatcher()
	n := w.Watch(p, bound, nil)
	defer n.Close()
	lost := time.NewTimer(30 * time.Second)
	defer lost.Stop()
	var got []int64
	for left > 0 {
		need := 1 + rng.Int64N(min(left, 500))
		var data []byte
		for {
			w.TakeReady(nil)
			res, err := p.Read(o)
			if err != nil {
				t.Error(err)
				return
			}
			if data, err = res.Slice.AppendTo(data[:0]); err != nil {
				t.Error(err)
			}
			res.Slice.Release()
			if int64(len(data)) >= need {
				break
			}
			if !w.Wait(t.Context(), need-int64(len(data)), lost.C) {
				t.Errorf("bound %d: lost wake-up: %d of %d bytes at offset %d, %+v", bound, len(data), need, o.Offset, p.Snapshot())
				return
			}
		}
		left -= int64(len(data))
		for len(data) > 0 {
			b, rest, err := protocol.NextBatch(data)
			if err != nil {
				t.Error(err)
				return
			}
			for at := b.BaseOffset(); at <= b.LastOffset(); at++ {
				got = append(got, at)
			}
			o.Offset, data = b.LastOffset()+1, rest
		}
		w.Requeue(n)
	}
	if bound == BoundLogEnd { // the last fetch tells the leader that all has arrived
		if res, err := p.Read(o); err != nil {
			t.Error(err)
		} else {
			res.Slice.Release()
		}
	}
	if len(got) != trafficRecords || !slices.IsSorted(got) || got[0] != 0 || got[len(got)-1] != trafficRecords-1 {
		t.Errorf("bound %d: %v", bound, got)
	}
}

// Metadata changes under traffic: leadership moves away and back while clients
// produce. No acknowledged record may be missing, none may be there twice, and
// no append is acknowledged by a broker that does not lead.
func TestTrafficUnderChangesOfLeadership(t *testing.T) {
	p := ledBy1(t, 1)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var refused atomic.Int64
	acked := make([][]int64, 3)
	for i := range acked {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := p.Append(batchOf(1, "v"), AppendOptions{Acks: -1})
				if err == nil {
					acked[i] = append(acked[i], res.FirstOffset)
				} else if refused.Add(1); !errors.Is(err, kerr.NotLeaderForPartition) {
					t.Error(err)
					return
				}
			}
		})
	}
	for epoch := int32(2); epoch < 60; epoch++ {
		mustAssign(t, p, 1+epoch%2, epoch, 1, 2)
		if epoch%2 == 0 { // leads, alone in sync
			if _, err := p.assign(assignment{leader: 1, leaderEpoch: epoch, partitionEpoch: epoch, replicas: []int32{1}, isr: []int32{1}}); err != nil {
				t.Fatal(err)
			}
		}
		before, tried := p.Snapshot().LogEnd, refused.Load()
		if epoch%2 == 1 {
			for refused.Load() < tried+10 && !t.Failed() {
				runtime.Gosched()
			}
			if after := p.Snapshot().LogEnd; after != before {
				t.Fatalf("a follower's log grew from %d to %d", before, after)
			}
			continue
		}
		for p.Snapshot().LogEnd < before+5 && !t.Failed() {
			runtime.Gosched()
		}
	}
	close(stop)
	wg.Wait()
	all := slices.Concat(acked...)
	slices.Sort(all)
	end := p.Snapshot().LogEnd
	if int64(len(all)) != end {
		t.Fatalf("%d acknowledged, the log ends at %d", len(all), end)
	}
	for i, offset := range all {
		if offset != int64(i) {
			t.Fatalf("offset %d acknowledged at place %d", offset, i)
		}
	}
	// The log says which epoch wrote what, and that they rise.
	data, next, err := p.ReadBytes(nil, 0, 64<<20)
	if err != nil || next != end {
		t.Fatal(next, end, err)
	}
	last := int32(0)
	for len(data) > 0 {
		var b protocol.Batch
		if b, data, err = protocol.NextBatch(data); err != nil {
			t.Fatal(err)
		}
		if b.LeaderEpoch() < last || b.LeaderEpoch()%2 == 1 && b.LeaderEpoch() != 1 {
			t.Fatalf("epoch %d after %d", b.LeaderEpoch(), last)
		}
		last = b.LeaderEpoch()
	}
}

// The way of a produce and of a fetch through a partition costs no memory that
// grows with the number of requests, but what storage keeps of them.
func TestAllocationsOfAppendAndRead(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p := ledBy1(t, 1)
	w := NewWatcher()
	w.Watch(p, BoundHighWatermark, nil)
	w.Watch(p, BoundLastStable, nil)
	batch := batchOf(1, strings.Repeat("x", 100))
	opts := AppendOptions{Acks: -1, Version: 13}
	appends := testing.AllocsPerRun(1000, func() {
		protocol.Batch(batch).SetBaseOffset(0) // it was stamped
		if _, err := p.Append(batch, opts); err != nil {
			t.Fatal(err)
		}
	})
	if appends > 1 { // the disk in memory grows
		t.Errorf("an append allocates %v times", appends)
	}
	o := from(0)
	reads := testing.AllocsPerRun(1000, func() {
		res, err := p.Read(o)
		if err != nil {
			t.Fatal(err)
		}
		res.Slice.Release()
	})
	if reads > 3 { // the slice's hold on its segment
		t.Errorf("a read allocates %v times", reads)
	}
	t.Logf("%v an append, %v a read", appends, reads)
}

func BenchmarkAppend(b *testing.B) {
	for name, size := range map[string]int{"100B": 100, "64KiB": 64 << 10} {
		for _, parallel := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/parallel=%v", name, parallel), func(b *testing.B) {
				logs := disk{fs: vfs.OS{}, dirs: []string{b.TempDir()}}.open(b)
				defer closeLogs(b, logs)
				w := newWorld(b, logs)
				w.set(topicT)
				p := w.find("t", 0)
				value := strings.Repeat("x", size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				one := func() {
					batch := batchOf(1, value)
					if _, err := p.Append(batch, AppendOptions{Acks: -1, Version: 13}); err != nil {
						b.Error(err)
					}
				}
				if !parallel {
					for b.Loop() {
						one()
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						one()
					}
				})
			})
		}
	}
}
