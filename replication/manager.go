package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
)

// Options is what a Manager needs. The fields are required but where they say
// otherwise.
type Options struct {
	Logs   *storage.Manager
	NodeID int32
	Config *config.Values
	Now    func() time.Time
	Log    zerolog.Logger
	// Incarnation tells this process from its predecessors. Until metadata
	// shows that it was granted a registration, this broker leads nothing: what
	// metadata says it leads, its predecessor did. Zero stands for no
	// predecessors.
	Incarnation metadata.ID
	// Isolated says that this broker has lost its session and cannot get
	// another one: it may have been replaced as leader without knowing. Nil if
	// that cannot be. It is called for every append.
	Isolated func() bool
	// Connect makes the connection of one fetcher to a leader. Without it
	// nothing is copied from other brokers.
	Connect func(leader int32, clientID string) Leader
	// AlterPartition asks the controller for other in-sync sets. Without it
	// they never change from here.
	AlterPartition AlterPartition
	// Offline is told which replicas cannot be served because of their log
	// directories, whenever that changes. It must not block. Nil: nobody is.
	Offline func(metadata.Replicas)
}

// Manager holds the partitions of this broker and keeps them as metadata says.
// Lookups may come from any goroutine; Apply comes from the controller's.
type Manager struct {
	opts  Options
	env   environment
	image atomic.Pointer[metadata.Image] // applied last; nil before the first

	mu     sync.RWMutex
	topics map[string]*hosted
	byID   map[storage.TopicID]*hosted

	onLeadership []func(LeadershipChange)

	// lanes are the log directories, in their order; turns is the last that they were
	// given.
	lanes     []*lane
	placement placement
	turns     atomic.Int64
	// epoch is the broker epoch that this process was granted last, Unknown before.
	// It is not that of its id: with the epoch of a process that replaced it, its
	// fetches would vouch for what that one has on its disk (KIP-903).
	epoch atomic.Int64

	// offlineMu serialises what Options.Offline is told; offline is that.
	offlineMu sync.Mutex
	offline   metadata.Replicas
	// unopened is set once a log could not be made though its directory is in order,
	// as for want of file descriptors.
	unopened atomic.Bool

	moves *moves
	// stop ends the goroutines of the lanes' inSync.
	stop    context.CancelFunc
	running sync.WaitGroup
}

// hosted is a topic of which this broker has replicas. Partitions is replaced
// when the topic grows, under Manager.mu.
type hosted struct {
	id storage.TopicID
	// partitions by index; nil where this broker has no replica.
	partitions []*Partition
}

func (t *hosted) partition(index int32) *Partition {
	if t == nil || index < 0 || int(index) >= len(t.partitions) {
		return nil
	}
	return t.partitions[index]
}

// LeadershipChange tells that this broker began or ceased to lead a partition.
type LeadershipChange struct {
	Partition *Partition
	// Epoch is the leader epoch that began; whoever acts as leader stamps its
	// appends with it (AppendOptions.LeaderEpoch).
	Epoch int32
	// Leader tells whether this broker leads in that epoch. Deletion ends
	// leadership too.
	Leader bool
	// Deleted tells that the replica is gone for good.
	Deleted bool
}

// New returns a manager without partitions; Apply brings them. Close ends what
// runs on its behalf.
func New(o Options) *Manager {
	m := &Manager{opts: o, topics: map[string]*hosted{}, byID: map[storage.TopicID]*hosted{}}
	m.placement.places = map[string]map[int32]*place{}
	m.env = environment{
		isolated:    o.Isolated,
		nodeID:      o.NodeID,
		now:         o.Now,
		maxLagMs:    o.Config.Int64("replica.lag.time.max.ms"),
		brokerState: m.brokerState, registration: m.registration,
		offline: m.replicaOffline,
	}
	windows, size := o.Config.Int("replication.quota.window.num"), time.Duration(o.Config.Int("replication.quota.window.size.seconds"))*time.Second
	m.env.leaderThrottle, m.env.followerThrottle = newThrottle(windows, size, o.Now), newThrottle(windows, size, o.Now)
	if class := o.Config.String("replica.selector.class"); class == rackAwareSelector {
		m.env.rackOf = m.rackOf
	} else if class != "" {
		o.Log.Warn().Str("class", class).Msg("replica.selector.class is not known; consumers read from leaders")
	}
	m.epoch.Store(Unknown)
	m.moves = newMoves(m)
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	for n, dir := range o.Logs.DirPaths() {
		l := newLane(m, dir, n)
		m.lanes = append(m.lanes, l)
		if l.inSync != nil {
			m.running.Go(func() { l.inSync.run(ctx) })
		}
	}
	return m
}

// Close ends the fetchers, the moves between log directories and the changes of
// in-sync sets, and waits for them. The partitions stay as they are. What metadata asks of a directory that hangs is
// not waited for: that ends when the directory answers.
func (m *Manager) Close() {
	m.stop()
	m.moves.close()
	for _, l := range m.lanes {
		l.fetchers.close()
	}
	m.running.Wait()
}

// rackAwareSelector is the one replica selector that Kafka ships (KIP-392).
const rackAwareSelector = "org.apache.kafka.common.replica.RackAwareReplicaSelector"

// rackOf tells the rack of a broker, and whether it is up.
func (m *Manager) rackOf(id int32) (rack string, up bool) {
	img := m.image.Load()
	if img == nil {
		return "", false
	}
	b := img.Broker(id)
	if b == nil || b.Fenced {
		return "", false
	}
	return b.Rack, true
}

// brokerState tells the registered epoch of a broker and whether it may be in
// an ISR (KIP-841).
func (m *Manager) brokerState(id int32) (epoch int64, eligible bool) {
	img := m.image.Load()
	if img == nil {
		return Unknown, false
	}
	b := img.Broker(id)
	if b == nil {
		return Unknown, false
	}
	return b.Epoch, b.Active()
}

// registration is the revision of a broker's registration, 0 if it has none.
func (m *Manager) registration(id int32) int64 {
	img := m.image.Load()
	if img == nil {
		return 0
	}
	b := img.Broker(id)
	if b == nil {
		return 0
	}
	return b.Revision
}

// replicaOffline tells whether a broker said that it has lost a replica.
func (m *Manager) replicaOffline(id int32, topic storage.TopicID, partition int32) bool {
	img := m.image.Load()
	if img == nil {
		return false
	}
	b := img.Broker(id)
	return b != nil && b.Offline.Has(metadata.ID(topic), partition)
}

// OnLeadership makes fn be told of every change of leadership on this broker,
// in order, after the partition has changed and before the metadata that
// changed it is acknowledged. The order is that of each partition; those in
// different log directories change side by side. It is called on the goroutine that
// applies metadata to the partition and must not wait for anything. Call OnLeadership
// before the first Apply.
func (m *Manager) OnLeadership(fn func(LeadershipChange)) {
	m.onLeadership = append(m.onLeadership, fn)
}

// Partition finds a replica by the topic's name: UNKNOWN_TOPIC_OR_PARTITION if
// there is no such partition in the cluster, NOT_LEADER_OR_FOLLOWER if it is
// on other brokers only.
func (m *Manager) Partition(topic string, index int32) (*Partition, error) {
	m.mu.RLock()
	p := m.topics[topic].partition(index)
	m.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	img := m.image.Load()
	if img == nil {
		return nil, kerr.UnknownTopicOrPartition
	}
	return nil, absent(img.Topic(topic), index)
}

// PartitionByID finds a replica by the topic's id: UNKNOWN_TOPIC_ID if there is
// no such topic, else as Partition.
func (m *Manager) PartitionByID(id storage.TopicID, index int32) (*Partition, error) {
	m.mu.RLock()
	p := m.byID[id].partition(index)
	m.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	img := m.image.Load()
	if img == nil {
		return nil, kerr.UnknownTopicID
	}
	t := img.TopicByID(id)
	if t == nil {
		return nil, kerr.UnknownTopicID
	}
	return nil, absent(t, index)
}

// absent tells why a partition is not on this broker.
func absent(t *metadata.Topic, index int32) error {
	if t == nil || index < 0 || int(index) >= len(t.Partitions) {
		return kerr.UnknownTopicOrPartition
	}
	return kerr.NotLeaderForPartition
}

// TopicName is the name of a topic of the cluster by its id, whether or not
// this broker has replicas of it.
func (m *Manager) TopicName(id storage.TopicID) (string, bool) {
	img := m.image.Load()
	if img == nil {
		return "", false
	}
	t := img.TopicByID(id)
	if t == nil {
		return "", false
	}
	return t.Name, true
}

// Partitions calls yield with every replica of this broker, in no particular
// order, until it returns false.
func (m *Manager) Partitions(yield func(*Partition) bool) {
	for _, p := range m.all() {
		if !yield(p) {
			return
		}
	}
}

func (m *Manager) all() []*Partition {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []*Partition
	for _, t := range m.topics {
		for _, p := range t.partitions {
			if p != nil {
				all = append(all, p)
			}
		}
	}
	return all
}

// Apply makes the partitions of this broker what the image says. It is called
// by one goroutine, in revision order, with the delta from the image before;
// the first delta is from the empty image. When it returns, every partition in
// the image that is on this broker can be used, or answers with what failed, but
// for those in a log directory that hangs (lane): these become what the newest image
// says when it answers again, and AwaitTopic waits for that.
//
// Broker configs in the delta must have been given to Options.Config before.
func (m *Manager) Apply(delta *metadata.Delta, img *metadata.Image) {
	first := m.image.Load() == nil
	m.image.Store(img)
	granted := m.opts.Incarnation == metadata.ID{} || img.Standing(m.opts.NodeID, m.opts.Incarnation) >= metadata.Fenced
	if granted {
		epoch, _ := m.brokerState(m.opts.NodeID)
		m.epoch.Store(epoch)
	}
	m.env.leaderThrottle.limit.Store(m.opts.Config.Throttle("leader.replication.throttled.rate"))
	m.env.followerThrottle.limit.Store(m.opts.Config.Throttle("follower.replication.throttled.rate"))
	m.opts.Logs.SetMoveRate(m.opts.Config.Throttle("replica.alter.log.dirs.io.max.bytes.per.second"))
	for _, d := range delta.Topics {
		if d.New == nil {
			m.dropHost(d.Old)
		} else {
			m.makeHost(d.New)
		}
	}
	t := &turn{number: m.turns.Load() + 1, delta: delta, img: img, granted: granted}
	m.place(t, first)
	for _, l := range m.lanes {
		l.give(t)
	}
	m.turns.Store(t.number)
	var lanes sync.WaitGroup
	for _, l := range m.lanes {
		lanes.Go(func() { l.await(t.number) })
	}
	lanes.Wait()
	if first {
		m.moves.resume()
	}
}

// AwaitTopic returns when the replicas of a topic on this broker are what the image
// applied last says, also those in a directory that hangs. Replicas elsewhere and
// other topics are not waited for. It fails when ctx ends.
func (m *Manager) AwaitTopic(ctx context.Context, name string) error {
	turn := m.turns.Load()
	for _, l := range m.placement.lanesOf(name) {
		if err := l.awaitDone(ctx, turn); err != nil {
			return err
		}
	}
	return nil
}

// makeHost makes the entry of a topic, with room for its partitions.
func (m *Manager) makeHost(t *metadata.Topic) {
	m.mu.Lock()
	defer m.mu.Unlock()
	host := m.byID[storage.TopicID(t.ID)]
	if host == nil {
		host = &hosted{id: storage.TopicID(t.ID)}
		m.byID[host.id], m.topics[t.Name] = host, host
	}
	if more := len(t.Partitions) - len(host.partitions); more > 0 {
		host.partitions = append(host.partitions, make([]*Partition, more)...)
	}
}

// dropHost makes a deleted topic's replicas ones that cannot be found. The lanes end
// them.
func (m *Manager) dropHost(t *metadata.Topic) {
	m.mu.Lock()
	defer m.mu.Unlock()
	host := m.byID[storage.TopicID(t.ID)]
	delete(m.byID, storage.TopicID(t.ID))
	// A topic of the same name may have been created since.
	if host != nil && m.topics[t.Name] == host {
		delete(m.topics, t.Name)
	}
}

// show makes a replica one that can be found, if its topic was not deleted meanwhile.
func (m *Manager) show(p *Partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if host := m.byID[p.id]; host != nil {
		host.partitions[p.index] = p
	}
}

// hide makes a replica one that cannot be found.
func (m *Manager) hide(p *Partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if host := m.byID[p.id]; host.partition(p.index) == p {
		host.partitions[p.index] = nil
	}
}

func (m *Manager) anyDirOffline() bool {
	return slices.ContainsFunc(m.lanes, func(l *lane) bool { return m.opts.Logs.DirErr(l.dir) != nil })
}

func (m *Manager) tell(c LeadershipChange) {
	for _, fn := range m.onLeadership {
		fn(c)
	}
}

// defaultsChanged tells whether the defaults of topics may have changed.
func (m *Manager) defaultsChanged(delta *metadata.Delta) bool {
	ours := fmt.Sprint(m.opts.NodeID)
	return slices.ContainsFunc(delta.Configs, func(r metadata.ConfigResource) bool {
		return r.Type == metadata.ConfigBroker && (r.Name == "" || r.Name == ours)
	})
}

// DirFailed tells the cluster, and all who wait for a partition in a log directory that
// went offline. It does not block, so that it can be storage's OnDirFailure; the
// goroutine it starts ends when all were told.
func (m *Manager) DirFailed(dir string) {
	go func() {
		m.reportOffline()
		m.moves.dirFailed(dir)
		for _, l := range m.lanes {
			for _, p := range l.all() {
				if p.dir() == dir {
					l.fetchers.unfollow(p)
					p.diskFailed()
				}
			}
		}
	}()
}

// reportOffline tells which replicas cannot be served, if they are not the ones
// told last. A log directory, or a replica whose log could not be made, stays
// offline until the process ends; replicas leave it by being deleted or moved away.
func (m *Manager) reportOffline() {
	if m.opts.Offline == nil || !m.unopened.Load() && !m.anyDirOffline() {
		return
	}
	m.offlineMu.Lock()
	defer m.offlineMu.Unlock()
	now := metadata.Replicas{}
	for _, p := range m.all() {
		if p.lost() {
			now[metadata.ID(p.id)] = append(now[metadata.ID(p.id)], p.index)
		}
	}
	for _, partitions := range now {
		slices.Sort(partitions)
	}
	if !now.Equal(m.offline) {
		m.offline = now
		m.opts.Offline(now)
	}
}

// logConfig is the part of a topic's configuration that storage needs.
func logConfig(c config.TopicConfig) storage.LogConfig {
	v := storage.Relaxed
	if c.Strict {
		v = storage.Strict
	}
	return storage.LogConfig{
		SegmentBytes: int64(c.SegmentBytes), SegmentMs: c.SegmentMs, SegmentJitterMs: c.SegmentJitterMs,
		IndexIntervalBytes: c.IndexIntervalBytes, SegmentIndexBytes: c.SegmentIndexBytes,
		RetentionBytes: c.RetentionBytes, RetentionMs: c.RetentionMs, FileDeleteDelayMs: c.FileDeleteDelayMs,
		FlushMessages: c.FlushMessages, FlushMs: c.FlushMs, MaxMessageBytes: c.MaxMessageBytes,
		LogAppendTime: c.LogAppendTime, TimestampBeforeMaxMs: c.TimestampBeforeMaxMs, TimestampAfterMaxMs: c.TimestampAfterMaxMs,
		Compact: c.Compact, Delete: c.Delete,
		Compression: c.Compression, GzipLevel: c.GzipLevel, LZ4Level: c.LZ4Level, ZstdLevel: c.ZstdLevel,
		Preallocate: c.Preallocate, Validation: v,
		DeleteRetentionMs: c.DeleteRetentionMs, MinCompactionLagMs: c.MinCompactionLagMs, MaxCompactionLagMs: c.MaxCompactionLagMs,
		MinCleanableRatio: c.MinCleanableRatio,
	}
}

// Stats counts the partitions of this broker.
type Stats struct {
	Partitions, Leaders int
	// UnderReplicated partitions are led here with an ISR smaller than their
	// replicas, UnderMinISR with one smaller than min.insync.replicas (they
	// refuse acks=all), AtMinISR with just that many.
	UnderReplicated, UnderMinISR, AtMinISR int
	// Leaderless replicas have no leader in the cluster, OfflineReplicas are
	// on a directory that failed.
	Leaderless, OfflineReplicas int
}

// Stats counts the partitions by their condition. It costs by their number.
func (m *Manager) Stats() Stats {
	var st Stats
	for _, p := range m.all() {
		s := p.Snapshot()
		if s.Err != nil && !errors.Is(s.Err, kerr.KafkaStorageError) {
			continue // deleted since
		}
		st.Partitions++
		if s.Err != nil {
			st.OfflineReplicas++
		}
		if s.Leader < 0 {
			st.Leaderless++
		}
		if !s.IsLeader {
			continue
		}
		st.Leaders++
		need := EffectiveMinISR(s.MinISR, len(s.Replicas))
		switch {
		case len(s.ISR) < need:
			st.UnderMinISR++
		case len(s.ISR) == need && need < len(s.Replicas):
			st.AtMinISR++
		}
		if len(s.ISR) < len(s.Replicas) {
			st.UnderReplicated++
		}
	}
	return st
}
