package replication

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// This file holds who waits for a partition: those who wrote and wait until it
// is committed (ack, ProduceWait), and those who read and wait for more (Watch,
// Watcher). Both are intrusive lists of the partition under its mu. Nothing
// polls, no goroutine is started; whoever moves a watermark wakes the waiters.

// ack waits until the high watermark of a partition reaches an offset.
type ack struct {
	p      *Partition
	offset int64
	// prev, next and linked belong to the partition's list, under p.mu.
	prev, next *ack
	linked     bool
	// Exactly one of wait and notify is set. err is the wait's, under its mu.
	wait   *ProduceWait
	notify func(error)
	err    error
}

// fire tells the waiter, once. The caller holds p.mu and has unlinked a.
func (a *ack) fire(err error) {
	if a.notify != nil {
		a.notify(err)
		return
	}
	a.wait.completed(a, err)
}

// acks is the list of a partition's acks in the order of their offsets, so
// that a moving watermark looks only at those it passed.
type acks struct{ head, tail *ack }

// add links a behind all acks with the same or a smaller offset. Offsets
// nearly always come in order, hence the search from the end.
func (l *acks) add(a *ack) {
	after := l.tail
	for after != nil && after.offset > a.offset {
		after = after.prev
	}
	a.prev, a.linked = after, true
	if after == nil {
		a.next, l.head = l.head, a
	} else {
		a.next, after.next = after.next, a
	}
	if a.next == nil {
		l.tail = a
	} else {
		a.next.prev = a
	}
}

func (l *acks) remove(a *ack) {
	if !a.linked {
		return
	}
	if a.prev == nil {
		l.head = a.next
	} else {
		a.prev.next = a.next
	}
	if a.next == nil {
		l.tail = a.prev
	} else {
		a.next.prev = a.prev
	}
	a.prev, a.next, a.linked = nil, nil, false
}

// reached fires all acks up to and with the offset.
func (l *acks) reached(offset int64, err error) {
	for a := l.head; a != nil && a.offset <= offset; a = l.head {
		l.remove(a)
		a.fire(err)
	}
}

// failAll fires every ack with err.
func (l *acks) failAll(err error) {
	for a := l.head; a != nil; a = l.head {
		l.remove(a)
		a.fire(err)
	}
}

// ProduceWait is one produce request with acks=all that waits for all its
// partitions. Add, Wait, Err and Reset belong to the request's goroutine; what
// completes the parts comes from any. The zero value is ready to use.
type ProduceWait struct {
	parts []producePart

	mu      sync.Mutex
	pending int
	// idle is made by Wait and closed when nothing is pending any more.
	idle chan struct{}
}

// producePart is one partition of the wait. ack is nil if the outcome, err, was
// there from the start.
type producePart struct {
	ack *ack
	err error
}

// Add makes the wait cover the records of p below offset, which is the last
// appended offset plus one, and returns the index of this part for Err. A part
// that is committed already costs nothing.
func (w *ProduceWait) Add(p *Partition, offset int64) int {
	if done, err := p.outcome(offset); done {
		w.parts = append(w.parts, producePart{err: err})
		return len(w.parts) - 1
	}
	a := &ack{p: p, offset: offset, wait: w}
	w.parts = append(w.parts, producePart{ack: a})
	w.mu.Lock()
	w.pending++
	w.mu.Unlock()
	p.await(a)
	return len(w.parts) - 1
}

// Reset makes the wait forget its parts, to be used again after Wait.
func (w *ProduceWait) Reset() {
	clear(w.parts)
	w.parts = w.parts[:0]
}

// completed is called once for each part, with the part's p.mu held.
func (w *ProduceWait) completed(a *ack, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a.err = err
	w.pending--
	if w.pending == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// Wait returns when every part is committed or has failed, at the latest after
// timeout or when ctx ends; parts still open then fail with REQUEST_TIMED_OUT.
func (w *ProduceWait) Wait(ctx context.Context, timeout time.Duration) {
	w.mu.Lock()
	if w.pending == 0 {
		w.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	w.idle = idle
	w.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-idle:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	for _, part := range w.parts {
		if part.ack != nil {
			part.ack.p.giveUp(part.ack, kerr.RequestTimedOut)
		}
	}
}

// Err is the outcome of a part after Wait: nil when its records are committed,
// else NOT_ENOUGH_REPLICAS_AFTER_APPEND, NOT_LEADER_OR_FOLLOWER (the
// leadership was lost, the records may or may not survive),
// UNKNOWN_TOPIC_OR_PARTITION (deleted), KAFKA_STORAGE_ERROR or
// REQUEST_TIMED_OUT.
func (w *ProduceWait) Err(part int) error {
	a := w.parts[part].ack
	if a == nil {
		return w.parts[part].err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return a.err
}

// Bound is the end of what a reader may see.
type Bound int8

const (
	// BoundHighWatermark is what read_uncommitted consumers see.
	BoundHighWatermark Bound = iota
	// BoundLastStable is what read_committed consumers see.
	BoundLastStable
	// BoundLogEnd is what replicas see.
	BoundLogEnd
)

// BoundOf is the bound for the replica id and isolation level of a request: a
// consumer is -1, the levels are 0 (read_uncommitted) and 1 (read_committed).
func BoundOf(replicaID int32, isolation int8) Bound {
	switch {
	case replicaID >= 0:
		return BoundLogEnd
	case isolation == 1:
		return BoundLastStable
	default:
		return BoundHighWatermark
	}
}

// Watch is a reader's standing interest in one partition: a node in the
// partition's list of watches, and, while there is something to look at, in
// its watcher's ready list. It stays linked between polls, so that a poll costs
// what is ready and not what is subscribed.
type Watch struct {
	// Owner is the watcher's own, e.g. a fetch session's entry.
	Owner any

	p     *Partition
	w     *Watcher
	bound Bound

	// Under p.mu: the partition's list, and how many of all bytes that ever came
	// below the bound are already credited to the watcher.
	prev, next *Watch
	linked     bool
	credited   int64

	// Under w.mu: the watcher's ready list.
	readyPrev, readyNext *Watch
	ready                bool
}

// Partition is what is watched.
func (n *Watch) Partition() *Partition { return n.p }

// Requeue makes n ready for its watcher's next look; see Watcher.Requeue.
func (n *Watch) Requeue() { n.w.Requeue(n) }

// Close ends the interest. The watch is in no list afterwards.
func (n *Watch) Close() {
	n.p.unwatch(n)
	n.w.mu.Lock()
	n.w.unready(n)
	n.w.mu.Unlock()
}

// progress measures in bytes what watches wait for: what was appended, and what
// of it the high watermark made visible.
type progress struct {
	// appended and visible count bytes since this process opened the log.
	appended, visible int64
	// steps are the appends that are not visible yet, by ascending log end. It
	// is a queue that begins at head.
	steps []progressStep
	head  int
	// unmeasured is the offset below which steps do not tell all: records that
	// were there before, or are too many to keep steps of.
	unmeasured int64
	// stable is the last stable offset as of the last look, and stableLags
	// whether it was below the high watermark then. They are kept only while
	// there is a watch for it.
	stable     int64
	stableLags bool
}

// progressStep says that appended was bytes when the log ended at end.
type progressStep struct{ end, bytes int64 }

// maxProgressSteps bounds the memory of a partition whose watermark stands
// still.
const maxProgressSteps = 1024

func (g *progress) append(logEnd, bytes int64) {
	g.appended += bytes
	if len(g.steps)-g.head >= maxProgressSteps {
		// The bytes count with the last step, which is too early; as long as
		// the mark has not passed them, every move of it wakes.
		g.steps[len(g.steps)-1].bytes = g.appended
		g.unmeasured = logEnd
		return
	}
	if g.head > 0 && len(g.steps) == cap(g.steps) {
		g.steps = g.steps[:copy(g.steps, g.steps[g.head:])]
		g.head = 0
	}
	g.steps = append(g.steps, progressStep{logEnd, g.appended})
}

// reached makes visible what lies below the mark.
func (g *progress) reached(mark int64) {
	for g.head < len(g.steps) && g.steps[g.head].end <= mark {
		g.visible = g.steps[g.head].bytes
		g.head++
	}
	if g.head == len(g.steps) {
		g.steps, g.head = g.steps[:0], 0
	}
}

// restart forgets the steps, because the log now ends at logEnd by other means.
func (g *progress) restart(logEnd int64) {
	g.steps, g.head = g.steps[:0], 0
	g.visible, g.unmeasured = g.appended, logEnd
}

// Watcher is one fetch session, or one fetch without a session: the owner of
// many watches and the one who waits for them. Its methods belong to one
// goroutine at a time, except that partitions push ready watches from theirs.
//
// A poll goes:
//
//	for {
//		for _, n := range w.TakeReady(nil) {
//			read n.Partition(); w.Requeue(n) if it had an answer
//		}
//		if enough || !w.Wait(ctx, minBytes-got, deadline) { break }
//	}
//
// A watch is taken from the ready list before it is read, and pushed onto it
// after the bound moved: whatever a read did not see makes its watch ready
// again, so no wake-up is lost.
type Watcher struct {
	wake chan struct{} // capacity 1

	mu          sync.Mutex
	first, last *Watch // the ready list, oldest first
	// bytes and urgent say what came since TakeReady. bytes may be more than
	// what can be read (the poll then reads too little and waits again), never
	// less: where the bytes are not known, urgent stands for them.
	bytes  int64
	urgent bool
	// parked is set while Wait sleeps for need bytes.
	parked bool
	need   int64
}

// NewWatcher returns a watcher without watches.
func NewWatcher() *Watcher { return &Watcher{wake: make(chan struct{}, 1)} }

// Watch links a new watch into the partition and makes it ready at once: what
// was appended before it was linked is found by reading it, what is appended
// later pushes it.
func (w *Watcher) Watch(p *Partition, bound Bound, owner any) *Watch {
	n := &Watch{Owner: owner, p: p, w: w, bound: bound}
	p.watch(n)
	w.Requeue(n)
	return n
}

// TakeReady appends the ready watches to dst, oldest first, and empties the
// list. What comes from now on counts towards the next Wait.
func (w *Watcher) TakeReady(dst []*Watch) []*Watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := w.first; n != nil; {
		next := n.readyNext
		dst = append(dst, n)
		n.readyPrev, n.readyNext, n.ready = nil, nil, false
		n = next
	}
	w.first, w.last = nil, nil
	w.bytes, w.urgent = 0, false
	return dst
}

// Requeue makes n ready for the next TakeReady without waking anybody: it has
// an answer that has not been sent, or its position moved. Watches are taken in
// the order in which they were queued, which is what makes a session fair.
func (w *Watcher) Requeue(n *Watch) {
	w.mu.Lock()
	w.makeReady(n)
	w.mu.Unlock()
}

// Wait sleeps until at least need bytes came since TakeReady, or something
// that cannot wait (a partition was deleted, moved or failed). It returns false
// when deadline fires or ctx ends first; the caller then answers with what
// there is. A nil deadline never fires.
func (w *Watcher) Wait(ctx context.Context, need int64, deadline <-chan time.Time) bool {
	w.mu.Lock()
	if w.urgent || w.bytes >= need {
		w.mu.Unlock()
		return true
	}
	w.parked, w.need = true, need
	w.mu.Unlock()

	woken := false
	select {
	case <-w.wake:
		woken = true
	case <-deadline:
	case <-ctx.Done():
	}
	if woken {
		return true // who woke us unparked us
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.parked {
		w.parked = false
		return false
	}
	<-w.wake // lost the race against the deadline: the signal is there
	return true
}

// push makes n ready, credits bytes, and wakes a parked Wait that has enough
// now. The caller holds n.p.mu.
func (w *Watcher) push(n *Watch, bytes int64, urgent bool) {
	w.mu.Lock()
	w.makeReady(n)
	w.bytes += bytes
	w.urgent = w.urgent || urgent
	wake := w.parked && (w.urgent || w.bytes >= w.need)
	if wake {
		w.parked = false
	}
	w.mu.Unlock()
	if wake {
		w.wake <- struct{}{} // never blocks: one signal for each time parked
	}
}

func (w *Watcher) makeReady(n *Watch) {
	if n.ready {
		return
	}
	n.ready, n.readyPrev = true, w.last
	if w.last == nil {
		w.first = n
	} else {
		w.last.readyNext = n
	}
	w.last = n
}

func (w *Watcher) unready(n *Watch) {
	if !n.ready {
		return
	}
	if n.readyPrev == nil {
		w.first = n.readyNext
	} else {
		n.readyPrev.readyNext = n.readyNext
	}
	if n.readyNext == nil {
		w.last = n.readyPrev
	} else {
		n.readyNext.readyPrev = n.readyPrev
	}
	n.readyPrev, n.readyNext, n.ready = nil, nil, false
}
