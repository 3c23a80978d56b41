package handler

import (
	"math"
	"testing"
	"time"
)

// cacheTest is a cache on a clock of its own, with sessions that have entries
// but no partitions.
type cacheTest struct {
	c   *sessionCache
	now time.Time
}

func newCacheTest(slots int) *cacheTest {
	ct := &cacheTest{now: time.Unix(1e9, 0)}
	ct.c = newSessionCache(slots, func() time.Time { return ct.now })
	return ct
}

func (ct *cacheTest) session(size int, privileged bool) *fetchSession {
	s := &fetchSession{privileged: privileged, entries: map[fetchKey]*fetchEntry{}}
	s.free.L = &s.mu
	for i := range size {
		s.entries[fetchKey{partition: int32(i)}] = &fetchEntry{}
	}
	return s
}

// add puts a session into the cache, or returns nil.
func (ct *cacheTest) add(size int, privileged bool) *fetchSession {
	s := ct.session(size, privileged)
	if !ct.c.insert(s) {
		return nil
	}
	return s
}

func (ct *cacheTest) has(s *fetchSession) bool { return ct.c.byID[s.id] == s }

// TestSessionEviction: the cases of Kafka's FetchSessionCache.
func TestSessionEviction(t *testing.T) {
	t.Run("nobody goes while all are new", func(t *testing.T) {
		ct := newCacheTest(2)
		a, b := ct.add(1, false), ct.add(1, false)
		if a == nil || b == nil || a.id == b.id || a.id <= 0 {
			t.Fatal("no slot, or no id")
		}
		if ct.add(100, false) != nil {
			t.Error("a new session was evicted")
		}
	})
	t.Run("the unused goes first", func(t *testing.T) {
		ct := newCacheTest(2)
		a, b := ct.add(5, false), ct.add(1, false)
		ct.now = ct.now.Add(sessionRest + time.Second)
		ct.c.touch(b)
		if ct.add(1, false) == nil || ct.has(a) || !ct.has(b) || !a.closed {
			t.Error("the session that was not used is still there")
		}
	})
	t.Run("the smaller goes for the larger", func(t *testing.T) {
		ct := newCacheTest(2)
		a, b := ct.add(5, false), ct.add(3, false)
		ct.now = ct.now.Add(sessionRest + time.Second)
		ct.c.touch(a)
		ct.c.touch(b)
		if ct.add(3, false) != nil {
			t.Error("evicted for one of the same size")
		}
		if ct.add(4, false) == nil || !ct.has(a) || ct.has(b) {
			t.Error("the smaller one is still there")
		}
	})
	t.Run("consumers go for followers, not the other way", func(t *testing.T) {
		ct := newCacheTest(1)
		a := ct.add(50, false)
		ct.now = ct.now.Add(sessionRest + time.Second)
		ct.c.touch(a)
		f := ct.add(1, true)
		if f == nil || ct.has(a) {
			t.Fatal("the consumer's session is still there")
		}
		ct.now = ct.now.Add(sessionRest + time.Second)
		ct.c.touch(f)
		if ct.add(100, false) != nil {
			t.Error("a follower's session went for a consumer's")
		}
	})
	t.Run("the partitions of all are bounded", func(t *testing.T) {
		ct := newCacheTest(1000)
		a := ct.add(10, false)
		ct.c.entries = maxSessionEntries - 5
		if ct.add(6, false) != nil {
			t.Error("more partitions than allowed")
		}
		a.entries[fetchKey{topic: "more"}] = &fetchEntry{}
		for i := range 5 {
			a.entries[fetchKey{topic: "more", partition: int32(i)}] = &fetchEntry{}
		}
		if !ct.c.touch(a) {
			t.Error("just as many as allowed are refused")
		}
		a.entries[fetchKey{topic: "one"}] = &fetchEntry{}
		if ct.c.touch(a) {
			t.Error("a session grew beyond what is allowed")
		}
	})
	t.Run("no slots", func(t *testing.T) {
		if newCacheTest(0).add(1, false) != nil {
			t.Error("a session without a slot")
		}
	})
	t.Run("sizes are given back", func(t *testing.T) {
		ct := newCacheTest(10)
		a := ct.add(7, false)
		ct.c.remove(a.id)
		ct.c.remove(a.id)
		if ct.c.entries != 0 || len(ct.c.byID) != 0 {
			t.Errorf("%d partitions, %d sessions", ct.c.entries, len(ct.c.byID))
		}
	})
}

func TestNextSessionEpoch(t *testing.T) {
	for epoch, want := range map[int32]int32{1: 2, math.MaxInt32 - 1: math.MaxInt32, math.MaxInt32: 1} {
		if got := nextSessionEpoch(epoch); got != want {
			t.Errorf("after %d comes %d, want %d", epoch, got, want)
		}
	}
}
