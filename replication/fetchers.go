package replication

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
)

// fetchers are all the fetchers of a lane: num.replica.fetchers for each
// leader that it follows, made when they are needed and ended when they follow
// nothing. A fetcher that writes to a directory which hangs copies nothing
// meanwhile, so that none serves two. Its methods are called on the goroutine that
// applies metadata, and by close.
type fetchers struct {
	node int32
	// client is how the fetchers' names begin.
	client      string
	config      *config.Values
	connect     func(leader int32, clientID string) Leader
	brokerEpoch func() int64
	throttle    *throttle
	log         zerolog.Logger

	ctx     context.Context //nolint:containedctx // the life of the fetchers, not a call's
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	all  map[fetcherID]*runningFetcher
	of   map[PartitionID]fetcherID
	done bool
}

type fetcherID struct{ leader, n int32 }

type runningFetcher struct {
	*fetcher
	stop context.CancelFunc
}

func newFetchers(o *Options, client string, throttle *throttle, brokerEpoch func() int64) *fetchers {
	fs := &fetchers{
		node: o.NodeID, client: client, config: o.Config, connect: o.Connect, brokerEpoch: brokerEpoch, throttle: throttle, log: o.Log,
		all: map[fetcherID]*runningFetcher{}, of: map[PartitionID]fetcherID{},
	}
	fs.ctx, fs.cancel = context.WithCancel(context.Background())
	return fs
}

// close ends all fetchers and waits for them.
func (fs *fetchers) close() {
	fs.mu.Lock()
	fs.done = true
	fs.mu.Unlock()
	fs.cancel()
	fs.running.Wait()
}

// follow makes p copy from a leader in an epoch, and from nobody else.
func (fs *fetchers) follow(p *Partition, leader, epoch int32) {
	if fs.connect == nil {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	id := PartitionID{p.id, p.index}
	to := fetcherID{leader, fs.choose(p)}
	if from, ok := fs.of[id]; ok && from != to {
		fs.leave(id, from)
	}
	f := fs.all[to]
	if f == nil {
		if fs.done {
			return
		}
		f = fs.start(to)
	}
	fs.of[id] = to
	f.follow(p, epoch)
}

// unfollow makes a partition copy from nobody.
func (fs *fetchers) unfollow(p *Partition) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	id := PartitionID{p.id, p.index}
	if from, ok := fs.of[id]; ok {
		fs.leave(id, from)
	}
}

// leave takes a partition from its fetcher, and ends that if it was the last.
// The caller holds mu.
func (fs *fetchers) leave(id PartitionID, from fetcherID) {
	delete(fs.of, id)
	f := fs.all[from]
	f.unfollow(id)
	if f.empty() {
		delete(fs.all, from)
		f.stop()
	}
}

// choose spreads the partitions of a leader over its fetchers; a partition
// stays with the same one.
func (fs *fetchers) choose(p *Partition) int32 {
	h := fnv.New32a()
	_, _ = h.Write(p.id[:])
	return int32((h.Sum32() + uint32(p.index)) % uint32(max(fs.config.Int("num.replica.fetchers"), 1)))
}

// start runs a new fetcher. The caller holds mu.
func (fs *fetchers) start(id fetcherID) *runningFetcher {
	v := fs.config
	cfg := fetchConfig{
		maxBytes: v.Int32("replica.fetch.max.bytes"), responseMaxBytes: v.Int32("replica.fetch.response.max.bytes"),
		minBytes: v.Int32("replica.fetch.min.bytes"), maxWait: v.Duration("replica.fetch.wait.max.ms"),
		backoff: v.Duration("replica.fetch.backoff.ms"),
	}
	log := fs.log.With().Int32("leader", id.leader).Int32("fetcher", id.n).Logger()
	link := fs.connect(id.leader, fmt.Sprintf("%s-fetcher-%d", fs.client, id.n))
	f := &runningFetcher{fetcher: newFetcher(link, cfg, fs.brokerEpoch, log)}
	f.req.ReplicaID, f.throttle = fs.node, fs.throttle
	var ctx context.Context
	ctx, f.stop = context.WithCancel(fs.ctx)
	fs.all[id] = f
	fs.running.Go(func() { f.run(ctx) })
	return f
}
