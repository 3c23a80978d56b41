package replication

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// disk is what outlives a broker's process.
type disk struct {
	fs   vfs.FS
	dirs []string
	// failed is storage's OnDirFailure; may be nil.
	failed func(dir string, err error)
}

func newDisk(testing.TB) disk { return disk{fs: vfs.NewMem(), dirs: []string{"/d"}} }

// open opens the log directories of broker 1; the test closes them.
func (d disk) open(tb testing.TB) *storage.Manager {
	tb.Helper()
	logs, err := storage.Open(storage.Options{
		FS: d.fs, Dirs: d.dirs, Log: zerolog.Nop(), Now: time.Now, ClusterID: "lab", NodeID: 1, BrokerEpoch: 7,
		OnDirFailure: d.failed,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return logs
}

// openLogs is a new disk that is closed with the test.
func openLogs(tb testing.TB) *storage.Manager {
	tb.Helper()
	logs := newDisk(tb).open(tb)
	tb.Cleanup(func() { closeLogs(tb, logs) })
	return logs
}

func closeLogs(tb testing.TB, logs *storage.Manager) {
	tb.Helper()
	if err := logs.Close(context.Background()); err != nil {
		tb.Error(err)
	}
}

// newLog makes an empty log in memory.
func newLog(tb testing.TB) *storage.Log {
	tb.Helper()
	log, err := openLogs(tb).CreateLog(storage.TopicPartition{Topic: "t"}, storage.TopicID{1}, storage.DefaultLogConfig())
	if err != nil {
		tb.Fatal(err)
	}
	return log
}

// ledBy1 is a partition on broker 1, which leads it in epoch 1 with all the
// replicas in sync.
func ledBy1(tb testing.TB, replicas ...int32) *Partition {
	tb.Helper()
	env := &environment{nodeID: 1, now: time.Now, maxLagMs: 30_000, brokerState: func(int32) (int64, bool) { return 7, true }}
	p := newPartition(env, "t", storage.TopicID{1}, 0, false, newLog(tb), nil)
	mustAssign(tb, p, 1, 1, replicas...)
	return p
}

// mustAssign makes leader lead in an epoch with all the replicas in sync.
func mustAssign(tb testing.TB, p *Partition, leader, epoch int32, replicas ...int32) {
	tb.Helper()
	if _, err := p.assign(assignment{leader: leader, leaderEpoch: epoch, partitionEpoch: epoch, replicas: replicas, isr: replicas}); err != nil {
		tb.Fatal(err)
	}
}

// batchOf is a record batch of n records as a client sends it.
func batchOf(n int, value string) []byte {
	return producerBatch(protocol.BatchParams{}, n, value)
}

func producerBatch(params protocol.BatchParams, n int, value string) []byte {
	records := make([]protocol.Record, n)
	for i := range records {
		records[i] = protocol.Record{OffsetDelta: int32(i), Value: []byte(value)}
	}
	if params.BaseTimestamp == 0 {
		params.BaseTimestamp = time.Now().UnixMilli()
	}
	return protocol.AppendBatch(nil, params, records)
}

// produce appends n records as a client with acks=all.
func produce(tb testing.TB, p *Partition, n int) storage.AppendResult {
	tb.Helper()
	res, err := p.Append(batchOf(n, "v"), AppendOptions{Acks: -1, Version: 13})
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// consume reads all that a reader sees from an offset on.
func consume(tb testing.TB, p *Partition, o ReadOptions) (offsets []int64, res ReadResult) {
	tb.Helper()
	for {
		var err error
		if res, err = p.Read(o); err != nil {
			tb.Fatal(err)
		}
		data, err := res.Slice.AppendTo(nil)
		res.Slice.Release()
		if err != nil {
			tb.Fatal(err)
		}
		if len(data) == 0 {
			return offsets, res
		}
		for len(data) > 0 {
			b, rest, err := protocol.NextBatch(data)
			if err != nil {
				tb.Fatal(err)
			}
			for o := b.BaseOffset(); o <= b.LastOffset(); o++ {
				offsets = append(offsets, o)
			}
			o.Offset, data = b.LastOffset()+1, rest
		}
	}
}

// from is a consumer's read.
func from(offset int64) ReadOptions {
	return ReadOptions{Offset: offset, MaxBytes: 1 << 20, MinOneBatch: true, CurrentLeaderEpoch: -1, LastFetchedEpoch: -1, ReplicaID: -1, BrokerEpoch: -1}
}

// newManager is the manager of broker 1.
func newManager(tb testing.TB, logs *storage.Manager) *Manager {
	tb.Helper()
	return New(Options{Logs: logs, NodeID: 1, Config: config.Defaults(), Now: time.Now, Log: zerolog.Nop()})
}

// world is a cluster as broker 1 sees it.
type world struct {
	tb  testing.TB
	m   *Manager
	img *metadata.Image
	// fenced are the brokers that set fences; the others among 1 to 3 are up.
	fenced map[int32]bool
	// lives counts the processes that registered in place of a broker's first.
	lives map[int32]byte
	// defaults is what the next delta says of configs of brokers.
	defaults []metadata.ConfigResource
}

// newWorld is an empty cluster over the logs; set makes the first image.
func newWorld(tb testing.TB, logs *storage.Manager) *world {
	return &world{tb: tb, m: newManager(tb, logs), img: metadata.Empty()}
}

// set makes the cluster have these topics and applies what changed, as the
// controller does.
func (w *world) set(topics ...testTopic) {
	w.tb.Helper()
	kvs := []metadata.KV{}
	put := func(key string, value map[string]any) {
		value["v"] = 1
		b, err := json.Marshal(value)
		if err != nil {
			w.tb.Fatal(err)
		}
		// A key's revision tells its content from all others, as the store's.
		h := fnv.New32a()
		h.Write(b)
		kvs = append(kvs, metadata.KV{Key: key, Value: b, CreateRevision: 1, ModRevision: int64(h.Sum32()) + 1})
	}
	for id := range int32(4) {
		if id > 0 {
			incarnation := metadata.FormatID(metadata.ID{byte(id), w.lives[id]})
			put(fmt.Sprintf("brokers/reg/%d", id), map[string]any{"incarnation": incarnation, "fenced": w.fenced[id]})
			put(fmt.Sprintf("brokers/epoch/%d", id), map[string]any{"incarnation": incarnation})
		}
	}
	for _, t := range topics {
		id := metadata.FormatID(t.id())
		for n := range t.partitions {
			put(fmt.Sprintf("parts/%s/%d", id, n), map[string]any{
				"leader": t.replicas[0], "leaderEpoch": t.leaderEpoch(), "partitionEpoch": t.epoch, "replicas": t.replicas, "isr": t.inSync(),
			})
		}
		put("topics/"+t.name, map[string]any{"id": id, "partitions": t.partitions, "configs": t.configs})
	}
	img, err := metadata.FromKVs(kvs, w.img.Revision+1)
	if err != nil {
		w.tb.Fatal(err)
	}
	delta := metadata.Diff(w.img, img)
	delta.Configs, w.defaults = append(delta.Configs, w.defaults...), nil
	w.m.Apply(delta, img)
	w.img = img
}

// find returns a partition that must be there.
func (w *world) find(topic string, n int32) *Partition {
	w.tb.Helper()
	p, err := w.m.Partition(topic, n)
	if err != nil {
		w.tb.Fatal(err)
	}
	return p
}

// testTopic is a topic whose partitions are led by the first of the replicas,
// all in sync, in the given leader epoch.
type testTopic struct {
	name       string
	n          byte // the topic's id
	epoch      int
	partitions int
	replicas   []int32
	configs    map[string]string
	isr        []int32 // nil: all
	// sameLeader makes epoch that of the partition alone; the leader's is 0.
	sameLeader bool
}

func (t testTopic) leaderEpoch() int {
	if t.sameLeader {
		return 0
	}
	return t.epoch
}

func (t testTopic) inSync() []int32 {
	if t.isr == nil {
		return t.replicas
	}
	return t.isr
}

func (t testTopic) id() metadata.ID { return metadata.ID{t.n} }

// topicT is topic "t" with one partition on broker 1.
var topicT = testTopic{name: "t", n: 1, partitions: 1, replicas: []int32{1}}
