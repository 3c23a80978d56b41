// Command grouploop kills gregor in the middle of commits and rebalances, again
// and again, and proves after each restart that every acknowledged commit is
// there, and every so often that every group resumes.
//
// Groups of every kind (classic, eager and cooperative, with dynamic and static
// members; those of KIP-848; commits without members) read one topic and commit
// all the time, while members leave and come. A commit that was acknowledged is
// the least that the group's offset may ever be again; in the end each group has
// consumed every record.
//
//	grouploop -rounds 100     kill -9
//	grouploop -seed N         the same random moments again
package main

import (
	"context"
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
	rounds, groups, members, partitions int
	every                               int
	harness.Loop
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 100, "how often to kill the broker")
	flag.IntVar(&o.groups, "groups", 14, "groups, of each kind in turn")
	flag.IntVar(&o.members, "members", 3, "members of a group")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topic")
	flag.IntVar(&o.every, "every", 10, "wait for all groups to resume after every so many kills")
	o.Flags()
	flag.Parse()
	fmt.Printf("grouploop: seed %d, %d rounds, %d groups of %d members, %d partitions\n", o.Seed, o.rounds, o.groups, o.members, o.partitions)
	o.Main(func() (string, error) { return run(o) })
}

const topic = "grouploop"

// settings let the broker notice soon that a member is gone.
var settings = []string{
	"group.initial.rebalance.delay.ms=50", "group.min.session.timeout.ms=1000", "group.consumer.assignment.interval.ms=100",
	"group.consumer.heartbeat.interval.ms=200", "group.consumer.min.heartbeat.interval.ms=200",
	"group.consumer.session.timeout.ms=5000", "group.consumer.min.session.timeout.ms=1000",
	// Small segments and many groups to a partition: kills hit rolls and cleans too.
	"offsets.topic.num.partitions=4", "offsets.topic.segment.bytes=1048576",
}

// patience is how long a group may take to resume, on a busy machine.
const patience = 90 * time.Second

type loop struct {
	o      options
	b      *harness.Broker
	adm    *kadm.Client
	groups []*group
	rng    *rand.Rand

	kills, waits     int
	restart, resumed time.Duration // the slowest
}

func run(o options) (string, error) {
	if o.members < 2 {
		return "", errors.New("a group needs two members, one of which comes and leaves")
	}
	b, end, err := o.Broker(settings...)
	if err != nil {
		return "", err
	}
	defer end()
	cl, err := kgo.NewClient(harness.LoopOptions(b.Addr, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.UnknownTopicRetries(-1))...)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	l := &loop{o: o, b: b, adm: kadm.NewClient(cl), rng: rand.New(rand.NewPCG(o.Seed, 7))}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r, err := l.adm.CreateTopic(ctx, int32(o.partitions), 1, nil, topic); err != nil || r.Err != nil {
		return "", errors.Join(err, r.Err)
	}

	calm := make(chan struct{})
	var load, work sync.WaitGroup
	failed := make(chan error, o.groups+1)
	load.Go(func() {
		if err := produce(ctx, cl, calm); err != nil {
			failed <- fmt.Errorf("producer: %w", err)
		}
	})
	for i := range o.groups {
		g := newGroup(fmt.Sprintf("%s-%d", kinds[i%len(kinds)].name, i), kinds[i%len(kinds)], o)
		l.groups = append(l.groups, g)
		work.Go(func() {
			if err := g.run(ctx, b.Addr, rand.New(rand.NewPCG(o.Seed, uint64(100+i))), calm); err != nil {
				failed <- fmt.Errorf("group %s: %w", g.name, err)
			}
		})
	}
	if err := l.rounds(ctx, failed); err != nil {
		return "", err
	}
	close(calm)
	load.Wait()
	if err := l.finish(ctx); err != nil {
		return "", err
	}
	cancel()
	work.Wait()
	select {
	case err := <-failed:
		return "", err
	default:
	}
	commits, moves := 0, 0
	for _, g := range l.groups {
		commits += g.commits
		moves += g.moves
	}
	return fmt.Sprintf("%d kills, %d acknowledged commits of %d groups all there, %d members came and left, %d waits for every group to resume (slowest %s), slowest restart %s",
		l.kills, commits, len(l.groups), moves, l.waits, l.resumed.Round(time.Millisecond), l.restart.Round(time.Millisecond)), nil
}

// produce writes to all partitions until stop is closed, and flushes.
func produce(ctx context.Context, cl *kgo.Client, stop <-chan struct{}) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var mu sync.Mutex
	var first error
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-stop:
			err := cl.Flush(ctx)
			mu.Lock()
			defer mu.Unlock()
			return errors.Join(first, err)
		case <-tick.C:
		}
		cl.Produce(ctx, &kgo.Record{Topic: topic, Value: fmt.Append(nil, i)}, func(_ *kgo.Record, err error) {
			if err != nil && ctx.Err() == nil {
				mu.Lock()
				first = errors.Join(first, err)
				mu.Unlock()
			}
		})
	}
}

// rounds kills the broker at random moments and looks after each restart.
func (l *loop) rounds(ctx context.Context, failed <-chan error) error {
	for round := 1; round <= l.o.rounds; round++ {
		select {
		case err := <-failed:
			return err
		case <-time.After(time.Duration(l.rng.IntN(1500)) * time.Millisecond):
		case <-l.b.Exited():
			return fmt.Errorf("round %d: the broker ended by itself:\n%s", round, l.b.Log())
		}
		if err := l.kill(); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := l.verify(ctx); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if round%l.o.every != 0 {
			continue
		}
		if err := l.resume(ctx); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		fmt.Printf("round %d: %d kills, every commit is there, every group resumed\n", round, l.kills)
	}
	return nil
}

func (l *loop) kill() error {
	l.b.Kill()
	l.kills++
	more, err := harness.CutShort(l.b, l.rng, 300*time.Millisecond)
	l.kills += more
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := l.b.Start(); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	l.restart = max(l.restart, time.Since(begin))
	return nil
}

// verify compares what each group has committed with what it was told.
func (l *loop) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, g := range l.groups {
		atLeast := g.acknowledged()
		offsets, err := l.committed(ctx, g.name)
		if err != nil {
			return fmt.Errorf("group %s: %w", g.name, err)
		}
		for p, want := range atLeast {
			at, ok := offsets.Lookup(topic, int32(p))
			if want >= 0 && (!ok || at.At < want) {
				return fmt.Errorf("LOST: group %s was told that it committed %d of partition %d; %d is committed (found: %v)", g.name, want, p, at.At, ok)
			}
		}
	}
	return nil
}

// committed asks for a group's offsets until they are answered: the first request
// may go out on a connection to the broker that was killed, which kadm does not
// always try again.
func (l *loop) committed(ctx context.Context, group string) (kadm.OffsetResponses, error) {
	for {
		offsets, err := l.adm.FetchOffsets(ctx, group)
		if err == nil || ctx.Err() != nil {
			return offsets, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// resume waits until every group is stable and has committed something new in
// every partition.
func (l *loop) resume(ctx context.Context) error {
	begin := time.Now()
	before := make([][]int64, len(l.groups))
	for i, g := range l.groups {
		before[i] = g.acknowledged()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for i, g := range l.groups {
		what, err := "", error(nil)
		for {
			if what, err = l.pending(ctx, g, before[i]); what == "" && err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("group %s does not resume: %s %w", g.name, what, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	l.waits++
	l.resumed = max(l.resumed, time.Since(begin))
	return nil
}

// pending tells what a group has still to do, "" for nothing.
func (l *loop) pending(ctx context.Context, g *group, before []int64) (string, error) {
	for p, now := range g.acknowledged() {
		if now <= before[p] {
			return fmt.Sprintf("nothing of partition %d was committed since %d", p, now), nil
		}
	}
	state, err := g.state(ctx, l.adm)
	if err != nil || state == "Stable" || g.kind.simple && state == "Empty" {
		return "", err
	}
	return "its state is " + state, nil
}

// finish waits until every group consumed and committed everything.
func (l *loop) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ends, err := l.adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	for _, g := range l.groups {
		if g.kind.simple {
			continue // it reads nothing
		}
		for {
			what := g.missing(ends)
			if what == "" {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("group %s: %s", g.name, what)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return l.verify(ctx)
}
