package compat

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawMember is a member of the consumer protocol that sends what it is told to.
type rawMember struct {
	t         *testing.T
	b         *harness.Broker
	group, id string
	topic     string
	instance  *string
	epoch     int32
	owned     int     // partitions of the last assignment
	assigned  []int32 // and which
}

// beat sends a heartbeat and takes what it answers. What it says it owns is
// what it was assigned.
func (m *rawMember) beat(owned []int32) *kmsg.ConsumerGroupHeartbeatResponse {
	m.t.Helper()
	resp := m.send(owned)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		m.t.Fatalf("%s: %v", m.id, err)
	}
	m.epoch = resp.MemberEpoch
	if resp.Assignment != nil {
		m.owned, m.assigned = 0, []int32{}
		for _, t := range resp.Assignment.Topics {
			m.owned += len(t.Partitions)
			m.assigned = append(m.assigned, t.Partitions...)
		}
	}
	return resp
}

// send sends a heartbeat until a coordinator answers it, with an error or none.
func (m *rawMember) send(owned []int32) *kmsg.ConsumerGroupHeartbeatResponse {
	m.t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis, req.InstanceID = m.group, m.id, m.epoch, -1, m.instance
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
			return !kerr.IsRetriable(kerr.ErrorForCode(resp.ErrorCode))
		}
		if !kerr.IsRetriable(err) { // no coordinator was found
			m.t.Fatalf("%s: %v", m.id, err)
		}
		return false
	})
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
		interval := func(group, ms string) { t.Helper(); setAssignmentInterval(t, b, group, ms) }
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

func setAssignmentInterval(t *testing.T, b *harness.Broker, group, ms string) {
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

// TestConsumerGroupRecords: what is written about a consumer group, record by
// record, and who is fenced because of it: a member that stays at its epoch, to
// give back partitions first, has shown that it knows it, and may not speak with
// the epoch before any more.
func TestConsumerGroupRecords(t *testing.T) {
	onAll(t, func(t *testing.T, b *harness.Broker) {
		topic, group := createTopic(t, b, 4), topicName(t)
		setAssignmentInterval(t, b, group, "0")
		member := func(id string) *rawMember { return &rawMember{t: t, b: b, group: group, id: id, topic: topic} }
		first, second, third, fourth := member("a"), member("b"), member("c"), member("d")
		instance := "i"
		fourth.instance = &instance

		first.beat(nil)
		second.beat(nil)
		first.beat([]int32{0, 1, 2, 3})
		first.beat(first.assigned)
		second.beat([]int32{})
		third.beat(nil)
		fourth.beat(nil)
		first.beat(first.assigned)
		stale := *first
		stale.epoch = 2
		if resp := stale.send(first.assigned); resp.ErrorCode != kerr.FencedMemberEpoch.Code {
			t.Errorf("one epoch behind: %v, want %v", kerr.ErrorForCode(resp.ErrorCode), kerr.FencedMemberEpoch)
		}
		fourth.epoch = -2
		fourth.beat(nil)

		want := []string{
			"member a", "group at 2", "target of a", "target at 2", "a at 2 after 0, stable",
			"member b", "group at 3", "target of a", "target of b", "target at 3", "b at 3 after 0, unreleased",
			"a at 2 after 2, unrevoked",
			"a at 3 after 2, stable",
			"b at 3 after 3, stable",
			"member c", "group at 4", "target of b", "target of c", "target at 4", "c at 4 after 0, unreleased",
			"member d", "group at 5", "target of a", "target of d", "target at 5", "d at 5 after 0, unreleased",
			"a at 3 after 3, unrevoked",
			"d at -2 after 0, unreleased",
		}
		if got := consumerGroupRecords(t, b, group, len(want)); !slices.Equal(got, want) {
			t.Errorf("the records are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// consumerGroupRecords are the records of __consumer_offsets about a group, so
// many at least. Targets that lie side by side are in no order of their own.
func consumerGroupRecords(t *testing.T, b *harness.Broker, group string, least int) []string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics("__consumer_offsets"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out []string
	for len(out) < least {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%v, after %q", err, out)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			key := kbin.Reader{Src: r.Key}
			if kind := key.Int16(); kind >= 3 && key.String() == group {
				out = append(out, consumerGroupRecord(kind, &key, r.Value))
			}
		})
	}
	for i := range out {
		if i > 0 && strings.HasPrefix(out[i], "target of") && strings.HasPrefix(out[i-1], "target of") && out[i] < out[i-1] {
			out[i], out[i-1] = out[i-1], out[i]
		}
	}
	return out
}

// consumerGroupRecord tells what a record says, by its type, the rest of its key
// and its value.
func consumerGroupRecord(kind int16, key *kbin.Reader, value []byte) string {
	v := kbin.Reader{Src: value}
	v.Int16()
	switch kind {
	case 3:
		return fmt.Sprintf("group at %d", v.Int32())
	case 5:
		return "member " + key.String()
	case 6:
		return fmt.Sprintf("target at %d", v.Int32())
	case 7:
		return "target of " + key.String()
	case 8:
		states := []string{"stable", "unrevoked", "unreleased"}
		return fmt.Sprintf("%s at %d after %d, %s", key.String(), v.Int32(), v.Int32(), states[v.Int8()])
	default:
		return fmt.Sprintf("type %d", kind)
	}
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
