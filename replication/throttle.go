package replication

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// throttle bounds the bytes per second that the replication of some partitions
// takes (KIP-73), so that moving them leaves room for clients. A broker has one
// for what it sends as leader and one for what it fetches as follower.
//
// All traffic of the listed partitions counts; held up are only replicas that
// are out of sync, because one in sync would leave the in-sync set for it. A
// limit is checked before and counted after, so that one answer may exceed it.
type throttle struct {
	now func() time.Time
	// limit is in bytes per second, unlimited while none is set.
	limit atomic.Int64
	// total counts all bytes ever.
	total atomic.Int64

	mu sync.Mutex
	// windows is a ring of replication.quota.window.num times size; cur is
	// the newest.
	windows []throttleWindow
	size    time.Duration
	cur     int
}

// throttleWindow begins with the first bytes in it; the zero time: never.
type throttleWindow struct {
	start time.Time
	bytes int64
}

const unlimited = math.MaxInt64

func newThrottle(windows int, size time.Duration, now func() time.Time) *throttle {
	t := &throttle{now: now, windows: make([]throttleWindow, max(windows, 1)), size: size}
	t.limit.Store(unlimited)
	return t
}

// record counts bytes that went through.
func (t *throttle) record(bytes int) {
	t.total.Add(int64(bytes))
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &t.windows[t.cur]
	if w.start.IsZero() || now.Sub(w.start) >= t.size {
		t.cur = (t.cur + 1) % len(t.windows)
		w = &t.windows[t.cur]
		*w = throttleWindow{start: now}
	}
	w.bytes += int64(bytes)
}

// exceeded reports whether what went through lately is more than the limit.
func (t *throttle) exceeded() bool { return t.pause() > 0 }

// pause is how long nothing may go through for the rate to come down to the
// limit; 0 while it is not above it. As in Kafka's SimpleRate the first window
// counts whole, however young it is.
func (t *throttle) pause() time.Duration {
	limit := t.limit.Load()
	if limit == unlimited {
		return 0
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	var bytes int64
	span, kept := t.size, t.size*time.Duration(len(t.windows))
	for _, w := range t.windows {
		if age := now.Sub(w.start); !w.start.IsZero() && age < kept {
			bytes += w.bytes
			span = max(span, age)
		}
	}
	if float64(bytes) <= float64(limit)*span.Seconds() {
		return 0
	}
	// No byte is remembered for longer than all windows.
	needed := min(float64(bytes)/float64(limit), kept.Seconds())
	return max(time.Duration(needed*float64(time.Second))-span, time.Millisecond)
}

// throttledPartitions are the partitions of one topic whose replica on one
// broker is throttled.
type throttledPartitions struct {
	all  bool
	some map[int32]struct{}
}

// throttledOn reads leader.replication.throttled.replicas or its like: "*", or
// pairs of partition and broker. What is no pair was refused before.
func throttledOn(replicas []string, broker int32) throttledPartitions {
	t := throttledPartitions{}
	for _, r := range replicas {
		if r == "*" {
			return throttledPartitions{all: true}
		}
		p, b, _ := strings.Cut(r, ":")
		partition, err1 := strconv.ParseInt(p, 10, 32)
		id, err2 := strconv.ParseInt(b, 10, 32)
		if err1 != nil || err2 != nil || int32(id) != broker {
			continue
		}
		if t.some == nil {
			t.some = map[int32]struct{}{}
		}
		t.some[int32(partition)] = struct{}{}
	}
	return t
}

func (t throttledPartitions) has(partition int32) bool {
	_, ok := t.some[partition]
	return ok || t.all
}

// SentToFollower counts bytes that leave for a follower. It is called for an
// answer that is sent, not for each look at what it might hold.
func (p *Partition) SentToFollower(bytes int) {
	if bytes > 0 && p.throttledAsLeader.Load() {
		p.env.leaderThrottle.record(bytes)
	}
}

// ThrottleStats is the state of one throttle.
type ThrottleStats struct {
	// Limit is in bytes per second, math.MaxInt64 while there is none. Bytes
	// are those of listed partitions since the start.
	Limit, Bytes int64
}

// Throttles tells of the throttles on what this broker sends as leader and on
// what it fetches as follower.
func (m *Manager) Throttles() (asLeader, asFollower ThrottleStats) {
	return m.env.leaderThrottle.stats(), m.env.followerThrottle.stats()
}

func (t *throttle) stats() ThrottleStats { return ThrottleStats{t.limit.Load(), t.total.Load()} }
