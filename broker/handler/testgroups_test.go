package handler

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
)

// testGroups is a group coordinator of one shard, without a log and with time
// that stands still: no timer goes off.
type testGroups struct {
	mu      sync.Mutex
	s       *group.Shard
	tickets runtime.Ticket
	waiting map[runtime.Ticket]chan any
	parked  chan struct{} // gets a value for each call that has to wait
}

func newTestGroups(image func() *metadata.Image) *testGroups {
	ids := 0
	newID := func() string { ids++; return fmt.Sprintf("%032d", ids) }
	return &testGroups{waiting: make(map[runtime.Ticket]chan any), parked: make(chan struct{}, 10), s: group.NewShard(&group.Config{
		MinSessionTimeout: 6 * time.Second, MaxSessionTimeout: 30 * time.Minute,
		MaxSize: 1 << 30, OffsetMetadataMax: 4096, OffsetsRetention: time.Hour, OffsetsCheckInterval: time.Hour,
		ConsumerMaxSize: 1 << 30, ConsumerAssignors: []string{"uniform", "range"},
		ConsumerSessionTimeout: 45 * time.Second, ConsumerHeartbeatInterval: 5 * time.Second,
		ConsumerAssignmentInterval: func() time.Duration { return 0 }, ConsumerMaxAssignmentInterval: 15 * time.Second,
		ConsumerMinSessionTimeout: 45 * time.Second, ConsumerMaxSessionTimeout: time.Minute,
		ConsumerMinHeartbeatInterval: 5 * time.Second, ConsumerMaxHeartbeatInterval: 15 * time.Second,
		MigrationPolicy: "bidirectional",
	}, newID, image, func() error { return nil })}
}

func (g *testGroups) Partitions() map[int32]bool { return map[int32]bool{0: true} }

func (g *testGroups) Call(ctx context.Context, _ int32, h runtime.Handler[*group.Shard]) (any, error) {
	g.mu.Lock()
	g.tickets++
	answer := make(chan any, 1)
	g.waiting[g.tickets] = answer
	r := h(g.s, time.Now(), g.tickets)
	for i, rec := range r.Records {
		if !r.SkipReplay {
			if err := g.s.Replay(int64(i), r.Producer, rec); err != nil {
				panic(err)
			}
		}
	}
	for _, reply := range r.Replies {
		g.waiting[reply.Ticket] <- reply.Response
		delete(g.waiting, reply.Ticket)
	}
	if len(answer) == 0 {
		g.parked <- struct{}{}
	}
	g.mu.Unlock()
	select {
	case v := <-answer:
		return v, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
