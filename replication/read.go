package replication

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
)

// ReadOptions goes with Read. There is no useful zero value: ReplicaID and the
// epochs are -1 where a client does not tell.
type ReadOptions struct {
	Offset   int64
	MaxBytes int
	// MinOneBatch returns the first batch whole even if it is larger than
	// MaxBytes, so that a consumer always gets on.
	MinOneBatch bool
	// Isolation is 0 (read_uncommitted) or 1 (read_committed).
	Isolation int8
	// CurrentLeaderEpoch is the epoch the reader believes in, LastFetchedEpoch
	// that of the last record it has; -1 for unknown.
	CurrentLeaderEpoch, LastFetchedEpoch int32
	// ReplicaID is the follower that reads, -1 for a consumer. A follower's
	// read counts as its progress: Offset is its log end, LogStart its log
	// start, BrokerEpoch its incarnation (-1: not told).
	ReplicaID   int32
	BrokerEpoch int64
	LogStart    int64
	// Turn counts the fetches of this broker in the order in which they came.
	// Of a follower's fetches that are read side by side the one with the
	// highest says where its log ends.
	Turn int64
	// AllowFollower lets a consumer read from a replica that does not lead
	// (KIP-392).
	AllowFollower bool
	// Rack is where the consumer says it is; empty for anywhere.
	Rack string
}

// ReadResult answers a Read. On error only the offsets may be set.
type ReadResult struct {
	// Slice holds the batches, possibly none. The reader must Release it.
	Slice                                                         storage.Slice
	HighWatermark, LastStableOffset, LogStartOffset, LogEndOffset int64
	// Aborted lists the aborted transactions in the slice for a read_committed
	// reader; nil for others.
	Aborted []storage.AbortedTxn
	// Diverging is set when the reader's log is not a prefix of ours. Nothing
	// is read then.
	Diverging *EpochEnd
	// PreferredReplica is where the consumer should rather read; -1 for here.
	PreferredReplica int32
	// Throttled tells that there was more for the follower, which has to wait
	// (KIP-73). Nobody tells when for: it is to be looked at again later.
	Throttled bool
	// Late tells that a fetch of a later Turn was here before, so that this one
	// does not count as progress. Who sent that may not come back with the
	// position by itself: its session is to look again.
	Late bool
}

// Read returns batches from an offset on up to the bound of the reader.
//
// Errors: OFFSET_OUT_OF_RANGE, NOT_LEADER_OR_FOLLOWER, FENCED_LEADER_EPOCH,
// UNKNOWN_LEADER_EPOCH, KAFKA_STORAGE_ERROR, UNKNOWN_TOPIC_OR_PARTITION.
func (p *Partition) Read(o ReadOptions) (ReadResult, error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.readable(o.CurrentLeaderEpoch, o.AllowFollower && o.ReplicaID < 0)
	if err != nil {
		return ReadResult{HighWatermark: Unknown, LastStableOffset: Unknown, LogStartOffset: Unknown, LogEndOffset: Unknown, PreferredReplica: -1}, err
	}
	res := p.offsets(log)
	if o.LastFetchedEpoch != NoEpoch {
		if res.Diverging, err = diverging(log, o); err != nil || res.Diverging != nil {
			return res, err
		}
	}
	if o.ReplicaID < 0 && o.Rack != "" && p.isLeader() {
		if res.PreferredReplica = p.preferred(o); res.PreferredReplica >= 0 {
			return res, nil
		}
	}
	upTo := res.end(BoundOf(o.ReplicaID, o.Isolation))
	if res.Slice, err = log.Read(o.Offset, o.MaxBytes, upTo, o.MinOneBatch); err != nil {
		if o.ReplicaID < 0 && o.Offset > res.LogEndOffset && p.isLeader() && p.isIsolated() {
			// A new leader may have what this one lacks. A consumer that is told
			// that its position does not exist would start over, one that is
			// sent away finds the new leader.
			err = kerr.NotLeaderForPartition
		}
		return res, err
	}
	if o.ReplicaID >= 0 {
		if res.Late, err = p.progressed(o, res.LogEndOffset); err == nil && res.Slice.Len > 0 && p.mustWait(o.ReplicaID) {
			res.Throttled = true
			res.Slice.Release()
			res.Slice = storage.Slice{}
		}
	} else if o.Isolation == 1 && res.Slice.Len > 0 {
		res.Aborted, err = res.Slice.Aborted()
	}
	if err != nil {
		res.Slice.Release()
		res.Slice = storage.Slice{}
	}
	return res, err
}

// mustWait reports whether a follower gets nothing now: it is not in sync, nor
// proposed to be, which the high watermark waits for already, and its partition is
// throttled. The caller holds role and leads.
func (p *Partition) mustWait(follower int32) bool {
	if !p.throttledAsLeader.Load() || !p.env.leaderThrottle.exceeded() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.state.isr.InMaximal(follower)
}

// readable returns the log if the reader's epoch fits and this replica may
// serve it. The caller holds role.
func (p *Partition) readable(epoch int32, allowFollower bool) (*storage.Log, error) {
	log, err := p.usable()
	if err != nil {
		return nil, err
	}
	if err := CheckEpoch(epoch, p.state.leaderEpoch); err != nil {
		return nil, err
	}
	if !p.isLeader() && !allowFollower {
		return nil, kerr.NotLeaderForPartition
	}
	return log, nil
}

// offsets reads them from the smallest to the largest, so that their order
// holds beside appends.
func (p *Partition) offsets(log *storage.Log) ReadResult {
	res := ReadResult{PreferredReplica: -1}
	res.LogStartOffset = log.LogStartOffset()
	res.LastStableOffset = log.LastStableOffset()
	res.HighWatermark = max(p.highWatermark(), res.LastStableOffset)
	res.LogEndOffset = max(log.LogEndOffset(), res.HighWatermark)
	return res
}

// end is the offset at which a reader's sight ends.
func (r *ReadResult) end(b Bound) int64 {
	switch b {
	case BoundLastStable:
		return r.LastStableOffset
	case BoundLogEnd:
		return r.LogEndOffset
	case BoundHighWatermark:
	}
	return r.HighWatermark
}

// diverging compares the reader's last epoch with the log, see Diverges.
func diverging(log *storage.Log, o ReadOptions) (*EpochEnd, error) {
	var ends EpochEnd
	ends.Epoch, ends.EndOffset = log.EndOffsetForEpoch(o.LastFetchedEpoch)
	switch {
	case ends == noEpochEnd:
		return nil, fmt.Errorf("%w: the end of epoch %d is not known", kerr.OffsetOutOfRange, o.LastFetchedEpoch)
	case o.Offset < log.LogStartOffset():
		return nil, fmt.Errorf("%w: %d is below the log start", kerr.OffsetOutOfRange, o.Offset)
	case Diverges(ends, o.LastFetchedEpoch, o.Offset):
		return &ends, nil
	}
	return nil, nil
}

// preferred is the replica that a consumer should rather read from, -1 for
// this one: with RackAwareReplicaSelector a replica in its rack, unless the
// leader is there; of several the one with the longest log. Only replicas in
// sync are chosen, which a lagging one is not: the consumer would be sent to it
// again and again (KIP-392). The caller holds role and leads.
func (p *Partition) preferred(o ReadOptions) int32 {
	rackOf := p.env.rackOf
	if rackOf == nil {
		return -1
	}
	if rack, _ := rackOf(p.env.nodeID); rack == o.Rack {
		return -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *Replica
	for i := range p.followers {
		r := &p.followers[i]
		rack, up := rackOf(r.ID)
		if !up || rack != o.Rack || !slices.Contains(p.state.isr.Committed, r.ID) || r.LogEnd < o.Offset || r.LogStart > o.Offset {
			continue
		}
		if best == nil || r.LogEnd > best.LogEnd || r.LogEnd == best.LogEnd && r.CaughtUpMs > best.CaughtUpMs {
			best = r
		}
	}
	if best == nil {
		return -1
	}
	return best.ID
}

// progressed notes a follower's fetch, unless it is late. The caller holds role
// and leads.
//
// A follower that gives up a request begins a new session with the next. Until
// its wait is over the old request is read again whenever something is appended,
// with the position that the follower had when it asked. Were that to count, the
// follower would stand there for good: in its new session it does not tell again
// what it has told.
func (p *Partition) progressed(o ReadOptions, logEnd int64) (late bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.followers, func(r Replica) bool { return r.ID == o.ReplicaID })
	if i < 0 {
		// Its metadata or ours is older than the assignment. With the right
		// leader epoch it is ours: it shall ask again.
		if o.CurrentLeaderEpoch != NoEpoch {
			return false, kerr.UnknownLeaderEpoch
		}
		return false, kerr.NotLeaderForPartition
	}
	r := &p.followers[i]
	if o.BrokerEpoch != Unknown && o.BrokerEpoch < r.BrokerEpoch {
		// A request of a process that another one replaced, still on its way.
		return false, kerr.NotLeaderForPartition
	}
	if o.Turn < r.Turn {
		return true, nil
	}
	back := o.Offset < r.LogEnd
	*r = r.Fetched(o.Offset, o.LogStart, logEnd, p.state.leaderEpoch, o.BrokerEpoch, p.env.now().UnixMilli())
	r.Turn = o.Turn
	p.advance()
	p.lowMoved()
	p.inviteFollowers()
	if back {
		// It truncated, or the request was given up before it arrived: its
		// session knows.
		p.wakeAll()
	}
	return false, nil
}

// ReadBytes copies whole batches from offset on up to the log end, about
// maxBytes of them but at least one if there is any, and returns them appended
// to dst with the offset behind them: how a coordinator loads its state. It
// reads whatever is in the log, committed or not, from any replica.
func (p *Partition) ReadBytes(dst []byte, offset int64, maxBytes int) (batches []byte, next int64, err error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.usable()
	if err != nil {
		return dst, offset, err
	}
	return readWhole(log, dst, offset, maxBytes, log.LogEndOffset())
}

// Special timestamps of ListOffsets.
const (
	TimestampLatest                = -1
	TimestampEarliest              = -2
	TimestampMax                   = -3 // KIP-734
	TimestampEarliestLocal         = -4 // KIP-405
	TimestampLatestTiered          = -5 // KIP-1005
	TimestampEarliestPendingUpload = -6 // KIP-1023
)

// ListOptions goes with ListOffset; -1 where a client does not tell.
type ListOptions struct {
	ReplicaID          int32
	Isolation          int8
	CurrentLeaderEpoch int32
}

// ListedOffset answers ListOffset; all three are -1 when there is none.
type ListedOffset struct {
	Timestamp, Offset int64
	LeaderEpoch       int32
}

var notListed = ListedOffset{Timestamp: Unknown, Offset: Unknown, LeaderEpoch: NoEpoch}

// ListOffset finds the first offset with a timestamp of at least ts, or what
// one of the special timestamps stands for.
//
// A leader whose high watermark is still below the start of its epoch does not
// know yet how far its predecessor had committed: for the latest offset and
// for what lies beyond the watermark the answer is OFFSET_NOT_AVAILABLE rather
// than a number lower than one given before (KIP-207).
func (p *Partition) ListOffset(ts int64, o ListOptions) (ListedOffset, error) {
	p.role.RLock()
	defer p.role.RUnlock()
	const debuggingReplica = -2
	log, err := p.readable(o.CurrentLeaderEpoch, o.ReplicaID == debuggingReplica)
	if err != nil {
		return notListed, err
	}
	at := p.offsets(log)
	var lagging error
	if o.ReplicaID < 0 && p.isLeader() && (at.HighWatermark < p.state.epochStart || p.isIsolated()) {
		lagging = kerr.OffsetNotAvailable
	}
	upTo := at.end(BoundOf(o.ReplicaID, o.Isolation))
	switch ts {
	case TimestampLatest:
		return ListedOffset{Unknown, upTo, p.state.leaderEpoch}, lagging
	case TimestampEarliest, TimestampEarliestLocal:
		return ListedOffset{Unknown, at.LogStartOffset, epochAt(log, at.LogStartOffset)}, nil
	case TimestampLatestTiered, TimestampEarliestPendingUpload:
		return notListed, nil // there is no tiered storage
	}
	found, ok, err := searchTime(log, ts, at.LogEndOffset)
	switch {
	case err != nil:
		return notListed, err
	case ok && found.Offset < upTo:
		return ListedOffset{found.Timestamp, found.Offset, found.LeaderEpoch}, nil
	}
	return notListed, lagging // where this log has none, a new leader's may
}

func searchTime(log *storage.Log, ts, upTo int64) (storage.TimestampOffset, bool, error) {
	if ts == TimestampMax {
		return log.MaxTimestampOffset()
	}
	return log.OffsetForTimestamp(ts, upTo)
}

// epochAt is the leader epoch of an offset, -1 where the epochs do not tell.
func epochAt(log *storage.Log, offset int64) int32 {
	epoch := NoEpoch
	for _, e := range log.EpochEntries() {
		if e.StartOffset > offset {
			break
		}
		epoch = e.Epoch
	}
	return epoch
}

// EpochEnd answers OffsetForLeaderEpoch (KIP-101, KIP-279): the largest epoch
// not above the one asked for, and where it ended; -1 and -1 when that is not
// known.
func (p *Partition) EpochEnd(currentLeaderEpoch, epoch int32) (EpochEnd, error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.readable(currentLeaderEpoch, false)
	if err != nil {
		return noEpochEnd, err
	}
	var end EpochEnd
	end.Epoch, end.EndOffset = log.EndOffsetForEpoch(epoch)
	return end, nil
}

// ActiveProducers lists the producers the log remembers; only the leader is
// asked.
func (p *Partition) ActiveProducers() ([]storage.ProducerState, error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.leads()
	if err != nil {
		return nil, err
	}
	return log.ActiveProducers(), nil
}

// readWhole appends whole batches of [offset, upTo) to dst.
func readWhole(log *storage.Log, dst []byte, offset int64, maxBytes int, upTo int64) ([]byte, int64, error) {
	slice, err := log.Read(offset, maxBytes, upTo, true)
	if err != nil {
		return dst, offset, err
	}
	defer slice.Release()
	begin := len(dst)
	if dst, err = slice.AppendTo(dst); err != nil {
		return dst[:begin], offset, err
	}
	end := begin
	for end < len(dst) {
		batch, _, err := protocol.NextBatch(dst[end:])
		if err != nil {
			break // the cut of maxBytes
		}
		end += len(batch)
		offset = batch.LastOffset() + 1
	}
	return dst[:end], offset, nil
}
