package broker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestMemoryClasses(t *testing.T) {
	for n, want := range map[int]int{0: 4096, 1: 4096, 4096: 4096, 4097: 8192, 1 << 20: 1 << 20, 1<<20 + 1: 2 << 20} {
		m := newMemory(0)
		b := m.get(n)
		if len(b.b) != want {
			t.Errorf("%d bytes come as %d, want %d", n, len(b.b), want)
		}
		m.put(b)
		if again := m.get(n); again != b {
			t.Errorf("a buffer of %d was not used again", want)
		}
	}
}

// TestMemoryWaits: who does not fit waits its turn, first come, first served.
func TestMemoryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(1 << 20)
		take := func(n int) *buffer {
			b, err := m.take(t.Context(), n, nil)
			if err != nil {
				t.Error(err)
			}
			return b
		}
		first := take(512 << 10)
		var order []int
		got := make(chan *buffer)
		for i := range 3 {
			go func() {
				b := take(1 << 20)
				order = append(order, i)
				got <- b
			}()
			synctest.Wait() // so that they come in order
		}
		if len(order) != 0 {
			t.Fatal("nobody waited")
		}
		m.put(first)
		for range 3 {
			m.put(<-got)
		}
		if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
			t.Errorf("served in order %v", order)
		}
		if m.inUse() != 0 {
			t.Errorf("%d bytes in use", m.inUse())
		}
	})
}

// TestMemoryDoesNotDeadlock: many frames are half there and all want more. One
// of them may exceed the budget and makes room for the others.
func TestMemoryDoesNotDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(1 << 20)
		done := make(chan bool)
		const n = 4
		for range n {
			go func() {
				b, err := m.take(t.Context(), 256<<10, nil)
				for size := 512 << 10; err == nil && size <= 4<<20; size *= 2 {
					var more *buffer
					if more, err = m.take(t.Context(), size, b); err == nil {
						m.put(b)
						b = more
					}
				}
				if err != nil {
					t.Error(err)
				}
				m.put(b)
				done <- true
			}()
		}
		for range n {
			<-done
		}
		if m.inUse() != 0 || m.overdrawn || len(m.waiting) != 0 {
			t.Errorf("in use %d, overdrawn %v, waiting %d", m.inUse(), m.overdrawn, len(m.waiting))
		}
	})
}

// TestMemoryGivesUp: who is told to stop leaves the queue and lets the next try.
func TestMemoryGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(1 << 20)
		held, err := m.take(t.Context(), 1<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error)
		go func() {
			_, err := m.take(ctx, 1<<20, nil)
			gaveUp <- err
		}()
		synctest.Wait()
		got := make(chan *buffer)
		go func() {
			b, err := m.take(t.Context(), 4096, nil)
			if err != nil {
				t.Error(err)
			}
			got <- b
		}()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		m.put(held)
		m.put(<-got)
	})
}

// TestMemoryTrims: what is not needed for a while goes, what is needed stays.
func TestMemoryTrims(t *testing.T) {
	m := newMemory(0)
	var all []*buffer
	for range 10 {
		all = append(all, m.get(1<<20))
	}
	for _, b := range all {
		m.put(b)
	}
	m.trim() // nothing was unused since the begin of time
	a, b := m.get(1<<20), m.get(1<<20)
	m.put(a)
	m.put(b)
	m.trim()
	if n := len(m.free[classOf(1<<20)]); n != 2 || m.kept != 2<<20 {
		t.Errorf("%d buffers and %d bytes kept, want 2", n, m.kept)
	}
	if m.trim() || m.kept != 0 {
		t.Errorf("%d bytes kept, or so few are worth a collection", m.kept)
	}
	// What is too large is not kept at all, and soon worth a collection, once the next such need not be feared.
	large, other := m.get(collectBytes), m.get(collectBytes)
	m.put(large)
	if m.kept != 0 || m.trim() {
		t.Errorf("%d bytes kept of a large buffer, or collected while there are others", m.kept)
	}
	m.put(other)
	if !m.trim() || m.trim() {
		t.Error("large buffers are not collected once")
	}
}
