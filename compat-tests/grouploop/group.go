package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kind is a kind of group.
type kind struct {
	name string
	// consumer: the protocol of KIP-848, not the classic one.
	consumer bool
	// static: its members come back under their instance ids.
	static bool
	// simple: commits without members.
	simple   bool
	balancer kgo.GroupBalancer
}

var kinds = []kind{
	{name: "range", balancer: kgo.RangeBalancer()},
	{name: "cooperative", balancer: kgo.CooperativeStickyBalancer()},
	{name: "static", static: true, balancer: kgo.CooperativeStickyBalancer()},
	{name: "consumer-uniform", consumer: true, balancer: kgo.StickyBalancer()},
	{name: "consumer-range", consumer: true, balancer: kgo.RangeBalancer()},
	{name: "consumer-static", consumer: true, static: true, balancer: kgo.StickyBalancer()},
	{name: "simple", simple: true},
}

// group is a consumer group and what it was told.
type group struct {
	name string
	kind kind
	o    options

	mu       sync.Mutex
	acked    []int64  // the highest offset acknowledged, by partition; -1: none
	consumed [][]bool // by partition and offset
	commits  int      // acknowledged
	moves    int      // members that came or left
}

func newGroup(name string, k kind, o options) *group {
	g := &group{name: name, kind: k, o: o, acked: make([]int64, o.partitions), consumed: make([][]bool, o.partitions)}
	for p := range g.acked {
		g.acked[p] = -1
	}
	return g
}

func (g *group) acknowledged() []int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]int64(nil), g.acked...)
}

func (g *group) acknowledge(p int32, offset int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked[p] = max(g.acked[p], offset)
	g.commits++
}

func (g *group) consume(rs []*kgo.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range rs {
		seen := g.consumed[r.Partition]
		for int64(len(seen)) <= r.Offset {
			seen = append(seen, false)
		}
		seen[r.Offset] = true
		g.consumed[r.Partition] = seen
	}
}

// missing tells what the group has not consumed or committed, "" for nothing.
func (g *group) missing(ends kadm.ListedOffsets) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.acked {
		end, _ := ends.Lookup(topic, int32(p))
		if g.acked[p] < end.Offset {
			return fmt.Sprintf("of partition %d, %d of %d are committed", p, g.acked[p], end.Offset)
		}
		for offset := range end.Offset {
			if offset >= int64(len(g.consumed[p])) || !g.consumed[p][offset] {
				return fmt.Sprintf("offset %d of partition %d was skipped", offset, p)
			}
		}
	}
	return ""
}

func (g *group) state(ctx context.Context, adm *kadm.Client) (string, error) {
	if g.kind.consumer {
		d, err := adm.DescribeConsumerGroups(ctx, g.name)
		if err != nil {
			return "", err
		}
		return d[g.name].State, d[g.name].Err
	}
	d, err := adm.DescribeGroups(ctx, g.name)
	if err != nil {
		return "", err
	}
	return d[g.name].State, d[g.name].Err
}

// run lets members come and leave until calm is closed, and then keeps those
// that are there until the context ends.
func (g *group) run(ctx context.Context, addr string, rng *rand.Rand, calm <-chan struct{}) error {
	if g.kind.simple {
		return g.commitAlone(ctx, addr, rng)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	var members sync.WaitGroup
	defer members.Wait()
	running := make([]context.CancelFunc, g.o.members)
	ended := make([]chan struct{}, g.o.members)
	start := func(i int) {
		mctx, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		running[i], ended[i] = stop, done
		members.Go(func() {
			defer close(done)
			if err := g.member(mctx, addr, i); err != nil {
				select {
				case failed <- fmt.Errorf("member %d: %w", i, err):
				default:
				}
			}
		})
	}
	for i := range running {
		start(i)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-calm:
			calm = nil
		case <-time.After(time.Duration(500+rng.IntN(4000)) * time.Millisecond):
			if calm == nil {
				continue
			}
			g.move(ctx, 1+rng.IntN(g.o.members-1), running, ended, start)
		}
	}
}

// move lets a member leave if it is there, and come if it is not. The first
// stays.
func (g *group) move(ctx context.Context, i int, running []context.CancelFunc, ended []chan struct{}, start func(int)) {
	g.mu.Lock()
	g.moves++
	g.mu.Unlock()
	if running[i] == nil {
		start(i)
		return
	}
	running[i]()
	running[i] = nil
	select {
	case <-ended[i]:
	case <-ctx.Done():
	}
}

// member consumes and commits until its context ends, and leaves.
func (g *group) member(ctx context.Context, addr string, i int) error {
	opts := harness.LoopOptions(addr, kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(g.kind.balancer),
		// Nothing is revoked between a poll and the commit of what it gave, so
		// that the group's commits never go back.
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.FetchMaxWait(250*time.Millisecond))
	if g.kind.consumer {
		opts = append(opts, kgo.ServerSideBalancer())
	} else {
		opts = append(opts, kgo.SessionTimeout(5*time.Second), kgo.HeartbeatInterval(200*time.Millisecond), kgo.RebalanceTimeout(10*time.Second))
	}
	if g.kind.static {
		opts = append(opts, kgo.InstanceID(fmt.Sprint(g.name, "-", i)))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	for ctx.Err() == nil {
		fs := cl.PollRecords(ctx, 500)
		for _, e := range fs.Errors() {
			if lost := (*kgo.ErrDataLoss)(nil); errors.As(e.Err, &lost) {
				return lost
			}
		}
		if rs := fs.Records(); len(rs) > 0 {
			g.consume(rs)
			g.commit(cl, rs)
		}
		cl.AllowRebalance()
	}
	return nil
}

// commit commits what was read and notes what was acknowledged. What was not
// is read again, by whoever has the partition then.
func (g *group) commit(cl *kgo.Client, rs []*kgo.Record) {
	offsets := make(map[int32]kgo.EpochOffset)
	for _, r := range rs {
		offsets[r.Partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1}
	}
	cl.CommitOffsetsSync(context.Background(), map[string]map[int32]kgo.EpochOffset{topic: offsets}, func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if kerr.ErrorForCode(p.ErrorCode) == nil {
					g.acknowledge(p.Partition, offsets[p.Partition].Offset)
				}
			}
		}
	})
}

// commitAlone commits growing offsets without being a member.
func (g *group) commitAlone(ctx context.Context, addr string, rng *rand.Rand) error {
	cl, err := kgo.NewClient(harness.LoopOptions(addr)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for n := int64(1); ctx.Err() == nil; n++ {
		var offsets kadm.Offsets
		for p := range g.o.partitions {
			if rng.IntN(2) == 0 {
				offsets.AddOffset(topic, int32(p), n, -1)
			}
		}
		committed, err := adm.CommitOffsets(ctx, g.name, offsets)
		if err != nil {
			continue
		}
		committed.Each(func(r kadm.OffsetResponse) {
			if r.Err == nil {
				g.acknowledge(r.Partition, r.At)
			}
		})
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
