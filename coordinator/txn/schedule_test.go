package txn

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// TestRandomSchedules: producers of both versions, zombies, delayed and repeated
// EndTxn requests, markers that arrive twice and late, coordinators that change
// and lose what was not committed. Whatever happens, every record ends as the
// transaction that it was written in was decided, and nothing hangs.
func TestRandomSchedules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &schedule{t: t, w: newWorld(t), parts: make(map[TopicPartition]*part), decided: make(map[txnKey]bool), commits: make(map[txnKey]bool)}
		s.w.commits = false
		for i := range 2 {
			s.clients = append(s.clients, &client{id: fmt.Sprint("x", i), version: rapid.SampledFrom([]int16{0, V2}).Draw(t, "version"), producer: newProducer})
		}
		t.Repeat(map[string]func(*rapid.T){
			"commit":           func(t *rapid.T) { s.w.commit(s.w.high + rapid.IntRange(0, len(s.w.log)-s.w.high).Draw(t, "records")) },
			"load":             func(*rapid.T) { s.w.load() },
			"time":             func(t *rapid.T) { s.w.advance(time.Duration(rapid.IntRange(0, 50).Draw(t, "seconds")) * time.Second) },
			"marker":           s.marker,
			"client":           s.act,
			"zombie":           s.zombie,
			"late":             s.late,
			"too few replicas": func(*rapid.T) { s.w.refused = kerr.NotEnoughReplicas },
			"enough replicas":  func(*rapid.T) { s.w.refused = nil },
			"":                 func(*rapid.T) { s.look() },
		})
		s.finish()
	})
}

type schedule struct {
	t       *rapid.T
	w       *world
	clients []*client
	parts   map[TopicPartition]*part
	// markers that were sent, to be repeated.
	sent []SendMarkers
	// ends are EndTxn requests of version 2 that may still arrive.
	ends []lateEnd
	// decided is what a client was told of a transaction: committed or not.
	decided map[txnKey]bool
	// commits are the transactions whose client asked for the commit.
	commits map[txnKey]bool
	records int
}

// txnKey names a transaction by where its records have their producer from. A
// producer of before version 2 has many transactions in one epoch.
type txnKey struct {
	producer
	serial int
}

type client struct {
	id      string
	version int16
	producer
	serial int
	ready  bool // has a producer id
	// tickets that wait.
	waitInit, waitEnd, waitAdd runtime.Ticket
	adding                     TopicPartition
	added                      []TopicPartition
	ended                      bool // asked for the end, not answered
	commit                     bool
}

type lateEnd struct {
	id string
	producer
	commit bool
}

// part is a partition's log, reduced to producers: what storage decides.
type part struct {
	epochs map[int64]int16
	open   map[int64][]record
	done   []outcomeOf
}

type record struct {
	key txnKey
	n   int
}

type outcomeOf struct {
	record
	committed bool
}

func (s *schedule) part(tp TopicPartition) *part {
	p := s.parts[tp]
	if p == nil {
		p = &part{epochs: make(map[int64]int16), open: make(map[int64][]record)}
		s.parts[tp] = p
	}
	return p
}

// write appends a record of a transaction that was verified.
func (p *part) write(r record) bool {
	if e, ok := p.epochs[r.key.id]; ok && r.key.epoch < e {
		return false
	}
	p.epochs[r.key.id] = r.key.epoch
	p.open[r.key.id] = append(p.open[r.key.id], r)
	return true
}

// end takes a marker by the rules of storage.Log.CheckMarker.
func (p *part) end(m SendMarkers) {
	e, known := p.epochs[m.ProducerID]
	if known && (m.Epoch < e || m.Version >= V2 && m.Epoch == e && len(p.open[m.ProducerID]) > 0) {
		return
	}
	p.epochs[m.ProducerID] = m.Epoch
	for _, r := range p.open[m.ProducerID] {
		p.done = append(p.done, outcomeOf{r, m.Commit})
	}
	delete(p.open, m.ProducerID)
}

// marker delivers markers that were asked for, the first time or once more, and
// maybe completes.
func (s *schedule) marker(t *rapid.T) {
	s.sent = append(s.sent, s.w.takeEffects()...)
	if len(s.sent) == 0 {
		return
	}
	i := rapid.IntRange(0, len(s.sent)-1).Draw(t, "which")
	m := s.sent[i]
	// Of a transactional id only the last job writes (handler.Markers).
	for _, later := range s.sent[i+1:] {
		if later.TransactionalID == m.TransactionalID {
			return
		}
	}
	if m.Version < V2 && !s.current(m) {
		return // its job has ended
	}
	for _, tp := range m.Partitions {
		s.part(tp).end(m)
	}
	if rapid.Bool().Draw(t, "complete") {
		s.complete(m)
	}
}

func (s *schedule) current(m SendMarkers) bool {
	tx := s.w.s.ids[m.TransactionalID]
	return tx != nil && tx.ending() && tx.epoch == m.Epoch && tx.producerID == m.ProducerID
}

func (s *schedule) complete(m SendMarkers) { s.w.complete(m) }

// act lets a client do what it would do next.
func (s *schedule) act(t *rapid.T) {
	c := rapid.SampledFrom(s.clients).Draw(t, "client")
	switch {
	case !c.ready:
		if c.waitInit == 0 {
			c.waitInit = s.startInit(c)
		}
	case c.ended:
		if c.waitEnd == 0 {
			c.waitEnd = s.startEnd(c.id, c.producer, c.version, c.commit) // a retry
		}
	case c.waitAdd != 0:
	default:
		if len(c.added) > 0 && rapid.Bool().Draw(t, "end") {
			c.ended, c.commit = true, rapid.Bool().Draw(t, "commit")
			if c.commit {
				s.commits[txnKey{c.producer, c.serial}] = true
			}
			if c.version >= V2 {
				s.ends = append(s.ends, lateEnd{c.id, c.producer, c.commit})
			}
			c.waitEnd = s.startEnd(c.id, c.producer, c.version, c.commit)
			return
		}
		c.adding = rapid.SampledFrom([]TopicPartition{a0, a1, b0}).Draw(t, "partition")
		c.waitAdd = s.w.startAdd(c.id, c.producer, c.version, 100*time.Millisecond, c.adding)
	}
}

func (s *schedule) startInit(c *client) runtime.Ticket {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 5, &c.id, 60_000
	s.w.nextID++
	id := s.w.nextID
	return s.w.call(func(t runtime.Ticket) runtime.Result { return s.w.s.InitProducerID(s.w.now, t, req, id) })
}

func (s *schedule) startEnd(id string, p producer, version int16, commit bool) runtime.Ticket {
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 4, id, p.id, p.epoch, commit
	if version >= V2 {
		req.Version = 5
	}
	return s.w.call(func(t runtime.Ticket) runtime.Result { return s.w.s.EndTxn(s.w.now, t, req, -1) })
}

// look takes in what clients were answered.
func (s *schedule) look() {
	for _, c := range s.clients {
		for _, waits := range []*runtime.Ticket{&c.waitInit, &c.waitAdd, &c.waitEnd} {
			if _, refused := s.w.answer(*waits).(error); refused {
				*waits = 0 // it asks again
			}
		}
		if resp, ok := s.w.answer(c.waitInit).(*kmsg.InitProducerIDResponse); ok {
			c.waitInit = 0
			if resp.ErrorCode == 0 {
				c.fresh(producer{resp.ProducerID, resp.ProducerEpoch})
			}
		}
		if errs, ok := s.w.answer(c.waitAdd).([]error); ok {
			c.waitAdd = 0
			s.addAnswered(c, errs[0])
		}
		if resp, ok := s.w.answer(c.waitEnd).(*kmsg.EndTxnResponse); ok {
			c.waitEnd = 0
			s.endAnswered(c, resp)
		}
	}
}

func (c *client) fresh(p producer) {
	c.producer, c.ready, c.ended, c.added = p, true, false, nil
	c.waitAdd, c.waitEnd = 0, 0
	c.serial++
}

func (s *schedule) addAnswered(c *client, err error) {
	switch {
	case err == nil:
		c.added = append(c.added, c.adding)
		s.records++
		s.part(c.adding).write(record{txnKey{c.producer, c.serial}, s.records})
	case errors.Is(err, kerr.ConcurrentTransactions):
	default:
		c.ready = false
	}
}

func (s *schedule) endAnswered(c *client, resp *kmsg.EndTxnResponse) {
	switch err := kerr.ErrorForCode(resp.ErrorCode); {
	case err == nil:
		s.decided[txnKey{c.producer, c.serial}] = c.commit
		next := c.producer
		if c.version >= V2 {
			next = producer{resp.ProducerID, resp.ProducerEpoch}
		}
		c.fresh(next)
	case errors.Is(err, kerr.ConcurrentTransactions):
	default:
		c.ready = false // fenced: what became of the transaction it does not know
	}
}

// zombie starts a second producer with a transactional id.
func (s *schedule) zombie(t *rapid.T) {
	c := rapid.SampledFrom(s.clients).Draw(t, "client")
	if rapid.IntRange(0, 3).Draw(t, "rarely") == 0 {
		c.ready, c.ended, c.waitInit = false, false, 0
	}
}

// late lets an old EndTxn arrive.
func (s *schedule) late(t *rapid.T) {
	if len(s.ends) > 0 {
		e := rapid.SampledFrom(s.ends).Draw(t, "end")
		s.startEnd(e.id, e.producer, V2, e.commit)
	}
}

// finish lets everything come to rest and compares.
func (s *schedule) finish() {
	s.w.refused = nil
	s.w.commit(len(s.w.log))
	s.look()
	for range 20 {
		s.w.advance(30 * time.Second)
		s.w.commit(len(s.w.log))
		s.sent = append(s.sent, s.w.takeEffects()...)
		for _, m := range s.sent {
			if s.current(m) {
				for _, tp := range m.Partitions {
					s.part(tp).end(m)
				}
				s.complete(m)
			}
		}
		s.w.commit(len(s.w.log))
		s.look()
	}
	for id, tx := range s.w.s.ids {
		if tx.state == Ongoing || tx.ending() {
			s.t.Fatalf("%s hangs in %s", id, tx.state)
		}
	}
	outcomes := make(map[txnKey][]bool)
	for tp, p := range s.parts {
		for id, open := range p.open {
			s.t.Fatalf("%v: producer %d has a transaction open for ever: %v", tp, id, open)
		}
		for _, o := range p.done {
			outcomes[o.key] = append(outcomes[o.key], o.committed)
		}
	}
	for key, all := range outcomes {
		if slices.Contains(all, true) && slices.Contains(all, false) {
			s.t.Fatalf("transaction %v is torn: %v", key, all)
		}
		if all[0] && !s.commits[key] {
			s.t.Fatalf("transaction %v is committed, its client never asked for that", key)
		}
		if told, ok := s.decided[key]; ok && told != all[0] {
			s.t.Fatalf("the client was told commit=%v of %v, its records have %v", told, key, all)
		}
	}
}
