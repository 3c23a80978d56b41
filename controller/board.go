package controller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gregor-broker/gregor/metadata"
)

var errClosed = errors.New("controller: closed")

// board holds an image that one goroutine replaces and any others wait for.
type board struct {
	img atomic.Pointer[metadata.Image]
	// closed ends all waiting.
	closed context.Context

	mu      sync.Mutex
	waiters []*waiter
}

// waiter is somebody waiting until the image meets a condition.
type waiter struct {
	done func(*metadata.Image) bool
	ch   chan struct{}
}

func newBoard(closed context.Context) *board {
	b := &board{closed: closed}
	b.img.Store(metadata.Empty())
	return b
}

func (b *board) load() *metadata.Image { return b.img.Load() }

// set replaces the image and wakes those who waited for what it is.
func (b *board) set(img *metadata.Image) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.img.Store(img)
	b.waiters = slices.DeleteFunc(b.waiters, func(w *waiter) bool {
		if !w.done(img) {
			return false
		}
		close(w.ch)
		return true
	})
}

// await returns when the image meets a condition, which is asked on the goroutine
// that sets images.
func (b *board) await(ctx context.Context, done func(*metadata.Image) bool) error {
	w := &waiter{done: done, ch: make(chan struct{})}
	b.mu.Lock()
	if done(b.load()) {
		b.mu.Unlock()
		return nil
	}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	select {
	case <-w.ch:
		return nil
	case <-ctx.Done():
		b.drop(w)
		return ctx.Err()
	case <-b.closed.Done():
		b.drop(w)
		return errClosed
	}
}

// awaitRevision returns when the image is of at least a revision.
func (b *board) awaitRevision(ctx context.Context, revision int64) error {
	return b.await(ctx, func(img *metadata.Image) bool { return img.Revision >= revision })
}

func (b *board) drop(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiters = slices.DeleteFunc(b.waiters, func(other *waiter) bool { return other == w })
}
