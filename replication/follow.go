package replication

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
)

// This file is what a follower does to its log: it says where the log ends,
// takes over what the leader answers, and cuts off what the leader does not
// have. Each call names the leader epoch in which it was decided; under another
// one it does nothing, so that a late answer never reaches a log that has
// another leader by now, or leads.

// errNotFollowing says that the partition does not follow in the epoch asked
// for any more.
var errNotFollowing = errors.New("not a follower in this epoch")

// follows returns the log if the partition follows somebody in that epoch. The
// caller holds role.
func (p *Partition) follows(epoch int32) (*storage.Log, error) {
	log, err := p.usable()
	if err != nil {
		return nil, err
	}
	if p.isLeader() || p.state.leader < 0 || p.state.leaderEpoch != epoch {
		return nil, errNotFollowing
	}
	return log, nil
}

// position says from where the follower fetches.
func (p *Partition) position(epoch int32) (FetchPosition, error) {
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.follows(epoch)
	if err != nil {
		return FetchPosition{}, err
	}
	return FetchPosition{
		PartitionID: PartitionID{p.id, p.index}, LeaderEpoch: epoch,
		LastEpoch: log.LatestEpoch(), Offset: log.LogEndOffset(), LogStart: log.LogStartOffset(),
	}, nil
}

// take appends what the leader answered to a fetch from asked on, and takes
// over its high watermark and log start. An answer to another position than the
// log's end is stale and ignored.
//
// The order is a rule: a diverging log is cut by truncate before anything of
// the answer counts, and the watermark never passes what is in the log.
func (p *Partition) take(epoch int32, asked int64, f *Fetched) error {
	if first, _, err := protocol.NextBatch(f.Records); err == nil && first.BaseOffset() < asked {
		if err := p.realign(epoch, asked, first); err != nil {
			return err
		}
		asked = first.BaseOffset()
	}
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.follows(epoch)
	if err != nil || log.LogEndOffset() != asked {
		return err
	}
	end, bytes := asked, int64(0)
	if len(f.Records) > 0 {
		res, err := log.AppendAsFollower(f.Records, epoch)
		if err != nil {
			return err
		}
		end, bytes = res.LastOffset+1, int64(len(f.Records))
		if p.throttledAsFollower.Load() {
			p.env.followerThrottle.record(len(f.Records))
		}
	}
	p.mu.Lock()
	p.logEnd = end
	if bytes > 0 {
		p.progress.append(end, bytes)
	}
	p.moved(max(p.watermark.Load(), min(f.HighWatermark, end)))
	p.mu.Unlock()
	if f.LogStart <= log.LogStartOffset() {
		return nil
	}
	if err := log.SetLogStartOffset(min(f.LogStart, end)); err != nil && !errors.Is(err, kerr.OffsetOutOfRange) {
		return err
	}
	return nil
}

// realign makes an empty log begin with the batch that holds its start: the
// leader's log start may lie within a batch (DeleteRecords), and a follower that
// begins there gets all of the batch.
func (p *Partition) realign(epoch int32, asked int64, first protocol.Batch) error {
	p.role.Lock()
	defer p.role.Unlock()
	log, err := p.follows(epoch)
	if err != nil || log.LogEndOffset() != asked {
		return err
	}
	if log.LogStartOffset() != asked || first.LastOffset() < asked {
		return fmt.Errorf("%w: asked for %d, the leader sent a batch at %d", kerr.OffsetOutOfRange, asked, first.BaseOffset())
	}
	return p.cut(log, func() error { return log.TruncateFullyAndStartAt(first.BaseOffset()) })
}

// truncate cuts the log after the leader answered that it diverges: leader is
// the leader's largest epoch not above that of our last record, and its end. If
// our log knows another epoch there, the next fetch asks again (KIP-279).
func (p *Partition) truncate(epoch int32, leader EpochEnd) (cut int64, err error) {
	p.role.Lock()
	defer p.role.Unlock()
	log, err := p.follows(epoch)
	if err != nil {
		return Unknown, err
	}
	var own EpochEnd
	own.Epoch, own.EndOffset = log.EndOffsetForEpoch(leader.Epoch)
	if own == noEpochEnd {
		// Nothing here is as old as that epoch; what there is begins later.
		own = EpochEnd{Epoch: leader.Epoch, EndOffset: leader.EndOffset}
	}
	to, _ := TruncationPoint(own, leader)
	return to, p.cut(log, func() error { return log.TruncateTo(to) })
}

// rebase makes the log continue where the leader's can: after an answer that
// the log end lies outside of [start, end), the leader's log. It reports whether
// that changed anything.
//
// A log that reaches beyond the leader's is cut to its end; no election that is
// not unclean lets that happen. A log that ends below the leader's start has
// nothing that the leader still has, and begins anew there.
func (p *Partition) rebase(epoch int32, start, end int64) (changed bool, err error) {
	p.role.Lock()
	defer p.role.Unlock()
	log, err := p.follows(epoch)
	if err != nil {
		return false, err
	}
	switch own := log.LogEndOffset(); {
	case end < own:
		return true, p.cut(log, func() error { return log.TruncateTo(end) })
	case start > own:
		return true, p.cut(log, func() error { return log.TruncateFullyAndStartAt(start) })
	}
	return false, nil
}

// cut shortens the log by cutting and brings the partition in line. The caller
// holds role exclusively.
func (p *Partition) cut(log *storage.Log, cutting func() error) error {
	if err := cutting(); err != nil {
		return fmt.Errorf("truncating %s: %w", p.TopicPartition(), err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logEnd = log.LogEndOffset()
	p.progress.restart(p.logEnd)
	p.watermark.Store(log.HighWatermark())
	p.wakeAll()
	return nil
}
