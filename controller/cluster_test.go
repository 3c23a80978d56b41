package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/twmb/franz-go/pkg/kerr"
)

// link is one node's way to a shared store, which tests can break.
type link struct {
	metadata.Store
	mu sync.Mutex
	// before is asked before each transaction: an error keeps it from the
	// store.
	before func(metadata.Txn) error
	// after is asked after each: an error hides the answer.
	after func(metadata.Txn) error
}

func (l *link) hooks() (before, after func(metadata.Txn) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.before, l.after
}

func (l *link) set(before, after func(metadata.Txn) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before, l.after = before, after
}

func (l *link) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	before, after := l.hooks()
	if before != nil {
		if err := before(txn); err != nil {
			return metadata.TxnResult{}, err
		}
	}
	r, err := l.Store.Txn(ctx, txn)
	if err == nil && after != nil {
		err = after(txn)
	}
	if err != nil {
		return metadata.TxnResult{}, err
	}
	return r, nil
}

// Revoke fails on a broken link, so that a lease is left behind as by a killed
// process.
func (l *link) Revoke(ctx context.Context, lease metadata.LeaseID) error {
	if before, _ := l.hooks(); before != nil && before(metadata.Txn{}) != nil {
		return metadata.ErrLeaseNotFound
	}
	return l.Store.Revoke(ctx, lease)
}

var errCut = errors.New("link cut")

func cut(metadata.Txn) error { return errCut }

func eventually(t testing.TB, c *Controller, what string, done func(*metadata.Image) bool) {
	t.Helper()
	if err := c.Await(testContext(t), done); err != nil {
		t.Fatalf("%s: %v\nbrokers %+v", what, err, c.Image().Brokers())
	}
}

func TestControllerFailover(t *testing.T) {
	store := memstore.New()
	a := start(t, Options{Store: store, NodeID: 1})
	b := start(t, Options{Store: store, NodeID: 2})
	if id := b.Image().ControllerID(); id != 1 {
		t.Fatalf("controller %d", id)
	}
	r := a.CreateTopics(testContext(t), []metadata.NewTopic{{Name: "t", Partitions: 4, ReplicationFactor: 2}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	if r := b.CreateTopics(testContext(t), []metadata.NewTopic{{Name: "u", Partitions: 1, ReplicationFactor: 1}}, false); !errors.Is(r[0].Err, kerr.NotController) {
		t.Errorf("a node that is not the controller answered %+v", r)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, b, "failover", func(img *metadata.Image) bool {
		if img.ControllerID() != 2 || img.ControllerEpoch() != 2 || !img.Broker(1).Fenced {
			return false
		}
		for _, p := range img.Topic("t").Partitions {
			if p.Leader != 2 || len(p.ISR) != 1 || len(p.OfflineReplicas) != 1 {
				return false
			}
		}
		return true
	})
	create(t, b, "u", 1)
	if p := b.Image().Topic("u").Partitions[0]; p.Leader != 2 {
		t.Errorf("%+v", p)
	}
}

// TestOldControllerWritesNothing: a controller whose session ran out while a
// write of it was on its way must not change what its successor decides.
func TestOldControllerWritesNothing(t *testing.T) {
	store := memstore.New()
	l := &link{Store: store}
	a := start(t, Options{Store: l, NodeID: 1})
	b := start(t, Options{Store: store, NodeID: 2})
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	l.set(func(txn metadata.Txn) error {
		if hasKey(txn, "topics/late") {
			once.Do(func() { close(held) })
			<-release
		}
		return nil
	}, nil)
	ctx, cancel := context.WithCancel(testContext(t))
	answered := make(chan []metadata.TopicResult)
	go func() {
		answered <- a.CreateTopics(ctx, []metadata.NewTopic{{Name: "late", Partitions: 1, ReplicationFactor: 1}}, false)
	}()
	<-held
	before := b.Image().ControllerFence()
	store.ExpireLease(a.session.lease)
	eventually(t, b, "takeover", func(img *metadata.Image) bool {
		return img.ControllerID() == 2 && img.ControllerFence() != before
	})
	close(release)
	r := <-answered
	cancel()
	if !errors.Is(r[0].Err, kerr.NotController) {
		t.Errorf("the old controller answered %+v", r)
	}
	// Both brokers come back up, and the topic was never made.
	for _, c := range []*Controller{a, b} {
		eventually(t, c, "return", func(img *metadata.Image) bool { return img.Broker(1).Active() && img.Broker(2).Active() })
		if c.Image().Topic("late") != nil {
			t.Error("the write of the old controller was taken")
		}
	}
}

// TestLateWriteOfAnOldController: a write whose outcome nobody learnt, since the
// answer took too long, arrives after its controller was replaced and the request
// was carried out by the successor. It changes nothing: the topic is there once,
// and its state is the successor's.
func TestLateWriteOfAnOldController(t *testing.T) {
	store := memstore.New()
	l := &link{Store: store}
	a := start(t, Options{Store: l, NodeID: 1})
	ways := map[int32]*Controller{1: a}
	b := start(t, Options{Store: store, NodeID: 2})
	ways[2] = b
	late := make(chan metadata.Txn, 1)
	lost := errors.New("no answer")
	l.set(func(txn metadata.Txn) error {
		if hasKey(txn, "topics/late") {
			select {
			case late <- txn:
			default:
			}
			return lost // and nothing more of it arrives for now
		}
		return nil
	}, nil)
	c := start(t, Options{Store: store, NodeID: 3, BrokerOnly: true, Call: func(ctx context.Context, id int32, message []byte) ([]byte, error) {
		answer := ways[id].Answer(ctx, message)
		return answer, ctx.Err()
	}})
	answered := make(chan []metadata.TopicResult, 1)
	go func() {
		answered <- c.CreateTopics(testContext(t), []metadata.NewTopic{{Name: "late", Partitions: 1, ReplicationFactor: 1}}, false)
	}()
	txn := <-late
	store.ExpireLease(mustGet(t, store, "brokers/live/1")[0].Lease)
	if r := <-answered; r[0].Err != nil {
		t.Fatalf("%+v", r)
	}
	before := mustGet(t, store, "topics/late")
	if result, err := store.Txn(t.Context(), txn); err != nil || result.Succeeded {
		t.Errorf("the write of the old controller was taken: %+v, %v", result, err)
	}
	after := mustGet(t, store, "topics/late")
	if len(before) != 1 || len(after) != 1 || before[0].ModRevision != after[0].ModRevision {
		t.Errorf("the topic was written again: %+v, was %+v", after, before)
	}
	fenced := slices.ContainsFunc(txn.If, func(c metadata.Compare) bool {
		return c.Key == "controller" && c.Target == metadata.CreateRevision && c.Revision != 0
	})
	if !fenced {
		t.Errorf("the write compares no election: %+v", txn.If)
	}
}

// TestCommitWhoseOutcomeIsOpen: the answer to the transaction that makes a topic of
// staged partitions is lost, and the partitions look like leftovers until more is
// heard of it. Whether it happened, or happens yet: no topic is ever without its
// partitions, of which no node could make an image.
func TestCommitWhoseOutcomeIsOpen(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
			store := newLagging()
			l := &link{Store: store}
			c := start(t, Options{Store: l})
			lost := errors.New("no answer")
			var open metadata.Txn
			var asked, swept, happened bool
			l.set(func(txn metadata.Txn) error {
				switch {
				case asked && slices.ContainsFunc(txn.Then, func(op metadata.Op) bool { return op.Kind == metadata.OpDeletePrefix }):
					swept = true
				case swept && !happened:
					happened = true
					_, err := store.Store.Txn(t.Context(), open)
					return err
				case !asked && hasKey(txn, "topics/big"):
					asked, open = true, txn
					if late {
						return lost
					}
					happened = true
					lagBehind(t, c, store)
				}
				return nil
			}, func(txn metadata.Txn) error {
				if swept {
					store.lag(false)
				} else if hasKey(txn, "topics/big") {
					return lost
				}
				return nil
			})
			created(t, c, "big")
			if !swept || !happened {
				t.Errorf("swept %v, happened %v", swept, happened)
			}
			checkReadable(t, store)
		})
	}
}

// TestTurnAfterAWrite: what was written is in the image of the next turn, also if
// something else failed after it.
func TestTurnAfterAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLagging()
		l := &link{Store: store}
		c := start(t, Options{Store: l})
		first := true
		l.set(func(txn metadata.Txn) error {
			switch {
			case hasKey(txn, "topics/big0"):
				lagBehind(t, c, store)
				time.AfterFunc(10*defaultRetryDelay, func() { store.lag(false) })
			case hasKey(txn, "topics/big1") && first:
				first = false
				return errCut
			}
			return nil
		}, nil)
		created(t, c, "big0", "big1")
		checkReadable(t, store)
	})
}

// lagBehind lets a node hear of all that happened, and of nothing from now on.
func lagBehind(t *testing.T, c *Controller, store *lagging) {
	t.Helper()
	_, revision, err := store.Get(t.Context(), "")
	if err != nil {
		t.Error(err)
	}
	eventually(t, c, "what happened", func(img *metadata.Image) bool { return img.Revision >= revision })
	store.lag(true)
}

// created creates topics of many partitions in one request.
func created(t *testing.T, c *Controller, names ...string) {
	t.Helper()
	var topics []metadata.NewTopic
	for _, name := range names {
		topics = append(topics, metadata.NewTopic{Name: name, Partitions: 500, ReplicationFactor: 1})
	}
	for _, r := range c.CreateTopics(testContext(t), topics, false) {
		if r.Err != nil || len(c.Image().Topic(r.Name).Partitions) != 500 {
			t.Errorf("%+v", r)
		}
	}
}

func checkReadable(t *testing.T, store metadata.Store) {
	t.Helper()
	kvs, revision, err := store.Get(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := metadata.FromKVs(kvs, revision); err != nil {
		t.Error(err)
	}
}

func hasKey(txn metadata.Txn, key string) bool {
	return slices.ContainsFunc(txn.Then, func(op metadata.Op) bool { return op.Key == key })
}

// lagging is a store whose watches tell nothing while they lag.
type lagging struct {
	metadata.Store
	told chan struct{}
	mu   sync.Mutex
	lags bool
}

func newLagging() *lagging { return &lagging{Store: memstore.New(), told: make(chan struct{}, 1)} }

func (s *lagging) lag(lags bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lags && !lags {
		s.told <- struct{}{}
	}
	s.lags = lags
}

func (s *lagging) Watch(ctx context.Context, prefix string, from int64) metadata.Watcher {
	w := &lateWatcher{Watcher: s.Store.Watch(ctx, prefix, from), store: s, ready: make(chan struct{}), closed: make(chan struct{})}
	go func() {
		for {
			select {
			case <-w.Watcher.Ready():
			case <-s.told:
			case <-w.closed:
				return
			}
			select {
			case w.ready <- struct{}{}:
			case <-w.closed:
				return
			}
		}
	}()
	return w
}

type lateWatcher struct {
	metadata.Watcher
	store  *lagging
	ready  chan struct{}
	closed chan struct{}
}

func (w *lateWatcher) Ready() <-chan struct{} { return w.ready }

func (w *lateWatcher) Take() ([]metadata.Event, error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.store.lags {
		return nil, nil
	}
	return w.Watcher.Take()
}

func (w *lateWatcher) Close() {
	close(w.closed)
	w.Watcher.Close()
}

func TestSessionLossKeepsTheRegistration(t *testing.T) {
	store := memstore.New()
	c := start(t, Options{Store: store})
	create(t, c, "t", 1)
	epoch, fence := c.BrokerEpoch(), c.Image().ControllerFence()
	store.ExpireLease(c.session.lease)
	eventually(t, c, "return", func(img *metadata.Image) bool {
		return img.ControllerFence() != fence && img.ControllerID() == 1 && img.Broker(1).Active() && img.Topic("t").Partitions[0].Leader == 1
	})
	if c.BrokerEpoch() != epoch {
		t.Errorf("broker epoch %d, was %d", c.BrokerEpoch(), epoch)
	}
	create(t, c, "u", 1)
}

// TestRestart: what a broker finds of its partitions after a clean stop and
// after being killed.
func TestRestart(t *testing.T) {
	store := memstore.New()
	c := start(t, Options{Store: store})
	create(t, c, "t", 1)
	state := func(c *Controller) *metadata.Partition { return c.Image().Topic("t").Partitions[0] }
	if p := state(c); p.LeaderEpoch != 0 || p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
	if err := c.ControlledShutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	epoch := c.BrokerEpoch()
	if p := state(c); p.Leader != metadata.NoLeader {
		t.Errorf("after the shutdown: %+v", p)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	l := &link{Store: store}
	c, err := New(Options{Store: l, NodeID: 1, PreviousBrokerEpoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if p := state(c); p.Leader != 1 || p.LeaderEpoch != 2 || p.Recovering {
		t.Errorf("after a clean restart: %+v", p)
	}
	if c.BrokerEpoch() <= epoch {
		t.Errorf("broker epoch %d after %d", c.BrokerEpoch(), epoch)
	}
	// Killed: the lease and the controller's key stay behind.
	l.set(cut, nil)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, alive := c.Image().Alive(1); !alive {
		t.Fatal("the kill was noticed")
	}
	next := start(t, Options{Store: store, Exclusive: true})
	if p := state(next); p.Leader != 1 || p.LeaderEpoch != 4 {
		t.Errorf("after a kill: %+v", p)
	}
	create(t, next, "u", 1)
}

// TestPredecessorMustBeGone: unless the store is ours alone, a node id is taken
// over only when the session of who has it ran out.
func TestPredecessorMustBeGone(t *testing.T) {
	store := memstore.New()
	l := &link{Store: store}
	old := start(t, Options{Store: l})
	twin, err := New(Options{Store: store, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if err := twin.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a second node 1 started: %v", err)
	}
	if !old.Image().Broker(1).Active() || old.Image().Broker(1).Incarnation != old.Incarnation() {
		t.Errorf("%+v", old.Image().Broker(1))
	}
	_ = twin.Close()
	l.set(cut, nil)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := New(Options{Store: store, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() { started <- next.Start(testContext(t)) }()
	eventually(t, next, "seeing the predecessor", func(img *metadata.Image) bool { return img.Broker(1) != nil })
	store.Advance(10 * time.Second)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestClusterIDs(t *testing.T) {
	store := memstore.New()
	c := start(t, Options{Store: store})
	if id, err := metadata.ParseID(c.Image().ClusterID); err != nil || id == (metadata.ID{}) {
		t.Errorf("cluster id %q, %v", c.Image().ClusterID, err)
	}
	other, err := New(Options{Store: store, NodeID: 2, ClusterID: "AAAAAAAAAAAAAAAAAAAAAQ"})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(testContext(t)); err == nil {
		t.Error("joined another cluster")
	}
	same := start(t, Options{Store: store, NodeID: 3, ClusterID: c.Image().ClusterID})
	if same.Image().ClusterID != c.Image().ClusterID {
		t.Error("another id")
	}
	given := start(t, Options{Store: memstore.New(), ClusterID: "AAAAAAAAAAAAAAAAAAAAAQ", Features: map[string]int16{"x": 3}})
	if given.Image().ClusterID != "AAAAAAAAAAAAAAAAAAAAAQ" || given.Image().Features()["x"] != 3 {
		t.Errorf("%q %v", given.Image().ClusterID, given.Image().Features())
	}
}

// TestHalfDoneCreationIsSwept: a controller dies between staging partitions and
// writing the topic. Nobody ever sees the topic, and nothing of it stays.
func TestHalfDoneCreationIsSwept(t *testing.T) {
	store := memstore.New()
	l := &link{Store: store}
	a := start(t, Options{Store: l, NodeID: 1})
	b := start(t, Options{Store: store, NodeID: 2})
	staged := make(chan struct{})
	l.set(func(txn metadata.Txn) error {
		if hasKey(txn, "topics/big") {
			close(staged)
			l.set(cut, nil)
			return errCut
		}
		return nil
	}, nil)
	go a.CreateTopics(testContext(t), []metadata.NewTopic{{Name: "big", Partitions: 500, ReplicationFactor: 1}}, false)
	<-staged
	if kvs, _, _ := store.Get(t.Context(), "parts/"); len(kvs) != 500 {
		t.Fatalf("%d partitions are staged", len(kvs))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	store.Advance(10 * time.Second)
	eventually(t, b, "takeover", func(img *metadata.Image) bool { return img.ControllerID() == 2 && len(metadata.Orphans(img)) == 0 })
	if kvs, _, _ := store.Get(t.Context(), "parts/"); len(kvs) != 0 || b.Image().Topic("big") != nil {
		t.Errorf("%d partitions are left", len(kvs))
	}
	create(t, b, "big", 500)
}

// TestSlowNodeListsAnew: a node that was too slow for the history catches up by
// listing, and its subscribers miss nothing.
func TestSlowNodeListsAnew(t *testing.T) {
	store := newLagging()
	a := start(t, Options{Store: store.Store, NodeID: 1})
	b, err := New(Options{Store: store, NodeID: 2})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	b.Subscribe(func(d *metadata.Delta, _ *metadata.Image) {
		for _, td := range d.Topics {
			if td.New != nil {
				names[td.New.Name] = true
			} else {
				delete(names, td.Old.Name)
			}
		}
	})
	if err := b.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	create(t, a, "first", 1)
	lagBehind(t, b, store)
	for i := range 20 {
		create(t, a, fmt.Sprintf("t%d", i), 1)
	}
	if r := a.DeleteTopics(testContext(t), []metadata.TopicRef{{Name: "first"}}); r[0].Err != nil {
		t.Fatal(r)
	}
	revision := a.Image().Revision
	store.Store.(*memstore.Store).Compact(revision)
	store.lag(false)
	eventually(t, b, "catching up", func(img *metadata.Image) bool { return img.Revision >= revision })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if len(names) != 20 || names["first"] {
		t.Errorf("the subscriber knows %v", names)
	}
}

// TestSubscriberHangs: a controller whose subscribers hang, as with a disk that does,
// goes on deciding for the others. What it is asked itself it does not acknowledge.
func TestSubscriberHangs(t *testing.T) {
	store := memstore.New()
	a, err := New(Options{Store: store, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	hang, hangs := make(chan struct{}), make(chan struct{})
	a.Subscribe(func(d *metadata.Delta, _ *metadata.Image) {
		for _, td := range d.Topics {
			if td.New != nil && td.New.Name == "hangs" {
				close(hangs)
				<-hang
			}
		}
	})
	if err := a.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	b := start(t, Options{Store: store, NodeID: 2, BrokerOnly: true, Call: func(ctx context.Context, _ int32, message []byte) ([]byte, error) {
		return a.Answer(ctx, message), ctx.Err()
	}})
	ctx, giveUp := context.WithCancel(testContext(t))
	asked := make(chan []metadata.TopicResult)
	go func() {
		asked <- a.CreateTopics(ctx, []metadata.NewTopic{{Name: "hangs", Partitions: 1, ReplicationFactor: 1}}, false)
	}()
	<-hangs
	create(t, b, "decided", 1)
	c := start(t, Options{Store: store, NodeID: 3, BrokerOnly: true})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, b, "fencing", func(img *metadata.Image) bool { return img.Broker(3).Fenced })
	if b.Image().Topic("hangs") == nil || a.Image().Topic("hangs") != nil {
		t.Errorf("hangs: %v, applied where it hangs %v", b.Image().Topic("hangs"), a.Image().Topic("hangs"))
	}
	giveUp()
	if r := <-asked; !errors.Is(r[0].Err, kerr.RequestTimedOut) {
		t.Errorf("%+v", r)
	}
	close(hang)
	eventually(t, a, "all of it", func(img *metadata.Image) bool { return img.Topic("decided") != nil && img.Broker(3).Fenced })
}

// TestUnderFaults has many callers create, grow and delete topics through
// whichever node is controller, while transactions fail, their answers get
// lost, and sessions run out. What was acknowledged must be so in the end.
func TestUnderFaults(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { underFaults(t, seed) })
	}
}

func underFaults(t *testing.T, seed uint64) {
	store := memstore.New()
	var nodes []*Controller
	var links []*link
	for id := int32(1); id <= 3; id++ {
		l := &link{Store: store}
		links = append(links, l)
		c, err := New(Options{Store: l, NodeID: id, Seed: seed + 1})
		if err != nil {
			t.Fatal(err)
		}
		c.retryDelay = time.Millisecond
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		nodes = append(nodes, c)
	}
	var mu sync.Mutex
	faults := rand.New(rand.NewPCG(seed, 9))
	flaky := func(metadata.Txn) error {
		mu.Lock()
		defer mu.Unlock()
		if faults.IntN(20) == 0 {
			return errCut
		}
		return nil
	}
	for _, l := range links {
		l.set(flaky, flaky)
	}
	// Every few answers, the controller's session runs out.
	answers := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Add(1)
	go func() {
		defer chaos.Done()
		n := 0
		for range answers {
			if n++; n%6 == 0 {
				for _, kv := range mustGet(t, store, "controller") {
					store.ExpireLease(kv.Lease)
				}
			}
		}
	}()
	want := make([]map[string]int, 6) // per caller: its topics and their sizes; 0 = unknown, -1 = gone
	var callers sync.WaitGroup
	for n := range want {
		want[n] = map[string]int{}
		callers.Add(1)
		go func() {
			defer callers.Done()
			rnd := rand.New(rand.NewPCG(seed, uint64(n)+100))
			for i := range 12 {
				callOnce(t, nodes, rnd, want[n], fmt.Sprintf("t-%d-%d", n, rnd.IntN(4)), i)
				answers <- struct{}{}
			}
		}()
	}
	callers.Wait()
	close(answers)
	chaos.Wait()
	for _, l := range links {
		l.set(nil, nil)
	}
	checkConverged(t, store, nodes, want)
}

func mustGet(t *testing.T, s metadata.Store, key string) (found []metadata.KV) {
	kvs, _, err := s.Get(context.Background(), key)
	if err != nil {
		t.Error(err)
	}
	for _, kv := range kvs {
		if kv.Key == key {
			found = append(found, kv)
		}
	}
	return found
}

// callOnce makes one change of one topic through the controller and notes what
// is now known of it.
func callOnce(t *testing.T, nodes []*Controller, rnd *rand.Rand, want map[string]int, name string, i int) {
	ctx := testContext(t)
	size, known := want[name]
	for {
		node := nodes[rnd.IntN(len(nodes))]
		var r metadata.TopicResult
		now := -1
		switch {
		case !known || size == -1:
			now = 1 + rnd.IntN(150)
			r = node.CreateTopics(ctx, []metadata.NewTopic{{Name: name, Partitions: int32(now), ReplicationFactor: 1}}, false)[0]
		case i%2 == 0:
			now = size + 1
			r = node.CreatePartitions(ctx, []metadata.NewPartitions{{Topic: name, Count: int32(now)}}, false)[0]
		default:
			r = node.DeleteTopics(ctx, []metadata.TopicRef{{Name: name}})[0]
		}
		switch {
		case r.Err == nil:
			want[name] = now
			t := node.Image().Topic(name)
			if now > 0 && (t == nil || len(t.Partitions) != now) || now < 0 && t != nil {
				// Only this caller changes this topic.
				panic(fmt.Sprintf("%s acknowledged with %d partitions, the image has %v", name, now, t))
			}
			return
		case errors.Is(r.Err, kerr.NotController), errors.Is(r.Err, kerr.InvalidReplicationFactor):
			time.Sleep(time.Millisecond) // as a client that looks for the controller, or waits for brokers
		default:
			t.Errorf("%s: %+v", name, r)
			return
		}
	}
}

func checkConverged(t *testing.T, store *memstore.Store, nodes []*Controller, want []map[string]int) {
	topics := 0
	for _, c := range nodes {
		eventually(t, c, "all up", func(img *metadata.Image) bool {
			for id := int32(1); id <= 3; id++ {
				if !img.Broker(id).Active() {
					return false
				}
			}
			if img.ControllerID() < 0 || len(metadata.Orphans(img)) > 0 {
				return false
			}
			for _, topic := range img.Topics() {
				for _, p := range topic.Partitions {
					if p.Leader == metadata.NoLeader {
						return false
					}
				}
			}
			return true
		})
	}
	_, revision, err := store.Get(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, nodes[0], "the last change", func(img *metadata.Image) bool { return img.Revision >= revision })
	img := nodes[0].Image()
	for _, mine := range want {
		for name, size := range mine {
			topic := img.Topic(name)
			if size > 0 {
				topics++
			}
			if size > 0 && (topic == nil || len(topic.Partitions) != size) || size < 0 && topic != nil {
				t.Errorf("%s: want %d partitions, is %v", name, size, topic != nil)
			}
		}
	}
	if n := img.TopicCount(); n != topics {
		t.Errorf("%d topics, %d were acknowledged", n, topics)
	}
	parts := 0
	for _, topic := range img.Topics() {
		parts += len(topic.Partitions)
	}
	if kvs, _, _ := store.Get(t.Context(), "parts/"); len(kvs) != parts {
		t.Errorf("%d partitions in the store, %d in topics", len(kvs), parts)
	}
}

// TestControllerHangs: a request that went to a controller which does not answer
// any more, and keeps its connections, is answered by its successor.
func TestControllerHangs(t *testing.T) {
	store := memstore.New()
	a := start(t, Options{Store: store, NodeID: 1})
	b := start(t, Options{Store: store, NodeID: 2})
	asked := make(chan struct{})
	c := start(t, Options{Store: store, NodeID: 3, BrokerOnly: true, Call: func(ctx context.Context, node int32, message []byte) ([]byte, error) {
		if node == 2 {
			return b.Answer(ctx, message), nil
		}
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	go func() {
		<-asked
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
	defer cancel()
	if r := c.CreateTopics(ctx, []metadata.NewTopic{{Name: "t", Partitions: 1, ReplicationFactor: 1}}, false); r[0].Err != nil {
		t.Error(r[0].Err)
	}
}

// TestAlterPartition: the leader's change is in the image when it is answered;
// a broker that registers anew between decision and write stays out.
func TestAlterPartition(t *testing.T) {
	store := memstore.New()
	linked := &link{Store: store}
	a := start(t, Options{Store: linked, NodeID: 1})
	b := start(t, Options{Store: store, NodeID: 2})
	r := a.CreateTopics(testContext(t), []metadata.NewTopic{{Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{1, 2}}}}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	change := func(ids ...int32) []metadata.ISRChange {
		img := a.Image()
		p := img.Topic("t").Partitions[0]
		ch := metadata.ISRChange{Topic: img.Topic("t").ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
		for _, id := range ids {
			ch.NewISR = append(ch.NewISR, metadata.ISRMember{BrokerID: id, BrokerEpoch: img.Broker(id).Epoch})
		}
		return []metadata.ISRChange{ch}
	}
	if r := a.AlterPartition(testContext(t), change(1)); r[0].Err != nil || len(a.Image().Topic("t").Partitions[0].ISR) != 1 {
		t.Fatalf("%+v, image %+v", r, a.Image().Topic("t").Partitions[0])
	}
	joining := change(1, 2)
	// Broker 2 is replaced by a new process right before the write.
	var once sync.Once
	linked.set(func(txn metadata.Txn) error {
		for _, cmp := range txn.If {
			if cmp.Key == "brokers/epoch/2" {
				once.Do(func() {
					if err := b.Close(); err != nil {
						t.Error(err)
					}
					img := b.Image()
					_, err := store.Txn(testContext(t), metadata.TxnOf(nil, metadata.Register(img, metadata.Registration{ID: 2, Incarnation: newID()})))
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		return nil
	}, nil)
	if r := a.AlterPartition(testContext(t), joining); !errors.Is(r[0].Err, kerr.IneligibleReplica) && !errors.Is(r[0].Err, kerr.InvalidUpdateVersion) {
		t.Errorf("%+v", r)
	}
	if p := a.Image().Topic("t").Partitions[0]; len(p.ISR) != 1 {
		t.Errorf("%+v", p)
	}
}

// TestRebalance: a broker that comes back leads again what it is preferred for.
func TestRebalance(t *testing.T) {
	a := comesBack(t, Options{RebalanceInterval: 20 * time.Millisecond})
	eventually(t, a, "the preferred leader", func(img *metadata.Image) bool { return img.Topic("t").Partitions[0].Leader == 2 })
}

// TestGiveBack: only brokers that may get their partitions back do.
func TestGiveBack(t *testing.T) {
	img := comesBack(t, Options{}).Image()
	for id, want := range map[int32]int{1: 0, 2: 1} {
		if plans := metadata.GiveBack(img, func(to int32) bool { return to == id }); len(plans) != want {
			t.Errorf("%d plans for broker %d", len(plans), id)
		}
	}
}

// comesBack returns the controller, on node 1, of a cluster with a topic that node 2 is
// to lead and node 1 does, because 2 was down; by now it is up and in sync again.
func comesBack(t *testing.T, o Options) *Controller {
	t.Helper()
	o.Store, o.NodeID = memstore.New(), 1
	a := start(t, o)
	b := start(t, Options{Store: o.Store, NodeID: 2})
	r := a.CreateTopics(testContext(t), []metadata.NewTopic{{Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{2, 1}}}}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, a, "failover", func(img *metadata.Image) bool { return img.Topic("t").Partitions[0].Leader == 1 })
	start(t, Options{Store: o.Store, NodeID: 2, PreviousBrokerEpoch: b.BrokerEpoch()})
	p := a.Image().Topic("t").Partitions[0]
	back := a.AlterPartition(testContext(t), []metadata.ISRChange{{
		Topic: a.Image().Topic("t").ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
		NewISR: []metadata.ISRMember{{BrokerID: 1, BrokerEpoch: -1}, {BrokerID: 2, BrokerEpoch: -1}},
	}})
	if back[0].Err != nil {
		t.Fatal(back)
	}
	return a
}

// TestSmallerMinISR: what it makes of eligible leaders is in the store with it.
func TestSmallerMinISR(t *testing.T) {
	store := memstore.New()
	l := &link{Store: store}
	a := start(t, Options{Store: l, NodeID: 1})
	b := start(t, Options{Store: store, NodeID: 2, BrokerOnly: true})
	two, one := "2", "1"
	r := a.CreateTopics(testContext(t), []metadata.NewTopic{{
		Name: "t", Partitions: -1, ReplicationFactor: -1, Configs: map[string]*string{"min.insync.replicas": &two},
		Assignment: []metadata.PartitionAssignment{{Replicas: []int32{1, 2}}},
	}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, a, "an eligible leader", func(img *metadata.Image) bool { return len(img.Topic("t").Partitions[0].ELR) == 1 })
	var with int
	l.set(func(txn metadata.Txn) error {
		if hasKey(txn, "topics/t") {
			with = len(txn.Then) - 1 // without the decree's own
		}
		return nil
	}, nil)
	altered := a.AlterConfigs(testContext(t), []metadata.ConfigAlteration{{
		Resource: metadata.ConfigResource{Type: metadata.ConfigTopic, Name: "t"},
		Ops:      []metadata.ConfigOp{{Key: "min.insync.replicas", Value: &one}},
	}}, false)
	if altered[0].Err != nil || with != 2 || len(a.Image().Topic("t").Partitions[0].ELR) != 0 {
		t.Errorf("%+v, %d changes, %+v", altered, with, a.Image().Topic("t").Partitions[0])
	}
}
