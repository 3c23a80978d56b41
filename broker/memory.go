package broker

import (
	"context"
	"math/bits"
	"sync"
)

// buffer is memory from the pool. Whoever got it gives it back with put, once.
type buffer struct {
	b []byte
	// overdraft marks the one buffer that was allowed to exceed the budget.
	overdraft bool
}

const (
	inputSize = 16 << 10 // of the buffer that small frames are handled in
	// Classes are powers of two; class 0 holds 1<<minClassBits bytes.
	minClassBits = 12
	maxClassBits = 31
	classes      = maxClassBits - minClassBits + 1
	// keepBytes bounds what the pool keeps unused; larger buffers than
	// keepLargest are left to the garbage collector at once.
	keepBytes   = 64 << 20
	keepLargest = 8 << 20
	// collectBytes that were left to the garbage collector are worth a
	// collection of their own.
	collectBytes = 64 << 20
)

// memory is the pool of buffers and the budget of bytes that requests may hold
// at a time (queued.max.request.bytes). Buffers are free of pointers, so the
// collector does not scan them, and are not cleared between uses.
type memory struct {
	inputs sync.Pool // *buffer of inputSize, outside the budget

	mu    sync.Mutex
	limit int64 // <= 0: none
	used  int64 // by buffers in use, inputs excluded
	kept  int64 // by free
	free  [classes][]*buffer
	// low is the smallest length of each free list since the last trim: what
	// was not needed for that long.
	low [classes]int
	// left is how much was left to the garbage collector since trim last asked
	// for it.
	left int64
	// overdrawn is set while one buffer exceeds the budget. Connections that
	// hold a part of a frame each and wait for more would wait for each other;
	// the one that may overdraw finishes and makes room.
	overdrawn bool
	waiting   []chan struct{} // first in, first served
}

func newMemory(limit int64) *memory {
	m := &memory{limit: limit}
	m.inputs.New = func() any { return &buffer{b: make([]byte, inputSize)} }
	return m
}

func (m *memory) input() *buffer     { return m.inputs.Get().(*buffer) }
func (m *memory) putInput(b *buffer) { m.inputs.Put(b) }

func classOf(n int) int {
	if n <= 1<<minClassBits {
		return 0
	}
	return bits.Len(uint(n-1)) - minClassBits
}

// get returns a buffer of at least n bytes without waiting. It is for what
// the broker itself has to send: a request in process must not wait for
// memory that other requests in process hold.
func (m *memory) get(n int) *buffer {
	m.mu.Lock()
	b := m.takeLocked(classOf(n))
	m.mu.Unlock()
	return b.fill(n)
}

// take returns a buffer of at least n bytes for a frame. It waits while the
// budget is spent. old is the buffer that holds the frame's bytes so far, nil
// for its first; the caller gives it back when it has copied them.
func (m *memory) take(ctx context.Context, n int, old *buffer) (*buffer, error) {
	m.mu.Lock()
	if old != nil || len(m.waiting) == 0 {
		if b := m.tryLocked(n, old); b != nil {
			m.mu.Unlock()
			return b.fill(n), nil
		}
	}
	turn := make(chan struct{}, 1)
	if old != nil { // finish what has begun before admitting more
		m.waiting = append([]chan struct{}{turn}, m.waiting...)
	} else {
		m.waiting = append(m.waiting, turn)
	}
	m.wakeLocked()
	for {
		m.mu.Unlock()
		var err error
		select {
		case <-turn:
		case <-ctx.Done():
			err = ctx.Err()
		}
		m.mu.Lock()
		var b *buffer
		if err == nil {
			b = m.tryLocked(n, old)
		}
		if b != nil || err != nil {
			m.leaveLocked(turn)
			m.mu.Unlock()
			if err != nil {
				return nil, err
			}
			return b.fill(n), nil
		}
	}
}

// tryLocked grants a buffer if the budget allows it. A buffer larger than the
// whole budget is granted when nothing else is out.
func (m *memory) tryLocked(n int, old *buffer) *buffer {
	class := classOf(n)
	size := int64(1) << (class + minClassBits)
	switch {
	case m.limit <= 0 || m.used+size <= m.limit || m.used == 0:
		return m.takeLocked(class)
	case old != nil && (!m.overdrawn || old.overdraft):
		b := m.takeLocked(class)
		m.overdrawn, b.overdraft, old.overdraft = true, true, false
		return b
	}
	return nil
}

func (m *memory) takeLocked(class int) *buffer {
	m.used += 1 << (class + minClassBits)
	list := m.free[class]
	if len(list) == 0 {
		return &buffer{}
	}
	b := list[len(list)-1]
	list[len(list)-1] = nil
	m.free[class] = list[:len(list)-1]
	m.low[class] = min(m.low[class], len(list)-1)
	m.kept -= int64(cap(b.b))
	return b
}

// fill makes the memory of a buffer that came without any. This happens
// outside the lock: clearing megabytes takes long.
func (b *buffer) fill(n int) *buffer {
	if b.b == nil {
		b.b = make([]byte, 1<<(classOf(n)+minClassBits))
	}
	return b
}

// put gives a buffer back.
func (m *memory) put(b *buffer) {
	if b == nil {
		return
	}
	m.mu.Lock()
	m.putLocked(b)
	m.mu.Unlock()
}

func (m *memory) putLocked(b *buffer) {
	size := int64(cap(b.b))
	m.used -= size
	if b.overdraft {
		m.overdrawn, b.overdraft = false, false
	}
	if size <= keepLargest && m.kept+size <= keepBytes {
		class := classOf(int(size))
		m.free[class] = append(m.free[class], b)
		m.kept += size
	} else {
		m.left += size
	}
	m.wakeLocked()
}

// wakeLocked lets the first in the queue try.
func (m *memory) wakeLocked() {
	if len(m.waiting) > 0 {
		select {
		case m.waiting[0] <- struct{}{}:
		default:
		}
	}
}

// leaveLocked takes a waiter out of the queue and passes its turn on.
func (m *memory) leaveLocked(turn chan struct{}) {
	for i, w := range m.waiting {
		if w == turn {
			m.waiting = append(m.waiting[:i], m.waiting[i+1:]...)
			break
		}
	}
	m.wakeLocked()
}

// trim drops the buffers that nobody needed since the last trim. It says
// whether enough was left to the garbage collector, and so little is in use,
// that a collection is worth while.
func (m *memory) trim() (collect bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.free {
		list, idle := m.free[c], m.low[c]
		for i := range idle {
			size := int64(cap(list[i].b))
			m.kept -= size
			m.left += size
			list[i] = nil
		}
		m.free[c] = append(list[:0], list[idle:]...)
		clear(list[len(m.free[c]):])
		m.low[c] = len(m.free[c])
	}
	if m.left < collectBytes || m.used >= collectBytes {
		return false
	}
	m.left = 0
	return true
}

// inUse is the number of bytes that requests and responses hold.
func (m *memory) inUse() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}
