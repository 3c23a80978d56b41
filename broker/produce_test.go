package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// records is one batch of n records of size bytes.
func records(p protocol.BatchParams, n, size int) []byte {
	rs := make([]protocol.Record, n)
	for i := range rs {
		rs[i] = protocol.Record{OffsetDelta: int32(i), Value: make([]byte, size)}
		copy(rs[i].Value, fmt.Sprint("record ", i))
	}
	if p.BaseTimestamp == 0 {
		p.BaseTimestamp = time.Now().UnixMilli()
	}
	return protocol.AppendBatch(nil, p, rs)
}

type produced = kmsg.ProduceResponseTopicPartition

func produceRequest(version, acks int16) *kmsg.ProduceRequest {
	r := kmsg.NewPtrProduceRequest()
	r.Version, r.Acks, r.TimeoutMillis = version, acks, 5000
	return r
}

func addRecords(r *kmsg.ProduceRequest, topic string, id [16]byte, partition int32, recs []byte) *kmsg.ProduceRequest {
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, recs
	t.Partitions = append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	return r
}

// produce sends a batch to one partition and returns its answer.
func (c *client) produce(version, acks int16, topic string, id [16]byte, partition int32, recs []byte) produced {
	c.t.Helper()
	resp := c.ask(addRecords(produceRequest(version, acks), topic, id, partition, recs)).(*kmsg.ProduceResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		c.t.Fatalf("answer for other partitions: %+v", resp)
	}
	t := resp.Topics[0]
	if version >= 13 && t.TopicID != id || version < 13 && t.Topic != topic || t.Partitions[0].Partition != partition {
		c.t.Fatalf("answer for another partition: %+v", t)
	}
	return t.Partitions[0]
}

func TestProduceVersions(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	offset := int64(0)
	for v := int16(3); v <= 13; v++ {
		for _, acks := range []int16{1, -1} {
			p := c.produce(v, acks, "t", id, 0, records(protocol.BatchParams{}, 3, 10))
			if p.ErrorCode != 0 || p.BaseOffset != offset || p.LogAppendTime != -1 || p.ErrorMessage != nil || len(p.ErrorRecords) > 0 {
				t.Errorf("v%d acks %d: %+v, want offset %d", v, acks, p, offset)
			}
			if want := int64(0); v >= 5 && p.LogStartOffset != want {
				t.Errorf("v%d: log start %d", v, p.LogStartOffset)
			}
			offset += 3
		}
		// Without acks there is no answer: the next request's comes first.
		c.send(c.frame(addRecords(produceRequest(v, 0), "t", id, 0, records(protocol.BatchParams{}, 1, 10))))
		offset++
	}
	c.ask(apiVersionsRequest(0))
}

// TestProduceErrors: what Apache Kafka 4.3.1 answered to the same.
func TestProduceErrors(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	b.createTopic("__consumer_offsets", 1, nil)
	c := b.dial()
	good := func() []byte { return records(protocol.BatchParams{}, 1, 10) }
	flipped := good()
	flipped[30] ^= 1
	future := records(protocol.BatchParams{BaseTimestamp: time.Now().Add(3 * time.Hour).UnixMilli()}, 1, 10)
	txn := records(protocol.BatchParams{Transactional: true, Producer: &protocol.Producer{ID: 4242}}, 1, 10)
	for _, test := range []struct {
		name      string
		version   int16
		acks      int16
		topic     string
		id        [16]byte
		partition int32
		records   []byte
		want      *kerr.Error
	}{
		{"unknown topic", 12, 1, "other", id, 0, good(), kerr.UnknownTopicOrPartition},
		{"empty topic name", 12, 1, "", id, 0, good(), kerr.UnknownTopicOrPartition},
		{"unknown partition", 12, 1, "t", id, 77, good(), kerr.UnknownTopicOrPartition},
		{"negative partition", 12, 1, "t", id, -1, good(), kerr.UnknownTopicOrPartition},
		{"unknown id", 13, 1, "", [16]byte{1}, 0, good(), kerr.UnknownTopicID},
		{"zero id", 13, 1, "", [16]byte{}, 0, good(), kerr.UnknownTopicID},
		{"unknown partition by id", 13, 1, "", id, 77, good(), kerr.UnknownTopicOrPartition},
		{"acks 5", 9, 5, "t", id, 0, good(), kerr.InvalidRequiredAcks},
		{"acks -2", 9, -2, "t", id, 0, good(), kerr.InvalidRequiredAcks},
		{"acks 5 to an unknown topic", 9, 5, "other", id, 0, good(), kerr.UnknownTopicOrPartition},
		{"acks 5 without a batch", 9, 5, "t", id, 0, []byte{}, kerr.InvalidRecord},
		{"no batch", 9, 1, "t", id, 0, []byte{}, kerr.InvalidRecord},
		{"null", 9, 1, "t", id, 0, nil, kerr.InvalidRecord},
		{"two batches", 9, 1, "t", id, 0, append(good(), good()...), kerr.InvalidRecord},
		{"half a batch", 9, 1, "t", id, 0, good()[:70], kerr.InvalidRecord},
		{"one byte", 9, 1, "t", id, 0, []byte{0}, kerr.InvalidRecord},
		{"wrong CRC", 9, 1, "t", id, 0, flipped, kerr.CorruptMessage},
		{"internal topic", 9, 1, "__consumer_offsets", id, 0, good(), kerr.InvalidTopicException},
		{"transactional without id", 9, -1, "t", id, 0, txn, kerr.TransactionalIDAuthorizationFailed},
		{"far future", 9, 1, "t", id, 0, future, kerr.InvalidTimestamp},
		{"too large", 9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 2<<20), kerr.MessageTooLarge},
	} {
		p := c.produce(test.version, test.acks, test.topic, test.id, test.partition, test.records)
		if p.ErrorCode != test.want.Code || p.BaseOffset != -1 || p.LogAppendTime != -1 {
			t.Errorf("%s: code %d, offset %d, time %d; want %v", test.name, p.ErrorCode, p.BaseOffset, p.LogAppendTime, test.want)
		}
		if test.name == "far future" && (len(p.ErrorRecords) != 1 || p.ErrorMessage == nil || p.LogStartOffset != 0) {
			t.Errorf("%s: no record named: %+v", test.name, p)
		}
	}
	// Nothing of this was written, and the connection is as good as before.
	if p := c.produce(9, -1, "t", id, 0, good()); p.ErrorCode != 0 || p.BaseOffset != 0 {
		t.Errorf("after the errors: %+v", p)
	}
}

// TestTransactionalProduce: only the transactional batch of a request fails. It
// does with what makes producers try again, since this broker runs no
// transaction coordinator that could know of its transaction.
func TestTransactionalProduce(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 2, nil)
	r := produceRequest(9, -1)
	r.TransactionID = kmsg.StringPtr("some-txn")
	addRecords(r, "t", id, 0, records(protocol.BatchParams{Transactional: true, Producer: &protocol.Producer{ID: 4242}}, 1, 10))
	addRecords(r, "t", id, 1, records(protocol.BatchParams{}, 1, 10))
	resp := b.dial().ask(r).(*kmsg.ProduceResponse)
	if got := resp.Topics[0].Partitions[0].ErrorCode; got != kerr.NotEnoughReplicas.Code {
		t.Errorf("transactional batch: %d", got)
	}
	if got := resp.Topics[1].Partitions[0]; got.ErrorCode != 0 || got.BaseOffset != 0 {
		t.Errorf("other batch: %+v", got)
	}
}

// TestProduceWithoutAcks: an error closes the connection, there being no other
// way to tell.
func TestProduceWithoutAcks(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	c.send(c.frame(addRecords(produceRequest(9, 0), "t", id, 0, records(protocol.BatchParams{}, 1, 10))))
	c.ask(apiVersionsRequest(0))
	c.send(c.frame(addRecords(produceRequest(9, 0), "other", id, 0, records(protocol.BatchParams{}, 1, 10))))
	c.expectClosed()
}

// TestAdminClientMayWriteInternalTopics, as Kafka's own tools do.
func TestAdminClientMayWriteInternalTopics(t *testing.T) {
	b := startBroker(t, nil)
	b.createTopic("__consumer_offsets", 1, nil)
	c := b.dial()
	req := addRecords(produceRequest(9, 1), "__consumer_offsets", [16]byte{}, 0, records(protocol.BatchParams{}, 1, 10))
	c.correlation++
	c.send(kmsg.NewRequestFormatter(kmsg.FormatterClientID("__admin_client")).AppendRequest(nil, req, c.correlation))
	resp := c.answer(req, c.correlation).(*kmsg.ProduceResponse)
	// The topic is compacted, the record has no key: the log says so, which
	// it would not have been asked otherwise.
	if code := resp.Topics[0].Partitions[0].ErrorCode; code == kerr.InvalidTopicException.Code {
		t.Errorf("code %d", code)
	}
}

// TestIdempotence: a batch that is sent again is answered with its first
// offset, a gap is refused.
func TestIdempotence(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	at := func(seq int32) []byte {
		return records(protocol.BatchParams{Producer: &protocol.Producer{ID: 7, BaseSequence: seq}}, 2, 10)
	}
	for _, test := range []struct {
		seq    int32
		offset int64
		code   int16
	}{{0, 0, 0}, {2, 2, 0}, {0, 0, 0}, {2, 2, 0}, {4, 4, 0}, {9, -1, kerr.OutOfOrderSequenceNumber.Code}} {
		p := c.produce(9, -1, "t", id, 0, at(test.seq))
		if p.ErrorCode != test.code || p.BaseOffset != test.offset {
			t.Errorf("sequence %d: code %d, offset %d; want %d, %d", test.seq, p.ErrorCode, p.BaseOffset, test.code, test.offset)
		}
	}
}

// TestProduceRefusalDetails: what goes with an error code, as Apache Kafka 4.3.1
// answers it.
func TestProduceRefusalDetails(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	zstd := records(protocol.BatchParams{Codec: protocol.Zstd}, 1, 10)
	if p := c.produce(5, -1, "t", id, 0, zstd); p.ErrorCode != kerr.UnsupportedCompressionType.Code || p.LogStartOffset != -1 {
		t.Errorf("zstd before v7: error %d, log start %d, want %d and -1", p.ErrorCode, p.LogStartOffset, kerr.UnsupportedCompressionType.Code)
	}
	magic3 := records(protocol.BatchParams{}, 1, 10)
	magic3[16] = 3
	p := c.produce(9, -1, "t", id, 0, magic3)
	if p.ErrorCode != kerr.CorruptMessage.Code || p.ErrorMessage == nil || *p.ErrorMessage != "Invalid magic found in record: 3" {
		t.Errorf("magic 3: error %d, message %v", p.ErrorCode, p.ErrorMessage)
	}
}
