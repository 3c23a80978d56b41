package memstore

import (
	"context"
	"strings"

	"github.com/gregor-broker/gregor/metadata"
)

// watcher is a position in the store's history. It holds no events of its own,
// so that any number of slow watchers costs nothing.
type watcher struct {
	store  *Store
	ctx    context.Context
	prefix string
	next   int64 // first revision not yet taken
	ready  chan struct{}
	stop   func() bool
}

// Watch implements metadata.Store.
func (s *Store) Watch(ctx context.Context, prefix string, fromRevision int64) metadata.Watcher {
	w := &watcher{store: s, ctx: ctx, prefix: prefix, next: fromRevision, ready: make(chan struct{}, 1)}
	w.stop = context.AfterFunc(ctx, w.signal)
	w.signal() // there may be something already
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
	return w
}

func (w *watcher) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Ready implements metadata.Watcher.
func (w *watcher) Ready() <-chan struct{} { return w.ready }

// Take implements metadata.Watcher.
func (w *watcher) Take() ([]metadata.Event, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, metadata.ErrClosed
	}
	if w.next <= s.compacted {
		return nil, metadata.ErrCompacted
	}
	var events []metadata.Event
	history := s.history[s.after(w.next-1):]
	for _, e := range history {
		if len(events) >= maxTake && e.ModRevision != events[len(events)-1].ModRevision {
			return events, nil
		}
		if strings.HasPrefix(e.Key, w.prefix) {
			events = append(events, e)
		}
		w.next = e.ModRevision + 1
	}
	return events, nil
}

// Close implements metadata.Watcher.
func (w *watcher) Close() {
	w.stop()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.watchers, w)
}
