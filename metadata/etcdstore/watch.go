package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// maxPending bounds the events that wait to be taken; whole revisions
	// may go over.
	maxPending = 10000
	// reopenDelay is the pause before a watch that the servers ended is
	// opened again.
	reopenDelay = 100 * time.Millisecond
)

// watcher owns a goroutine, which pumps etcd's events into pending.
type watcher struct {
	store  *Store
	prefix string
	ctx    context.Context
	cancel context.CancelFunc
	ready  chan struct{}
	ended  chan struct{}
	// room holds a token when pending was emptied.
	room chan struct{}

	mu      sync.Mutex
	pending []metadata.Event
	err     error
}

// Watch implements metadata.Store.
func (s *Store) Watch(ctx context.Context, prefix string, fromRevision int64) metadata.Watcher {
	w := &watcher{
		store: s, prefix: s.prefix + prefix,
		ready: make(chan struct{}, 1), room: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	// A member that lost its quorum must say so instead of falling silent.
	w.ctx, w.cancel = context.WithCancel(clientv3.WithRequireLeader(ctx))
	go w.pump(fromRevision)
	return w
}

// Ready implements metadata.Watcher.
func (w *watcher) Ready() <-chan struct{} { return w.ready }

// Take implements metadata.Watcher.
func (w *watcher) Take() ([]metadata.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.pending
	w.pending = nil
	offer(w.room)
	if len(events) > 0 {
		return events, nil
	}
	return nil, w.err
}

// Close implements metadata.Watcher.
func (w *watcher) Close() {
	w.cancel()
	<-w.ended
}

func offer(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// pump follows etcd until the watch is closed or cannot go on. next is the
// first revision that was not delivered.
func (w *watcher) pump(next int64) {
	defer close(w.ended)
	for {
		var err error
		next, err = w.stream(next)
		switch {
		case w.ctx.Err() != nil:
			w.end(w.ctx.Err())
			return
		case w.store.client.Ctx().Err() != nil:
			w.end(metadata.ErrClosed)
			return
		case errors.Is(err, metadata.ErrCompacted):
			w.end(err)
			return
		}
		w.store.log.Warn().Err(err).Int64("revision", next).Msg("etcd watch ended, watching again")
		select {
		case <-time.After(reopenDelay):
		case <-w.ctx.Done():
		}
	}
}

func (w *watcher) end(err error) {
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
	offer(w.ready)
}

// stream opens one watch and delivers from it until it ends.
func (w *watcher) stream(next int64) (int64, error) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	// Fragments are put together by the client, so that a revision of any
	// size arrives whole.
	ch := w.store.client.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(next), clientv3.WithFragment())
	for resp := range ch {
		if resp.CompactRevision != 0 {
			return next, fmt.Errorf("%w: at %d, asked for %d", metadata.ErrCompacted, resp.CompactRevision, next)
		}
		if err := resp.Err(); err != nil {
			if errors.Is(err, rpctypes.ErrCompacted) {
				err = metadata.ErrCompacted
			}
			return next, err
		}
		events := w.events(resp, next)
		if len(events) == 0 {
			continue
		}
		next = events[len(events)-1].ModRevision + 1
		if !w.deliver(events) {
			return next, w.ctx.Err()
		}
	}
	return next, errors.New("etcd: watch stream closed")
}

// events translates what is new in a response. A server that repeats what it
// sent before must not turn time back.
func (w *watcher) events(resp clientv3.WatchResponse, next int64) []metadata.Event {
	events := make([]metadata.Event, 0, len(resp.Events))
	for _, e := range resp.Events {
		if e.Kv.ModRevision < next {
			continue
		}
		kv := metadata.KV{Key: string(e.Kv.Key[len(w.store.prefix):]), ModRevision: e.Kv.ModRevision}
		deleted := e.Type == clientv3.EventTypeDelete
		if !deleted {
			kv.Value, kv.CreateRevision, kv.Lease = e.Kv.Value, e.Kv.CreateRevision, metadata.LeaseID(e.Kv.Lease)
		}
		events = append(events, metadata.Event{KV: kv, Deleted: deleted})
	}
	return events
}

// deliver waits for room and adds events; false if the watch ended first.
func (w *watcher) deliver(events []metadata.Event) bool {
	for {
		w.mu.Lock()
		if len(w.pending) < maxPending {
			w.pending = append(w.pending, events...)
			w.mu.Unlock()
			offer(w.ready)
			return true
		}
		w.mu.Unlock()
		select {
		case <-w.room:
		case <-w.ctx.Done():
			return false
		}
	}
}
