package peer

import (
	"bytes"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
)

// answered is a Fetch response with everything in it that a follower may meet.
func answered() *kmsg.FetchResponse {
	r := kmsg.NewPtrFetchResponse()
	r.Version = FetchVersion
	r.ErrorCode, r.SessionID = 0, 77
	for t := range 2 {
		topic := kmsg.NewFetchResponseTopic()
		topic.TopicID = [16]byte{byte(t + 1)}
		for n := range int32(3) {
			p := kmsg.NewFetchResponseTopicPartition()
			p.Partition, p.HighWatermark, p.LastStableOffset, p.LogStartOffset = n, 10+int64(n), 9, int64(n)
			p.RecordBatches = bytes.Repeat([]byte{byte(n)}, int(n)*100)
			switch n {
			case 1:
				p.ErrorCode = kerr.OffsetOutOfRange.Code
				p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch = 3, 9
				p.AbortedTransactions = append(p.AbortedTransactions, kmsg.FetchResponseTopicPartitionAbortedTransaction{ProducerID: 1, FirstOffset: 2})
			case 2:
				p.DivergingEpoch.Epoch, p.DivergingEpoch.EndOffset = 4, 8
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		r.Topics = append(r.Topics, topic)
	}
	broker := kmsg.NewFetchResponseBroker()
	broker.NodeID, broker.Host, broker.Port = 3, "h", 9092
	r.Brokers = append(r.Brokers, broker)
	return r
}

func TestFetchIsDecodedAsWritten(t *testing.T) {
	want := answered()
	body := want.AppendTo(nil)
	l := (&Peers{}).Leader(1, "")
	var got replication.FetchResponse
	if err := l.decode(body, &got); err != nil {
		t.Fatal(err)
	}
	if got.Err != nil || got.SessionID != 77 || len(got.Partitions) != 6 {
		t.Fatalf("%+v", got)
	}
	for i, f := range got.Partitions {
		topic := want.Topics[i/3]
		p := topic.Partitions[i%3]
		diverges := p.DivergingEpoch.Epoch >= 0
		if f.Topic != topic.TopicID || f.Partition != p.Partition || protocol.Code(f.Err) != p.ErrorCode || f.HighWatermark != p.HighWatermark ||
			f.LogStart != p.LogStartOffset || !bytes.Equal(f.Records, p.RecordBatches) || (f.Diverging != nil) != diverges ||
			diverges && (f.Diverging.Epoch != 4 || f.Diverging.EndOffset != 8) {
			t.Errorf("partition %d: %+v of %+v", i, f, p)
		}
	}
	// Every prefix is refused, and decoding into used memory takes no more.
	for n := range len(body) {
		if l.decode(body[:n], &got) == nil {
			t.Fatalf("%d of %d bytes are taken for an answer", n, len(body))
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = l.decode(body, &got) }); n > 0 {
		t.Errorf("decoding an answer allocates %v times", n)
	}
}

func FuzzFetchAnswer(f *testing.F) {
	f.Add(answered().AppendTo(nil))
	f.Fuzz(func(_ *testing.T, body []byte) {
		var got replication.FetchResponse
		_ = (&Peers{}).Leader(1, "").decode(body, &got)
	})
}

func TestFetchIsEncodedAsAsked(t *testing.T) {
	l := (&Peers{}).Leader(1, "")
	req := &replication.FetchRequest{
		ReplicaID: 2, BrokerEpoch: 50, MaxWait: 500 * time.Millisecond, MinBytes: 1, MaxBytes: 1000, SessionID: 7, SessionEpoch: 3,
		Partitions: []replication.FetchPosition{
			{PartitionID: replication.PartitionID{Topic: [16]byte{1}, Partition: 0}, LeaderEpoch: 5, LastEpoch: 4, Offset: 100, LogStart: 10, MaxBytes: 99},
			{PartitionID: replication.PartitionID{Topic: [16]byte{1}, Partition: 3}, LeaderEpoch: 5, LastEpoch: -1},
			{PartitionID: replication.PartitionID{Topic: [16]byte{2}, Partition: 1}},
		},
		Forgotten: []replication.PartitionID{{Topic: [16]byte{3}, Partition: 2}, {Topic: [16]byte{3}, Partition: 4}},
	}
	for range 2 { // the second time in memory used before
		l.encode(req)
		decoded, err := protocol.Decode(1, FetchVersion, l.req.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		got := decoded.(*kmsg.FetchRequest)
		if got.ReplicaState.ID != 2 || got.ReplicaState.Epoch != 50 || got.MaxWaitMillis != 500 || got.SessionID != 7 || got.SessionEpoch != 3 ||
			len(got.Topics) != 2 || len(got.Topics[0].Partitions) != 2 || len(got.ForgottenTopics) != 1 || len(got.ForgottenTopics[0].Partitions) != 2 {
			t.Fatalf("%+v", got)
		}
		p := got.Topics[0].Partitions[0]
		if p.FetchOffset != 100 || p.CurrentLeaderEpoch != 5 || p.LastFetchedEpoch != 4 || p.LogStartOffset != 10 || p.PartitionMaxBytes != 99 {
			t.Errorf("%+v", p)
		}
	}
}
