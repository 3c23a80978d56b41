package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// latency measures acknowledgements at a fixed rate: records leave when they
// are due, whatever the answers do, and their time counts from then.
func (b *bench) latency() error {
	for _, rate := range []int{1000, 5000} {
		b.logf("scenario 7: latency, %d records/s of 100 B, acks=all", rate)
		rows := map[string]*latencies{}
		var order []string
		for _, s := range b.subjects() {
			rows[s.name] = &latencies{}
			order = append(order, s.name)
		}
		for range b.reps {
			for _, s := range b.subjects() {
				q, err := b.latencyOnce(s, rate)
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				rows[s.name].add(q, rate)
				sec := rows[s.name]
				n := len(sec.p50) - 1
				b.logf("  %-8s last second: p50 %5.0f  p99 %6.0f  p99.9 %6.0f us; %.1f us CPU per record, stolen %.1f%%",
					s.name, sec.p50[n], sec.p99[n], sec.p999[n], q.cpu, 100*q.stolen)
			}
		}
		b.report.latencies(fmt.Sprintf("7. Acknowledgement at %d records/s (open loop, 100 B, acks=all), microseconds; median second", rate), order, rows)
		if b.kafka != nil && rate == 1000 {
			// Of all records: in a second of 1,000 it would be the last but one
			// alone, and the median of those says nothing of the tail.
			b.report.aim("p99.9 of an acknowledgement at 1,000 records/s against Kafka, of all records",
				rows["gregor"].tail(0.999)/rows["kafka"].tail(0.999), 0.2)
		}
	}
	return nil
}

// paces is one repetition: how long each acknowledgement took, in order, and
// the broker's CPU time for each, in microseconds.
type paces struct {
	took        []time.Duration
	cpu, stolen float64
}

// latencies are the quantiles of each second: a machine that stands still for
// some milliseconds now and then, whoever's fault it is, spoils the tail of one
// second, and not the median. all has the tail of everything.
type latencies struct {
	p50, p99, p999, cpu []float64
	all                 []time.Duration
	mostStolen          float64
}

func (l *latencies) add(q paces, rate int) {
	l.cpu, l.mostStolen = append(l.cpu, q.cpu), max(l.mostStolen, q.stolen)
	l.all = append(l.all, q.took...)
	for second := range slices.Chunk(q.took, rate) {
		slices.Sort(second)
		l.p50 = append(l.p50, quantile(second, 0.5))
		l.p99 = append(l.p99, quantile(second, 0.99))
		l.p999 = append(l.p999, quantile(second, 0.999))
	}
}

// tail is the quantile of all acknowledgements.
func (l *latencies) tail(q float64) float64 {
	slices.Sort(l.all)
	return quantile(l.all, q)
}

// quantile of sorted durations, in microseconds: what the share q does not
// exceed.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]) / 1e3
}

// alone stops the brokers other than s until it is undone.
func (b *bench) alone(s *subject) (undo func()) {
	for _, other := range b.subjects() {
		if other != s {
			other.pause()
		}
	}
	return func() {
		for _, other := range b.subjects() {
			if other != s {
				other.resume()
			}
		}
	}
}

// favour has the subject and this process go before strangers until it is
// undone.
func (b *bench) favour(s *subject) (undo func()) {
	for _, pid := range []int{s.pid, os.Getpid()} {
		b.favoured = favour(pid, true)
	}
	return func() {
		favour(s.pid, false)
		favour(os.Getpid(), false)
	}
}

// latencyOnce has the subject alone on its CPU: the others are stopped, and
// strangers stand back.
func (b *bench) latencyOnce(s *subject, rate int) (paces, error) {
	defer b.alone(s)()
	b.topics++
	l, err := newLoad(fmt.Sprintf("latency-%d", b.topics), shape{records: 1, valueBytes: 100, batches: 1, partitions: 1})
	if err != nil {
		return paces{}, err
	}
	var p *producer
	if s.broker == nil {
		p = &producer{l: l, seq: make([]int32, 1), floor: true}
		if p.c, err = dialRaw(s.addr); err == nil {
			err = p.c.write(fmt.Appendf(nil, "echo %d %d\n", len(l.frames[0].bytes), 64))
		}
	} else {
		if err := s.createTopicPatiently(l.topic, 1); err != nil {
			return paces{}, err
		}
		defer s.deleteTopic(l.topic) //nolint:errcheck // nothing depends on it
		p, err = newProducer(s, l)
	}
	if err != nil {
		return paces{}, err
	}
	defer p.c.close()
	defer b.favour(s)()
	if s.broker != nil {
		time.Sleep(time.Second) // it was stopped, and catches up
	}
	warm := b.latencyTime / 4
	if s.name == "kafka" && !b.latencyWarmed {
		warm, b.latencyWarmed = b.latencyWarm, true
	}
	if _, err := p.paced(5000, warm); err != nil {
		return paces{}, err
	}
	return s.pace(func() ([]time.Duration, error) { return p.paced(rate, b.latencyTime) })
}

// pace says what f cost the subject, which returns how long each of its
// requests took.
func (s *subject) pace(f func() ([]time.Duration, error)) (paces, error) {
	var took []time.Duration
	m, err := s.timed(0, func() (err error) {
		took, err = f()
		return err
	})
	return paces{took, m.cpu.Seconds() * 1e6 / float64(len(took)), m.stolen}, err
}

// createTopicPatiently creates a topic on a broker that was stopped for a while
// and may first have to find its place again.
func (s *subject) createTopicPatiently(topic string, partitions int32) error {
	var err error
	for range 20 {
		time.Sleep(settle)
		if err = s.createTopic(topic, partitions); err == nil {
			return nil
		}
	}
	return err
}

// paced sends requests at a rate and returns how long each took from when it
// was due until its answer was there.
func (p *producer) paced(rate int, d time.Duration) ([]time.Duration, error) {
	return openLoop(rate, d, 1, func(i int) error {
		f := &p.l.frames[i%len(p.l.frames)]
		p.stamp(f)
		return p.c.write(f.bytes)
	}, func(int) error {
		if p.floor {
			_, err := p.c.readN(64)
			return err
		}
		return p.answer()
	})
}

// openLoop sends a request whenever one is due, whatever the answers do, in turn
// over some connections, and returns how long each took from when it was due
// until its answer was there. send is called by one goroutine, receive by one
// for each connection, in the order of its requests.
func openLoop(rate int, d time.Duration, connections int, send, receive func(i int) error) ([]time.Duration, error) {
	if connections > 1 {
		defer manyThreads(connections + 1)()
	}
	n := int(d.Seconds() * float64(rate))
	gap := time.Second / time.Duration(rate)
	took := make([]time.Duration, n)
	start := time.Now().Add(10 * time.Millisecond)
	due := func(i int) time.Time { return start.Add(time.Duration(i) * gap) }
	errs := make(chan error, connections+1)
	go func() {
		// A thread of its own that sleeps exactly.
		runtime.LockOSThread()
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		errs <- forEach(0, n, 1, func(i int) error {
			sleepUntil(due(i))
			return send(i)
		})
	}()
	for c := range connections {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			errs <- forEach(c, n, connections, func(i int) error {
				err := receive(i)
				took[i] = time.Since(due(i))
				return err
			})
		}()
	}
	var err error
	for range connections + 1 {
		err = errors.Join(err, <-errs)
	}
	return took, err
}

// manyThreads lets n goroutines go on while others block in system calls, until it
// is undone: on one CPU Go would keep them waiting for a while.
func manyThreads(n int) (undo func()) {
	before := runtime.GOMAXPROCS(n)
	return func() { runtime.GOMAXPROCS(before) }
}

func forEach(from, to, step int, f func(i int) error) error {
	for i := from; i < to; i += step {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

func sleepUntil(t time.Time) {
	for {
		d := time.Until(t)
		if d <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil)
	}
}
