// Command killloop kills gregor under load, again and again, and proves after
// each restart that every acknowledged record is there: once, in order, at the
// offset that the acknowledgement named, with the bytes that were sent.
//
// Idempotent producers with acks=all write numbered records into all partitions
// of a topic with small segments, and never stop: a record that a kill left
// unanswered is sent again when the broker is back. So each partition must hold
// the numbers 0, 1, 2, ... of each producer without a gap or a repetition, and
// since every record's bytes follow from its number, they are compared too.
//
//	killloop -rounds 200                 kill -9
//	killloop -rounds 20 -signal term     SIGTERM, which must also end with status 0
//	killloop -seed N                     the same random moments again
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type options struct {
	rounds, partitions, producers int
	signal                        string
	rate                          int
	segment                       string
	harness.Loop
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 200, "how often to end the broker")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topic")
	flag.IntVar(&o.producers, "producers", 3, "producers, each writing to all partitions")
	flag.StringVar(&o.signal, "signal", "kill", "kill (SIGKILL) or term (SIGTERM)")
	flag.IntVar(&o.rate, "rate", 3000, "records per second and producer, at most")
	flag.StringVar(&o.segment, "segment-bytes", "1048576", "segment size of the topic, small so that kills hit rolls")
	o.Flags()
	flag.Parse()
	fmt.Printf("killloop: seed %d, %d rounds of SIG%s, %d producers, %d partitions\n", o.Seed, o.rounds, o.signal, o.producers, o.partitions)
	o.Main(func() (string, error) { return run(o) })
}

const topic = "killloop"

func run(o options) (string, error) {
	b, end, err := o.Broker()
	if err != nil {
		return "", err
	}
	defer end()

	adm, err := kgo.NewClient(harness.LoopOptions(b.Addr)...)
	if err != nil {
		return "", err
	}
	defer adm.Close()
	configs := map[string]*string{"segment.bytes": &o.segment, "index.interval.bytes": ptr("1024")}
	if r, err := kadm.NewClient(adm).CreateTopic(context.Background(), int32(o.partitions), 1, configs, topic); err != nil || r.Err != nil {
		return "", errors.Join(err, r.Err)
	}

	ledger := newLedger(o.Seed, o.producers, o.partitions)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var load sync.WaitGroup
	failed := make(chan error, o.producers)
	stop := make(chan struct{})
	for i := range o.producers {
		load.Go(func() {
			if err := produce(ctx, b.Addr, i, o, ledger, stop); err != nil {
				failed <- fmt.Errorf("producer %d: %w", i, err)
			}
		})
	}

	rng := rand.New(rand.NewPCG(o.Seed, 7))
	kills, slowest := 0, time.Duration(0)
	for round := 1; round <= o.rounds; round++ {
		select {
		case err := <-failed:
			return "", err
		case <-time.After(time.Duration(rng.IntN(600)) * time.Millisecond):
		case <-b.Exited():
			return "", fmt.Errorf("round %d: the broker ended by itself:\n%s", round, b.Log())
		}
		acked := ledger.acknowledged()
		if err := finish(b, o.signal); err != nil {
			return "", fmt.Errorf("round %d: %w", round, err)
		}
		kills++
		if o.signal == "kill" {
			more, err := harness.CutShort(b, rng, 120*time.Millisecond)
			if err != nil {
				return "", err
			}
			kills += more
		}
		begin := time.Now()
		if err := b.Start(); err != nil {
			return "", fmt.Errorf("round %d: restart: %w", round, err)
		}
		slowest = max(slowest, time.Since(begin))
		if err := ledger.verify(ctx, b.Addr, round%25 == 0, acked); err != nil {
			return "", fmt.Errorf("round %d: %w", round, err)
		}
		if round%20 == 0 {
			fmt.Printf("round %d: %s\n", round, ledger)
		}
	}
	close(stop)
	done := make(chan struct{})
	go func() { load.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		return "", errors.New("the producers did not finish within a minute of the last restart")
	}
	select {
	case err := <-failed:
		return "", err
	default:
	}
	if err := ledger.verify(ctx, b.Addr, true, ledger.acknowledged()); err != nil {
		return "", fmt.Errorf("at the end: %w", err)
	}
	if err := ledger.complete(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d kills, %s, slowest restart %s", kills, ledger, slowest.Round(time.Millisecond)), nil
}

func finish(b *harness.Broker, signal string) error {
	if signal == "term" {
		return b.Stop()
	}
	b.Kill()
	return nil
}

func ptr[T any](v T) *T { return &v }

var codecs = []kgo.CompressionCodec{kgo.NoCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(), kgo.GzipCompression(), kgo.SnappyCompression()}

func produce(ctx context.Context, addr string, id int, o options, l *ledger, stop <-chan struct{}) error {
	cl, err := kgo.NewClient(harness.LoopOptions(addr,
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[id%len(codecs)]),
		kgo.ProducerLinger(2*time.Millisecond),
		kgo.UnknownTopicRetries(-1),
		// What the broker lost must not be glossed over with a new epoch.
		kgo.StopProducerOnDataLossDetected(),
	)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	var mu sync.Mutex
	var first error
	rng := rand.New(rand.NewPCG(l.seed, uint64(100+id)))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			if err := cl.Flush(ctx); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return first
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		mu.Lock()
		err := first
		mu.Unlock()
		if err != nil {
			return err
		}
		for range o.rate / 100 {
			p := rng.IntN(l.partitions)
			seq := l.next(id, p)
			cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(p), Value: l.value(id, p, seq)}, func(r *kgo.Record, err error) {
				if err == nil {
					err = l.acknowledge(id, p, seq, r.Offset)
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			})
		}
	}
}

// ledger is what the producers were told and what was found in the log.
type ledger struct {
	seed                  uint64
	producers, partitions int

	mu    sync.Mutex
	sent  [][]int64   // records sent, by producer and partition
	acked [][][]int64 // offsets acknowledged, by producer, partition and number; -1: not yet
	total int64

	// found is touched by the verifying goroutine alone.
	found  [][]int64 // records found so far, by producer and partition
	offset []int64   // the offset up to which each partition was verified
}

func newLedger(seed uint64, producers, partitions int) *ledger {
	l := &ledger{seed: seed, producers: producers, partitions: partitions, offset: make([]int64, partitions)}
	for range producers {
		l.sent = append(l.sent, make([]int64, partitions))
		l.acked = append(l.acked, make([][]int64, partitions))
		l.found = append(l.found, make([]int64, partitions))
	}
	return l
}

func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sent, found int64
	for i := range l.producers {
		for p := range l.partitions {
			sent += l.sent[i][p]
			found += l.found[i][p]
		}
	}
	return fmt.Sprintf("%d records sent, %d acknowledged, %d found once and in order", sent, l.total, found)
}

func (l *ledger) next(id, p int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq := l.sent[id][p]
	l.sent[id][p]++
	l.acked[id][p] = append(l.acked[id][p], -1)
	return seq
}

func (l *ledger) acknowledge(id, p int, seq, offset int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was := l.acked[id][p][seq]; was != -1 {
		return fmt.Errorf("record %d of partition %d was acknowledged at %d and again at %d", seq, p, was, offset)
	}
	l.acked[id][p][seq] = offset
	l.total++
	return nil
}

// acknowledged is, for each producer and partition, how many records at least
// the log must hold: all up to the last one acknowledged.
func (l *ledger) acknowledged() [][]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([][]int64, l.producers)
	for i := range out {
		out[i] = make([]int64, l.partitions)
		for p, offsets := range l.acked[i] {
			for seq := len(offsets) - 1; seq >= 0; seq-- {
				if offsets[seq] != -1 {
					out[i][p] = int64(seq) + 1
					break
				}
			}
		}
	}
	return out
}

// value is the record that producer id sends as number seq to partition p.
func (l *ledger) value(id, p int, seq int64) []byte {
	rng := rand.New(rand.NewPCG(l.seed^uint64(id)<<32^uint64(p), uint64(seq)))
	b := make([]byte, 16+rng.IntN(900))
	binary.BigEndian.PutUint32(b, uint32(id))
	binary.BigEndian.PutUint32(b[4:], uint32(p))
	binary.BigEndian.PutUint64(b[8:], uint64(seq))
	// Half noise, half text, so that compressed batches differ in size.
	for i := 16; i < len(b); i++ {
		if i%2 == 0 {
			b[i] = byte(rng.Uint32())
		} else {
			b[i] = 'a'
		}
	}
	return b
}

// verify reads on from where it last stopped (whole: from the start) to the end
// of each partition, and checks that everything in atLeast was found.
func (l *ledger) verify(ctx context.Context, addr string, whole bool, atLeast [][]int64) error {
	if whole {
		for i := range l.found {
			clear(l.found[i])
		}
		clear(l.offset)
	}
	cl, err := kgo.NewClient(harness.LoopOptions(addr, kgo.FetchMaxPartitionBytes(8<<20), kgo.FetchMaxWait(100*time.Millisecond))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("end offsets: %w", err)
	}
	from := map[int32]kgo.Offset{}
	for p := range l.partitions {
		end, _ := ends.Lookup(topic, int32(p))
		if end.Offset < l.offset[p] {
			return fmt.Errorf("partition %d ends at %d, but was read up to %d before", p, end.Offset, l.offset[p])
		}
		if end.Offset > l.offset[p] {
			from[int32(p)] = kgo.NewOffset().At(l.offset[p])
		}
	}
	if len(from) > 0 {
		if err := l.read(ctx, addr, from, ends); err != nil {
			return err
		}
	}
	for i := range atLeast {
		for p, n := range atLeast[i] {
			if l.found[i][p] < n {
				return fmt.Errorf("LOST: producer %d, partition %d: record %d was acknowledged (offset %d), the log ends after record %d (offset %d)",
					i, p, n-1, l.acked[i][p][n-1], l.found[i][p]-1, l.offset[p])
			}
		}
	}
	return nil
}

func (l *ledger) read(ctx context.Context, addr string, from map[int32]kgo.Offset, ends kadm.ListedOffsets) error {
	cl, err := kgo.NewClient(harness.LoopOptions(addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxPartitionBytes(4<<20), kgo.FetchMaxWait(100*time.Millisecond))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	left := len(from)
	for left > 0 {
		fs := cl.PollFetches(ctx)
		for _, e := range fs.Errors() {
			return fmt.Errorf("read partition %d from %d: %w", e.Partition, l.offset[max(e.Partition, 0)], e.Err)
		}
		for it := fs.RecordIter(); !it.Done(); {
			r := it.Next()
			end, _ := ends.Lookup(topic, r.Partition)
			if r.Offset >= end.Offset {
				continue // written meanwhile; the next round reads it
			}
			if err := l.check(r); err != nil {
				return err
			}
			if r.Offset == end.Offset-1 {
				left--
			}
		}
	}
	return nil
}

// check takes the next record of a partition.
func (l *ledger) check(r *kgo.Record) error {
	p := int(r.Partition)
	if r.Offset != l.offset[p] {
		return fmt.Errorf("partition %d: offset %d follows %d", p, r.Offset, l.offset[p]-1)
	}
	l.offset[p]++
	if len(r.Value) < 16 {
		return fmt.Errorf("partition %d, offset %d: a record of %d bytes that nobody sent", p, r.Offset, len(r.Value))
	}
	id, part, seq := int(binary.BigEndian.Uint32(r.Value)), int(binary.BigEndian.Uint32(r.Value[4:])), int64(binary.BigEndian.Uint64(r.Value[8:]))
	if id >= l.producers || part != p {
		return fmt.Errorf("partition %d, offset %d: a record of producer %d for partition %d", p, r.Offset, id, part)
	}
	switch want := l.found[id][p]; {
	case seq < want:
		return fmt.Errorf("TWICE or out of order: partition %d, offset %d: producer %d's record %d, after record %d", p, r.Offset, id, seq, want-1)
	case seq > want:
		return fmt.Errorf("GAP: partition %d, offset %d: producer %d's record %d, but %d was not seen", p, r.Offset, id, seq, want)
	}
	l.found[id][p]++
	if !bytes.Equal(r.Value, l.value(id, p, seq)) {
		return fmt.Errorf("partition %d, offset %d: the bytes of producer %d's record %d are not those that were sent", p, r.Offset, id, seq)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if acked := l.acked[id][p][seq]; acked != -1 && acked != r.Offset {
		return fmt.Errorf("partition %d: record %d of producer %d was acknowledged at %d and lies at %d", p, seq, id, acked, r.Offset)
	}
	return nil
}

// complete checks, once the producers flushed, that nothing is unanswered.
func (l *ledger) complete() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.producers {
		for p := range l.partitions {
			if l.found[i][p] != l.sent[i][p] {
				return fmt.Errorf("producer %d sent %d records to partition %d, %d are there", i, l.sent[i][p], p, l.found[i][p])
			}
			for seq, offset := range l.acked[i][p] {
				if offset == -1 {
					return fmt.Errorf("producer %d's record %d to partition %d was never acknowledged", i, seq, p)
				}
			}
		}
	}
	return nil
}
