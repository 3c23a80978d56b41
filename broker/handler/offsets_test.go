package handler_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
)

// The answers in this file were read off Apache Kafka 4.3.1, over the same
// records, where the comment does not say otherwise.

// newLabWithRecords has a topic "t" with seven records in partition 0 and none
// in partition 1, a compacted topic "c", and one producer.
func newLabWithRecords(t *testing.T) *lab {
	l := newLab(t)
	l.create("t", 2, nil)
	l.create("c", 1, map[string]string{"cleanup.policy": "compact"})
	p := &protocol.Producer{ID: 181}
	for _, batch := range [][]int64{{1000}, {3000}, {2000}, {5000, 7000, 7000, 6000}} {
		l.produce("t", 0, p, batch...)
		p.BaseSequence += int32(len(batch))
	}
	return l
}

func name(code int16) string {
	if code == 0 {
		return "NONE"
	}
	return kerr.TypedErrorForCode(code).Message
}

func listOffset(l *lab, version int16, replica int32, isolation int8, partition, epoch int32, ts int64) string {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = replica, isolation
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = "t"
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = partition, ts, epoch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	p := ask[*kmsg.ListOffsetsResponse](l, req, version).Topics[0].Partitions[0]
	if p.Partition != partition {
		l.t.Errorf("answer for partition %d", p.Partition)
	}
	return fmt.Sprintf("%s %d %d %d", name(p.ErrorCode), p.Timestamp, p.Offset, p.LeaderEpoch)
}

func TestListOffsetsBySpecialTimestamp(t *testing.T) {
	l := newLabWithRecords(t)
	const unsupported = "UNSUPPORTED_VERSION -1 -1 -1"
	for _, c := range []struct {
		partition int32
		ts        int64
		since     int16
		want      string
	}{
		{0, -1, 1, "NONE -1 7 0"},
		{0, -2, 1, "NONE -1 0 0"},
		{0, -3, 7, "NONE 7000 4 0"},
		{0, -4, 8, "NONE -1 0 0"},
		{0, -5, 9, "NONE -1 -1 -1"},
		{0, -6, 11, "NONE -1 -1 -1"},
		{0, -7, 12, ""},
		{0, -100, 12, ""},
		{0, 0, 1, "NONE 1000 0 0"},
		{0, 1500, 1, "NONE 3000 1 0"},
		{0, 6500, 1, "NONE 7000 4 0"},
		{0, 7001, 1, "NONE -1 -1 -1"},
		{1, -1, 1, "NONE -1 0 0"},
		{1, -2, 1, "NONE -1 0 0"},
		{1, -3, 7, "NONE -1 -1 -1"},
		{1, -4, 8, "NONE -1 0 0"},
		{1, -5, 9, "NONE -1 -1 -1"},
		{1, -6, 11, "NONE -1 -1 -1"},
		{1, 5, 1, "NONE -1 -1 -1"},
	} {
		for v := int16(1); v <= 11; v++ {
			for isolation := range int8(2) {
				want := c.want
				if v < c.since {
					want = unsupported
				} else if v < 4 { // the version has no leader epoch
					want = want[:strings.LastIndex(want, " ")] + " -1"
				}
				if got := listOffset(l, v, -1, isolation, c.partition, -1, c.ts); got != want {
					t.Errorf("v%d, isolation %d, partition %d, timestamp %d: %s, want %s", v, isolation, c.partition, c.ts, got, want)
				}
			}
		}
	}
}

func TestListOffsetsErrors(t *testing.T) {
	l := newLabWithRecords(t)
	for _, c := range []struct {
		replica          int32
		isolation        int8
		partition, epoch int32
		ts               int64
		want             string
	}{
		{-1, 0, 0, 0, -1, "NONE -1 7 0"},
		{-1, 0, 0, 1, -1, "UNKNOWN_LEADER_EPOCH -1 -1 -1"},
		{-1, 0, 0, -2, -1, "FENCED_LEADER_EPOCH -1 -1 -1"},
		{-1, 0, 0, 5, -3, "UNKNOWN_LEADER_EPOCH -1 -1 -1"},
		{-1, 0, 0, 5, -5, "UNKNOWN_LEADER_EPOCH -1 -1 -1"},
		{-1, 0, 9, -1, -1, "UNKNOWN_TOPIC_OR_PARTITION -1 -1 -1"},
		{-1, 0, -1, -1, -1, "UNKNOWN_TOPIC_OR_PARTITION -1 -1 -1"},
		{-1, 0, 9, -1, -9, "UNSUPPORTED_VERSION -1 -1 -1"},
		{-1, 2, 0, -1, -1, "UNKNOWN_SERVER_ERROR -1 -1 -1"},
		{-2, 0, 0, -1, -1, "NONE -1 7 0"},
		{7, 0, 0, -1, -1, "NONE -1 7 0"},
	} {
		if got := listOffset(l, 11, c.replica, c.isolation, c.partition, c.epoch, c.ts); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// A partition asked for twice is answered once. Kafka gives topics and
// partitions in the order of a hash table, we in that of the request.
func TestListOffsetsTwiceTheSame(t *testing.T) {
	l := newLabWithRecords(t)
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for _, topic := range []string{"t", "t", ""} {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for _, n := range []int32{1, 0, 0} {
			if topic == "t" && len(req.Topics) == 1 {
				n += 5
			}
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = n, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	var got []string
	for _, rt := range ask[*kmsg.ListOffsetsResponse](l, req, 11).Topics {
		for _, p := range rt.Partitions {
			got = append(got, fmt.Sprintf("%s-%d %s %d", rt.Topic, p.Partition, name(p.ErrorCode), p.Offset))
		}
	}
	want := []string{
		"t-1 NONE 0", "t-0 INVALID_REQUEST -1",
		"t-6 UNKNOWN_TOPIC_OR_PARTITION -1", "t-5 INVALID_REQUEST -1",
		"-1 UNKNOWN_TOPIC_OR_PARTITION -1", "-0 INVALID_REQUEST -1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestListOffsetsAboveTheLogStart(t *testing.T) {
	l := newLabWithRecords(t)
	if got := deleteRecordsOf(l, 2, "t", 0, 5); got != "NONE 5" {
		t.Fatal(got)
	}
	for ts, want := range map[int64]string{
		-1: "NONE -1 7 0", -2: "NONE -1 5 0", -4: "NONE -1 5 0",
		0: "NONE 7000 5 0", 1000: "NONE 7000 5 0", 5000: "NONE 7000 5 0", 6000: "NONE 7000 5 0", 7000: "NONE 7000 5 0",
	} {
		if got := listOffset(l, 11, -1, 0, 0, -1, ts); got != want {
			t.Errorf("timestamp %d: %s, want %s", ts, got, want)
		}
	}
}

func deleteRecordsOf(l *lab, version int16, topic string, partition int32, offset int64) string {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 1000
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewDeleteRecordsRequestTopicPartition()
	rp.Partition, rp.Offset = partition, offset
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	p := ask[*kmsg.DeleteRecordsResponse](l, req, version).Topics[0].Partitions[0]
	return fmt.Sprintf("%s %d", name(p.ErrorCode), p.LowWatermark)
}

func TestDeleteRecords(t *testing.T) {
	l := newLabWithRecords(t)
	l.create("__consumer_offsets", 1, nil)
	for i, c := range []struct {
		topic     string
		partition int32
		offset    int64
		want      string
	}{
		{"t", 0, 2, "NONE 2"},
		{"t", 0, 1, "NONE 2"},
		{"t", 0, -2, "OFFSET_OUT_OF_RANGE -1"},
		{"t", 0, 100, "OFFSET_OUT_OF_RANGE -1"},
		{"t", 0, -1, "NONE 7"},
		{"t", 1, -1, "NONE 0"},
		{"t", 1, 0, "NONE 0"},
		{"t", 5, 0, "UNKNOWN_TOPIC_OR_PARTITION -1"},
		{"nope", 0, 0, "UNKNOWN_TOPIC_OR_PARTITION -1"},
		{"", 0, 0, "UNKNOWN_TOPIC_OR_PARTITION -1"},
		{"c", 0, 0, "POLICY_VIOLATION -1"},
		{"c", 0, 100, "POLICY_VIOLATION -1"},
		{"__consumer_offsets", 0, 0, "INVALID_TOPIC_EXCEPTION -1"},
	} {
		if got := deleteRecordsOf(l, int16(i%3), c.topic, c.partition, c.offset); got != c.want {
			t.Errorf("%s-%d below %d: %s, want %s", c.topic, c.partition, c.offset, got, c.want)
		}
	}
}

// Of a partition named twice, also in two entries of its topic, there is one
// answer.
func TestDeleteRecordsTwiceTheSame(t *testing.T) {
	l := newLabWithRecords(t)
	req := kmsg.NewPtrDeleteRecordsRequest()
	for range 2 {
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = "t"
		for i, n := range []int32{1, 0, 7, 1, 0} {
			rp := kmsg.NewDeleteRecordsRequestTopicPartition()
			rp.Partition = n
			if i == 4 {
				rp.Offset = int64(len(req.Topics) + 2) // the last one counts
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	resp := ask[*kmsg.DeleteRecordsResponse](l, req, 2)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 3 {
		t.Fatalf("%+v", resp.Topics)
	}
	if p := resp.Topics[0].Partitions[1]; p.Partition != 0 || p.LowWatermark != 3 {
		t.Fatalf("%+v", p)
	}
	if resp := ask[*kmsg.DeleteRecordsResponse](l, kmsg.NewPtrDeleteRecordsRequest(), 2); len(resp.Topics) != 0 {
		t.Fatalf("%+v", resp.Topics)
	}
}

func TestInitProducerID(t *testing.T) {
	l := newLab(t)
	text := func(s string) *string { return &s }
	seen := map[int64]bool{}
	for _, c := range []struct {
		txn   *string
		id    int64
		epoch int16
		want  string // from v3 on, which knows id and epoch
		older string // "" if the same
	}{
		{nil, -1, -1, "NONE", ""},
		{nil, 5, 3, "NONE", ""},
		{nil, 5, 32767, "NONE", ""},
		{nil, -7, -3, "NONE", ""},
		{nil, -1, 3, "INVALID_REQUEST", "NONE"},
		{nil, 5, -1, "INVALID_REQUEST", "NONE"},
		{text(""), -1, -1, "INVALID_REQUEST", ""},
		{text(""), 5, -1, "INVALID_REQUEST", ""},
		// Kafka answers this while no transaction coordinator can be reached.
		{text("tx"), -1, -1, "COORDINATOR_NOT_AVAILABLE", ""},
	} {
		for v := int16(0); v <= 5; v++ {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.TransactionalID, req.ProducerID, req.ProducerEpoch = c.txn, c.id, c.epoch
			resp := ask[*kmsg.InitProducerIDResponse](l, req, v)
			want := c.want
			if v < 3 && c.older != "" {
				want = c.older
			}
			if got := name(resp.ErrorCode); got != want {
				t.Errorf("v%d %+v: %s, want %s", v, c, got, want)
			}
			switch {
			case want != "NONE":
				if resp.ProducerID != -1 || resp.ProducerEpoch != -1 {
					t.Errorf("v%d %+v: id %d epoch %d with an error", v, c, resp.ProducerID, resp.ProducerEpoch)
				}
			case resp.ProducerEpoch != 0 || resp.ProducerID < 0 || seen[resp.ProducerID]:
				t.Errorf("v%d %+v: id %d epoch %d", v, c, resp.ProducerID, resp.ProducerEpoch)
			}
			seen[resp.ProducerID] = true
		}
	}
}

// countingCluster counts reservations of producer ids, and can fail.
type countingCluster struct {
	handler.Cluster
	reserved int
	fail     error
}

func (c *countingCluster) AllocateProducerIDs(context.Context) (int64, int32, error) {
	if c.fail != nil {
		return 0, 0, c.fail
	}
	c.reserved++
	return int64(c.reserved) * 100, 10, nil
}

func TestProducerIDsAreReservedInBlocks(t *testing.T) {
	l := newLab(t)
	cluster := &countingCluster{Cluster: l.controller}
	fields := *l.Broker
	fields.Cluster = cluster
	b, err := handler.New(fields)
	if err != nil {
		t.Fatal(err)
	}
	l.Broker = b
	var mu sync.Mutex
	ids := map[int64]bool{}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range 5 {
				resp := ask[*kmsg.InitProducerIDResponse](l, kmsg.NewPtrInitProducerIDRequest(), 5)
				mu.Lock()
				if resp.ErrorCode != 0 || ids[resp.ProducerID] {
					t.Errorf("%+v", resp)
				}
				ids[resp.ProducerID] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if cluster.reserved != 3 || len(ids) != 25 {
		t.Errorf("%d blocks of 10 for %d ids", cluster.reserved, len(ids))
	}
	cluster.fail = errors.New("no quorum")
	for range 5 {
		ask[*kmsg.InitProducerIDResponse](l, kmsg.NewPtrInitProducerIDRequest(), 5)
	}
	// Retriable, as from a Kafka broker that cannot reach its controller.
	if resp := ask[*kmsg.InitProducerIDResponse](l, kmsg.NewPtrInitProducerIDRequest(), 5); resp.ErrorCode != kerr.CoordinatorLoadInProgress.Code {
		t.Errorf("%+v", resp)
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	l := newLabWithRecords(t)
	for _, c := range []struct {
		topic          string
		partition      int32
		current, epoch int32
		replica        int32
		want           string
	}{
		{"t", 0, -1, 0, -1, "NONE 0 7"},
		{"t", 0, -1, 1, -1, "NONE -1 -1"},
		{"t", 0, -1, -1, -1, "NONE -1 -1"},
		{"t", 0, 0, 0, -1, "NONE 0 7"},
		{"t", 0, 1, 0, -1, "UNKNOWN_LEADER_EPOCH -1 -1"},
		{"t", 0, -2, 0, -1, "FENCED_LEADER_EPOCH -1 -1"},
		{"t", 1, -1, 0, -1, "NONE 0 0"},
		{"t", 9, -1, 0, -1, "UNKNOWN_TOPIC_OR_PARTITION -1 -1"},
		{"nope", 0, -1, 0, -1, "UNKNOWN_TOPIC_OR_PARTITION -1 -1"},
		{"t", 0, -1, 0, -2, "NONE 0 7"},
		{"t", 0, -1, 0, 5, "NONE 0 7"},
	} {
		for v := int16(2); v <= 4; v++ {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			req.ReplicaID = c.replica
			rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
			rt.Topic = c.topic
			rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = c.partition, c.current, c.epoch
			rt.Partitions = append(rt.Partitions, rp, rp) // asked twice, answered twice
			req.Topics = append(req.Topics, rt)
			resp := ask[*kmsg.OffsetForLeaderEpochResponse](l, req, v)
			if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 2 {
				t.Fatalf("%+v", resp)
			}
			for _, p := range resp.Topics[0].Partitions {
				if got := fmt.Sprintf("%s %d %d", name(p.ErrorCode), p.LeaderEpoch, p.EndOffset); got != c.want || p.Partition != c.partition {
					t.Errorf("v%d %+v: %s", v, c, got)
				}
			}
		}
	}
}

func TestDescribeProducers(t *testing.T) {
	l := newLabWithRecords(t)
	for _, c := range []struct {
		topic     string
		partition int32
		want      string
	}{
		{"t", 0, "NONE null [{181 0 6 7000 -1 -1 {map[]}}]"},
		{"t", 1, "NONE null []"},
		{"t", 7, "UNKNOWN_TOPIC_OR_PARTITION null []"},
		{"nope", 0, "UNKNOWN_TOPIC_OR_PARTITION This server does not host this topic-partition. []"},
		{"", 0, "INVALID_TOPIC_EXCEPTION Topic name is invalid: the empty string is not allowed []"},
		{"a b!", 0, "INVALID_TOPIC_EXCEPTION Topic name is invalid: 'a b!' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-' []"},
	} {
		req := kmsg.NewPtrDescribeProducersRequest()
		rt := kmsg.NewDescribeProducersRequestTopic()
		rt.Topic, rt.Partitions = c.topic, []int32{c.partition}
		req.Topics = append(req.Topics, rt)
		p := ask[*kmsg.DescribeProducersResponse](l, req, 0).Topics[0].Partitions[0]
		message := "null"
		if p.ErrorMessage != nil {
			message = *p.ErrorMessage
		}
		if got := fmt.Sprintf("%s %s %v", name(p.ErrorCode), message, p.ActiveProducers); got != c.want || p.Partition != c.partition {
			t.Errorf("%s-%d: %s, want %s", c.topic, c.partition, got, c.want)
		}
	}
}

// A topic that is deleted and created again has other partitions: what was
// known of the old one is forgotten.
func TestOffsetsOfATopicCreatedAgain(t *testing.T) {
	l := newLabWithRecords(t)
	for _, r := range l.controller.DeleteTopics(t.Context(), []metadata.TopicRef{{Name: "t"}}) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if got := listOffset(l, 11, -1, 0, 0, -1, -1); got != "UNKNOWN_TOPIC_OR_PARTITION -1 -1 -1" {
		t.Error(got)
	}
	l.create("t", 1, nil)
	if got := listOffset(l, 11, -1, 0, 0, -1, -1); got != "NONE -1 0 0" {
		t.Error(got)
	}
	l.produce("t", 0, nil, 9)
	if got := listOffset(l, 11, -1, 0, 0, -1, -3); got != "NONE 9 0 0" {
		t.Error(got)
	}
}
