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

	// granted tells that this process is the one registered, and not one that
	// came before or after it; only Apply's goroutine.
	granted bool
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

	fetchers *fetchers
	inSync   *inSync // nil without AlterPartition
	// stop ends the goroutine of inSync, which closes stopped.
	stop    context.CancelFunc
	stopped chan struct{}
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
	m.fetchers = newFetchers(&m.opts, m.env.followerThrottle, m.epoch.Load)
	if o.AlterPartition == nil {
		return m
	}
	m.inSync = newInSync(&m.env, o.AlterPartition, m.all, o.Log)
	m.env.mayGrow = m.inSync.mayGrow
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	m.stopped = make(chan struct{})
	go func() {
		defer close(m.stopped)
		m.inSync.run(ctx)
	}()
	return m
}

// Close ends the fetchers and the changes of in-sync sets, and waits for them.
// The partitions stay as they are.
func (m *Manager) Close() {
	m.fetchers.close()
	if m.inSync != nil {
		m.stop()
		<-m.stopped
	}
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
// changed it is acknowledged. It is called on the goroutine that applies
// metadata and must not wait for anything. Call OnLeadership before the first
// Apply.
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
// the image that is on this broker can be used, or answers with what failed.
//
// Broker configs in the delta must have been given to Options.Config before.
func (m *Manager) Apply(delta *metadata.Delta, img *metadata.Image) {
	first := m.image.Load() == nil
	m.image.Store(img)
	before := m.granted
	m.granted = m.opts.Incarnation == metadata.ID{} || img.Standing(m.opts.NodeID, m.opts.Incarnation) >= metadata.Fenced
	if m.granted {
		epoch, _ := m.brokerState(m.opts.NodeID)
		m.epoch.Store(epoch)
	}
	if first {
		m.setStraysAside(img)
	}
	m.env.leaderThrottle.limit.Store(m.opts.Config.Throttle("leader.replication.throttled.rate"))
	m.env.followerThrottle.limit.Store(m.opts.Config.Throttle("follower.replication.throttled.rate"))
	if !first {
		m.raiseMinISR(delta, img)
	}
	for _, d := range delta.Topics {
		if d.New == nil {
			m.deleteTopic(d.Old)
			continue
		}
		m.applyTopic(d, first)
	}
	if len(delta.Topics) > 0 {
		m.reportOffline()
	}
	if first {
		return // what follows is for partitions that were there before
	}
	if m.granted != before {
		for _, p := range m.all() {
			m.fetch(p)
		}
	}
	m.applyBrokerConfigs(delta, img)
	if len(delta.Brokers) > 0 {
		m.eligibilityChanged()
	}
}

// raiseMinISR takes over what of a delta makes min.insync.replicas larger, before any
// in-sync set of it counts: a member that left a set because of which too few were
// left may be elected, so that nothing may be committed without it. What makes it
// smaller is taken over with the rest of the configuration, after the sets.
func (m *Manager) raiseMinISR(delta *metadata.Delta, img *metadata.Image) {
	raise := func(t *metadata.Topic) {
		m.mu.RLock()
		host := m.byID[t.ID]
		m.mu.RUnlock()
		if host == nil {
			return
		}
		minISR := m.opts.Config.Topic(t.Configs).MinInsyncReplicas
		for _, p := range host.partitions {
			if p != nil {
				p.raiseMinISR(minISR)
			}
		}
	}
	if m.defaultsChanged(delta) {
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

// applyTopic creates, reassigns and configures the replicas of one topic.
func (m *Manager) applyTopic(d metadata.TopicDelta, first bool) {
	t := d.New
	host := m.host(t)
	cfg := sync.OnceValue(func() config.TopicConfig { return m.opts.Config.Topic(t.Configs) })
	for _, n := range d.Partitions {
		part := t.Partitions[n]
		p := host.partitions[n]
		if !slices.Contains(part.Replicas, m.opts.NodeID) {
			if p != nil {
				p.movesTo(part.Leader, part.LeaderEpoch)
				m.remove(p, host, kerr.NotLeaderForPartition)
			}
			continue
		}
		if p == nil {
			// A log that ought to exist but is not found may be on a
			// directory that failed: an empty one in its place would lose it.
			isNew := !first && !hadReplica(d.Old, n, m.opts.NodeID)
			p = m.create(t, n, cfg(), isNew)
		}
		m.assign(p, part, host)
	}
	if d.ConfigsChanged && d.Old != nil {
		m.configure(host, cfg())
	}
}

// hadReplica reports whether a broker was to have a replica before a change; t
// is the topic before it, nil if there was none.
func hadReplica(t *metadata.Topic, n, broker int32) bool {
	return t != nil && int(n) < len(t.Partitions) && slices.Contains(t.Partitions[n].Replicas, broker)
}

// host returns the entry of a topic with room for its partitions.
func (m *Manager) host(t *metadata.Topic) *hosted {
	m.mu.Lock()
	defer m.mu.Unlock()
	host := m.byID[t.ID]
	if host == nil {
		host = &hosted{id: t.ID}
		m.byID[t.ID], m.topics[t.Name] = host, host
	}
	if more := len(t.Partitions) - len(host.partitions); more > 0 {
		host.partitions = append(host.partitions, make([]*Partition, more)...)
	}
	return host
}

// create opens the log of a partition. When that fails the partition is there
// and answers KAFKA_STORAGE_ERROR.
func (m *Manager) create(t *metadata.Topic, n int32, cfg config.TopicConfig, isNew bool) *Partition {
	tp := storage.TopicPartition{Topic: t.Name, Partition: n}
	log, err := m.openLog(tp, t.ID, logConfig(cfg), isNew)
	if err != nil {
		m.unopened.Store(true)
		m.opts.Log.Error().Err(err).Stringer("partition", tp).Msg("partition is offline")
	}
	p := newPartition(&m.env, t.Name, t.ID, n, t.Internal, log, err)
	p.setMinISR(cfg.MinInsyncReplicas)
	p.throttledAsLeader.Store(throttledOn(cfg.LeaderThrottledReplicas, m.opts.NodeID).has(n))
	p.throttledAsFollower.Store(throttledOn(cfg.FollowerThrottledReplicas, m.opts.NodeID).has(n))
	return p
}

var errMissing = errors.New("the log was not found and a log directory is offline")

func (m *Manager) openLog(tp storage.TopicPartition, id storage.TopicID, cfg storage.LogConfig, isNew bool) (*storage.Log, error) {
	if log := m.opts.Logs.Log(tp); log == nil && !isNew && m.anyDirOffline() {
		return nil, errMissing
	}
	log, err := m.opts.Logs.CreateLog(tp, id, cfg)
	// A directory that fails only now leaves a new log to the others.
	for range len(m.opts.Logs.Dirs()) - 1 {
		if err == nil || !isNew || !errors.Is(err, kerr.KafkaStorageError) {
			break
		}
		log, err = m.opts.Logs.CreateLog(tp, id, cfg)
	}
	return log, err
}

func (m *Manager) anyDirOffline() bool {
	return slices.ContainsFunc(m.opts.Logs.Dirs(), func(d storage.DirInfo) bool { return d.Err != nil })
}

// assign gives a partition its place, makes it visible, and tells the listeners
// if its leadership changed.
func (m *Manager) assign(p *Partition, part *metadata.Partition, host *hosted) {
	leader := part.Leader
	if leader == m.opts.NodeID && !m.granted {
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
	m.mu.Lock()
	host.partitions[p.index] = p
	m.mu.Unlock()
	m.fetch(p)
	leads := leader == m.opts.NodeID
	if leads && part.Recovering && m.inSync != nil {
		m.inSync.mayGrow(p) // to say that it recovered
	}
	if changed {
		m.tell(LeadershipChange{Partition: p, Epoch: part.LeaderEpoch, Leader: leads})
	}
}

// fetch has a partition copied from its leader, if it follows one. Leaders
// listen to no process that was not granted a registration.
func (m *Manager) fetch(p *Partition) {
	if leader, epoch, ok := p.followsWhom(); ok && m.granted {
		m.fetchers.follow(p, leader, epoch)
	} else {
		m.fetchers.unfollow(p)
	}
}

func (m *Manager) tell(c LeadershipChange) {
	for _, fn := range m.onLeadership {
		fn(c)
	}
}

// deleteTopic removes the replicas of a deleted topic with their logs.
func (m *Manager) deleteTopic(t *metadata.Topic) {
	m.mu.Lock()
	host := m.byID[t.ID]
	delete(m.byID, t.ID)
	// A topic of the same name may have been created since.
	if host != nil && m.topics[t.Name] == host {
		delete(m.topics, t.Name)
	}
	m.mu.Unlock()
	if host == nil {
		return
	}
	for _, p := range host.partitions {
		if p != nil {
			m.retire(p, kerr.UnknownTopicOrPartition)
		}
	}
}

// remove takes one replica away that moved to other brokers.
func (m *Manager) remove(p *Partition, host *hosted, why error) {
	m.mu.Lock()
	host.partitions[p.index] = nil
	m.mu.Unlock()
	m.retire(p, why)
}

// retire ends a replica that cannot be found any more, and deletes its log.
func (m *Manager) retire(p *Partition, why error) {
	m.fetchers.unfollow(p)
	led := p.retire(why)
	if led {
		m.tell(LeadershipChange{Partition: p, Epoch: p.LeaderEpoch(), Deleted: true})
	}
	tp := p.TopicPartition()
	if log := m.opts.Logs.Log(tp); log == nil || log.ID() != p.id {
		return
	}
	if err := m.opts.Logs.DeleteLog(tp); err != nil {
		m.opts.Log.Error().Err(err).Stringer("partition", tp).Msg("deleting the log failed; it will be found stray at the next start")
	}
}

// setStraysAside renames the logs that the image does not know: the topic was
// deleted, created anew or moved away while this broker was down. They are not
// deleted, as Kafka does not: should it be the metadata that is wrong, the data
// is still there. It is called once, before any partition is created.
func (m *Manager) setStraysAside(img *metadata.Image) {
	for _, log := range m.opts.Logs.Logs() {
		why := m.stray(log, img)
		if why == "" {
			continue
		}
		tp := log.TopicPartition()
		m.opts.Log.Warn().Stringer("partition", tp).Stringer("topic_id", log.ID()).Str("dir", log.Dir()).
			Msg("stray log set aside as -stray: " + why)
		if err := m.opts.Logs.StrayLog(tp); err != nil {
			m.opts.Log.Error().Err(err).Stringer("partition", tp).Msg("setting a stray log aside failed")
		}
	}
}

// stray tells why a log found at start has no place in the image, or "".
func (m *Manager) stray(log *storage.Log, img *metadata.Image) string {
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
	case !slices.Contains(t.Partitions[tp.Partition].Replicas, m.opts.NodeID):
		return "it is assigned to other brokers"
	}
	return ""
}

// defaultsChanged tells whether the defaults of topics may have changed.
func (m *Manager) defaultsChanged(delta *metadata.Delta) bool {
	ours := fmt.Sprint(m.opts.NodeID)
	return slices.ContainsFunc(delta.Configs, func(r metadata.ConfigResource) bool {
		return r.Type == metadata.ConfigBroker && (r.Name == "" || r.Name == ours)
	})
}

// applyBrokerConfigs gives all logs their configuration anew when the defaults
// of topics may have changed.
func (m *Manager) applyBrokerConfigs(delta *metadata.Delta, img *metadata.Image) {
	if !m.defaultsChanged(delta) {
		return
	}
	for _, t := range img.Topics() {
		m.mu.RLock()
		host := m.byID[t.ID]
		m.mu.RUnlock()
		if host != nil {
			m.configure(host, m.opts.Config.Topic(t.Configs))
		}
	}
}

// configure gives every replica of a topic its effective configuration.
func (m *Manager) configure(host *hosted, cfg config.TopicConfig) {
	logCfg := logConfig(cfg)
	asLeader, asFollower := throttledOn(cfg.LeaderThrottledReplicas, m.opts.NodeID), throttledOn(cfg.FollowerThrottledReplicas, m.opts.NodeID)
	for _, p := range host.partitions {
		if p != nil {
			p.setConfig(logCfg)
			p.setMinISR(cfg.MinInsyncReplicas)
			p.throttledAsLeader.Store(asLeader.has(p.index))
			p.throttledAsFollower.Store(asFollower.has(p.index))
		}
	}
}

// eligibilityChanged lets leaders look at their watermark again: a follower
// that was fenced no longer holds it back.
func (m *Manager) eligibilityChanged() {
	for _, p := range m.all() {
		p.reconsider()
	}
}

// DirFailed tells all who wait for a partition in a log directory that went
// offline, and the cluster. It does not block, so that it can be storage's OnDirFailure; the
// goroutine it starts ends when all were told.
func (m *Manager) DirFailed(dir string) {
	go func() {
		for _, p := range m.all() {
			if p.dir() == dir {
				m.fetchers.unfollow(p)
				p.diskFailed()
			}
		}
		m.reportOffline()
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
		if errors.Is(p.Snapshot().Err, kerr.KafkaStorageError) {
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
