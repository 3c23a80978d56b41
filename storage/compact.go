package storage

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// Compaction of a log: the records of the dirty part, from where the last clean ended up to the first segment that may not
// be cleaned, go into an offsetMap. Then all segments below are written anew, without the records that have a later one in
// the map, several small ones into one, the oldest first. No offset changes; readers that come to a gap go on behind it.
//
//	  clean                     dirty                  not to be cleaned
//	| 0   | 368 | 1024        | 2048 | 3072          | 4096          | 5120 (active)
//	  ^-----------------------^---------------------^
//	  is written anew           goes into the map     first uncleanable offset
//
// Not to be cleaned are the active segment, what is at or above the last stable offset (so every transaction below is
// decided), and what is younger than min.compaction.lag.ms.

// compaction is one clean of one log.
type compaction struct {
	l      *Log
	job    cleanJob
	now    time.Time
	cfg    *LogConfig
	env    compactEnv
	result compactionResult

	scratch []byte // decompressed records, while the map is made
}

// compactEnv is what a clean needs of the cleaner.
type compactEnv struct {
	ctx        context.Context // ends the clean
	dedupeSize int64           // bytes
	loadFactor float64
	ioBuffer   int64
	throttle   func(ctx context.Context, n int) error
	// checkpointRecovery makes the recovery point durable.
	checkpointRecovery func() error
}

// compactionResult is what was done.
type compactionResult struct {
	end                    int64 // everything below is clean
	recordsRead, kept      int64
	bytesRead, bytesKept   int64
	keyless                int64
	mapUtilization         float64
	segmentsIn, segmentsUp int
}

// errSuperseded says that the log has changed under a clean (truncated, deleted, closed), or is not ready for it: no harm
// done, another time.
var errSuperseded = errors.New("storage: the log changed while it was cleaned")

// run cleans the log. On an error some segments may be clean already; nothing is lost.
func (c *compaction) run() error {
	if err := c.makeDurable(); err != nil {
		return err
	}
	segs := *c.l.segs.Load()
	n := floorSegment(segs, c.job.upTo-1) + 1
	if n <= 0 || n >= len(segs) || segs[n].base != c.job.upTo {
		return errSuperseded
	}
	aborted, err := c.l.abortedBetween(segs, segs[0].base, c.job.upTo)
	if err != nil {
		return err
	}
	keys, err := c.mapKeys(segs[:n], newTxnFilter(aborted))
	if err != nil {
		return err
	}
	if keys.last < c.job.from {
		return errMapTooSmall
	}
	c.result.mapUtilization = keys.utilization()
	n = floorSegment(segs[:n], keys.last) + 1
	f := &batchFilter{
		keys: keys, txns: newTxnFilter(aborted), producers: c.l.lastOfProducers(), upTo: c.job.upTo,
		nowMs: c.now.UnixMilli(), cfg: c.cfg,
	}
	groups, err := groupSegments(segs[:n], segs[n].base, c.cfg)
	if err != nil {
		return err
	}
	for _, group := range groups {
		if err := c.cleanGroup(f, group); err != nil {
			return err
		}
	}
	c.result.end = keys.last + 1
	c.result.recordsRead, c.result.kept, c.result.keyless = f.read, f.kept, f.keyless
	return nil
}

// makeDurable flushes what is going to be cleaned and makes the recovery point durable: above it, recovery takes a gap for
// a loss.
func (c *compaction) makeDurable() error {
	l := c.l
	l.hk.Lock()
	err := l.alive()
	if err == nil {
		// Also if the recovery point is there already: a segment that was flushed and then rolled at just that offset still
		// has its indexes to be written, and that must not happen after it was replaced.
		err = l.flush(false)
	}
	l.hk.Unlock()
	if err != nil {
		return err
	}
	if l.recoveryPoint.Load() < c.job.upTo {
		return errSuperseded
	}
	return c.env.checkpointRecovery()
}

// alive is errSuperseded for a log that was closed or deleted.
func (l *Log) alive() error {
	if err := l.dir.err(); err != nil {
		return err
	}
	if l.inService() != nil || l.removed.Load() {
		return errSuperseded
	}
	return nil
}

// step is called before every read of n bytes, and before every write.
func (c *compaction) step(n int) error {
	if err := c.env.ctx.Err(); err != nil {
		return err
	}
	if c.l.removed.Load() {
		return errSuperseded
	}
	return c.env.throttle(c.env.ctx, n)
}

// abortedBetween returns the aborted transactions with records in [from, upTo), wherever their markers are.
func (l *Log) abortedBetween(segs []*segment, from, upTo int64) ([]abortedTxn, error) {
	var out []abortedTxn
	for i := range segs {
		entries, err := l.abortedIn(segs, i)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.lastOffset >= from && e.firstOffset < upTo {
				out = append(out, e)
			}
			if e.lastStableOffset >= upTo {
				return out, nil // whatever ended later began later
			}
		}
	}
	return out, nil
}

// lastOfProducers tells for every known producer what the log must not forget.
func (l *Log) lastOfProducers() map[int64]lastOfProducer {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[int64]lastOfProducer, len(l.producers.byID))
	for id, p := range l.producers.byID {
		out[id] = lastOfProducer{dataOffset: p.lastOffset(), epoch: p.epoch}
	}
	return out
}

// mapKeys makes the map of the dirty part, or as much as it takes.
func (c *compaction) mapKeys(segs []*segment, txns *txnFilter) (*offsetMap, error) {
	keys := newOffsetMap(c.env.dedupeSize, c.env.loadFactor, c.job.upTo-c.job.from)
	keys.last = c.job.from - 1
	first := max(floorSegment(segs, c.job.from), 0)
	for i, s := range segs[first:] {
		end := c.job.upTo
		if first+i+1 < len(segs) {
			end = segs[first+i+1].base
		}
		full, err := c.mapSegment(keys, s, txns)
		if err != nil || full {
			return keys, err
		}
		keys.last = end - 1 // also if the last records are gone
	}
	return keys, nil
}

// errMapFull ends the scan of a segment.
var errMapFull = errors.New("storage: the offset map is full")

func (c *compaction) mapSegment(keys *offsetMap, s *segment, txns *txnFilter) (full bool, err error) {
	h, pos, err := c.openAt(s, c.job.from)
	if err != nil {
		return false, err
	}
	defer h.release()
	_, err = scanChunks(h.file, pos, s.size.Load(), c.env.ioBuffer, c.stepReading, func(b protocol.Batch, pos int64) error {
		if err := c.mapBatch(keys, b, txns); err != nil {
			return corruptAt(err, h.file, pos)
		}
		return nil
	})
	if errors.Is(err, errMapFull) {
		return true, nil
	}
	return false, err
}

// openAt opens a segment for reading from the batch with offset on, or from its first.
func (c *compaction) openAt(s *segment, offset int64) (h *handle, pos int64, err error) {
	h, err = s.acquire()
	if errors.Is(err, errGone) {
		err = errSuperseded
	}
	if err != nil {
		return nil, 0, err
	}
	if offset > s.base {
		if err = s.load(); err == nil {
			_, pos, _ = s.offsets.searchOffset(offset - 1 - s.base)
			pos = min(pos, s.size.Load())
		} else {
			h.release()
		}
	}
	return h, pos, err
}

func (c *compaction) stepReading(n int) error {
	c.result.bytesRead += int64(n)
	return c.step(n)
}

// corruptAt puts the place into a CorruptError that has none.
func corruptAt(err error, file vfs.File, pos int64) error {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) && corrupt.File == "" {
		return &CorruptError{File: file.Name(), Pos: pos, Reason: corrupt.Reason}
	}
	return err
}

// mapBatch puts the keys of a batch into the map, all or none as far as keys.last goes.
func (c *compaction) mapBatch(keys *offsetMap, b protocol.Batch, txns *txnFilter) error {
	if b.LastOffset() < c.job.from {
		return nil
	}
	if !b.ValidCRC() {
		return &CorruptError{Reason: "CRC does not match"}
	}
	if !b.IsControl() && !txns.data(b) {
		full := false
		err := eachRecord(b, &c.scratch, func(rec protocol.Record) {
			offset := b.BaseOffset() + int64(rec.OffsetDelta)
			if rec.Key != nil && offset >= c.job.from && !full {
				full = !keys.put(rec.Key, offset)
			}
		})
		if err != nil {
			return err
		}
		if full {
			return errMapFull
		}
	}
	keys.last = max(keys.last, b.LastOffset())
	return nil
}

// groupSegments says which segments become one: neighbours whose size together is at most segment.bytes, whose indexes
// are at most segment.index.bytes, and whose offsets fit an index. end is where the last one ends.
func groupSegments(segs []*segment, end int64, cfg *LogConfig) ([][]*segment, error) {
	var groups [][]*segment
	var size, offsets, times int64
	for i, s := range segs {
		if err := s.load(); err != nil {
			return nil, err
		}
		s.touch()
		next := end
		if i+1 < len(segs) {
			next = segs[i+1].base
		}
		ssize, soff, stimes := s.size.Load(), int64(s.offsets.size()), int64(s.times.size())
		if g := len(groups) - 1; g >= 0 && size+ssize <= cfg.SegmentBytes &&
			offsets+soff <= int64(cfg.SegmentIndexBytes) && times+stimes <= int64(cfg.SegmentIndexBytes) &&
			(ssize == 0 || next-1-groups[g][0].base <= math.MaxInt32) {
			groups[g] = append(groups[g], s)
			size, offsets, times = size+ssize, offsets+soff, times+stimes
			continue
		}
		groups = append(groups, []*segment{s})
		size, offsets, times = ssize, soff, stimes
	}
	return groups, nil
}

// cleanGroup writes what stays of some segments into a new one and puts it in their place.
func (c *compaction) cleanGroup(f *batchFilter, group []*segment) error {
	for _, s := range group {
		h, err := s.acquire() // so that a truncation leaves the files alone
		if errors.Is(err, errGone) {
			return errSuperseded
		}
		if err != nil {
			return err
		}
		defer h.release()
	}
	w, err := c.newCleanSegment(group)
	if err != nil {
		return err
	}
	err = c.fill(w, f, group)
	if err == nil {
		err = w.finish(f.txns.takeEntries())
	}
	if err == nil {
		err = c.l.replaceSegments(group, w.seg)
	}
	if err != nil {
		w.discard()
		return err
	}
	c.result.segmentsIn += len(group)
	c.result.segmentsUp++
	c.result.bytesKept += w.seg.size.Load()
	return nil
}

func (c *compaction) fill(w *cleanSegment, f *batchFilter, group []*segment) error {
	for _, s := range group {
		h, _, err := c.openAt(s, s.base)
		if err != nil {
			return err
		}
		_, err = scanChunks(h.file, 0, s.size.Load(), c.env.ioBuffer, c.stepReading, func(b protocol.Batch, pos int64) error {
			return corruptAt(w.add(f, b), h.file, pos)
		})
		h.release()
		if err != nil {
			return err
		}
	}
	return w.writeOut()
}
