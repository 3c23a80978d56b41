package handler_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
)

// pair is a cluster of two: node 1 decides, and node 2 may be held back so that it
// does not learn of that.
type pair struct {
	t           *testing.T
	first, late *lab
	// hold is full while node 2 applies no metadata.
	hold chan struct{}
	// answers are what brokers answered each other.
	answers chan kmsg.Response
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, hold: make(chan struct{}, 1), answers: make(chan kmsg.Response, 100)}
	store := labStore(t)
	endpoints := func(host string) []metadata.Endpoint {
		return []metadata.Endpoint{{Listener: "PLAINTEXT", Host: host, Port: 9092, Security: "PLAINTEXT"}}
	}
	p.first = labOf(t, store, controller.Options{NodeID: 1, Endpoints: endpoints("one")}, func(apply controller.Subscriber) controller.Subscriber {
		return apply
	})
	p.late = labOf(t, store, controller.Options{NodeID: 2, Endpoints: endpoints("two")}, func(apply controller.Subscriber) controller.Subscriber {
		return func(delta *metadata.Delta, img *metadata.Image) {
			p.hold <- struct{}{}
			<-p.hold
			apply(delta, img)
		}
	})
	p.first.Peers, p.late.Peers = p, p
	for _, l := range []*lab{p.first, p.late} {
		p.await(l, func(img *metadata.Image) bool {
			return img.Broker(1) != nil && !img.Broker(1).Fenced && img.Broker(2) != nil && !img.Broker(2).Fenced
		})
	}
	return p
}

func (p *pair) await(l *lab, is func(*metadata.Image) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	if err := l.controller.Await(ctx, is); err != nil {
		p.t.Fatal(err)
	}
}

// Request asks one of the two, over the wire's bytes both ways.
func (p *pair) Request(ctx context.Context, node int32, req kmsg.Request) (kmsg.Response, error) {
	l := p.first
	if node == 2 {
		l = p.late
	}
	resp, err := l.answer(ctx, req)
	if err != nil {
		return nil, err
	}
	p.answers <- resp
	return resp, nil
}

// create makes a topic of one partition on a node.
func (p *pair) create(name string, node int32) {
	p.t.Helper()
	topics := []metadata.NewTopic{{
		Name: name, Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{node}}},
	}}
	for _, r := range p.first.controller.CreateTopics(p.t.Context(), topics, false) {
		if r.Err != nil {
			p.t.Fatal(r.Err, r.Message)
		}
	}
}

// createAgain deletes a topic and creates another of its name, of which the late
// node does not learn until letGo.
func (p *pair) createAgain(name string, node int32) (letGo func()) {
	p.t.Helper()
	p.hold <- struct{}{}
	for _, r := range p.first.controller.DeleteTopics(p.t.Context(), []metadata.TopicRef{{Name: name}}) {
		if r.Err != nil {
			p.t.Fatal(r.Err, r.Message)
		}
	}
	p.create(name, node)
	return func() {
		<-p.hold
		p.sync(name)
	}
}

// sync waits until both know the same topic of a name.
func (p *pair) sync(name string) {
	p.t.Helper()
	p.await(p.late, func(img *metadata.Image) bool {
		return img.Topic(name) != nil && img.Topic(name).ID == p.first.controller.Image().Topic(name).ID
	})
}

func (p *pair) markersOf(l *lab, txns handler.Transactions) *handler.Markers {
	m := handler.NewMarkers(handler.MarkersOptions{
		NodeID: l.NodeID, Image: l.controller.Image, Partitions: l.partitions, Transactions: txns, Peers: p,
		Now: time.Now, Log: zerolog.Nop(), Timeout: time.Minute,
	})
	p.t.Cleanup(m.Close)
	l.Markers = m
	return m
}

// A topic is deleted and created again while a transaction is open, and its
// coordinator does not know that yet. A broker that leads the new topic does not
// begin the transaction there before the coordinator knows what the name means now:
// it would send the marker to the topic of before, or none because that is deleted,
// and readers of committed records would wait at the new one for good.
func TestTransactionEntersATopicThatItsCoordinatorKnows(t *testing.T) {
	p := newPair(t)
	p.create(handler.TransactionsTopic, 2)
	p.create("t", 1)
	p.sync("t")
	txns := newOneShard()
	p.late.Transactions = txns
	producer := startProducer(p.late)
	if err := producer.produce(p.first); err != nil {
		t.Fatal(err)
	}
	letGo := p.createAgain("t", 1)
	if err := producer.produce(p.first); !kerr.IsRetriable(err) {
		t.Errorf("while the coordinator does not know the new topic: %v", err)
	}
	letGo()
	if err := producer.produce(p.first); err != nil {
		t.Fatal(err)
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = "x", producer.ID, producer.Epoch, true
	if resp := ask[*kmsg.EndTxnResponse](p.late, end, 5); resp.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(resp.ErrorCode))
	}
	p.markersOf(p.first, nil)
	p.markersOf(p.late, txns).Send(0, 0, txns.effects[0].(txn.SendMarkers))
	completed := make(chan int64, 1)
	stop := p.first.partition("t", 0).OnHighWatermark(func(mark int64) {
		if mark == 2 {
			completed <- mark
		}
	})
	defer stop()
	if s := p.first.partition("t", 0).Snapshot(); s.HighWatermark < 2 {
		<-completed
	}
	if s := p.first.partition("t", 0).Snapshot(); s.LastStable != 2 {
		t.Fatalf("the last stable offset is %d, of %d", s.LastStable, s.HighWatermark)
	}
}

// A partition can be found as soon as its log is open, before the image has it that
// the coordinator goes by, on the same broker.
func TestTransactionEntersATopicThatIsInTheImage(t *testing.T) {
	applied := make(chan string)
	var once sync.Once
	l := labOf(t, labStore(t), controller.Options{NodeID: 1, Exclusive: true}, func(apply controller.Subscriber) controller.Subscriber {
		return func(delta *metadata.Delta, img *metadata.Image) {
			apply(delta, img)
			if img.Topic("t") != nil {
				once.Do(func() {
					applied <- "before it is published"
					<-applied
				})
			}
		}
	})
	l.create(handler.TransactionsTopic, 1, nil)
	txns := newOneShard()
	l.Transactions = txns
	producer := startProducer(l)
	created := make(chan []metadata.TopicResult)
	go func() {
		created <- l.controller.CreateTopics(context.Background(), []metadata.NewTopic{{Name: "t", Partitions: 1, ReplicationFactor: 1}}, false)
	}()
	<-applied
	if err := producer.produce(l); !kerr.IsRetriable(err) {
		t.Errorf("before the image has the topic: %v", err)
	}
	applied <- "publish"
	if r := <-created; r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	if err := producer.produce(l); err != nil {
		t.Error(err)
	}
}

type transactionalProducer struct{ protocol.Producer }

// startProducer has a coordinator start a transactional producer "x".
func startProducer(coordinator *lab) transactionalProducer {
	coordinator.t.Helper()
	id := "x"
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = &id, 60_000
	resp := ask[*kmsg.InitProducerIDResponse](coordinator, req, 5)
	return transactionalProducer{protocol.Producer{ID: resp.ProducerID, Epoch: resp.ProducerEpoch}}
}

// produce writes the first record of a transaction to partition 0 of t.
func (p transactionalProducer) produce(leader *lab) error {
	leader.t.Helper()
	return p.produceTo(leader, "t")[0]
}

// produceTo writes the first record of a transaction to partition 0 of each topic.
func (p transactionalProducer) produceTo(leader *lab, topics ...string) (errs []error) {
	leader.t.Helper()
	id := "x"
	req := kmsg.NewPtrProduceRequest()
	req.TransactionID, req.Acks = &id, -1
	for _, topic := range topics {
		req.Topics = append(req.Topics, kmsg.ProduceRequestTopic{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{
			Records: protocol.AppendBatch(nil, protocol.BatchParams{
				BaseTimestamp: time.Now().UnixMilli(), Transactional: true, Producer: &p.Producer,
			}, []protocol.Record{{Value: []byte("v")}}),
		}}})
	}
	for _, rt := range ask[*kmsg.ProduceResponse](leader, req, 12).Topics {
		errs = append(errs, kerr.ErrorForCode(rt.Partitions[0].ErrorCode))
	}
	return errs
}

// A topic that the coordinator knows to be deleted, and the leader does not, takes the
// other topics of the request with it, but only for a moment.
func TestDeletedTopicDoesNotFailTheOthers(t *testing.T) {
	p := newPair(t)
	p.create(handler.TransactionsTopic, 1)
	p.create("t", 2)
	p.create("deleted", 2)
	p.sync("deleted")
	p.first.Transactions = newOneShard()
	producer := startProducer(p.first)
	p.hold <- struct{}{}
	for _, r := range p.first.controller.DeleteTopics(t.Context(), []metadata.TopicRef{{Name: "deleted"}}) {
		if r.Err != nil {
			t.Fatal(r.Err, r.Message)
		}
	}
	for i, err := range producer.produceTo(p.late, "t", "deleted") {
		if !kerr.IsRetriable(err) {
			t.Errorf("topic %d: %v", i, err)
		}
	}
	<-p.hold
	p.await(p.late, func(img *metadata.Image) bool { return img.Topic("deleted") == nil })
	errs := producer.produceTo(p.late, "t", "deleted")
	if errs[0] != nil || !errors.Is(errs[1], kerr.UnknownTopicOrPartition) {
		t.Errorf("when both know: %v", errs)
	}
}

// hungPeers answer nothing until who asks gives up.
type hungPeers struct{ asked chan struct{} }

func (h hungPeers) Request(ctx context.Context, _ int32, _ kmsg.Request) (kmsg.Response, error) {
	close(h.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A coordinator that hangs is given up when it coordinates no more.
func TestProducersLeaveACoordinatorThatHangs(t *testing.T) {
	p := newPair(t)
	p.create(handler.TransactionsTopic, 2)
	p.create("t", 1)
	p.sync("t")
	p.late.Transactions = newOneShard()
	producer := startProducer(p.late)
	hung := hungPeers{make(chan struct{})}
	p.first.Peers = hung
	answer := make(chan error, 1)
	go func() { answer <- producer.produce(p.first) }()
	<-hung.asked
	for _, r := range p.first.controller.DeleteTopics(t.Context(), []metadata.TopicRef{{Name: handler.TransactionsTopic}}) {
		if r.Err != nil {
			t.Fatal(r.Err, r.Message)
		}
	}
	select {
	case err := <-answer:
		if !kerr.IsRetriable(err) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second): // of the 30 that a request may take
		t.Error("still waits for what is no coordinator any more")
	}
}

// doneTransactions tells when a transaction is completed.
type doneTransactions struct{ done chan struct{} }

func (d doneTransactions) Call(context.Context, int32, runtime.Handler[*txn.Shard]) (any, error) {
	close(d.done)
	return nil, kerr.NotCoordinator // so that it is not asked again
}

func (d doneTransactions) Partitions() map[int32]bool { return nil }

// A leader that does not know yet that a topic was deleted and created again does not
// take a marker for the new one: it would write it to the log that is to be deleted.
func TestMarkerWaitsForTheTopicThatIsMeant(t *testing.T) {
	p := newPair(t)
	p.create(handler.TransactionsTopic, 1)
	p.create("t", 2)
	p.sync("t")
	p.markersOf(p.late, nil)
	letGo := p.createAgain("t", 2)
	txns := doneTransactions{make(chan struct{})}
	p.markersOf(p.first, txns).Send(0, 0, txn.SendMarkers{
		TransactionalID: "x", ProducerID: 7, Epoch: 1, Commit: true, Version: txn.V2, Partitions: []txn.TopicPartition{{Topic: "t", Partition: 0}},
	})
	answer := (<-p.answers).(*kmsg.WriteTxnMarkersResponse)
	if code := answer.Markers[0].Topics[0].Partitions[0].ErrorCode; code != kerr.NotLeaderForPartition.Code {
		t.Errorf("answered %v; the log that is to be deleted ends at %d", kerr.ErrorForCode(code), p.late.partition("t", 0).Snapshot().LogEnd)
	}
	letGo()
	<-txns.done
	if s := p.late.partition("t", 0).Snapshot(); s.LogEnd != 1 || s.LastStable != 1 {
		t.Fatalf("the new topic's log ends at %d, stable up to %d", s.LogEnd, s.LastStable)
	}
}

// A topic that was configured since its coordinator heard of it is the same topic.
func TestConfiguredTopicIsTheSame(t *testing.T) {
	p := newPair(t)
	p.create(handler.TransactionsTopic, 2)
	p.create("t", 1)
	p.sync("t")
	p.late.Transactions = newOneShard()
	producer := startProducer(p.late)
	p.hold <- struct{}{}
	value := "1000"
	altered := p.first.controller.AlterConfigs(t.Context(), []metadata.ConfigAlteration{{
		Resource: metadata.ConfigResource{Type: metadata.ConfigTopic, Name: "t"},
		Ops:      []metadata.ConfigOp{{Key: "retention.ms", Value: &value, Kind: metadata.ConfigSet}},
	}}, false)
	if altered[0].Err != nil {
		t.Fatal(altered[0].Err)
	}
	if err := producer.produce(p.first); err != nil {
		t.Error(err)
	}
	<-p.hold
}
