package handler

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
)

// hangingPeers tell who is asked and answer nobody.
type hangingPeers struct{ asked chan int32 }

func (p hangingPeers) Request(ctx context.Context, node int32, _ kmsg.Request) (kmsg.Response, error) {
	select {
	case p.asked <- node:
	case <-ctx.Done():
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

type noTransactions struct{}

func (noTransactions) Call(context.Context, int32, runtime.Handler[*txn.Shard]) (any, error) {
	return nil, errors.New("nothing is to be completed")
}

func (noTransactions) Partitions() map[int32]bool { return nil }

// A leader that hangs keeps the markers from no other.
func TestMarkersForAllLeadersAtOnce(t *testing.T) {
	b := newTestBroker(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	other, err := controller.New(controller.Options{
		Store: b.store, NodeID: 2, Log: zerolog.Nop(),
		Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "other", Port: 9092, Security: "PLAINTEXT"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	b.await(ctx, t, func(img *metadata.Image) bool { return img.Broker(2) != nil && !img.Broker(2).Fenced })
	b.create(t, newTopic("t", 2, 1))
	b.create(t, newTopic(TransactionsTopic, 1, 1))

	peers := hangingPeers{make(chan int32)}
	m := NewMarkers(MarkersOptions{
		NodeID: 9, Image: b.Cluster.Image, Transactions: noTransactions{}, Peers: peers,
		Now: time.Now, Log: zerolog.Nop(), Timeout: time.Minute,
	})
	defer m.Close()
	m.Send(0, 0, txn.SendMarkers{
		TransactionalID: "x", ProducerID: 7, Epoch: 1, Version: txn.V2,
		Partitions: []txn.TopicPartition{{Topic: "t", Partition: 0}, {Topic: "t", Partition: 1}},
	})
	asked := map[int32]bool{}
	for range 2 {
		select {
		case node := <-peers.asked:
			asked[node] = true
		case <-ctx.Done():
			t.Fatalf("only %v are asked while they hang", asked)
		}
	}
	if !asked[1] || !asked[2] {
		t.Fatalf("asked are %v", asked)
	}
}

// completedTransactions tells of each transaction that is completed.
type completedTransactions struct {
	noTransactions
	completed chan struct{}
}

func (c completedTransactions) Call(context.Context, int32, runtime.Handler[*txn.Shard]) (any, error) {
	c.completed <- struct{}{}
	return nil, nil
}

// TestNoMarkersForCoordinatorsLogs: an older version let partitions of the coordinator's
// own topic into transactions, and may lead them: a marker would end that coordinator.
func TestNoMarkersForCoordinatorsLogs(t *testing.T) {
	b := newTestBroker(t)
	b.create(t, newTopic(TransactionsTopic, 1, 1))
	peers := hangingPeers{make(chan int32)}
	txns := completedTransactions{completed: make(chan struct{})}
	m := NewMarkers(MarkersOptions{
		NodeID: 9, Image: b.Cluster.Image, Transactions: txns, Peers: peers,
		Now: time.Now, Log: zerolog.Nop(), Timeout: time.Minute,
	})
	defer m.Close()
	m.Send(0, 0, txn.SendMarkers{
		TransactionalID: "x", ProducerID: 7, Epoch: 1, Version: txn.V2,
		Partitions: []txn.TopicPartition{{Topic: TransactionsTopic, Partition: 0}},
	})
	select {
	case node := <-peers.asked:
		t.Errorf("node %d is asked to write it", node)
	case <-txns.completed:
	}
}
