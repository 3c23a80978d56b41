package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/twmb/franz-go/pkg/kerr"
)

// way connects controllers of one process with each other.
type way struct {
	mu    sync.Mutex
	nodes map[int32]*Controller
	// hung nodes answer nobody.
	hung map[int32]bool
}

func (w *way) call(ctx context.Context, node int32, message []byte) ([]byte, error) {
	w.mu.Lock()
	c, hung := w.nodes[node], w.hung[node]
	w.mu.Unlock()
	if c == nil || hung {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	answer := c.Answer(ctx, message)
	return answer, ctx.Err()
}

// threeBrokers are brokers 1 to 3, of which 1 is the controller, with a topic
// "t" of one partition on all of them; more changes their options.
func threeBrokers(t *testing.T, subscribe map[int32]Subscriber, more func(*Options)) (*way, *memstore.Store) {
	t.Helper()
	store := memstore.New()
	w := &way{nodes: map[int32]*Controller{}, hung: map[int32]bool{}}
	for id := int32(1); id <= 3; id++ {
		o := Options{Store: store, NodeID: id, Call: w.call}
		if more != nil {
			more(&o)
		}
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if s := subscribe[id]; s != nil {
			c.Subscribe(s)
		}
		w.mu.Lock()
		w.nodes[id] = c
		w.mu.Unlock()
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return w, store
}

func replicated(t *testing.T, c *Controller, replicas ...int32) {
	t.Helper()
	r := c.CreateTopics(testContext(t), []metadata.NewTopic{{
		Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: replicas}},
	}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
}

// TestShutdownWaitsForTheOthers: rule 19. A broker that stops goes when all others
// that are up have applied that it leads nothing any more, and not before.
func TestShutdownWaitsForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		slow := func(_ *metadata.Delta, img *metadata.Image) {
			if topic := img.Topic("t"); topic != nil && topic.Partitions[0].Leader != 2 {
				<-release
			}
		}
		w, _ := threeBrokers(t, map[int32]Subscriber{3: slow}, nil)
		replicated(t, w.nodes[1], 2, 1, 3)
		stopped := make(chan error, 1)
		go func() { stopped <- w.nodes[2].ControlledShutdown(testContext(t)) }()
		synctest.Wait()
		if p := w.nodes[2].Image().Topic("t").Partitions[0]; p.Leader != 1 {
			t.Fatalf("nothing was handed over: %+v", p)
		}
		select {
		case err := <-stopped:
			t.Errorf("a broker stopped (%v) before another knew who leads", err)
			stopped <- nil
		default:
		}
		close(release)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestShutdownDoesNotWaitForTheDead: who is not up any more holds up nobody's
// shutdown; before it is found to be, no longer than appliedLimit.
func TestShutdownDoesNotWaitForTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := threeBrokers(t, nil, nil)
		replicated(t, w.nodes[1], 2, 1, 3)
		w.mu.Lock()
		w.hung[3] = true
		w.mu.Unlock()
		began := time.Now()
		if err := w.nodes[2].ControlledShutdown(t.Context()); err != nil || time.Since(began) != appliedLimit {
			t.Errorf("stopped after %v (%v) without a word of another broker that is up", time.Since(began), err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- w.nodes[2].ControlledShutdown(testContext(t)) }()
		synctest.Wait()
		if err := w.nodes[3].Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// silentStore is a store of which the majority can be taken away: then nothing that
// it is asked is answered.
type silentStore struct {
	metadata.Store
	silent atomic.Bool
}

func (s *silentStore) reach(ctx context.Context) error {
	if s.silent.Load() {
		<-ctx.Done() // also when the majority is back: what it was asked is lost
	}
	return ctx.Err()
}

func (s *silentStore) Get(ctx context.Context, prefix string) ([]metadata.KV, int64, error) {
	if err := s.reach(ctx); err != nil {
		return nil, 0, err
	}
	return s.Store.Get(ctx, prefix)
}

func (s *silentStore) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if err := s.reach(ctx); err != nil {
		return metadata.TxnResult{}, err
	}
	return s.Store.Txn(ctx, txn)
}

// shutDownWithSilence ends broker 2 of three on stores of their own; what happens to
// them meanwhile is the caller's.
func shutDownWithSilence(t *testing.T, meanwhile func(stores []*silentStore)) (took time.Duration, err error) {
	var stores []*silentStore
	w, _ := threeBrokers(t, nil, func(o *Options) {
		s := &silentStore{Store: o.Store}
		stores, o.Store = append(stores, s), s
	})
	replicated(t, w.nodes[1], 2, 1, 3)
	began := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); meanwhile(stores) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = w.nodes[2].ControlledShutdown(ctx)
	took = time.Since(began)
	<-done
	for _, s := range stores { // for the ends of the controllers
		s.silent.Store(false)
	}
	return took, err
}

// TestShutdownWithoutAMajority: a broker that stops does not wait for a handover that
// nobody can decide on any more, whether the store was gone before or goes in between.
func TestShutdownWithoutAMajority(t *testing.T) {
	for _, at := range []time.Duration{0, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			took, err := shutDownWithSilence(t, func(stores []*silentStore) {
				stores[0].silent.Store(true) // the controller decides on nothing
				time.Sleep(at)
				stores[1].silent.Store(true)
			})
			if !errors.Is(err, errNoStore) || took > at+storeSilence+storeAnswer+2*storeLook {
				t.Errorf("gone after %v: stopped after %v, %v", at, took, err)
			}
		})
	}
}

// TestShutdownWaitsForAnElection: a store that is silent for a moment, as while its
// members elect a leader, does not keep a broker from handing over.
func TestShutdownWaitsForAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took, err := shutDownWithSilence(t, func(stores []*silentStore) {
			for range 3 {
				stores[0].silent.Store(true)
				stores[1].silent.Store(true)
				time.Sleep(storeSilence / 2)
				stores[1].silent.Store(false)
				time.Sleep(storeAnswer + 2*storeLook)
			}
			stores[0].silent.Store(false)
		})
		if err != nil || took < 3*storeSilence/2 {
			t.Errorf("stopped after %v: %v", took, err)
		}
	})
}

// TestAllShutDownTogether: brokers that all stop at once wait for nobody; the last
// leave their partitions without a leader.
func TestAllShutDownTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := threeBrokers(t, nil, nil)
		replicated(t, w.nodes[1], 2, 1, 3)
		began := time.Now()
		var wg sync.WaitGroup
		for id, c := range w.nodes {
			wg.Go(func() {
				if err := c.ControlledShutdown(t.Context()); err != nil {
					t.Errorf("node %d: %v", id, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestAlterPartitionIsAskedAgain: an answer of the controller that does not come holds
// up a leader's change of its in-sync set for AlterPartitionTimeout, and not for
// longer; when the controller is replaced meanwhile its successor is asked at once.
func TestAlterPartitionIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := threeBrokers(t, nil, func(o *Options) { o.BrokerOnly = o.NodeID == 2 })
		leader := w.nodes[2]
		replicated(t, w.nodes[1], 2, 1, 3)
		eventually(t, leader, "the topic", func(img *metadata.Image) bool { return img.Topic("t") != nil })
		without3 := func() metadata.ISRResult {
			img := leader.Image()
			p := img.Topic("t").Partitions[0]
			ch := metadata.ISRChange{Topic: img.Topic("t").ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
			for _, id := range []int32{2, 1} {
				ch.NewISR = append(ch.NewISR, metadata.ISRMember{BrokerID: id, BrokerEpoch: img.Broker(id).Epoch})
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return leader.AlterPartition(ctx, []metadata.ISRChange{ch})[0]
		}
		w.mu.Lock()
		w.hung[1] = true
		w.mu.Unlock()
		began := time.Now()
		if r := without3(); !errors.Is(r.Err, kerr.RequestTimedOut) || time.Since(began) != leader.opts.SessionTimeout/2 {
			t.Errorf("after %v: %+v", time.Since(began), r)
		}
		began = time.Now()
		done := make(chan metadata.ISRResult, 1)
		go func() { done <- without3() }()
		synctest.Wait()
		if err := w.nodes[1].Close(); err != nil {
			t.Fatal(err)
		}
		// The successor has fenced 1, so that the set is another one: what counts is that
		// it answered.
		if r := <-done; errors.Is(r.Err, kerr.RequestTimedOut) || time.Since(began) > 10*remotePause {
			t.Errorf("after %v: %+v", time.Since(began), r)
		}
	})
}

// TestOthersGoOnWithoutWhoHangs: a broker of which a disk hangs takes up nothing of what
// the metadata asks of it. It stays registered, the others go on, and afterwards it
// takes up what came meanwhile.
func TestOthersGoOnWithoutWhoHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var once sync.Once
		end := func() { once.Do(func() { close(release) }) }
		hangs := func(_ *metadata.Delta, img *metadata.Image) {
			if img.Topic("t") != nil {
				<-release
			}
		}
		w, _ := threeBrokers(t, map[int32]Subscriber{2: hangs}, nil)
		defer end()
		replicated(t, w.nodes[1], 2, 1, 3)
		time.Sleep(3 * w.nodes[2].opts.SessionTimeout)
		create(t, w.nodes[1], "u", 1)
		if img := w.nodes[1].Image(); !img.Broker(2).Active() || img.Topic("t").Partitions[0].Leader != 2 {
			t.Errorf("the broker is %+v, the partition %+v", img.Broker(2), img.Topic("t").Partitions[0])
		}
		if img := w.nodes[2].Image(); img.Topic("t") != nil || img.Topic("u") != nil {
			t.Error("the broker published what it did not apply")
		}
		end()
		eventually(t, w.nodes[2], "the topics", func(img *metadata.Image) bool { return img.Topic("t") != nil && img.Topic("u") != nil })
	})
}

// TestAnswersAreBounded: a controller that cannot decide answers before who asked
// has gone, or never said how long it waits.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{Store: memstore.New()}
		c := start(t, Options{Store: l, NodeID: 1})
		release := make(chan struct{})
		l.set(func(metadata.Txn) error { <-release; return nil }, nil)
		const create = `{"name":"CreateTopics","args":{"Topics":[{"Name":"%s","Partitions":1,"ReplicationFactor":1,"ID":[%d,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]}]}%s}`
		for i, c2 := range []struct {
			more string
			wait time.Duration
		}{{`,"timeoutMs":1500`, 1500 * time.Millisecond}, {"", maxAnswerTime}, {`,"timeoutMs":9000000000000000000`, maxAnswerTime}} {
			began := time.Now()
			got := c.Answer(t.Context(), fmt.Appendf(nil, create, fmt.Sprint("t", i), i+1, c2.more))
			if string(got) != `{"code":7}` || time.Since(began) != c2.wait {
				t.Errorf("answered %s after %v", got, time.Since(began))
			}
		}
		close(release)
	})
}

// TestUncleanLeaderIsTheLongest: where an unclean election is permitted or asked
// for, the live replica with the longest log leads, and one that does not answer
// holds up the others for a moment only.
func TestUncleanLeaderIsTheLongest(t *testing.T) {
	for _, forced := range []bool{false, true} {
		t.Run(fmt.Sprint("forced ", forced), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				more := func(o *Options) {
					id := o.NodeID
					o.UncleanLeaderElection = !forced
					o.LogEnds = func(asked []metadata.PartitionID) []ReplicaEnd {
						return slices.Repeat([]ReplicaEnd{{LogEnd: metadata.LogEnd{Epoch: 1, Offset: int64(10 * id)}, Known: true}}, len(asked))
					}
				}
				w, store := threeBrokers(t, nil, more)
				fourth := start(t, Options{Store: store, NodeID: 4, Call: w.call})
				replicated(t, w.nodes[1], 4, 1, 2, 3)
				if r := w.nodes[1].CreateTopics(testContext(t), []metadata.NewTopic{{
					Name: "whole", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{4, 1}}},
				}}, false); r[0].Err != nil {
					t.Fatal(r)
				}
				// 4 is alone in sync, and goes.
				eventually(t, fourth, "the topic", func(img *metadata.Image) bool { return img.Topic("t") != nil })
				img := fourth.Image()
				topic := img.Topic("t")
				p := topic.Partitions[0]
				r := fourth.AlterPartition(testContext(t), []metadata.ISRChange{{
					Topic: topic.ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
					NewISR: []metadata.ISRMember{{BrokerID: 4, BrokerEpoch: fourth.BrokerEpoch()}},
				}})
				if r[0].Err != nil {
					t.Fatal(r)
				}
				w.mu.Lock()
				w.hung[2] = true
				w.mu.Unlock()
				began := time.Now()
				if err := fourth.Close(); err != nil {
					t.Fatal(err)
				}
				eventually(t, w.nodes[1], "a leader that is in sync", func(img *metadata.Image) bool {
					return img.Topic("whole").Partitions[0].Leader == 1
				})
				if waited := time.Since(began); waited >= logEndsTimeout {
					t.Errorf("an election that loses nothing waited %v for what others say of their logs", waited)
				}
				if forced {
					eventually(t, w.nodes[1], "a partition without leader", func(img *metadata.Image) bool {
						return img.Topic("t").Partitions[0].Leader == metadata.NoLeader
					})
					results, err := w.nodes[1].ElectLeaders(testContext(t), metadata.UncleanElection, []metadata.TopicPartitions{{Topic: "t", Partitions: []int32{0}}})
					if err != nil || results[0].Err != nil {
						t.Fatal(results, err)
					}
				}
				eventually(t, w.nodes[1], "the longest log", func(img *metadata.Image) bool {
					return img.Topic("t").Partitions[0].Leader == 3
				})
				elections := int64(0)
				for _, n := range w.nodes {
					elections += n.UncleanElections()
				}
				if elections != 1 {
					t.Errorf("%d unclean elections", elections)
				}
			})
		})
	}
}
