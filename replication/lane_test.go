package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// hang makes operations of a kind below a directory hang, on files that end so, until
// release is called.
func hang(f *vfs.Faulty, dir string, kind vfs.OpKind, suffix string) (reached <-chan string, release func()) {
	there, until := make(chan string, 100), make(chan struct{})
	f.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Kind != kind || !strings.HasPrefix(op.Name, dir+"/") || !strings.HasSuffix(op.Name, suffix) {
			return nil
		}
		there <- op.Name
		return &vfs.Fault{Until: until}
	})
	return there, func() {
		f.SetRule(nil)
		close(until)
	}
}

// slowDown makes operations of a kind below a directory take longer than one that does
// not hang may, until fast is called in synctest's time.
func slowDown(f *vfs.Faulty, dir string, kind vfs.OpKind) (fast func()) {
	const long = 2 * hangsAfter * lookEvery
	f.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Kind != kind || !strings.HasPrefix(op.Name, dir+"/") {
			return nil
		}
		done := make(chan struct{})
		time.AfterFunc(long, func() { close(done) })
		return &vfs.Fault{Until: done}
	})
	return func() {
		f.SetRule(nil)
		time.Sleep(long)
	}
}

// heard keeps the changes of leadership that were told, by partition.
type heard struct {
	mu sync.Mutex
	of map[string][]string
}

func (h *heard) listen(c LeadershipChange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = map[string][]string{}
	}
	what := fmt.Sprint(c.Epoch)
	switch {
	case c.Deleted:
		what += " deleted"
	case c.Leader:
		what += " leads"
	default:
		what += " follows"
	}
	name := fmt.Sprint(c.Partition.TopicPartition(), "/", c.Partition.TopicID()[0])
	h.of[name] = append(h.of[name], what)
}

func (h *heard) about(name string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.of[name], ", ")
}

// dirs says in which directory the logs of a topic are.
func dirs(logs *storage.Manager, topic string) map[int32]string {
	in := map[int32]string{}
	for _, l := range logs.Logs() {
		if tp := l.TopicPartition(); tp.Topic == topic {
			in[tp.Partition] = l.Dir()
		}
	}
	return in
}

// patience is how long a test waits for what must not happen.
func patience(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestDirectoryHangs: a directory hangs where a log is made in it. All that metadata
// asks of replicas in the other one is done meanwhile, no new replica goes to the one
// that hangs, nothing there is said to be done, and it is done in order when the
// directory answers again.
func TestDirectoryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem(), nil)
		logs := disk{fs: faulty, dirs: []string{"/a", "/b"}}.open(t)
		w := newWorld(t, logs)
		var told heard
		w.m.OnLeadership(told.listen)
		topic, u := topicT, testTopic{name: "u", n: 2, partitions: 4, replicas: []int32{1, 2}}
		topic.partitions, topic.replicas = 4, []int32{1, 2}
		w.set(topic)
		home := dirs(logs, "t")

		_, release := hang(faulty, "/b", vfs.OpMkdir, "")
		w.set(topic, u)
		made := dirs(logs, "u")
		if len(made) != 2 {
			t.Fatalf("of 4 new partitions those in the directory that answers were made: %v", made)
		}
		for n := range int32(4) {
			p, err := w.m.Partition("u", n)
			if made[n] == "" {
				if !errors.Is(err, kerr.NotLeaderForPartition) {
					t.Errorf("u-%d, which is not there yet: %v", n, err)
				}
				continue
			}
			if err != nil || made[n] != "/a" {
				t.Fatal(n, err, made)
			}
			produce(t, p, 1)
		}
		if err := w.m.AwaitTopic(patience(t, time.Minute), "u"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("u is said to be made: %v", err)
		}

		began := time.Now()
		topic.epoch, topic.replicas = 1, []int32{2, 1}
		w.set(topic, u)
		for n, dir := range home {
			if s := w.find("t", n).Snapshot(); (dir == "/a") != (s.LeaderEpoch == 1 && !s.IsLeader) {
				t.Errorf("t-%d in %s: %+v", n, dir, s)
			}
		}
		v := testTopic{name: "v", n: 3, partitions: 4, replicas: []int32{1}}
		w.set(topic, u, v)
		if err := w.m.AwaitTopic(t.Context(), "v"); err != nil {
			t.Error(err)
		}
		for n, dir := range dirs(logs, "v") {
			if dir != "/a" {
				t.Errorf("v-%d was placed in %s, which hangs", n, dir)
			}
			produce(t, w.find("v", n), 1)
		}
		again := u
		again.n = 9
		w.set(topic, v)
		if _, err := w.m.Partition("u", 0); !errors.Is(err, kerr.UnknownTopicOrPartition) || len(dirs(logs, "u")) != 0 {
			t.Errorf("u was deleted: %v, %v", err, dirs(logs, "u"))
		}
		w.set(topic, v, again)
		if got := dirs(logs, "u"); len(got) != 2 {
			t.Errorf("of u, which was created again, the names that are free are there: %v", got)
		}
		topic.epoch, topic.replicas = 2, []int32{1, 2}
		w.set(topic, v, again)
		if d := time.Since(began); d != 0 {
			t.Errorf("a directory that is known to hang was waited for for %v", d)
		}

		release()
		for _, name := range []string{"t", "u", "v"} {
			if err := w.m.AwaitTopic(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
		for n, dir := range home {
			want := "0 leads, 1 follows, 2 leads"
			if dir == "/b" {
				want = "0 leads, 2 leads"
			}
			if got := told.about(fmt.Sprint("t-", n, "/1")); got != want {
				t.Errorf("t-%d in %s: %s", n, dir, got)
			}
			produce(t, w.find("t", n), 1)
		}
		for n := range int32(4) {
			if p := w.find("u", n); p.TopicID() != (storage.TopicID{9}) {
				t.Errorf("u-%d is %v", n, p.TopicID())
			}
			produce(t, w.find("u", n), 1)
			if got := told.about(fmt.Sprint("u-", n, "/2")); got != "0 leads, 0 deleted" && got != "" {
				t.Errorf("u-%d of the topic that was deleted: %s", n, got)
			}
		}
		if got := dirs(logs, "u"); len(got) != 4 {
			t.Error(got)
		}
		w.m.Close()
		closeLogs(t, logs)
	})
}

// TestDeletionHangs: a topic is created again while the deletion of the one of its
// name hangs. It waits for that, or a start would find two logs of one name, and what
// is told of the two comes one after the other.
func TestDeletionHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem(), nil)
		d := disk{fs: faulty, dirs: []string{"/a", "/b"}}
		logs := d.open(t)
		w := newWorld(t, logs)
		topic := topicT
		topic.partitions = 2
		w.set(topic)
		home := dirs(logs, "t")
		_, release := hang(faulty, "/b", vfs.OpRename, "")
		w.set()
		topic.n = 2
		w.set(topic)
		for n, dir := range home {
			p, err := w.m.Partition("t", n)
			if dir == "/a" && err != nil {
				t.Fatal(err)
			}
			if dir == "/b" && p != nil {
				t.Errorf("t-%d is in use twice", n)
			}
		}
		release()
		if err := w.m.AwaitTopic(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		for n := range int32(2) {
			produce(t, w.find("t", n), 1)
		}
		w.m.Close()
		closeLogs(t, logs)
		logs = d.open(t)
		if n := len(logs.Logs()); n != 2 {
			t.Errorf("a start finds %d logs", n)
		}
		closeLogs(t, logs)
	})
}

// eagerLeader answers each fetcher once with a record for every partition that it
// asks for, and lets it wait from then on.
type eagerLeader struct{ answered bool }

func (l *eagerLeader) Fetch(ctx context.Context, req *FetchRequest, resp *FetchResponse) error {
	if l.answered {
		<-ctx.Done()
		return ctx.Err()
	}
	l.answered = true
	*resp = FetchResponse{SessionID: 1}
	for _, at := range req.Partitions {
		b := batchOf(1, "v")
		resp.Partitions = append(resp.Partitions, Fetched{PartitionID: at.PartitionID, HighWatermark: 0, Records: b})
	}
	return nil
}

func (*eagerLeader) Bounds(context.Context, BoundsRequest) (start, end int64, err error) {
	return 0, 0, errors.New("nobody asks for that here")
}
func (*eagerLeader) Close() {}

// TestFetcherHangs: what is copied to one directory hangs. What is copied from the same
// leader to another does not, and can be given another leader.
func TestFetcherHangs(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	logs := disk{fs: faulty, dirs: []string{"/a", "/b"}}.open(t)
	t.Cleanup(func() { closeLogs(t, logs) })
	w := &world{tb: t, img: metadata.Empty(), m: New(Options{
		Logs: logs, NodeID: 1, Config: config.Defaults(), Now: time.Now, Log: zerolog.Nop(),
		Connect: func(int32, string) Leader { return &eagerLeader{} },
	})}
	t.Cleanup(w.m.Close)
	// The first partition's is asked for, and answered, first.
	hanging, release := hang(faulty, "/a", vfs.OpWrite, ".log")
	defer release()
	topic := topicT
	topic.partitions, topic.replicas = 2, []int32{2, 1}
	w.set(topic)
	if in := dirs(logs, "t"); in[0] != "/a" || in[1] != "/b" {
		t.Fatal(in)
	}
	<-hanging
	if !copied(w.find("t", 1)) {
		t.Error("what is in the other directory is not copied")
	}
	topic.epoch, topic.replicas = 1, []int32{3, 1}
	w.set(topic)
	if s := w.find("t", 1).Snapshot(); s.Leader != 3 || s.LeaderEpoch != 1 {
		t.Errorf("%+v", s)
	}
}

// TestWritesHang: a write to one of three directories hangs, with the lock that lets no
// role change under it. In another one roles change, leaders are followed, and in-sync
// sets are proposed; that the third fails is told.
func TestWritesHang(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	var w *world
	logs := disk{fs: faulty, dirs: []string{"/a", "/b", "/c"}, failed: func(dir string, _ error) { w.m.DirFailed(dir) }}.open(t)
	t.Cleanup(func() { _ = logs.Close(context.Background()) }) // it says that a directory failed
	v, _, err := config.Build(config.Source{Name: "test", Lines: []config.Line{
		{Key: "replica.lag.time.max.ms", Value: "20"}, {Key: "replica.fetch.wait.max.ms", Value: "10"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	proposed, offline := make(chan metadata.ISRChange), make(chan metadata.Replicas, 10)
	w = &world{tb: t, img: metadata.Empty(), m: New(Options{
		Logs: logs, NodeID: 1, Config: v, Now: time.Now, Log: zerolog.Nop(),
		Connect: func(int32, string) Leader { return &eagerLeader{} },
		AlterPartition: func(ctx context.Context, changes []metadata.ISRChange) []metadata.ISRResult {
			results := make([]metadata.ISRResult, len(changes))
			for i, c := range changes {
				select {
				case proposed <- c:
				case <-ctx.Done():
				}
				results[i].Err = kerr.RequestTimedOut
			}
			return results
		},
		Offline: func(r metadata.Replicas) { offline <- r },
	})}
	t.Cleanup(w.m.Close)
	topic := topicT
	topic.partitions, topic.replicas = 3, []int32{1, 2}
	w.set(topic)
	in := map[string]*Partition{}
	for n, dir := range dirs(logs, "t") {
		in[dir] = w.find("t", n)
	}

	hanging, release := hang(faulty, "/b", vfs.OpWrite, ".log")
	defer func() {
		if release != nil {
			release()
		}
	}()
	appended := make(chan error, 1)
	go func() {
		_, err := in["/b"].Append(batchOf(1, "v"), AppendOptions{Acks: 1})
		appended <- err
	}()
	<-hanging
	follows := testTopic{name: "u", n: 2, partitions: 3, replicas: []int32{2, 1}}
	topic.epoch = 1
	w.set(topic, follows)
	if s := in["/a"].Snapshot(); !s.IsLeader || s.LeaderEpoch != 1 {
		t.Errorf("%+v", s)
	}
	timeout := time.After(20 * time.Second)
	for seen := false; !seen; {
		select {
		case c := <-proposed:
			seen = c.Partition == in["/a"].Index() && c.LeaderEpoch == 1
		case <-timeout:
			t.Fatal("no in-sync set is proposed")
		}
	}
	for n, dir := range dirs(logs, "u") {
		if p, err := w.m.Partition("u", n); dir != "/b" && (err != nil || !copied(p)) {
			t.Errorf("u-%d in %s is not followed: %v", n, dir, err)
		}
	}
	faulty.SetRule(failUnder("/c")) // what hangs goes on hanging
	if _, err := in["/c"].Append(batchOf(1, "v"), AppendOptions{Acks: 1}); !errors.Is(err, kerr.KafkaStorageError) {
		t.Error(err)
	}
	select {
	case r := <-offline:
		if !r.Has(metadata.ID{1}, in["/c"].Index()) || r.Has(metadata.ID{1}, in["/a"].Index()) {
			t.Error(r)
		}
	case <-timeout:
		t.Error("nobody was told that a directory failed")
	}
	release()
	release = nil
	go func() {
		for range proposed { // nobody wants these any more
		}
	}()
	if err := <-appended; err != nil {
		t.Error(err)
	}
	if err := w.m.AwaitTopic(patience(t, 20*time.Second), "t"); err != nil {
		t.Error(err)
	}
	if s := in["/b"].Snapshot(); s.LeaderEpoch != 1 || s.LogEnd != 1 {
		t.Errorf("%+v", s)
	}
}

// copied waits for the record that eagerLeader sends.
func copied(p *Partition) bool {
	for range 2000 {
		if s := p.Snapshot(); s.LogEnd == 1 {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// TestLookPastHungWrite: that a write hangs keeps nobody from looking whether the in-sync
// set is right, and that keeps no follower from reading.
func TestLookPastHungWrite(t *testing.T) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	logs := disk{fs: faulty, dirs: []string{"/a"}}.open(t)
	t.Cleanup(func() { closeLogs(t, logs) })
	w := newWorld(t, logs)
	topic := topicT
	topic.replicas = []int32{1, 2}
	w.set(topic)
	p := w.find("t", 0)
	produce(t, p, 1)
	hanging, release := hang(faulty, "/a", vfs.OpWrite, ".log")
	appended := make(chan error, 1)
	go func() {
		_, err := p.Append(batchOf(1, "v"), AppendOptions{Acks: 1})
		appended <- err
	}()
	<-hanging
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		if ch, ok := p.proposal(); ok {
			t.Errorf("%+v", ch)
		}
		if offsets, _ := consume(t, p, ReadOptions{MaxBytes: 1 << 20, MinOneBatch: true, CurrentLeaderEpoch: 0, LastFetchedEpoch: -1, ReplicaID: 2, BrokerEpoch: -1}); len(offsets) != 1 {
			t.Error(offsets)
		}
	}()
	select {
	case <-looked:
	case <-time.After(20 * time.Second):
		t.Error("waits for the write")
	}
	release()
	<-looked
	if err := <-appended; err != nil {
		t.Error(err)
	}
}

// TestLanes changes metadata at random while one directory or the other hangs in one
// operation or another. What is in a directory that answers is at each moment what the
// metadata says, and all is in the end; nothing is told in a wrong order, and a start
// finds just the logs that there should be.
func TestLanes(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, 5, 6, 7, 8}
	if s := os.Getenv("SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{n}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { laneModel(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func laneModel(t *testing.T, rnd *rand.Rand) {
	faulty := vfs.NewFaulty(vfs.NewMem(), nil)
	d := disk{fs: faulty, dirs: []string{"/a", "/b", "/c"}}
	logs := d.open(t)
	w := newWorld(t, logs)
	var told heard
	w.m.OnLeadership(told.listen)
	topics := map[string]*testTopic{}
	ids := byte(0)
	var release func()
	slow := false
	apply := func() {
		var list []testTopic
		for _, topic := range topics {
			list = append(list, *topic)
		}
		w.set(list...)
		for _, topic := range topics {
			for n := range int32(topic.partitions) {
				l := w.m.placement.laneOf(storage.TopicPartition{Topic: topic.name, Partition: n}, w.m.turns.Load())
				here, done := slices.Contains(topic.replicas, 1), false
				if here {
					done, _ = l.reached(w.m.turns.Load())
				}
				if here && (done || !slow && !l.hangs()) || !here && l == nil {
					checkReplica(t, w, topic, n)
				}
			}
		}
	}
	for range 150 {
		name := string(rune('p' + rnd.IntN(4)))
		topic := topics[name]
		switch what := rnd.IntN(10); {
		case topic == nil:
			ids++
			topics[name] = &testTopic{name: name, n: ids, partitions: 1 + rnd.IntN(4), replicas: []int32{1, 2}}
		case what < 2:
			delete(topics, name)
		case what < 3:
			topic.partitions++
		case what < 8:
			topic.epoch++
			topic.replicas = [][]int32{{1, 2}, {2, 1}, {2, 3}, {1}}[rnd.IntN(4)]
		case release != nil:
			release()
			release, slow = nil, false
			synctest.Wait()
		default:
			kind, dir := []vfs.OpKind{vfs.OpMkdir, vfs.OpRename, vfs.OpCreate, vfs.OpWrite}[rnd.IntN(4)], d.dirs[rnd.IntN(3)]
			if slow = rnd.IntN(2) == 0; slow {
				release = slowDown(faulty, dir, kind)
			} else {
				_, release = hang(faulty, dir, kind, "")
			}
		}
		apply()
	}
	if release != nil {
		release()
		synctest.Wait()
	}
	apply()
	want := 0
	for name, topic := range topics {
		if err := w.m.AwaitTopic(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		for n := range int32(topic.partitions) {
			checkReplica(t, w, topic, n)
			if slices.Contains(topic.replicas, 1) {
				want++
			}
		}
	}
	synctest.Wait()
	for name, changes := range told.of {
		last, leads := -1, false
		for _, c := range changes {
			epoch, what, _ := strings.Cut(c, " ")
			n, err := strconv.Atoi(epoch)
			if err != nil || n < last || (what != "leads") != leads && !(leads && what == "leads") {
				t.Errorf("%s: %v", name, changes)
				break
			}
			last, leads = n, what == "leads"
		}
	}
	w.m.Close()
	closeLogs(t, logs)
	logs = d.open(t)
	if n := len(logs.Logs()); n != want {
		t.Errorf("a start finds %d logs, not %d", n, want)
	}
	closeLogs(t, logs)
}

// checkReplica compares a replica of broker 1 with metadata.
func checkReplica(t *testing.T, w *world, topic *testTopic, n int32) {
	t.Helper()
	p, err := w.m.Partition(topic.name, n)
	if !slices.Contains(topic.replicas, 1) {
		if !errors.Is(err, kerr.NotLeaderForPartition) {
			t.Errorf("%s-%d is elsewhere: %v", topic.name, n, err)
		}
		return
	}
	if err != nil {
		t.Errorf("%s-%d in %s: %v", topic.name, n, w.m.placement.laneOf(storage.TopicPartition{Topic: topic.name, Partition: n}, w.m.turns.Load()).dir, err)
		return
	}
	s := p.Snapshot()
	if s.Err != nil || p.TopicID() != (storage.TopicID{topic.n}) || int(s.LeaderEpoch) != topic.epoch || s.Leader != topic.replicas[0] {
		t.Errorf("%s-%d of %d in epoch %d: %v, %+v", topic.name, n, topic.n, topic.epoch, p.TopicID(), s)
	}
}

// TestComesToLaneBehind: replicas leave one directory and get their place in another one,
// which is slow and still at what was before. What metadata said of them then was done
// where they were: the slow one does not do it again.
func TestComesToLaneBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem(), nil)
		logs := disk{fs: faulty, dirs: []string{"/a", "/b"}}.open(t)
		w := newWorld(t, logs)
		var told heard
		w.m.OnLeadership(told.listen)
		w.set()
		var until []chan struct{} // of what was asked of /b
		faulty.SetRule(func(op vfs.Op) *vfs.Fault {
			if op.Kind != vfs.OpMkdir || !strings.HasPrefix(op.Name, "/b/") {
				return nil
			}
			until = append(until, make(chan struct{}))
			return &vfs.Fault{Until: until[len(until)-1]}
		})
		first := testTopic{name: "f", n: 1, partitions: 4, replicas: []int32{1}}
		deleted := testTopic{name: "g", n: 2, partitions: 1, replicas: []int32{1}}
		moved := testTopic{name: "h", n: 3, partitions: 2, replicas: []int32{1, 2}}
		fill := testTopic{name: "i", n: 4, partitions: 6, replicas: []int32{1}}
		w.set(first, deleted, moved)
		w.set(first, deleted, moved, fill) // to /a, since /b is known to hang
		moved.epoch, moved.replicas = 1, []int32{2, 3}
		w.set(first, moved, fill)
		close(until[0])
		synctest.Wait() // until /b, which has made a step, hangs at the next
		deleted.n = 5
		moved.epoch, moved.replicas = 2, []int32{2, 1}
		w.set(first, deleted, moved, fill)
		faulty.SetRule(nil)
		close(until[1])
		for _, name := range []string{"f", "g", "h"} {
			if err := w.m.AwaitTopic(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		if g, h := dirs(logs, "g")[0], dirs(logs, "h")[1]; g != "/b" || h != "/b" {
			t.Fatal("the test is to have them in the other directory:", g, h)
		}
		for name, want := range map[string]string{"g-0/2": "0 leads, 0 deleted", "g-0/5": "0 leads", "h-1/3": "0 leads, 0 deleted"} {
			if got := told.about(name); got != want {
				t.Errorf("%s: %s, not %s", name, got, want)
			}
		}
		w.m.Close()
		closeLogs(t, logs)
	})
}

// TestStrayHangs: a start finds the log of a topic that is not there any more, and setting
// it aside hangs. A topic of that name waits for it.
func TestStrayHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem(), nil)
		d := disk{fs: faulty, dirs: []string{"/a", "/b"}}
		logs := d.open(t)
		w := newWorld(t, logs)
		topic := topicT
		topic.partitions = 2
		w.set(topic)
		w.m.Close()
		closeLogs(t, logs)

		logs = d.open(t)
		w = newWorld(t, logs)
		_, release := hang(faulty, "/b", vfs.OpRename, "")
		w.set()
		topic.n = 2
		w.set(topic)
		release()
		if err := w.m.AwaitTopic(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		for n := range int32(2) {
			produce(t, w.find("t", n), 1)
		}
		w.m.Close()
		closeLogs(t, logs)
	})
}
