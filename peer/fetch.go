package peer

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
)

// Leader is the wire form of replication.Leader: Kafka's own Fetch and
// ListOffsets with a replica id.
type Leader struct {
	conn *Conn
	req  kmsg.FetchRequest
	// buf holds the last answer; small counts the answers in a row that would
	// have fitted into much less.
	buf   []byte
	small int
	// ends is what the Diverging of the answer point to.
	ends []replication.EpochEnd
}

var _ replication.Leader = (*Leader)(nil)

// Leader returns a connection to a broker for one fetcher.
func (p *Peers) Leader(id int32, clientID string) *Leader {
	return &Leader{conn: p.Conn(id, clientID)}
}

// Close closes the connection.
func (l *Leader) Close() { l.conn.Close() }

// Fetch implements replication.Leader. It copies no records and allocates
// nothing per partition once its memory has grown to what the answers need.
func (l *Leader) Fetch(ctx context.Context, req *replication.FetchRequest, resp *replication.FetchResponse) error {
	l.encode(req)
	frame, err := l.conn.Do(ctx, &l.req, l.buf[:0])
	if err != nil {
		return err
	}
	l.keep(frame)
	_, body, err := protocol.ReadResponseHeader(frame, l.req.Key(), true)
	if err == nil {
		err = l.decode(body, resp)
	}
	if err != nil {
		l.conn.Close()
		return fmt.Errorf("fetch from broker %d: %w", l.conn.id, err)
	}
	return nil
}

const (
	keepAnswer    = 1 << 20
	smallInARow   = 100
	smallFraction = 8
)

// keep keeps the memory of the answer for the next one, unless it has become
// far too large.
func (l *Leader) keep(frame []byte) {
	l.buf = frame
	if cap(frame) <= keepAnswer || len(frame) > cap(frame)/smallFraction {
		l.small = 0
		return
	}
	if l.small++; l.small > smallInARow {
		l.buf, l.small = nil, 0
	}
}

// encode fills in kmsg's request, in memory that is used again.
func (l *Leader) encode(req *replication.FetchRequest) {
	r := &l.req
	topics, forgotten := r.Topics[:0], r.ForgottenTopics[:0]
	*r = kmsg.NewFetchRequest()
	r.SetVersion(FetchVersion)
	r.ReplicaState.ID, r.ReplicaState.Epoch = req.ReplicaID, req.BrokerEpoch
	r.MaxWaitMillis = int32(req.MaxWait.Milliseconds())
	r.MinBytes, r.MaxBytes = req.MinBytes, req.MaxBytes
	r.SessionID, r.SessionEpoch = req.SessionID, req.SessionEpoch
	for i := range req.Partitions {
		p := &req.Partitions[i]
		if i == 0 || p.Topic != req.Partitions[i-1].Topic {
			topics = grow(topics)
			t := &topics[len(topics)-1]
			t.TopicID, t.Partitions = p.Topic, t.Partitions[:0]
		}
		t := &topics[len(topics)-1]
		t.Partitions = append(t.Partitions, kmsg.FetchRequestTopicPartition{
			Partition: p.Partition, CurrentLeaderEpoch: p.LeaderEpoch, FetchOffset: p.Offset,
			LastFetchedEpoch: p.LastEpoch, LogStartOffset: p.LogStart, PartitionMaxBytes: p.MaxBytes,
			HighWatermark: math.MaxInt64,
		})
	}
	for i, p := range req.Forgotten {
		if i == 0 || p.Topic != req.Forgotten[i-1].Topic {
			forgotten = grow(forgotten)
			t := &forgotten[len(forgotten)-1]
			t.TopicID, t.Partitions = p.Topic, t.Partitions[:0]
		}
		t := &forgotten[len(forgotten)-1]
		t.Partitions = append(t.Partitions, p.Partition)
	}
	r.Topics, r.ForgottenTopics = topics, forgotten
}

// grow appends an element that keeps what it held before.
func grow[T any](s []T) []T {
	if len(s) < cap(s) {
		return s[:len(s)+1]
	}
	var zero T
	return append(s, zero)
}

var errShort = errors.New("the answer is cut short or malformed")

// decode reads the body of an answer. Records alias it.
func (l *Leader) decode(body []byte, resp *replication.FetchResponse) error {
	w := protocol.NewWireReader(body, true)
	w.Int32() // throttle
	resp.Err = kerr.ErrorForCode(w.Int16())
	resp.SessionID = w.Int32()
	resp.Partitions, l.ends = resp.Partitions[:0], l.ends[:0]
	for range w.NullableCount(1) {
		id := w.UUID()
		for range w.NullableCount(1) {
			if w.Failed() {
				return errShort
			}
			resp.Partitions = append(resp.Partitions, replication.Fetched{})
			f := &resp.Partitions[len(resp.Partitions)-1]
			f.Topic = id
			l.decodePartition(&w, f)
		}
		w.SkipTags()
	}
	w.SkipTags()
	if w.Failed() {
		return errShort
	}
	return nil
}

func (l *Leader) decodePartition(w *protocol.WireReader, f *replication.Fetched) {
	f.Partition = w.Int32()
	f.Err = kerr.ErrorForCode(w.Int16())
	f.HighWatermark = w.Int64()
	w.Int64() // last stable offset
	f.LogStart = w.Int64()
	for range w.NullableCount(1) { // aborted transactions: none for a follower
		w.Skip(16)
		w.SkipTags()
	}
	w.Int32() // preferred replica
	f.Records = w.Bytes()
	for n := w.TagCount(); n > 0 && !w.Failed(); n-- {
		tag, body := w.Tag()
		if tag != 0 {
			continue
		}
		if end := (replication.EpochEnd{Epoch: body.Int32(), EndOffset: body.Int64()}); !body.Failed() && end.Epoch >= 0 {
			l.ends = append(l.ends, end)
			f.Diverging = &l.ends[len(l.ends)-1]
		}
	}
}

// Bounds implements replication.Leader.
func (l *Leader) Bounds(ctx context.Context, req replication.BoundsRequest) (start, end int64, err error) {
	const latest, earliest = -1, -2
	if start, err = l.listOffset(ctx, req, earliest); err != nil {
		return 0, 0, err
	}
	end, err = l.listOffset(ctx, req, latest)
	return start, end, err
}

func (l *Leader) listOffset(ctx context.Context, req replication.BoundsRequest, ts int64) (int64, error) {
	r := kmsg.NewPtrListOffsetsRequest()
	r.SetVersion(ListOffsetsVersion)
	r.ReplicaID = req.ReplicaID
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = req.Topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.Timestamp = req.Partition, req.LeaderEpoch, ts
	t.Partitions = append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	frame, err := l.conn.Do(ctx, r, nil)
	if err != nil {
		return 0, err
	}
	resp := r.ResponseKind().(*kmsg.ListOffsetsResponse)
	if _, err := protocol.ReadResponse(frame, resp); err != nil {
		l.conn.Close()
		return 0, fmt.Errorf("offsets from broker %d: %w", l.conn.id, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("offsets from broker %d: %w", l.conn.id, errShort)
	}
	got := &resp.Topics[0].Partitions[0]
	return got.Offset, kerr.ErrorForCode(got.ErrorCode)
}
