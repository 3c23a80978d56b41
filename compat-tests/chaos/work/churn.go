package work

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/wire"
)

// ChurnTopic is deleted and created again under the same name while clients
// use it. Each time it is another topic: its keys in a history carry its id, so
// a record that shows up in a later one comes from nowhere, and so do all
// properties of offsets and leader epochs hold for each by itself. Its clients
// are hand-made, request by request with topic ids, so that it is known which of
// them an answer is about.
const ChurnTopic = "churn"

const churnParts = 2

// incarnation is the topic's name in a history.
func incarnation(id [16]byte) string {
	return ChurnTopic + history.Incarnation + base64.RawURLEncoding.EncodeToString(id[:])
}

// Recreate deletes the topic and creates it again, at once or a little later.
func (r *Run) Recreate(ctx context.Context, rng *rand.Rand) (string, error) {
	cl, err := r.client("recreate")
	if err != nil {
		return "", err
	}
	defer cl.Close()
	deleted, err := r.deleteChurn(ctx, cl)
	if err != nil {
		return "delete", err
	}
	if rng.IntN(2) == 0 {
		l := r.helper()
		l.next = time.Now().Add(time.Duration(rng.Int64N(int64(time.Second))))
		l.pace(ctx)
	}
	return deleted, r.RestoreChurn(ctx)
}

// deleteChurn deletes the topic that has the name now, and no later one: a
// request that a client repeats carries the id.
func (r *Run) deleteChurn(ctx context.Context, cl *kgo.Client) (string, error) {
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(ChurnTopic)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return "", err
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		return "none was there", nilIfCode(err)
	}
	id := resp.Topics[0].TopicID
	op := history.Op{F: history.Deleted}
	for p := range int32(churnParts) {
		op.Keys = append(op.Keys, history.Key{Topic: incarnation(id), Partition: p})
	}
	o := r.rec.Begin(op)
	del := kmsg.NewPtrDeleteTopicsRequest()
	t := kmsg.NewDeleteTopicsRequestTopic()
	t.TopicID = id
	del.Topics, del.TimeoutMillis = append(del.Topics, t), 10_000
	gone, err := del.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(gone.Topics[0].ErrorCode)
	}
	if err != nil && !errors.Is(err, kerr.UnknownTopicID) {
		r.rec.End(o, history.Info, err)
		return "", err
	}
	r.rec.End(o, history.OK, nil)
	return "deleted " + incarnation(id), nil
}

// RestoreChurn creates the topic where there is none.
func (r *Run) RestoreChurn(ctx context.Context) error {
	l := r.helper()
	cl, err := r.client("recreate")
	if err != nil {
		return err
	}
	defer cl.Close()
	configs := map[string]*string{"min.insync.replicas": kadm.StringPtr(strconv.Itoa(int(max(r.MinInSync, 1))))}
	return l.every(ctx, 200*time.Millisecond, func() (bool, error) {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		resp, err := kadm.NewClient(cl).CreateTopic(limited, churnParts, r.Replicas, configs, ChurnTopic)
		if err == nil {
			err = resp.Err
		}
		return err == nil || errors.Is(err, kerr.TopicAlreadyExists), err
	})
}

// seat is a partition of an incarnation, and where it is led.
type seat struct {
	key    history.Key
	id     [16]byte
	leader int32
	addr   string
	epoch  int32
	inSync int
}

// churnSeats asks a broker for the topic of the moment, and notes what it says
// of it.
func (x *registrar) churnSeats() ([]seat, error) {
	c, err := x.conn(x.Addrs[x.rng.IntN(len(x.Addrs))])
	if err != nil {
		return nil, err
	}
	o, resp, err := ask[*kmsg.MetadataResponse](x.life, history.Metadata, c, metadataOf(12, ChurnTopic))
	if err != nil {
		return nil, err
	}
	self, addrs := int32(-1), map[int32]string{}
	for _, b := range resp.Brokers {
		addrs[b.NodeID] = fmt.Sprintf("%s:%d", b.Host, b.Port)
		if len(x.Addrs) == 1 || addrs[b.NodeID] == c.RemoteAddr() {
			self = b.NodeID
		}
	}
	o.Broker, o.Leaders, o.Absent = self, leadersOf(resp, self), absentOf(resp)
	if self < 0 {
		o.Broker, o.Leaders, o.Absent = 0, nil, nil // who said it is not known
	}
	var out []seat
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if addr, is := addrs[p.Leader]; is {
				k := history.Key{Topic: incarnation(t.TopicID), Partition: p.Partition}
				out = append(out, seat{k, t.TopicID, p.Leader, addr, p.LeaderEpoch, len(p.ISR)})
			}
		}
	}
	x.rec.End(o, history.OK, nil)
	return out, nil
}

// churner is an idempotent producer of one request at a time. Whatever fails
// ends its life: what its next request should begin with is not known.
func (r *Run) churner(ctx context.Context, l *life) error {
	x := &registrar{life: l}
	defer x.close()
	pid, epoch, err := x.idempotent()
	if err != nil {
		return err
	}
	next := map[history.Key]int32{}
	for l.pace(ctx) {
		seats, err := x.churnSeats()
		if err != nil {
			return err
		}
		if len(seats) == 0 {
			continue
		}
		s := seats[l.rng.IntN(len(seats))]
		sends := make([]*history.Sent, 1+l.rng.IntN(3))
		records := make([]wire.Rec, len(sends))
		for i := range sends {
			sends[i] = r.sent(s.key)
			sends[i].PID, sends[i].Epoch = pid, epoch
			records[i].Value = encode(sends[i])
		}
		if err := x.churn(s, sends, wire.NewBatch(time.Now().UnixMilli(), records...).Producer(pid, epoch, next[s.key])); err != nil {
			return err
		}
		next[s.key] += int32(len(sends))
	}
	return nil
}

func (x *registrar) idempotent() (int64, int16, error) {
	c, err := x.conn(x.Addrs[x.rng.IntN(len(x.Addrs))])
	if err != nil {
		return 0, 0, err
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.ProducerID, req.ProducerEpoch = 4, -1, -1
	resp, err := c.Do(req)
	if err != nil {
		return 0, 0, err
	}
	r := resp.(*kmsg.InitProducerIDResponse)
	return r.ProducerID, r.ProducerEpoch, kerr.ErrorForCode(r.ErrorCode)
}

// churn is one Produce.
func (x *registrar) churn(s seat, sends []*history.Sent, batch *wire.Batch) error {
	c, err := x.conn(s.addr)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 13, -1, 5000
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = s.key.Partition, batch.Bytes()
	t := kmsg.NewProduceRequestTopic()
	t.TopicID, t.Partitions = s.id, []kmsg.ProduceRequestTopicPartition{p}
	req.Topics = append(req.Topics, t)
	op := x.op(history.Send)
	op.Broker, op.Mops = s.leader, mops(sends)
	o := x.rec.Begin(op)
	answer, err := c.Do(req)
	if err == nil {
		got := answer.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if err = kerr.ErrorForCode(got.ErrorCode); err == nil {
			for i, sent := range sends {
				sent.Offset = got.BaseOffset + int64(i)
			}
		}
	}
	// The network may repeat it later.
	x.rec.End(o, history.Classify(history.ProduceRetried, err), err)
	return err
}

// churnReader reads each topic that has the name from its beginning.
func (r *Run) churnReader(ctx context.Context, l *life) error {
	x := &registrar{life: l}
	defer x.close()
	at := map[history.Key]int64{}
	topic := ""
	for l.pace(ctx) {
		seats, err := x.churnSeats()
		if err != nil {
			return err
		}
		if len(seats) == 0 {
			continue
		}
		if t := seats[0].key.Topic; t != topic {
			topic = t
			clear(at)
			op := l.op(history.Assign)
			for p := range int32(churnParts) {
				op.Keys = append(op.Keys, history.Key{Topic: topic, Partition: p})
			}
			l.rec.Event(op)
		}
		for _, s := range seats {
			if err := x.churnPoll(s, at, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// churnPoll is one Fetch of one partition.
func (x *registrar) churnPoll(s seat, at map[history.Key]int64, final bool) error {
	c, err := x.conn(s.addr)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel, req.SessionEpoch = 13, 100, 1, 1<<20, 1, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.FetchOffset, p.LastFetchedEpoch, p.PartitionMaxBytes = s.key.Partition, s.epoch, at[s.key], -1, 1<<20
	t := kmsg.NewFetchRequestTopic()
	t.TopicID, t.Partitions = s.id, []kmsg.FetchRequestTopicPartition{p}
	req.Topics = append(req.Topics, t)
	op := x.op(history.Poll)
	op.Final = final
	o := x.rec.Begin(op)
	answer, err := c.Do(req)
	if err != nil {
		x.rec.End(o, history.OK, err)
		return err
	}
	resp := answer.(*kmsg.FetchResponse)
	if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
		x.rec.End(o, history.OK, kerr.ErrorForCode(resp.ErrorCode))
		return nil
	}
	got := &resp.Topics[0].Partitions[0]
	code := kerr.ErrorForCode(got.ErrorCode)
	if errors.Is(code, kerr.OffsetOutOfRange) {
		o.Ended = map[history.Key]int64{s.key: at[s.key] - 1}
		// Which leader said so tells whether it was one.
		o.Marks = append(o.Marks, history.Mark{Key: s.key, Broker: s.leader, LeaderEpoch: s.epoch, EpochStart: -1, LogStart: -1, LastStable: -1, High: -1, End: -1})
	}
	if code == nil {
		m := history.Mark{
			Key: s.key, Broker: s.leader, LeaderEpoch: s.epoch, EpochStart: -1,
			LogStart: got.LogStartOffset, LastStable: got.LastStableOffset, High: got.HighWatermark, End: -1,
		}
		o.Marks = append(o.Marks, m)
		fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
			Offset: at[s.key], IsolationLevel: kgo.ReadCommitted(), Topic: ChurnTopic, Partition: s.key.Partition,
		}, got, kgo.DefaultDecompressor(), nil)
		at[s.key] = next
		if len(fp.Records) > 0 {
			list := make([]history.Read, 0, len(fp.Records))
			for _, r := range fp.Records {
				list = append(list, history.Read{Offset: r.Offset, Value: Decode(r.Value), Epoch: r.LeaderEpoch})
			}
			o.Mops = []history.Mop{{Poll: map[history.Key][]history.Read{s.key: list}}}
		}
	}
	x.rec.End(o, history.OK, code)
	return nil
}

// finalChurn reads the last topic of the name to its end, and returns its keys.
func (l *life) finalChurn(ctx context.Context) ([]history.Key, error) {
	x := &registrar{life: l}
	defer func() { x.close() }()
	at := map[history.Key]int64{}
	var keys []history.Key
	err := l.every(ctx, 300*time.Millisecond, func() (bool, error) {
		seats, err := x.churnSeats()
		if err != nil {
			x.close()
			x.conns = nil
			return false, err
		}
		if len(seats) < churnParts {
			return false, errors.New("no leaders")
		}
		if keys == nil {
			for _, s := range seats {
				keys = append(keys, s.key)
			}
			op := l.op(history.Assign)
			op.Keys = keys
			l.rec.Event(op)
		}
		done := true
		for _, s := range seats {
			before := at[s.key]
			if err := x.churnPoll(s, at, true); err != nil {
				x.close()
				x.conns = nil
				return false, err
			}
			end, err := x.churnEnd(s)
			if err != nil {
				return false, err
			}
			done = done && at[s.key] == end && before == end && s.inSync >= int(l.Replicas)
		}
		return done, errors.New("the end is not reached, or a replica is not in sync")
	})
	if err != nil {
		return keys, fmt.Errorf("the final polls of %s: %w", ChurnTopic, err)
	}
	return keys, nil
}

// churnEnd is the end of a partition.
func (x *registrar) churnEnd(s seat) (int64, error) {
	c, err := x.conn(s.addr)
	if err != nil {
		return 0, err
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = 7, -1
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.Timestamp = s.key.Partition, s.epoch, -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic, t.Partitions = ChurnTopic, []kmsg.ListOffsetsRequestTopicPartition{p}
	req.Topics = append(req.Topics, t)
	answer, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	got := answer.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	return got.Offset, kerr.ErrorForCode(got.ErrorCode)
}
