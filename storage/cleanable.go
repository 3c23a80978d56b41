package storage

import (
	"math"
	"time"

	"github.com/gregor-broker/gregor/protocol"
)

// cleanJob is what a clean of a log would do.
type cleanJob struct {
	log        *Log
	from, upTo int64 // the dirty part that may be cleaned; both ends are where segments begin, save from
	cleanBytes int64 // below from
	dirtyBytes int64 // in [from, upTo)
	overdue    bool  // there are dirty records older than max.compaction.lag.ms
	cuts       int64 // Log.cuts when the job was made
}

// ratio is the dirty share of what can be cleaned.
func (j *cleanJob) ratio() float64 {
	if j.cleanBytes+j.dirtyBytes == 0 {
		return 0
	}
	return float64(j.dirtyBytes) / float64(j.cleanBytes+j.dirtyBytes)
}

// due says whether the log is to be cleaned now.
func (j *cleanJob) due() bool {
	return j.dirtyBytes > 0 && (j.overdue || j.ratio() > j.log.cfg.Load().MinCleanableRatio)
}

// cleanable works out what there is to clean in a log at now.
func (l *Log) cleanable(now time.Time) (cleanJob, error) {
	j := cleanJob{log: l}
	l.dir.ckptMu.Lock()
	j.from, j.cuts = l.cleaned.Load(), l.cuts
	l.dir.ckptMu.Unlock()
	start, end := l.start.Load(), l.LogEndOffset()
	if j.from < start || j.from > end {
		j.from = start // never cleaned, or the log is another by now: all of it is dirty
	}
	segs := *l.segs.Load()
	sealed := segs[:len(segs)-1]
	n := len(sealed) // as many segments may be cleaned
	if stable := l.LastStableOffset(); stable < segs[n].base {
		n = max(floorSegment(sealed, stable), 0)
	}
	first := max(floorSegment(sealed, j.from), 0)
	n, err := l.oldEnough(sealed[:n], first, now)
	if err != nil {
		return j, err
	}
	j.upTo = segs[n].base
	for _, s := range sealed[:n] {
		if s.base < j.from && s != sealed[first] {
			j.cleanBytes += s.size.Load()
		} else {
			j.dirtyBytes += s.size.Load()
		}
	}
	if j.upTo <= j.from {
		j.upTo, j.dirtyBytes = j.from, 0
		return j, nil
	}
	j.overdue, err = l.overdue(sealed[first:n], now)
	return j, err
}

// oldEnough cuts segs at the first dirty one with a record younger than min.compaction.lag.ms.
func (l *Log) oldEnough(segs []*segment, first int, now time.Time) (int, error) {
	lag := l.cfg.Load().MinCompactionLagMs
	if lag <= 0 {
		return len(segs), nil
	}
	for i := first; i < len(segs); i++ {
		ts, _, err := segs[i].maxTimestamp()
		if err != nil {
			return 0, err
		}
		if ts < 0 {
			ts = segs[i].created.UnixMilli()
		}
		if ts > now.UnixMilli()-lag {
			return i, nil
		}
	}
	return len(segs), nil
}

// overdue says whether a dirty segment begins with a batch older than max.compaction.lag.ms.
func (l *Log) overdue(dirty []*segment, now time.Time) (bool, error) {
	lag := l.cfg.Load().MaxCompactionLagMs
	if lag == math.MaxInt64 {
		return false, nil
	}
	for _, s := range dirty {
		ts, err := s.firstTimestamp()
		if err != nil {
			return false, err
		}
		if ts > 0 && ts < now.UnixMilli()-lag {
			return true, nil
		}
	}
	return false, nil
}

// firstTimestamp is the greatest timestamp of a sealed segment's first batch, -1 if it has none.
func (s *segment) firstTimestamp() (int64, error) {
	size := s.size.Load()
	if size == 0 {
		return -1, nil
	}
	h, err := s.acquire()
	if err != nil {
		return 0, err
	}
	defer h.release()
	r := newHeaderReader(h.file, size)
	defer r.free()
	var b protocol.Batch
	if b, _, err = r.header(0); err != nil {
		return 0, err
	}
	return b.MaxTimestamp(), nil
}
