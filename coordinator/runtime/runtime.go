package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Options configures a [Runtime].
type Options[S Shard] struct {
	// Name of the coordinator, for logs: "group", "txn".
	Name string
	// NewShard returns the empty state of a partition; writable is that of its
	// PartitionLog.
	NewShard func(partition int32, writable func() error) S
	// Now is the clock.
	Now func() time.Time
	Log zerolog.Logger
	// LoadBufferBytes is how much of the log one read takes while loading.
	LoadBufferBytes int
	// OnLoaded is told how long a load took and how many records it replayed.
	OnLoaded func(partition int32, took time.Duration, records int64)
	// OnEffect is handed the effects of results whose records are committed,
	// with the leader epoch of the shard. It is called on the shard's goroutine
	// and must not block.
	OnEffect func(partition, epoch int32, effect any)
}

// Runtime holds the shards of one coordinator on this broker.
type Runtime[S Shard] struct {
	o Options[S]

	mu     sync.Mutex
	closed bool
	shards map[int32]*loop[S]
	wg     sync.WaitGroup
}

// New returns a runtime without shards; [Runtime.Elected] adds them.
func New[S Shard](o Options[S]) (*Runtime[S], error) {
	if o.NewShard == nil || o.Now == nil {
		return nil, errors.New("coordinator runtime: NewShard and Now are needed")
	}
	if o.LoadBufferBytes <= 0 {
		return nil, errors.New("coordinator runtime: LoadBufferBytes must be above zero")
	}
	return &Runtime[S]{o: o, shards: make(map[int32]*loop[S])}, nil
}

// Elected starts the shard of a partition that this broker now leads at the
// given epoch. An older shard of the partition is closed first; an older epoch
// is ignored. It returns at once: requests are answered with
// COORDINATOR_LOAD_IN_PROGRESS until the log is replayed.
func (r *Runtime[S]) Elected(partition, epoch int32, log PartitionLog) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if old := r.shards[partition]; old != nil {
		if old.epoch >= epoch {
			return
		}
		old.stop()
	}
	l := newLoop(&r.o, partition, epoch, log)
	r.shards[partition] = l
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		l.run()
	}()
}

// Resigned closes the shard of a partition that this broker no longer leads.
// An epoch below the shard's is ignored: it is news about the past.
func (r *Runtime[S]) Resigned(partition, epoch int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.shards[partition]; l != nil && l.epoch <= epoch {
		l.stop()
		delete(r.shards, partition)
	}
}

// Close stops all shards and waits for their goroutines. Callers still waiting
// get NOT_COORDINATOR.
func (r *Runtime[S]) Close() {
	r.mu.Lock()
	r.closed = true
	for p, l := range r.shards {
		l.stop()
		delete(r.shards, p)
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// Partitions lists the partitions whose shards this broker runs and whether
// each has finished loading.
func (r *Runtime[S]) Partitions() map[int32]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[int32]bool, len(r.shards))
	for p, l := range r.shards {
		out[p] = l.loaded.Load()
	}
	return out
}

// Counts are how many partitions of a coordinator's topic this broker has in
// each condition.
type Counts struct {
	// Loading shards replay their log, Active ones serve, Failed ones could not
	// be loaded.
	Loading, Active, Failed int
}

// Counts tells how the shards are.
func (r *Runtime[S]) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	var c Counts
	for _, l := range r.shards {
		switch {
		case l.loaded.Load():
			c.Active++
		case l.isStopped(): // by itself: others are taken out
			c.Failed++
		default:
			c.Loading++
		}
	}
	return c
}

// Handler is run on a shard's goroutine. The ticket stands for the caller: the
// Result answers it at once, or a later one does.
type Handler[S Shard] func(s S, now time.Time, t Ticket) Result

// Call runs a handler on a partition's shard and returns the response that
// answers its ticket. It ends early with the context's error, in which case
// what the handler wrote stays written.
//
// Errors: NOT_COORDINATOR (not led here, or no longer),
// COORDINATOR_LOAD_IN_PROGRESS, MESSAGE_TOO_LARGE, what Append answered, or an
// error that the handler put into its reply.
func (r *Runtime[S]) Call(ctx context.Context, partition int32, h Handler[S]) (any, error) {
	r.mu.Lock()
	l := r.shards[partition]
	r.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%s coordinator, partition %d: %w", r.o.Name, partition, kerr.NotCoordinator)
	}
	return l.call(ctx, h)
}
