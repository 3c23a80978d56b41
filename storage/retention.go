package storage

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// SetLogStartOffset makes all records below off unreadable (DeleteRecords); segments that lie below it wholly are deleted
// by the next retention. An offset above the high watermark is kerr.OffsetOutOfRange; one that is not above the log start
// does nothing.
func (l *Log) SetLogStartOffset(off int64) error {
	l.hk.Lock()
	defer l.hk.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if hw := l.hw.Load(); off > hw {
		return clientErrorf(kerr.OffsetOutOfRange, "log start %d above the high watermark %d", off, hw)
	}
	l.raiseStart(off)
	return nil
}

// raiseStart moves the log start up. Under mu.
func (l *Log) raiseStart(off int64) {
	if off <= l.start.Load() {
		return
	}
	l.start.Store(off)
	l.producers.forgetBelow(off)
	l.publishTxns()
}

// applyRetention deletes the oldest segments that have to go at now: below the log start always; by time and size if the
// cleanup policy says delete. Nothing at or above the high watermark goes. It returns how many went.
func (l *Log) applyRetention(now time.Time) (int, error) {
	l.hk.Lock()
	defer l.hk.Unlock()
	if err := l.inService(); err != nil {
		return 0, err // perhaps deleted since the caller took hold of it
	}
	if err := l.finishRolls(); err != nil {
		return 0, err
	}
	segs := *l.segs.Load()
	n, reason, err := l.expired(segs, now)
	if err != nil {
		return 0, l.dir.fail(err)
	}
	if n == 0 {
		return 0, nil
	}
	if n == len(segs) {
		// The active one goes too: an empty one takes its place first. An append may have come since.
		if err := l.forceRoll(now); err != nil {
			return 0, err
		}
		if len(*l.segs.Load()) <= n {
			n--
		}
	}
	if err := l.deleteOldest(n); err != nil {
		return 0, err
	}
	if n > 0 {
		l.log.Info().Str("log", l.tp.String()).Int("segments", n).Str("reason", reason).Int64("log_start", l.start.Load()).Msg("deleted old segments")
	}
	return n, nil
}

// expired counts the oldest segments that have to go, and says why.
func (l *Log) expired(segs []*segment, now time.Time) (n int, reason string, err error) {
	cfg, hw, start := l.cfg.Load(), l.hw.Load(), l.start.Load()
	excess := l.Size() - cfg.RetentionBytes
	for i, s := range segs {
		end := l.LogEndOffset()
		if i+1 < len(segs) {
			end = segs[i+1].base
		}
		size := s.size.Load()
		if end > hw || (i+1 == len(segs) && size == 0) {
			break
		}
		switch {
		case i+1 < len(segs) && end <= start:
			reason = "below the log start"
		case !cfg.Delete:
			return n, reason, nil
		case cfg.RetentionBytes >= 0 && excess >= size:
			reason = "retention.bytes"
		default:
			old, err := l.tooOld(s, cfg.RetentionMs, now)
			if err != nil || !old {
				return n, reason, err
			}
			reason = "retention.ms"
		}
		excess -= size
		n++
	}
	return n, reason, nil
}

// tooOld judges by the greatest timestamp in the segment, or by its file's if no record has one.
func (l *Log) tooOld(s *segment, retentionMs int64, now time.Time) (bool, error) {
	if retentionMs < 0 {
		return false, nil
	}
	ts, _, err := s.maxTimestamp()
	if err != nil {
		return false, err
	}
	if ts < 0 {
		ts = s.created.UnixMilli()
	}
	return now.UnixMilli()-ts > retentionMs, nil
}

// deleteOldest takes the first n segments out of service. Under hk. The log start moves first, so that nobody looks for
// what goes; the oldest file goes first, so that a crash leaves no hole.
func (l *Log) deleteOldest(n int) error {
	// What the segments tell of producers must be in a durable snapshot before they go.
	if err := l.flush(false); err != nil {
		return err
	}
	for i := range n {
		// A slice that was read from it may yet be asked which of its transactions were aborted.
		var corrupt *CorruptError
		if _, err := l.abortedIn(*l.segs.Load(), i); err != nil && !errors.As(err, &corrupt) {
			return l.lookupError(err)
		}
	}
	l.mu.Lock()
	segs := *l.segs.Load()
	gone := slices.Clone(segs[:n])
	l.raiseStart(segs[n].base)
	l.publishSegments(slices.Clone(segs[n:]))
	l.mu.Unlock()
	at := l.now().Add(time.Duration(l.cfg.Load().FileDeleteDelayMs) * time.Millisecond)
	for _, s := range gone {
		if err := l.discardSegment(s, at); err != nil {
			return l.dir.fail(err)
		}
	}
	// The epochs go with the segments and not with the log start, which a crash may move back to where segments begin.
	first := segs[n].base
	l.epochMu.Lock()
	l.epochs.truncateFromStart(first)
	l.epochMu.Unlock()
	if err := l.removeSnapshots(func(off int64) bool { return off < first }); err != nil {
		return l.dir.fail(err)
	}
	return nil
}

// expireProducers forgets producers that were silent for too long.
func (l *Log) expireProducers(now time.Time, expirationMs int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.producers.expire(now.UnixMilli(), expirationMs)
	}
}

// removeSnapshots removes the producer snapshots whose offset match says. Under hk.
func (l *Log) removeSnapshots(match func(offset int64) bool) error {
	infos, err := l.fs.List(l.path)
	if err != nil {
		return err
	}
	for _, in := range infos {
		off, suffix, ok := parseFileName(in.Name)
		if !ok || suffix != snapshotSuffix || !match(off) {
			continue
		}
		if err := l.fs.Remove(l.path + "/" + in.Name); err != nil {
			return fmt.Errorf("remove snapshot: %w", err)
		}
		l.dirUnsynced = true
	}
	l.snapshots = slices.DeleteFunc(l.snapshots, func(s pendingSnapshot) bool { return match(s.offset) })
	return nil
}
