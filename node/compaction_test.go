package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// operator works with a broker as people and tools do: over the wire.
type operator struct {
	t  *testing.T
	n  *Node
	cl *kgo.Client
}

func newOperator(t *testing.T, n *Node, opts ...kgo.Opt) *operator {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(n.Addr("")), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &operator{t: t, n: n, cl: cl}
}

func (o *operator) create(topic string, partitions int32) (id [16]byte) {
	o.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, 1
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(o.t.Context(), o.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return resp.Topics[0].TopicID
}

// alter sets configs of a topic, given as key=value.
func (o *operator) alter(topic string, settings ...string) {
	o.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = key, &value
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(o.t.Context(), o.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// put writes one record; a value of "" is a tombstone.
func (o *operator) put(topic, key, value string) {
	o.t.Helper()
	r := &kgo.Record{Topic: topic, Key: []byte(key)}
	if value != "" {
		r.Value = []byte(value)
	}
	if err := o.cl.ProduceSync(o.t.Context(), r).FirstErr(); err != nil {
		o.t.Fatal(err)
	}
}

// read is what partition 0 of a topic holds, as key=value.
func (o *operator) read(topic string) []string {
	o.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Timestamp = -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(o.t.Context(), o.cl)
	if err != nil {
		o.t.Fatal(err)
	}
	end := resp.Topics[0].Partitions[0].Offset
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.n.Addr("")), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		o.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	var out []string
	// The last record of a log is never compacted away.
	for next := int64(0); next < end; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			o.t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			value := string(r.Value)
			if r.Value == nil {
				value = "nil"
			}
			out = append(out, string(r.Key)+"="+value)
			next = r.Offset + 1
		})
	}
	return out
}

// until tries until it is so. Meanwhile it writes, for a log rolls when it is
// written to.
func (o *operator) until(what, topic string, is func([]string) bool) {
	o.t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		o.put(topic, "tick", "tock")
		held := o.read(topic)
		if is(held) {
			return
		}
		if time.Since(began) > 90*time.Second {
			o.t.Fatalf("never: %s; the log holds %v", what, held)
		}
	}
}

func (o *operator) metric(name string) float64 {
	o.t.Helper()
	v, err := strconv.ParseFloat(scrape(o.t, o.n)[name], 64)
	if err != nil {
		o.t.Fatalf("%s: %v", name, err)
	}
	return v
}

func occurrences(held []string, what string) int {
	n := 0
	for _, h := range held {
		if h == what {
			n++
		}
	}
	return n
}

// The topic settings of compaction, altered while the broker runs, have their
// effect, and the metrics tell of it.
func TestCompactionIsSteeredByTopicConfigs(t *testing.T) {
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()}, "http.address=127.0.0.1:0", "log.cleaner.backoff.ms=20")
	o := newOperator(t, n)
	const compacted = "cleanup.policy=compact"
	for _, topic := range []string{"young", "lazy", "late"} {
		o.create(topic, 1)
		for i := range 3 {
			o.put(topic, "k", fmt.Sprint("v", i))
		}
	}
	// Without cleanup.policy=compact nothing of it happens.
	o.alter("young", "segment.ms=1", "min.cleanable.dirty.ratio=0.01")
	cleaned := func(topic string) func([]string) bool {
		return func(held []string) bool {
			return occurrences(held, "k=v0")+occurrences(held, "k=v1") == 0 && slices.Contains(held, "k=v2")
		}
	}
	// What is younger than min.compaction.lag.ms stays, though all else is due;
	// what is older than max.compaction.lag.ms goes, though nothing else is.
	o.alter("young", compacted, "min.compaction.lag.ms=3600000")
	o.alter("lazy", compacted, "segment.ms=1", "min.cleanable.dirty.ratio=1")
	o.alter("late", compacted, "min.cleanable.dirty.ratio=1", "max.compaction.lag.ms=1")
	o.until("older than max.compaction.lag.ms", "late", cleaned("late"))
	if done := o.metric("log_cleaner_cleanings_total"); done < 1 {
		t.Errorf("%v cleanings are told", done)
	}
	// It cleans on meanwhile: what was kept is asked first, so that what was read
	// cannot fall behind it.
	if kept, read := o.metric("log_cleaner_retained_records_total"), o.metric("log_cleaner_read_records_total"); read <= kept || kept < 1 {
		t.Errorf("%v records read and %v left are told", read, kept)
	}
	if written, read := o.metric("log_cleaner_written_bytes_total"), o.metric("log_cleaner_read_bytes_total"); read <= written || written < 1 {
		t.Errorf("%v bytes read and %v written are told", read, written)
	}
	if held := o.read("young"); !slices.Contains(held, "k=v0") {
		t.Errorf("younger than min.compaction.lag.ms, and gone: %v", held)
	}
	o.alter("young", "min.compaction.lag.ms=0")
	o.until("min.compaction.lag.ms is over", "young", cleaned("young"))

	// A tombstone outlives the clean that removes what it deletes, for
	// delete.retention.ms.
	o.put("young", "k", "")
	o.until("deleted by a tombstone", "young", func(held []string) bool { return !slices.Contains(held, "k=v2") })
	if held := o.read("young"); !slices.Contains(held, "k=nil") {
		t.Errorf("the tombstone is gone within delete.retention.ms: %v", held)
	}
	o.alter("young", "delete.retention.ms=0")
	o.put("young", "k", "") // the older one has its time in its batch
	o.until("delete.retention.ms is over", "young", func(held []string) bool { return !slices.Contains(held, "k=nil") })

	// Nothing made the other one due, until its ratio does.
	if held := o.read("lazy"); !slices.Contains(held, "k=v0") {
		t.Errorf("less dirty than min.cleanable.dirty.ratio, and compacted: %v", held)
	}
	o.alter("lazy", "min.cleanable.dirty.ratio=0.1")
	o.until("min.cleanable.dirty.ratio is reached", "lazy", cleaned("lazy"))
}

// A million commits to a handful of keys leave a small log, and a coordinator
// that is loaded fast.
func TestMillionCommitsLeaveASmallLog(t *testing.T) {
	if testing.Short() {
		t.Skip("a million commits")
	}
	const partitions, requests, clients = 50, 20_000, 4
	store, fs := memstore.New(), vfs.NewMem()
	settings := []string{
		"log.cleaner.backoff.ms=20", "offsets.topic.num.partitions=1", "offsets.topic.segment.bytes=4194304", "http.address=127.0.0.1:0",
	}
	n := startNode(t, Options{Store: store, FS: fs}, settings...)
	o := newOperator(t, n)
	topic := o.create("t", partitions)
	commit := func(ctx context.Context, cl *kgo.Client, group string, offset int64) error {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group, req.Generation = group, -1
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = "t", topic
		for p := range int32(partitions) {
			rp := kmsg.NewOffsetCommitRequestTopicPartition()
			rp.Partition, rp.Offset = p, offset
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		var errs []error
		for _, p := range resp.Topics[0].Partitions {
			errs = append(errs, kerr.ErrorForCode(p.ErrorCode))
		}
		return errors.Join(errs...)
	}
	began := time.Now()
	var work sync.WaitGroup
	failed := make(chan error, clients)
	for i := range clients {
		cl := newOperator(t, n).cl
		work.Go(func() {
			for offset := range int64(requests / clients) {
				if err := commit(t.Context(), cl, fmt.Sprint("g", i), offset); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	work.Wait()
	close(failed)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d commits in %s", partitions*requests, time.Since(began).Round(time.Millisecond))

	size := func() int64 {
		t.Helper()
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Topics = []kmsg.DescribeLogDirsRequestTopic{{Topic: "__consumer_offsets", Partitions: []int32{0}}}
		resp, err := req.RequestWith(t.Context(), o.cl)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Dirs[0].Topics[0].Partitions[0].Size
	}
	// What is left: the active segment and, of the others, one record for a key.
	const small = 2 * 4194304
	for began := time.Now(); size() > small; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 90*time.Second {
			t.Fatalf("the log keeps %d bytes", size())
		}
	}
	t.Logf("%d bytes are left of %.0f read by the cleaner", size(), o.metric("log_cleaner_read_bytes_total"))
	stopNode(t, n)

	loads := make(chan string, 1)
	log := zerolog.New(lines(func(line string) {
		if strings.Contains(line, "group coordinator loaded") {
			select {
			case loads <- line:
			default:
			}
		}
	}))
	conf := Options{Store: store, FS: fs, Log: log, Config: values(t, append([]string{"listeners=PLAINTEXT://127.0.0.1:0"}, settings...)...)}
	n, err := Start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer stopNode(t, n)
	t.Log(<-loads)
	o = newOperator(t, n)
	for i := range clients {
		req := kmsg.NewPtrOffsetFetchRequest()
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = fmt.Sprint("g", i)
		req.Groups = append(req.Groups, g)
		resp, err := req.RequestWith(t.Context(), o.cl)
		if err != nil {
			t.Fatal(err)
		}
		topics := resp.Groups[0].Topics
		if len(topics) != 1 || len(topics[0].Partitions) != partitions {
			t.Fatalf("group %s has %+v", g.Group, topics)
		}
		for _, p := range topics[0].Partitions {
			if p.Offset != requests/clients-1 {
				t.Fatalf("group %s, partition %d: %d is committed", g.Group, p.Partition, p.Offset)
			}
		}
	}
}

// lines is a writer of a log's lines.
type lines func(line string)

func (l lines) Write(b []byte) (int, error) {
	l(string(b))
	return len(b), nil
}
