package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Franz is franz-go behind the command language. It runs in this process.
type Franz struct {
	addr string
	cl   *kgo.Client
	adm  *kadm.Client

	producers map[string]franzProducer // of transactions
}

// NewFranz connects franz-go to a broker.
func NewFranz(addr string) (*Franz, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return nil, err
	}
	return &Franz{addr: addr, cl: cl, adm: kadm.NewClient(cl), producers: map[string]franzProducer{}}, nil
}

func (*Franz) Name() string     { return "franz-go" }
func (*Franz) Codecs() []string { return []string{"none", "gzip", "snappy", "lz4", "zstd"} }

func (f *Franz) Close() error {
	for _, p := range f.producers {
		p.cl.Close()
	}
	f.cl.Close()
	return nil
}

// Admin is a franz-go admin client of this broker.
func (f *Franz) Admin() *kadm.Client { return f.adm }

// Raw is the franz-go client.
func (f *Franz) Raw() *kgo.Client { return f.cl }

func (f *Franz) Do(command string, args ...string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	lines, err := f.do(ctx, command, args)
	var ke *kerr.Error
	if errors.As(err, &ke) {
		err = &CodeError{Code: ke.Code, Message: err.Error()}
	}
	return lines, err
}

func (f *Franz) do(ctx context.Context, command string, a []string) ([][]string, error) {
	switch command {
	case "produce":
		return f.produce(ctx, a[0], parseConf(a[1]))
	case "consume":
		return f.consume(ctx, a[0], atoi(a[1]), a[2], int(atoi(a[3])), parseConf(a[4]))
	case "offsets":
		return f.offsets(ctx, a[0], atoi(a[1]))
	case "time":
		return f.time(ctx, a[0], atoi(a[1]), atoi64(a[2]))
	case "create":
		conf := map[string]*string{}
		for k, v := range parseConf(a[3]) {
			conf[k] = &v
		}
		r, err := f.adm.CreateTopic(ctx, atoi(a[1]), int16(atoi(a[2])), conf, a[0])
		if err == nil {
			err = r.Err
		}
		return nil, err
	case "delete":
		r, err := f.adm.DeleteTopic(ctx, a[0])
		if err == nil {
			err = r.Err
		}
		return nil, err
	case "partitions":
		r, err := f.adm.UpdatePartitions(ctx, int(atoi(a[1])), a[0])
		if err == nil {
			err = r.Error()
		}
		return nil, err
	case "describe":
		return f.describe(ctx, a[0])
	case "alter":
		var alter []kadm.AlterConfig
		for k, v := range parseConf(a[1]) {
			c := kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v}
			if v == "" {
				c = kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k}
			}
			alter = append(alter, c)
		}
		r, err := f.adm.AlterTopicConfigs(ctx, alter, a[0])
		if err == nil {
			err = r[0].Err
		}
		return nil, err
	case "config":
		return f.config(ctx, a[0], a[1:])
	case "deleterecords":
		var os kadm.Offsets
		os.AddOffset(a[0], atoi(a[1]), atoi64(a[2]), -1)
		r, err := f.adm.DeleteRecords(ctx, os)
		if err != nil {
			return nil, err
		}
		d, _ := r.Lookup(a[0], atoi(a[1]))
		return [][]string{{strconv.FormatInt(d.LowWatermark, 10)}}, d.Err
	case "cluster":
		m, err := f.adm.BrokerMetadata(ctx)
		if err != nil {
			return nil, err
		}
		return [][]string{{strconv.Itoa(int(m.Controller)), joinInts(m.Brokers.NodeIDs())}}, nil
	case "open", "begin", "send", "sendoffsets", "commit", "abort", "close":
		return f.transact(ctx, command, a)
	}
	return nil, fmt.Errorf("no command %s", command)
}

var kgoCodecs = map[string]kgo.CompressionCodec{
	"": kgo.NoCompression(), "none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func (f *Franz) produce(ctx context.Context, path string, conf map[string]string) ([][]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(f.addr), kgo.ProducerBatchCompression(kgoCodecs[conf["compression.type"]]),
		kgo.ProducerBatchMaxBytes(8 << 20), kgo.BrokerMaxWriteBytes(100 << 20), kgo.AllowAutoTopicCreation(),
		kgo.RecordPartitioner(explicitOrKey{}),
	}
	switch conf["acks"] {
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	default:
		if conf["enable.idempotence"] == "false" {
			opts = append(opts, kgo.DisableIdempotentWrite())
		}
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var sent []*kgo.Record
	for line := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n"), "\n") {
		r, err := parseRecord(strings.Split(line, "\t"))
		if err != nil {
			return nil, err
		}
		k := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value}
		if r.Timestamp != -1 {
			k.Timestamp = time.UnixMilli(r.Timestamp)
		}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		sent = append(sent, k)
	}
	if err := cl.ProduceSync(ctx, sent...).FirstErr(); err != nil {
		return nil, err
	}
	var out [][]string
	for _, r := range sent {
		offset := r.Offset
		if conf["acks"] == "0" {
			offset = -1
		}
		out = append(out, []string{strconv.Itoa(int(r.Partition)), strconv.FormatInt(offset, 10), strconv.FormatInt(r.Timestamp.UnixMilli(), 10)})
	}
	return out, nil
}

// explicitOrKey takes a record's partition where it names one, and murmur2 of
// the key, as the Java client does, where it does not.
type explicitOrKey struct{}

func (explicitOrKey) ForTopic(topic string) kgo.TopicPartitioner {
	return explicitOrKeyTopic{kgo.StickyKeyPartitioner(nil).ForTopic(topic)}
}

type explicitOrKeyTopic struct{ kgo.TopicPartitioner }

func (p explicitOrKeyTopic) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || p.TopicPartitioner.RequiresConsistency(r)
}

func (p explicitOrKeyTopic) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.TopicPartitioner.Partition(r, n)
}

func (f *Franz) consume(ctx context.Context, topic string, partition int32, from string, count int, conf map[string]string) ([][]string, error) {
	offset := kgo.NewOffset()
	switch {
	case from == "earliest":
		offset = offset.AtStart()
	case strings.HasPrefix(from, "@"):
		offset = offset.AfterMilli(atoi64(from[1:]))
	default:
		offset = offset.At(atoi64(from))
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: offset}}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var out [][]string
	for len(out) < count {
		fs := cl.PollFetches(ctx)
		for _, e := range fs.Errors() {
			return nil, fmt.Errorf("%d of %d records of %s[%d]: %w", len(out), count, topic, partition, e.Err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if len(out) == count {
				return
			}
			rec := Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				rec.Headers = append(rec.Headers, Header{Key: h.Key, Value: h.Value})
			}
			out = append(out, strings.Split(rec.line(), "\t"))
		})
	}
	return out, nil
}

func (f *Franz) offsets(ctx context.Context, topic string, partition int32) ([][]string, error) {
	start, err := f.adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	end, err := f.adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	s, _ := start.Lookup(topic, partition)
	e, _ := end.Lookup(topic, partition)
	return [][]string{{strconv.FormatInt(s.Offset, 10), strconv.FormatInt(e.Offset, 10)}}, errors.Join(s.Err, e.Err)
}

func (f *Franz) time(ctx context.Context, topic string, partition int32, ms int64) ([][]string, error) {
	l, err := f.adm.ListOffsetsAfterMilli(ctx, ms, topic)
	if err != nil {
		return nil, err
	}
	o, _ := l.Lookup(topic, partition)
	// kadm answers the end of the partition where no record is that young.
	if o.Timestamp == -1 {
		o.Offset = -1
	}
	return [][]string{{strconv.FormatInt(o.Offset, 10)}}, o.Err
}

// Topic asks for the metadata of one topic. It does not go through kadm, which
// answers from the client's cache, where a topic that was deleted and made again
// is still the old one.
func (f *Franz) Topic(ctx context.Context, topic string) (kmsg.MetadataResponseTopic, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, f.cl)
	if err != nil {
		return kmsg.MetadataResponseTopic{}, err
	}
	if len(resp.Topics) != 1 {
		return kmsg.MetadataResponseTopic{}, fmt.Errorf("metadata of one topic has %d", len(resp.Topics))
	}
	return resp.Topics[0], kerr.ErrorForCode(resp.Topics[0].ErrorCode)
}

func (f *Franz) describe(ctx context.Context, topic string) ([][]string, error) {
	t, err := f.Topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(t.Partitions, func(a, b kmsg.MetadataResponseTopicPartition) int { return int(a.Partition - b.Partition) })
	var out [][]string
	for _, p := range t.Partitions {
		out = append(out, []string{strconv.Itoa(int(p.Partition)), strconv.Itoa(int(p.Leader)), joinInts(p.Replicas), joinInts(p.ISR)})
	}
	return out, nil
}

func (f *Franz) config(ctx context.Context, topic string, names []string) ([][]string, error) {
	rs, err := f.adm.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return nil, err
	}
	if rs[0].Err != nil {
		return nil, rs[0].Err
	}
	sort.Strings(names)
	var out [][]string
	for _, name := range names {
		for _, c := range rs[0].Configs {
			if c.Key == name {
				out = append(out, []string{name, c.MaybeValue(), strconv.FormatBool(c.Source.String() != "DYNAMIC_TOPIC_CONFIG")})
			}
		}
	}
	return out, nil
}

func parseConf(s string) map[string]string {
	m := map[string]string{}
	if s == "-" {
		return m
	}
	for kv := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}

func joinInts(ids []int32) string {
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = strconv.Itoa(int(id))
	}
	return strings.Join(parts, ",")
}

func atoi64(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

func atoi(s string) int32 { return int32(atoi64(s)) }
