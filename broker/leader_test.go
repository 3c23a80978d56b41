package broker

import (
	"testing"
	"time"

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
