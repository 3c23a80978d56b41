package handler_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// groupLog is a partition of __consumer_offsets under the group coordinator.
type groupLog struct{ p *replication.Partition }

func (g groupLog) Append(b runtime.Batch) (int64, error) {
	o := replication.AppendOptions{Acks: -1, Origin: storage.Coordinator, Now: b.Timestamp}
	var bytes []byte
	if m := b.Marker; m != nil {
		o.TxnVersion = m.Version
		bytes = protocol.AppendControlBatch(nil, protocol.ControlParams{
			ProducerID: m.Producer.ID, ProducerEpoch: m.Producer.Epoch, Type: protocol.ControlCommit, CoordinatorEpoch: m.CoordinatorEpoch,
		})
	} else {
		params := protocol.BatchParams{}
		if b.Producer != nil {
			params.Transactional = true
			params.Producer = &protocol.Producer{ID: b.Producer.ID, Epoch: b.Producer.Epoch, BaseSequence: -1}
		}
		var records []protocol.Record
		for i, r := range b.Records {
			records = append(records, protocol.Record{OffsetDelta: int32(i), Key: r.Key, Value: r.Value})
		}
		bytes = protocol.AppendBatch(nil, params, records)
	}
	res, err := g.p.Append(bytes, o)
	return res.FirstOffset, err
}

func (g groupLog) Writable() error    { return g.p.Writable() }
func (g groupLog) MaxBatchBytes() int { return 1 << 20 }

func (g groupLog) Read(offset int64, maxBytes int, buf []byte) ([]byte, error) {
	out, _, err := g.p.ReadBytes(buf, offset, maxBytes)
	return out, err
}

func (g groupLog) Bounds() (start, highWatermark, end int64, err error) {
	s := g.p.Snapshot()
	return s.LogStart, s.HighWatermark, s.LogEnd, s.Err
}

func (g groupLog) OnHighWatermark(fn func(int64)) func() { return g.p.OnHighWatermark(fn) }

// coordinateGroups makes the lab the coordinator of all groups.
func (l *lab) coordinateGroups() *runtime.Runtime[*group.Shard] {
	l.t.Helper()
	cfg := &group.Config{OffsetMetadataMax: 4096, OffsetsRetention: time.Hour, OffsetsCheckInterval: time.Hour}
	r, err := runtime.New(runtime.Options[*group.Shard]{
		Name: "group", Now: time.Now, Log: zerolog.Nop(), LoadBufferBytes: 1 << 16, OnEffect: func(int32, int32, any) {},
		NewShard: func(_ int32, writable func() error) *group.Shard {
			return group.NewShard(cfg, func() string { return "member" }, func() *metadata.Image { return l.controller.Image() }, writable)
		},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	r.Elected(0, 0, groupLog{l.partition(handler.OffsetsTopic, 0)})
	l.Groups = r
	return r
}

// holdUp keeps the group coordinator busy until the returned function is called, so
// that what is asked of it meanwhile is handled in one round.
func holdUp(r *runtime.Runtime[*group.Shard]) (letGo func()) {
	hold := make(chan struct{})
	go func() {
		_, _ = r.Call(context.Background(), 0, func(_ *group.Shard, _ time.Time, t runtime.Ticket) runtime.Result {
			<-hold
			return runtime.Result{Replies: []runtime.Reply{{Ticket: t}}}
		})
	}()
	synctest.Wait()
	return func() { close(hold) }
}

// offsetsLab is a lab with a transactional producer that commits offsets of t.
type offsetsLab struct {
	*lab
	groups  *runtime.Runtime[*group.Shard]
	txns    *oneShard
	markers *handler.Markers
	id      int64
	epoch   int16
}

func newOffsetsLab(l *lab) *offsetsLab {
	l.t.Helper()
	o := &offsetsLab{lab: l, groups: l.coordinateGroups(), txns: newOneShard()}
	synctest.Wait() // until it is loaded
	l.Transactions = o.txns
	o.markers = handler.NewMarkers(handler.MarkersOptions{
		NodeID: 1, Image: l.controller.Image, Partitions: l.partitions, Groups: o.groups, Transactions: o.txns,
		Now: time.Now, Log: zerolog.Nop(), Timeout: time.Second,
	})
	id := "x"
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = &id, 60_000
	resp := ask[*kmsg.InitProducerIDResponse](l, req, 5)
	o.id, o.epoch = resp.ProducerID, resp.ProducerEpoch
	return o
}

// commit commits an offset in the producer's transaction.
func (o *offsetsLab) commit() int16 {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = "x", "g", o.id, o.epoch, -1
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Offset = 5
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{p}}}
	return ask[*kmsg.TxnOffsetCommitResponse](o.lab, req, 5).Topics[0].Partitions[0].ErrorCode
}

// end commits the producer's transaction and returns what its markers are.
func (o *offsetsLab) end() txn.SendMarkers {
	o.t.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = "x", o.id, o.epoch, true
	resp := ask[*kmsg.EndTxnResponse](o.lab, req, 5)
	if resp.ErrorCode != 0 {
		o.t.Fatal(kerr.ErrorForCode(resp.ErrorCode))
	}
	o.id, o.epoch = resp.ProducerID, resp.ProducerEpoch
	return o.txns.effects[len(o.txns.effects)-1].(txn.SendMarkers)
}

func (o *offsetsLab) mark(m txn.SendMarkers) error {
	return o.markers.Write(context.Background(), runtime.Marker{
		Producer: runtime.Producer{ID: m.ProducerID, Epoch: m.Epoch}, Commit: m.Commit, Version: m.Version,
	}, m.Partitions)[0]
}

// beside runs f and waits until it has asked the coordinator.
func beside[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	synctest.Wait()
	return c
}

func inBubble(t *testing.T, test func(o *offsetsLab)) {
	l := newLab(t)
	l.create("t", 1, nil)
	l.create(handler.OffsetsTopic, 1, nil)
	l.create(handler.TransactionsTopic, 1, nil)
	synctest.Test(t, func(*testing.T) {
		o := newOffsetsLab(l)
		defer o.groups.Close()
		defer o.markers.Close()
		test(o)
	})
}

// uncommitted is a coordinator whose log cannot commit what is written to it.
type uncommitted[S runtime.Shard] struct{}

func (uncommitted[S]) Call(ctx context.Context, _ int32, _ runtime.Handler[S]) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (uncommitted[S]) Partitions() map[int32]bool { return map[int32]bool{0: true} }

// While the replicas of a coordinator's log do not follow, nobody is kept waiting for
// longer than request.timeout.ms.
func TestTransactionsThatAreNotCommitted(t *testing.T) {
	inBubble(t, func(o *offsetsLab) {
		o.Transactions = uncommitted[*txn.Shard]{}
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = "x", o.id, o.epoch
		began := time.Now()
		resp := ask[*kmsg.EndTxnResponse](o.lab, req, 5)
		if took := time.Since(began); resp.ErrorCode != kerr.CoordinatorNotAvailable.Code || took != 30*time.Second {
			t.Errorf("after %v: %v", took, kerr.ErrorForCode(resp.ErrorCode))
		}
	})
}

func TestMarkersOfOffsetsThatAreNotCommitted(t *testing.T) {
	inBubble(t, func(o *offsetsLab) {
		m := handler.NewMarkers(handler.MarkersOptions{
			NodeID: 1, Image: o.controller.Image, Partitions: o.partitions, Groups: uncommitted[*group.Shard]{}, Transactions: o.txns,
			Now: time.Now, Log: zerolog.Nop(), Timeout: time.Second,
		})
		defer m.Close()
		o.Markers = m
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		marker := kmsg.NewWriteTxnMarkersRequestMarker()
		marker.ProducerID = o.id
		marker.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{
			{Topic: handler.OffsetsTopic, Partitions: []int32{0}}, {Topic: "t", Partitions: []int32{0}},
		}
		req.Markers = append(req.Markers, marker)
		topics := ask[*kmsg.WriteTxnMarkersResponse](o.lab, req, 2).Markers[0].Topics
		if code := topics[0].Partitions[0].ErrorCode; code != kerr.RequestTimedOut.Code {
			t.Errorf("offsets: %v", kerr.ErrorForCode(code))
		}
		if code := topics[1].Partitions[0].ErrorCode; code != 0 {
			t.Errorf("another partition: %v", kerr.ErrorForCode(code))
		}
	})
}

// A marker that is sent again may reach the group coordinator with the first.
func TestMarkerTwiceInOneRound(t *testing.T) {
	inBubble(t, func(o *offsetsLab) {
		letGo := holdUp(o.groups)
		committed := beside(o.commit)
		letGo()
		if code := <-committed; code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
		m := o.end()
		letGo = holdUp(o.groups)
		first, again := beside(func() error { return o.mark(m) }), beside(func() error { return o.mark(m) })
		letGo()
		if err := errors.Join(<-first, <-again); err != nil {
			t.Fatal(err)
		}
	})
}

// A marker that comes late, in one round with the first offsets of the producer's
// next transaction, is refused alone: it ends nothing, and those offsets are in the
// transaction.
func TestLateMarkerInARoundWithTheNextTransaction(t *testing.T) {
	inBubble(t, func(o *offsetsLab) {
		if code := o.commit(); code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
		m := o.end()
		if err := o.mark(m); err != nil {
			t.Fatal(err)
		}
		if _, err := o.txns.start(func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
			return s.Complete(now, t, txn.Completion{TransactionalID: "x", ProducerID: m.ProducerID, Epoch: m.Epoch, Commit: true, DecidedMs: m.DecidedMs})
		}); err != nil {
			t.Fatal(err)
		}
		letGo := holdUp(o.groups)
		committed := beside(o.commit)
		late := beside(func() error { return o.mark(m) })
		letGo()
		if code := <-committed; code != 0 {
			t.Errorf("the offsets of the next transaction: %v", kerr.ErrorForCode(code))
		}
		if err := <-late; !errors.Is(err, kerr.InvalidProducerEpoch) {
			t.Errorf("the late marker: %v", err)
		}
		if err := o.mark(o.end()); err != nil {
			t.Error(err)
		}
	})
}
