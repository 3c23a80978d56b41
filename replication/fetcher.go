package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
)

// fetcher copies partitions from one leader. It owns one goroutine, run, and
// one connection; both end with its context.
//
//	partitions that are new or moved ──> request ──> leader
//	         ^                                          │
//	         └── take, truncate, rebase, delay <── answer
//
// The leader keeps an incremental session (KIP-227), so that a round costs what
// changed and not what is followed. A partition that fails leaves the session
// for a while and does not hold up the others.
type fetcher struct {
	link Leader
	cfg  fetchConfig
	log  zerolog.Logger
	// brokerEpoch is this broker's own.
	brokerEpoch func() int64
	// throttle holds back partitions that are listed for it; nil for none.
	throttle *throttle

	mu    sync.Mutex
	parts map[PartitionID]*followed
	// news holds what has to be looked at before the next request: added,
	// answered, or due again.
	news []*followed
	// delayed are the partitions that are out of the session until retry.
	delayed []*followed
	// forgotten left the session since the last request.
	forgotten []PartitionID
	inSession int
	// wake has room for one signal: news came while the goroutine slept.
	wake chan struct{}
	// interrupt ends the exchange under way, interruptedAt is when that was
	// done last.
	interrupt     context.CancelFunc
	interruptedAt time.Time

	// Of the goroutine:
	req      FetchRequest
	resp     FetchResponse
	session  int32
	epoch    int32 // of the session: 0 makes a new one
	failures int   // of exchanges in a row
}

// followed is one partition that a fetcher copies, in one leader epoch. All but
// the first three is under fetcher.mu.
type followed struct {
	p     *Partition
	id    PartitionID
	epoch int32

	queued    bool // is in news
	inSession bool
	at        FetchPosition // as told to the session
	retry     time.Time     // not zero: is in delayed
	// leadersMark is the high watermark that the leader told last.
	leadersMark int64
	failures    int // in a row
}

// fetchConfig is the replica.fetch.* keys.
type fetchConfig struct {
	maxBytes, responseMaxBytes, minBytes int32
	maxWait, backoff                     time.Duration
}

// firstBackoff is the pause after the first failure; it doubles with each up to
// replica.fetch.backoff.ms. Most first failures are a leader that has yet to
// hear that it is one, and producers wait for that.
const firstBackoff = 10 * time.Millisecond

// loudAfter is how many failures of a partition in a row are nothing to tell an
// operator: metadata that is on its way explains most of them.
const loudAfter = 6

func (c *fetchConfig) pause(failures int) time.Duration {
	return min(firstBackoff<<min(failures, 16), c.backoff)
}

// minInterrupts is the least time between two long polls that are cut short for
// partitions that were added: each costs a new session.
const minInterrupts = 20 * time.Millisecond

func newFetcher(link Leader, cfg fetchConfig, brokerEpoch func() int64, log zerolog.Logger) *fetcher {
	return &fetcher{
		link: link, cfg: cfg, brokerEpoch: brokerEpoch, log: log,
		parts: map[PartitionID]*followed{}, wake: make(chan struct{}, 1),
	}
}

// follow adds a partition, or moves it to another epoch.
func (f *fetcher) follow(p *Partition, epoch int32) {
	n := &followed{p: p, id: PartitionID{p.id, p.index}, epoch: epoch, leadersMark: math.MaxInt64}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.parts[n.id]; old != nil {
		if old.epoch == epoch && old.p == p {
			return
		}
		f.forget(old)
	}
	f.parts[n.id] = n
	f.enqueue(n)
	f.signal()
}

// unfollow removes a partition. What an exchange under way brings for it is
// ignored by the partition itself.
func (f *fetcher) unfollow(id PartitionID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.parts[id]; old != nil {
		f.forget(old)
		delete(f.parts, id)
	}
}

// empty reports whether nothing is followed any more.
func (f *fetcher) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.parts) == 0
}

// forget takes n out of the session. The caller holds mu.
func (f *fetcher) forget(n *followed) {
	if n.inSession {
		n.inSession = false
		f.inSession--
		f.forgotten = append(f.forgotten, n.id)
	}
}

// enqueue makes the goroutine look at n before the next request. The caller
// holds mu.
func (f *fetcher) enqueue(n *followed) {
	if !n.queued {
		n.queued = true
		f.news = append(f.news, n)
	}
}

// signal wakes the goroutine, out of a long poll too: a leader that was just
// elected cannot commit anything before its followers have spoken. The caller
// holds mu.
func (f *fetcher) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
	if f.interrupt == nil {
		return
	}
	if wait := minInterrupts - time.Since(f.interruptedAt); wait > 0 {
		time.AfterFunc(wait, f.interrupt) // does nothing to an exchange that is over by then
		return
	}
	f.interruptedAt = time.Now()
	f.interrupt()
}

// run copies until ctx ends.
func (f *fetcher) run(ctx context.Context) {
	defer f.link.Close()
	for ctx.Err() == nil {
		exchange, wait, ok := f.prepare(ctx)
		if !ok {
			f.sleep(ctx, wait)
			continue
		}
		err := f.link.Fetch(exchange, &f.req, &f.resp)
		interrupted := f.exchanged()
		if err == nil {
			err = f.resp.Err
		}
		switch {
		case err == nil:
			f.failures = 0
			f.answered(ctx)
		case ctx.Err() != nil:
		case interrupted,
			errors.Is(err, kerr.FetchSessionIDNotFound), errors.Is(err, kerr.InvalidFetchSessionEpoch), errors.Is(err, kerr.FetchSessionTopicIDError):
			f.renew()
		default:
			level := zerolog.DebugLevel
			if f.failures == 0 {
				level = zerolog.WarnLevel
			}
			f.log.WithLevel(level).Err(err).Msg("cannot fetch from the leader")
			f.renew()
			f.sleep(ctx, f.cfg.pause(f.failures))
			f.failures++
		}
	}
}

// exchanged ends the exchange and reports whether it was interrupted.
func (f *fetcher) exchanged() (interrupted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	cancel := f.interrupt
	f.interrupt = nil
	cancel()
	return len(f.news) > 0
}

// sleep waits for news, at the longest d; without a limit if d is negative.
func (f *fetcher) sleep(ctx context.Context, d time.Duration) {
	var due <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-f.wake:
	case <-due:
	case <-ctx.Done():
	}
}

// renew makes the next request begin a new session with all partitions. The id
// of the old one goes along, so that the leader lets go of what it kept.
func (f *fetcher) renew() {
	f.epoch = 0
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgotten, f.inSession = f.forgotten[:0], 0
	for _, n := range f.parts {
		n.inSession = false
		if n.retry.IsZero() {
			f.enqueue(n)
		}
	}
}

// prepare builds the next request, which ends with the context it returns. It
// is not ok if no partition can be fetched now: one can be after wait, or, if
// that is negative, none until it is added.
func (f *fetcher) prepare(ctx context.Context) (exchange context.Context, wait time.Duration, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.wake: // what it stands for is looked at now
	default:
	}
	r := &f.req
	r.Partitions, r.Forgotten = r.Partitions[:0], r.Forgotten[:0]
	wait = least(f.revive(time.Now()), f.holdBack())
	for i, n := range f.news {
		f.news[i], n.queued = nil, false
		if f.parts[n.id] == n {
			wait = least(wait, f.locate(n))
		}
	}
	f.news = f.news[:0]
	if f.inSession == 0 {
		f.epoch = 0 // a session ends with its last partition
		f.forgotten = f.forgotten[:0]
		return nil, wait, false
	}
	for _, id := range f.forgotten {
		if n := f.parts[id]; n == nil || !n.inSession {
			r.Forgotten = append(r.Forgotten, id)
		}
	}
	f.forgotten = f.forgotten[:0]
	slices.SortFunc(r.Partitions, func(a, b FetchPosition) int { return byTopic(a.PartitionID, b.PartitionID) })
	slices.SortFunc(r.Forgotten, byTopic)
	r.BrokerEpoch, r.SessionID, r.SessionEpoch = f.brokerEpoch(), f.session, f.epoch
	r.MaxWait, r.MinBytes, r.MaxBytes = f.cfg.maxWait, f.cfg.minBytes, f.cfg.responseMaxBytes
	if wait >= 0 {
		r.MaxWait = min(r.MaxWait, max(wait, time.Millisecond)) // delayed partitions come back then
	}
	exchange, f.interrupt = context.WithCancel(ctx) //nolint:gosec // exchanged calls it
	return exchange, 0, true
}

// least is the shorter of two times to wait, of which a negative one is endless.
func least(a, b time.Duration) time.Duration {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

func byTopic(a, b PartitionID) int {
	if c := bytes.Compare(a.Topic[:], b.Topic[:]); c != 0 {
		return c
	}
	return int(a.Partition) - int(b.Partition)
}

// locate puts the position of n into the request, if the session does not know
// it. wait is how long n was delayed instead, if it was. The caller holds mu.
func (f *fetcher) locate(n *followed) (wait time.Duration) {
	at, err := n.p.position(n.epoch)
	switch {
	case errors.Is(err, errNotFollowing): // metadata is about to say what it does instead
		f.forget(n)
		delete(f.parts, n.id)
		return -1
	case err != nil:
		return f.delay(n)
	}
	at.MaxBytes = f.cfg.maxBytes
	if f.heldBack(n, at.Offset) {
		return f.postpone(n, f.throttlePause())
	}
	if n.inSession && n.at == at {
		return -1
	}
	if !n.inSession {
		n.inSession = true
		f.inSession++
	}
	n.at = at
	f.req.Partitions = append(f.req.Partitions, at)
	return -1
}

// delay takes n out of the session for a while. The caller holds mu.
func (f *fetcher) delay(n *followed) time.Duration {
	pause := f.cfg.pause(n.failures)
	n.failures++
	return f.postpone(n, pause)
}

func (f *fetcher) postpone(n *followed, pause time.Duration) time.Duration {
	f.forget(n)
	n.retry = time.Now().Add(pause)
	f.delayed = append(f.delayed, n)
	return pause
}

// holdBack takes out of the session what is to be held back and has been silent
// since the throttle was exceeded: the leader would send it unasked. The caller
// holds mu.
func (f *fetcher) holdBack() (wait time.Duration) {
	wait = -1
	if f.throttle == nil || !f.throttle.exceeded() {
		return wait
	}
	for _, n := range f.parts {
		if n.inSession && !n.queued && f.heldBack(n, n.at.Offset) {
			wait = least(wait, f.postpone(n, f.throttlePause()))
		}
	}
	return wait
}

// heldBack reports whether n, whose log ends at end, is not to be asked for:
// throttled and not in sync (KIP-73). The caller holds mu.
func (f *fetcher) heldBack(n *followed, end int64) bool {
	return f.throttle != nil && n.p.throttledAsFollower.Load() && end < n.leadersMark && f.throttle.exceeded()
}

// throttlePause is when to look again at what is held back: the throttle may
// also be lifted meanwhile.
func (f *fetcher) throttlePause() time.Duration {
	return min(max(f.throttle.pause(), firstBackoff), f.cfg.backoff)
}

// revive queues the delayed partitions that are due, and returns when the next
// one is. The caller holds mu.
func (f *fetcher) revive(now time.Time) (wait time.Duration) {
	wait = -1
	f.delayed = slices.DeleteFunc(f.delayed, func(n *followed) bool {
		if f.parts[n.id] != n {
			return true
		}
		if left := n.retry.Sub(now); left > 0 {
			wait = least(wait, left)
			return false
		}
		n.retry = time.Time{}
		f.enqueue(n)
		return true
	})
	return wait
}

// answered goes through an answer.
func (f *fetcher) answered(ctx context.Context) {
	f.session = f.resp.SessionID
	f.epoch = nextSession(f.session, f.epoch)
	for i := range f.resp.Partitions {
		got := &f.resp.Partitions[i]
		f.mu.Lock()
		n := f.parts[got.PartitionID]
		known := n != nil && n.inSession
		f.mu.Unlock()
		if !known {
			continue // removed, or in another epoch by now
		}
		err := f.handle(ctx, n, got)
		f.mu.Lock()
		switch {
		case f.parts[n.id] != n:
		case err != nil:
			f.delay(n)
		default:
			n.failures = 0
			if got.Err == nil && got.Diverging == nil {
				n.leadersMark = got.HighWatermark
			}
			f.enqueue(n)
		}
		f.mu.Unlock()
	}
	if f.epoch == 0 {
		f.renew() // the leader keeps no session for us
	}
}

// nextSession is the epoch of the next request in a session; without one every
// request stands alone.
func nextSession(id, epoch int32) int32 {
	const last = 1<<31 - 1
	switch {
	case id == 0:
		return 0
	case epoch == last:
		return 1
	}
	return epoch + 1
}

// handle does what the answer for one partition asks for. On an error the
// partition is left alone for a while.
func (f *fetcher) handle(ctx context.Context, n *followed, got *Fetched) error {
	var err error
	switch {
	case errors.Is(got.Err, kerr.OffsetOutOfRange):
		err = f.rebase(ctx, n)
	case got.Err != nil:
		err = got.Err
	case got.Diverging != nil:
		err = f.truncate(n, *got.Diverging)
	default:
		err = n.p.take(n.epoch, n.at.Offset, got)
	}
	switch {
	case err == nil, errors.Is(err, errNotFollowing):
		return nil // the next look at its position settles the rest
	case errors.Is(err, kerr.CorruptMessage):
		f.log.Error().Err(err).Stringer("partition", n.p.TopicPartition()).Int64("offset", n.at.Offset).
			Msg("the leader sent a corrupt batch; it is refused and asked for again")
	default:
		level := zerolog.DebugLevel
		if n.failures == loudAfter {
			level = zerolog.WarnLevel
		}
		f.log.WithLevel(level).Err(err).Stringer("partition", n.p.TopicPartition()).Int64("offset", n.at.Offset).
			Msg("cannot follow the leader")
	}
	return err
}

// errNoCommonPast says that nothing tells up to where the logs agree: the
// leader does not know an epoch that the follower has, as after the metadata was
// restored from a backup. Asking again at once would be answered the same.
var errNoCommonPast = errors.New("the leader's epochs and the follower's have nothing in common")

func (f *fetcher) truncate(n *followed, leader EpochEnd) error {
	to, err := n.p.truncate(n.epoch, leader)
	if err == nil && to >= n.at.Offset && n.p.endsInEpoch(n.at.LastEpoch) {
		return fmt.Errorf("%w: it ends epoch %d at %d, the last one here is %d", errNoCommonPast, leader.Epoch, leader.EndOffset, n.at.LastEpoch)
	}
	if err == nil {
		f.log.Info().Stringer("partition", n.p.TopicPartition()).Int64("from", n.at.Offset).Int64("to", to).
			Int32("last_epoch", n.at.LastEpoch).Int32("leaders_epoch", leader.Epoch).Int64("leaders_end", leader.EndOffset).
			Msg("truncated to what the leader has")
	}
	return err
}

func (f *fetcher) rebase(ctx context.Context, n *followed) error {
	start, end, err := f.link.Bounds(ctx, BoundsRequest{
		ReplicaID: f.req.ReplicaID, Topic: n.p.topic, Partition: n.p.index, LeaderEpoch: n.epoch,
	})
	if err != nil {
		return err
	}
	changed, err := n.p.rebase(n.epoch, start, end)
	switch {
	case err != nil:
		return err
	case !changed:
		return fmt.Errorf("%w: it has %d to %d, but not epoch %d", errNoCommonPast, start, end, n.at.LastEpoch)
	}
	f.log.Warn().Stringer("partition", n.p.TopicPartition()).Int64("offset", n.at.Offset).
		Int64("leaders_start", start).Int64("leaders_end", end).Msg("the log lay outside of the leader's")
	return nil
}
