package storage

import (
	"errors"
	"io"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
)

// OffsetForTimestamp returns the first record below upTo whose timestamp is ts or later.
func (l *Log) OffsetForTimestamp(ts int64, upTo int64) (TimestampOffset, bool, error) {
	if err := l.dir.err(); err != nil {
		return TimestampOffset{}, false, err
	}
	for {
		t, ok, err := l.searchTime(ts, upTo)
		if errors.Is(err, errGone) && !l.removed.Load() {
			continue
		}
		if err != nil {
			return TimestampOffset{}, false, l.lookupError(err)
		}
		return t, ok, nil
	}
}

// lookupError tells corrupt records from a failing disk, and both from a log that was deleted.
func (l *Log) lookupError(err error) error {
	var corrupt *CorruptError
	if errors.Is(err, errGone) {
		return clientErrorf(kerr.UnknownTopicOrPartition, "log %s was deleted", l.tp)
	}
	if protocol.Code(err) > 0 {
		return err
	}
	if errors.As(err, &corrupt) {
		return clientErrorf(kerr.CorruptMessage, "%v", err)
	}
	return l.dir.failOpen(err)
}

func (l *Log) searchTime(ts, upTo int64) (TimestampOffset, bool, error) {
	upTo = min(upTo, l.LogEndOffset())
	start := l.start.Load()
	for _, s := range *l.segs.Load() {
		if s.base >= upTo {
			break
		}
		maxTs, _, err := s.maxTimestamp()
		if err != nil {
			return TimestampOffset{}, false, err
		}
		if maxTs < ts {
			continue
		}
		t, ok, err := l.searchTimeIn(s, ts, start, upTo)
		if err != nil || ok {
			return t, ok, err
		}
	}
	return TimestampOffset{}, false, nil
}

// searchTimeIn looks for the first record of the segment in [start, upTo) that is not earlier than ts.
func (l *Log) searchTimeIn(s *segment, ts, start, upTo int64) (found TimestampOffset, ok bool, err error) {
	h, err := s.acquire()
	if err != nil {
		return found, false, err
	}
	defer h.release()
	if err := s.load(); err != nil {
		return found, false, err
	}
	s.touch()
	// All records up to the last earlier entry's offset are earlier than ts.
	pos := int64(0)
	if rel, ok := s.times.searchTime(ts); ok {
		_, pos, _ = s.offsets.searchOffset(int64(rel))
	}
	return scanTime(l, h, s, pos, ts, start, upTo)
}

func scanTime(l *Log, h *handle, s *segment, pos, ts, start, upTo int64) (found TimestampOffset, ok bool, err error) {
	limit := l.segmentLimit(s)
	err = eachHeader(h.file, pos, limit, func(b protocol.Batch, pos int64) error {
		if b.BaseOffset() >= upTo {
			return io.EOF
		}
		if b.MaxTimestamp() < ts || b.LastOffset() < start {
			return nil
		}
		whole, err := readBatch(h.file, pos, limit)
		if err != nil {
			return err
		}
		found, ok, err = l.inflater.firstRecord(whole, func(offset, recordTs int64) bool {
			return recordTs >= ts && offset >= start
		})
		if err != nil {
			return err
		}
		if ok {
			ok = found.Offset < upTo
			return io.EOF
		}
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return found, ok, err
}

// segmentLimit is how many bytes of a segment are records, as readers may know it.
func (l *Log) segmentLimit(s *segment) int64 {
	l.tailMu.RLock()
	defer l.tailMu.RUnlock()
	if l.tail.seg == s {
		return l.tail.size
	}
	return s.size.Load()
}

// firstRecord returns the first record of a batch for which match says yes. It decompresses the batch if need be.
func (in *inflater) firstRecord(b protocol.Batch, match func(offset, ts int64) bool) (TimestampOffset, bool, error) {
	payload, err := in.payload(b)
	if err != nil {
		return TimestampOffset{}, false, err
	}
	defer in.done(&payload)
	r := protocol.NewRecordReader(payload.plain, b.Count())
	for rec, ok := r.Skim(); ok; rec, ok = r.Skim() {
		offset, ts := b.BaseOffset()+int64(rec.OffsetDelta), b.BaseTimestamp()+rec.TimestampDelta
		if b.LogAppendTime() {
			ts = b.MaxTimestamp()
		}
		if match(offset, ts) {
			return TimestampOffset{Timestamp: ts, Offset: offset, LeaderEpoch: b.LeaderEpoch()}, true, nil
		}
	}
	return TimestampOffset{}, false, r.Err()
}

// MaxTimestampOffset returns the first record that has the greatest timestamp of the log.
func (l *Log) MaxTimestampOffset() (TimestampOffset, bool, error) {
	if err := l.dir.err(); err != nil {
		return TimestampOffset{}, false, err
	}
	for {
		t, ok, err := l.searchMaxTime()
		if errors.Is(err, errGone) && !l.removed.Load() {
			continue
		}
		if err != nil {
			return TimestampOffset{}, false, l.lookupError(err)
		}
		return t, ok, nil
	}
}

func (l *Log) searchMaxTime() (TimestampOffset, bool, error) {
	var best *segment
	bestTs := int64(-1)
	for _, s := range *l.segs.Load() {
		ts, _, err := s.maxTimestamp()
		if err != nil {
			return TimestampOffset{}, false, err
		}
		if ts > bestTs {
			best, bestTs = s, ts
		}
	}
	if best == nil {
		return TimestampOffset{}, false, nil
	}
	return l.searchTimeIn(best, bestTs, l.start.Load(), l.LogEndOffset())
}
