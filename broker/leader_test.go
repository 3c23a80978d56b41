package broker

import (
	"context"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestCurrentLeader: who comes to the wrong broker is told where to go, in the
// versions that have room for it (KIP-951).
func TestCurrentLeader(t *testing.T) {
	b := startBroker(t, nil)
	other, err := controller.New(controller.Options{
		Store: b.store, NodeID: 2, Rack: "there", Exclusive: true, Log: zerolog.Nop(),
		Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "other", Port: 9092, Security: "PLAINTEXT"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), answerTime)
	defer cancel()
	if err := other.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	await(t, func() bool {
		two := b.controller.Image().Broker(2)
		return two != nil && two.Active()
	})
	res := b.controller.CreateTopics(ctx, []metadata.NewTopic{{
		Name: "there", Partitions: -1, ReplicationFactor: -1, ID: newTestID(),
		Assignment: []metadata.PartitionAssignment{{Partition: 0, Replicas: []int32{2}}},
	}}, false)
	if res[0].Err != nil {
		t.Fatal(res[0].Err)
	}
	id := res[0].ID
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
