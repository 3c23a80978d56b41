package work

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/wire"
)

// observer asks one broker, again and again, what it says of the partitions:
// their leaders, and the offsets of those that it leads.
func (r *Run) observer(addr string) func(context.Context, *life) error {
	return func(ctx context.Context, l *life) error {
		c, err := wire.Dial(addr)
		if err != nil {
			return err
		}
		defer c.Close()
		c.Timeout = rawLimit
		for l.pace(ctx) {
			if _, err := l.observe(c); err != nil {
				return err
			}
		}
		return nil
	}
}

// observe is one round: Metadata, OffsetForLeaderEpoch of epochs that are new to
// it, ListOffsets of three kinds, and Fetch. It
// returns the marks of Fetch, which are whole, of partitions that the broker
// leads.
func (l *life) observe(c *wire.Conn) ([]history.Mark, error) {
	leaders, self, err := l.leaders(c)
	if err != nil {
		return nil, err
	}
	led := map[string][]history.Leader{}
	l.inSync = map[history.Key]int{}
	for _, leader := range leaders {
		if name := leader.Key.Name(); name == history.GroupTopic || name == ChurnTopic {
			continue // who leads it is all that matters
		}
		l.inSync[leader.Key] = leader.InSync
		if leader.Leader == self {
			led[leader.Key.Topic] = append(led[leader.Key.Topic], leader)
		}
	}
	if len(led) == 0 {
		return nil, nil
	}
	if err := l.epochStarts(c, led); err != nil {
		return nil, err
	}
	for _, q := range []struct {
		timestamp int64
		isolation int8
	}{{-1, 0}, {-1, 1}, {-2, 0}} {
		if err := l.listOffsets(c, self, led, q.timestamp, q.isolation); err != nil {
			return nil, err
		}
	}
	return l.fetch(c, self, led)
}

// leaders asks for metadata. The broker that answers is the one with the
// connection's address, -1 where it does not name itself: a follower that was
// taken for the leader would answer a Fetch with its own high watermark.
func (l *life) leaders(c *wire.Conn) ([]history.Leader, int32, error) {
	names := []string{history.GroupTopic}
	for t := range l.recordTopics() {
		names = append(names, t)
	}
	if l.Churn {
		names = append(names, ChurnTopic)
	}
	o, resp, err := ask[*kmsg.MetadataResponse](l, history.Metadata, c, metadataOf(12, names...))
	if err != nil {
		return nil, 0, err
	}
	self := int32(-1)
	for _, b := range resp.Brokers {
		if len(l.Addrs) == 1 || fmt.Sprintf("%s:%d", b.Host, b.Port) == c.RemoteAddr() {
			self = b.NodeID
		}
	}
	o.Leaders = leadersOf(resp, self)
	if self >= 0 {
		o.Broker, o.Absent = self, absentOf(resp)
	}
	l.rec.End(o, history.OK, nil)
	return o.Leaders, self, nil
}

// absentOf are the names that a broker was asked for and has no topic of.
func absentOf(resp *kmsg.MetadataResponse) []string {
	var out []string
	for _, t := range resp.Topics {
		if t.Topic != nil && kerr.ErrorForCode(t.ErrorCode) == kerr.UnknownTopicOrPartition { //nolint:errorlint // ErrorForCode returns these very values
			out = append(out, *t.Topic)
		}
	}
	return out
}

// leadersOf is what a broker says of the partitions that it was asked for.
func leadersOf(resp *kmsg.MetadataResponse, by int32) []history.Leader {
	var out []history.Leader
	for _, t := range resp.Topics {
		name := *t.Topic
		if name == ChurnTopic {
			name = incarnation(t.TopicID)
		}
		for _, p := range t.Partitions {
			out = append(out, history.Leader{
				Key: history.Key{Topic: name, Partition: p.Partition}, Broker: by, Leader: p.Leader, Epoch: p.LeaderEpoch, InSync: len(p.ISR),
				PartitionEpoch: -1, ControllerEpoch: -1,
			})
		}
	}
	return out
}

func (l *life) listOffsets(c *wire.Conn, self int32, led map[string][]history.Leader, timestamp int64, isolation int8) error {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID, req.IsolationLevel = 7, -1, isolation
	for t, partitions := range led {
		topic := kmsg.NewListOffsetsRequestTopic()
		topic.Topic = t
		for _, leader := range partitions {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.Timestamp = leader.Key.Partition, leader.Epoch, timestamp
			topic.Partitions = append(topic.Partitions, p)
		}
		req.Topics = append(req.Topics, topic)
	}
	o, resp, err := ask[*kmsg.ListOffsetsResponse](l, history.Observe, c, req)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				continue
			}
			m := l.mark(history.Key{Topic: t.Topic, Partition: p.Partition}, self, led)
			switch {
			case timestamp == -2:
				m.LogStart = p.Offset
			case isolation == 1:
				m.LastStable = p.Offset
			default:
				m.High, m.FromOffsets = p.Offset, true
			}
			o.Marks = append(o.Marks, m)
		}
	}
	l.rec.End(o, history.OK, nil)
	return nil
}

// reign is one leader epoch of a partition.
type reign struct {
	key   history.Key
	epoch int32
}

// epochStarts asks where the logs of the leader epochs begin of which the life
// does not know it: where the epoch before each ends.
func (l *life) epochStarts(c *wire.Conn, led map[string][]history.Leader) error {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.Version, req.ReplicaID = 3, -1
	epochs := map[history.Key]int32{}
	for t, partitions := range led {
		topic := kmsg.NewOffsetForLeaderEpochRequestTopic()
		topic.Topic = t
		for _, leader := range partitions {
			if _, known := l.starts[reign{leader.Key, leader.Epoch}]; known {
				continue
			}
			epochs[leader.Key] = leader.Epoch
			p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = leader.Key.Partition, leader.Epoch, leader.Epoch-1
			topic.Partitions = append(topic.Partitions, p)
		}
		if len(topic.Partitions) > 0 {
			req.Topics = append(req.Topics, topic)
		}
	}
	if len(epochs) == 0 {
		return nil
	}
	o, resp, err := ask[*kmsg.OffsetForLeaderEpochResponse](l, history.Observe, c, req)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			k := history.Key{Topic: t.Topic, Partition: p.Partition}
			if p.ErrorCode == 0 && p.EndOffset >= 0 {
				l.starts[reign{k, epochs[k]}] = p.EndOffset
			}
		}
	}
	l.rec.End(o, history.OK, nil)
	return nil
}

func (l *life) mark(k history.Key, self int32, led map[string][]history.Leader) history.Mark {
	m := history.Mark{Key: k, Broker: self, LeaderEpoch: -1, EpochStart: -1, LogStart: -1, LastStable: -1, High: -1, End: -1}
	for _, leader := range led[k.Topic] {
		if leader.Key == k {
			m.LeaderEpoch = leader.Epoch
			if start, known := l.starts[reign{k, leader.Epoch}]; known {
				m.EpochStart = start
			}
		}
	}
	return m
}

// fetch reads a batch of each partition for the offsets that come with it. The
// request names the leader epoch, so the answer is of that epoch.
func (l *life) fetch(c *wire.Conn, self int32, led map[string][]history.Leader) ([]history.Mark, error) {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = 12, -1, 0, 0, 1, 1
	req.SessionEpoch = -1
	for t, partitions := range led {
		topic := kmsg.NewFetchRequestTopic()
		topic.Topic = t
		for _, leader := range partitions {
			p := kmsg.NewFetchRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.PartitionMaxBytes = leader.Key.Partition, leader.Epoch, 1
			p.LastFetchedEpoch = -1
			topic.Partitions = append(topic.Partitions, p)
		}
		req.Topics = append(req.Topics, topic)
	}
	o, resp, err := ask[*kmsg.FetchResponse](l, history.Observe, c, req)
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		l.rec.End(o, history.Fail, err)
		return nil, nil
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				continue
			}
			m := l.mark(history.Key{Topic: t.Topic, Partition: p.Partition}, self, led)
			m.LogStart, m.LastStable, m.High = p.LogStartOffset, p.LastStableOffset, p.HighWatermark
			o.Marks = append(o.Marks, m)
		}
	}
	l.rec.End(o, history.OK, nil)
	return o.Marks, nil
}
