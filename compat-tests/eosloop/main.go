// Command eosloop kills gregor while records are moved from one topic to
// another in transactions, and proves that each arrives exactly once.
//
// Transformers in one consumer group read numbered records, write each to the
// same partition of the output topic and commit their offsets in the same
// transaction; one transaction in five they abort. The broker is ended with
// SIGKILL at random moments, and so are transformers: they are left alone in
// the middle of a transaction, and another one takes over. At the end a
// read_committed consumer must see each number of each partition once and in
// order.
//
//	eosloop -rounds 20
//	eosloop -seed N        the same random moments again
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

const input, output, group = "eos-input", "eos-output", "eos"

type options struct {
	rounds, partitions, transformers, rate int
	harness.Loop
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 20, "how often to kill the broker")
	flag.IntVar(&o.partitions, "partitions", 4, "partitions of each topic")
	flag.IntVar(&o.transformers, "transformers", 2, "members of the group")
	flag.IntVar(&o.rate, "rate", 1000, "records per second")
	o.Flags()
	flag.Parse()
	fmt.Printf("eosloop: seed %d, %d rounds\n", o.Seed, o.rounds)
	o.Main(func() (string, error) { return run(o) })
}

type loop struct {
	o    options
	addr string

	sent             []int64 // records of each input partition
	committed, undid atomic.Int64
	zombies          atomic.Int64
}

func run(o options) (string, error) {
	b, end, err := o.Broker("transaction.abort.timed.out.transaction.cleanup.interval.ms=500", "group.initial.rebalance.delay.ms=0")
	if err != nil {
		return "", err
	}
	defer end()
	l := &loop{o: o, addr: b.Addr, sent: make([]int64, o.partitions)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cl, err := kgo.NewClient(harness.LoopOptions(l.addr, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(2*time.Millisecond))...)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	for _, t := range []string{input, output} {
		if r, err := kadm.NewClient(cl).CreateTopic(ctx, int32(o.partitions), 1, nil, t); err != nil || r.Err != nil {
			return "", errors.Join(err, r.Err)
		}
	}

	var work sync.WaitGroup
	failed := make(chan error, 1+o.transformers)
	stop := make(chan struct{})
	work.Go(func() {
		if err := l.fill(ctx, cl, stop); err != nil {
			failed <- err
		}
	})
	moved := make(chan struct{})
	var movers sync.WaitGroup
	for i := range o.transformers {
		movers.Go(func() {
			if err := l.transform(ctx, i, moved); err != nil {
				failed <- fmt.Errorf("transformer %d: %w", i, err)
			}
		})
	}
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	for round := 1; round <= o.rounds; round++ {
		select {
		case err := <-failed:
			return "", err
		case <-time.After(time.Duration(100+rng.IntN(2500)) * time.Millisecond):
		}
		b.Kill()
		if err := b.Start(); err != nil {
			return "", fmt.Errorf("round %d: restart: %w", round, err)
		}
		if round%10 == 0 {
			fmt.Printf("round %d: %d transactions committed, %d aborted, %d transformers abandoned\n", round, l.committed.Load(), l.undid.Load(), l.zombies.Load())
		}
	}
	close(stop)
	work.Wait()
	err = l.verify(ctx)
	close(moved)
	cancel()
	movers.Wait()
	select {
	case e := <-failed:
		err = errors.Join(err, e)
	default:
	}
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, b.Log())
	}
	return fmt.Sprintf("%v records, %d transactions committed, %d aborted, %d transformers abandoned", l.sent, l.committed.Load(), l.undid.Load(), l.zombies.Load()), nil
}

// fill writes numbers into the input until stop.
func (l *loop) fill(ctx context.Context, cl *kgo.Client, stop <-chan struct{}) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return cl.Flush(ctx)
		case <-tick.C:
		}
		var batch []*kgo.Record
		for range max(1, l.o.rate/100/l.o.partitions) {
			for p := range l.sent {
				batch = append(batch, &kgo.Record{Topic: input, Partition: int32(p), Value: strconv.AppendInt(nil, l.sent[p], 10)})
				l.sent[p]++
			}
		}
		if err := cl.ProduceSync(ctx, batch...).FirstErr(); err != nil {
			return fmt.Errorf("input: %w", err)
		}
	}
}

// transform moves records, as one client after the other.
func (l *loop) transform(ctx context.Context, id int, done <-chan struct{}) error {
	rng := rand.New(rand.NewPCG(l.o.Seed, uint64(100+id)))
	for ctx.Err() == nil {
		select {
		case <-done:
			return nil
		default:
		}
		if err := l.session(ctx, id, rng); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// session runs one client until it fails or is abandoned in the middle of a
// transaction, which leaves it to the broker to fence it.
func (l *loop) session(ctx context.Context, id int, rng *rand.Rand) error {
	s, err := kgo.NewGroupTransactSession(harness.LoopOptions(l.addr,
		kgo.TransactionalID(fmt.Sprint("eos-", id)), kgo.TransactionTimeout(10*time.Second),
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(input), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RequireStableFetchOffsets(), kgo.SessionTimeout(6*time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchMaxWait(100*time.Millisecond),
	)...)
	if err != nil {
		return err
	}
	for n := rng.IntN(60); ; n-- {
		if ctx.Err() != nil {
			s.Close()
			return nil
		}
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := s.PollRecords(poll, 200)
		cancel()
		if err := s.Begin(); err != nil {
			s.Close()
			return nil
		}
		fetches.EachRecord(func(r *kgo.Record) {
			s.Produce(ctx, &kgo.Record{Topic: output, Partition: r.Partition, Value: r.Value}, nil)
		})
		if n < 0 && rng.IntN(2) == 0 {
			l.zombies.Add(1)
			flush, cancel := context.WithTimeout(ctx, time.Second)
			_ = s.Client().Flush(flush)
			cancel()
			s.Close() // which ends no transaction
			return nil
		}
		end, cancel := context.WithTimeout(ctx, 30*time.Second)
		committed, err := s.End(end, kgo.TransactionEndTry(rng.IntN(5) > 0))
		cancel()
		switch {
		case err != nil || n < 0: // the next client goes on from what is committed
			s.Close()
			return nil
		case committed:
			l.committed.Add(1)
		default:
			l.undid.Add(1)
		}
	}
}

// verify reads the output until everything is there.
func (l *loop) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(harness.LoopOptions(l.addr, kgo.ConsumeTopics(output), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	next := make([]int64, l.o.partitions)
	complete := func() bool {
		for p, n := range next {
			if n < l.sent[p] {
				return false
			}
		}
		return true
	}
	for !complete() {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("the output stays at %v of %v", next, l.sent)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			n, err := strconv.ParseInt(string(r.Value), 10, 64)
			if err != nil {
				return err
			}
			if n != next[r.Partition] {
				return fmt.Errorf("partition %d offset %d has number %d, not %d", r.Partition, r.Offset, n, next[r.Partition])
			}
			next[r.Partition]++
		}
	}
	return nil
}
