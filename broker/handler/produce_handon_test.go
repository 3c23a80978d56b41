package handler_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
)

// createBoth makes a topic whose partitions both nodes have, and node 1 leads.
func (p *pair) createBoth(name string, partitions int, configs map[string]*string) {
	p.t.Helper()
	topic := metadata.NewTopic{Name: name, Partitions: -1, ReplicationFactor: -1, Configs: configs}
	for n := range partitions {
		topic.Assignment = append(topic.Assignment, metadata.PartitionAssignment{Partition: int32(n), Replicas: []int32{1, 2}})
	}
	for _, r := range p.first.controller.CreateTopics(p.t.Context(), []metadata.NewTopic{topic}, false) {
		if r.Err != nil {
			p.t.Fatal(r.Err, r.Message)
		}
	}
	p.sync(name)
}

// move makes node 2 the leader of a partition, and returns when both know. The clock
// of node 1's partitions stands still from then on.
func (p *pair) move(topic string, partition int32) {
	p.t.Helper()
	p.first.freeze(0)
	res, err := p.first.controller.Reassign(p.t.Context(), []metadata.Reassignment{{Topic: topic, Partition: partition, Replicas: []int32{2, 1}}}, true)
	if err == nil && res[0].Err == nil {
		res, err = p.first.controller.ElectLeaders(p.t.Context(), metadata.PreferredElection, []metadata.TopicPartitions{{Topic: topic, Partitions: []int32{partition}}})
	}
	if err != nil || res[0].Err != nil {
		p.t.Fatal(res, err)
	}
	p.await(p.late, func(img *metadata.Image) bool { return img.Topic(topic).Partitions[partition].Leader == 2 })
}

// writeTo is a request with a record for each of some partitions of a topic.
func (p *pair) writeTo(topic string, acks int16, partitions ...int32) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 60_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = topic, p.first.controller.Image().Topic(topic).ID
	for _, n := range partitions {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition = n
		rp.Records = protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, []protocol.Record{{Value: []byte("v")}})
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// sentTo checks that an answer says that node 2 leads.
func sentTo(t *testing.T, resp *kmsg.ProduceResponse, rp *kmsg.ProduceResponseTopicPartition) {
	t.Helper()
	if rp.CurrentLeader.LeaderID != 2 || rp.CurrentLeader.LeaderEpoch < 1 || len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 || resp.Brokers[0].Host != "two" {
		t.Errorf("told of leader %+v, brokers %+v", rp.CurrentLeader, resp.Brokers)
	}
}

// Who writes to the leader of a moment ago is answered by the leader of now, and hears
// who that is: in all versions that have room for it.
func TestWriteToTheLeaderOfBefore(t *testing.T) {
	p := newPair(t)
	p.createBoth("t", 2, nil)
	p.move("t", 1)
	for v := int16(10); v <= 13; v++ {
		resp := ask[*kmsg.ProduceResponse](p.first, p.writeTo("t", 1, 0, 1), v)
		offset := int64(v - 10)
		stayed, moved := &resp.Topics[0].Partitions[0], &resp.Topics[0].Partitions[1]
		if stayed.ErrorCode != 0 || stayed.BaseOffset != offset || stayed.CurrentLeader.LeaderID != -1 {
			t.Errorf("v%d: the partition that stayed: %+v", v, stayed)
		}
		if moved.ErrorCode != 0 || moved.BaseOffset != offset || moved.LogStartOffset != 0 {
			t.Errorf("v%d: the partition that moved: %+v", v, moved)
		}
		sentTo(t, resp, moved)
		if end := p.late.partition("t", 1).Snapshot().LogEnd; end != offset+1 {
			t.Errorf("v%d: the new leader's log ends at %d", v, end)
		}
	}
	if n := p.first.HandedOn.Partitions.Load(); n != 4 {
		t.Errorf("%d partitions counted", n)
	}
}

// What the new leader refuses the client is to hear from it.
func TestRefusalOfTheNewLeader(t *testing.T) {
	p := newPair(t)
	size := "64"
	p.createBoth("t", 1, map[string]*string{"max.message.bytes": &size})
	p.move("t", 0)
	req := p.writeTo("t", 1, 0)
	req.Topics[0].Partitions[0].Records = protocol.AppendBatch(nil, protocol.BatchParams{}, []protocol.Record{{Value: make([]byte, 100)}})
	resp := ask[*kmsg.ProduceResponse](p.first, req, 13)
	rp := &resp.Topics[0].Partitions[0]
	if rp.ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Errorf("%+v", rp)
	}
	sentTo(t, resp, rp)
}

// A producer that the new leader does not know, which is how a batch looks that overtook
// the producer's first one, is taken from its first sequence on only.
func TestUnknownProducerIsHandedOnFromItsStart(t *testing.T) {
	for sequence, taken := range map[int32]bool{0: true, 1: false} {
		p := newPair(t)
		p.createBoth("t", 1, nil)
		p.move("t", 0)
		req := p.writeTo("t", 1, 0)
		req.Topics[0].Partitions[0].Records = protocol.AppendBatch(nil, protocol.BatchParams{
			BaseTimestamp: time.Now().UnixMilli(), Producer: &protocol.Producer{ID: 7, BaseSequence: sequence},
		}, []protocol.Record{{Value: []byte("v")}})
		resp := ask[*kmsg.ProduceResponse](p.first, req, 13)
		rp := &resp.Topics[0].Partitions[0]
		if (rp.ErrorCode == 0) != taken || !taken && rp.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Errorf("from sequence %d: %+v", sequence, rp)
		}
		sentTo(t, resp, rp)
	}
}

// Others are sent away at once, as by Kafka.
func TestSentAway(t *testing.T) {
	for name, c := range map[string]struct {
		version int16
		when    func(p *pair, req *kmsg.ProduceRequest)
		told    bool
	}{
		"cannot be told who leads": {version: 9},
		"long after":               {version: 13, told: true, when: func(p *pair, _ *kmsg.ProduceRequest) { p.first.freeze(time.Minute) }},
		"was handed on already":    {version: 13, told: true, when: func(_ *pair, req *kmsg.ProduceRequest) { req.UnknownTags.Set(29_551, nil) }},
		"new leader cannot be reached": {version: 13, told: true, when: func(p *pair, _ *kmsg.ProduceRequest) {
			p.first.Peers = peersFunc(func(context.Context, int32, kmsg.Request) (kmsg.Response, error) { return nil, errors.New("refused") })
		}},
		"new leader answers something else": {version: 13, told: true, when: func(p *pair, _ *kmsg.ProduceRequest) {
			p.first.Peers = peersFunc(func(_ context.Context, _ int32, req kmsg.Request) (kmsg.Response, error) {
				return req.ResponseKind(), nil
			})
		}},
		"too much at a time": {version: 13, told: true, when: func(_ *pair, req *kmsg.ProduceRequest) {
			req.Topics[0].Partitions[0].Records = make([]byte, 33<<20)
		}},
		"new leader cannot commit": {version: 13, told: true, when: func(p *pair, req *kmsg.ProduceRequest) {
			req.Acks = -1
			p.first.Peers = peersFunc(func(_ context.Context, _ int32, req kmsg.Request) (kmsg.Response, error) {
				resp := kmsg.NewPtrProduceResponse()
				resp.Topics = []kmsg.ProduceResponseTopic{{Partitions: []kmsg.ProduceResponseTopicPartition{{ErrorCode: kerr.RequestTimedOut.Code}}}}
				return resp, nil
			})
		}},
		"an administrator":   {version: 13, told: true, when: func(p *pair, _ *kmsg.ProduceRequest) { p.first.clientID = "__admin_client" }},
		"a broker by itself": {version: 13, told: true, when: func(p *pair, _ *kmsg.ProduceRequest) { p.first.Peers = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.createBoth("t", 1, nil)
			p.move("t", 0)
			req := p.writeTo("t", 1, 0)
			if c.when != nil {
				c.when(p, req)
			}
			resp := ask[*kmsg.ProduceResponse](p.first, req, c.version)
			rp := &resp.Topics[0].Partitions[0]
			if rp.ErrorCode != kerr.NotLeaderForPartition.Code {
				t.Errorf("%+v", rp)
			}
			if c.told {
				sentTo(t, resp, rp)
			}
			if end := p.late.partition("t", 0).Snapshot().LogEnd; end != 0 {
				t.Errorf("the new leader's log ends at %d", end)
			}
		})
	}
}

// Who wants no answer cannot be told who leads: its connection is closed.
func TestWithoutAnswerNothingIsHandedOn(t *testing.T) {
	p := newPair(t)
	p.createBoth("t", 1, nil)
	p.move("t", 0)
	req := p.writeTo("t", 0, 0)
	req.Version = 13
	if resp, err := p.first.answer(t.Context(), req); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("%v, %v", resp, err)
	}
	if end := p.late.partition("t", 0).Snapshot().LogEnd; end != 0 {
		t.Errorf("the new leader's log ends at %d", end)
	}
}

// Once a producer was sent away, nothing that it sent after that is handed on: the new
// leader, which may not know the producer, would take it, and then not what the producer
// sends again.
func TestNothingOvertakesWhatWasSentAway(t *testing.T) {
	refuses := func(p *pair, answer func(req *kmsg.ProduceRequest) (kmsg.Response, error)) {
		p.first.Peers = peersFunc(func(_ context.Context, _ int32, req kmsg.Request) (kmsg.Response, error) {
			return answer(req.(*kmsg.ProduceRequest))
		})
	}
	with := func(code int16) func(req *kmsg.ProduceRequest) (kmsg.Response, error) {
		return func(req *kmsg.ProduceRequest) (kmsg.Response, error) {
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			resp.Topics = []kmsg.ProduceResponseTopic{{Partitions: []kmsg.ProduceResponseTopicPartition{{ErrorCode: code}}}}
			return resp, nil
		}
	}
	for name, c := range map[string]struct {
		timestamps string
		appended   bool // before the leadership moved
		when       func(p *pair)
	}{
		"appended with the broker's time": {timestamps: "LogAppendTime", appended: true},
		"new leader cannot be reached": {when: func(p *pair) {
			refuses(p, func(*kmsg.ProduceRequest) (kmsg.Response, error) { return nil, errors.New("refused") })
		}},
		"new leader does not lead yet": {when: func(p *pair) { refuses(p, with(kerr.NotLeaderForPartition.Code)) }},
		"new leader cannot commit":     {when: func(p *pair) { refuses(p, with(kerr.RequestTimedOut.Code)) }},
		"appended, and new leader cannot be reached": {appended: true, when: func(p *pair) {
			refuses(p, func(*kmsg.ProduceRequest) (kmsg.Response, error) { return nil, errors.New("refused") })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			if c.timestamps == "" {
				c.timestamps = "CreateTime"
			}
			p.createBoth("t", 1, map[string]*string{"message.timestamp.type": &c.timestamps})
			if c.when != nil {
				c.when(p)
			}
			answered := make(chan *kmsg.ProduceResponse, 1)
			write := func(sequence int32) {
				req := p.writeTo("t", -1, 0)
				req.Version = 13
				req.Topics[0].Partitions[0].Records = protocol.AppendBatch(nil, protocol.BatchParams{
					BaseTimestamp: time.Now().UnixMilli(), Producer: &protocol.Producer{ID: 7, BaseSequence: sequence},
				}, []protocol.Record{{Value: []byte("v")}})
				resp, err := p.first.answer(context.WithoutCancel(t.Context()), req)
				if err != nil {
					t.Error(err)
				}
				answered <- resp.(*kmsg.ProduceResponse)
			}
			if c.appended {
				go write(0)
				awaitEnd(t, p.first.partition("t", 0), 1)
				p.move("t", 0)
			} else {
				p.move("t", 0)
				write(0)
			}
			first := <-answered
			p.first.Peers = peersFunc(p.uncommitted)
			write(1)
			for _, resp := range []*kmsg.ProduceResponse{first, <-answered} {
				rp := &resp.Topics[0].Partitions[0]
				if rp.ErrorCode != kerr.NotLeaderForPartition.Code {
					t.Errorf("%+v", rp)
				}
				sentTo(t, resp, rp)
			}
			if end := p.late.partition("t", 0).Snapshot().LogEnd; end != 0 {
				t.Errorf("the new leader's log ends at %d", end)
			}
		})
	}
}

type peersFunc func(ctx context.Context, node int32, req kmsg.Request) (kmsg.Response, error)

func (f peersFunc) Request(ctx context.Context, node int32, req kmsg.Request) (kmsg.Response, error) {
	return f(ctx, node, req)
}

// uncommitted is Request, with writes that are not waited for: nobody replicates here,
// so the new leader could not commit them.
func (p *pair) uncommitted(ctx context.Context, node int32, req kmsg.Request) (kmsg.Response, error) {
	if r, ok := req.(*kmsg.ProduceRequest); ok {
		r.Acks = 1
	}
	return p.Request(ctx, node, req)
}

// What the leader of before had appended and could not commit is handed on as it was
// sent, though this broker wrote its offset into it; not where it wrote its time, which
// no leader takes from a client, and not without a producer.
func TestUncommittedIsHandedOn(t *testing.T) {
	for _, c := range []struct {
		timestamps string
		producer   *protocol.Producer
		handedOn   bool
	}{
		{"CreateTime", &protocol.Producer{ID: 7}, true},
		{"CreateTime", nil, false}, // the new leader may have it already
		{"LogAppendTime", &protocol.Producer{ID: 7}, false},
	} {
		t.Run(fmt.Sprintf("%s idempotent=%t", c.timestamps, c.producer != nil), func(t *testing.T) {
			p := newPair(t)
			p.createBoth("t", 1, map[string]*string{"message.timestamp.type": &c.timestamps})
			ask[*kmsg.ProduceResponse](p.first, p.writeTo("t", 1, 0), 13) // so that the next one's offset is 1
			asked := make(chan *kmsg.ProduceRequest, 1)
			p.first.Peers = peersFunc(func(ctx context.Context, node int32, req kmsg.Request) (kmsg.Response, error) {
				asked <- req.(*kmsg.ProduceRequest)
				return p.uncommitted(ctx, node, req)
			})
			answered := make(chan *kmsg.ProduceResponse)
			req := p.writeTo("t", -1, 0)
			req.Version = 13
			req.Topics[0].Partitions[0].Records = protocol.AppendBatch(nil, protocol.BatchParams{
				BaseTimestamp: time.Now().UnixMilli(), Producer: c.producer,
			}, []protocol.Record{{Value: []byte("v")}})
			go func() {
				resp, err := p.first.answer(context.WithoutCancel(t.Context()), req)
				if err != nil {
					t.Error(err)
				}
				answered <- resp.(*kmsg.ProduceResponse)
			}()
			awaitEnd(t, p.first.partition("t", 0), 2)
			p.move("t", 0)
			resp := <-answered
			rp := &resp.Topics[0].Partitions[0]
			sentTo(t, resp, rp)
			if !c.handedOn {
				if rp.ErrorCode != kerr.NotLeaderForPartition.Code || len(asked) != 0 {
					t.Errorf("%+v, handed on %d", rp, len(asked))
				}
				return
			}
			if rp.ErrorCode != 0 || rp.BaseOffset != 0 { // the new leader has nothing yet
				t.Errorf("%+v", rp)
			}
			pr := <-asked
			if !slices.EqualFunc(pr.Topics, req.Topics, func(a, b kmsg.ProduceRequestTopic) bool { return a.TopicID == b.TopicID }) {
				t.Errorf("handed on %+v", pr.Topics)
			}
			if pr.UnknownTags.Len() != 1 { // or two that do not lead would hand it to and fro
				t.Error("it does not say that it was handed on")
			}
		})
	}
}

// awaitEnd waits until a log ends at an offset.
func awaitEnd(t *testing.T, p *replication.Partition, end int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); p.Snapshot().LogEnd < end; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log ends at %d", p.Snapshot().LogEnd)
		}
	}
}

// A transaction's first write comes to the leader of before: the new leader makes its
// partition part of the transaction.
func TestTransactionalWriteToTheLeaderOfBefore(t *testing.T) {
	p := newPair(t)
	p.create("__transaction_state", 2)
	p.createBoth("t", 1, nil)
	txns := newOneShard()
	p.late.Transactions = txns
	producer := startProducer(p.late)
	p.move("t", 0)
	p.first.Peers = peersFunc(p.uncommitted)
	if err := producer.produceTo(p.first, "t")[0]; err != nil {
		t.Error(err)
	}
	if end := p.late.partition("t", 0).Snapshot().LogEnd; end != 1 {
		t.Errorf("the new leader's log ends at %d", end)
	}
}
