package replication

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

func TestTopicIsUsableAtOnce(t *testing.T) {
	w := newWorld(t, openLogs(t))
	if _, err := w.m.Partition("t", 0); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Error("before any metadata:", err)
	}
	w.set()
	topic := topicT
	topic.partitions = 3
	w.set(topic)
	for n := range int32(3) {
		p := w.find("t", n)
		produce(t, p, 1)
		if byID, err := w.m.PartitionByID(topic.id(), n); err != nil || byID != p {
			t.Fatal(byID, err)
		}
	}
	for _, n := range []int32{3, -1} {
		if _, err := w.m.Partition("t", n); !errors.Is(err, kerr.UnknownTopicOrPartition) {
			t.Error(n, err)
		}
		if _, err := w.m.PartitionByID(topic.id(), n); !errors.Is(err, kerr.UnknownTopicOrPartition) {
			t.Error(n, err)
		}
	}
	if _, err := w.m.PartitionByID(storage.TopicID{9}, 0); !errors.Is(err, kerr.UnknownTopicID) {
		t.Error(err)
	}
	if name, ok := w.m.TopicName(topic.id()); name != "t" || !ok {
		t.Error(name, ok)
	}
	if s := w.m.Stats(); s != (Stats{Partitions: 3, Leaders: 3}) {
		t.Errorf("%+v", s)
	}
}

func TestPartitionOnOtherBrokers(t *testing.T) {
	w := newWorld(t, openLogs(t))
	topic := topicT
	topic.replicas = []int32{2, 3}
	w.set(topic)
	if _, err := w.m.Partition("t", 0); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Error(err)
	}
	if _, err := w.m.PartitionByID(topic.id(), 0); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Error(err)
	}
	if got := w.m.Stats(); got != (Stats{}) {
		t.Errorf("%+v", got)
	}
}

func TestTopicGrows(t *testing.T) {
	w := newWorld(t, openLogs(t))
	topic := topicT
	w.set(topic)
	p := w.find("t", 0)
	produce(t, p, 1)
	topic.partitions = 3
	w.set(topic)
	produce(t, w.find("t", 2), 1)
	if w.find("t", 0) != p {
		t.Error("a partition was made anew")
	}
}

func TestTopicDeletedAndCreatedAgain(t *testing.T) {
	logs := openLogs(t)
	w := newWorld(t, logs)
	var events []string
	w.m.OnLeadership(func(c LeadershipChange) {
		events = append(events, fmt.Sprintf("%s id %d epoch %d leader %v deleted %v", c.Partition.TopicPartition(), c.Partition.TopicID()[0], c.Epoch, c.Leader, c.Deleted))
	})
	w.set(topicT)
	p := w.find("t", 0)
	produce(t, p, 5)
	watcher := NewWatcher()
	watcher.Watch(p, BoundHighWatermark, nil)
	watcher.TakeReady(nil)
	res, err := p.Read(from(0)) // in flight while the topic goes
	if err != nil {
		t.Fatal(err)
	}
	again := topicT
	again.n = 2
	w.set(again) // deletion and creation in one delta

	if !watcher.urgent {
		t.Error("the watch was not woken")
	}
	if data, err := res.Slice.AppendTo(nil); err != nil || len(data) != res.Slice.Len {
		t.Error("a read in flight must go on", err)
	}
	res.Slice.Release()
	if _, err := p.Append(batchOf(1, "v"), AppendOptions{}); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Error("append to the deleted partition:", err)
	}
	if p.Gone() == nil {
		t.Error("not gone")
	}
	if _, err := w.m.PartitionByID(topicT.id(), 0); !errors.Is(err, kerr.UnknownTopicID) {
		t.Error(err)
	}
	q := w.find("t", 0)
	if res := produce(t, q, 1); q == p || res.FirstOffset != 0 {
		t.Errorf("the new topic begins at %d", res.FirstOffset)
	}
	if got := logs.Log(q.TopicPartition()).ID(); got != again.id() {
		t.Errorf("log of %v", got)
	}
	want := []string{"t-0 id 1 epoch 0 leader true deleted false", "t-0 id 1 epoch 0 leader false deleted true", "t-0 id 2 epoch 0 leader true deleted false"}
	if !slices.Equal(events, want) {
		t.Errorf("%q", events)
	}
	w.set()
	if _, err := w.m.Partition("t", 0); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Error(err)
	}
	if logs.Log(q.TopicPartition()) != nil {
		t.Error("the log is still there")
	}
}

func TestLeadershipChangesAreToldInOrder(t *testing.T) {
	w := newWorld(t, openLogs(t))
	var events []string
	w.m.OnLeadership(func(c LeadershipChange) { events = append(events, fmt.Sprint(c.Epoch, c.Leader)) })
	for epoch, replicas := range [][]int32{{1, 2}, {2, 1}, {2, 1}, {1, 2}, {1, 2}} {
		topic := topicT
		topic.epoch, topic.replicas = epoch, replicas
		w.set(topic)
	}
	if got := strings.Join(events, ", "); got != "0 true, 1 false, 3 true, 4 true" {
		t.Error(got)
	}
}

// TestReplacedProcessLeadsNothing: what is given to this broker's id after another
// process registered under it is that process's to lead.
func TestReplacedProcessLeadsNothing(t *testing.T) {
	w := newWorld(t, openLogs(t))
	w.m.opts.Incarnation = metadata.ID{1} // as newWorld registers broker 1
	topic := topicT
	w.set(topic)
	if !w.find("t", 0).Snapshot().IsLeader {
		t.Fatal("the registered process does not lead")
	}
	w.m.opts.Incarnation = metadata.ID{9} // the one registered is another from now on
	topic.epoch = 1
	w.set(topic)
	if w.find("t", 0).Snapshot().IsLeader {
		t.Error("leads what the process that replaced it was given")
	}
}

// TestReplacedProcessFollowsNobody: a process in whose place another one registered
// does not go on fetching, least of all with the epoch of the other: that one may
// have an empty disk, and would be taken for complete (KIP-903).
func TestReplacedProcessFollowsNobody(t *testing.T) {
	leader := &scriptedLeader{asked: make(chan FetchRequest), answers: make(chan func(*FetchResponse) error)}
	logs := openLogs(t)
	w := &world{tb: t, img: metadata.Empty(), m: New(Options{
		Logs: logs, NodeID: 1, Incarnation: metadata.ID{1}, Config: config.Defaults(), Now: time.Now, Log: zerolog.Nop(),
		Connect: func(int32, string) Leader { return leader },
	})}
	t.Cleanup(w.m.Close)
	topic := topicT
	topic.replicas = []int32{2, 1}
	w.set(topic)
	granted := w.img.Broker(1).Epoch
	if asked := <-leader.asked; asked.BrokerEpoch != granted {
		t.Fatalf("fetches with epoch %d, %d was granted", asked.BrokerEpoch, granted)
	}
	w.lives = map[int32]byte{1: 1}
	w.set(topic)
	if w.img.Broker(1).Epoch == granted {
		t.Fatal("no other process")
	}
	if got := w.m.lanes[0].fetchers.brokerEpoch(); got != granted {
		t.Errorf("fetches with epoch %d, %d was granted to this process", got, granted)
	}
	w.m.lanes[0].fetchers.mu.Lock()
	defer w.m.lanes[0].fetchers.mu.Unlock()
	if n := len(w.m.lanes[0].fetchers.all); n != 0 {
		t.Errorf("%d fetchers go on", n)
	}
}

func TestReplicaMovesAway(t *testing.T) {
	logs := openLogs(t)
	w := newWorld(t, logs)
	w.set(topicT)
	produce(t, w.find("t", 0), 1)
	topic := topicT
	topic.epoch, topic.replicas = 1, []int32{2}
	w.set(topic)
	if logs.Log(storage.TopicPartition{Topic: "t"}) != nil {
		t.Error("the log is still there")
	}
	if _, err := w.m.Partition("t", 0); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Error(err)
	}
	topic.epoch, topic.replicas = 2, []int32{1}
	w.set(topic)
	if res := produce(t, w.find("t", 0), 1); res.FirstOffset != 0 {
		t.Error("the log did not begin anew")
	}
}

func TestConfigReachesTheLogs(t *testing.T) {
	logs := openLogs(t)
	w := newWorld(t, logs)
	topic := topicT
	topic.configs = map[string]string{"retention.ms": "1000"}
	w.set(topic)
	log := logs.Log(storage.TopicPartition{Topic: "t"})
	if cfg := log.Config(); cfg.RetentionMs != 1000 || cfg.SegmentBytes != 1<<30 || !cfg.Delete || cfg.Compact || cfg.MaxMessageBytes != 1048588 {
		t.Fatalf("%+v", cfg)
	}
	topic.configs = map[string]string{"cleanup.policy": "compact", "min.insync.replicas": "3", "message.timestamp.type": "LogAppendTime"}
	w.set(topic)
	if cfg := log.Config(); cfg.RetentionMs != 7*24*3600*1000 || !cfg.Compact || cfg.Delete || !cfg.LogAppendTime {
		t.Fatalf("%+v", cfg)
	}
	if s := w.find("t", 0).Snapshot(); s.MinISR != 3 {
		t.Errorf("%+v", s)
	}
	// A dynamic default of the broker reaches the logs that do not set the key.
	if err := w.m.opts.Config.SetDynamic(map[string]string{"log.retention.ms": "77"}, nil); err != nil {
		t.Fatal(err)
	}
	w.m.Apply(&metadata.Delta{Configs: []metadata.ConfigResource{{Type: metadata.ConfigBroker}}}, w.img)
	if cfg := log.Config(); cfg.RetentionMs != 77 || !cfg.Compact {
		t.Fatalf("%+v", cfg)
	}
}

// The configuration in use is the one of every field of storage.LogConfig that
// a topic can set.
func TestLogConfigOfDefaults(t *testing.T) {
	got, want := logConfig(newManager(t, openLogs(t)).opts.Config.Topic(nil)), storage.DefaultLogConfig()
	if got != want {
		t.Errorf("defaults\n%+v, storage's\n%+v", got, want)
	}
}

func TestLogSurvivesRestart(t *testing.T) {
	d := newDisk(t)
	logs := d.open(t)
	w := newWorld(t, logs)
	w.set(topicT)
	produce(t, w.find("t", 0), 5)
	closeLogs(t, logs)

	w = newWorld(t, reopened(t, d))
	topic := topicT
	topic.epoch = 1
	w.set(topic)
	p := w.find("t", 0)
	if got, _ := consume(t, p, from(0)); len(got) != 5 {
		t.Fatal(got)
	}
	if res := produce(t, p, 1); res.FirstOffset != 5 {
		t.Fatal(res)
	}
	if end, err := p.EpochEnd(-1, 0); err != nil || end != (EpochEnd{0, 5}) {
		t.Fatal(end, err)
	}
}

// reopened is the disk in a new process, closed with the test.
func reopened(tb testing.TB, d disk) *storage.Manager {
	tb.Helper()
	logs := d.open(tb)
	tb.Cleanup(func() { closeLogs(tb, logs) })
	return logs
}

// What happened to topics while the broker was down: a log without a place in
// the metadata is set aside, never deleted, and does not stand in the way of a
// topic of the same name.
func TestStrayLogsAreSetAside(t *testing.T) {
	for name, c := range map[string]struct {
		then  []testTopic
		stray bool
	}{
		"still there":       {[]testTopic{{name: "t", n: 1, epoch: 1, partitions: 1, replicas: []int32{1}}}, false},
		"deleted":           {nil, true},
		"created again":     {[]testTopic{{name: "t", n: 2, partitions: 1, replicas: []int32{1}}}, true},
		"moved away":        {[]testTopic{{name: "t", n: 1, epoch: 1, partitions: 1, replicas: []int32{2}}}, true},
		"no such partition": {[]testTopic{{name: "t", n: 1, partitions: 0, replicas: []int32{1}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			logs := d.open(t)
			w := newWorld(t, logs)
			w.set(topicT)
			produce(t, w.find("t", 0), 5)
			closeLogs(t, logs)

			logs = reopened(t, d)
			w = newWorld(t, logs)
			w.set(c.then...)
			if got := len(strays(t, d)); got != 0 != c.stray {
				t.Errorf("%d stray directories", got)
			}
			if p, err := w.m.Partition("t", 0); err == nil {
				want := int64(0)
				if !c.stray {
					want = 5
				}
				if res := produce(t, p, 1); res.FirstOffset != want {
					t.Errorf("appends at %d, want %d", res.FirstOffset, want)
				}
			}
		})
	}
}

func strays(tb testing.TB, d disk) (found []string) {
	tb.Helper()
	for _, dir := range d.dirs {
		entries, err := d.fs.List(dir)
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name, "-stray") {
				found = append(found, e.Name)
			}
		}
	}
	return found
}

// KAFKA-15021: a follower that had caught up and may join the ISR holds the
// watermark back, until its broker is fenced.
func TestFencedFollowerLetsTheWatermarkGo(t *testing.T) {
	w := newWorld(t, openLogs(t))
	topic := topicT
	topic.replicas, topic.isr = []int32{1, 2}, []int32{1}
	w.set(topic)
	p := w.find("t", 0)
	if err := follow(p, 2, 0); err != nil { // has all there is
		t.Fatal(err)
	}
	produce(t, p, 3)
	if got := p.highWatermark(); got != 0 {
		t.Fatalf("watermark %d: the follower about to join is not waited for", got)
	}
	var acks ProduceWait
	acks.Add(p, 3)
	w.fenced = map[int32]bool{2: true}
	w.set(topic)
	if got := p.highWatermark(); got != 3 {
		t.Fatalf("watermark %d", got)
	}
	acks.Wait(t.Context(), 0)
	if err := acks.Err(0); err != nil {
		t.Error(err)
	}
	if s := w.m.Stats(); s != (Stats{Partitions: 1, Leaders: 1, UnderReplicated: 1, AtMinISR: 1}) {
		t.Errorf("%+v", s)
	}
}

func TestStats(t *testing.T) {
	w := newWorld(t, openLogs(t))
	min2 := map[string]string{"min.insync.replicas": "2"}
	w.set(
		testTopic{name: "a", n: 1, partitions: 2, replicas: []int32{1, 2, 3}, configs: min2},
		testTopic{name: "b", n: 2, partitions: 1, replicas: []int32{1, 2, 3}, isr: []int32{1, 3}, configs: min2},
		testTopic{name: "c", n: 3, partitions: 1, replicas: []int32{1, 2, 3}, isr: []int32{1}, configs: min2},
		testTopic{name: "d", n: 4, partitions: 1, replicas: []int32{2, 1}, isr: []int32{2}},
		testTopic{name: "e", n: 5, partitions: 1, replicas: []int32{2, 3}},
	)
	if s := w.m.Stats(); s != (Stats{Partitions: 5, Leaders: 4, UnderReplicated: 2, UnderMinISR: 1, AtMinISR: 1}) {
		t.Errorf("%+v", s)
	}
}

// Everything under a directory fails; faults elsewhere do not matter.
func failUnder(dir string) vfs.Rule {
	return func(op vfs.Op) *vfs.Fault {
		if op.Name == dir || strings.HasPrefix(op.Name, dir+"/") {
			return &vfs.Fault{Err: errors.New("input/output error")}
		}
		return nil
	}
}

// A disk fails: its partitions answer KAFKA_STORAGE_ERROR, who waits for one of
// them is told at once, and the others go on.
func TestDiskFails(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	var w *world
	told := make(chan string, 1)
	d := disk{fs: faulty, dirs: []string{"/a", "/b"}, failed: func(dir string, _ error) {
		w.m.DirFailed(dir)
		told <- dir
	}}
	logs := d.open(t)
	t.Cleanup(func() { _ = logs.Close(t.Context()) }) // it says that a directory failed
	w = newWorld(t, logs)
	topic := topicT
	topic.partitions, topic.replicas = 4, []int32{1, 2}
	w.set(topic)
	var bad []*Partition
	for n := range int32(4) {
		if p := w.find("t", n); p.dir() == "/b" {
			bad = append(bad, p)
		}
	}
	if len(bad) != 2 {
		t.Fatalf("%d of 4 partitions are in the second directory", len(bad))
	}
	produce(t, bad[1], 1)
	var acks ProduceWait
	acks.Add(bad[1], 1)
	watcher := NewWatcher()
	watcher.Watch(bad[1], BoundHighWatermark, nil)
	watcher.TakeReady(nil)

	faulty.SetRule(failUnder("/b"))
	if _, err := bad[0].Append(batchOf(1, "v"), AppendOptions{Acks: 1}); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatal(err)
	}
	if dir := <-told; dir != "/b" {
		t.Fatal(dir)
	}
	acks.Wait(t.Context(), time.Minute)
	if err := acks.Err(0); !errors.Is(err, kerr.KafkaStorageError) {
		t.Error(err)
	}
	if !watcher.Wait(t.Context(), 1<<30, time.After(time.Minute)) {
		t.Error("the watch was not woken")
	}
	for _, p := range bad {
		if _, err := p.Append(batchOf(1, "v"), AppendOptions{Acks: 1}); !errors.Is(err, kerr.KafkaStorageError) {
			t.Error("append:", err)
		}
		if _, err := p.Read(from(0)); !errors.Is(err, kerr.KafkaStorageError) {
			t.Error("read:", err)
		}
		if _, err := p.ListOffset(TimestampLatest, ListOptions{ReplicaID: -1, CurrentLeaderEpoch: -1}); !errors.Is(err, kerr.KafkaStorageError) {
			t.Error("list offset:", err)
		}
		if _, err := p.DeleteRecords(0); !errors.Is(err, kerr.KafkaStorageError) {
			t.Error("delete records:", err)
		}
	}
	if s := w.m.Stats(); s.Partitions != 4 || s.OfflineReplicas != 2 {
		t.Errorf("%+v", s)
	}
	for n := range int32(4) {
		if p := w.find("t", n); p.dir() == "/a" {
			produce(t, p, 1)
		}
	}
}

// A directory that fails while a topic is created leaves it to the others.
func TestDiskFailsWhileATopicIsCreated(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	logs := disk{fs: faulty, dirs: []string{"/a", "/b", "/c"}}.open(t)
	t.Cleanup(func() { _ = logs.Close(t.Context()) })
	w := newWorld(t, logs)
	w.set()
	faulty.SetRule(failUnder("/a"))
	topic := topicT
	topic.partitions = 6
	w.set(topic)
	for n := range int32(6) {
		produce(t, w.find("t", n), 1)
	}
	if s := w.m.Stats(); s != (Stats{Partitions: 6, Leaders: 6}) {
		t.Errorf("%+v", s)
	}
}

// TestLogThatCannotBeMade: for want of file descriptors, say. The replica is told to
// be offline, so that another one leads.
func TestLogThatCannotBeMade(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	logs := disk{fs: faulty, dirs: []string{"/d"}}.open(t)
	t.Cleanup(func() { closeLogs(t, logs) })
	var told []metadata.Replicas
	w := &world{tb: t, img: metadata.Empty(), m: New(Options{
		Logs: logs, NodeID: 1, Config: config.Defaults(), Now: time.Now, Log: zerolog.Nop(),
		Offline: func(r metadata.Replicas) { told = append(told, r) },
	})}
	first, second := topicT, topicT
	second.name, second.n = "u", 2
	w.set(first)
	faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpCreate {
			return &vfs.Fault{Err: syscall.EMFILE}
		}
		return nil
	})
	w.set(first, second)
	faulty.SetRule(nil)
	want := metadata.Replicas{second.id(): {0}}
	if len(told) != 1 || !told[0].Equal(want) {
		t.Errorf("told %v, want %v", told, want)
	}
	produce(t, w.find("t", 0), 1)
	w.set(first)
	if len(told) != 2 || len(told[1]) != 0 {
		t.Errorf("told %v after it was deleted", told)
	}
}

// TestLargerMinISRComesFirst: metadata that makes min.insync.replicas larger and an
// in-sync set smaller at the same time frees no watermark: who left the set is
// eligible to lead, and has not got what is above.
func TestLargerMinISRComesFirst(t *testing.T) {
	for _, ofTopic := range []bool{true, false} {
		w := newWorld(t, openLogs(t))
		topic := topicT
		topic.replicas = []int32{1, 2}
		w.set(topic)
		p := w.find("t", 0)
		if err := follow(p, 2, 0); err != nil {
			t.Fatal(err)
		}
		var acked []error
		p.NotifyAt(produce(t, p, 1).LastOffset+1, func(err error) { acked = append(acked, err) })
		topic.epoch, topic.isr = 1, []int32{1}
		topic.sameLeader, w.fenced = true, map[int32]bool{2: true}
		if ofTopic {
			topic.configs = map[string]string{"min.insync.replicas": "2"}
			w.set(topic)
		} else {
			if err := w.m.opts.Config.SetDynamic(map[string]string{"min.insync.replicas": "2"}, nil); err != nil {
				t.Fatal(err)
			}
			w.defaults = []metadata.ConfigResource{{Type: metadata.ConfigBroker}}
			w.set(topic)
		}
		if s := p.Snapshot(); s.HighWatermark != 0 || len(s.ISR) != 1 || s.MinISR != 2 || len(acked) > 0 {
			t.Errorf("of the topic %v: %+v, acknowledged %v", ofTopic, s, acked)
		}
		topic.epoch, topic.configs = 2, map[string]string{"min.insync.replicas": "1"}
		w.set(topic)
		if s := p.Snapshot(); s.HighWatermark != 1 || len(acked) != 1 || acked[0] != nil {
			t.Errorf("of the topic %v, when one is enough: %+v, acknowledged %v", ofTopic, s, acked)
		}
	}
}

// A directory that fails at start: what may be on it is not made anew on
// another one, which would hide the data; new topics find room.
func TestDiskFailedAtStart(t *testing.T) {
	mem := vfs.NewMem()
	d := disk{fs: mem, dirs: []string{"/a", "/b"}}
	logs := d.open(t)
	w := newWorld(t, logs)
	topic := topicT
	topic.partitions = 4
	w.set(topic)
	inB := map[int32]bool{}
	for n := range int32(4) {
		produce(t, w.find("t", n), 3)
		inB[n] = w.find("t", n).dir() == "/b"
	}
	closeLogs(t, logs)

	d.fs = vfs.NewFaulty(mem, failUnder("/b"))
	logs = d.open(t)
	t.Cleanup(func() { _ = logs.Close(t.Context()) })
	w = newWorld(t, logs)
	w.set(topic)
	for n := range int32(4) {
		p := w.find("t", n)
		if _, err := p.Append(batchOf(1, "v"), AppendOptions{Acks: 1}); errors.Is(err, kerr.KafkaStorageError) != inB[n] {
			t.Errorf("partition %d, in the failed directory %v: %v", n, inB[n], err)
		}
	}
	other := testTopic{name: "new", n: 2, partitions: 2, replicas: []int32{1}}
	w.set(topic, other)
	produce(t, w.find("new", 1), 1)
	if s := w.m.Stats(); s.Partitions != 6 || s.OfflineReplicas != 2 {
		t.Errorf("%+v", s)
	}
}

func BenchmarkCreatePartitions(b *testing.B) {
	for b.Loop() {
		logs := disk{fs: vfs.OS{}, dirs: []string{b.TempDir()}}.open(b)
		w := newWorld(b, logs)
		w.set()
		topic := topicT
		topic.partitions = 10_000
		w.set(topic)
		b.StopTimer()
		closeLogs(b, logs)
		b.StartTimer()
	}
}
