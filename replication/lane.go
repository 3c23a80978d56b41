package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
)

// lane is one log directory's part of a Manager: the replicas that are in it, and
// all that works on them without a request: what metadata asks of them, the
// fetchers that copy them, the proposals of their in-sync sets. A directory that
// hangs, which is one whose disk neither does what it is asked nor fails, holds up
// its lane and no other.
//
// Metadata is applied by one goroutine, which runs while there is something to
// apply. It goes from turn to turn; where one takes long it goes on with the
// newest, and what lay between is one change. So the order of what happens to a
// replica is that of the metadata, and however long a directory hangs, no more than
// one image waits for it.
//
// A replica is in one lane from the turn in which metadata brings it to the one in
// which the lane has taken it away (placement). That goes by the partition's name:
// a topic that was deleted and created anew while the directory hung waits for the
// deletion, since the old log is in the new one's place until then.
type lane struct {
	m   *Manager
	dir string
	// env is what the replicas need, with the lane's own inSync.
	env      environment
	fetchers *fetchers
	inSync   *inSync // nil without AlterPartition

	// progress counts steps: it stands still while the directory hangs.
	progress atomic.Int64
	// hungAt is the progress at which the directory was seen to hang, -1 if it has
	// finished a turn since.
	hungAt atomic.Int64
	// placed is how many replicas have their place here, under placement.mu.
	placed int

	mu sync.Mutex
	// wanted is the newest turn that was not begun; nil: there is none.
	wanted  *turn
	running bool
	// done is the number of the last turn that is finished. Then finished is closed
	// and replaced.
	done     int64
	finished chan struct{}
	// parts are the replicas. Only the goroutine that applies writes it.
	parts map[PartitionID]*Partition

	// applied is the last turn that is finished, nil before the first; of the
	// goroutine that applies.
	applied *turn
}

// turn is one call of Manager.Apply.
type turn struct {
	number int64           // from 1 on
	delta  *metadata.Delta // from the turn before
	img    *metadata.Image
	// granted tells that this process is the one registered, and not one that came
	// before or after it.
	granted bool
}

const (
	// A directory hangs when a lane was at the same step at hangsAfter looks, one
	// each lookEvery. Looks are counted and not time: a process that was stopped
	// for a while has a disk that is as good as before. What is wrongly taken to hang,
	// because its disk is slow, is only not waited for, and gets no new replicas until
	// its next step.
	lookEvery  = 250 * time.Millisecond
	hangsAfter = 4
)

func newLane(m *Manager, dir string, number int) *lane {
	l := &lane{m: m, dir: dir, env: m.env, finished: make(chan struct{}), parts: map[PartitionID]*Partition{}}
	l.hungAt.Store(-1)
	client := fmt.Sprintf("broker-%d", m.opts.NodeID)
	if number > 0 {
		client += fmt.Sprintf("-dir-%d", number)
	}
	l.fetchers = newFetchers(&m.opts, client, m.env.followerThrottle, m.epoch.Load)
	if m.opts.AlterPartition != nil {
		l.inSync = newInSync(&l.env, m.opts.AlterPartition, l.all, m.opts.Log)
		l.env.mayGrow = l.inSync.mayGrow
	}
	return l
}

// give has the lane apply a turn. It does not wait.
func (l *lane) give(t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = t
	if !l.running {
		l.running = true
		go l.run()
	}
}

// run applies until nothing is wanted.
func (l *lane) run() {
	for {
		l.mu.Lock()
		t := l.wanted
		l.wanted = nil
		l.running = t != nil
		l.mu.Unlock()
		if t == nil {
			return
		}
		l.apply(t)
		l.applied = t
		l.step()
		if l.hungAt.Swap(-1) >= 0 {
			l.m.opts.Log.Info().Str("dir", l.dir).Msg("the log directory answers again")
		}
		l.mu.Lock()
		l.done = t.number
		close(l.finished)
		l.finished = make(chan struct{})
		l.mu.Unlock()
	}
}

// step notes that the directory let something be done.
func (l *lane) step() { l.progress.Add(1) }

// hangs reports whether the lane is where it was when it was seen to hang.
func (l *lane) hangs() bool { return l.hungAt.Load() == l.progress.Load() }

// reached returns whether a turn is finished, and else what is closed when one is.
func (l *lane) reached(turn int64) (yes bool, next <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done >= turn, l.finished
}

// await returns when a turn is finished, or the directory hangs. It is called by
// Apply.
func (l *lane) await(turn int64) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	at, looks := l.progress.Load(), 0
	for {
		yes, next := l.reached(turn)
		if yes || l.hangs() {
			return
		}
		select {
		case <-next:
			continue
		case <-look.C:
		}
		if now := l.progress.Load(); now != at {
			at, looks = now, 0
		} else if looks++; looks == hangsAfter {
			l.hungAt.Store(at)
			l.m.opts.Log.Warn().Str("dir", l.dir).Msg("the log directory hangs: what the metadata asks of its replicas waits for it")
		}
	}
}

// awaitDone returns when a turn is finished, or ctx ends.
func (l *lane) awaitDone(ctx context.Context, turn int64) error {
	for {
		yes, next := l.reached(turn)
		if yes {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// all lists the replicas of the lane.
func (l *lane) all() []*Partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.parts))
}

// setPart notes the replica of a partition, nil for none.
func (l *lane) setPart(id PartitionID, p *Partition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p == nil {
		delete(l.parts, id)
	} else {
		l.parts[id] = p
	}
}

// apply makes the lane's replicas what a turn says.
func (l *lane) apply(t *turn) {
	delta, before := t.delta, l.applied
	first := before == nil
	if first {
		before = &turn{img: metadata.Empty()}
	}
	if before.number != t.number-1 {
		delta = metadata.Diff(before.img, t.img)
	}
	if first {
		l.setStraysAside(t.img)
	} else {
		l.raiseMinISR(delta, t.img)
	}
	for _, d := range delta.Topics {
		if d.New == nil {
			l.deleteTopic(d.Old)
			continue
		}
		l.applyTopic(d, t, first)
	}
	if len(delta.Topics) > 0 {
		l.m.reportOffline()
	}
	if first {
		return // what follows is for replicas that were there before
	}
	if t.granted != before.granted {
		for _, p := range l.parts {
			l.fetch(p, t)
		}
	}
	l.applyBrokerConfigs(delta, t.img)
	if len(delta.Brokers) > 0 {
		l.eligibilityChanged()
	}
}

// setStraysAside renames the logs that the image does not know: the topic was
// deleted, created anew or moved away while this broker was down. They are not
// deleted, as Kafka does not: should it be the metadata that is wrong, the data
// is still there. It is called once, before any replica is made.
func (l *lane) setStraysAside(img *metadata.Image) {
	logs, node, told := l.m.opts.Logs, l.m.opts.NodeID, l.m.opts.Log
	for _, log := range logs.Logs() {
		if log.Dir() != l.dir {
			continue
		}
		why := stray(log, img, node)
		if why == "" {
			continue
		}
		tp := log.TopicPartition()
		told.Warn().Stringer("partition", tp).Stringer("topic_id", log.ID()).Str("dir", log.Dir()).
			Msg("stray log set aside as -stray: " + why)
		if err := logs.StrayLog(tp); err != nil {
			told.Error().Err(err).Stringer("partition", tp).Msg("setting a stray log aside failed")
		}
		l.step()
	}
}

// stray tells why a log found at start has no place in the image, or "".
func stray(log *storage.Log, img *metadata.Image, node int32) string {
	tp := log.TopicPartition()
	t := img.Topic(tp.Topic)
	switch {
	case log.ID() == storage.TopicID{}:
		return "it has no topic id" // nothing is appended before the id is stored
	case t == nil:
		return "there is no such topic"
	case t.ID != log.ID():
		return fmt.Sprintf("the topic of that name has the id %s", storage.TopicID(t.ID))
	case int(tp.Partition) >= len(t.Partitions):
		return "the topic has fewer partitions"
	case !slices.Contains(t.Partitions[tp.Partition].Replicas, node):
		return "it is assigned to other brokers"
	}
	return ""
}

// raiseMinISR takes over what of a delta makes min.insync.replicas larger, before any
// in-sync set of it counts: a member that left a set because of which too few were
// left may be elected, so that nothing may be committed without it. What makes it
// smaller is taken over with the rest of the configuration, after the sets.
func (l *lane) raiseMinISR(delta *metadata.Delta, img *metadata.Image) {
	raise := func(t *metadata.Topic) {
		minISR := sync.OnceValue(func() int32 { return l.m.opts.Config.Topic(t.Configs).MinInsyncReplicas })
		for p := range l.of(t) {
			p.raiseMinISR(minISR())
			l.step()
		}
	}
	if l.m.defaultsChanged(delta) {
		for _, t := range img.Topics() {
			raise(t)
		}
		return
	}
	for _, d := range delta.Topics {
		if d.New != nil && d.Old != nil && d.ConfigsChanged {
			raise(d.New)
		}
	}
}

// of yields the lane's replicas of a topic.
func (l *lane) of(t *metadata.Topic) func(yield func(*Partition) bool) {
	return func(yield func(*Partition) bool) {
		for n := range t.Partitions {
			if p := l.parts[PartitionID{storage.TopicID(t.ID), int32(n)}]; p != nil && !yield(p) {
				return
			}
		}
	}
}

// applyTopic creates, reassigns and configures the lane's replicas of one topic.
func (l *lane) applyTopic(d metadata.TopicDelta, at *turn, first bool) {
	t, node := d.New, l.m.opts.NodeID
	cfg := sync.OnceValue(func() config.TopicConfig { return l.m.opts.Config.Topic(t.Configs) })
	for _, n := range d.Partitions {
		part := t.Partitions[n]
		p := l.parts[PartitionID{storage.TopicID(t.ID), n}]
		if !slices.Contains(part.Replicas, node) {
			if p != nil {
				p.movesTo(part.Leader, part.LeaderEpoch)
				l.retire(p, kerr.NotLeaderForPartition)
			}
			continue
		}
		if p == nil {
			// A log that ought to exist but is not found may be on a
			// directory that failed: an empty one in its place would lose it.
			isNew := !first && !hadReplica(d.Old, n, node)
			if p = l.create(t, n, cfg, at, isNew); p == nil {
				continue
			}
		}
		l.assign(p, part, at)
		l.step()
	}
	if d.ConfigsChanged && d.Old != nil {
		l.configure(t)
	}
}

// hadReplica reports whether a broker was to have a replica before a change; t
// is the topic before it, nil if there was none.
func hadReplica(t *metadata.Topic, n, broker int32) bool {
	return t != nil && int(n) < len(t.Partitions) && slices.Contains(t.Partitions[n].Replicas, broker)
}

// create opens the log of a partition. When that fails the replica is there and
// answers KAFKA_STORAGE_ERROR. It is nil if its place is, or was in this turn, in another
// lane.
func (l *lane) create(t *metadata.Topic, n int32, effective func() config.TopicConfig, at *turn, isNew bool) *Partition {
	m := l.m
	tp := storage.TopicPartition{Topic: t.Name, Partition: n}
	if m.placement.laneOf(tp, at.number) != l {
		return nil
	}
	cfg := effective()
	log, err := l.openLog(tp, storage.TopicID(t.ID), logConfig(cfg), isNew)
	if err != nil {
		m.unopened.Store(true)
		m.opts.Log.Error().Err(err).Stringer("partition", tp).Msg("partition is offline")
	}
	p := newPartition(&l.env, t.Name, storage.TopicID(t.ID), n, t.Internal, log, err)
	l.setConfig(p, &cfg)
	l.setPart(PartitionID{p.id, n}, p)
	return p
}

var errMissing = errors.New("the log was not found and a log directory is offline")

func (l *lane) openLog(tp storage.TopicPartition, id storage.TopicID, cfg storage.LogConfig, isNew bool) (*storage.Log, error) {
	logs := l.m.opts.Logs
	if log := logs.Log(tp); log == nil && !isNew && l.m.anyDirOffline() {
		return nil, errMissing
	}
	log, err := logs.CreateLogIn(l.dir, tp, id, cfg)
	// A directory that fails only now leaves a new log to the others. The replica
	// stays in this lane, which has nothing else to wait for any more.
	for _, other := range l.m.lanes {
		if err == nil || !isNew || !errors.Is(err, kerr.KafkaStorageError) {
			break
		}
		if other != l && !other.hangs() {
			log, err = logs.CreateLogIn(other.dir, tp, id, cfg)
		}
	}
	return log, err
}

// assign gives a replica its role, makes it visible, and tells the listeners if
// its leadership changed.
func (l *lane) assign(p *Partition, part *metadata.Partition, t *turn) {
	m := l.m
	leader := part.Leader
	if leader == m.opts.NodeID && !t.granted {
		// Before it is granted a registration, the controller has another
		// leader elected, or us in another epoch.
		leader = metadata.NoLeader
	}
	changed, err := p.assign(assignment{
		leader: leader, leaderEpoch: part.LeaderEpoch, partitionEpoch: part.PartitionEpoch,
		replicas: part.Replicas, isr: part.ISR, recovering: part.Recovering,
	})
	if err != nil {
		m.opts.Log.Error().Err(err).Stringer("partition", p.TopicPartition()).Msg("cannot lead: writing the leader epoch failed")
	}
	m.show(p)
	l.fetch(p, t)
	leads := leader == m.opts.NodeID
	if leads && part.Recovering && l.inSync != nil {
		l.inSync.mayGrow(p) // to say that it recovered
	}
	if changed {
		m.tell(LeadershipChange{Partition: p, Epoch: part.LeaderEpoch, Leader: leads})
	}
}

// fetch has a replica copied from its leader, if it follows one. Leaders listen
// to no process that was not granted a registration.
func (l *lane) fetch(p *Partition, t *turn) {
	if leader, epoch, ok := p.followsWhom(); ok && t.granted {
		l.fetchers.follow(p, leader, epoch)
	} else {
		l.fetchers.unfollow(p)
	}
}

// deleteTopic removes the lane's replicas of a deleted topic with their logs.
func (l *lane) deleteTopic(t *metadata.Topic) {
	for p := range l.of(t) {
		l.retire(p, kerr.UnknownTopicOrPartition)
	}
}

// retire takes a replica away, and deletes its log.
func (l *lane) retire(p *Partition, why error) {
	m := l.m
	m.hide(p)
	l.fetchers.unfollow(p)
	m.moves.endOf(p.TopicPartition())
	led := p.retire(why)
	if led {
		m.tell(LeadershipChange{Partition: p, Epoch: p.LeaderEpoch(), Deleted: true})
	}
	tp := p.TopicPartition()
	if log := m.opts.Logs.Log(tp); log != nil && log.ID() == p.id {
		if err := m.opts.Logs.DeleteLog(tp); err != nil {
			m.opts.Log.Error().Err(err).Stringer("partition", tp).Msg("deleting the log failed; it will be found stray at the next start")
		}
	}
	l.setPart(PartitionID{p.id, p.index}, nil)
	l.step()
}

// applyBrokerConfigs gives all logs their configuration anew when the defaults
// of topics may have changed.
func (l *lane) applyBrokerConfigs(delta *metadata.Delta, img *metadata.Image) {
	if !l.m.defaultsChanged(delta) {
		return
	}
	for _, t := range img.Topics() {
		l.configure(t)
	}
}

// configure gives the lane's replicas of a topic its effective configuration.
func (l *lane) configure(t *metadata.Topic) {
	var cfg *config.TopicConfig
	for p := range l.of(t) {
		if cfg == nil {
			c := l.m.opts.Config.Topic(t.Configs)
			cfg = &c
		}
		p.setConfig(logConfig(*cfg))
		l.setConfig(p, cfg)
		l.step()
	}
}

// setConfig gives a replica what of the configuration is not its log's.
func (l *lane) setConfig(p *Partition, cfg *config.TopicConfig) {
	p.setMinISR(cfg.MinInsyncReplicas)
	p.throttledAsLeader.Store(throttledOn(cfg.LeaderThrottledReplicas, l.m.opts.NodeID).has(p.index))
	p.throttledAsFollower.Store(throttledOn(cfg.FollowerThrottledReplicas, l.m.opts.NodeID).has(p.index))
}

// eligibilityChanged lets leaders look at their watermark again: a follower
// that was fenced no longer holds it back.
func (l *lane) eligibilityChanged() {
	for _, p := range l.parts {
		p.reconsider()
		l.step()
	}
}
