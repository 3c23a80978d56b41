package handler_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/replication"
)

// completions counts the calls of Complete. As long as there are none it says that
// the transaction is pending.
type completions struct {
	mu   sync.Mutex
	n    int
	errs []error // given first
	// then is called after the first completion, before that is answered.
	then func()
}

func (c *completions) Call(_ context.Context, _ int32, h runtime.Handler[*txn.Shard]) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errs) > 0 {
		err := c.errs[0]
		c.errs = c.errs[1:]
		return nil, err
	}
	r := h(txn.NewShard(&txn.Config{}, func() error { return nil }), time.Now(), 1)
	if _, asks := r.Replies[0].Response.(bool); asks {
		return c.n == 0, nil
	}
	c.n++
	if c.n == 1 && c.then != nil {
		c.then()
	}
	return nil, nil
}

func (c *completions) Partitions() map[int32]bool { return nil }

func (c *completions) want(t *testing.T, n int) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n != n {
		t.Fatalf("completed %d times, want %d", c.n, n)
	}
}

// peer answers requests for markers, one after the other.
type peer struct {
	answers chan func(ctx context.Context, req *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error)
}

func (p peer) Request(ctx context.Context, _ int32, req kmsg.Request) (kmsg.Response, error) {
	select {
	case answer := <-p.answers:
		return answer(ctx, req.(*kmsg.WriteTxnMarkersRequest))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func wrote(codes ...int16) func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error) {
	return func(_ context.Context, req *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrWriteTxnMarkersResponse()
		m := kmsg.NewWriteTxnMarkersResponseMarker()
		for i, t := range req.Markers[0].Topics {
			rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			rt.Topic = t.Topic
			rp := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
			rp.Partition, rp.ErrorCode = t.Partitions[0], codes[i]
			rt.Partitions = append(rt.Partitions, rp)
			m.Topics = append(m.Topics, rt)
		}
		resp.Markers = append(resp.Markers, m)
		return resp, nil
	}
}

// elsewhere is an image in which broker 1 leads all partitions of t, and Markers
// are those of broker 9.
func elsewhere(t *testing.T) *metadata.Image {
	l := newLab(t)
	l.create("t", 2, nil)
	l.create(handler.TransactionsTopic, 1, nil)
	return l.controller.Image()
}

func remoteMarkers(img *metadata.Image, p peer, c *completions) *handler.Markers {
	return handler.NewMarkers(handler.MarkersOptions{
		NodeID: 9, Image: func() *metadata.Image { return img }, Transactions: c, Peers: p,
		Now: time.Now, Log: zerolog.Nop(), Timeout: time.Second,
	})
}

func twoMarkers(epoch int16) txn.SendMarkers {
	return txn.SendMarkers{
		TransactionalID: "x", ProducerID: 7, Epoch: epoch, Commit: true, Version: 2,
		Partitions: []txn.TopicPartition{{Topic: "t", Partition: 0}, {Topic: "t", Partition: 1}, {Topic: "gone", Partition: 0}, {Topic: "t", Partition: 2}},
	}
}

func TestMarkersAreTriedUntilAllAreWritten(t *testing.T) {
	img := elsewhere(t)
	synctest.Test(t, func(t *testing.T) {
		p, c := peer{make(chan func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error))}, &completions{errs: []error{kerr.CoordinatorLoadInProgress}}
		m := remoteMarkers(img, p, c)
		defer m.Close()
		m.Send(0, 0, twoMarkers(3))
		p.answers <- func(_ context.Context, req *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error) {
			// Not to what does not exist.
			if got := req.Markers[0]; len(got.Topics) != 2 || got.CoordinatorEpoch != 0 || got.TransactionVersion != 2 || !got.Committed || got.ProducerEpoch != 3 {
				t.Errorf("marker %+v", got)
			}
			return nil, errors.New("connection refused")
		}
		p.answers <- wrote(kerr.NotLeaderForPartition.Code, 0)
		c.want(t, 0)
		p.answers <- func(ctx context.Context, req *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error) {
			if got := req.Markers[0].Topics; len(got) != 1 || got[0].Partitions[0] != 0 {
				t.Errorf("tried again on %+v, only partition 0 is left", got)
			}
			return wrote(kerr.InvalidProducerEpoch.Code)(ctx, req) // it has ended there
		}
		time.Sleep(time.Minute) // of the bubble: the completion is tried again too
		c.want(t, 1)
	})
}

func TestFencedCoordinatorCompletesNothing(t *testing.T) {
	img := elsewhere(t)
	synctest.Test(t, func(t *testing.T) {
		p, c := peer{make(chan func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error))}, &completions{}
		m := remoteMarkers(img, p, c)
		defer m.Close()
		m.Send(0, 0, twoMarkers(3))
		p.answers <- wrote(0, kerr.TransactionCoordinatorFenced.Code)
		time.Sleep(time.Minute)
		c.want(t, 0)
	})
}

// Of a transactional id there is one job: a second one that writes late could
// end the next transaction.
func TestOneMarkerJobForATransactionalID(t *testing.T) {
	img := elsewhere(t)
	synctest.Test(t, func(t *testing.T) {
		p, c := peer{make(chan func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error))}, &completions{}
		m := remoteMarkers(img, p, c)
		defer m.Close()
		var running, most int
		slow := func(ctx context.Context, req *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error) {
			running++
			most = max(most, running)
			<-ctx.Done()
			time.Sleep(time.Second) // until it notices
			running--
			return wrote(0, 0)(ctx, req)
		}
		m.Send(0, 0, twoMarkers(3))
		p.answers <- slow
		m.Send(0, 0, twoMarkers(4))
		p.answers <- slow
		m.Send(0, 0, twoMarkers(5))
		p.answers <- func(ctx context.Context, req *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error) {
			if running != 0 || most != 1 {
				t.Errorf("%d others run, there were up to %d", running, most)
			}
			if got := req.Markers[0].ProducerEpoch; got != 5 {
				t.Errorf("epoch %d", got)
			}
			return wrote(0, 0)(ctx, req)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		c.want(t, 1)
	})
}

// A shard that loads finds a transaction undone which the job of before completes
// before the markers are asked for again: they are not written again, into what may
// be the producer's next transaction by then.
func TestNoMarkersOfWhatIsCompleted(t *testing.T) {
	img := elsewhere(t)
	synctest.Test(t, func(t *testing.T) {
		p, c := peer{make(chan func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error))}, &completions{}
		m := remoteMarkers(img, p, c)
		defer m.Close()
		c.then = func() { m.Send(0, 0, twoMarkers(3)) }
		m.Send(0, 0, twoMarkers(3))
		p.answers <- wrote(0, 0)
		time.Sleep(time.Minute)
		c.want(t, 1)
		if n := m.Pending(); n != 0 {
			t.Fatalf("%d jobs want to write markers of a transaction that is completed", n)
		}
	})
}

// A broker that does not coordinate a transaction any more leaves its markers to who
// does: one that could not be written for long may be of no use to anybody when it
// can, and then end the next transaction of a producer that keeps its epoch.
func TestMarkersEndWithTheCoordinator(t *testing.T) {
	l := newLab(t)
	l.create("t", 2, nil)
	l.create(handler.TransactionsTopic, 2, nil)
	img, moved := l.controller.Image(), l.partition(handler.TransactionsTopic, 0)
	synctest.Test(t, func(t *testing.T) {
		p, c := peer{make(chan func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error))}, &completions{}
		m := remoteMarkers(img, p, c)
		defer m.Close()
		want := func(n int, when string) {
			t.Helper()
			synctest.Wait()
			if got := m.Pending(); got != n {
				t.Fatalf("%s: %d jobs, want %d", when, got, n)
			}
		}
		m.Leadership(replication.LeadershipChange{Partition: moved, Epoch: 0, Leader: true})
		other := twoMarkers(3)
		other.TransactionalID = "of another shard"
		m.Send(1, 0, other)
		m.Send(0, 0, twoMarkers(3))
		want(2, "coordinated here")
		m.Leadership(replication.LeadershipChange{Partition: l.partition("t", 0), Epoch: 1})
		want(2, "another topic moved")
		m.Leadership(replication.LeadershipChange{Partition: moved, Epoch: 1})
		want(1, "moved away")
		m.Send(0, 0, twoMarkers(3))
		want(1, "asked for by the shard that was here")
		m.Leadership(replication.LeadershipChange{Partition: moved, Epoch: 2, Leader: true})
		m.Send(0, 2, twoMarkers(3))
		want(2, "came back")
		m.Leadership(replication.LeadershipChange{Partition: moved, Epoch: 3, Leader: true})
		want(1, "is loaded anew")
		m.Send(0, 3, twoMarkers(3))
		m.Leadership(replication.LeadershipChange{Partition: moved, Epoch: 3, Deleted: true})
		want(1, "deleted")
		m.Leadership(replication.LeadershipChange{Partition: moved, Epoch: 0, Leader: true})
		m.Send(0, 0, twoMarkers(3))
		want(2, "created again")
		c.want(t, 0)
	})
}

// A leader that hangs is given up when others lead its partitions, and not before.
func TestMarkersLeaveALeaderThatHangs(t *testing.T) {
	img := elsewhere(t)
	replaced := labOf(t, labStore(t), controller.Options{NodeID: 3, Exclusive: true}, func(apply controller.Subscriber) controller.Subscriber {
		return apply
	})
	replaced.create("t", 2, nil)
	replaced.create(handler.TransactionsTopic, 1, nil)
	synctest.Test(t, func(t *testing.T) {
		var known atomic.Pointer[metadata.Image]
		known.Store(img)
		p, c := peer{make(chan func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error))}, &completions{}
		m := handler.NewMarkers(handler.MarkersOptions{
			NodeID: 9, Image: known.Load, Transactions: c, Peers: p, Now: time.Now, Log: zerolog.Nop(), Timeout: time.Second,
		})
		defer m.Close()
		m.Send(0, 0, twoMarkers(3))
		hung := make(chan error, 1)
		p.answers <- func(ctx context.Context, _ *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error) {
			<-ctx.Done()
			hung <- ctx.Err()
			return nil, ctx.Err()
		}
		time.Sleep(20 * time.Second)
		if len(hung) > 0 {
			t.Fatal("given up while it leads")
		}
		known.Store(replaced.controller.Image())
		began := time.Now()
		p.answers <- wrote(0, 0)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the new leader was asked after %v", took)
		}
		c.want(t, 1)
	})
}

func TestCloseEndsMarkers(t *testing.T) {
	img := elsewhere(t)
	synctest.Test(t, func(t *testing.T) {
		c := &completions{}
		m := handler.NewMarkers(handler.MarkersOptions{
			NodeID: 9, Image: func() *metadata.Image { return img }, Transactions: c, Now: time.Now, Log: zerolog.Nop(), Timeout: time.Second,
		})
		m.Send(0, 0, twoMarkers(3))
		time.Sleep(time.Hour) // nobody can be reached
		m.Close()
		m.Send(0, 0, twoMarkers(3)) // too late
		c.want(t, 0)
	})
}

// An image that is older than the coordinator says nothing of what was deleted:
// on its grounds a transaction would be completed without its markers.
func TestMarkersWaitForTheCoordinatorsImage(t *testing.T) {
	img := elsewhere(t)
	synctest.Test(t, func(t *testing.T) {
		var known atomic.Pointer[metadata.Image]
		known.Store(metadata.Empty())
		p, c := peer{make(chan func(context.Context, *kmsg.WriteTxnMarkersRequest) (kmsg.Response, error))}, &completions{}
		m := handler.NewMarkers(handler.MarkersOptions{
			NodeID: 9, Image: known.Load, Transactions: c, Peers: p, Now: time.Now, Log: zerolog.Nop(), Timeout: time.Second,
		})
		defer m.Close()
		m.Send(0, 0, twoMarkers(3))
		time.Sleep(time.Minute)
		c.want(t, 0)
		known.Store(img)
		p.answers <- wrote(0, 0)
		c.want(t, 1)
		m.Send(0, 1, twoMarkers(3)) // a coordinator that the image does not know
		time.Sleep(time.Minute)
		c.want(t, 1)
	})
}
