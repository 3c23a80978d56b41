// What no client should send, and where it is held.
//
// The list is the union of what has brought down brokers of the Kafka protocol, Apache Kafka's own CVEs among it. Of each
// item holds: a clear error or a closed connection, memory and goroutines go back to where they were, other connections
// are not disturbed. The tests of this file (TestHostile...) go over TCP to a whole broker and see all of that at their end
// (target.settled); the codes they expect are those of Apache Kafka 4.3.1, which the same tests ask with
//
//	go test ./broker -run TestHostile -against 127.0.0.1:9092
//
//	 1 frame length negative, 0, too large           TestBadInput, TestHostileFrameSize
//	 2 large frame before the first answer           TestFrameBeforeFirstRequest (before authentication: security)
//	 3 large length, then silence                    TestSilenceAfterLargeLength, TestMemoryGrowsWithWhatArrives
//	 4 slow and never-reading clients                TestSlowFrame, TestNeverReadingClient (stalled TLS handshake: security)
//	 5 HTTP and TLS on a plaintext port              TestBadInput (plaintext on a TLS port: security)
//	 6 API keys and versions out of range            TestBadInput, TestUnsupportedApiVersions
//	 7 array counts, amplification                   TestBadInput, TestHostileRepetition; protocol.TestDecodeHostileCounts,
//	                                                 TestDecodeAmplification; handler.TestAnswersAreBounded
//	 8 tag counts, sizes, order                      TestBadInput; protocol.TestDecodeManyTags, TestDecodeHostileCounts, TestDecodeLikeKafka
//	 9 varints that do not end                       TestBadInput; protocol.TestDecodeHostileCounts, TestRecordsRefused, FuzzDecode
//	10 strings, names of topics, internal topics     TestBadInput, TestHostileNames, TestProduceErrors; protocol.TestDecodeReplacesInvalidUTF8;
//	                                                 handler.TestAsKafka (create_topics, metadata)
//	11 trailing bytes                                protocol.TestDecodeLikeKafka; TestHostileTrailingBytes
//	12 record batches                                TestProduceErrors, TestProduceRefusalDetails; storage.TestProduceErrorsLikeKafka,
//	                                                 TestSequencesLikeKafka; protocol.TestNextBatchRefuses, TestRecordsRefused
//	13 decompression bombs                           TestHostileCompression; protocol.TestDecompressionBombs; storage.TestManyRecordsInFewBytes,
//	                                                 TestLargeBatchesTakeTurns
//	14 fetches                                       TestFetchOfAMillionPartitions, TestSessionSlotsRunOut, TestFetchLimits, TestHostileFetches
//	15 groups                                        TestHostileGroupMembers, TestHostileGroupChurn, TestHostileGroupSize, TestHostileOffsetCommits
//	16 producer ids                                  TestHostileProducerIDs, TestHostileTransactions; storage.TestProducersTakeLittleMemory
//	17 creation of topics                            TestHostileTopics; handler.TestAsKafka (create_topics, create_partitions)
//	18 metadata of 10^5 unknown topics               TestHostileMetadata
//	19 SASL                                          security, which gregor does not serve yet; stored credentials: handler.TestAsKafka (scram)
//	20 floods of connections, half-open, idle        TestConnectionLimits, TestConnectionCreationRate, TestIdleClose, TestHostileConnections
//	                                                 (reconnects after failed authentication: security)
//	21 10^4 pipelined requests                       TestPipelining
//	22 access control                                security, which gregor does not serve yet; handler.TestAsKafka (acls)
//	23 configuration                                 TestHostileConfigs; handler.TestAsKafka (alter_configs, incremental_alter_configs),
//	                                                 TestRefusedBrokerConfigs
//	24 DeleteRecords beyond the high watermark       handler.TestDeleteRecords
//	25 absurd epochs and timestamps                  TestHostileEpochs; handler.TestOffsetForLeaderEpoch, TestListOffsetsErrors
package broker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker"
	"github.com/gregor-broker/gregor/brokertest"
	"github.com/gregor-broker/gregor/internal/testutil"
	"github.com/gregor-broker/gregor/protocol"
)

var against = flag.String("against", "", "address of an Apache Kafka `broker` to ask instead of gregor")

// target is a broker under attack and a connection that must not notice.
type target struct {
	t       *testing.T
	addr    string
	run     string // makes names unique on a broker that others use
	witness *wire

	goroutines int
	heap       uint64
}

// attack starts a broker. The test's end sees that it is as it was but for stays bytes on the heap.
func attack(t *testing.T, stays uint64, opts ...brokertest.Option) *target {
	t.Helper()
	g := &target{t: t, addr: *against, run: fmt.Sprintf("-%08x", rand.Uint32())}
	if g.addr == "" {
		g.addr = brokertest.Start(t, opts...).Addr()
	}
	g.witness = g.dial()
	g.create("witness"+g.run, 1)
	g.see()
	g.ready()
	t.Cleanup(func() { g.settled(stays) })
	return g
}

// ready says that what the attack needs is there.
func (g *target) ready() { g.goroutines, g.heap = runtime.NumGoroutine(), liveHeap() }

// see has the witness produce a record and ask for it.
func (g *target) see() {
	g.t.Helper()
	if code := g.witness.produce("witness"+g.run, batchOf(protocol.BatchParams{}, 1, 10)); code != 0 {
		g.t.Errorf("the witness cannot produce: %v", kerr.ErrorForCode(code))
	}
	if _, p := g.witness.fetchOne("witness"+g.run, 0); p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		g.t.Errorf("the witness cannot fetch: %+v", p)
	}
}

func (g *target) settled(stays uint64) {
	g.t.Helper()
	g.see()
	if *against != "" {
		return
	}
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > g.goroutines && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond) // connections that were closed end on their own
	}
	if n := runtime.NumGoroutine(); n > g.goroutines {
		g.t.Errorf("%d goroutines, before the attack %d", n, g.goroutines)
	}
	heap := liveHeap()
	for heap > g.heap+stays && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond) // pools are trimmed by and by
		heap = liveHeap()
	}
	if heap > g.heap+stays {
		g.t.Errorf("%d KiB stayed on the heap, at most %d KiB may", (heap-g.heap)>>10, stays>>10)
	}
}

// little is what any test may leave behind: pooled buffers, caches, and what maps have grown to.
const little = 4 << 20

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC() // pools let go at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// wire is a connection that speaks frames.
type wire struct {
	t testing.TB
	net.Conn
	id int32
}

func (g *target) dial() *wire {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	w := &wire{t: g.t, Conn: c}
	g.t.Cleanup(func() { _ = c.Close() })
	return w
}

func (w *wire) send(req kmsg.Request, trailing ...byte) error {
	w.id++
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("hostile")).AppendRequest(nil, req, w.id)
	frame = append(frame, trailing...)
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	_, err := w.Write(frame)
	return err
}

func (w *wire) receive(req kmsg.Request) (kmsg.Response, error) {
	if err := w.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(w, size[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(w, p); err != nil {
		return nil, err
	}
	if got := int32(binary.BigEndian.Uint32(p)); got != w.id {
		return nil, fmt.Errorf("the response to %d came for %d", got, w.id)
	}
	resp := req.ResponseKind()
	p = p[4:]
	if resp.IsFlexible() && req.Key() != 18 {
		p = p[1:]
	}
	return resp, resp.ReadFrom(p)
}

// try sends a request and returns its response; nil if the broker closed the connection instead.
func (w *wire) try(req kmsg.Request) kmsg.Response {
	w.t.Helper()
	err := w.send(req)
	var resp kmsg.Response
	if err == nil {
		resp, err = w.receive(req)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		w.t.Fatalf("%s: neither an answer nor the end of the connection", kmsg.NameForKey(req.Key()))
	}
	if err != nil {
		return nil
	}
	return resp
}

func ask[R kmsg.Response](w *wire, req kmsg.Request) R {
	w.t.Helper()
	resp := w.try(req)
	if resp == nil {
		w.t.Fatalf("%s v%d: the connection was closed", kmsg.NameForKey(req.Key()), req.GetVersion())
	}
	return resp.(R)
}

func (g *target) create(name string, partitions int32, configs ...string) {
	g.t.Helper()
	if code, message := g.witness.create(newTopic(name, partitions, 1, configs...)); code != 0 {
		g.t.Fatalf("creating %s: %v %s", name, kerr.ErrorForCode(code), message)
	}
	// Kafka answers before the partition takes records.
	for range 100 {
		if *against == "" || g.witness.produce(name, batchOf(protocol.BatchParams{}, 1, 1)) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func newTopic(name string, partitions int32, replication int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, replication
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		topic.Configs = append(topic.Configs, c)
	}
	return topic
}

// create answers with the first topic's code.
func (w *wire) create(topics ...kmsg.CreateTopicsRequestTopic) (code int16, message string) {
	w.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis, req.Topics = 7, 30_000, topics
	resp := ask[*kmsg.CreateTopicsResponse](w, req)
	if m := resp.Topics[0].ErrorMessage; m != nil {
		message = *m
	}
	return resp.Topics[0].ErrorCode, message
}

// batchOf is a batch of n records of size bytes.
func batchOf(p protocol.BatchParams, n, size int) []byte {
	if p.BaseTimestamp == 0 {
		p.BaseTimestamp = time.Now().UnixMilli()
	}
	rs := make([]protocol.Record, n)
	for i := range rs {
		rs[i] = protocol.Record{OffsetDelta: int32(i), Value: make([]byte, size)}
	}
	return protocol.AppendBatch(nil, p, rs)
}

func produceOf(topic string, batch []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, -1, 30_000
	t, p := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	t.Topic, p.Records = topic, batch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (w *wire) produce(topic string, batch []byte) int16 {
	w.t.Helper()
	return ask[*kmsg.ProduceResponse](w, produceOf(topic, batch)).Topics[0].Partitions[0].ErrorCode
}

func fetchOf(topic string, partition int32, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.SessionEpoch, req.MinBytes, req.MaxBytes = 12, -1, -1, 1, 1<<20
	t, p := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	t.Topic, p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.LogStartOffset = topic, partition, offset, 1<<20, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (w *wire) fetchOne(topic string, offset int64) (*kmsg.FetchResponse, kmsg.FetchResponseTopicPartition) {
	w.t.Helper()
	resp := ask[*kmsg.FetchResponse](w, fetchOf(topic, 0, offset))
	if len(resp.Topics) == 0 {
		return resp, kmsg.NewFetchResponseTopicPartition()
	}
	return resp, resp.Topics[0].Partitions[0]
}

// expect compares a code with the error it should stand for; nil is success.
func expect(t testing.TB, what string, code int16, want *kerr.Error) {
	t.Helper()
	if *against != "" && code == kerr.UnknownServerError.Code {
		t.Logf("%s: Kafka trips over it", what)
		return
	}
	got := "NONE"
	if err := kerr.TypedErrorForCode(code); err != nil {
		got = err.Message
	}
	wanted := "NONE"
	if want != nil {
		wanted = want.Message
	}
	if got != wanted {
		t.Errorf("%s: %s, want %s", what, got, wanted)
	}
}

// TestHostileFrameSize: socket.request.max.bytes is where a frame is refused, to the byte.
func TestHostileFrameSize(t *testing.T) {
	if *against != "" {
		t.Skip("needs settings")
	}
	const most = 10_000
	g := attack(t, little, brokertest.With("socket.request.max.bytes", strconv.Itoa(most)))
	req := func(size int) *kmsg.ProduceRequest {
		return produceOf("witness"+g.run, batchOf(protocol.BatchParams{}, 1, size))
	}
	c := g.dial()
	about := len(kmsg.NewRequestFormatter(kmsg.FormatterClientID("hostile")).AppendRequest(nil, req(9000), 0)) - 4 - 9000 // beside the record, without the length
	if code := ask[*kmsg.ProduceResponse](c, req(most-about)).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Errorf("a frame of %d bytes: %v", most, kerr.ErrorForCode(code))
	}
	if resp := c.try(req(most - about + 1)); resp != nil {
		t.Errorf("a frame of %d bytes is answered: %+v", most+1, resp)
	}
}

// TestHostileNames asks for topics that cannot be.
func TestHostileNames(t *testing.T) {
	g := attack(t, little)
	names := []string{"", ".", "..", "a/b", "../../etc/passwd", "a\x00b", "a\nb", "\xff\xfe", strings.Repeat("x", 250), strings.Repeat("y", 32767), "ü"}
	c := g.dial()
	for _, name := range names {
		what := fmt.Sprintf("%.20q", name)
		code, _ := c.create(newTopic(name, 1, 1))
		expect(t, "creating "+what, code, kerr.InvalidTopicException)
		req := kmsg.NewPtrMetadataRequest()
		req.Version, req.AllowAutoTopicCreation = 12, true
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = &name
		req.Topics = append(req.Topics, topic)
		expect(t, "metadata of "+what, ask[*kmsg.MetadataResponse](c, req).Topics[0].ErrorCode, kerr.InvalidTopicException)
		expect(t, "producing to "+what, c.produce(name, batchOf(protocol.BatchParams{}, 1, 10)), kerr.UnknownTopicOrPartition)
		_, p := c.fetchOne(name, 0)
		expect(t, "fetching "+what, p.ErrorCode, kerr.UnknownTopicOrPartition)
	}
	g.coordinated("any" + g.run)
	g.producer("any" + g.run)
	for _, internal := range []string{"__consumer_offsets", "__transaction_state"} {
		expect(t, "producing to "+internal, c.produce(internal, batchOf(protocol.BatchParams{}, 1, 10)), kerr.InvalidTopicException)
	}
}

// TestHostileTrailingBytes: Kafka's parser does not look at what follows a request, and nor do we. It is not taken for the
// next one.
func TestHostileTrailingBytes(t *testing.T) {
	g := attack(t, little)
	c := g.dial()
	for _, req := range []kmsg.Request{
		&kmsg.ApiVersionsRequest{Version: 0}, &kmsg.ApiVersionsRequest{Version: 3, ClientSoftwareName: "a", ClientSoftwareVersion: "1"},
		&kmsg.MetadataRequest{Version: 1}, &kmsg.ListGroupsRequest{Version: 4},
	} {
		if err := c.send(req, bytes.Repeat([]byte{0xff}, 1000)...); err != nil {
			t.Fatal(err)
		}
		if _, err := c.receive(req); err != nil {
			t.Errorf("%s v%d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
		}
	}
}

// TestHostileFetches: limits, positions, sessions and replicas that cannot be.
func TestHostileFetches(t *testing.T) {
	g := attack(t, little)
	topic := "fetched" + g.run
	g.create(topic, 1)
	c := g.dial()
	c.produce(topic, batchOf(protocol.BatchParams{}, 1, 1000))
	one := func(what string, req *kmsg.FetchRequest, want *kerr.Error, records bool) {
		t.Helper()
		resp := ask[*kmsg.FetchResponse](c, req)
		if len(resp.Topics) != 1 {
			t.Errorf("%s: code %d, %d topics", what, resp.ErrorCode, len(resp.Topics))
			return
		}
		p := resp.Topics[0].Partitions[0]
		expect(t, what, p.ErrorCode, want)
		if *against == "" && records != (len(p.RecordBatches) > 0) {
			t.Errorf("%s: %d bytes of records", what, len(p.RecordBatches))
		}
	}
	// A bound below zero bounds as zero does, where Kafka trips over it: the first batch is sent whole.
	for _, limit := range []int32{0, -1, math.MinInt32, math.MaxInt32} {
		req := fetchOf(topic, 0, 0)
		req.MaxBytes = limit
		one(fmt.Sprint("max bytes ", limit), req, nil, true)
		req = fetchOf(topic, 0, 0)
		req.Topics[0].Partitions[0].PartitionMaxBytes = limit
		one(fmt.Sprint("partition max bytes ", limit), req, nil, true)
		req = fetchOf(topic, 0, 0)
		req.MinBytes, req.MaxWaitMillis = limit, 50
		one(fmt.Sprint("min bytes ", limit), req, nil, true)
		req = fetchOf(topic, 0, 0)
		req.MaxWaitMillis = limit
		one(fmt.Sprint("max wait ", limit), req, nil, true)
	}
	for _, offset := range []int64{math.MinInt64, -1, -2, 1 << 40, math.MaxInt64} {
		one(fmt.Sprint("offset ", offset), fetchOf(topic, 0, offset), kerr.OffsetOutOfRange, false)
	}
	for _, partition := range []int32{math.MinInt32, -1, 1, math.MaxInt32} {
		one(fmt.Sprint("partition ", partition), fetchOf(topic, partition, 0), kerr.UnknownTopicOrPartition, false)
	}
	for _, level := range []int8{2, -1, 127, -128} {
		req := fetchOf(topic, 0, 0)
		req.IsolationLevel = level
		if resp := c.try(req); resp == nil {
			c = g.dial()
		}
	}
	for _, epoch := range []int32{math.MaxInt32, 7} {
		req := fetchOf(topic, 0, 0)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch
		one(fmt.Sprint("leader epoch ", epoch), req, kerr.UnknownLeaderEpoch, false)
	}
	for _, session := range []struct {
		id, epoch int32
		want      *kerr.Error
	}{
		{math.MaxInt32, 5, kerr.FetchSessionIDNotFound},
		{-7, 1, kerr.FetchSessionIDNotFound},
		{0, 5, kerr.FetchSessionIDNotFound},
		{math.MinInt32, math.MaxInt32, kerr.FetchSessionIDNotFound},
		{12, math.MinInt32, kerr.FetchSessionIDNotFound},
		{99, -1, nil},
		{-1, 0, nil},
	} {
		req := fetchOf(topic, 0, 0)
		req.SessionID, req.SessionEpoch = session.id, session.epoch
		expect(t, fmt.Sprintf("session %d, epoch %d", session.id, session.epoch), ask[*kmsg.FetchResponse](c, req).ErrorCode, session.want)
	}
	// Another broker's replica id, without being one of the partition's replicas.
	for _, replica := range []int32{5, math.MaxInt32} {
		req := fetchOf(topic, 0, 0)
		req.ReplicaID = replica
		one(fmt.Sprint("replica ", replica), req, kerr.NotLeaderForPartition, false)
	}
	// A session forgets what it never had.
	req := fetchOf(topic, 0, 0)
	req.SessionEpoch = 0
	session := ask[*kmsg.FetchResponse](c, req).SessionID
	req = fetchOf(topic, 0, 0)
	req.SessionID, req.SessionEpoch = session, 1
	for i := range 20_000 {
		f := kmsg.NewFetchRequestForgottenTopic()
		f.Topic, f.Partitions = "nowhere"+strconv.Itoa(i), []int32{0, -1, math.MaxInt32}
		req.ForgottenTopics = append(req.ForgottenTopics, f)
	}
	if resp := ask[*kmsg.FetchResponse](c, req); resp.ErrorCode != 0 || resp.SessionID != session || len(resp.Topics) != 1 {
		t.Errorf("forgetting what is not there: code %d, session %d, %d topics", resp.ErrorCode, resp.SessionID, len(resp.Topics))
	}
}

// TestHostileEpochs: epochs and timestamps that nothing has.
func TestHostileEpochs(t *testing.T) {
	g := attack(t, little)
	topic := "dated" + g.run
	g.create(topic, 1)
	c := g.dial()
	c.produce(topic, batchOf(protocol.BatchParams{}, 1, 10))
	listed := func(version int16, timestamp int64, epoch int32) kmsg.ListOffsetsResponseTopicPartition {
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version, req.ReplicaID = version, -1
		rt, p := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
		rt.Topic, p.Timestamp, p.CurrentLeaderEpoch = topic, timestamp, epoch
		rt.Partitions = append(rt.Partitions, p)
		req.Topics = append(req.Topics, rt)
		return ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]
	}
	for _, test := range []struct {
		version   int16
		timestamp int64
		epoch     int32
		want      *kerr.Error
	}{
		{10, math.MinInt64, -1, kerr.UnsupportedVersion},
		{10, -7, -1, kerr.UnsupportedVersion},
		{10, -100, -1, kerr.UnsupportedVersion},
		{6, -3, -1, kerr.UnsupportedVersion},
		{7, -4, -1, kerr.UnsupportedVersion},
		{8, -5, -1, kerr.UnsupportedVersion},
		{10, math.MaxInt64, -1, nil},
		{10, 0, -1, nil},
		{10, -3, -1, nil},
		{10, -1, math.MaxInt32, kerr.UnknownLeaderEpoch},
		{10, -1, math.MinInt32, kerr.FencedLeaderEpoch},
		{10, -1, -2, kerr.FencedLeaderEpoch},
	} {
		p := listed(test.version, test.timestamp, test.epoch)
		expect(t, fmt.Sprintf("v%d timestamp %d epoch %d", test.version, test.timestamp, test.epoch), p.ErrorCode, test.want)
		if test.timestamp == math.MaxInt64 && p.Offset != -1 {
			t.Errorf("the largest timestamp is at offset %d", p.Offset)
		}
	}
	for _, test := range []struct {
		current, asked int32
		want           *kerr.Error
	}{
		{-1, math.MaxInt32, nil},
		{-1, math.MinInt32, nil},
		{math.MaxInt32, 0, kerr.UnknownLeaderEpoch},
		{math.MinInt32, 0, kerr.FencedLeaderEpoch},
	} {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		rt, p := kmsg.NewOffsetForLeaderEpochRequestTopic(), kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rt.Topic, p.CurrentLeaderEpoch, p.LeaderEpoch = topic, test.current, test.asked
		rt.Partitions = append(rt.Partitions, p)
		req.Topics = append(req.Topics, rt)
		got := ask[*kmsg.OffsetForLeaderEpochResponse](c, req).Topics[0].Partitions[0]
		expect(t, fmt.Sprintf("epoch %d, current %d", test.asked, test.current), got.ErrorCode, test.want)
		if got.EndOffset != -1 {
			t.Errorf("epoch %d ends at %d", test.asked, got.EndOffset)
		}
	}
}

// TestHostileTopics: partitions, replicas and assignments beyond all measure.
func TestHostileTopics(t *testing.T) {
	g := attack(t, little)
	c := g.dial()
	name := "huge" + g.run
	many := func(n int) kmsg.CreateTopicsRequestTopic {
		topic := newTopic(name, -1, -1)
		for i := range n {
			a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			a.Partition, a.Replicas = int32(i), []int32{1}
			topic.ReplicaAssignment = append(topic.ReplicaAssignment, a)
		}
		return topic
	}
	wide := newTopic(name, -1, -1)
	a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	for i := range 100_000 {
		a.Replicas = append(a.Replicas, int32(i+1))
	}
	wide.ReplicaAssignment = append(wide.ReplicaAssignment, a)
	for _, test := range []struct {
		what  string
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error
	}{
		{"10^6 partitions", newTopic(name, 1_000_000, 1), kerr.PolicyViolation},
		{"2^31-1 partitions", newTopic(name, math.MaxInt32, 1), kerr.PolicyViolation},
		{"-2^31 partitions", newTopic(name, math.MinInt32, 1), kerr.InvalidPartitions},
		{"2^15-1 replicas", newTopic(name, 1, math.MaxInt16), kerr.InvalidReplicationFactor},
		{"-2^15 replicas", newTopic(name, 1, math.MinInt16), kerr.InvalidReplicationFactor},
		{"20,000 assigned partitions", many(20_000), kerr.PolicyViolation},
		{"a partition on 100,000 brokers", wide, kerr.InvalidReplicaAssignment},
		{"a number that overflows", newTopic(name, 1, 1, "retention.ms", "9223372036854775808"), kerr.InvalidConfig},
		{"a number of 10^5 digits", newTopic(name, 1, 1, "retention.ms", strings.Repeat("9", 100_000)), kerr.InvalidConfig},
		{"a negative size", newTopic(name, 1, 1, "max.message.bytes", "-1"), kerr.InvalidConfig},
		{"an unknown key of 30,000 bytes", newTopic(name, 1, 1, strings.Repeat("k", 30_000), "1"), kerr.InvalidConfig},
	} {
		code, _ := c.create(test.topic)
		expect(t, test.what, code, test.want)
	}
	topics := make([]kmsg.CreateTopicsRequestTopic, 20_000)
	for i := range topics {
		topics[i] = newTopic(fmt.Sprint(name, i), 1, 1)
	}
	code, _ := c.create(topics...)
	expect(t, "20,000 topics", code, kerr.PolicyViolation)

	g.create(name, 1)
	for _, test := range []struct {
		count int32
		want  *kerr.Error
	}{{1_000_000, kerr.PolicyViolation}, {math.MaxInt32, kerr.PolicyViolation}, {math.MinInt32, kerr.InvalidPartitions}, {1, kerr.InvalidPartitions}} {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Version, req.TimeoutMillis = 3, 30_000
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = name, test.count
		req.Topics = append(req.Topics, rt)
		expect(t, fmt.Sprint("growing to ", test.count), ask[*kmsg.CreatePartitionsResponse](c, req).Topics[0].ErrorCode, test.want)
	}
}

// TestHostileMetadata asks for 10^5 topics that are not there, allowing their creation: too many for one request, so that
// none is created.
func TestHostileMetadata(t *testing.T) {
	g := attack(t, 4*little) // the buffer of the answer stays in the pool for a while
	c := g.dial()
	ask[*kmsg.ApiVersionsResponse](c, &kmsg.ApiVersionsRequest{})
	const n = 100_000
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.AllowAutoTopicCreation = 12, true
	for i := range n {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr(fmt.Sprint("auto", g.run, i))
		req.Topics = append(req.Topics, topic)
	}
	resp := ask[*kmsg.MetadataResponse](c, req)
	codes := map[int16]int{}
	for _, topic := range resp.Topics {
		codes[topic.ErrorCode]++
	}
	if len(resp.Topics) != n || codes[0] > 0 {
		t.Errorf("%d topics answered, codes %v", len(resp.Topics), codes)
	}
	all := kmsg.NewPtrMetadataRequest()
	all.Version = 12
	for _, topic := range ask[*kmsg.MetadataResponse](c, all).Topics {
		if strings.HasPrefix(*topic.Topic, "auto"+g.run) {
			t.Fatalf("%s was created", *topic.Topic)
		}
	}
	// Half as many ids.
	req = kmsg.NewPtrMetadataRequest()
	req.Version = 12
	for i := range n / 2 {
		topic := kmsg.NewMetadataRequestTopic()
		binary.BigEndian.PutUint64(topic.TopicID[:], uint64(i+1))
		req.Topics = append(req.Topics, topic)
	}
	for _, topic := range ask[*kmsg.MetadataResponse](c, req).Topics {
		if topic.ErrorCode != kerr.UnknownTopicID.Code {
			t.Fatalf("an unknown id: %+v", topic)
		}
	}
}

// TestHostileConfigs sets what must not be set, or not so.
func TestHostileConfigs(t *testing.T) {
	g := attack(t, little)
	topic := "configured" + g.run
	g.create(topic, 1)
	c := g.dial()
	const topics, brokers = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker
	for _, test := range []struct {
		what  string
		kind  kmsg.ConfigResourceType
		name  string
		key   string
		value string
		want  *kerr.Error
	}{
		{"directories", brokers, "1", "log.dirs", "/etc", kerr.InvalidRequest},
		{"another broker", brokers, "77", "log.retention.ms", "1", kerr.InvalidRequest},
		{"no broker", brokers, "../1", "log.retention.ms", "1", kerr.InvalidRequest},
		{"negative size", topics, topic, "segment.bytes", "-1", kerr.InvalidConfig},
		{"negative size of the broker", brokers, "", "message.max.bytes", "-5", kerr.InvalidRequest},
		{"overflow", topics, topic, "max.message.bytes", "2147483648", kerr.InvalidConfig},
		{"NUL", topics, topic, "cleanup.policy", "delete\x00compact", kerr.InvalidConfig},
		{"a file for a number", topics, topic, "retention.ms", "/etc/passwd", kerr.InvalidConfig},
		{"unknown key", topics, topic, "no.such.key", "1", kerr.InvalidConfig},
		{"unknown topic", topics, "nowhere" + g.run, "retention.ms", "1", kerr.UnknownTopicOrPartition},
		{"name that cannot be", topics, "../../etc", "retention.ms", "1", kerr.InvalidTopicException},
		{"unknown kind", 99, "x", "retention.ms", "1", kerr.InvalidRequest},
	} {
		inc := kmsg.NewPtrIncrementalAlterConfigsRequest()
		inc.Version = 1
		ir, ic := kmsg.NewIncrementalAlterConfigsRequestResource(), kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		ir.ResourceType, ir.ResourceName = test.kind, test.name
		ic.Name, ic.Value = test.key, &test.value
		ir.Configs = append(ir.Configs, ic)
		inc.Resources = append(inc.Resources, ir)
		expect(t, test.what, ask[*kmsg.IncrementalAlterConfigsResponse](c, inc).Resources[0].ErrorCode, test.want)

		set := kmsg.NewPtrAlterConfigsRequest()
		set.Version = 2
		sr, sc := kmsg.NewAlterConfigsRequestResource(), kmsg.NewAlterConfigsRequestResourceConfig()
		sr.ResourceType, sr.ResourceName = test.kind, test.name
		sc.Name, sc.Value = test.key, &test.value
		sr.Configs = append(sr.Configs, sc)
		set.Resources = append(set.Resources, sr)
		expect(t, test.what+", replacing", ask[*kmsg.AlterConfigsResponse](c, set).Resources[0].ErrorCode, test.want)
	}
}

// join makes a request of a new member of a classic group.
func join(group, member string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType = 7, group, member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 10_000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", []byte{0, 0}
	req.Protocols = append(req.Protocols, p)
	return req
}

// joined joins and, if it is asked to come again with the id it got, does.
func (w *wire) joined(req *kmsg.JoinGroupRequest) *kmsg.JoinGroupResponse {
	w.t.Helper()
	resp := ask[*kmsg.JoinGroupResponse](w, req)
	if resp.ErrorCode == kerr.MemberIDRequired.Code {
		req.MemberID = resp.MemberID
		resp = ask[*kmsg.JoinGroupResponse](w, req)
	}
	return resp
}

// coordinated waits until the broker coordinates a group.
func (g *target) coordinated(group string) {
	g.t.Helper()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID = 4, group, "nobody"
	g.coordinates(0, group, func() bool {
		switch ask[*kmsg.HeartbeatResponse](g.witness, req).ErrorCode {
		case kerr.CoordinatorNotAvailable.Code, kerr.NotCoordinator.Code, kerr.CoordinatorLoadInProgress.Code:
			return false
		}
		return true
	})
}

// coordinates asks for the coordinator of a group (kind 0) or a transactional id
// (kind 1), whose topic may have to be created first, until it serves. Between two
// questions it waits: only answers tell, and the broker may be Kafka.
func (g *target) coordinates(kind int8, key string, serves func() bool) {
	g.t.Helper()
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorKey, find.CoordinatorType = 3, key, kind
	for range 300 {
		ask[*kmsg.FindCoordinatorResponse](g.witness, find)
		if serves() {
			g.ready()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	g.t.Fatal("no coordinator")
}

// TestHostileGroupMembers: timeouts, names and metadata that no member has.
func TestHostileGroupMembers(t *testing.T) {
	g := attack(t, 2*little)
	group := "grp" + g.run
	g.coordinated(group)
	c := g.dial()
	for _, test := range []struct {
		what   string
		change func(*kmsg.JoinGroupRequest)
		want   *kerr.Error
	}{
		{"session timeout -1", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = -1 }, kerr.InvalidSessionTimeout},
		{"session timeout 2^31-1", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = math.MaxInt32 }, kerr.InvalidSessionTimeout},
		{"no group", func(r *kmsg.JoinGroupRequest) { r.Group = "" }, kerr.InvalidGroupID},
		{"no protocol", func(r *kmsg.JoinGroupRequest) { r.Protocols = nil }, kerr.InconsistentGroupProtocol},
		{"no protocol type", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" }, kerr.InconsistentGroupProtocol},
		{"unknown member", func(r *kmsg.JoinGroupRequest) { r.MemberID = "somebody" }, kerr.UnknownMemberID},
		{"a member's id of 32,000 bytes", func(r *kmsg.JoinGroupRequest) { r.MemberID = strings.Repeat("m", 32_000) }, kerr.UnknownMemberID},
	} {
		req := join(group, "")
		test.change(req)
		expect(t, test.what, ask[*kmsg.JoinGroupResponse](c, req).ErrorCode, test.want)
	}
	for i, timeout := range []int32{-1, math.MinInt32, math.MaxInt32} {
		name := fmt.Sprint(group, "-timeout-", i)
		req := join(name, "")
		req.RebalanceTimeoutMillis = timeout
		resp := c.joined(req)
		expect(t, fmt.Sprint("rebalance timeout ", timeout), resp.ErrorCode, nil)
		c.leave(name, resp.MemberID)
	}

	many := join(group+"-protocols", "")
	many.Protocols = nil
	for i := range 20_000 {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = fmt.Sprint("p", i), []byte{0, 0}
		many.Protocols = append(many.Protocols, p)
	}
	ask[*kmsg.ApiVersionsResponse](c, &kmsg.ApiVersionsRequest{})
	if resp := c.joined(many); resp.ErrorCode == 0 {
		c.leave(group+"-protocols", resp.MemberID)
	} else {
		t.Errorf("20,000 protocols: %v", kerr.ErrorForCode(resp.ErrorCode))
	}

	// Metadata larger than the groups' topic takes: the member is told when the assignment is to be written.
	large := join(group+"-large", "")
	large.Protocols[0].Metadata = make([]byte, 3<<20)
	resp := c.joined(large)
	expect(t, "3 MiB of metadata", resp.ErrorCode, nil)
	expect(t, "its assignment", c.sync(large.Group, resp, nil), kerr.UnknownServerError)
	c.leave(large.Group, resp.MemberID)
	// The group goes on with members of a usual size.
	again := c.joined(join(large.Group, ""))
	expect(t, "an ordinary member after it", again.ErrorCode, nil)
	c.leave(large.Group, again.MemberID)

	heartbeat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	heartbeat.Version, heartbeat.Group, heartbeat.MemberID, heartbeat.MemberEpoch = 1, group+"-regex", "AAAAAAAAAAAAAAAAAAAAAA", 0
	heartbeat.RebalanceTimeoutMillis = 5000
	heartbeat.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	heartbeat.SubscribedTopicRegex = kmsg.StringPtr("((")
	expect(t, "a pattern that is none", ask[*kmsg.ConsumerGroupHeartbeatResponse](c, heartbeat).ErrorCode, kerr.InvalidRegularExpression)
	heartbeat.SubscribedTopicRegex = kmsg.StringPtr(strings.Repeat("(a?){50}", 50) + "b")
	if resp := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, heartbeat); resp.ErrorCode == 0 {
		heartbeat.MemberEpoch = -1
		ask[*kmsg.ConsumerGroupHeartbeatResponse](c, heartbeat)
	}
	for _, epoch := range []int32{math.MaxInt32, math.MinInt32, -3} {
		h := *heartbeat
		h.MemberEpoch, h.SubscribedTopicRegex = epoch, nil
		if resp := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, &h); resp.ErrorCode == 0 {
			t.Errorf("a member with epoch %d was let in", epoch)
		}
	}
}

// sync assigns as the leader, itself only.
func (w *wire) sync(group string, joined *kmsg.JoinGroupResponse, instance *string) int16 {
	w.t.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation, req.InstanceID = 5, group, joined.MemberID, joined.Generation, instance
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	as := kmsg.NewSyncGroupRequestGroupAssignment()
	as.MemberID, as.MemberAssignment = joined.MemberID, []byte{1}
	req.GroupAssignment = append(req.GroupAssignment, as)
	return ask[*kmsg.SyncGroupResponse](w, req).ErrorCode
}

func (w *wire) leave(group, member string) {
	w.t.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = 4, group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = member
	req.Members = append(req.Members, m)
	if code := ask[*kmsg.LeaveGroupResponse](w, req).ErrorCode; code != 0 {
		w.t.Errorf("leaving %s: %v", group, kerr.ErrorForCode(code))
	}
}

// TestHostileGroupChurn has one static member come back under new ids for ever, and members that ask for an id and never
// come: the group holds one, and forgets the others.
func TestHostileGroupChurn(t *testing.T) {
	g := attack(t, little)
	group := "churned" + g.run
	g.coordinated(group)
	c := g.dial()
	req := join(group, "")
	req.InstanceID = kmsg.StringPtr("instance")
	var last string
	for i := range 1000 {
		resp := ask[*kmsg.JoinGroupResponse](c, req)
		if resp.ErrorCode != 0 {
			t.Fatalf("join %d: %v", i, kerr.ErrorForCode(resp.ErrorCode))
		}
		last = resp.MemberID
		if i == 0 {
			expect(t, "sync", c.sync(group, resp, req.InstanceID), nil)
		}
	}
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Version, describe.Groups = 5, []string{group}
	if got := ask[*kmsg.DescribeGroupsResponse](c, describe).Groups[0]; len(got.Members) != 1 || got.Members[0].MemberID != last {
		t.Errorf("%d members, want the one that came last", len(got.Members))
	}
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Version, leave.Group = 4, group
	m := kmsg.NewLeaveGroupRequestMember()
	m.InstanceID = req.InstanceID
	leave.Members = append(leave.Members, m)
	expect(t, "leaving", ask[*kmsg.LeaveGroupResponse](c, leave).ErrorCode, nil)
}

// TestHostileGroupSize: a full group takes no more, and whoever asks for a member's id and does not come is forgotten.
func TestHostileGroupSize(t *testing.T) {
	if *against != "" {
		t.Skip("needs settings")
	}
	const size = 50
	g := attack(t, little, brokertest.With("group.max.size", "1"), brokertest.With("group.consumer.max.size", strconv.Itoa(size)),
		brokertest.With("group.min.session.timeout.ms", "100"))
	group := "sized" + g.run
	g.coordinated(group)
	c := g.dial()
	member := c.joined(join(group, ""))
	expect(t, "the first", member.ErrorCode, nil)
	c.sync(group, member, nil)
	for range 1000 {
		if code := ask[*kmsg.JoinGroupResponse](c, join(group, "")).ErrorCode; code != kerr.GroupMaxSizeReached.Code {
			t.Fatalf("one too many: %v", kerr.ErrorForCode(code))
		}
	}
	// As in Kafka, an empty group gives an id to whoever asks; it is forgotten after the session timeout, or these
	// would stay on the heap.
	for range 10_000 {
		req := join(group+"-empty", "")
		req.SessionTimeoutMillis = 100
		if code := ask[*kmsg.JoinGroupResponse](c, req).ErrorCode; code != kerr.MemberIDRequired.Code {
			t.Fatalf("asking for an id: %v", kerr.ErrorForCode(code))
		}
	}
	codes := map[int16]int{}
	for i := range 1000 {
		h := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		h.Version, h.Group, h.MemberID = 1, group+"-consumers", fmt.Sprintf("%022d", i)
		h.RebalanceTimeoutMillis = 5000
		h.Topics, h.SubscribedTopicNames = []kmsg.ConsumerGroupHeartbeatRequestTopic{}, []string{"nowhere"}
		codes[ask[*kmsg.ConsumerGroupHeartbeatResponse](c, h).ErrorCode]++
	}
	if codes[0] != size || codes[kerr.GroupMaxSizeReached.Code] != 1000-size {
		t.Errorf("of 1000 consumers that want to join a group of %d at most: %v", size, codes)
	}
	c.leave(group, member.MemberID)
}

// TestHostileOffsetCommits: metadata and offsets beyond measure.
func TestHostileOffsetCommits(t *testing.T) {
	g := attack(t, little)
	group, topic := "committed"+g.run, "committed"+g.run
	g.create(topic, 1)
	g.coordinated(group)
	c := g.dial()
	commit := func(partition int32, offset int64, epoch int32, metadata string) int16 {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation = 8, group, -1
		rt, p := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
		rt.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = topic, partition, offset, epoch, &metadata
		rt.Partitions = append(rt.Partitions, p)
		req.Topics = append(req.Topics, rt)
		return ask[*kmsg.OffsetCommitResponse](c, req).Topics[0].Partitions[0].ErrorCode
	}
	expect(t, "4096 bytes of metadata", commit(0, 1, -1, strings.Repeat("m", 4096)), nil)
	expect(t, "4097 bytes of metadata", commit(0, 1, -1, strings.Repeat("m", 4097)), kerr.OffsetMetadataTooLarge)
	expect(t, "30,000 bytes of metadata", commit(0, 1, -1, strings.Repeat("m", 30_000)), kerr.OffsetMetadataTooLarge)
	expect(t, "partition 7", commit(7, 1, -1, ""), kerr.UnknownTopicOrPartition)
	expect(t, "partition -1", commit(-1, 1, -1, ""), kerr.UnknownTopicOrPartition)
	expect(t, "the largest offset and epoch", commit(0, math.MaxInt64, math.MaxInt32, ""), nil)
	many := kmsg.NewPtrOffsetCommitRequest()
	many.Version, many.Group, many.Generation = 8, group, -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = topic
	for range 100 {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Metadata = kmsg.StringPtr(strings.Repeat("m", 4096))
		for range 5 {
			rt.Partitions = append(rt.Partitions, p)
		}
	}
	many.Topics = append(many.Topics, rt)
	expect(t, "2 MB in all", ask[*kmsg.OffsetCommitResponse](c, many).Topics[0].Partitions[0].ErrorCode, kerr.InvalidCommitOffsetSize)
	expect(t, "a negative offset", commit(0, -5, -1, ""), nil) // Kafka takes it, and no client reads it as an offset
}

// TestHostileRepetition: one group's offsets, 0.8 MB of them, are asked for two thousand times in a request of 50 KB. What
// fits an answer is answered, see handler.TestAnswersAreBounded.
func TestHostileRepetition(t *testing.T) {
	if *against != "" {
		t.Skip("Kafka answers with all of it, or runs out of memory")
	}
	const partitions, each, groups = 200, 4096, 2000
	g := attack(t, 4*little) // the offsets stay
	group, topic := "repeated"+g.run, "repeated"+g.run
	g.create(topic, partitions)
	g.coordinated(group)
	c := g.dial()
	for first := range int32(2) {
		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Version, commit.Group, commit.Generation = 8, group, -1
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic = topic
		for i := range int32(partitions / 2) {
			p := kmsg.NewOffsetCommitRequestTopicPartition()
			p.Partition, p.Metadata = first*partitions/2+i, kmsg.StringPtr(strings.Repeat("m", each))
			rt.Partitions = append(rt.Partitions, p)
		}
		commit.Topics = append(commit.Topics, rt)
		expect(t, "committing", ask[*kmsg.OffsetCommitResponse](c, commit).Topics[0].Partitions[0].ErrorCode, nil)
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 8
	for range groups {
		one := kmsg.NewOffsetFetchRequestGroup()
		one.Group = group
		req.Groups = append(req.Groups, one)
	}
	if err := c.send(req); err != nil {
		t.Fatal(err)
	}
	g.see() // while the answer is being made
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatal(err)
	}
	n := int64(binary.BigEndian.Uint32(size[:]))
	if n < partitions*each || n > 110_000_000 {
		t.Errorf("an answer of %d bytes", n)
	}
	if _, err := io.CopyN(io.Discard, c, n); err != nil {
		t.Fatal(err)
	}
	expect(t, "what comes next", c.produce(topic, batchOf(protocol.BatchParams{}, 1, 10)), nil)
}

func initProducer(txn string, timeout int32) *kmsg.InitProducerIDRequest {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 4, timeout, -1, -1
	if txn != "" {
		req.TransactionalID = &txn
	}
	return req
}

// TestHostileProducerIDs asks for producer ids without end: an id alone leaves nothing behind.
func TestHostileProducerIDs(t *testing.T) {
	g := attack(t, little)
	c := g.dial()
	seen := map[int64]bool{}
	for range 20_000 {
		resp := ask[*kmsg.InitProducerIDResponse](c, initProducer("", 0))
		if *against != "" && resp.ErrorCode == kerr.CoordinatorLoadInProgress.Code {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if resp.ErrorCode != 0 || seen[resp.ProducerID] {
			t.Fatalf("%+v", resp)
		}
		seen[resp.ProducerID] = true
	}
	// Made-up producers, each with a first batch: Kafka and we take these. Their sequences are checked from then on.
	topic := "made-up" + g.run
	g.create(topic, 1)
	for _, test := range []struct {
		what string
		p    protocol.Producer
		want *kerr.Error
	}{
		{"a made-up producer", protocol.Producer{ID: math.MaxInt64}, nil},
		{"a gap", protocol.Producer{ID: math.MaxInt64, BaseSequence: 77}, kerr.OutOfOrderSequenceNumber},
		{"a later epoch", protocol.Producer{ID: math.MaxInt64, Epoch: math.MaxInt16}, nil},
		{"an earlier epoch", protocol.Producer{ID: math.MaxInt64, Epoch: 5, BaseSequence: 1}, kerr.InvalidProducerEpoch},
		{"a sequence below zero", protocol.Producer{ID: 7, BaseSequence: -1}, kerr.InvalidRecord},
	} {
		expect(t, test.what, c.produce(topic, batchOf(protocol.BatchParams{Producer: &test.p}, 1, 10)), test.want)
	}
}

// producer waits until the broker coordinates a transactional id, and takes it.
func (g *target) producer(txn string) *kmsg.InitProducerIDResponse {
	g.t.Helper()
	var mine *kmsg.InitProducerIDResponse
	g.coordinates(1, txn, func() bool {
		mine = ask[*kmsg.InitProducerIDResponse](g.witness, initProducer(txn, 60_000))
		return mine.ErrorCode == 0
	})
	return mine
}

// TestHostileTransactions: timeouts beyond the largest, and guesses at the producers of others.
func TestHostileTransactions(t *testing.T) {
	g := attack(t, 2*little)
	txn, topic := "txn"+g.run, "txn"+g.run
	g.create(topic, 1)
	c := g.dial()
	mine := g.producer(txn)
	for _, timeout := range []int32{900_001, math.MaxInt32, 0, -1, math.MinInt32} {
		expect(t, fmt.Sprint("timeout ", timeout), ask[*kmsg.InitProducerIDResponse](c, initProducer("other"+g.run, timeout)).ErrorCode, kerr.InvalidTransactionTimeout)
	}
	empty := initProducer("", 1000)
	empty.TransactionalID = kmsg.StringPtr("")
	expect(t, "an empty id", ask[*kmsg.InitProducerIDResponse](c, empty).ErrorCode, kerr.InvalidRequest)

	for _, guess := range []struct {
		what  string
		id    int64
		epoch int16
		want  *kerr.Error
	}{
		{"another producer id", mine.ProducerID + 1000, mine.ProducerEpoch, kerr.InvalidProducerIDMapping},
		{"a later epoch", mine.ProducerID, mine.ProducerEpoch + 1, kerr.ProducerFenced},
		{"the largest epoch", mine.ProducerID, math.MaxInt16, kerr.ProducerFenced},
		{"a negative id", -5, 0, kerr.InvalidProducerIDMapping},
	} {
		add := kmsg.NewPtrAddPartitionsToTxnRequest()
		add.Version, add.TransactionalID, add.ProducerID, add.ProducerEpoch = 3, txn, guess.id, guess.epoch
		at := kmsg.NewAddPartitionsToTxnRequestTopic()
		at.Topic, at.Partitions = topic, []int32{0}
		add.Topics = append(add.Topics, at)
		expect(t, "adding with "+guess.what, ask[*kmsg.AddPartitionsToTxnResponse](c, add).Topics[0].Partitions[0].ErrorCode, guess.want)
		end := kmsg.NewPtrEndTxnRequest()
		end.Version, end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = 4, txn, guess.id, guess.epoch, true
		expect(t, "ending with "+guess.what, ask[*kmsg.EndTxnResponse](c, end).ErrorCode, guess.want)
	}
	produce := func(id *string, batch []byte) int16 {
		req := produceOf(topic, batch)
		req.TransactionID = id
		return ask[*kmsg.ProduceResponse](c, req).Topics[0].Partitions[0].ErrorCode
	}
	// A transactional batch without a transaction, of the victim's producer.
	if produce(&txn, batchOf(protocol.BatchParams{Transactional: true, Producer: &protocol.Producer{ID: mine.ProducerID, Epoch: mine.ProducerEpoch}}, 1, 10)) == 0 {
		t.Error("a transactional batch was taken outside a transaction")
	}
	nobodys := batchOf(protocol.BatchParams{Transactional: true}, 1, 10)
	expect(t, "a transactional batch of no producer and no id", produce(nil, nobodys), kerr.TransactionalIDAuthorizationFailed)
	if *against == "" { // Kafka takes it, and it is part of no transaction
		expect(t, "a transactional batch of no producer", produce(&txn, nobodys), kerr.InvalidProducerIDMapping)
	}
	marker := protocol.AppendControlBatch(nil, protocol.ControlParams{
		TimestampMs: time.Now().UnixMilli(), ProducerID: mine.ProducerID, ProducerEpoch: mine.ProducerEpoch, Type: protocol.ControlAbort,
	})
	expect(t, "a marker that ends another's transaction", produce(&txn, marker), kerr.InvalidTxnState)
}

// TestHostileConnections opens connections, sends less than a frame on some and nothing on others, and leaves; then comes
// and goes.
func TestHostileConnections(t *testing.T) {
	g := attack(t, little)
	var open []net.Conn
	for i := range 500 {
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if i%2 == 0 {
			if _, err := c.Write([]byte{0, 0, 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.see()
	for i, c := range open {
		if tcp := c.(*net.TCPConn); i%3 == 0 {
			_ = tcp.SetLinger(0) // a reset instead of an end
		} else if i%3 == 1 {
			_ = tcp.CloseWrite() // half of it
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
}

// TestHostileCompression sends batches of a few KB that decompress to hundreds of MB, where they have to be decompressed.
func TestHostileCompression(t *testing.T) {
	if broker.RaceEnabled {
		t.Skip("takes minutes under the race detector, which is not what it is about")
	}
	bombs := map[protocol.Codec][]byte{}
	for codec, size := range map[protocol.Codec]int{protocol.Gzip: 200 << 20, protocol.Zstd: 250 << 20, protocol.LZ4: 200 << 20, protocol.Snappy: 60 << 20} {
		// One record that claims to be larger still.
		plain := make([]byte, size)
		copy(plain, binary.AppendVarint(nil, math.MaxInt32))
		payload, err := protocol.Compress(nil, codec, 0, plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(payload) > 8<<20 {
			t.Fatalf("%v: %d bytes", codec, len(payload))
		}
		bombs[codec] = rawBatch(codec, payload)
	}
	g := attack(t, 4*little, brokertest.With("log.batch.validation", "strict"))
	topic := "bombed" + g.run
	g.create(topic, 1, "compression.type", "producer", "max.message.bytes", "10485880")
	debug.FreeOSMemory()
	before := residentBytes(t)
	c := g.dial()
	for range 2 {
		for codec, bomb := range bombs {
			expect(t, codec.String(), c.produce(topic, bomb), kerr.InvalidRecord)
		}
	}
	if after := residentBytes(t); *against == "" && after > before+128<<20 {
		t.Errorf("%d MiB resident at once after the last, before the first %d", after>>20, before>>20)
	}
}

// rawBatch is a batch of one record whose payload is given.
func rawBatch(codec protocol.Codec, payload []byte) []byte {
	b := batchOf(protocol.BatchParams{Codec: codec}, 1, 10)[:protocol.BatchHeaderLen]
	b = append(slices.Clone(b), payload...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-protocol.BatchOverhead))
	batch := protocol.Batch(b)
	binary.BigEndian.PutUint32(b[17:], batch.ComputeCRC())
	return b
}

// residentBytes is what the process holds of the machine's memory.
func residentBytes(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// TestAbusesHaveTheirTests sees that the table at the top of this file names tests that there are, for each of its items,
// and every test of this file.
func TestAbusesHaveTheirTests(t *testing.T) {
	dirs := map[string]string{"": ".", "protocol.": "../protocol", "storage.": "../storage", "handler.": "handler"}
	file, err := parser.ParseFile(token.NewFileSet(), "badinput_test.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(file.Doc.Text(), "-against 127.0.0.1:9092\n")
	items := regexp.MustCompile(`(?m)^\t *\d+ `).FindAllStringIndex(table, -1)
	if len(items) != 25 {
		t.Fatalf("%d items", len(items))
	}
	test := regexp.MustCompile(`([a-z]+\.)?\b((?:Test|Fuzz)\w+)(?: \(([a-z_, ]+)\))?`)
	var declared testutil.Declared
	for i, at := range items {
		end := len(table)
		if i+1 < len(items) {
			end = items[i+1][0]
		}
		item := table[at[0]:end]
		if !strings.HasPrefix(strings.TrimSpace(item), fmt.Sprint(i+1, " ")) {
			t.Errorf("item %d reads %s", i+1, item)
		}
		named := 0
		for list := range strings.SplitSeq(item, ";") { // of the tests of one package
			in := ""
			for _, m := range test.FindAllStringSubmatch(list, -1) {
				if named++; m[1] != "" {
					in = m[1]
				}
				if !declared.Has(t, dirs[in], m[2]) {
					t.Errorf("item %d: there is no %s%s", i+1, in, m[2])
				}
				if m[2] != "TestAsKafka" {
					continue
				}
				for script := range strings.SplitSeq(m[3], ", ") {
					if _, err := os.Stat("handler/testdata/kafka/" + script + ".txt"); err != nil {
						t.Errorf("item %d: %v", i+1, err)
					}
				}
			}
		}
		if named == 0 {
			t.Errorf("item %d has no test", i+1)
		}
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "TestHostile") && !strings.Contains(table, f.Name.Name) {
			t.Errorf("no item names %s", f.Name.Name)
		}
	}
}
