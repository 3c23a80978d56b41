package broker

import (
	"context"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestCurrentLeader: who comes to the wrong broker is told where to go, in the
// versions that have room for it (KIP-951).
func TestCurrentLeader(t *testing.T) {
	b := startBroker(t, nil)
	b.register(2)
	id := b.createTopicOn("there", 2)
	c := b.dial()
	for v := int16(9); v <= 13; v++ {
		resp := c.ask(addRecords(produceRequest(v, 1), "there", id, 0, records(protocol.BatchParams{}, 1, 10))).(*kmsg.ProduceResponse)
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Errorf("produce v%d: %+v", v, p)
		}
		told := p.CurrentLeader.LeaderID == 2 && p.CurrentLeader.LeaderEpoch == 0 && len(resp.Brokers) == 1 &&
			resp.Brokers[0].NodeID == 2 && resp.Brokers[0].Host == "other" && resp.Brokers[0].Port == 9092 && *resp.Brokers[0].Rack == "there"
		if told != (v >= 10) {
			t.Errorf("produce v%d: leader %+v, brokers %+v", v, p.CurrentLeader, resp.Brokers)
		}
	}
	for v := int16(12); v <= 18; v++ {
		r := fetchRequest(v)
		r.MaxWaitMillis = int32(time.Minute / time.Millisecond) // which it does not wait
		addFetch(r, "there", id, 0, 0)
		resp := c.fetch(r)
		p := c.only(resp)
		if p.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Errorf("fetch v%d: %+v", v, p)
		}
		told := p.CurrentLeader.LeaderID == 2 && p.CurrentLeader.LeaderEpoch == 0 && len(resp.Brokers) == 1 && resp.Brokers[0].NodeID == 2
		if told != (v >= 16) {
			t.Errorf("fetch v%d: leader %+v, brokers %+v", v, p.CurrentLeader, resp.Brokers)
		}
	}
}

// TestLeaderResigns: who waits for the others to have a record hears where to go
// when the leader resigns, in the epoch that made it resign.
func TestLeaderResigns(t *testing.T) {
	b := startBroker(t, nil)
	b.register(2)
	id := b.createTopicOn("moves", 1, 2)
	writer := b.dial()
	write := addRecords(produceRequest(13, -1), "moves", id, 0, records(protocol.BatchParams{}, 1, 10))
	write.TimeoutMillis = 60_000
	writer.send(writer.frame(write))
	ctx, cancel := context.WithTimeout(t.Context(), answerTime)
	defer cancel()
	await(t, func() bool {
		p, err := b.partitions.Partition("moves", 0)
		return err == nil && p.Snapshot().LogEnd == 1
	})
	for _, move := range []func() ([]metadata.PartitionResult, error){
		func() ([]metadata.PartitionResult, error) {
			return b.controller.Reassign(ctx, []metadata.Reassignment{{Topic: "moves", Replicas: []int32{2, 1}}}, true)
		},
		func() ([]metadata.PartitionResult, error) {
			return b.controller.ElectLeaders(ctx, metadata.PreferredElection, []metadata.TopicPartitions{{Topic: "moves", Partitions: []int32{0}}})
		},
	} {
		if res, err := move(); err != nil || res[0].Err != nil {
			t.Fatal(res, err)
		}
	}
	resp := writer.answer(write, writer.correlation).(*kmsg.ProduceResponse)
	p := resp.Topics[0].Partitions[0]
	if p.ErrorCode != kerr.NotLeaderForPartition.Code || p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch < 1 {
		t.Errorf("told %v, leader %+v", kerr.ErrorForCode(p.ErrorCode), p.CurrentLeader)
	}
	if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 {
		t.Errorf("told of brokers %+v", resp.Brokers)
	}
}
