package runtime

import (
	"container/heap"
	"time"
)

// timers holds a shard's timers by time, each key once.
type timers struct {
	byKey map[string]*timer
	heap  timerHeap
}

type timer struct {
	key   string
	at    time.Time
	index int
}

func newTimers() *timers { return &timers{byKey: make(map[string]*timer)} }

// set sets, moves or (with a zero time) cancels a timer.
func (t *timers) set(key string, at time.Time) {
	old := t.byKey[key]
	switch {
	case at.IsZero() && old == nil:
	case at.IsZero():
		heap.Remove(&t.heap, old.index)
		delete(t.byKey, key)
	case old != nil:
		old.at = at
		heap.Fix(&t.heap, old.index)
	default:
		n := &timer{key: key, at: at}
		t.byKey[key] = n
		heap.Push(&t.heap, n)
	}
}

// next returns when the first timer goes off.
func (t *timers) next() (time.Time, bool) {
	if len(t.heap) == 0 {
		return time.Time{}, false
	}
	return t.heap[0].at, true
}

// pop removes and returns a timer that is due.
func (t *timers) pop(now time.Time) (key string, due bool) {
	if len(t.heap) == 0 || t.heap[0].at.After(now) {
		return "", false
	}
	n := heap.Pop(&t.heap).(*timer)
	delete(t.byKey, n.key)
	return n.key, true
}

type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }

// Less orders by time, then by key, so that runs repeat exactly.
func (h timerHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].key < h[j].key
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	n := x.(*timer)
	n.index = len(*h)
	*h = append(*h, n)
}

func (h *timerHeap) Pop() any {
	old := *h
	n := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return n
}
