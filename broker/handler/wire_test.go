package handler

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

var (
	genName = rapid.StringMatching(`[a-z.]{0,20}`)
	genID   = rapid.Custom(func(t *rapid.T) (id [16]byte) {
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		return id
	})
	genBytes = rapid.SliceOfN(rapid.Byte(), 0, 300)
	genCount = rapid.IntRange(0, 3)
)

func genText(t *rapid.T) *string {
	if rapid.Bool().Draw(t, "null") {
		return nil
	}
	s := rapid.String().Draw(t, "text")
	return &s
}

func genProduceRequest(t *rapid.T, version int16) *kmsg.ProduceRequest {
	r := kmsg.NewPtrProduceRequest()
	r.Version = version
	r.TransactionID = genText(t)
	r.Acks, r.TimeoutMillis = rapid.Int16().Draw(t, "acks"), rapid.Int32().Draw(t, "timeout")
	for range genCount.Draw(t, "topics") {
		topic := kmsg.NewProduceRequestTopic()
		if version >= 13 {
			topic.TopicID = genID.Draw(t, "id")
		} else {
			topic.Topic = genName.Draw(t, "topic")
		}
		for range genCount.Draw(t, "partitions") {
			p := kmsg.NewProduceRequestTopicPartition()
			p.Partition = rapid.Int32().Draw(t, "partition")
			if rapid.Bool().Draw(t, "records") {
				p.Records = genBytes.Draw(t, "records")
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		r.Topics = append(r.Topics, topic)
	}
	return r
}

func TestProduceDecodesAsKmsg(t *testing.T) {
	var reused Request // as a connection does
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.Int16Range(3, 13).Draw(t, "version")
		body := genProduceRequest(t, version).AppendTo(nil)
		compareDecode(t, &reused, 0, version, body, decodeProduce)
	})
}

func genFetchRequest(t *rapid.T, version int16) *kmsg.FetchRequest {
	i32 := rapid.Int32()
	r := kmsg.NewPtrFetchRequest()
	r.Version = version
	if version <= 14 {
		r.ReplicaID = i32.Draw(t, "replica")
	} else if rapid.Bool().Draw(t, "state") {
		r.ReplicaState.ID, r.ReplicaState.Epoch = i32.Draw(t, "replica"), rapid.Int64().Draw(t, "epoch")
	}
	r.MaxWaitMillis, r.MinBytes, r.MaxBytes = i32.Draw(t, "wait"), i32.Draw(t, "min"), i32.Draw(t, "max")
	r.IsolationLevel = rapid.Int8().Draw(t, "isolation")
	r.SessionID, r.SessionEpoch = i32.Draw(t, "session"), i32.Draw(t, "epoch")
	r.Rack = genName.Draw(t, "rack")
	for range genCount.Draw(t, "topics") {
		topic := kmsg.NewFetchRequestTopic()
		topic.Topic, topic.TopicID = genName.Draw(t, "topic"), genID.Draw(t, "id")
		for range genCount.Draw(t, "partitions") {
			p := kmsg.NewFetchRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.FetchOffset = i32.Draw(t, "p"), i32.Draw(t, "epoch"), rapid.Int64().Draw(t, "offset")
			p.LastFetchedEpoch, p.LogStartOffset, p.PartitionMaxBytes = i32.Draw(t, "last"), rapid.Int64().Draw(t, "start"), i32.Draw(t, "max")
			topic.Partitions = append(topic.Partitions, p)
		}
		r.Topics = append(r.Topics, topic)
	}
	for range genCount.Draw(t, "forgotten") {
		topic := kmsg.NewFetchRequestForgottenTopic()
		topic.Topic, topic.TopicID = genName.Draw(t, "topic"), genID.Draw(t, "id")
		topic.Partitions = rapid.SliceOfN(i32, 0, 3).Draw(t, "partitions")
		r.ForgottenTopics = append(r.ForgottenTopics, topic)
	}
	return r
}

func TestFetchDecodesAsKmsg(t *testing.T) {
	var reused Request
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.Int16Range(4, 18).Draw(t, "version")
		body := genFetchRequest(t, version).AppendTo(nil)
		compareDecode(t, &reused, 1, version, body, decodeFetch)
	})
}

// compareDecode decodes body by hand and by kmsg, and compares what both encode
// from it: empty and null slices of structs are the same then.
func compareDecode(t rapid.TB, r *Request, key, version int16, body []byte, decode func(*Request, []byte) (kmsg.Request, error)) {
	t.Helper()
	r.Header = protocol.Header{Key: key, Version: version}
	r.fetch.reset()
	r.produce.reset()
	got, err := decode(r, bytes.Clone(body))
	if err != nil {
		t.Fatalf("decoding: %v", err)
	}
	want := kmsg.RequestForKey(key)
	want.SetVersion(version)
	if err := want.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	if g, w := got.AppendTo(nil), want.AppendTo(nil); !bytes.Equal(g, w) {
		t.Fatalf("version %d:\n got % x\nwant % x", version, g, w)
	}
}

// fuzzDecode: nothing panics, what kmsg refuses is refused, and what both take
// is the same.
func fuzzDecode(f *testing.F, key, low, high int16, decode func(*Request, []byte) (kmsg.Request, error)) {
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if version < low || version > high {
			return
		}
		var malformed *protocol.MalformedError
		r := Request{Header: protocol.Header{Key: key, Version: version}}
		got, err := decode(&r, bytes.Clone(body))
		want, wantErr := protocol.Decode(key, version, body)
		if err != nil {
			return // ours is stricter about null where Kafka has none
		}
		if errors.As(wantErr, &malformed) && strings.Contains(malformed.Reason, "too much memory") {
			return // tags that nobody knows take none when decoding by hand
		}
		if wantErr != nil {
			t.Fatalf("accepted what is refused otherwise: %v", wantErr)
		}
		clearTags(reflect.ValueOf(want).Elem())
		if g, w := got.AppendTo(nil), want.AppendTo(nil); !bytes.Equal(g, w) {
			t.Fatalf("version %d:\n got % x\nwant % x", version, g, w)
		}
	})
}

// clearTags removes what decoding by hand drops: tags that nobody knows, and
// those that are of no use to a broker.
func clearTags(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch name := v.Type().Field(i).Name; {
		case name == "UnknownTags", name == "ClusterID", name == "ReplicaDirectoryID":
			f.SetZero()
		case name == "HighWatermark":
			f.SetInt(1<<63 - 1)
		case f.Kind() == reflect.Struct:
			clearTags(f)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			for j := range f.Len() {
				clearTags(f.Index(j))
			}
		}
	}
}

func FuzzDecodeProduce(f *testing.F) {
	for v := int16(3); v <= 13; v++ {
		r := kmsg.NewPtrProduceRequest()
		r.Version, r.Acks = v, 1
		topic := kmsg.NewProduceRequestTopic()
		topic.Topic = "t"
		p := kmsg.NewProduceRequestTopicPartition()
		p.Records = []byte("records")
		topic.Partitions = append(topic.Partitions, p)
		r.Topics = append(r.Topics, topic)
		f.Add(v, r.AppendTo(nil))
	}
	fuzzDecode(f, 0, 3, 13, decodeProduce)
}

func FuzzDecodeFetch(f *testing.F) {
	for v := int16(4); v <= 18; v++ {
		r := kmsg.NewPtrFetchRequest()
		r.Version = v
		topic := kmsg.NewFetchRequestTopic()
		topic.Topic = "t"
		topic.Partitions = append(topic.Partitions, kmsg.NewFetchRequestTopicPartition())
		r.Topics = append(r.Topics, topic)
		gone := kmsg.NewFetchRequestForgottenTopic()
		gone.Partitions = []int32{1}
		r.ForgottenTopics = append(r.ForgottenTopics, gone)
		f.Add(v, r.AppendTo(nil))
	}
	fuzzDecode(f, 1, 4, 18, decodeFetch)
}

func TestProduceResponseEncodesAsKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i32, i64 := rapid.Int32(), rapid.Int64()
		v := rapid.Int16Range(3, 13).Draw(t, "version")
		var r produceResponse
		r.Version, r.ThrottleMillis = v, i32.Draw(t, "throttle")
		for range genCount.Draw(t, "topics") {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID = genName.Draw(t, "topic"), genID.Draw(t, "id")
			for range genCount.Draw(t, "partitions") {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = i32.Draw(t, "p"), rapid.Int16().Draw(t, "code")
				p.BaseOffset, p.LogAppendTime, p.LogStartOffset = i64.Draw(t, "base"), i64.Draw(t, "time"), i64.Draw(t, "start")
				p.ErrorMessage = genText(t)
				for range genCount.Draw(t, "records") {
					e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
					e.RelativeOffset, e.ErrorMessage = i32.Draw(t, "index"), genText(t)
					p.ErrorRecords = append(p.ErrorRecords, e)
				}
				if v >= 10 && rapid.Bool().Draw(t, "leader") {
					p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch = rapid.Int32Min(0).Draw(t, "leader"), rapid.Int32Min(0).Draw(t, "epoch")
				}
				topic.Partitions = append(topic.Partitions, p)
			}
			r.Topics = append(r.Topics, topic)
		}
		if v >= 10 {
			for range genCount.Draw(t, "brokers") {
				e := kmsg.NewProduceResponseBroker()
				e.NodeID, e.Host, e.Port, e.Rack = i32.Draw(t, "id"), rapid.StringN(0, 200, -1).Draw(t, "host"), i32.Draw(t, "port"), genText(t)
				r.Brokers = append(r.Brokers, e)
			}
		}
		got, want := r.AppendTo([]byte("x")), r.ProduceResponse.AppendTo([]byte("x"))
		if !bytes.Equal(got, want) {
			t.Fatalf("version %d:\n got % x\nwant % x", v, got, want)
		}
	})
}

func TestFetchResponseEncodesAsKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int16Range(4, 18).Draw(t, "version")
		got, want := genFetchResponse(t, v)
		w := protocol.AppendResponse(nil, 77, want)
		if g := protocol.AppendResponse(nil, 77, got); !bytes.Equal(g, w) {
			t.Fatalf("version %d:\n got % x\nwant % x", v, g, w)
		}
		// In pieces, as the sender sends it, behind something else.
		const before = "before"
		frame, splices := got.AppendFrame([]byte(before), 77)
		frame = frame[len(before):]
		var g []byte
		at := 0
		for _, s := range splices {
			g = append(append(g, frame[at:s.At]...), s.Slice.Mem...)
			at = s.At
		}
		g = append(g, frame[at:]...)
		if !bytes.Equal(g[4:], w[4:]) {
			t.Fatalf("version %d in pieces:\n got % x\nwant % x", v, g, w)
		}
	})
}

// genFetchResponse makes the same response in our form and in kmsg's.
func genFetchResponse(t *rapid.T, v int16) (*fetchResponse, *kmsg.FetchResponse) {
	i32 := rapid.Int32()
	got, want := new(fetchResponse), kmsg.NewPtrFetchResponse()
	want.Version, want.ThrottleMillis = v, i32.Draw(t, "throttle")
	if v >= 7 {
		want.ErrorCode, want.SessionID = rapid.Int16().Draw(t, "code"), i32.Draw(t, "session")
	}
	if v >= 16 {
		for range genCount.Draw(t, "brokers") {
			e := kmsg.NewFetchResponseBroker()
			e.NodeID, e.Host, e.Port, e.Rack = i32.Draw(t, "id"), rapid.StringN(0, 200, -1).Draw(t, "host"), i32.Draw(t, "port"), genText(t)
			want.Brokers = append(want.Brokers, e)
		}
	}
	got.FetchResponse = *want
	for n := range genCount.Draw(t, "topics") {
		topic := kmsg.NewFetchResponseTopic()
		topic.Topic, topic.TopicID = genName.Draw(t, "topic"), genID.Draw(t, "id")
		topic.Topic += string(rune('A' + n)) // neighbours of one topic are one
		if v >= 13 {
			topic.Topic = ""
			topic.TopicID[0] = byte(n)
		} else {
			topic.TopicID = [16]byte{}
		}
		for range rapid.IntRange(1, 3).Draw(t, "partitions") {
			p, r := genFetchPartition(t, v)
			r.e.topic, r.e.id = topic.Topic, topic.TopicID
			topic.Partitions = append(topic.Partitions, p)
			got.results = append(got.results, r)
		}
		want.Topics = append(want.Topics, topic)
	}
	return got, want
}

func genFetchPartition(t *rapid.T, v int16) (kmsg.FetchResponseTopicPartition, fetchResult) {
	i32, i64 := rapid.Int32(), rapid.Int64()
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition, p.ErrorCode = i32.Draw(t, "p"), rapid.Int16().Draw(t, "code")
	p.HighWatermark, p.LastStableOffset, p.LogStartOffset = i64.Draw(t, "hw"), i64.Draw(t, "lso"), i64.Draw(t, "start")
	p.PreferredReadReplica = i32.Draw(t, "preferred")
	p.RecordBatches = genBytes.Draw(t, "records")
	r := fetchResult{e: &fetchEntry{partition: p.Partition}, code: p.ErrorCode, leader: -1, leaderEpoch: -1}
	r.HighWatermark, r.LastStableOffset, r.LogStartOffset = p.HighWatermark, p.LastStableOffset, p.LogStartOffset
	r.PreferredReplica = p.PreferredReadReplica
	r.Slice = storage.Slice{Mem: p.RecordBatches, Len: len(p.RecordBatches)}
	if rapid.Bool().Draw(t, "committed") {
		p.AbortedTransactions, r.Aborted = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}, []storage.AbortedTxn{}
		for range genCount.Draw(t, "aborted") {
			a := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
			a.ProducerID, a.FirstOffset = i64.Draw(t, "producer"), i64.Draw(t, "first")
			p.AbortedTransactions = append(p.AbortedTransactions, a)
			r.Aborted = append(r.Aborted, storage.AbortedTxn{ProducerID: a.ProducerID, FirstOffset: a.FirstOffset})
		}
	}
	if v >= 12 && rapid.Bool().Draw(t, "diverging") {
		p.DivergingEpoch.Epoch, p.DivergingEpoch.EndOffset = rapid.Int32Min(0).Draw(t, "epoch"), rapid.Int64Min(0).Draw(t, "end")
		r.Diverging = &replication.EpochEnd{Epoch: p.DivergingEpoch.Epoch, EndOffset: p.DivergingEpoch.EndOffset}
	}
	if v >= 12 && rapid.Bool().Draw(t, "leader") {
		p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch = rapid.Int32Min(0).Draw(t, "leader"), rapid.Int32Min(0).Draw(t, "epoch")
		r.leader, r.leaderEpoch = p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch
	}
	return p, r
}

func TestSoftwareNames(t *testing.T) {
	for name, want := range map[string]bool{
		"": false, "a": true, "apache-kafka-java": true, "4.3.1": true, "-a": false, "a-": false, ".": false,
		"a b": false, "a_b": false, "a\x00": false, "é": false,
	} {
		if got := validSoftwareName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
