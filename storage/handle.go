package storage

import (
	"container/list"
	"sync"
	"sync/atomic"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// handle is an open log file shared by a segment and the slices read from it. The last one to let go closes it, so a file
// is never closed under a sendfile in flight, and a file that was removed keeps its blocks until then.
type handle struct {
	file vfs.File
	refs atomic.Int32
}

func newHandle(f vfs.File) *handle {
	h := &handle{file: f}
	h.refs.Store(1)
	return h
}

// release lets go once. Closing reports no error worth having: what had to be durable was synced before.
func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		h.file.Close()
	}
}

// segmentCache bounds what sealed segments hold open: descriptors and index memory. It closes those that were used
// longest ago. Segments that are not yet flushed are not in it: a descriptor that is closed between write and fsync can
// lose the error of the write-back.
//
// Lock order: segmentCache.mu is taken with no other lock held; closing victims happens after it is released.
type segmentCache struct {
	maxOpen  int
	maxBytes int

	mu    sync.Mutex
	order list.List // of *segment; front: used last
	bytes int
}

const (
	defaultOpenSegments = 1024
	defaultIndexBytes   = 32 << 20
)

// use notes that a sealed segment was used and closes those that are too many.
func (c *segmentCache) use(s *segment) {
	c.mu.Lock()
	if s.cacheElem != nil {
		c.order.MoveToFront(s.cacheElem)
	} else {
		s.cacheElem = c.order.PushFront(s)
		s.cacheBytes = s.offsets.resident() + s.times.resident()
		c.bytes += s.cacheBytes
	}
	var victims []*segment
	for c.order.Len() > 1 && (c.order.Len() > c.maxOpen || c.bytes > c.maxBytes) {
		v := c.order.Back().Value.(*segment)
		c.removeLocked(v)
		victims = append(victims, v)
	}
	c.mu.Unlock()
	for _, v := range victims {
		v.unload()
	}
}

// forget takes a segment out without closing it.
func (c *segmentCache) forget(s *segment) {
	c.mu.Lock()
	if s.cacheElem != nil {
		c.removeLocked(s)
	}
	c.mu.Unlock()
}

func (c *segmentCache) removeLocked(s *segment) {
	c.order.Remove(s.cacheElem)
	c.bytes -= s.cacheBytes
	s.cacheElem, s.cacheBytes = nil, 0
}
