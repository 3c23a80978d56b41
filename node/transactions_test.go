package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestTransactionsLikeKafka plays requests of transactions, right and wrong
// ones, and compares every answer with what Apache Kafka 4.3.1 gave. To record
// that again: GREGOR_RECORD_FROM=host:port of a Kafka.
func TestTransactionsLikeKafka(t *testing.T) {
	golden := filepath.Join("testdata", "transactions.txt")
	if kafka := os.Getenv("GREGOR_RECORD_FROM"); kafka != "" {
		s := newScribe(t, kafka, fmt.Sprintf("txn%d-", time.Now().UnixNano()))
		s.play()
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(s.text()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()},
		"transaction.state.log.num.partitions=3", "offsets.topic.num.partitions=50")
	s := newScribe(t, n.Addr(""), "txn-")
	s.play()
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	wantLines, gotLines := strings.Split(string(want), "\n"), strings.Split(s.text(), "\n")
	better := betterThanKafka()
	for i := range max(len(wantLines), len(gotLines)) {
		w, g := at2(wantLines, i), at2(gotLines, i)
		if instead, is := better[w]; is {
			delete(better, w)
			w = instead
		}
		if w != g {
			t.Errorf("line %d\n kafka:  %s\n gregor: %s", i+1, w, g)
		}
	}
	if len(better) > 0 {
		t.Errorf("Kafka does not answer so: %v", better)
	}
}

// betterThanKafka are the answers in which gregor differs on purpose, by Kafka's. A request that
// comes after the end of its transaction, as from a network that repeats it, makes Kafka refuse the
// next transaction of a producer that keeps its epoch, which librdkafka does not survive. Here
// it changes nothing.
func betterThanKafka() map[string]string {
	return map[string]string{
		`produce v10 "old" P4/0 sequence 2: b-0 OUT_OF_ORDER_SEQUENCE_NUMBER at -1`:                                                          `produce v10 "old" P4/0 sequence 2: b-0 NONE at 3`,
		`fetch b:0 isolation 0: NONE high watermark 4 last stable 4 aborted [] batches [0:data P4/0 1:data P4/0 2:commit P4/0 3:abort P4/0]`: `fetch b:0 isolation 0: NONE high watermark 5 last stable 5 aborted [] batches [0:data P4/0 1:data P4/0 2:commit P4/0 3:data P4/0 4:abort P4/0]`,
		`fetch b:0 isolation 1: NONE high watermark 4 last stable 4 aborted [] batches [0:data P4/0 1:data P4/0 2:commit P4/0 3:abort P4/0]`: `fetch b:0 isolation 1: NONE high watermark 5 last stable 5 aborted [P4 from 3] batches [0:data P4/0 1:data P4/0 2:commit P4/0 3:data P4/0 4:abort P4/0]`,
	}
}

func at2(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// scribe asks one broker and writes down what it answers, without what differs
// from run to run: names of topics and ids, producer ids, times.
type scribe struct {
	t      *testing.T
	conn   net.Conn
	prefix string
	lines  []string
	pids   []int64
}

func newScribe(t *testing.T, addr, prefix string) *scribe {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &scribe{t: t, conn: conn, prefix: prefix}
}

func (s *scribe) text() string { return strings.Join(s.lines, "\n") + "\n" }

func (s *scribe) note(format string, args ...any) {
	s.lines = append(s.lines, strings.ReplaceAll(fmt.Sprintf(format, args...), s.prefix, ""))
}

// pid names a producer id by the order in which they were seen.
func (s *scribe) pid(id int64) string {
	if id < 0 {
		return fmt.Sprint(id)
	}
	i := slices.Index(s.pids, id)
	if i < 0 {
		i = len(s.pids)
		s.pids = append(s.pids, id)
	}
	return fmt.Sprintf("P%d", i)
}

func errName(code int16) string {
	if code == 0 {
		return "NONE"
	}
	var e *kerr.Error
	if errors.As(kerr.ErrorForCode(code), &e) {
		return e.Message
	}
	return fmt.Sprint(code)
}

func (s *scribe) ask(req kmsg.Request, version int16) kmsg.Response {
	s.t.Helper()
	req.SetVersion(version)
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("scribe")).AppendRequest(nil, req, 7)
	if err := s.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.conn.Write(frame); err != nil {
		s.t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(s.conn, size[:]); err != nil {
		s.t.Fatalf("%T v%d: %v", req, version, err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(s.conn, body); err != nil {
		s.t.Fatal(err)
	}
	body = body[4:] // correlation id
	resp := req.ResponseKind()
	if resp.IsFlexible() {
		body = body[1:] // tags of the header
	}
	if err := resp.ReadFrom(body); err != nil {
		s.t.Fatalf("%T v%d: %v", resp, version, err)
	}
	return resp
}

// settled repeats what is answered with CONCURRENT_TRANSACTIONS or while the
// coordinator loads: how long that takes is not ours to compare.
func settled[T any](s *scribe, ask func() (T, int16)) T {
	s.t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		resp, code := ask()
		passes := code == kerr.ConcurrentTransactions.Code || code == kerr.CoordinatorLoadInProgress.Code
		if !passes || time.Since(began) > 20*time.Second {
			return resp
		}
	}
}

type producerID struct {
	id    int64
	epoch int16
}

func (p producerID) plus(n int16) producerID { return producerID{p.id, p.epoch + n} }

var nobody = producerID{-1, -1}

func (s *scribe) init(version int16, id string, timeoutMs int32, known producerID) producerID {
	s.t.Helper()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &id
	req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = timeoutMs, known.id, known.epoch
	first := int16(0)
	resp := settled(s, func() (*kmsg.InitProducerIDResponse, int16) {
		r := s.ask(req, version).(*kmsg.InitProducerIDResponse)
		if r.ErrorCode != 0 && r.ErrorCode != kerr.CoordinatorLoadInProgress.Code && first == 0 {
			first = r.ErrorCode
		}
		return r, r.ErrorCode
	})
	waited := ""
	if resp.ErrorCode == 0 && first != 0 {
		waited = " after " + errName(first)
	}
	s.note("init v%d %q timeout %d knows %s/%d: %s %s/%d%s", version, id, timeoutMs, s.pid(known.id), known.epoch,
		errName(resp.ErrorCode), s.pid(resp.ProducerID), resp.ProducerEpoch, waited)
	return producerID{resp.ProducerID, resp.ProducerEpoch}
}

func (s *scribe) add(version int16, id string, p producerID, tps ...string) {
	s.t.Helper()
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = id, p.id, p.epoch
	for _, tp := range tps {
		rt := kmsg.NewAddPartitionsToTxnRequestTopic()
		rt.Topic, rt.Partitions = s.topic(tp), []int32{partitionOf(tp)}
		req.Topics = append(req.Topics, rt)
	}
	out := settled(s, func() (string, int16) {
		r := s.ask(req, version).(*kmsg.AddPartitionsToTxnResponse)
		var parts []string
		code := int16(0)
		for _, rt := range r.Topics {
			for _, rp := range rt.Partitions {
				parts = append(parts, fmt.Sprintf("%s-%d %s", rt.Topic, rp.Partition, errName(rp.ErrorCode)))
				code = rp.ErrorCode
			}
		}
		sort.Strings(parts)
		return strings.Join(parts, ", "), code
	})
	s.note("add v%d %q %s/%d: %s", version, id, s.pid(p.id), p.epoch, out)
}

// topic and partitionOf read "name:1"; a name with two underscores is internal.
func (s *scribe) topic(tp string) string {
	name, _, _ := strings.Cut(tp, ":")
	if strings.HasPrefix(name, "__") {
		return name
	}
	return s.prefix + name
}

func partitionOf(tp string) int32 {
	_, n, _ := strings.Cut(tp, ":")
	var p int32
	_, _ = fmt.Sscan(n, &p)
	return p
}

func (s *scribe) addBatched(version int16, verifyOnly bool, id string, p producerID, tps ...string) {
	s.t.Helper()
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	tx := kmsg.NewAddPartitionsToTxnRequestTransaction()
	tx.TransactionalID, tx.ProducerID, tx.ProducerEpoch, tx.VerifyOnly = id, p.id, p.epoch, verifyOnly
	for _, tp := range tps {
		rt := kmsg.NewAddPartitionsToTxnRequestTransactionTopic()
		rt.Topic, rt.Partitions = s.topic(tp), []int32{partitionOf(tp)}
		tx.Topics = append(tx.Topics, rt)
	}
	req.Transactions = append(req.Transactions, tx)
	out := settled(s, func() (string, int16) {
		r := s.ask(req, version).(*kmsg.AddPartitionsToTxnResponse)
		parts := []string{errName(r.ErrorCode)}
		code := int16(0)
		for _, rx := range r.Transactions {
			parts = append(parts, fmt.Sprintf("%q", rx.TransactionalID))
			for _, rt := range rx.Topics {
				for _, rp := range rt.Partitions {
					parts = append(parts, fmt.Sprintf("%s-%d %s", rt.Topic, rp.Partition, errName(rp.ErrorCode)))
					code = rp.ErrorCode
				}
			}
		}
		sort.Strings(parts[1:])
		return strings.Join(parts, ", "), code
	})
	s.note("add v%d verify only %v %q %s/%d: %s", version, verifyOnly, id, s.pid(p.id), p.epoch, out)
}

func (s *scribe) addOffsets(version int16, id string, p producerID, group string) {
	s.t.Helper()
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = id, p.id, p.epoch, group
	resp := settled(s, func() (*kmsg.AddOffsetsToTxnResponse, int16) {
		r := s.ask(req, version).(*kmsg.AddOffsetsToTxnResponse)
		return r, r.ErrorCode
	})
	s.note("add offsets v%d %q %s/%d: %s", version, id, s.pid(p.id), p.epoch, errName(resp.ErrorCode))
}

func (s *scribe) commitOffset(version int16, id string, p producerID, group string, generation int32, tps ...string) {
	s.t.Helper()
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group, req.Generation = id, p.id, p.epoch, group, generation
	for _, tp := range tps {
		rt := kmsg.NewTxnOffsetCommitRequestTopic()
		rt.Topic = s.topic(tp)
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset = partitionOf(tp), 42
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	}
	out := settled(s, func() (string, int16) {
		var parts []string
		code := int16(0)
		for _, rt := range s.ask(req, version).(*kmsg.TxnOffsetCommitResponse).Topics {
			for _, rp := range rt.Partitions {
				parts = append(parts, fmt.Sprintf("%s-%d %s", rt.Topic, rp.Partition, errName(rp.ErrorCode)))
				code = rp.ErrorCode
			}
		}
		sort.Strings(parts)
		return strings.Join(parts, ", "), code
	})
	s.note("commit offset v%d %q %s/%d generation %d: %s", version, id, s.pid(p.id), p.epoch, generation, out)
}

func (s *scribe) fetchOffset(group, tp string, stable bool) {
	s.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.RequireStable = group, stable
	rt := kmsg.NewOffsetFetchRequestTopic()
	rt.Topic, rt.Partitions = s.topic(tp), []int32{partitionOf(tp)}
	req.Topics = append(req.Topics, rt)
	resp := s.ask(req, 7).(*kmsg.OffsetFetchResponse)
	rp := resp.Topics[0].Partitions[0]
	s.note("fetch offset stable %v: %s %d", stable, errName(rp.ErrorCode), rp.Offset)
}

func (s *scribe) end(version int16, id string, p producerID, commit bool) producerID {
	s.t.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = id, p.id, p.epoch, commit
	resp := settled(s, func() (*kmsg.EndTxnResponse, int16) {
		r := s.ask(req, version).(*kmsg.EndTxnResponse)
		return r, r.ErrorCode
	})
	next := ""
	if version >= 5 {
		next = fmt.Sprintf(" %s/%d", s.pid(resp.ProducerID), resp.ProducerEpoch)
	}
	s.note("end v%d %q %s/%d commit %v: %s%s", version, id, s.pid(p.id), p.epoch, commit, errName(resp.ErrorCode), next)
	return producerID{resp.ProducerID, resp.ProducerEpoch}
}

func (s *scribe) produce(version int16, id *string, p producerID, sequence int32, transactional bool, tps ...string) {
	s.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.TransactionID, req.Acks, req.TimeoutMillis = id, -1, 5000
	for _, tp := range tps {
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic = s.topic(tp)
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition = partitionOf(tp)
		rp.Records = protocol.AppendBatch(nil, protocol.BatchParams{
			LeaderEpoch: -1, BaseTimestamp: time.Now().UnixMilli(), Transactional: transactional,
			Producer: &protocol.Producer{ID: p.id, Epoch: p.epoch, BaseSequence: sequence},
		}, []protocol.Record{{Key: []byte("k"), Value: []byte("v")}})
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	}
	out := settled(s, func() (string, int16) {
		var parts []string
		code := int16(0)
		for _, rt := range s.ask(req, version).(*kmsg.ProduceResponse).Topics {
			for _, rp := range rt.Partitions {
				message := ""
				if rp.ErrorMessage != nil {
					message = " (" + *rp.ErrorMessage + ")"
				}
				parts = append(parts, fmt.Sprintf("%s-%d %s at %d%s", rt.Topic, rp.Partition, errName(rp.ErrorCode), rp.BaseOffset, message))
				code = rp.ErrorCode
			}
		}
		sort.Strings(parts)
		return strings.Join(parts, ", "), code
	})
	name := "no id"
	if id != nil {
		name = fmt.Sprintf("%q", *id)
	}
	kind := ""
	if !transactional {
		kind = " not transactional"
	}
	s.note("produce v%d %s %s/%d sequence %d%s: %s", version, name, s.pid(p.id), p.epoch, sequence, kind, out)
}

func (s *scribe) markers(version int16, p producerID, commit bool, coordinatorEpoch int32, txnVersion int8, tps ...string) {
	s.t.Helper()
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	m := kmsg.NewWriteTxnMarkersRequestMarker()
	m.ProducerID, m.ProducerEpoch, m.Committed, m.CoordinatorEpoch, m.TransactionVersion = p.id, p.epoch, commit, coordinatorEpoch, txnVersion
	for _, tp := range tps {
		rt := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		rt.Topic, rt.Partitions = s.topic(tp), []int32{partitionOf(tp)}
		m.Topics = append(m.Topics, rt)
	}
	req.Markers = append(req.Markers, m)
	var parts []string
	for _, rm := range s.ask(req, version).(*kmsg.WriteTxnMarkersResponse).Markers {
		for _, rt := range rm.Topics {
			for _, rp := range rt.Partitions {
				parts = append(parts, fmt.Sprintf("%s-%d %s", rt.Topic, rp.Partition, errName(rp.ErrorCode)))
			}
		}
	}
	sort.Strings(parts)
	s.note("markers v%d %s/%d commit %v coordinator epoch %d version %d: %s", version, s.pid(p.id), p.epoch, commit, coordinatorEpoch, txnVersion, strings.Join(parts, ", "))
}

// describe waits for the transaction to be in no state that passes.
func (s *scribe) describe(id string) {
	s.t.Helper()
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{id}
	var d kmsg.DescribeTransactionsResponseTransactionState
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		d = s.ask(req, 0).(*kmsg.DescribeTransactionsResponse).TransactionStates[0]
		if !strings.HasPrefix(d.State, "Prepare") || time.Since(began) > 20*time.Second {
			break
		}
	}
	var tps []string
	for _, t := range d.Topics {
		for _, p := range t.Partitions {
			name := fmt.Sprintf("%s-%d", t.Topic, p)
			if t.Topic == "__consumer_offsets" {
				name = t.Topic // which partition depends on how many there are
			}
			tps = append(tps, name)
		}
	}
	sort.Strings(tps)
	if d.ErrorCode != 0 {
		s.note("describe %q: %s", id, errName(d.ErrorCode))
		return
	}
	started := "not started"
	if d.StartTimestamp > 0 {
		started = "started"
	}
	s.note("describe %q: %s %s %s/%d timeout %d %s %v", id, errName(d.ErrorCode), d.State, s.pid(d.ProducerID), d.ProducerEpoch, d.TimeoutMillis, started, tps)
}

func (s *scribe) list(version int16, states []string, pids []int64, durationMs int64, pattern *string) {
	s.t.Helper()
	req := kmsg.NewPtrListTransactionsRequest()
	req.StateFilters, req.ProducerIDFilters, req.DurationFilterMillis, req.TransactionalIDPattern = states, pids, durationMs, pattern
	resp := s.ask(req, version).(*kmsg.ListTransactionsResponse)
	var found []string
	for _, l := range resp.TransactionStates {
		if strings.HasPrefix(l.TransactionalID, s.prefix) {
			found = append(found, fmt.Sprintf("%s %s %s", l.TransactionalID, s.pid(l.ProducerID), l.TransactionState))
		}
	}
	sort.Strings(found)
	var p string
	if pattern != nil {
		p = *pattern
	}
	s.note("list v%d states %v %d ids longer than %d pattern %q: %s unknown %v: %v", version, states, len(pids), durationMs, p, errName(resp.ErrorCode), resp.UnknownStateFilters, found)
}

// fetchCommitted reads a partition as read_committed and as read_uncommitted.
func (s *scribe) fetchBounds(tp string) {
	s.t.Helper()
	for _, isolation := range []int8{0, 1} {
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel, req.SessionEpoch = 0, 0, 1<<20, isolation, -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = s.topic(tp)
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.PartitionMaxBytes = partitionOf(tp), 1<<20
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		p := s.ask(req, 11).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		var aborted, batches []string
		for _, a := range p.AbortedTransactions {
			aborted = append(aborted, fmt.Sprintf("%s from %d", s.pid(a.ProducerID), a.FirstOffset))
		}
		for rest := p.RecordBatches; len(rest) > 0; {
			b, next, err := protocol.NextBatch(rest)
			if err != nil {
				s.t.Fatal(err)
			}
			kind := "data"
			if b.IsControl() {
				k, _, err := protocol.ParseControlBatch(b)
				if err != nil {
					s.t.Fatal(err)
				}
				kind = k.String()
			}
			batches = append(batches, fmt.Sprintf("%d:%s %s/%d", b.BaseOffset(), kind, s.pid(b.ProducerID()), b.ProducerEpoch()))
			rest = next
		}
		s.note("fetch %s isolation %d: %s high watermark %d last stable %d aborted %v batches %v", tp, isolation, errName(p.ErrorCode), p.HighWatermark, p.LastStableOffset, aborted, batches)
	}
}

func (s *scribe) section(title string) { s.note("\n# %s", title) }

func (s *scribe) setUp() {
	s.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10000
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = s.prefix+name, 2, 1
		req.Topics = append(req.Topics, rt)
	}
	for _, rt := range s.ask(req, 5).(*kmsg.CreateTopicsResponse).Topics {
		if rt.ErrorCode != 0 {
			s.t.Fatal(rt.Topic, errName(rt.ErrorCode))
		}
	}
	for _, kind := range []int8{0, 1} {
		settled(s, func() (any, int16) {
			f := kmsg.NewPtrFindCoordinatorRequest()
			f.CoordinatorType, f.CoordinatorKeys = kind, []string{s.prefix + "x"}
			code := s.ask(f, 4).(*kmsg.FindCoordinatorResponse).Coordinators[0].ErrorCode
			if code == kerr.CoordinatorNotAvailable.Code {
				code = kerr.ConcurrentTransactions.Code
			}
			return nil, code
		})
	}
}

func (s *scribe) play() {
	s.t.Helper()
	s.setUp()
	id := func(name string) string { return s.prefix + name }
	ptr := func(name string) *string { return &name }

	s.section("InitProducerId")
	s.init(4, "", 60000, nobody)
	s.init(4, id("timeouts"), 0, nobody)
	s.init(4, id("timeouts"), -5, nobody)
	s.init(4, id("timeouts"), 1<<30, nobody)
	s.init(4, id("odd"), 60000, producerID{5_000_000_000, -1})
	s.init(4, id("odd"), 60000, producerID{-1, 5})
	s.init(4, id("i"), 60000, nobody)
	s.describe(id("i"))
	p := s.init(4, id("i"), 50000, nobody)
	q := s.init(4, id("i"), 60000, p)
	s.init(4, id("i"), 60000, p)          // a retry
	s.init(4, id("i"), 60000, p.plus(-1)) // fenced
	s.init(3, id("i"), 60000, p.plus(-1))
	s.init(4, id("i"), 60000, q.plus(1))
	s.init(4, id("i"), 60000, producerID{q.id + 1_000_000_000, q.epoch})
	q = s.init(4, id("i"), 60000, q)
	s.init(4, id("unheard"), 60000, producerID{q.id, 7})

	s.section("AddPartitionsToTxn of clients")
	s.add(3, id("nobody"), q, "a:0")
	s.add(3, "", q, "a:0")
	s.add(3, id("i"), producerID{q.id + 1_000_000_000, q.epoch}, "a:0")
	for _, v := range []int16{1, 2, 3} {
		s.add(v, id("i"), q.plus(-1), "a:0")
		s.add(v, id("i"), q.plus(1), "a:0")
	}
	s.add(3, id("i"), q, "a:0", "nowhere:0", "b:9")
	s.describe(id("i"))
	s.add(3, id("i"), q, "a:0", "b:1")
	s.add(3, id("i"), q, "a:0")
	s.add(3, id("i"), q)
	s.describe(id("i"))
	s.add(3, id("i"), q, "a:1")

	s.section("AddPartitionsToTxn of brokers")
	for _, v := range []int16{4, 5} {
		s.addBatched(v, true, id("i"), q, "a:0", "a:1", "c:0")
		s.addBatched(v, true, id("i"), q.plus(-1), "a:0")
		s.addBatched(v, true, id("i"), producerID{q.id + 1_000_000_000, 0}, "a:0")
		s.addBatched(v, true, id("nobody"), q, "a:0")
		s.addBatched(v, true, "", q, "a:0")
		s.addBatched(v, true, id("i"), q, "nowhere:0", "a:0")
		s.addBatched(v, false, id("i"), q.plus(1), "c:0")
		s.addBatched(v, false, id("nobody"), q, "c:0")
		s.addBatched(v, false, id("i"), q, "nowhere:0", "c:0")
	}
	s.addBatched(4, false, id("i"), q, "c:0")
	s.describe(id("i"))

	s.section("offsets in a transaction, as clients did before version 2")
	s.commitOffset(3, id("i"), q, id("g"), -1, "a:0") // the group is not added
	s.commitOffset(4, id("i"), q, id("g"), -1, "a:0")
	s.addOffsets(3, "", q, id("g"))
	s.addOffsets(3, id("nobody"), q, id("g"))
	s.addOffsets(1, id("i"), q.plus(-1), id("g"))
	s.addOffsets(3, id("i"), q.plus(-1), id("g"))
	s.addOffsets(3, id("i"), q, id("g"))
	s.commitOffset(3, id("i"), q.plus(-1), id("g"), -1, "a:0")
	s.commitOffset(3, id("nobody"), q, id("g"), -1, "a:0")
	s.commitOffset(3, id("i"), q, id("g"), 3, "a:0")
	s.commitOffset(3, id("i"), q, id("g"), -1, "a:0", "nowhere:0", "a:7")
	s.fetchOffset(id("g"), "a:0", false)
	s.fetchOffset(id("g"), "a:0", true)
	s.describe(id("i"))

	s.section("EndTxn before version 2")
	s.end(3, "", q, true)
	s.end(3, id("nobody"), q, true)
	s.end(3, id("i"), producerID{q.id + 1_000_000_000, 0}, true)
	s.end(1, id("i"), q.plus(-1), true)
	s.end(3, id("i"), q.plus(-1), true)
	s.end(3, id("i"), q.plus(1), true)
	s.end(3, id("i"), q, true)
	s.describe(id("i"))
	s.end(3, id("i"), q, true)
	s.end(3, id("i"), q, false)
	s.fetchOffset(id("g"), "a:0", true)
	s.init(4, id("i"), 60000, q)
	s.end(3, id("i"), q.plus(1), true) // in Empty
	s.end(3, id("i"), q.plus(1), false)

	s.section("Produce before version 2")
	p = s.init(4, id("old"), 60000, nobody)
	for _, v := range []int16{10, 11} {
		s.produce(v, ptr(id("old")), p, 0, true, "b:0") // not added
		s.produce(v, ptr(id("nobody")), p, 0, true, "b:0")
		s.produce(v, ptr(id("old")), p.plus(1), 0, true, "b:0")
		s.produce(v, nil, p, 0, true, "b:0")
	}
	s.add(3, id("old"), p, "b:0")
	s.produce(10, ptr(id("old")), p, 0, true, "b:0")
	s.produce(10, ptr(id("old")), p, 0, true, "b:0") // a retry
	s.produce(10, ptr(id("old")), p, 1, true, "b:0", "b:1")
	s.produce(10, ptr(id("old")), p, 2, false, "b:0")
	s.produce(10, ptr(id("old")), p, 5, true, "b:0")
	s.fetchBounds("b:0")
	s.end(3, id("old"), p, true)
	s.describe(id("old"))
	s.fetchBounds("b:0")
	s.produce(10, ptr(id("old")), p, 1, true, "b:0") // late
	s.produce(11, ptr(id("old")), p, 2, true, "b:0")
	s.add(3, id("old"), p, "b:0")
	s.produce(10, ptr(id("old")), p, 2, true, "b:0")
	s.end(3, id("old"), p, false)
	s.describe(id("old"))
	s.fetchBounds("b:0")

	s.section("version 2")
	p = s.init(5, id("new"), 60000, nobody)
	s.end(5, id("new"), p, true)
	p = s.end(5, id("new"), p, false) // an abort without a transaction
	s.describe(id("new"))
	s.produce(12, ptr(id("new")), p.plus(-1), 0, true, "c:0")
	s.produce(12, ptr(id("new")), p.plus(1), 0, true, "c:0")
	s.produce(12, ptr(id("nobody")), p, 0, true, "c:0")
	s.produce(12, ptr(id("new")), p, 3, true, "c:0")
	s.describe(id("new"))
	s.produce(12, ptr(id("new")), p, 0, true, "c:0", "c:1")
	s.produce(12, ptr(id("new")), p, 0, true, "c:0")
	s.produce(12, ptr(id("new")), p, 1, true, "c:0")
	s.describe(id("new"))
	s.commitOffset(5, id("new"), p, id("h"), -1, "a:0", "nowhere:0")
	s.commitOffset(5, id("new"), p.plus(-1), id("h2"), -1, "a:0")
	s.commitOffset(5, id("nobody"), p, id("h2"), -1, "a:0")
	s.describe(id("new"))
	s.fetchOffset(id("h"), "a:0", true)
	s.end(5, id("new"), p.plus(-1), true)
	s.end(5, id("new"), p.plus(1), true)
	next := s.end(5, id("new"), p, true)
	s.describe(id("new"))
	s.end(5, id("new"), p, true) // a retry
	s.end(5, id("new"), p, false)
	s.end(5, id("new"), p.plus(-1), true)
	s.end(5, id("new"), next, true)
	s.end(3, id("new"), next, true)
	s.end(3, id("new"), p, true)
	s.fetchOffset(id("h"), "a:0", true)
	s.fetchBounds("c:0")
	s.produce(12, ptr(id("new")), p, 2, true, "c:0")
	s.produce(12, ptr(id("new")), p, 1, true, "c:0") // a late retry
	s.produce(12, ptr(id("new")), next, 0, true, "c:0")
	s.end(5, id("new"), p, true) // delayed: it must not end this transaction
	s.end(5, id("new"), p, false)
	s.fetchBounds("c:0")
	next = s.end(5, id("new"), next, false)
	s.describe(id("new"))
	s.fetchBounds("c:0")
	s.end(5, id("new"), next, false)
	s.describe(id("new"))

	s.section("fencing an ongoing transaction")
	p = s.init(4, id("z1"), 60000, nobody)
	s.add(3, id("z1"), p, "d:0")
	s.produce(10, ptr(id("z1")), p, 0, true, "d:0")
	q = s.init(4, id("z1"), 60000, nobody)
	s.describe(id("z1"))
	s.produce(10, ptr(id("z1")), p, 1, true, "d:0")
	s.end(3, id("z1"), p, true)
	s.add(3, id("z1"), p, "d:0")
	s.fetchBounds("d:0")
	p = s.init(5, id("z2"), 60000, nobody)
	s.produce(12, ptr(id("z2")), p, 0, true, "d:1")
	q = s.init(5, id("z2"), 60000, p)
	s.describe(id("z2"))
	s.produce(12, ptr(id("z2")), p, 1, true, "d:1")
	s.end(5, id("z2"), p, true)
	s.fetchBounds("d:1")
	_ = q

	s.section("WriteTxnMarkers")
	s.init(5, id("m"), 60000, nobody)
	p = s.init(5, id("m"), 60000, nobody)
	s.produce(12, ptr(id("m")), p, 0, true, "e:0")
	s.markers(1, p.plus(-1), false, 0, 0, "e:0")
	s.markers(2, p.plus(-1), false, 0, 2, "e:0")
	s.markers(2, p, false, 0, 2, "e:0") // equal epoch: a late marker
	s.markers(2, p.plus(1), false, 7, 2, "e:0", "nowhere:0", "e:9")
	s.markers(2, p.plus(1), false, 7, 2, "e:0") // a retry
	s.markers(2, p.plus(2), false, 6, 2, "e:0") // an older coordinator
	s.markers(1, p.plus(1), true, 7, 0, "e:0")
	s.fetchBounds("e:0")
	s.markers(1, producerID{7_000_000_000, 0}, true, 0, 0, "e:1")
	s.fetchBounds("e:1")

	s.section("DescribeTransactions and ListTransactions")
	s.describe("")
	s.describe(id("nobody"))
	p = s.init(5, id("list-1"), 60000, nobody)
	s.produce(12, ptr(id("list-1")), p, 0, true, "f:0")
	s.init(5, id("list-2"), 60000, nobody)
	time.Sleep(2 * time.Millisecond) // for the transaction to be longer than 0 ms
	s.list(0, nil, nil, -1, nil)
	s.list(1, []string{"Ongoing"}, nil, -1, nil)
	s.list(1, []string{"Ongoing", "Sleeping"}, nil, -1, nil)
	s.list(1, []string{"Sleeping"}, nil, -1, nil)
	s.list(1, []string{"ongoing"}, nil, -1, nil)
	s.list(1, []string{"Dead", "PrepareEpochFence"}, nil, -1, nil)
	s.list(1, nil, []int64{p.id}, -1, nil)
	s.list(1, nil, []int64{p.id, -5}, 0, nil)
	s.list(1, nil, nil, 3_600_000, nil)
	s.list(1, []string{"Ongoing"}, nil, 0, nil)
	s.list(2, nil, nil, -1, ptr("list"))
	s.list(2, nil, nil, -1, ptr(".*list-[1]"))
	s.list(2, nil, nil, -1, ptr(""))
	s.list(2, nil, nil, -1, ptr("(*"))
	s.list(2, []string{"Empty"}, nil, -1, ptr(".*list.*"))
}

// txnNodes starts the same node again and again.
type txnNodes struct {
	t     *testing.T
	store *memstore.Store
	fs    *vfs.Mem
}

func newTxnNodes(t *testing.T) *txnNodes {
	return &txnNodes{t, memstore.New(), vfs.NewMem()}
}

func (x *txnNodes) start() (*Node, *scribe) {
	x.t.Helper()
	n := startNode(x.t, Options{Store: x.store, FS: x.fs}, "transaction.state.log.num.partitions=1", "offsets.topic.num.partitions=1")
	awaitLoaded(n)
	return n, newScribe(x.t, n.Addr(""), "")
}

// awaitLoaded returns when the coordinators have loaded what there is.
func awaitLoaded(n *Node) {
	loading := func() bool {
		for _, partitions := range []map[int32]bool{n.txns.Partitions(), n.groups.Partitions()} {
			for _, loaded := range partitions {
				if !loaded {
					return true
				}
			}
		}
		return false
	}
	for began := time.Now(); loading() && time.Since(began) < 20*time.Second; {
		time.Sleep(time.Millisecond)
	}
}

func (s *scribe) topics(names ...string) {
	s.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10000
	for _, name := range names {
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, 2, 1
		req.Topics = append(req.Topics, rt)
	}
	s.ask(req, 5)
	for _, kind := range []int8{0, 1} {
		f := kmsg.NewPtrFindCoordinatorRequest()
		f.CoordinatorType, f.CoordinatorKeys = kind, []string{"x"}
		s.ask(f, 4)
	}
}

func (s *scribe) last(want string) {
	s.t.Helper()
	if got := s.lines[len(s.lines)-1]; got != want {
		s.t.Fatalf("got  %s\nwant %s", got, want)
	}
}

// A transaction goes on over a restart of its broker, on which everything it
// knows is soft but the logs.
func TestTransactionOverRestart(t *testing.T) {
	x := newTxnNodes(t)
	n, s := x.start()
	s.topics("a")
	id := "x"
	p := s.init(5, id, 60000, nobody)
	s.produce(12, &id, p, 0, true, "a:0")
	s.commitOffset(5, id, p, "g", -1, "a:0")
	stopNode(t, n)
	n, s = x.start()
	s.produce(12, &id, p, 1, true, "a:0", "a:1")
	s.last(`produce v12 "x" P0/0 sequence 1: a-0 NONE at 1, a-1 OUT_OF_ORDER_SEQUENCE_NUMBER at -1`)
	s.produce(12, &id, p, 0, true, "a:1")
	s.fetchOffset("g", "a:0", true)
	s.last("fetch offset stable true: UNSTABLE_OFFSET_COMMIT -1")
	next := s.end(5, id, p, true)
	s.describe(id)
	s.last(`describe "x": NONE CompleteCommit P0/1 timeout 60000 started []`)
	s.fetchOffset("g", "a:0", true)
	s.last("fetch offset stable true: NONE 42")
	for _, tp := range []string{"a:0", "a:1"} {
		s.fetchBounds(tp)
	}
	stopNode(t, n)
	_, s = x.start()
	s.end(5, id, p, true) // a retry of long ago
	s.produce(12, &id, p, 2, true, "a:0")
	s.last(`produce v12 "x" P0/0 sequence 2: a-0 INVALID_PRODUCER_EPOCH at -1`)
	s.produce(12, &id, next, 0, true, "a:0")
	s.fetchBounds("a:0")
	s.last("fetch a:0 isolation 1: NONE high watermark 4 last stable 3 aborted [] batches [0:data P0/0 1:data P0/0 2:commit P0/1]")
}

// A broker that ends between the decision and its markers writes them when it is
// back.
func TestMarkersAfterRestart(t *testing.T) {
	for _, commit := range []bool{true, false} {
		x := newTxnNodes(t)
		n, s := x.start()
		s.topics("a")
		id := "x"
		p := s.init(5, id, 60000, nobody)
		s.produce(12, &id, p, 0, true, "a:0", "a:1")
		s.commitOffset(5, id, p, "g", -1, "a:0")
		n.markers.Close()
		s.end(5, id, p, commit)
		stopNode(t, n)

		_, s = x.start()
		s.describe(id)
		kind, offset := "commit", 42
		if commit {
			s.last(`describe "x": NONE CompleteCommit P0/1 timeout 60000 started []`)
		} else {
			s.last(`describe "x": NONE CompleteAbort P0/1 timeout 60000 started []`)
			kind, offset = "abort", -1
		}
		s.fetchOffset("g", "a:0", true)
		s.last(fmt.Sprintf("fetch offset stable true: NONE %d", offset))
		s.fetchBounds("a:1")
		// A broker that comes back may lead in two epochs, one after the other:
		// each coordinator writes the markers, the second time without effect.
		got := s.lines[len(s.lines)-1]
		marker := fmt.Sprintf(":%s P0/1", kind)
		if markers := strings.Count(got, marker); markers == 0 || strings.Count(got, ":") != 3+markers || !strings.Contains(got, "last stable "+fmt.Sprint(1+markers)+" ") {
			t.Fatalf("got %s, want a record and then only %s", got, kind)
		}
	}
}

// Partitions that were deleted meanwhile do not keep a transaction from ending.
func TestTransactionOnDeletedTopic(t *testing.T) {
	n, s := newTxnNodes(t).start()
	s.topics("a", "b")
	id := "x"
	p := s.init(5, id, 60000, nobody)
	s.produce(12, &id, p, 0, true, "a:0", "b:0")
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.TopicNames, del.TimeoutMillis = []string{"b"}, 10000
	s.ask(del, 5)
	s.end(5, id, p, true)
	s.describe(id)
	s.last(`describe "x": NONE CompleteCommit P0/1 timeout 60000 started []`)
	_ = n
}

// A client may name the coordinator's own topic, as part of a transaction or for
// markers that it sends itself. The coordinator stays, and comes back. The answers are
// those of Apache Kafka 4.3.1.
func TestMarkersForTheCoordinatorsOwnTopic(t *testing.T) {
	x := newTxnNodes(t)
	n, s := x.start()
	s.topics("a")
	id, own := "x", handler.TransactionsTopic+":0"
	p := s.init(5, id, 60000, nobody)
	s.markers(1, p, true, 0, 0, own)
	s.last("markers v1 P0/0 commit true coordinator epoch 0 version 0: __transaction_state-0 NONE")
	s.add(3, id, p, own, "a:0")
	s.last(`add v3 "x" P0/0: __transaction_state-0 TOPIC_AUTHORIZATION_FAILED, a-0 OPERATION_NOT_ATTEMPTED`)
	s.addBatched(5, false, id, p, own, "a:0")
	s.last(`add v5 verify only false "x" P0/0: NONE, "x", __transaction_state-0 NONE, a-0 NONE`)
	s.produce(11, &id, p, 0, true, "a:0")
	s.end(4, id, p, true)
	s.describe(id)
	s.last(`describe "x": NONE CompleteCommit P0/0 timeout 60000 started []`)
	stopNode(t, n)
	_, s = x.start()
	s.describe(id)
	s.last(`describe "x": NONE CompleteCommit P0/0 timeout 60000 started []`)
}

// The time of a transaction is over: it is aborted, and its producer fenced.
func TestTransactionTimeout(t *testing.T) {
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()}, "transaction.state.log.num.partitions=1", "offsets.topic.num.partitions=1",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms=20")
	s := newScribe(t, n.Addr(""), "")
	s.topics("a")
	id := "x"
	p := s.init(5, id, 50, nobody)
	s.produce(12, &id, p, 0, true, "a:0")
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{id}
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		state := s.ask(req, 0).(*kmsg.DescribeTransactionsResponse).TransactionStates[0].State
		if state == "CompleteAbort" {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("still %s", state)
		}
	}
	s.produce(12, &id, p, 1, true, "a:0")
	s.last(`produce v12 "x" P0/0 sequence 1: a-0 INVALID_PRODUCER_EPOCH at -1`)
	s.fetchBounds("a:0")
	s.last("fetch a:0 isolation 1: NONE high watermark 2 last stable 2 aborted [P0 from 0] batches [0:data P0/0 1:abort P0/1]")
}

// Transactions of one record, one right after the other: each begins while the
// markers of the last are under way.
func TestTransactionsBackToBack(t *testing.T) {
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()}, "transaction.state.log.num.partitions=1")
	c, err := kgo.NewClient(kgo.SeedBrokers(n.Addr("")), kgo.TransactionalID("x"), kgo.AllowAutoTopicCreation(),
		kgo.DefaultProduceTopic("t"), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 300 {
		if err := c.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := c.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr(); err != nil {
			t.Fatalf("transaction %d: %v", i, err)
		}
		if err := c.EndTransaction(t.Context(), kgo.TransactionEndTry(i%3 > 0)); err != nil {
			t.Fatalf("transaction %d: %v", i, err)
		}
	}
}
