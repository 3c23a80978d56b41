package handler_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
)

// waitContext tells when somebody bounds a wait with it.
type waitContext struct {
	context.Context
	waits func()
}

func (c waitContext) Deadline() (time.Time, bool) {
	c.waits()
	return c.Context.Deadline()
}

// elect makes a topic of one partition, led by node 1, and has node 2 lead it, which
// does not learn of that until it may.
func (p *pair) elect(topic string) (epoch int32) {
	p.t.Helper()
	ctx, first := p.t.Context(), p.first.controller
	made := first.CreateTopics(ctx, []metadata.NewTopic{{
		Name: topic, Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{1, 2}}},
	}}, false)
	if made[0].Err != nil {
		p.t.Fatal(made[0].Err, made[0].Message)
	}
	p.sync(topic)
	p.hold <- struct{}{}
	moved, err := first.Reassign(ctx, []metadata.Reassignment{{Topic: topic, Replicas: []int32{2, 1}}}, true)
	if err != nil || moved[0].Err != nil {
		p.t.Fatal(moved, err)
	}
	elected, err := first.ElectLeaders(ctx, metadata.PreferredElection, []metadata.TopicPartitions{{Topic: topic, Partitions: []int32{0}}})
	if err != nil || elected[0].Err != nil {
		p.t.Fatal(elected, err)
	}
	return first.Image().Topic(topic).Partitions[0].LeaderEpoch
}

// TestClientThatKnowsMoreIsWaitedFor: a client was told of the new leader by the old
// one, and is at the new leader before the news.
func TestClientThatKnowsMoreIsWaitedFor(t *testing.T) {
	id := "x"
	produce := func(topic string, txn *string, params protocol.BatchParams) kmsg.Request {
		params.BaseTimestamp = time.Now().UnixMilli()
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TransactionID = 12, 1, txn
		req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{
			Records: protocol.AppendBatch(nil, params, []protocol.Record{{Value: []byte("v")}}),
		}}}}
		return req
	}
	for name, request := range map[string]func(p transactionalProducer, topic string, epoch int32) kmsg.Request{
		"produce": func(_ transactionalProducer, topic string, _ int32) kmsg.Request {
			return produce(topic, nil, protocol.BatchParams{})
		},
		"transactional produce": func(p transactionalProducer, topic string, _ int32) kmsg.Request {
			return produce(topic, &id, protocol.BatchParams{Transactional: true, Producer: &p.Producer})
		},
		"fetch": func(_ transactionalProducer, topic string, epoch int32) kmsg.Request {
			req := kmsg.NewPtrFetchRequest()
			req.Version, req.MaxBytes = 12, 1<<20
			part := kmsg.NewFetchRequestTopicPartition()
			part.CurrentLeaderEpoch, part.PartitionMaxBytes = epoch, 1<<20
			req.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{part}}}
			return req
		},
		"offset for leader epoch": func(_ transactionalProducer, topic string, epoch int32) kmsg.Request {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			req.Version, req.ReplicaID = 4, -1
			part := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			part.CurrentLeaderEpoch = epoch
			req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{part}}}
			return req
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.create(handler.TransactionsTopic, 1)
			p.first.Transactions = newOneShard()
			producer := startProducer(p.first)
			var err error
			// The wait is short: a machine that stands still for as long has another try.
			for round := range 5 {
				topic := fmt.Sprintf("t%d", round)
				req := request(producer, topic, p.elect(topic))
				waits, answered := make(chan struct{}), make(chan error, 1)
				ctx := waitContext{t.Context(), sync.OnceFunc(func() { close(waits) })}
				go func() { answered <- answerOf(ctx, p.late, req) }()
				select {
				case <-waits:
					<-p.hold
					err = <-answered
				case err = <-answered:
					<-p.hold
					t.Fatalf("answered at once: %v", err)
				}
				if err == nil {
					return
				}
			}
			t.Error(err)
		})
	}
}

// answerOf is the error of the only partition of a request.
func answerOf(ctx context.Context, l *lab, req kmsg.Request) error {
	resp, err := l.answer(ctx, req)
	if err != nil {
		return err
	}
	switch resp := resp.(type) {
	case *kmsg.ProduceResponse:
		return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	case *kmsg.FetchResponse:
		return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	case *kmsg.OffsetForLeaderEpochResponse:
		return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	return fmt.Errorf("answered with %T", resp)
}
