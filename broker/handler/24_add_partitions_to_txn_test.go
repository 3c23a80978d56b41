package handler_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
)

// oneShard is a transaction coordinator of one shard, without a log and without
// timers.
type oneShard struct {
	mu      sync.Mutex
	s       *txn.Shard
	tickets runtime.Ticket
	waiting map[runtime.Ticket]chan any
	effects []any
	// parked gets a value for each call that has to wait.
	parked chan struct{}
}

func newOneShard() *oneShard {
	return &oneShard{waiting: make(map[runtime.Ticket]chan any), parked: make(chan struct{}, 10), s: txn.NewShard(&txn.Config{
		MaxTimeout: time.Hour, IDExpiration: time.Hour, TimeoutInterval: time.Hour, ExpirationInterval: time.Hour,
		MaxRecordBytes: 1 << 20, Version: func() int16 { return txn.V2 },
	}, func() error { return nil })}
}

func (o *oneShard) Partitions() map[int32]bool { return map[int32]bool{0: true} }

func (o *oneShard) Call(ctx context.Context, _ int32, h runtime.Handler[*txn.Shard]) (any, error) {
	answer, err := o.start(h)
	if err != nil {
		return nil, err
	}
	select {
	case v := <-answer:
		return v, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (o *oneShard) start(h runtime.Handler[*txn.Shard]) (<-chan any, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tickets++
	answer := make(chan any, 1)
	o.waiting[o.tickets] = answer
	r := h(o.s, time.Now(), o.tickets)
	for _, rec := range r.Records {
		if err := o.s.Replay(0, nil, rec); err != nil {
			return nil, err
		}
	}
	o.effects = append(o.effects, r.Effects...)
	for _, reply := range r.Replies {
		o.waiting[reply.Ticket] <- reply.Response
		delete(o.waiting, reply.Ticket)
	}
	if len(answer) == 0 {
		o.parked <- struct{}{}
	}
	return answer, nil
}

// A broker that adds a partition for a producer of transaction version 2 waits for
// the transaction before, as the coordinator's own broker does: the producer goes on
// right after EndTxn, while markers are under way.
func TestBrokersWaitForTheTransactionBefore(t *testing.T) {
	l := newLab(t)
	l.create("t", 1, nil)
	l.create(handler.TransactionsTopic, 1, nil)
	o := newOneShard()
	l.Transactions = o

	id := "x"
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis = &id, 60_000
	producer := ask[*kmsg.InitProducerIDResponse](l, init, 5)
	add := func(epoch int16) int16 {
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.Transactions = []kmsg.AddPartitionsToTxnRequestTransaction{{
			TransactionalID: id, ProducerID: producer.ProducerID, ProducerEpoch: epoch,
			Topics: []kmsg.AddPartitionsToTxnRequestTransactionTopic{{Topic: "t", Partitions: []int32{0}}},
		}}
		return ask[*kmsg.AddPartitionsToTxnResponse](l, req, 5).Transactions[0].Topics[0].Partitions[0].ErrorCode
	}
	if code := add(producer.ProducerEpoch); code != 0 {
		t.Fatal(kerr.ErrorForCode(code))
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = id, producer.ProducerID, producer.ProducerEpoch, true
	ended := ask[*kmsg.EndTxnResponse](l, end, 5)
	if ended.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(ended.ErrorCode))
	}
	answer := make(chan int16, 1)
	go func() { answer <- add(ended.ProducerEpoch) }()
	select {
	case <-o.parked:
	case code := <-answer:
		t.Fatalf("answered while the markers are under way: %v", kerr.ErrorForCode(code))
	}
	m := o.effects[0].(txn.SendMarkers)
	if _, err := o.start(func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.Complete(now, t, txn.Completion{
			TransactionalID: id, ProducerID: m.ProducerID, Epoch: m.Epoch, Commit: true, DecidedMs: m.DecidedMs,
		})
	}); err != nil {
		t.Fatal(err)
	}
	if code := <-answer; code != 0 {
		t.Fatalf("after the completion: %v", kerr.ErrorForCode(code))
	}
}
