package controller

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start starts a controller of node 1 that ends with the test.
func start(t testing.TB, opts Options) *Controller {
	t.Helper()
	if opts.NodeID == 0 {
		opts.NodeID = 1
	}
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func create(t testing.TB, c *Controller, name string, partitions int32) metadata.TopicResult {
	t.Helper()
	r := c.CreateTopics(testContext(t), []metadata.NewTopic{{Name: name, Partitions: partitions, ReplicationFactor: 1}}, false)
	if len(r) != 1 || r[0].Err != nil {
		t.Fatalf("create %s: %+v", name, r)
	}
	return r[0]
}

func TestTopicIsUsableWhenAcknowledged(t *testing.T) {
	c, err := New(Options{Store: memstore.New(), NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	c.Subscribe(func(d *metadata.Delta, img *metadata.Image) {
		mu.Lock()
		defer mu.Unlock()
		for _, td := range d.Topics {
			if td.New == nil {
				delete(seen, td.Old.Name)
				continue
			}
			seen[td.New.Name] += len(td.Partitions)
			for _, n := range td.Partitions {
				if p := td.New.Partitions[n]; p.Leader != 1 || len(p.OfflineReplicas) > 0 {
					t.Errorf("%s-%d: %+v", td.New.Name, n, p)
				}
			}
		}
	})
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b := c.Image().Broker(1); b == nil || b.Fenced || b.Epoch == 0 || b.Epoch != c.BrokerEpoch() {
		t.Fatalf("broker %+v, epoch %d", b, c.BrokerEpoch())
	}
	// One small, one that no transaction takes at once.
	for name, n := range map[string]int32{"small": 3, "large": 1000} {
		r := create(t, c, name, n)
		topic := c.Image().TopicByID(r.ID)
		if topic == nil || len(topic.Partitions) != int(n) {
			t.Fatalf("topic %+v", topic)
		}
		mu.Lock()
		if seen[name] != int(n) {
			t.Errorf("%s: the subscriber saw %d partitions of %d", name, seen[name], n)
		}
		mu.Unlock()
	}
	r := c.DeleteTopics(testContext(t), []metadata.TopicRef{{Name: "small"}, {ID: c.Image().Topic("large").ID}, {Name: "none"}})
	if r[0].Err != nil || r[1].Err != nil || !errors.Is(r[2].Err, kerr.UnknownTopicOrPartition) {
		t.Fatalf("%+v", r)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 0 || c.Image().TopicCount() != 0 {
		t.Errorf("left: %v", seen)
	}
}

func TestParallelCreation(t *testing.T) {
	store := memstore.New()
	c := start(t, Options{Store: store})
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			create(t, c, fmt.Sprintf("topic-%d", i), 2)
			if c.Image().Topic(fmt.Sprintf("topic-%d", i)) == nil {
				t.Errorf("topic-%d acknowledged, but not there", i)
			}
		}()
	}
	wg.Wait()
	if n := c.Image().TopicCount(); n != 500 {
		t.Errorf("%d topics", n)
	}
}

func TestProducerIDBlocks(t *testing.T) {
	store := memstore.New()
	a, b := start(t, Options{Store: store, NodeID: 1}), start(t, Options{Store: store, NodeID: 2})
	var mu sync.Mutex
	taken := map[int64]bool{}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			first, n, err := []*Controller{a, b}[i%2].AllocateProducerIDs(testContext(t))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || n != 1000 || first%1000 != 0 || taken[first] {
				t.Errorf("block %d, %d, %v, taken before: %v", first, n, err, taken[first])
			}
			taken[first] = true
		}()
	}
	wg.Wait()
}

// A node that closes must not leave its session to run out by time: the end of
// its keeping alive, which closing causes, is not the loss of a session.
func TestCloseGivesUpTheSession(t *testing.T) {
	store := memstore.New()
	for i := range int32(300) {
		c, err := New(Options{Store: store, NodeID: i})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		c.signal()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		live, _, err := store.Get(testContext(t), "brokers/live/")
		if err != nil {
			t.Fatal(err)
		}
		if len(live) > 0 {
			t.Fatalf("node %d closed, its sign of life stays", i)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// When a node that was killed has started again, its partitions have a leader:
// whoever was told that it serves may use them at once.
func TestLeadersWhenStarted(t *testing.T) {
	store := memstore.New()
	defer store.Close()
	for i := range 30 {
		c, err := New(Options{Store: store, NodeID: 1, Exclusive: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			create(t, c, "t", 50)
		}
		for n, p := range c.Image().Topic("t").Partitions {
			if p.Leader != 1 {
				t.Fatalf("start %d: partition %d: %+v", i, n, p)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyControllers: hundreds of memory-backed controllers fit in a process.
func TestManyControllers(t *testing.T) {
	const many = 300
	before := runtime.NumGoroutine()
	var all []*Controller
	for range many {
		c, err := New(Options{Store: memstore.New(), NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if n := runtime.NumGoroutine() - before; n > 3*many+10 {
		t.Errorf("%d controllers run %d goroutines", many, n)
	}
	for _, c := range all {
		create(t, c, "t", 3)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConfigs: an altered config is in the image when it is answered, and one
// that elections depend on has its effect on partitions.
func TestConfigs(t *testing.T) {
	c := start(t, Options{Store: memstore.New(), Rules: metadata.ConfigRules{
		Validate: func(_ metadata.ConfigResource, configs map[string]string, _ []string) error {
			if configs["bad"] != "" {
				return errors.New("bad is bad")
			}
			return nil
		},
	}})
	create(t, c, "t", 1)
	topic := metadata.ConfigResource{Type: metadata.ConfigTopic, Name: "t"}
	group := metadata.ConfigResource{Type: metadata.ConfigGroup, Name: "g"}
	value := "1"
	set := func(r metadata.ConfigResource, key string) metadata.ConfigAlteration {
		return metadata.ConfigAlteration{Resource: r, Ops: []metadata.ConfigOp{{Key: key, Value: &value}}}
	}
	r := c.AlterConfigs(testContext(t), []metadata.ConfigAlteration{set(topic, "a"), set(group, "b")}, false)
	if r[0].Err != nil || r[1].Err != nil {
		t.Fatalf("%+v", r)
	}
	if c.Image().Topic("t").Configs["a"] != "1" || c.Image().Config(topic)["a"] != "1" || c.Image().Config(group)["b"] != "1" {
		t.Error("acknowledged, but not in the image")
	}
	if r := c.AlterConfigs(testContext(t), []metadata.ConfigAlteration{set(topic, "bad")}, false); !errors.Is(r[0].Err, kerr.InvalidConfig) || r[0].Message != "bad is bad" {
		t.Errorf("%+v", r)
	}
	revision := c.Image().Revision
	for _, validateOnly := range []bool{true, false} {
		if r := c.AlterConfigs(testContext(t), []metadata.ConfigAlteration{set(topic, "a")}, validateOnly); r[0].Err != nil {
			t.Errorf("%+v", r)
		}
	}
	if r := c.AlterConfigs(testContext(t), []metadata.ConfigAlteration{set(topic, "c")}, true); r[0].Err != nil {
		t.Errorf("%+v", r)
	}
	if c.Image().Revision != revision {
		t.Error("validating, or changing nothing, wrote something")
	}
	// Too large for any transaction: refused, and others go on.
	huge := strings.Repeat("x", 2<<20)
	big := set(topic, "a")
	big.Ops[0].Value = &huge
	if r := c.AlterConfigs(testContext(t), []metadata.ConfigAlteration{big}, false); !errors.Is(r[0].Err, kerr.PolicyViolation) {
		t.Errorf("%v", r[0].Err)
	}
	create(t, c, "u", 1)
}

// TestCloseFailsWaitingRequests: nobody hangs on a controller that is gone, and
// a request ends with its context.
func TestCloseFailsWaitingRequests(t *testing.T) {
	l := &link{Store: memstore.New()}
	c := start(t, Options{Store: l})
	l.set(cut, nil)
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	topic := []metadata.NewTopic{{Name: "t", Partitions: 1, ReplicationFactor: 1}}
	if r := c.CreateTopics(ctx, topic, false); !errors.Is(r[0].Err, kerr.RequestTimedOut) {
		t.Errorf("%+v", r)
	}
	answer := make(chan metadata.TopicResult)
	go func() { answer <- c.CreateTopics(testContext(t), topic, false)[0] }()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-answer; !errors.Is(r.Err, kerr.BrokerNotAvailable) {
		t.Errorf("%+v", r)
	}
	if r := c.CreateTopics(testContext(t), topic, false); !errors.Is(r[0].Err, kerr.BrokerNotAvailable) {
		t.Errorf("%+v", r)
	}
}

// TestDeletionMeetsChangeOfPartition: a topic is deleted while a change of one of
// its partitions waits too. A transaction does not take both, so they must not
// be decided on together, or no request is answered until one of them gives up.
func TestDeletionMeetsChangeOfPartition(t *testing.T) {
	store := memstore.New()
	a := start(t, Options{Store: store, NodeID: 1})
	start(t, Options{Store: store, NodeID: 2})
	create(t, a, "t", 2)
	img := a.Image()
	to := []int32{3 - img.Topic("t").Partitions[0].Leader}
	reassign := func(img *metadata.Image, _ bool) ([]metadata.Plan, bool) {
		_, plans := metadata.Reassign(img, &a.env, []metadata.Reassignment{{Topic: "t", Partition: 0, Replicas: to}}, true)
		return plans, true
	}
	remove := func(img *metadata.Image, retried bool) ([]metadata.Plan, bool) {
		d := metadata.DeleteTopics(img, []metadata.TopicRef{{Name: "t"}}, retried)
		return []metadata.Plan{d[0].Plan}, true
	}
	queue := []*request{{decide: reassign}, {decide: remove}}
	for len(queue) > 0 {
		round, rest, plans, err := a.decideRound(img, queue)
		if err != nil || len(round) == 0 {
			t.Fatalf("a round of %d: %v", len(round), err)
		}
		var changes []metadata.Change
		for _, p := range plans {
			if p.Empty() {
				t.Fatal("nothing to do")
			}
			changes = append(append(changes, p.Stage...), p.Commit...)
		}
		if err := metadata.CheckTxn(metadata.TxnOf(nil, changes), store.Limits()); err != nil {
			t.Error(err)
		}
		queue = rest
	}
}
