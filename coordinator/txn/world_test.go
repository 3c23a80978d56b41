package txn

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// world drives a shard as the runtime does: with a log in memory of which a
// part is committed, replies and effects that wait for it, and time that moves
// when told.
type world struct {
	t       fataler
	cfg     *Config
	s       *Shard
	now     time.Time
	log     []runtime.Record
	commits bool // everything is committed at once
	high    int  // what is committed
	timers  map[string]time.Time
	parked  []parked
	replies map[runtime.Ticket]any
	effects []SendMarkers
	tickets runtime.Ticket
	nextID  int64
	// refused is what writes are refused with, nil when enough replicas are in sync;
	// asked is what the shard was when a handler last asked for it.
	refused error
	asked   string
	// batch is how much one append takes, 0: whatever comes.
	batch int
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

type parked struct {
	at      int
	reply   *runtime.Reply
	effects []any
}

func newWorld(t fataler) *world {
	w := &world{t: t, now: time.UnixMilli(1_000_000_000_000), commits: true, replies: make(map[runtime.Ticket]any), nextID: 1000}
	w.cfg = &Config{
		MaxTimeout: 15 * time.Minute, IDExpiration: 7 * 24 * time.Hour, TimeoutInterval: 10 * time.Second,
		ExpirationInterval: time.Hour, MaxRecordBytes: 1 << 20, Version: func() int16 { return 2 },
	}
	w.load()
	return w
}

// load replaces the shard by one that replays what is committed, as a new
// leader would. What was parked is lost.
func (w *world) load() {
	w.t.Helper()
	if !w.commits {
		w.log = w.log[:w.high]
	}
	w.parked = nil
	w.timers = make(map[string]time.Time)
	w.s = NewShard(w.cfg, w.writable)
	for i, r := range w.log {
		if err := w.s.Replay(int64(i), nil, r); err != nil {
			w.t.Fatalf("%v", err)
		}
	}
	w.apply(w.s.Loaded(w.now))
}

func (w *world) writable() error {
	if w.refused != nil {
		w.asked = w.dump()
	}
	return w.refused
}

// dump is all that the shard knows.
func (w *world) dump() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(w.s.ids)) {
		fmt.Fprintf(&b, "%+v\n", *w.s.ids[id])
	}
	return fmt.Sprintf("%s%+v", b.String(), w.s.waiting)
}

func (w *world) apply(r runtime.Result) {
	w.t.Helper()
	if w.refused != nil && len(r.Records) > 0 {
		w.t.Fatalf("%d records that cannot be written", len(r.Records))
	}
	if r.Refused != nil {
		if now := w.dump(); now != w.asked {
			w.t.Fatalf("refused, and changed from\n%s\nto\n%s", w.asked, now)
		}
		w.replies[w.tickets] = r.Refused
	}
	size := 0
	for _, rec := range r.Records {
		size += rec.Size()
	}
	if w.batch > 0 && size > w.batch && !r.Divisible { // as the runtime: none of it is done
		for _, rep := range r.Replies {
			w.replies[rep.Ticket] = kerr.MessageTooLarge
		}
		return
	}
	for _, rec := range r.Records {
		if err := w.s.Replay(int64(len(w.log)), r.Producer, rec); err != nil {
			w.t.Fatalf("%v", err)
		}
		w.log = append(w.log, rec)
	}
	for _, tm := range r.Timers {
		if tm.At.IsZero() {
			delete(w.timers, tm.Key)
		} else {
			w.timers[tm.Key] = tm.At
		}
	}
	for _, rep := range r.Replies {
		w.parked = append(w.parked, parked{at: len(w.log), reply: &rep})
	}
	w.parked = append(w.parked, parked{at: len(w.log), effects: r.Effects})
	if w.commits {
		w.commit(len(w.log))
	}
}

// commit raises the high watermark.
func (w *world) commit(high int) {
	w.t.Helper()
	w.high = max(w.high, high)
	for len(w.parked) > 0 && w.parked[0].at <= w.high {
		p := w.parked[0]
		w.parked = w.parked[1:]
		if p.reply != nil {
			if _, ok := w.replies[p.reply.Ticket]; ok {
				w.t.Fatalf("ticket %d is answered twice", p.reply.Ticket)
			}
			w.replies[p.reply.Ticket] = p.reply.Response
		}
		for _, e := range p.effects {
			w.effects = append(w.effects, e.(SendMarkers))
		}
	}
}

func (w *world) advance(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for {
		first := ""
		for k, at := range w.timers {
			if !at.After(end) && (first == "" || at.Before(w.timers[first]) || (at.Equal(w.timers[first]) && k < first)) {
				first = k
			}
		}
		if first == "" {
			w.now = end
			return
		}
		w.now = w.timers[first]
		delete(w.timers, first)
		w.apply(w.s.Timeout(w.now, first))
	}
}

func (w *world) call(h func(t runtime.Ticket) runtime.Result) runtime.Ticket {
	w.tickets++
	w.apply(h(w.tickets))
	return w.tickets
}

// answer is the reply to a ticket, nil while there is none.
func (w *world) answer(t runtime.Ticket) any { return w.replies[t] }

type producer struct {
	id    int64
	epoch int16
}

var newProducer = producer{-1, -1}

func (w *world) init(id string, known producer) (producer, error) {
	w.t.Helper()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 5, &id, 60_000
	req.ProducerID, req.ProducerEpoch = known.id, known.epoch
	t := w.call(func(t runtime.Ticket) runtime.Result { return w.s.InitProducerID(w.now, t, req, -1) })
	if _, needs := w.answer(t).(NeedProducerID); needs {
		w.nextID++
		t = w.call(func(t runtime.Ticket) runtime.Result { return w.s.InitProducerID(w.now, t, req, w.nextID) })
	}
	resp, ok := w.answer(t).(*kmsg.InitProducerIDResponse)
	if !ok {
		return newProducer, errNotYet
	}
	return producer{resp.ProducerID, resp.ProducerEpoch}, kerr.ErrorForCode(resp.ErrorCode)
}

var errNotYet = errors.New("not answered yet")

func (w *world) mustInit(id string) producer {
	w.t.Helper()
	p, err := w.init(id, newProducer)
	if err != nil {
		w.t.Fatalf("init %q: %v", id, err)
	}
	return p
}

func (w *world) startAdd(id string, p producer, version int16, patience time.Duration, tps ...TopicPartition) runtime.Ticket {
	w.t.Helper()
	return w.call(func(t runtime.Ticket) runtime.Result {
		return w.s.AddPartitions(w.now, t, AddPartitions{
			TransactionalID: id, ProducerID: p.id, Epoch: p.epoch, Partitions: tps, Version: version, Patience: patience,
		})
	})
}

func (w *world) added(t runtime.Ticket) error {
	errs, ok := w.answer(t).([]error)
	if !ok {
		return errNotYet
	}
	return errors.Join(errs...)
}

func (w *world) add(id string, p producer, version int16, tps ...TopicPartition) error {
	w.t.Helper()
	return w.added(w.startAdd(id, p, version, 0, tps...))
}

func (w *world) verify(id string, p producer, tp TopicPartition) error {
	w.t.Helper()
	return w.added(w.call(func(t runtime.Ticket) runtime.Result {
		return w.s.AddPartitions(w.now, t, AddPartitions{
			TransactionalID: id, ProducerID: p.id, Epoch: p.epoch, Partitions: []TopicPartition{tp}, VerifyOnly: true,
		})
	}))
}

// end sends EndTxn: v5 with version 2, else v4.
func (w *world) end(id string, p producer, version int16, commit bool) (producer, error) {
	w.t.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 4, id, p.id, p.epoch, commit
	if version >= V2 {
		req.Version = 5
	}
	t := w.call(func(t runtime.Ticket) runtime.Result { return w.s.EndTxn(w.now, t, req, -1) })
	if _, needs := w.answer(t).(NeedProducerID); needs {
		w.nextID++
		t = w.call(func(t runtime.Ticket) runtime.Result { return w.s.EndTxn(w.now, t, req, w.nextID) })
	}
	resp, ok := w.answer(t).(*kmsg.EndTxnResponse)
	if !ok {
		return p, errNotYet
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return p, err
	}
	if version >= V2 {
		p = producer{resp.ProducerID, resp.ProducerEpoch}
	}
	return p, nil
}

// takeEffects returns the markers asked for since the last call.
func (w *world) takeEffects() []SendMarkers {
	e := w.effects
	w.effects = nil
	return e
}

func (w *world) complete(m SendMarkers) {
	w.t.Helper()
	w.call(func(t runtime.Ticket) runtime.Result {
		return w.s.Complete(w.now, t, Completion{TransactionalID: m.TransactionalID, ProducerID: m.ProducerID, Epoch: m.Epoch, Commit: m.Commit, DecidedMs: m.DecidedMs})
	})
}

func (w *world) completeAll() {
	w.t.Helper()
	for _, m := range w.takeEffects() {
		w.complete(m)
	}
}

func (w *world) state(id string) string {
	tx := w.s.ids[id]
	if tx == nil {
		return "none"
	}
	return fmt.Sprintf("%s %d/%d", tx.state, tx.producerID, tx.epoch)
}

func (w *world) want(id, want string) {
	w.t.Helper()
	if got := w.state(id); got != want {
		w.t.Fatalf("%q is %s, want %s", id, got, want)
	}
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if target == nil && err != nil || target != nil && !errors.Is(err, target) {
		t.Fatalf("got %v, want %v", err, target)
	}
}

var (
	a0 = TopicPartition{"a", 0}
	a1 = TopicPartition{"a", 1}
	b0 = TopicPartition{"b", 0}
)
