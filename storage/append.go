package storage

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
)

// AppendAsLeader checks records (one batch for a client), stamps base offset and leader epoch into them IN PLACE, and
// writes them. The caller may reuse records when it returns.
//
// Errors wrap a *kerr.Error: see the table in check.go. InvalidRecordError names single records.
func (l *Log) AppendAsLeader(records []byte, opts AppendOptions) (AppendResult, error) {
	if opts.Now.IsZero() {
		opts.Now = l.now()
	}
	cfg := l.cfg.Load()
	records, err := checkProduced(records, &l.tp, cfg, &opts, l.inflater)
	if err != nil {
		return AppendResult{}, err
	}
	return l.append(records, cfg, opts)
}

// AppendAsFollower writes batches fetched from the leader of leaderEpoch as they are. The first must begin at LogEndOffset
// or later. CORRUPT_MESSAGE: a checksum is wrong, or a batch claims an epoch that the leader cannot have known.
func (l *Log) AppendAsFollower(records []byte, leaderEpoch int32) (AppendResult, error) {
	records, err := checkReplicated(records, leaderEpoch)
	if err != nil {
		return AppendResult{}, err
	}
	res, err := l.append(records, l.cfg.Load(), AppendOptions{Origin: Replication, Now: l.now()})
	if err != nil {
		return res, err
	}
	return res, l.nameRolled()
}

// nameRolled gives a segment that the append began its name before the append is acknowledged. Recovery names a segment
// after its first batch, which is wrong after a gap in the offsets, and only replicated batches have gaps.
func (l *Log) nameRolled() error {
	l.mu.Lock()
	rolled := len(l.seals) > 0
	l.mu.Unlock()
	if !rolled {
		return nil
	}
	l.hk.Lock()
	defer l.hk.Unlock()
	if err := l.inService(); err != nil {
		return err
	}
	return l.finishRolls()
}

// append writes checked batches.
func (l *Log) append(records []byte, cfg *LogConfig, opts AppendOptions) (AppendResult, error) {
	res, work, err := l.appendLocked(records, cfg, opts)
	if work {
		l.nudge(l)
	}
	if err == nil && res.LastOffset+1-l.recoveryPoint.Load() >= cfg.FlushMessages {
		err = l.flushTo(res.LastOffset + 1)
	}
	return res, err
}

// appendLocked is what happens under the append lock. work: there is something for housekeep to do.
func (l *Log) appendLocked(records []byte, cfg *LogConfig, opts AppendOptions) (res AppendResult, work bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if err := l.usable(); err != nil {
			return AppendResult{}, false, err
		}
		if dup, err := l.checkProducers(records, &opts); err != nil {
			return AppendResult{}, false, err
		} else if dup != nil {
			return l.duplicateResult(dup), false, nil
		}
		if err := l.prepareActive(); err != nil {
			return AppendResult{}, false, err
		}
		if !l.mustRoll(records, cfg, opts.Now) {
			break
		}
		if l.spare != nil {
			l.roll(opts.Now)
			work = true
			break
		}
		// The file is made with the lock let go, so everything has to be looked at again.
		l.mu.Unlock()
		err := l.makeSpare()
		l.mu.Lock()
		if err != nil {
			return AppendResult{}, false, err
		}
	}
	end := l.tail.end // mu guards against other writers
	if opts.Origin == Replication {
		err = checkOffsets(records, end)
	} else {
		stamp(records, end, opts.LeaderEpoch)
	}
	if err != nil {
		return AppendResult{}, work, err
	}
	if err := l.write(records); err != nil {
		return AppendResult{}, work, err
	}
	res = l.takeIn(records, cfg)
	work = (work || l.wantsSpare(cfg)) && !l.queued
	l.queued = l.queued || work
	return res, work, nil
}

// checkProducers looks for duplicates and wrong sequences. Under mu.
func (l *Log) checkProducers(records []byte, opts *AppendOptions) (dup *producerBatch, err error) {
	for len(records) > 0 {
		b, rest, err := protocol.NextBatch(records)
		if err != nil {
			return nil, err
		}
		if b.ProducerID() >= 0 && opts.Origin != Replication {
			if opts.Origin == Client && !b.IsControl() {
				if dup := l.producers.findDuplicate(b); dup != nil {
					return dup, nil
				}
			}
			if err := l.producers.check(b, opts); err != nil {
				return nil, err
			}
		}
		records = rest
	}
	return nil, nil
}

// duplicateResult answers a batch that is in the log already. Like Kafka it gives the batch's timestamp as the append
// time, whatever the topic's timestamp type.
func (l *Log) duplicateResult(b *producerBatch) AppendResult {
	return AppendResult{
		FirstOffset: b.firstOffset(), LastOffset: b.lastOffset, LogAppendTimeMs: b.timestamp,
		LogStartOffset: l.start.Load(), MaxTimestamp: b.timestamp, Duplicate: true,
	}
}

// stamp gives the batches their offsets and the leader epoch, outside the CRC.
func stamp(records []byte, offset int64, epoch int32) {
	for len(records) > 0 {
		b, rest, err := protocol.NextBatch(records)
		if err != nil {
			return // checked before
		}
		b.SetBaseOffset(offset)
		b.SetLeaderEpoch(epoch)
		offset = b.LastOffset() + 1
		records = rest
	}
}

// checkOffsets says whether replicated batches continue the log: gaps are allowed (the leader compacts), overlaps not.
func checkOffsets(records []byte, end int64) error {
	for len(records) > 0 {
		b, rest, err := protocol.NextBatch(records)
		if err != nil {
			return err
		}
		if b.BaseOffset() < end {
			return clientErrorf(kerr.OffsetOutOfRange, "replicated batch begins at %d, the log ends at %d", b.BaseOffset(), end)
		}
		end = b.LastOffset() + 1
		records = rest
	}
	return nil
}

// prepareActive opens the active segment for appending; the first append after a start finds it closed. Under mu.
func (l *Log) prepareActive() error {
	if l.ready {
		return nil
	}
	s := l.active
	if err := l.loadForAppend(s); err != nil {
		return l.dir.failOpen(err)
	}
	h, err := s.acquire()
	if err != nil {
		return l.dir.failOpen(err)
	}
	l.out, l.ready, l.touched = h, true, true
	return nil
}

func (l *Log) loadForAppend(s *segment) error {
	if err := s.load(); err != nil {
		return err
	}
	segs := *l.segs.Load()
	if _, err := l.abortedIn(segs, max(floorSegment(segs, s.base), 0)); err != nil {
		return err
	}
	if _, _, err := s.maxTimestamp(); err != nil {
		return err
	}
	if s.firstBatchTs >= 0 || s.size.Load() == 0 {
		return nil
	}
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	r := newHeaderReader(h.file, s.size.Load())
	defer r.free()
	b, _, err := r.header(0)
	if err != nil {
		return err
	}
	s.firstBatchTs = b.MaxTimestamp()
	return nil
}

// write puts the batches at the end of the active segment. A failed or short write is undone as far as the disk lets it,
// and the directory goes offline: what a second try would do to the file nobody knows. Under mu.
func (l *Log) write(records []byte) error {
	pos := l.tail.size
	if err := writeFull(l.out.file, records, pos); err != nil {
		if terr := l.out.file.Truncate(pos); terr != nil {
			l.log.Error().Err(terr).Str("log", l.tp.String()).Msg("cannot undo a failed write")
		}
		return l.dir.fail(err)
	}
	l.active.unsynced = true
	return nil
}

// takeIn updates everything that follows from the batches just written. Under mu.
func (l *Log) takeIn(records []byte, cfg *LogConfig) AppendResult {
	res := AppendResult{FirstOffset: -1, LogAppendTimeMs: -1, LogStartOffset: l.start.Load(), MaxTimestamp: -1}
	s := l.active
	pos := l.tail.size
	for len(records) > 0 {
		b, rest, err := protocol.NextBatch(records)
		if err != nil {
			break // checked before
		}
		s.noteAppended(b, pos, cfg.IndexIntervalBytes)
		l.noteBatch(s, b)
		pos += int64(len(b))
		l.tailMu.Lock()
		l.tail.add(b.BaseOffset(), pos-int64(len(b)), pos, b.LastOffset()+1)
		l.tailMu.Unlock()
		if res.FirstOffset < 0 {
			res.FirstOffset = b.BaseOffset()
		}
		res.LastOffset = b.LastOffset()
		res.MaxTimestamp = max(res.MaxTimestamp, b.MaxTimestamp())
		if b.LogAppendTime() {
			res.LogAppendTimeMs = b.MaxTimestamp()
		}
		records = rest
	}
	s.size.Store(pos)
	return res
}

// noteBatch takes a batch of segment s into epochs, producers and the transaction index. Under mu.
func (l *Log) noteBatch(s *segment, b protocol.Batch) {
	if epoch := b.LeaderEpoch(); epoch >= 0 {
		l.epochMu.Lock()
		if epoch > l.epochs.latest() {
			l.epochs.assign(epoch, b.BaseOffset())
		}
		l.epochMu.Unlock()
	}
	if b.ProducerID() < 0 {
		return
	}
	done, ended := l.producers.apply(b)
	if ended && done.aborted {
		err := s.txns.append(abortedTxn{done.producerID, done.firstOffset, done.lastOffset, l.producers.stableAfter(done)})
		if err != nil {
			_ = l.dir.fail(err) // without the entry, readers would take aborted records for committed ones
		}
	}
	if ended || b.IsTransactional() {
		l.producers.passWatermark(l.hw.Load())
		l.publishTxns()
	}
}

// mustRoll says whether the records belong into a new segment. Under mu.
func (l *Log) mustRoll(records []byte, cfg *LogConfig, now time.Time) bool {
	s, size := l.active, l.tail.size
	if size > cfg.SegmentBytes-int64(len(records)) && size > 0 {
		return true
	}
	last, maxTs := span(records)
	if last < l.tail.end { // not stamped yet: last is relative
		last += l.tail.end
	}
	if last-s.base > 1<<31-1 {
		return true
	}
	if size == 0 {
		return false
	}
	if s.offsets.size() >= int(cfg.SegmentIndexBytes)/offsetEntrySize*offsetEntrySize ||
		s.times.size() >= (int(cfg.SegmentIndexBytes)/timeEntrySize-1)*timeEntrySize {
		return true
	}
	waited := now.UnixMilli() - s.created.UnixMilli()
	if s.firstBatchTs >= 0 {
		waited = maxTs - s.firstBatchTs
	}
	return waited > cfg.maxSegmentMs()-l.jitterMs
}

// span returns the last offset and the greatest timestamp of batches as they come: a producer's begin at 0.
func span(records []byte) (last, maxTs int64) {
	maxTs = -1
	for len(records) > 0 {
		b, rest, err := protocol.NextBatch(records)
		if err != nil {
			break
		}
		last = max(last, b.LastOffset())
		maxTs = max(maxTs, b.MaxTimestamp())
		records = rest
	}
	return last, maxTs
}
