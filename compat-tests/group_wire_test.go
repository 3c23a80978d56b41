package compat

import (
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawMember is a member of the consumer protocol that sends what it is told to.
type rawMember struct {
	t         *testing.T
	b         *harness.Broker
	group, id string
	topic     string
	epoch     int32
	owned     int // partitions of the last assignment
}

// beat sends a heartbeat and takes what it answers. What it says it owns is
// what it was assigned.
func (m *rawMember) beat(owned []int32) *kmsg.ConsumerGroupHeartbeatResponse {
	m.t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = m.group, m.id, m.epoch, -1
	if m.epoch == 0 {
		req.RebalanceTimeoutMillis = 60_000
		req.SubscribedTopicNames = []string{m.topic}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	} else if owned != nil {
		topic, err := franz(m.t, m.b).Topic(m.t.Context(), m.topic)
		if err != nil {
			m.t.Fatal(err)
		}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: topic.TopicID, Partitions: owned}}
	}
	var resp *kmsg.ConsumerGroupHeartbeatResponse
	eventually(m.t, "a coordinator for "+m.group, func() bool {
		var err error
		resp, err = req.RequestWith(m.t.Context(), franz(m.t, m.b).Raw())
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil && !kerr.IsRetriable(err) {
			m.t.Fatalf("%s: %v", m.id, err)
		}
		return err == nil
	})
	m.epoch = resp.MemberEpoch
	if resp.Assignment != nil {
		m.owned = 0
		for _, t := range resp.Assignment.Topics {
			m.owned += len(t.Partitions)
		}
	}
	return resp
}

func (m *rawMember) leave() {
	m.t.Helper()
	m.epoch = -1
	m.beat(nil)
}

// TestAssignmentInterval: the target assignment of a consumer group stands for
// consumer.assignment.interval.ms; members that come meanwhile are in the group
// at its epoch and have nothing until a heartbeat after that.
func TestAssignmentInterval(t *testing.T) {
	onAll(t, func(t *testing.T, b *harness.Broker) {
		topic := createTopic(t, b, 4)
		interval := func(group, ms string) {
			t.Helper()
			req := kmsg.NewPtrIncrementalAlterConfigsRequest()
			r := kmsg.NewIncrementalAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
			c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
			c.Name, c.Value = "consumer.assignment.interval.ms", &ms
			r.Configs = append(r.Configs, c)
			req.Resources = append(req.Resources, r)
			resp, err := req.RequestWith(t.Context(), franz(t, b).Raw())
			if err == nil {
				err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		member := func(group, id string) *rawMember { return &rawMember{t: t, b: b, group: group, id: id, topic: topic} }
		want := func(what string, m *rawMember, owned int, epoch int32) {
			t.Helper()
			if m.owned != owned || m.epoch != epoch {
				t.Fatalf("%s: %s has %d partitions at epoch %d, want %d at %d", what, m.id, m.owned, m.epoch, owned, epoch)
			}
		}

		slow := topicName(t)
		interval(slow, "15000")
		first, second := member(slow, "first"), member(slow, "second")
		first.beat(nil)
		want("the first assignment waits for nothing", first, 4, 2)
		second.beat(nil)
		want("within the interval", second, 0, 2)
		first.beat([]int32{0, 1, 2, 3})
		want("within the interval", first, 4, 2)
		groups, err := franz(t, b).Admin().DescribeConsumerGroups(t.Context(), slow)
		if err != nil || groups[slow].State != "Assigning" || groups[slow].Epoch != 3 || groups[slow].AssignmentEpoch != 2 {
			t.Fatalf("%v: the group is %+v", err, groups[slow])
		}
		// Even a group that everybody left has had its assignment.
		first.leave()
		second.leave()
		third := member(slow, "third")
		third.beat(nil)
		want("after everybody left", third, 0, 2)
		// The setting is read with each heartbeat.
		interval(slow, "0")
		eventually(t, "without an interval", func() bool {
			third.beat([]int32{})
			return third.owned == 4
		})

		fast := topicName(t)
		interval(fast, "0")
		first, second = member(fast, "first"), member(fast, "second")
		first.beat(nil)
		second.beat(nil)
		want("at once, but not given back yet", second, 0, 3)
		first.beat([]int32{0, 1, 2, 3})
		want("has to give back", first, 2, 2)
	})
}

// eventually tries until it is so: what is altered takes effect a little later.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}
