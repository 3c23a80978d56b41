package replication

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage"
)

// Partition is one replica of a partition on this broker: a log, the role it
// plays, and those who wait for it. Methods may be called from any goroutine.
type Partition struct {
	topic    string
	id       storage.TopicID
	index    int32
	internal bool // a topic of the brokers' own, not for clients to write
	env      *environment
	// log is nil if there is none; state.offline says why. It is replaced under role,
	// held exclusively, when it is in another directory from then on (relocate).
	log atomic.Pointer[storage.Log]

	// role guards what metadata decides. It is held shared across appends and
	// reads, so that none of them straddles a change of leadership or a
	// truncation. state is replaced, never changed in place.
	role  sync.RWMutex
	state state
	// next is who leads after a replica that moved away, under role.
	next struct{ leader, epoch int32 }

	// mu guards what data moves. It is taken after role and held shortly: no
	// I/O happens under it.
	mu sync.Mutex
	// logEnd is the highest log end reported by an append.
	logEnd int64
	// watermark is the high watermark. It never moves back while this broker
	// leads. It is stored under mu and read without, so that readers do not
	// wait for who moves it.
	watermark atomic.Int64
	followers []Replica
	progress  progress
	acks      acks
	watches   *Watch
	nStable   int // watches with BoundLastStable
	listeners []*listener
	lows      []*LowWatermarkWait
	// newRole is closed at the next change of leader or leader epoch; nil while
	// nobody waits for one.
	newRole chan struct{}
	// resigned is when this broker ceased to lead, zero if it never did.
	resigned time.Time
	// sentAway tells that somebody was sent to who leads since then; see SendAway.
	sentAway atomic.Bool

	// pending is the change of the in-sync set in flight, under role.
	pending *pendingChange

	// throttledAsLeader and throttledAsFollower tell that the topic lists this
	// replica to be throttled; see throttle.
	throttledAsLeader, throttledAsFollower atomic.Bool
}

// environment is what a partition needs from its manager.
type environment struct {
	nodeID int32
	now    func() time.Time
	// maxLagMs is replica.lag.time.max.ms.
	maxLagMs int64
	// isolated says that this broker cannot confirm that it still takes part
	// in the cluster; nil if that cannot be.
	isolated func() bool
	// brokerState is the registered epoch of a broker and whether it may be in
	// an ISR: neither fenced nor shutting down.
	brokerState func(id int32) (epoch int64, eligible bool)
	// registration is the revision of a broker's registration; nil if there is none
	// to speak of.
	registration func(id int32) int64
	// offline says that a broker told of its replica of a partition that the
	// log directory failed; nil if none ever does.
	offline func(id int32, topic storage.TopicID, partition int32) bool
	// rackOf is the rack of a broker and whether it is up; nil unless consumers
	// are sent to replicas in their rack (replica.selector.class).
	rackOf func(id int32) (rack string, up bool)
	// mayGrow is told of a partition with a follower that may join its in-sync
	// set; it does not block.
	mayGrow func(p *Partition)
	// leaderThrottle and followerThrottle bound the replication of partitions
	// that are listed for it.
	leaderThrottle, followerThrottle *throttle
}

// state is what metadata says about the partition.
type state struct {
	// offline says why the replica cannot be used: its directory failed.
	offline error
	// gone is set once, when the replica was deleted or moved away.
	gone error

	leader         int32 // -1: none
	leaderEpoch    int32
	partitionEpoch int32
	// epochStart is the log end when leaderEpoch began; only a leader's.
	epochStart int64
	replicas   []int32
	isr        ISR
	minISR     int32
	// recovering tells that the leader was elected without proof of having all
	// that was committed.
	recovering bool
}

// enoughInSync is NOT_ENOUGH_REPLICAS where acks=all is refused. The caller holds
// role.
func (s *state) enoughInSync() error {
	if !s.isr.UnderMin(s.minISR, len(s.replicas)) {
		return nil
	}
	return fmt.Errorf("%w: %d in sync, %d required", kerr.NotEnoughReplicas, len(s.isr.Committed), EffectiveMinISR(s.minISR, len(s.replicas)))
}

// Writable is the error with which Append would refuse acks=all now because too
// few replicas are in sync; nil where enough are, or this broker does not lead.
func (p *Partition) Writable() error {
	p.role.RLock()
	defer p.role.RUnlock()
	if _, err := p.leads(); err != nil {
		return nil // Append says that
	}
	return p.state.enoughInSync()
}

// MaxMessageBytes is the size of the largest batch that Append takes now
// (max.message.bytes).
func (p *Partition) MaxMessageBytes() int {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.usable()
	if err != nil {
		return math.MaxInt32 // Append says what is wrong
	}
	return int(log.Config().MaxMessageBytes)
}

// TopicPartition names the partition.
func (p *Partition) TopicPartition() storage.TopicPartition {
	return storage.TopicPartition{Topic: p.topic, Partition: p.index}
}

// Topic is the name of the topic.
func (p *Partition) Topic() string { return p.topic }

// TopicID is the id of the topic. A topic that was deleted and created again
// has another id and other partitions.
func (p *Partition) TopicID() storage.TopicID { return p.id }

// Index is the number of the partition in its topic.
func (p *Partition) Index() int32 { return p.index }

// Gone is not nil once the replica was deleted or moved away. Its watches are
// woken then and must be closed.
func (p *Partition) Gone() error {
	p.role.RLock()
	defer p.role.RUnlock()
	return p.state.gone
}

// usable returns the log, whoever leads. The caller holds role.
func (p *Partition) usable() (*storage.Log, error) {
	s := &p.state
	if s.gone != nil {
		return nil, s.gone
	}
	if s.offline != nil {
		return nil, fmt.Errorf("%w: %s: %w", kerr.KafkaStorageError, p.TopicPartition(), s.offline)
	}
	log := p.log.Load()
	if err := log.Err(); err != nil {
		return nil, err
	}
	return log, nil
}

// leads returns the log if this broker leads the partition. The caller holds
// role.
func (p *Partition) leads() (*storage.Log, error) {
	log, err := p.usable()
	if err == nil && !p.isLeader() {
		err = kerr.NotLeaderForPartition
	}
	if err != nil {
		return nil, err
	}
	return log, nil
}

func (p *Partition) isLeader() bool { return p.state.leader == p.env.nodeID }

// isIsolated says that another broker may lead by now without this one having
// learnt of it. What needs the others' consent (acks=all) is safe all the same;
// the rest is not (rule 11).
func (p *Partition) isIsolated() bool { return p.env.isolated != nil && p.env.isolated() }

// AppendOptions goes with Append.
type AppendOptions struct {
	// Acks as in Produce: with -1 the append is refused with
	// NOT_ENOUGH_REPLICAS while the ISR is too small.
	Acks int16
	// Version of the Produce request; decides which codecs are allowed.
	Version int16
	// Origin is storage.Client for a Produce request. Clients may not write to
	// internal topics unless AllowInternal is set, coordinators may.
	Origin        storage.Origin
	AllowInternal bool
	// LeaderEpoch, for a coordinator, is the epoch in which it took the
	// partition over: its append is refused in any other. Zero value: see
	// CheckLeaderEpoch.
	LeaderEpoch int32
	// CheckLeaderEpoch makes LeaderEpoch count.
	CheckLeaderEpoch bool
	// Now is the time of a log append timestamp; the zero time means now.
	Now time.Time
	// Verify, Guard and TxnVersion are for transactions, StrictSequence for
	// idempotent producers, see storage.AppendOptions.
	Verify         bool
	Guard          uint64
	TxnVersion     int16
	StrictSequence bool
}

// Append writes records, which are stamped in place, as leader. It does not
// wait: what the result says is committed once the high watermark reaches
// LastOffset+1, see ProduceWait and NotifyAt.
//
// Errors: NOT_LEADER_OR_FOLLOWER, NOT_ENOUGH_REPLICAS, INVALID_TOPIC_EXCEPTION
// (internal topic), KAFKA_STORAGE_ERROR, and those of
// storage.Log.AppendAsLeader.
func (p *Partition) Append(records []byte, o AppendOptions) (storage.AppendResult, error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.leads()
	if err != nil {
		return storage.AppendResult{}, err
	}
	s := &p.state
	switch {
	case p.internal && o.Origin == storage.Client && !o.AllowInternal:
		return storage.AppendResult{}, fmt.Errorf("%w: cannot append to internal topic %s", kerr.InvalidTopicException, p.topic)
	case o.CheckLeaderEpoch && o.LeaderEpoch != s.leaderEpoch:
		return storage.AppendResult{}, fmt.Errorf("%w: appended in epoch %d, now %d", kerr.NotLeaderForPartition, o.LeaderEpoch, s.leaderEpoch)
	case o.Acks != -1 && o.Origin == storage.Client && p.isIsolated():
		return storage.AppendResult{}, fmt.Errorf("%w: this broker cannot confirm that it still leads, and what only it has would be lost if it does not", kerr.NotLeaderForPartition)
	case o.Acks == -1:
		if err := s.enoughInSync(); err != nil {
			return storage.AppendResult{}, err
		}
	}
	res, err := log.AppendAsLeader(records, storage.AppendOptions{
		LeaderEpoch: s.leaderEpoch, Origin: o.Origin, Version: o.Version, Now: o.Now,
		Verify: o.Verify, Guard: o.Guard, TxnVersion: o.TxnVersion, StrictSequence: o.StrictSequence,
	})
	if err != nil || res.Duplicate {
		return res, err
	}
	p.mu.Lock()
	p.appended(res.LastOffset+1, int64(len(records)))
	p.mu.Unlock()
	return res, nil
}

// appended notes that the log was written up to end. Appends that ran side by
// side may report out of order. The caller holds role, leads, and holds mu.
func (p *Partition) appended(end, bytes int64) {
	// Those who had everything until now have a full lag period from now on:
	// on a partition that was idle their last fetch may be long ago.
	for i := range p.followers {
		if r := &p.followers[i]; r.LogEnd >= p.logEnd && r.LeaderEpoch == p.state.leaderEpoch {
			r.CaughtUpMs = max(r.CaughtUpMs, p.env.now().UnixMilli())
		}
	}
	p.logEnd = max(p.logEnd, end)
	p.progress.append(p.logEnd, bytes)
	p.advance()
}

// advance recomputes the leader's high watermark and tells everybody whose
// bound moved since the last call. The caller holds role, leads, and holds mu.
func (p *Partition) advance() {
	s := &p.state
	mark := Watermark(Progress{
		Leader: p.env.nodeID, LogEnd: p.logEnd, Current: p.watermark.Load(),
		ISR: s.isr, Followers: p.followers, MinISR: s.minISR,
		NowMs: p.nowForLag(), MaxLagMs: p.env.maxLagMs, Eligible: p.eligible,
	})
	p.moved(mark)
}

// nowForLag spares the clock where no follower's lag is asked for.
func (p *Partition) nowForLag() int64 {
	if len(p.followers) == 0 {
		return 0
	}
	return p.env.now().UnixMilli()
}

// eligible says whether a replica could be in the ISR.
func (p *Partition) eligible(id int32) bool {
	_, ok := p.env.brokerState(id)
	return ok && (p.env.offline == nil || !p.env.offline(id, p.id, p.index))
}

// moved sets the high watermark and tells everybody for whom something changed
// since the last call. The caller holds role and mu.
func (p *Partition) moved(mark int64) {
	from := p.watermark.Load()
	if mark != from {
		p.watermark.Store(mark)
		p.log.Load().SetHighWatermark(mark)
		p.acks.reached(mark, p.ackError())
		for _, l := range p.listeners {
			l.fn(mark)
		}
	}
	p.push(from)
}

// ackError is what a produce with acks=all is told when its records are
// committed: with the ISR too small by then, they are less safe than asked for.
func (p *Partition) ackError() error {
	s := &p.state
	if s.isr.UnderMin(s.minISR, len(s.replicas)) {
		return kerr.NotEnoughReplicasAfterAppend
	}
	return nil
}

// push makes ready all watches whose bound moved, from being the watermark of
// the last call. One for which only the high watermark moved is made ready
// without bytes: its next response carries the new one. The caller holds role
// and mu.
func (p *Partition) push(from int64) {
	g := &p.progress
	g.reached(p.watermark.Load())
	if p.watches == nil {
		return
	}
	markMoved := p.watermark.Load() != from
	// Of what this process did not append it does not know the bytes.
	unmeasured := markMoved && from < g.unmeasured
	stableMoved, stableLags := p.moveStable()
	for n := p.watches; n != nil; n = n.next {
		var bytes int64
		moved, urgent := false, false
		switch n.bound {
		case BoundLogEnd:
			bytes, n.credited = g.appended-n.credited, g.appended
			// Where consumers read from followers, these hear of a new
			// watermark at once and not with the next records (KIP-392).
			urgent = markMoved && p.env.rackOf != nil
		case BoundHighWatermark:
			bytes, n.credited = g.visible-n.credited, g.visible
			urgent = unmeasured
		case BoundLastStable:
			// How many bytes lie between it and the watermark is not known.
			moved, urgent = stableMoved, stableMoved && stableLags || unmeasured
			if !stableLags {
				bytes, n.credited = g.visible-n.credited, g.visible
			}
		}
		if bytes > 0 || moved || urgent || markMoved {
			n.w.push(n, bytes, urgent)
		}
	}
}

// moveStable brings the last stable offset up to date where a watch asks for
// it. lags tells whether it is or was below the high watermark.
func (p *Partition) moveStable() (moved, lags bool) {
	if p.nStable == 0 {
		return false, false
	}
	g := &p.progress
	stable := p.log.Load().LastStableOffset()
	moved, lags = stable != g.stable, g.stableLags || stable < p.watermark.Load()
	g.stable, g.stableLags = stable, stable < p.watermark.Load()
	return moved, lags
}

// watch links n. Its bound is not looked at: the watcher reads the partition
// after this.
func (p *Partition) watch(n *Watch) {
	p.role.RLock()
	defer p.role.RUnlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	g := &p.progress
	n.credited = g.visible
	if n.bound == BoundLogEnd {
		n.credited = g.appended
	}
	if n.bound == BoundLastStable {
		if p.nStable++; p.nStable == 1 && p.log.Load() != nil {
			g.stable = p.log.Load().LastStableOffset()
			g.stableLags = g.stable < p.watermark.Load()
		}
	}
	n.next, n.linked = p.watches, true
	if n.next != nil {
		n.next.prev = n
	}
	p.watches = n
}

func (p *Partition) unwatch(n *Watch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !n.linked {
		return
	}
	if n.prev == nil {
		p.watches = n.next
	} else {
		n.prev.next = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	}
	n.prev, n.next, n.linked = nil, nil, false
	if n.bound == BoundLastStable {
		p.nStable--
	}
}

// wakeAll makes every watch ready and wakes its watcher whatever it waits for.
// The caller holds mu.
func (p *Partition) wakeAll() {
	for n := p.watches; n != nil; n = n.next {
		n.w.push(n, 0, true)
	}
}

// outcome tells whether it is decided, and how, what becomes of the records
// below offset.
func (p *Partition) outcome(offset int64) (decided bool, err error) {
	p.role.RLock()
	defer p.role.RUnlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outcomeLocked(offset)
}

// outcomeLocked is outcome for a caller that holds role and mu.
func (p *Partition) outcomeLocked(offset int64) (decided bool, err error) {
	if _, err := p.leads(); err != nil {
		return true, err
	}
	if p.watermark.Load() < offset {
		return false, nil
	}
	return true, p.ackError()
}

// await links a, or fires it at once if it has an outcome already.
func (p *Partition) await(a *ack) {
	p.role.RLock()
	defer p.role.RUnlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if decided, err := p.outcomeLocked(a.offset); decided {
		a.fire(err)
	} else {
		p.acks.add(a)
	}
}

// giveUp fires a with err unless it was fired.
func (p *Partition) giveUp(a *ack, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.linked {
		p.acks.remove(a)
		a.fire(err)
	}
}

// NotifyAt calls fn once, when the high watermark has reached offset (nil) or
// never will under this leadership (as ProduceWait.Err). fn may be called
// before NotifyAt returns; it must neither block nor call the partition. The
// returned function makes fn be called with err at once unless it was called.
func (p *Partition) NotifyAt(offset int64, fn func(err error)) (cancel func(err error)) {
	a := &ack{p: p, offset: offset, notify: fn}
	p.await(a)
	return func(err error) { p.giveUp(a, err) }
}

type listener struct{ fn func(highWatermark int64) }

// OnHighWatermark calls fn with each new high watermark, in order, until remove
// is called. fn is first called with the present one. It must neither block nor
// call the partition: store and signal.
func (p *Partition) OnHighWatermark(fn func(highWatermark int64)) (remove func()) {
	l := &listener{fn}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners = append(p.listeners, l)
	fn(p.watermark.Load())
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.listeners = slices.DeleteFunc(p.listeners, func(x *listener) bool { return x == l })
	}
}

// Snapshot is the state of a partition at one moment.
type Snapshot struct {
	Leader                                      int32 // -1: none
	LeaderEpoch, PartitionEpoch                 int32
	IsLeader                                    bool
	LogStart, HighWatermark, LastStable, LogEnd int64
	Replicas, ISR                               []int32 // not to be changed
	MinISR                                      int32
	// Err is not nil when the replica cannot be used: KAFKA_STORAGE_ERROR or
	// deleted. The offsets are Unknown then.
	Err error
}

// Snapshot returns the partition's state and offsets. It takes no lock that an
// append holds exclusively.
func (p *Partition) Snapshot() Snapshot {
	p.role.RLock()
	defer p.role.RUnlock()
	s := &p.state
	snap := Snapshot{
		Leader: s.leader, LeaderEpoch: s.leaderEpoch, PartitionEpoch: s.partitionEpoch, IsLeader: p.isLeader(),
		Replicas: s.replicas, ISR: s.isr.Committed, MinISR: s.minISR,
		LogStart: Unknown, HighWatermark: Unknown, LastStable: Unknown, LogEnd: Unknown,
	}
	log, err := p.usable()
	if err != nil {
		snap.Err = err
		return snap
	}
	// From the smallest to the largest, so that a snapshot taken beside an
	// append keeps their order.
	snap.LogStart = log.LogStartOffset()
	snap.LastStable = log.LastStableOffset()
	snap.HighWatermark = max(p.highWatermark(), snap.LastStable)
	snap.LogEnd = max(log.LogEndOffset(), snap.HighWatermark)
	return snap
}

// LogEnd is how far the replica's log goes, whoever leads: the last leader
// epoch that it knows of and the offset after its last batch.
func (p *Partition) LogEnd() (epoch int32, offset int64, err error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.usable()
	if err != nil {
		return 0, 0, err
	}
	return log.LatestEpoch(), log.LogEndOffset(), nil
}

// endsInEpoch says whether epoch is still the last one that the log knows of. An
// epoch without records may go where nothing else does.
func (p *Partition) endsInEpoch(epoch int32) bool {
	last, _, err := p.LogEnd()
	return err == nil && last == epoch
}

func (p *Partition) highWatermark() int64 { return p.watermark.Load() }

// LeaderEpoch is the epoch of the leader in the metadata applied last.
func (p *Partition) LeaderEpoch() int32 {
	p.role.RLock()
	defer p.role.RUnlock()
	return p.state.leaderEpoch
}

// CheckLeaderEpoch compares the epoch a client knows (-1: none) with the
// partition's (KIP-320).
func (p *Partition) CheckLeaderEpoch(epoch int32) error {
	return CheckEpoch(epoch, p.LeaderEpoch())
}
