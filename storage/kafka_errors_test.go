package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
)

// produceCase is a Produce request and what Apache Kafka 4.3.1 answered to it. With GREGOR_KAFKA=host:port in the
// environment TestProduceErrorsLikeKafka asks that broker again and compares.
type produceCase struct {
	name    string
	topic   string // one of produceTopics
	version int16  // of Produce; 0: 9
	records func(now int64) []byte
	code    int16
	bad     []int32 // records named in the answer
	append  bool    // the answer carries a log append time
	ours    *ours   // where we answer otherwise
}

// ours are our codes where they differ from Kafka's, and why they do.
type ours struct {
	relaxed, strict int16
	why             string
}

// produceTopics are the topics of the cases with their configuration.
var produceTopics = map[string]map[string]string{
	"plain":   {},
	"compact": {"cleanup.policy": "compact"},
	"append":  {"message.timestamp.type": "LogAppendTime"},
	"gzip":    {"compression.type": "gzip"},
	"none":    {"compression.type": "uncompressed"},
	"small":   {"max.message.bytes": "1000"},
	"before":  {"message.timestamp.before.max.ms": "1000"},
	"segment": {"segment.bytes": "1048576", "max.message.bytes": "4000000"},
}

func produceTopicConfig(name string) LogConfig {
	cfg := DefaultLogConfig()
	switch name {
	case "compact":
		cfg.Compact, cfg.Delete = true, false
	case "append":
		cfg.LogAppendTime = true
	case "gzip":
		cfg.Compression = "gzip"
	case "none":
		cfg.Compression = "uncompressed"
	case "small":
		cfg.MaxMessageBytes = 1000
	case "before":
		cfg.TimestampBeforeMaxMs = 1000
	case "segment":
		cfg.SegmentBytes, cfg.MaxMessageBytes = 1<<20, 4_000_000
	}
	return cfg
}

func rec(offset int32, key, value string) protocol.Record {
	r := protocol.Record{OffsetDelta: offset, Value: []byte(value)}
	if key != "" {
		r.Key = []byte(key)
	}
	return r
}

func three() []protocol.Record {
	return []protocol.Record{rec(0, "a", "1"), rec(1, "b", "2"), rec(2, "c", "3")}
}

// batchOf makes a good batch; edit spoils it and sets the CRC right again.
func batchOf(p protocol.BatchParams, records []protocol.Record, edit func(b protocol.Batch)) func(int64) []byte {
	return func(now int64) []byte {
		p := p
		switch p.BaseTimestamp {
		case 0:
			p.BaseTimestamp = now
		case -1:
		default:
			p.BaseTimestamp += now
		}
		b := protocol.Batch(protocol.AppendBatch(nil, p, records))
		if edit != nil {
			edit(b)
			b.ResetCRC()
		}
		return b
	}
}

func put32(at int, v int32) func(protocol.Batch) {
	return func(b protocol.Batch) { binary.BigEndian.PutUint32(b[at:], uint32(v)) }
}

func put64(at int, v int64) func(protocol.Batch) {
	return func(b protocol.Batch) { binary.BigEndian.PutUint64(b[at:], uint64(v)) }
}

func or8(at int, v byte) func(protocol.Batch) {
	return func(b protocol.Batch) { b[at] |= v }
}

func spoil(f func(int64) []byte, edit func([]byte) []byte) func(int64) []byte {
	return func(now int64) []byte { return edit(f(now)) }
}

var (
	plainParams = protocol.BatchParams{}
	goodBatch   = batchOf(plainParams, three(), nil)
	hour        = int64(3600_000)
)

func codecBatch(c protocol.Codec, records []protocol.Record, edit func(protocol.Batch)) func(int64) []byte {
	return batchOf(protocol.BatchParams{Codec: c, Level: 3}, records, edit)
}

func produceCases() []produceCase {
	gap := []protocol.Record{rec(0, "a", "1"), rec(2, "b", "2"), rec(5, "c", "3")}
	gapSpan := func(b protocol.Batch) { binary.BigEndian.PutUint32(b[23:], 2) }
	noKeys := []protocol.Record{rec(0, "a", "1"), rec(1, "", "2"), rec(2, "", "3")}
	noise := make([]byte, 3000)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	late := []protocol.Record{rec(0, "a", "1"), rec(1, "b", "2"), rec(2, "c", "3")}
	late[1].TimestampDelta = 2 * hour
	pid := &protocol.Producer{ID: 4711, Epoch: 0, BaseSequence: 0}
	return []produceCase{
		{name: "good", records: goodBatch},
		{name: "good v3", version: 3, records: goodBatch},
		{name: "empty", code: 87, records: func(int64) []byte { return []byte{} }},
		{name: "few bytes", code: 87, records: func(int64) []byte { return []byte{1, 2, 3} }},
		{name: "cut short", code: 87, records: spoil(goodBatch, func(b []byte) []byte { return b[:len(b)-1] })},
		{name: "cut in header", code: 87, records: spoil(goodBatch, func(b []byte) []byte { return b[:40] })},
		{name: "length too small", code: 2, records: spoil(goodBatch, func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 10); return b })},
		{name: "length 48", code: 2, records: spoil(goodBatch, func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 48); return b })},
		{name: "length negative", code: 2, records: spoil(goodBatch, func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 1<<31); return b })},
		{name: "length too large", code: 87, records: spoil(goodBatch, func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 1<<20); return b })},
		{name: "magic 3", code: 2, records: spoil(goodBatch, func(b []byte) []byte { b[16] = 3; return b })},
		{name: "magic 1", code: 87, records: spoil(goodBatch, func(b []byte) []byte { b[16] = 1; return b })},
		{name: "magic 0", code: 87, records: spoil(goodBatch, func(b []byte) []byte { b[16] = 0; return b })},
		{name: "magic -1", code: 2, records: spoil(goodBatch, func(b []byte) []byte { b[16] = 255; return b })},
		{name: "bad CRC", code: 2, records: spoil(goodBatch, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
		{name: "two batches", code: 87, records: func(now int64) []byte { return append(goodBatch(now), goodBatch(now)...) }},
		{name: "bytes after the batch", records: func(now int64) []byte { return append(goodBatch(now), 1, 2, 3) }},
		{name: "half a batch after", records: func(now int64) []byte { return append(goodBatch(now), goodBatch(now)[:30]...) }},
		{name: "base offset 5", code: 87, records: spoil(goodBatch, func(b []byte) []byte { protocol.Batch(b).SetBaseOffset(5); return b })},
		{name: "count 0", code: 87, records: batchOf(plainParams, nil, put32(23, -1))},
		{name: "count 0 delta 0", code: 87, records: batchOf(plainParams, nil, put32(23, 0))},
		{name: "count negative", code: 87, records: batchOf(plainParams, three(), put32(57, -3))},
		{name: "count too large", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { put32(57, 4)(b); put32(23, 3)(b) })},
		{name: "count too small", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { put32(57, 2)(b); put32(23, 1)(b) })},
		{name: "count huge", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { put32(57, 1<<30)(b); put32(23, 1<<30-1)(b) })},
		{name: "delta differs from count", code: 87, records: batchOf(plainParams, three(), put32(23, 7))},
		{name: "delta negative", code: 87, records: batchOf(plainParams, three(), put32(23, -5))},
		{name: "gaps in offsets", records: batchOf(plainParams, gap, gapSpan)},
		{name: "gaps in offsets, compressed", code: -1, ours: &ours{0, 0, "Kafka fails on its own assertion; strict gives the records dense offsets"}, records: codecBatch(protocol.Gzip, gap, gapSpan)},
		{name: "record length too large", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { b[61] = 0x7e })},
		{name: "record length negative", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { b[61] = 0x01 })},
		{name: "key beyond record", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { b[65] = 0x7e })},
		{name: "value beyond record", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { b[67] = 0x7e })},
		{name: "header count beyond record", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { b[69] = 0x7e })},
		{name: "header count negative", code: 87, records: batchOf(plainParams, three(), func(b protocol.Batch) { b[69] = 0x01 })},
		{name: "control from client", code: 87, records: batchOf(protocol.BatchParams{Control: true}, three(), nil)},
		{name: "control transactional", code: 53, ours: &ours{87, 87, "Kafka's handler refuses transactional batches in a request without a transactional id first"}, records: func(now int64) []byte {
			return protocol.AppendControlBatch(nil, protocol.ControlParams{TimestampMs: now, ProducerID: 4712, Type: protocol.ControlAbort})
		}},
		{name: "transactional without producer", code: 53, ours: &ours{0, 0, "as above"}, records: batchOf(protocol.BatchParams{Transactional: true}, three(), nil)},
		{name: "producer without sequence", code: 87, records: batchOf(protocol.BatchParams{Producer: &protocol.Producer{ID: 4713, Epoch: 0, BaseSequence: -1}}, three(), nil)},
		{name: "producer with epoch -1", records: batchOf(protocol.BatchParams{Producer: &protocol.Producer{ID: 4714, Epoch: -1, BaseSequence: 0}}, three(), nil)},
		{name: "idempotent", records: batchOf(protocol.BatchParams{Producer: pid}, three(), nil)},
		{name: "codec 5", code: -1, ours: &ours{76, 76, "Kafka's lookup of the codec throws"}, records: batchOf(plainParams, three(), or8(22, 5))},
		{name: "codec 6", code: -1, ours: &ours{76, 76, "Kafka's lookup of the codec throws"}, records: batchOf(plainParams, three(), or8(22, 6))},
		{name: "codec 7", code: -1, ours: &ours{76, 76, "Kafka's lookup of the codec throws"}, records: batchOf(plainParams, three(), or8(22, 7))},
		{name: "unknown attributes", records: batchOf(plainParams, three(), or8(21, 0x80))},
		{name: "delete horizon", records: batchOf(plainParams, three(), or8(22, 0x40))},
		{name: "zstd v6", code: 76, version: 6, records: codecBatch(protocol.Zstd, three(), nil)},
		{name: "zstd v7", version: 7, records: codecBatch(protocol.Zstd, three(), nil)},
		{name: "gzip", records: codecBatch(protocol.Gzip, three(), nil)},
		{name: "snappy", records: codecBatch(protocol.Snappy, three(), nil)},
		{name: "lz4", records: codecBatch(protocol.LZ4, three(), nil)},
		{name: "uncompressed but says gzip", code: -1, ours: &ours{0, 87, "Kafka's decompressor throws; relaxed trusts the producer"}, records: batchOf(plainParams, three(), or8(22, 1))},
		{name: "too large", code: 10, topic: "small", records: batchOf(plainParams, []protocol.Record{rec(0, "k", string(noise))}, nil)},
		{name: "too large and bad CRC", code: 10, topic: "small", records: spoil(batchOf(plainParams, []protocol.Record{rec(0, "k", string(noise))}, nil), func(b []byte) []byte { b[70] ^= 1; return b })},
		{name: "small when compressed", topic: "small", records: codecBatch(protocol.Gzip, []protocol.Record{rec(0, "k", string(bytes.Repeat([]byte("x"), 3000)))}, nil)},
		{name: "larger than a segment", code: 18, topic: "segment", records: batchOf(plainParams, []protocol.Record{rec(0, "k", string(bytes.Repeat(noise, 400)))}, nil)},
		{name: "two hours ahead", code: 32, bad: []int32{0, 1, 2}, records: batchOf(protocol.BatchParams{BaseTimestamp: 2 * hour}, three(), nil)},
		{name: "one record two hours ahead", code: 32, bad: []int32{1}, records: batchOf(plainParams, late, nil)},
		{name: "max timestamp wrong", records: batchOf(plainParams, three(), put64(35, 12345))},
		{name: "max timestamp two hours ahead", records: func(now int64) []byte {
			return batchOf(plainParams, three(), put64(35, now+2*hour))(now)
		}},
		{name: "two hours ahead, append time", append: true, topic: "append", records: batchOf(protocol.BatchParams{BaseTimestamp: 2 * hour}, three(), nil)},
		{name: "good, append time", append: true, topic: "append", records: goodBatch},
		{name: "gzip, append time", append: true, topic: "append", records: codecBatch(protocol.Gzip, three(), nil)},
		{name: "no timestamp", records: batchOf(protocol.BatchParams{BaseTimestamp: -1}, three(), nil)},
		{name: "producer says append time", records: batchOf(plainParams, three(), or8(22, 8))},
		{name: "producer says append time, append time", code: 32, bad: []int32{0, 1, 2}, topic: "append", records: batchOf(plainParams, three(), or8(22, 8))},
		{name: "an hour old", code: 32, bad: []int32{0, 1, 2}, topic: "before", records: batchOf(protocol.BatchParams{BaseTimestamp: -hour}, three(), nil)},
		{name: "an hour old, compressed", code: 32, bad: []int32{0, 1, 2}, topic: "before", records: batchOf(protocol.BatchParams{BaseTimestamp: -hour, Codec: protocol.LZ4}, three(), nil)},
		{name: "an hour old, fine", records: batchOf(protocol.BatchParams{BaseTimestamp: -hour}, three(), nil)},
		{name: "no key, fine", records: batchOf(plainParams, noKeys, nil)},
		{name: "no key, compacted", code: 87, bad: []int32{1, 2}, topic: "compact", records: batchOf(plainParams, noKeys, nil)},
		{name: "no key, compacted, compressed", code: 87, bad: []int32{1, 2}, topic: "compact", records: codecBatch(protocol.LZ4, noKeys, nil)},
		{name: "tombstone without key, compacted", code: 87, bad: []int32{1}, topic: "compact", records: batchOf(plainParams, []protocol.Record{rec(0, "a", "1"), {OffsetDelta: 1}}, nil)},
		{name: "keys, compacted", topic: "compact", records: goodBatch},
		{name: "no key and too late, compacted", code: 87, bad: []int32{1}, topic: "compact", records: batchOf(plainParams, []protocol.Record{late[0], {OffsetDelta: 1, TimestampDelta: 2 * hour}, rec(2, "c", "3")}, nil)},
		{name: "too late and no key, compacted", code: 32, bad: []int32{1, 2}, topic: "compact", records: batchOf(plainParams, []protocol.Record{late[0], {OffsetDelta: 1, TimestampDelta: 2 * hour, Key: []byte("k")}, rec(2, "", "3")}, nil)},
		{name: "recompress to gzip", topic: "gzip", records: goodBatch},
		{name: "recompress lz4 to gzip", topic: "gzip", records: codecBatch(protocol.LZ4, three(), nil)},
		{name: "gzip to uncompressed", topic: "none", records: codecBatch(protocol.Gzip, three(), nil)},
		{name: "zstd v6 to gzip", code: 76, topic: "gzip", version: 6, records: codecBatch(protocol.Zstd, three(), nil)},
	}
}

// asker sends produce requests to a real broker.
type asker struct {
	cl *kgo.Client
}

func newAsker(t *testing.T, addr string) *asker {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &asker{cl}
}

func (a *asker) create(t *testing.T, name string, configs map[string]string) {
	req := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 1, 1
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		topic.Configs = append(topic.Configs, c)
	}
	req.Topics = append(req.Topics, topic)
	req.TimeoutMillis = 10000
	resp, err := req.RequestWith(context.Background(), a.cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		t.Fatal(name, err)
	}
	t.Cleanup(func() {
		del := kmsg.NewPtrDeleteTopicsRequest()
		del.TimeoutMillis = 10000
		del.TopicNames = []string{name}
		dt := kmsg.NewDeleteTopicsRequestTopic()
		dt.Topic = &name
		del.Topics = append(del.Topics, dt)
		del.RequestWith(context.Background(), a.cl)
	})
}

func (a *asker) produce(t *testing.T, topic string, version int16, records []byte) kmsg.ProduceResponseTopicPartition {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = 1, 10000
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = records
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rt.Partitions = append(rt.Partitions, p)
	req.Topics = append(req.Topics, rt)
	// The client picks the highest version it and the broker know; a wrapper holds it down.
	broker := a.cl.SeedBrokers()[0]
	for range 1000 {
		resp, err := broker.Request(context.Background(), &pinned{req, version})
		if err != nil {
			t.Fatalf("produce: %v", err)
		}
		got := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		// Kafka's brokers learn of a topic, and then of its leader, a little later.
		if got.ErrorCode != kerr.UnknownTopicOrPartition.Code && got.ErrorCode != kerr.NotLeaderForPartition.Code {
			return got
		}
	}
	t.Fatalf("topic %s does not appear", topic)
	panic("not reached")
}

// pinned is a request of one version.
type pinned struct {
	*kmsg.ProduceRequest
	v int16
}

func (p *pinned) MaxVersion() int16 { return p.v }

func TestProduceErrorsLikeKafka(t *testing.T) {
	var real *asker
	suffix := fmt.Sprint("-store-", time.Now().UnixNano())
	if addr := os.Getenv("GREGOR_KAFKA"); addr != "" {
		real = newAsker(t, addr)
		for name, configs := range produceTopics {
			real.create(t, name+suffix, configs)
		}
	}
	m := newTestManager(t)
	logs := map[Validation]map[string]*Log{Relaxed: {}, Strict: {}}
	for mode, byName := range logs {
		for name := range produceTopics {
			cfg := produceTopicConfig(name)
			cfg.Validation = mode
			l, err := m.CreateLog(TopicPartition{name, int32(mode)}, TopicID{}, cfg)
			if err != nil {
				t.Fatal(err)
			}
			byName[name] = l
		}
	}
	for _, c := range produceCases() {
		t.Run(c.name, func(t *testing.T) {
			if c.topic == "" {
				c.topic = "plain"
			}
			if c.version == 0 {
				c.version = 9
			}
			if real != nil {
				c.compareKafka(t, real.produce(t, c.topic+suffix, c.version, c.records(time.Now().UnixMilli())))
			}
			c.compareOurs(t, logs[Relaxed][c.topic], Relaxed)
			c.compareOurs(t, logs[Strict][c.topic], Strict)
		})
	}
}

func (c *produceCase) compareKafka(t *testing.T, got kmsg.ProduceResponseTopicPartition) {
	var bad []int32
	for _, e := range got.ErrorRecords {
		bad = append(bad, e.RelativeOffset)
	}
	if got.ErrorCode != c.code || !slices.Equal(bad, c.bad) || (got.LogAppendTime >= 0) != c.append {
		t.Errorf("Kafka says %d %v append time %d, the table %d %v %v", got.ErrorCode, bad, got.LogAppendTime, c.code, c.bad, c.append)
	}
}

func (c *produceCase) compareOurs(t *testing.T, l *Log, mode Validation) {
	want := c.code
	if c.ours != nil {
		want = c.ours.relaxed
		if mode == Strict {
			want = c.ours.strict
		}
	}
	now := time.Now()
	end := l.LogEndOffset()
	res, err := l.AppendAsLeader(c.records(now.UnixMilli()), AppendOptions{Version: c.version, Now: now})
	var bad []int32
	if ire := (*InvalidRecordError)(nil); errors.As(err, &ire) {
		for _, e := range ire.Records {
			bad = append(bad, e.Index)
		}
	}
	if code := protocol.Code(err); code != want || !slices.Equal(bad, c.bad) {
		t.Errorf("mode %d: %d %v (%v), want %d %v", mode, code, bad, err, want, c.bad)
	}
	if err != nil {
		if l.LogEndOffset() != end {
			t.Errorf("refused, but the log grew from %d to %d", end, l.LogEndOffset())
		}
		return
	}
	if (res.LogAppendTimeMs >= 0) != c.append {
		t.Errorf("log append time %d", res.LogAppendTimeMs)
	}
	s, err := l.Read(res.FirstOffset, 1<<20, l.LogEndOffset(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	data, err := s.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := protocol.NextBatch(data)
	if err != nil || !b.ValidCRC() || b.BaseOffset() != res.FirstOffset || b.LastOffset() != res.LastOffset {
		t.Errorf("stored batch %d to %d, CRC good %v, %v", b.BaseOffset(), b.LastOffset(), b.ValidCRC(), err)
	}
	if c.append != b.LogAppendTime() {
		t.Errorf("stored batch: log append time %v", b.LogAppendTime())
	}
}

func newTestManager(t testing.TB) *Manager {
	m, err := Open(Options{FS: newTestFS(), Dirs: []string{"data"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(context.Background()) })
	return m
}
