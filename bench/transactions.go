package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// transactor is a transactional producer that speaks transaction version 2
// (KIP-890): it just writes, and each end bumps its epoch.
type transactor struct {
	*producer
	commit *kmsg.EndTxnRequest
}

func newTransactor(s *subject, l *load) (*transactor, error) {
	p, err := newProducer(s, l)
	if err != nil {
		return nil, err
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.Version = 5
	end.TransactionalID, end.Commit = l.transactional, true
	return &transactor{p, end}, nil
}

// passingPause is how long a transactor waits where a client would wait longer.
const passingPause = time.Millisecond

// write sends one request and waits for its answer, again while the last
// transaction is not over.
func (t *transactor) write(i int) error {
	f := &t.l.frames[i%len(t.l.frames)]
	t.stamp(f)
	for {
		if err := t.c.write(f.bytes); err != nil {
			return err
		}
		err := t.answer()
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			return err
		}
		time.Sleep(passingPause)
	}
}

// end commits, and goes on with the epoch and the sequences of the next
// transaction.
func (t *transactor) end() error {
	for {
		t.commit.ProducerID, t.commit.ProducerEpoch = t.id, t.epoch
		r, err := t.c.ask(t.commit)
		if err != nil {
			return err
		}
		resp := r.(*kmsg.EndTxnResponse)
		if slices.Contains(passing, resp.ErrorCode) {
			time.Sleep(passingPause)
			continue
		}
		if err := failed("EndTxn", resp.ErrorCode); err != nil {
			return err
		}
		if resp.ProducerEpoch == t.epoch && resp.ProducerID == t.id {
			return errors.New("EndTxn: the epoch stays: not transaction version 2")
		}
		t.id, t.epoch = resp.ProducerID, resp.ProducerEpoch
		clear(t.seq)
		return nil
	}
}

// A steady producer writes every steadyGap and commits every steadyWrites
// requests: transactions of 100 ms with 480 records of 1 KiB.
const (
	steadyGap    = 10 * time.Millisecond
	steadyWrites = 10
)

var steadyShape = shape{records: 8, valueBytes: 1024, batches: 6, partitions: 6}

// txns is what the transactions of one kind cost, repetition by repetition.
type txns struct {
	rate, cpu []float64 // per second; microseconds each
	// Microseconds: EndTxn; the first write after it, which may have to wait
	// until the transaction before is over; a transaction of one record with
	// its end.
	end50, end99, first50, first99, whole50, whole99 []float64
	stolen                                           float64
}

func (x *txns) note(times []time.Duration, p50, p99 *[]float64) {
	if len(times) > 0 {
		slices.Sort(times)
		*p50, *p99 = append(*p50, quantile(times, 0.5)), append(*p99, quantile(times, 0.99))
	}
}

// transactions measures commits of a producer that writes steadily, and of
// producers whose every record is a transaction.
func (b *bench) transactions() error {
	if err := b.steadyTransactions(); err != nil {
		return err
	}
	for _, producers := range []int{1, 8} {
		if err := b.singleTransactions(producers); err != nil {
			return err
		}
	}
	return nil
}

// txnRounds runs once on every broker in turn: first, for a while, to warm
// Kafka's JVM up, then for what is noted.
func (b *bench) txnRounds(once func(s *subject, d time.Duration, out *txns) error) (map[string]*txns, error) {
	rows := map[string]*txns{}
	if b.kafka != nil {
		if err := once(b.kafka, b.latencyWarm/2, &txns{}); err != nil {
			return nil, fmt.Errorf("kafka: %w", err)
		}
	}
	for range b.reps {
		for _, s := range b.brokers() {
			if rows[s.name] == nil {
				rows[s.name] = &txns{}
			}
			if err := once(s, b.latencyTime, rows[s.name]); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			x := rows[s.name]
			n := len(x.rate) - 1
			b.logf("  %-8s %6.0f per second, %7.1f us CPU each", s.name, x.rate[n], x.cpu[n])
		}
	}
	return rows, nil
}

func (b *bench) steadyTransactions() error {
	b.logf("scenario 13: transactions of %s", steadyWrites*steadyGap)
	with, err := b.txnRounds(func(s *subject, d time.Duration, out *txns) error { return b.steadyOnce(s, true, d, out) })
	if err != nil {
		return err
	}
	b.logf("scenario 13: the same without transactions")
	without, err := b.txnRounds(func(s *subject, d time.Duration, out *txns) error { return b.steadyOnce(s, false, d, out) })
	if err != nil {
		return err
	}
	b.report.steadyTxns(fmt.Sprintf("13. Transactions of %s: %d requests of %d batches of %d KiB, then a commit", steadyWrites*steadyGap,
		steadyWrites, steadyShape.batches, steadyShape.records), names(b.brokers()), with, without)
	return nil
}

// steadyOnce writes on time for a while. Without transactions the same records
// leave at the same times, and nothing is committed.
func (b *bench) steadyOnce(s *subject, transactional bool, d time.Duration, out *txns) error {
	t, undo, err := b.newTransactors(s, 1, steadyShape, transactional)
	if err != nil {
		return err
	}
	defer undo()
	var ends, firsts []time.Duration
	n := int(d / steadyGap / steadyWrites)
	m, err := s.timed(int64(n), func() error {
		start := time.Now()
		for i := range n * steadyWrites {
			sleepUntil(start.Add(time.Duration(i) * steadyGap))
			began := time.Now()
			if err := t[0].write(i); err != nil {
				return err
			}
			if i%steadyWrites == 0 && i > 0 {
				firsts = append(firsts, time.Since(began))
			}
			if transactional && i%steadyWrites == steadyWrites-1 {
				began := time.Now()
				if err := t[0].end(); err != nil {
					return err
				}
				ends = append(ends, time.Since(began))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	out.rate, out.cpu, out.stolen = append(out.rate, m.perSecond()), append(out.cpu, m.cpuEach()), max(out.stolen, m.stolen)
	out.note(ends, &out.end50, &out.end99)
	out.note(firsts, &out.first50, &out.first99)
	return nil
}

// newTransactors makes producers, and a topic for them, of which each has as
// many partitions as its shape says to itself.
func (b *bench) newTransactors(s *subject, n int, sh shape, transactional bool) (ts []*transactor, undo func(), err error) {
	resume := b.alone(s)
	b.topics++
	topic := fmt.Sprintf("transactions-%d", b.topics)
	undo = func() {
		for _, t := range ts {
			t.c.close()
		}
		_ = s.deleteTopic(topic) // nothing depends on it
		resume()
	}
	if err := s.createTopicPatiently(topic, int32(max(n, sh.partitions))); err != nil {
		resume()
		return nil, nil, err
	}
	for i := range n {
		if transactional {
			sh.transactional = fmt.Sprintf("%s-%d", topic, i)
		}
		if n > 1 {
			sh.firstPartition = i
		}
		l, err := newLoad(topic, sh)
		if err != nil {
			undo()
			return nil, nil, err
		}
		t, err := newTransactor(s, l)
		if err != nil {
			undo()
			return nil, nil, err
		}
		ts = append(ts, t)
		if err := t.write(0); err != nil {
			undo()
			return nil, nil, err
		}
		if transactional {
			if err := t.end(); err != nil {
				undo()
				return nil, nil, err
			}
		}
	}
	time.Sleep(settle)
	return ts, undo, nil
}

func (b *bench) singleTransactions(producers int) error {
	b.logf("scenario 13: a transaction for each record, %d producers", producers)
	rows, err := b.txnRounds(func(s *subject, d time.Duration, out *txns) error { return b.singleOnce(s, producers, d, out) })
	if err != nil {
		return err
	}
	b.report.singleTxns(fmt.Sprintf("13. A transaction for each record of 100 B, %d producers in a closed loop", producers), names(b.brokers()), rows)
	return nil
}

func (b *bench) singleOnce(s *subject, producers int, d time.Duration, out *txns) error {
	ts, undo, err := b.newTransactors(s, producers, shape{records: 1, valueBytes: 100, batches: 1, partitions: 1}, true)
	if err != nil {
		return err
	}
	defer undo()
	defer manyThreads(producers + 1)()
	var mu sync.Mutex
	var ends, wholes []time.Duration
	m, err := s.timed(0, func() error {
		next := make(chan *transactor, producers)
		for _, t := range ts {
			next <- t
		}
		stop := time.Now().Add(d)
		return parallel(producers, func() error {
			t := <-next
			var e, w []time.Duration
			for i := 0; time.Now().Before(stop); i++ {
				began := time.Now()
				if err := t.write(i); err != nil {
					return err
				}
				ending := time.Now()
				if err := t.end(); err != nil {
					return err
				}
				e, w = append(e, time.Since(ending)), append(w, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			ends, wholes = append(ends, e...), append(wholes, w...)
			return nil
		})
	})
	if err != nil {
		return err
	}
	m.amount = int64(len(wholes))
	out.rate, out.cpu, out.stolen = append(out.rate, m.perSecond()), append(out.cpu, m.cpuEach()), max(out.stolen, m.stolen)
	out.note(ends, &out.end50, &out.end99)
	out.note(wholes, &out.whole50, &out.whole99)
	return nil
}
