package handler

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gregor-broker/gregor/replication"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Fetch sessions (KIP-227): the broker remembers which partitions a client
// fetches from where, requests and responses carry only what changed.
//
// A session keeps a watch in each of its partitions between polls. An append
// puts the watch on the session's ready list, so that a poll looks at the
// partitions where something happened, at those whose position the client
// moved, and at those that had more than fitted into the last answer: in that
// order, oldest first, which serves all partitions in turn.

const (
	// Epochs of a session that mean something of their own.
	initialSessionEpoch = 0  // make a session
	finalSessionEpoch   = -1 // make none

	// sessionRest is how long a session is safe from being evicted for a
	// larger one, and how long an unused one is kept when there is no slot.
	sessionRest = 2 * time.Minute
	// maxSessionEntries bounds the partitions of all sessions together. A
	// session refers to partitions that may not exist, so that a slot alone
	// bounds no memory.
	maxSessionEntries = 1 << 19
)

// fetchSession is one client's session, or the partitions of one request
// without a session, which is used once.
type fetchSession struct {
	id          int32
	byID        bool // names topics by id
	privileged  bool // of a follower
	incremental bool // exists already

	mu sync.Mutex
	// epoch is what the next request must have.
	epoch int32
	// busy is set from the begin of a poll to its end. A second request for
	// the session makes the first one, if it waits, fail: free is signalled
	// when it did.
	busy bool
	free sync.Cond
	// waiting is the clock of the poll that waits; resetting it to 0 ends the
	// wait.
	waiting *time.Timer
	closed  bool

	watcher *replication.Watcher
	bound   replication.Bound
	// all is for the first poll, which answers for every partition; entries
	// for later ones.
	all     []*fetchEntry
	entries map[fetchKey]*fetchEntry
	// lost are the entries whose partition is not known here: every poll
	// looks them up again.
	lost []*fetchEntry

	// The cache's, under its mu:
	created, used time.Time
	size          int
}

// fetchKey names a partition in a session: by name or by id.
type fetchKey struct {
	topic     string
	id        [16]byte
	partition int32
}

// sessionCache holds the sessions, at most slots of them.
type sessionCache struct {
	slots int
	now   func() time.Time
	// turns counts the fetches of followers; see replication.ReadOptions.
	turns atomic.Int64

	mu      sync.Mutex
	byID    map[int32]*fetchSession
	entries int // of all sessions
}

func newSessionCache(slots int, now func() time.Time) *sessionCache {
	return &sessionCache{slots: slots, now: now, byID: map[int32]*fetchSession{}}
}

// open finds or prepares the session that a request is about. The session is
// busy then until poll returns.
func (c *sessionCache) open(f *fetchCall) (*fetchSession, error) {
	req := &f.req
	if req.SessionEpoch != initialSessionEpoch && req.SessionEpoch != finalSessionEpoch {
		return c.resume(f)
	}
	if req.SessionID != 0 {
		c.remove(req.SessionID)
	}
	if req.SessionEpoch == initialSessionEpoch && c.slots > 0 && f.partitions > 0 {
		return newSession(f), nil
	}
	return singleFetch(f), nil
}

// newSession is a session that is not in the cache yet.
func newSession(f *fetchCall) *fetchSession {
	s := &fetchSession{
		byID: f.byID(), privileged: f.replicaID >= 0, epoch: 1, busy: true,
		entries: make(map[fetchKey]*fetchEntry, f.partitions),
		all:     make([]*fetchEntry, 0, f.partitions),
	}
	s.free.L = &s.mu
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			key := fetchKey{t.Topic, t.TopicID, p.Partition}
			if e := s.entries[key]; e != nil {
				e.set(p) // named twice: the last one counts
				continue
			}
			e := newFetchEntry(t, p)
			s.entries[key] = &e
			s.all = append(s.all, &e)
		}
	}
	return s
}

// singleFetch is the partitions of a request that makes no session, in memory
// that belongs to the request.
func singleFetch(f *fetchCall) *fetchSession {
	s := &f.single
	all := s.all[:0]
	f.entries = resize(f.entries, f.partitions)
	n := 0
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		for j := range t.Partitions {
			f.entries[n] = newFetchEntry(t, &t.Partitions[j])
			all = append(all, &f.entries[n])
			n++
		}
	}
	s.free.L = &s.mu
	s.all, s.id, s.closed = all, 0, false
	return s
}

// resume claims an existing session for its next poll and takes over what the
// request changes.
func (c *sessionCache) resume(f *fetchCall) (*fetchSession, error) {
	c.mu.Lock()
	s := c.byID[f.req.SessionID]
	c.mu.Unlock()
	if s == nil {
		return nil, kerr.FetchSessionIDNotFound
	}
	if err := s.claim(f); err != nil {
		return nil, err
	}
	s.update(f)
	if len(s.entries) == 0 || !c.touch(s) {
		// Kafka answers the request that forgets the last partition as one
		// without a session; who asks for more than can be remembered is
		// told to begin anew.
		gone := len(s.entries) > 0
		s.release()
		c.remove(s.id)
		if gone {
			return nil, kerr.FetchSessionIDNotFound
		}
		return singleFetch(f), nil
	}
	return s, nil
}

// claim makes the session this request's and leaves it locked.
func (s *fetchSession) claim(f *fetchCall) error {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return kerr.FetchSessionIDNotFound
	case f.req.SessionEpoch != s.epoch:
		s.mu.Unlock()
		return kerr.InvalidFetchSessionEpoch
	case s.byID != f.byID():
		s.mu.Unlock()
		return kerr.FetchSessionTopicIDError
	}
	s.epoch = nextSessionEpoch(s.epoch)
	mine := s.epoch
	for s.busy {
		s.interrupt()
		s.free.Wait()
	}
	if s.closed || s.epoch != mine {
		s.mu.Unlock()
		return kerr.InvalidFetchSessionEpoch
	}
	s.busy = true
	return nil
}

// nextSessionEpoch counts on, past 0, which makes a session.
func nextSessionEpoch(epoch int32) int32 {
	if epoch == math.MaxInt32 {
		return 1
	}
	return epoch + 1
}

// interrupt ends the wait of the poll in process. The caller holds mu.
func (s *fetchSession) interrupt() {
	if s.waiting != nil {
		s.waiting.Reset(0)
	}
}

// release ends the poll. The caller holds mu, which is unlocked.
func (s *fetchSession) release() {
	s.busy = false
	if s.closed {
		s.unwatch()
	}
	s.free.Broadcast()
	s.mu.Unlock()
}

// unwatch ends the interest in all partitions. The caller holds mu.
func (s *fetchSession) unwatch() {
	for _, e := range s.all {
		e.unwatch()
	}
	for _, e := range s.entries {
		e.unwatch()
	}
}

// close ends the session; the poll in process fails.
func (s *fetchSession) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.busy {
		s.interrupt() // and release unwatches
	} else {
		s.unwatch()
	}
}

// update takes over what an incremental request changes. The caller holds mu.
func (s *fetchSession) update(f *fetchCall) {
	if bound := f.bound(); bound != s.bound {
		s.rebind(f, bound)
	}
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			key := fetchKey{t.Topic, t.TopicID, p.Partition}
			e := s.entries[key]
			if e == nil {
				n := newFetchEntry(t, p)
				e = &n
				s.entries[key] = e
				s.link(f, e)
				continue
			}
			e.set(p)
			if e.watch != nil {
				s.watcher.Requeue(e.watch)
			}
		}
	}
	for i := range f.req.ForgottenTopics {
		t := &f.req.ForgottenTopics[i]
		for _, p := range t.Partitions {
			s.forget(fetchKey{t.Topic, t.TopicID, p})
		}
	}
}

// bound is what the request's reader may see.
func (f *fetchCall) bound() replication.Bound {
	return replication.BoundOf(f.replicaID, f.req.IsolationLevel)
}

// rebind makes the session watch another bound: a client that changes its
// isolation level, which none does between polls.
func (s *fetchSession) rebind(f *fetchCall, bound replication.Bound) {
	s.bound = bound
	for _, e := range s.entries {
		if e.watch != nil {
			e.watch.Close()
			e.watch = s.watcher.Watch(e.part, bound, e)
		}
	}
}

// link finds the partition of an entry and watches it, or puts the entry among
// the lost.
func (s *fetchSession) link(f *fetchCall, e *fetchEntry) {
	if err := e.find(f.b, s.byID); err != nil {
		if !e.lost {
			e.lost = true
			s.lost = append(s.lost, e)
		}
		return
	}
	e.lost = false
	if e.watch == nil {
		e.watch = s.watcher.Watch(e.part, s.bound, e)
	}
}

func (s *fetchSession) forget(key fetchKey) {
	e := s.entries[key]
	if e == nil {
		return
	}
	delete(s.entries, key)
	e.unwatch()
	if e.lost {
		e.lost = false
		s.lost = remove(s.lost, e)
	}
}

func remove(list []*fetchEntry, e *fetchEntry) []*fetchEntry {
	for i := range list {
		if list[i] == e {
			list[i] = list[len(list)-1]
			return list[:len(list)-1]
		}
	}
	return list
}

// poll collects the answer into f.
func (s *fetchSession) poll(f *fetchCall) error {
	if !s.incremental {
		return s.pollAll(f)
	}
	defer s.release() // claim locked it
	if err := s.pollNews(f); err != nil {
		return err
	}
	f.resp.SessionID = s.id
	return nil
}

// pollAll answers for every partition: the request has no session or makes one.
// Nobody else knows of s.
func (s *fetchSession) pollAll(f *fetchCall) error {
	s.readAll(f)
	if f.maxWait > 0 && !f.enough() {
		s.watchAll(f)
		f.startTimer()
		for more := true; more; {
			f.ready = s.watcher.TakeReady(f.ready[:0])
			s.readAll(f)
			if f.enough() {
				break
			}
			if more = s.watcher.Wait(f.r.Draining, int64(f.minBytes-f.bytes), f.timer.C); !more {
				s.readAll(f) // what came without being enough
			}
		}
		f.timer.Stop()
	}
	if s.entries == nil || !f.b.sessions.insert(s) {
		s.unwatch()
		s.all = s.all[:0]
		return nil
	}
	s.watchAll(f)
	s.mu.Lock()
	defer s.release()
	s.all = nil
	for i := range f.resp.results {
		f.resp.results[i].told()
	}
	s.incremental = true
	f.resp.SessionID = s.id
	return nil
}

func (s *fetchSession) readAll(f *fetchCall) {
	f.begin()
	for _, e := range s.all {
		f.read(e, false)
	}
}

// watchAll links a watch for every partition that is known.
func (s *fetchSession) watchAll(f *fetchCall) {
	if s.watcher == nil {
		s.watcher = replication.NewWatcher()
	}
	s.bound = f.bound()
	for _, e := range s.all {
		switch {
		case e.part != nil && e.watch == nil:
			e.watch = s.watcher.Watch(e.part, s.bound, e)
		case e.part == nil && !e.lost && s.entries != nil:
			e.lost = true
			s.lost = append(s.lost, e)
		}
	}
}

// pollNews answers for the partitions that have something to tell. The caller
// holds mu, which is let go while waiting.
func (s *fetchSession) pollNews(f *fetchCall) error {
	mine := s.epoch
	clock := false
	for last := f.maxWait <= 0; ; {
		unread := s.readReady(f)
		if last || f.enough() {
			s.requeue(f, unread)
			break
		}
		s.requeue(f, unread)
		if !clock {
			clock = true
			f.startTimer()
		}
		s.waiting = f.timer
		s.mu.Unlock()
		last = !s.watcher.Wait(f.r.Draining, int64(f.minBytes-f.bytes), f.timer.C)
		s.mu.Lock()
		s.waiting = nil
		if s.epoch != mine || s.closed {
			f.timer.Stop()
			return kerr.InvalidFetchSessionEpoch
		}
	}
	if clock {
		f.timer.Stop()
	}
	for i := range f.resp.results {
		f.resp.results[i].told()
	}
	return nil
}

// readReady reads the lost and the ready partitions until the answer is full,
// and returns the watches it did not come to.
func (s *fetchSession) readReady(f *fetchCall) []*replication.Watch {
	f.begin()
	lost := s.lost
	s.lost = s.lost[:0]
	for _, e := range lost {
		s.link(f, e.asFound())
		if e.lost {
			f.read(e, true)
		}
	}
	clear(lost[len(s.lost):])
	f.known = f.known || len(s.entries) > len(s.lost)
	f.ready = s.watcher.TakeReady(f.ready[:0])
	for i, w := range f.ready {
		if f.served && f.bytes >= f.maxBytes {
			return f.ready[i:]
		}
		e := w.Owner.(*fetchEntry)
		f.read(e, true)
		if e.watch == nil && e.part != nil {
			s.link(f, e) // created anew, perhaps without anything to tell of
		}
	}
	return nil
}

// asFound is e, not lost, so that link decides anew.
func (e *fetchEntry) asFound() *fetchEntry {
	e.lost = false
	return e
}

// requeue makes those that had to stand back ready for the next poll, then
// those that were served: they may have more, and the client may not move on.
// What has no news any more does not come back by itself.
func (s *fetchSession) requeue(f *fetchCall, unread []*replication.Watch) {
	for _, w := range unread {
		s.watcher.Requeue(w)
	}
	for i := range f.resp.results {
		e := f.resp.results[i].e
		if e.watch != nil {
			s.watcher.Requeue(e.watch)
		} else if !e.lost {
			s.link(f, e)
		}
	}
}

// insert gives a new session an id and a slot, making room if it may. It
// reports false if there is none.
func (c *sessionCache) insert(s *fetchSession) bool {
	c.mu.Lock()
	now := c.now()
	s.size = len(s.entries)
	var evicted *fetchSession
	if len(c.byID) >= c.slots || c.entries+s.size > maxSessionEntries {
		if evicted = c.evictable(s, now); evicted == nil {
			c.mu.Unlock()
			return false
		}
		c.removeLocked(evicted)
	}
	ok := c.entries+s.size <= maxSessionEntries
	if ok {
		for s.id == 0 || c.byID[s.id] != nil {
			s.id = rand.Int32N(math.MaxInt32) + 1
		}
		s.created, s.used = now, now
		c.byID[s.id] = s
		c.entries += s.size
	}
	c.mu.Unlock()
	if evicted != nil {
		evicted.close()
	}
	return ok
}

// evictable is the session that has to go for s: one that has not been used
// for long, else the smallest of those that are not new, if it is smaller.
// Followers' sessions go for followers' only.
func (c *sessionCache) evictable(s *fetchSession, now time.Time) *fetchSession {
	var oldest, least *fetchSession
	for _, o := range c.byID {
		if oldest == nil || o.used.Before(oldest.used) {
			oldest = o
		}
		if now.Sub(o.created) > sessionRest && (s.privileged || !o.privileged) && (least == nil || o.before(least)) {
			least = o
		}
	}
	switch {
	case oldest != nil && now.Sub(oldest.used) > sessionRest:
		return oldest
	case least != nil && least.before(s):
		return least
	}
	return nil
}

// before orders sessions by how soon they are evicted.
func (s *fetchSession) before(o *fetchSession) bool {
	if s.privileged != o.privileged {
		return !s.privileged
	}
	return s.size < o.size
}

// touch notes that the session is used and how large it is now. It reports
// false if it is too large. The caller holds s.mu.
func (c *sessionCache) touch(s *fetchSession) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[s.id] != s {
		return true // removed meanwhile: this poll notices
	}
	c.entries += len(s.entries) - s.size
	s.size = len(s.entries)
	s.used = c.now()
	return c.entries <= maxSessionEntries
}

func (c *sessionCache) remove(id int32) {
	c.mu.Lock()
	s := c.byID[id]
	if s != nil {
		c.removeLocked(s)
	}
	c.mu.Unlock()
	if s != nil {
		s.close()
	}
}

func (c *sessionCache) removeLocked(s *fetchSession) {
	delete(c.byID, s.id)
	c.entries -= s.size
}
