package replication

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/metadata"
)

// TestIneligibleIsNotAskedAtOnce: a leader whose metadata is behind the controller's
// does not ask without pause for what is refused, and asks again when it can be.
func TestIneligibleIsNotAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ledBy1(t, 1, 2)
		var mu sync.Mutex
		var asked []metadata.ISRChange
		refuse := true
		alter := func(_ context.Context, changes []metadata.ISRChange) []metadata.ISRResult {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, changes...)
			r := metadata.ISRResult{Err: kerr.IneligibleReplica}
			if !refuse {
				r = metadata.ISRResult{LeaderEpoch: 1, PartitionEpoch: 3, ISR: []int32{1, 2}}
			}
			return []metadata.ISRResult{r}
		}
		s := newInSync(p.env, alter, func() []*Partition { return []*Partition{p} }, zerolog.Nop())
		p.env.mayGrow = s.mayGrow
		p.env.registration = func(int32) int64 { return 55 }
		if _, err := p.assign(assignment{leader: 1, leaderEpoch: 1, partitionEpoch: 2, replicas: []int32{1, 2}, isr: []int32{1}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx) }()
		defer func() { cancel(); <-done }()
		if err := follow(p, 2, 0); err != nil {
			t.Fatal(err)
		}
		// after says what was asked when some of synctest's time has passed.
		after := func(d time.Duration) []metadata.ISRChange {
			time.Sleep(d)
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(asked)
		}
		first := after(time.Second)
		if len(first) < 2 || len(first) > int(time.Second/proposeAgain)+1 {
			t.Fatalf("asked %d times in a second", len(first))
		}
		if m := first[0].NewISR; len(m) != 2 || m[0].Registration != 0 || m[1].Registration != 55 {
			t.Errorf("asked for %+v", m)
		}
		mu.Lock()
		refuse = false
		mu.Unlock()
		n := len(after(2 * proposeAgain))
		if got := p.Snapshot().ISR; len(got) != 2 {
			t.Errorf("in sync %v", got)
		}
		if m := len(after(time.Second)); m != n {
			t.Errorf("asked %d times for what is done", m-n)
		}
	})
}
