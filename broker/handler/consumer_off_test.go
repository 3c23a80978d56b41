package handler

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
)

// As Apache Kafka 4.3.1 with group.coordinator.rebalance.protocols=classic.
func TestConsumerProtocolSwitchedOff(t *testing.T) {
	for _, c := range []struct {
		protocols string
		want      error
	}{{"classic,consumer", nil}, {"classic", kerr.UnsupportedVersion}} {
		b := newTestBroker(t, "group.coordinator.rebalance.protocols", c.protocols)
		beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		beat.Version, beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis = 1, "g", "m", 1000
		beat.SubscribedTopicNames, beat.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		resp, err := consumerGroupHeartbeat(b.Broker, &Request{Body: beat, Ctx: t.Context(), Conn: &ConnInfo{}})
		if err != nil {
			t.Fatal(err)
		}
		if code := resp.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode; code != protocol.Code(c.want) {
			t.Errorf("%s: heartbeat: %v", c.protocols, kerr.ErrorForCode(code))
		}
		describe := kmsg.NewPtrConsumerGroupDescribeRequest()
		describe.Groups = []string{"g"}
		resp, err = consumerGroupDescribe(b.Broker, &Request{Body: describe, Ctx: t.Context(), Conn: &ConnInfo{}})
		if err != nil {
			t.Fatal(err)
		}
		if g := resp.(*kmsg.ConsumerGroupDescribeResponse).Groups[0]; g.Group != "g" || g.ErrorCode != protocol.Code(c.want) {
			t.Errorf("%s: describe: %q, %v", c.protocols, g.Group, kerr.ErrorForCode(g.ErrorCode))
		}
	}
}
