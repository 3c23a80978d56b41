package replication

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
)

func TestAppendAndRead(t *testing.T) {
	p := ledBy1(t, 1)
	if res := produce(t, p, 3); res.FirstOffset != 0 || res.LastOffset != 2 {
		t.Fatal(res)
	}
	if res := produce(t, p, 2); res.FirstOffset != 3 || res.LastOffset != 4 {
		t.Fatal(res)
	}
	got, res := consume(t, p, from(0))
	if !slices.Equal(got, []int64{0, 1, 2, 3, 4}) {
		t.Fatal(got)
	}
	if res.HighWatermark != 5 || res.LastStableOffset != 5 || res.LogStartOffset != 0 || res.PreferredReplica != -1 || res.Diverging != nil {
		t.Fatalf("%+v", res)
	}
	for _, bad := range []int64{-1, 6} {
		if _, err := p.Read(from(bad)); !errors.Is(err, kerr.OffsetOutOfRange) {
			t.Errorf("offset %d: %v", bad, err)
		}
	}
}

func TestAppendIsRefused(t *testing.T) {
	leads := ledBy1(t, 1, 2, 3)
	leads.setMinISR(2)
	if _, err := leads.assign(assignment{leader: 1, leaderEpoch: 1, partitionEpoch: 2, replicas: []int32{1, 2, 3}, isr: []int32{1}}); err != nil {
		t.Fatal(err)
	}
	follows := ledBy1(t, 1, 2)
	mustAssign(t, follows, 2, 2, 1, 2)
	gone := ledBy1(t, 1)
	gone.retire(kerr.UnknownTopicOrPartition)
	internal := ledBy1(t, 1)
	internal.internal = true
	for _, c := range []struct {
		name string
		p    *Partition
		o    AppendOptions
		want error
	}{
		{"ISR too small", leads, AppendOptions{Acks: -1}, kerr.NotEnoughReplicas},
		{"ISR too small, acks=1", leads, AppendOptions{Acks: 1}, nil},
		{"follower", follows, AppendOptions{Acks: 1}, kerr.NotLeaderForPartition},
		{"deleted", gone, AppendOptions{Acks: 1}, kerr.UnknownTopicOrPartition},
		{"client to internal topic", internal, AppendOptions{Acks: 1}, kerr.InvalidTopicException},
		{"admin client to internal topic", internal, AppendOptions{Acks: 1, AllowInternal: true}, nil},
		{"coordinator", internal, AppendOptions{Acks: -1, Origin: storage.Coordinator, LeaderEpoch: 1, CheckLeaderEpoch: true}, nil},
		{"coordinator of an older epoch", internal, AppendOptions{Acks: -1, Origin: storage.Coordinator, LeaderEpoch: 0, CheckLeaderEpoch: true}, kerr.NotLeaderForPartition},
	} {
		_, err := c.p.Append(batchOf(1, "v"), c.o)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// As Kafka: with one replica min.insync.replicas=2 asks for one.
func TestMinISRIsBoundedByReplicas(t *testing.T) {
	p := ledBy1(t, 1)
	p.setMinISR(2)
	if _, err := p.Append(batchOf(1, "v"), AppendOptions{Acks: -1}); err != nil {
		t.Fatal(err)
	}
}

func TestBatchesAreStampedWithTheLeaderEpoch(t *testing.T) {
	p := ledBy1(t, 1)
	produce(t, p, 1)
	mustAssign(t, p, 1, 6, 1)
	produce(t, p, 1)
	data, next, err := p.ReadBytes(nil, 0, 1<<20)
	if err != nil || next != 2 {
		t.Fatal(next, err)
	}
	var epochs []int32
	for len(data) > 0 {
		var b protocol.Batch
		if b, data, err = protocol.NextBatch(data); err != nil {
			t.Fatal(err)
		}
		epochs = append(epochs, b.LeaderEpoch())
	}
	if !slices.Equal(epochs, []int32{1, 6}) {
		t.Fatal(epochs)
	}
}

func TestEpochsOfReaders(t *testing.T) {
	p := ledBy1(t, 1)
	produce(t, p, 3) // epoch 1: 0..2
	mustAssign(t, p, 1, 4, 1)
	// The epoch begins in the log at once, without a record.
	if got, err := p.EpochEnd(-1, 4); err != nil || got != (EpochEnd{4, 3}) {
		t.Fatal(got, err)
	}
	produce(t, p, 2) // epoch 4: 3..4
	for _, c := range []struct {
		current, asked int32
		want           EpochEnd
		err            error
	}{
		{-1, 1, EpochEnd{1, 3}, nil},
		{-1, 2, EpochEnd{1, 3}, nil},
		{-1, 4, EpochEnd{4, 5}, nil},
		{-1, 5, noEpochEnd, nil},
		{-1, -1, noEpochEnd, nil},
		{4, 1, EpochEnd{1, 3}, nil},
		{1, 1, noEpochEnd, kerr.FencedLeaderEpoch},
		{5, 1, noEpochEnd, kerr.UnknownLeaderEpoch},
	} {
		if got, err := p.EpochEnd(c.current, c.asked); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("current %d, end of %d: %v %v, want %v %v", c.current, c.asked, got, err, c.want, c.err)
		}
	}
	for _, c := range []struct {
		offset        int64
		current, last int32
		diverging     *EpochEnd
		err           error
	}{
		{3, 4, 1, nil, nil},
		{5, 4, 4, nil, nil},
		{4, 4, 1, &EpochEnd{1, 3}, nil},          // epoch 1 ended at 3
		{4, 4, 3, &EpochEnd{1, 3}, nil},          // there was no epoch 3
		{4, 4, 5, nil, kerr.OffsetOutOfRange},    // nor can its end be known
		{0, 1, -1, nil, kerr.FencedLeaderEpoch},  // an older metadata
		{0, 5, -1, nil, kerr.UnknownLeaderEpoch}, // a newer one
	} {
		o := from(c.offset)
		o.CurrentLeaderEpoch, o.LastFetchedEpoch = c.current, c.last
		res, err := p.Read(o)
		if !errors.Is(err, c.err) || (res.Diverging == nil) != (c.diverging == nil) || res.Diverging != nil && *res.Diverging != *c.diverging {
			t.Errorf("offset %d, epoch %d, last %d: %v %v, want %v %v", c.offset, c.current, c.last, res.Diverging, err, c.diverging, c.err)
		}
		if res.Diverging != nil && res.Slice.Len != 0 {
			t.Error("a diverging reader gets no records")
		}
		res.Slice.Release()
	}
}

func TestReadersSeeUpToTheirBound(t *testing.T) {
	p := ledBy1(t, 1, 2)
	produce(t, p, 1)
	produce(t, p, 1)
	if got, res := consume(t, p, from(0)); len(got) != 0 || res.HighWatermark != 0 || res.LogEndOffset != 2 {
		t.Fatalf("%v %+v: nothing is committed", got, res)
	}
	follower := from(0)
	follower.ReplicaID = 2
	res, err := p.Read(follower)
	if err != nil || res.Slice.Len == 0 || res.Slice.UpTo != 2 {
		t.Fatalf("%+v %v", res, err)
	}
	res.Slice.Release()
	follower.Offset = 1
	if res, err = p.Read(follower); err != nil {
		t.Fatal(err)
	}
	res.Slice.Release()
	if got, _ := consume(t, p, from(0)); !slices.Equal(got, []int64{0}) {
		t.Fatalf("%v: the follower has one record", got)
	}
	// Kafka: a consumer between the watermark and the end gets nothing, not an error.
	if got, _ := consume(t, p, from(2)); len(got) != 0 {
		t.Fatal(got)
	}
}

func TestDivergingFetchIsNoProgress(t *testing.T) {
	p := ledBy1(t, 1, 2)
	produce(t, p, 3)
	mustAssign(t, p, 1, 5, 1, 2)
	produce(t, p, 3)
	o := from(5)
	o.ReplicaID, o.CurrentLeaderEpoch, o.LastFetchedEpoch = 2, 5, 1
	res, err := p.Read(o)
	if err != nil || res.Diverging == nil || *res.Diverging != (EpochEnd{1, 3}) {
		t.Fatalf("%+v %v", res, err)
	}
	if p.followers[0].LogEnd != Unknown || p.highWatermark() != 0 {
		t.Fatal("counted as progress")
	}
}

func TestFetchOfAnUnassignedReplica(t *testing.T) {
	p := ledBy1(t, 1, 2)
	o := from(0)
	o.ReplicaID = 3
	if _, err := p.Read(o); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Error(err)
	}
	o.CurrentLeaderEpoch = 1
	if _, err := p.Read(o); !errors.Is(err, kerr.UnknownLeaderEpoch) {
		t.Error(err)
	}
}

func TestReadFromFollower(t *testing.T) {
	p := ledBy1(t, 1, 2)
	mustAssign(t, p, 2, 2, 1, 2)
	if _, err := p.Read(from(0)); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Error(err)
	}
	o := from(0)
	o.AllowFollower = true
	if _, err := p.Read(o); err != nil {
		t.Error(err)
	}
	o.ReplicaID = 2 // replicas read from the leader only
	if _, err := p.Read(o); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Error(err)
	}
}

// transactional is a batch of an open transaction.
func transactional(id int64, seq int32, n int) []byte {
	return producerBatch(protocol.BatchParams{Transactional: true, Producer: &protocol.Producer{ID: id, Epoch: 0, BaseSequence: seq}}, n, "x")
}

func endTxn(tb testing.TB, p *Partition, id int64, typ protocol.ControlType) {
	tb.Helper()
	marker := protocol.AppendControlBatch(nil, protocol.ControlParams{ProducerID: id, ProducerEpoch: 0, Type: typ, CoordinatorEpoch: 0, TimestampMs: 1})
	if _, err := p.Append(marker, AppendOptions{Acks: -1, Origin: storage.Coordinator}); err != nil {
		tb.Fatal(err)
	}
}

func TestReadCommitted(t *testing.T) {
	p := ledBy1(t, 1)
	w := NewWatcher()
	w.Watch(p, BoundLastStable, nil)
	w.TakeReady(nil)

	produce(t, p, 1) // 0
	if len(w.TakeReady(nil)) != 1 {
		t.Fatal("not ready after a plain append")
	}
	if _, err := p.Append(transactional(9, 0, 2), AppendOptions{Acks: -1}); err != nil { // 1, 2
		t.Fatal(err)
	}
	produce(t, p, 1) // 3
	committed := from(0)
	committed.Isolation = 1
	if got, res := consume(t, p, committed); !slices.Equal(got, []int64{0}) || res.LastStableOffset != 1 || res.HighWatermark != 4 {
		t.Fatalf("%v %+v", got, res)
	}
	w.TakeReady(nil)
	endTxn(t, p, 9, protocol.ControlAbort) // 4
	if w.bytes == 0 && !w.urgent {
		t.Fatal("the end of the transaction made records visible: a lost wake-up")
	}
	got, res := consume(t, p, committed)
	if !slices.Equal(got, []int64{0, 1, 2, 3, 4}) || res.LastStableOffset != 5 {
		t.Fatalf("%v %+v", got, res)
	}
	committed.Offset = 1
	res, err := p.Read(committed)
	if err != nil || !slices.Equal(res.Aborted, []storage.AbortedTxn{{ProducerID: 9, FirstOffset: 1}}) {
		t.Fatalf("%+v %v", res.Aborted, err)
	}
	res.Slice.Release()
	if res, err = p.Read(from(1)); err != nil || res.Aborted != nil {
		t.Fatal("read_uncommitted is told of aborted transactions")
	}
	res.Slice.Release()
	active, err := p.ActiveProducers()
	if err != nil || len(active) != 1 || active[0].ProducerID != 9 || active[0].TxnStartOffset != -1 {
		t.Fatalf("%+v %v", active, err)
	}
}

func TestDuplicateMovesNothing(t *testing.T) {
	p := ledBy1(t, 1)
	batch := func() []byte {
		return producerBatch(protocol.BatchParams{Producer: &protocol.Producer{ID: 4}}, 3, "v")
	}
	first, err := p.Append(batch(), AppendOptions{Acks: -1})
	if err != nil {
		t.Fatal(err)
	}
	produce(t, p, 1)
	again, err := p.Append(batch(), AppendOptions{Acks: -1})
	if err != nil || !again.Duplicate || again.FirstOffset != first.FirstOffset || again.LastOffset != first.LastOffset {
		t.Fatalf("%+v %v, want as %+v", again, err, first)
	}
	if s := p.Snapshot(); s.LogEnd != 4 || s.HighWatermark != 4 {
		t.Fatalf("%+v", s)
	}
}

// KIP-207: a new leader that does not know how far its predecessor committed
// must not answer with an offset lower than one told before.
func TestListOffsetWhileTheWatermarkLags(t *testing.T) {
	p := ledBy1(t, 1, 2)
	produce(t, p, 5)
	mustAssign(t, p, 1, 2, 1, 2)
	consumer := ListOptions{ReplicaID: -1, CurrentLeaderEpoch: -1}
	if _, err := p.ListOffset(TimestampLatest, consumer); !errors.Is(err, kerr.OffsetNotAvailable) {
		t.Error(err)
	}
	if _, err := p.ListOffset(0, consumer); !errors.Is(err, kerr.OffsetNotAvailable) {
		t.Error("the first record is beyond the watermark:", err)
	}
	if got, err := p.ListOffset(TimestampEarliest, consumer); err != nil || got != (ListedOffset{-1, 0, 1}) {
		t.Error(got, err)
	}
	if got, err := p.ListOffset(TimestampLatest, ListOptions{ReplicaID: 2, CurrentLeaderEpoch: -1}); err != nil || got.Offset != 5 {
		t.Error("a replica asks for the log end:", got, err)
	}
	if err := follow(p, 2, 5); err != nil {
		t.Fatal(err)
	}
	if got, err := p.ListOffset(TimestampLatest, consumer); err != nil || got != (ListedOffset{-1, 5, 2}) {
		t.Error(got, err)
	}
}

func TestAssignIgnoresReplays(t *testing.T) {
	p := ledBy1(t, 1, 2)
	mustAssign(t, p, 1, 5, 1, 2)
	changed, err := p.assign(assignment{leader: 2, leaderEpoch: 3, partitionEpoch: 3, replicas: []int32{1, 2}, isr: []int32{2}})
	if err != nil || changed || !p.Snapshot().IsLeader {
		t.Fatal("an older assignment took effect")
	}
}

func TestFollowersAreForgottenWithTheEpoch(t *testing.T) {
	p := ledBy1(t, 1, 2)
	produce(t, p, 1)
	if err := follow(p, 2, 1); err != nil {
		t.Fatal(err)
	}
	// The ISR changes: what is known of the follower stands.
	if _, err := p.assign(assignment{leader: 1, leaderEpoch: 1, partitionEpoch: 2, replicas: []int32{1, 2, 3}, isr: []int32{1, 2}}); err != nil {
		t.Fatal(err)
	}
	if p.followers[0].LogEnd != 1 || p.followers[1].LogEnd != Unknown {
		t.Fatalf("%+v", p.followers)
	}
	// A new epoch: it may have truncated since.
	mustAssign(t, p, 1, 2, 1, 2, 3)
	if p.followers[0].LogEnd != Unknown {
		t.Fatalf("%+v", p.followers)
	}
}

// Snapshots beside appends keep logStart <= LSO <= HW <= LEO (P17), and neither
// HW nor LEO goes back.
func TestSnapshotsKeepTheirOrder(t *testing.T) {
	p := ledBy1(t, 1)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			var last Snapshot
			for {
				s := p.Snapshot()
				if s.LogStart > s.LastStable || s.LastStable > s.HighWatermark || s.HighWatermark > s.LogEnd {
					t.Errorf("out of order: %+v", s)
				}
				if s.HighWatermark < last.HighWatermark || s.LogEnd < last.LogEnd {
					t.Errorf("went back: %+v after %+v", s, last)
				}
				last = s
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	var producers sync.WaitGroup
	for range 2 {
		producers.Go(func() {
			for i := range 200 {
				produce(t, p, 2)
				if i%20 == 0 {
					if _, err := p.DeleteRecords(DeleteToHighWatermark); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	producers.Wait()
	close(stop)
	wg.Wait()
	if s := p.Snapshot(); s.HighWatermark != 800 || s.LogEnd != 800 {
		t.Errorf("%+v", s)
	}
}

// Appends, epochs and offsets as a client sees them, against a model: every
// acknowledged record is at its offset, with the epoch in which it was
// acknowledged, and epochs answer where they ended.
func TestPartitionAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := ledBy1(t, 1)
		var model epochLog
		epoch := int32(1)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				n := rapid.IntRange(1, 5).Draw(rt, "n")
				res := produce(t, p, n)
				if res.FirstOffset != int64(len(model)) || res.LastOffset != int64(len(model)+n-1) {
					rt.Fatalf("%+v, want from %d", res, len(model))
				}
				for range n {
					model = append(model, epoch)
				}
			},
			"new epoch": func(rt *rapid.T) {
				epoch += rapid.Int32Range(1, 3).Draw(rt, "by")
				mustAssign(t, p, 1, epoch, 1)
			},
			"": func(rt *rapid.T) {
				s := p.Snapshot()
				if s.LogEnd != int64(len(model)) || s.HighWatermark != s.LogEnd || s.LeaderEpoch != epoch {
					rt.Fatalf("%+v, want %d in epoch %d", s, len(model), epoch)
				}
				asked := rapid.Int32Range(1, epoch).Draw(rt, "asked")
				got, err := p.EpochEnd(-1, asked)
				if err != nil {
					rt.Fatal(err)
				}
				want := int64(0)
				for _, e := range model {
					if e <= asked {
						want++
					}
				}
				if got.Epoch > asked || got.EndOffset != want {
					rt.Fatalf("end of epoch %d: %+v, want %d", asked, got, want)
				}
			},
		})
	})
}
