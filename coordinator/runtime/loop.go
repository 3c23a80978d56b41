package runtime

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// loop is one shard with the goroutine that owns it.
//
// Invariants, all on that goroutine:
//   - next == the log end offset once pending is appended; the shard is the
//     only writer of its partition.
//   - state == log[0:next) replayed.
//   - parked is ordered by offset, and every offset in it is <= next.
type loop[S Shard] struct {
	o         *Options[S]
	partition int32
	epoch     int32
	log       PartitionLog

	mu      sync.Mutex
	queue   []call[S]
	stopped bool

	// wake holds one token: the queue, the high watermark or stopped changed.
	wake          chan struct{}
	highWatermark atomic.Int64
	loaded        atomic.Bool

	// What follows belongs to the goroutine.
	shard   S
	timers  *timers
	next    int64
	pending pending
	parked  []parkedReply
	// waiting are the callers that hold tickets, minus those answered.
	waiting map[Ticket]chan<- outcome
	tickets Ticket
}

type call[S Shard] struct {
	handle Handler[S]
	reply  chan<- outcome
}

type outcome struct {
	response any
	err      error
}

// pending collects the records of several requests for one append.
type pending struct {
	records  []Record
	producer *Producer
	bytes    int
}

// parkedReply waits for the high watermark to reach offset: an answer to a
// caller, or an effect, for which to is nil.
type parkedReply struct {
	offset int64
	to     chan<- outcome
	what   outcome
	effect any
}

func newLoop[S Shard](o *Options[S], partition, epoch int32, log PartitionLog) *loop[S] {
	return &loop[S]{
		o: o, partition: partition, epoch: epoch, log: log,
		wake: make(chan struct{}, 1),
	}
}

// call queues a handler and waits for its answer.
func (l *loop[S]) call(ctx context.Context, h Handler[S]) (any, error) {
	reply := make(chan outcome, 1)
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return nil, l.errNotCoordinator()
	}
	if !l.loaded.Load() {
		l.mu.Unlock()
		return nil, fmt.Errorf("%s coordinator, partition %d: %w", l.o.Name, l.partition, kerr.CoordinatorLoadInProgress)
	}
	l.queue = append(l.queue, call[S]{h, reply})
	l.mu.Unlock()
	l.signal()
	select {
	case o := <-reply:
		return o.response, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *loop[S]) errNotCoordinator() error {
	return fmt.Errorf("%s coordinator, partition %d: %w", l.o.Name, l.partition, kerr.NotCoordinator)
}

// signal wakes the goroutine. It never blocks: it is called under the lock of
// a partition.
func (l *loop[S]) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *loop[S]) stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.signal()
}

func (l *loop[S]) isStopped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

// run owns the shard until stop. Each round loads the shard from the log and
// serves it until it stops or an append fails.
func (l *loop[S]) run() {
	cancel := l.log.OnHighWatermark(func(hw int64) {
		l.raiseHighWatermark(hw)
		l.signal()
	})
	defer cancel()
	defer func() { l.failCallers(l.errNotCoordinator()) }()
	for !l.isStopped() {
		if err := l.load(); err != nil {
			l.o.Log.Error().Err(err).Str("coordinator", l.o.Name).Int32("partition", l.partition).
				Msg("cannot load the coordinator's state; its partition stays without a coordinator")
			l.stop()
			return
		}
		if l.isStopped() {
			return
		}
		err := l.serve()
		if err == nil {
			return
		}
		l.o.Log.Warn().Err(err).Str("coordinator", l.o.Name).Int32("partition", l.partition).
			Msg("append failed: loading the coordinator's state again")
		l.failCallers(err)
	}
}

func (l *loop[S]) raiseHighWatermark(hw int64) {
	for {
		old := l.highWatermark.Load()
		if hw <= old || l.highWatermark.CompareAndSwap(old, hw) {
			return
		}
	}
}

// failCallers answers everybody who waits, and turns new callers away until
// the shard is loaded again.
func (l *loop[S]) failCallers(err error) {
	l.mu.Lock()
	l.loaded.Store(false)
	queue := l.queue
	l.queue = nil
	l.mu.Unlock()
	for _, p := range l.parked {
		if p.to != nil {
			p.to <- outcome{err: err}
		}
	}
	for _, w := range l.waiting {
		w <- outcome{err: err}
	}
	for _, c := range queue {
		c.reply <- outcome{err: err}
	}
	l.parked, l.waiting, l.pending = nil, nil, pending{}
}

// serve handles what comes in until the shard stops (nil) or an append fails.
func (l *loop[S]) serve() error {
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	if err := l.apply(l.shard.Loaded(l.o.Now()), 0); err != nil {
		return err
	}
	for {
		queue, stopped := l.take()
		if stopped {
			l.failQueue(queue)
			return nil
		}
		if err := l.handle(queue); err != nil {
			return err
		}
		if err := l.fireTimers(); err != nil {
			return err
		}
		if err := l.flush(); err != nil {
			return err
		}
		l.release()
		l.await(alarm)
	}
}

func (l *loop[S]) take() (queue []call[S], stopped bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue = l.queue
	l.queue = nil
	return queue, l.stopped
}

func (l *loop[S]) failQueue(queue []call[S]) {
	for _, c := range queue {
		c.reply <- outcome{err: l.errNotCoordinator()}
	}
}

// await sleeps until there is something to do.
func (l *loop[S]) await(alarm *time.Timer) {
	var alarmC <-chan time.Time
	if at, ok := l.timers.next(); ok {
		alarm.Reset(max(0, at.Sub(l.o.Now())))
		alarmC = alarm.C
	}
	select {
	case <-l.wake:
	case <-alarmC:
	}
}

func (l *loop[S]) handle(queue []call[S]) error {
	for i, c := range queue {
		l.tickets++
		t := l.tickets
		l.waiting[t] = c.reply
		if err := l.apply(c.handle(l.shard, l.o.Now(), t), t); err != nil {
			for _, rest := range queue[i+1:] {
				rest.reply <- outcome{err: err}
			}
			return err
		}
	}
	return nil
}

func (l *loop[S]) fireTimers() error {
	for {
		now := l.o.Now()
		key, due := l.timers.pop(now)
		if !due {
			return nil
		}
		if err := l.apply(l.shard.Timeout(now, key), 0); err != nil {
			return err
		}
	}
}

// apply does what a handler asked for. An error means that the state is ahead
// of the log and has to be loaded again.
func (l *loop[S]) apply(r Result, from Ticket) error {
	for _, t := range r.Timers {
		l.timers.set(t.Key, t.At)
	}
	if err := r.Refused; err != nil {
		l.answer(from, err)
		return nil
	}
	size, most := recordsSize(r.Records), l.log.MaxBatchBytes()
	if size > most && !r.Divisible {
		if r.SkipReplay {
			return fmt.Errorf("%d bytes of records in one request: %w", size, kerr.MessageTooLarge)
		}
		// Nothing was replayed: the caller alone is refused, the state stands.
		l.refuse(r, from, fmt.Errorf("%d bytes of records in one request: %w", size, kerr.MessageTooLarge))
		return nil
	}
	if r.Refusable && (r.Marker != nil || len(r.Records) > 0) {
		if err := l.log.Writable(); err != nil {
			l.answer(from, err)
			return nil
		}
	}
	if r.Check != nil {
		if r.Marker != nil || !sameProducer(l.pending.producer, r.Producer) {
			if err := l.flush(); err != nil {
				return err
			}
		}
		if err := r.Check(); err != nil {
			l.refuse(r, from, err)
			return nil
		}
	}
	if err := l.writeParts(r, size, most); err != nil {
		return err
	}
	for _, reply := range r.Replies {
		l.park(reply)
	}
	for _, e := range r.Effects {
		l.parked = append(l.parked, parkedReply{offset: l.next, effect: e})
	}
	return nil
}

func (l *loop[S]) refuse(r Result, from Ticket, err error) {
	l.park(Reply{Ticket: from, Err: err})
	for _, reply := range r.Replies {
		if reply.Ticket != from {
			l.park(Reply{Ticket: reply.Ticket, Err: err})
		}
	}
}

// answer refuses one caller at once: what was written before may be long in
// becoming committed.
func (l *loop[S]) answer(from Ticket, err error) {
	if to, ok := l.waiting[from]; ok {
		delete(l.waiting, from)
		to <- outcome{err: err}
	}
}

// writeParts writes a result whose records may be more than one append takes:
// then so many at a time as it does.
func (l *loop[S]) writeParts(r Result, size, most int) error {
	records := r.Records
	for size > most {
		n, part := 0, 0
		for n < len(records) && (n == 0 || part+records[n].Size() <= most) {
			part += records[n].Size()
			n++
		}
		r.Records = records[:n]
		if err := l.write(r, part, most); err != nil {
			return err
		}
		records, size = records[n:], size-part
	}
	r.Records = records
	return l.write(r, size, most)
}

// write replays a result's records and puts them into the pending batch,
// appending that first where they cannot share it.
func (l *loop[S]) write(r Result, size, most int) error {
	if r.Marker != nil {
		return l.writeMarker(*r.Marker)
	}
	if len(r.Records) == 0 {
		return nil
	}
	if l.pending.bytes+size > most || !sameProducer(l.pending.producer, r.Producer) {
		if err := l.flush(); err != nil {
			return err
		}
	}
	for _, rec := range r.Records {
		if !r.SkipReplay {
			if err := l.shard.Replay(l.next, r.Producer, rec); err != nil {
				return fmt.Errorf("replay of a record at offset %d: %w", l.next, err)
			}
		}
		l.next++
	}
	l.pending.records = append(l.pending.records, r.Records...)
	l.pending.producer = r.Producer
	l.pending.bytes += size
	return nil
}

func (l *loop[S]) writeMarker(m Marker) error {
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.append(Batch{Marker: &m}, 1); err != nil {
		return err
	}
	if err := l.shard.ReplayMarker(l.next, m); err != nil {
		return fmt.Errorf("replay of a marker at offset %d: %w", l.next, err)
	}
	l.next++
	return nil
}

// flush appends what is pending.
func (l *loop[S]) flush() error {
	n := len(l.pending.records)
	if n == 0 {
		return nil
	}
	p := l.pending
	l.pending = pending{}
	l.next -= int64(n)
	if err := l.append(Batch{Records: p.records, Producer: p.producer}, n); err != nil {
		return err
	}
	l.next += int64(n)
	return nil
}

func (l *loop[S]) append(b Batch, n int) error {
	b.LeaderEpoch = l.epoch
	b.Timestamp = l.o.Now()
	first, err := l.log.Append(b)
	if err != nil {
		return fmt.Errorf("append of %d records: %w", n, err)
	}
	if first != l.next {
		return fmt.Errorf("append of %d records went to offset %d instead of %d: another writer", n, first, l.next)
	}
	return nil
}

// park holds a reply back until what was written so far is committed.
func (l *loop[S]) park(r Reply) {
	to, ok := l.waiting[r.Ticket]
	if !ok {
		return // answered already, or nobody asked (a timer's result)
	}
	delete(l.waiting, r.Ticket)
	l.parked = append(l.parked, parkedReply{offset: l.next, to: to, what: outcome{r.Response, r.Err}})
}

// release lets the replies and effects go whose records are committed.
func (l *loop[S]) release() {
	hw := l.highWatermark.Load()
	n := 0
	for n < len(l.parked) && l.parked[n].offset <= hw {
		if p := &l.parked[n]; p.to != nil {
			p.to <- p.what
		} else {
			l.o.OnEffect(l.partition, l.epoch, p.effect)
		}
		n++
	}
	clear(l.parked[:n])
	l.parked = l.parked[n:]
	if len(l.parked) == 0 {
		l.parked = nil
	}
}

func recordsSize(records []Record) int {
	n := 0
	for _, r := range records {
		n += r.Size()
	}
	return n
}

func sameProducer(a, b *Producer) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
