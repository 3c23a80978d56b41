package storage

import (
	"errors"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Read returns the batches from the one that holds offset on: at most maxBytes of them, but the first whole whatever its
// size if minOneBatch, and none that reaches upTo (an exclusive offset bound: high watermark, last stable offset or log
// end). If the first batch does not fit and minOneBatch is not set, the slice is empty; a later one may be cut off. An
// offset outside [LogStartOffset, LogEndOffset] is kerr.OffsetOutOfRange; one at or beyond upTo gives an empty slice.
//
// The caller must Release the slice.
func (l *Log) Read(offset int64, maxBytes int, upTo int64, minOneBatch bool) (Slice, error) {
	if err := l.dir.err(); err != nil {
		return Slice{}, err
	}
	start, end := l.start.Load(), l.LogEndOffset()
	if offset < start || offset > end {
		return Slice{}, clientErrorf(kerr.OffsetOutOfRange, "offset %d is not in [%d, %d]", offset, start, end)
	}
	for offset < min(upTo, end) && (maxBytes > 0 || minOneBatch) {
		s, err := l.readOnce(offset, maxBytes, upTo, minOneBatch)
		if errors.Is(err, errGone) {
			if l.removed.Load() {
				return Slice{}, clientErrorf(kerr.UnknownTopicOrPartition, "log %s was deleted", l.tp)
			}
			// The segment went between finding and opening it. The log may have lost the offset with it.
			if start, end = l.start.Load(), l.LogEndOffset(); offset < start {
				return Slice{}, clientErrorf(kerr.OffsetOutOfRange, "offset %d is not in [%d, %d]", offset, start, end)
			}
			if err := l.dir.err(); err != nil {
				return Slice{}, err
			}
			continue
		}
		if err != nil {
			var corrupt *CorruptError
			if errors.As(err, &corrupt) {
				return Slice{}, clientErrorf(kerr.CorruptMessage, "%v", err)
			}
			return Slice{}, l.dir.failOpen(err)
		}
		return s, nil
	}
	return Slice{Start: offset, UpTo: offset}, nil
}

// readOnce reads from the segments as they are now.
func (l *Log) readOnce(offset int64, maxBytes int, upTo int64, minOneBatch bool) (Slice, error) {
	segs := *l.segs.Load()
	i := max(floorSegment(segs, offset), 0)
	for ; i < len(segs); i++ {
		s, err := l.readSegment(segs, i, offset, maxBytes, upTo, minOneBatch)
		if !errors.Is(err, io.EOF) { // io.EOF: all of the segment is below offset, after compaction
			return s, err
		}
	}
	return Slice{Start: offset, UpTo: offset}, nil
}

func (l *Log) readSegment(segs []*segment, i int, offset int64, maxBytes int, upTo int64, minOneBatch bool) (Slice, error) {
	seg := segs[i]
	h, err := seg.acquire()
	if err != nil {
		return Slice{}, err
	}
	s, err := l.sliceOf(h, segs, i, offset, maxBytes, upTo, minOneBatch)
	if err != nil || s.Len == 0 {
		h.release()
		return s, err
	}
	s.h, s.log, s.segs = h, l, segs
	seg.touch()
	return s, nil
}

// sliceOf works out which bytes of segment i to send. The handle is held before the end of the log is looked at: so a
// truncation either sees the handle and leaves the file alone, or is seen here.
func (l *Log) sliceOf(h *handle, segs []*segment, i int, offset int64, maxBytes int, upTo int64, minOneBatch bool) (Slice, error) {
	seg := segs[i]
	v := l.view(seg, offset, upTo)
	if v.limit < 0 {
		if i+1 == len(segs) {
			return Slice{}, errGone // not the active one any more, but last in our list: look again
		}
		v.limit, v.segEnd = seg.size.Load(), segs[i+1].base
	}
	pos, err := v.start, error(nil)
	size := int64(-1)
	if pos < 0 {
		if pos, size, err = seg.find(h, offset, v.limit); err != nil {
			return Slice{}, err
		}
	}
	stop := v.stop
	if upTo >= v.segEnd {
		stop = v.limit
	} else if stop < 0 {
		if stop, _, err = seg.find(h, upTo, v.limit); errors.Is(err, io.EOF) {
			stop, err = v.limit, nil
		}
		if err != nil {
			return Slice{}, err
		}
	}
	out := Slice{Start: offset, Off: pos, UpTo: min(upTo, v.segEnd)}
	if n := stop - pos; n <= int64(maxBytes) {
		out.Len = int(max(n, 0))
		return out, nil
	}
	return seg.cut(h, out, size, int64(maxBytes), v.limit, minOneBatch)
}

// cut shortens a slice to maxBytes, at a batch boundary if the index knows one.
func (s *segment) cut(h *handle, out Slice, firstSize, maxBytes, limit int64, minOneBatch bool) (Slice, error) {
	if firstSize < 0 {
		r := newHeaderReader(h.file, limit)
		_, size, err := r.header(out.Off)
		r.free()
		if err != nil {
			return Slice{}, err
		}
		firstSize = size
	}
	if firstSize > maxBytes {
		if !minOneBatch {
			return Slice{Start: out.Start, UpTo: out.Start}, nil
		}
		maxBytes = firstSize
	}
	out.Len = int(maxBytes)
	if err := s.load(); err != nil {
		return Slice{}, err
	}
	end := out.Off + maxBytes
	if rel, at, ok := s.offsets.searchPosition(end); ok && at > out.Off {
		// The entry's offset is the last of the batch at its position, so it bounds all batches before that.
		out.Len = int(at - out.Off)
		out.UpTo = min(out.UpTo, s.base+int64(rel))
		return out, nil
	}
	if rel, ok := s.offsets.entryAtOrAfter(end); ok {
		out.UpTo = min(out.UpTo, s.base+int64(rel)+1)
	}
	return out, nil
}

// tailView is what the tail knows about a read of a segment.
type tailView struct {
	limit  int64 // bytes of the segment; -1: not the active one
	segEnd int64 // exclusive bound of the segment's offsets
	start  int64 // position of the batch that begins with the offset asked for, or -1
	stop   int64 // position of the batch that begins with upTo, or -1
}

func (l *Log) view(seg *segment, offset, upTo int64) tailView {
	v := tailView{limit: -1, start: -1, stop: -1}
	l.tailMu.RLock()
	defer l.tailMu.RUnlock()
	if l.tail.seg != seg {
		return v
	}
	v.limit, v.segEnd = l.tail.size, l.tail.end
	if pos, ok := l.tail.find(offset); ok {
		v.start = pos
	}
	if upTo < v.segEnd {
		if pos, ok := l.tail.find(upTo); ok {
			v.stop = pos
		}
	}
	return v
}

// find returns position and size of the first batch whose last offset is at least offset. io.EOF: there is none below
// limit.
func (s *segment) find(h *handle, offset, limit int64) (pos, size int64, err error) {
	if err := s.load(); err != nil {
		return 0, 0, err
	}
	if pos, size, err = s.findFrom(h, offset, limit); err == nil {
		return pos, size, nil
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) && s.sealed.Load() {
		// The index may point between batches. If the log itself is whole a new index mends it.
		if err := s.rebuildIndexes(defaultIndexInterval); err != nil {
			return 0, 0, err
		}
		return s.findFrom(h, offset, limit)
	}
	return pos, size, err
}

func (s *segment) findFrom(h *handle, offset, limit int64) (pos, size int64, err error) {
	rel, pos, n := s.offsets.searchOffset(offset - s.base)
	r := newHeaderReader(h.file, limit)
	defer r.free()
	for first := n > 0; ; first = false {
		b, size, err := r.header(pos)
		if err != nil {
			return 0, 0, err
		}
		if first && b.LastOffset() > s.base+int64(rel) {
			return 0, 0, &CorruptError{File: s.offsets.path, Pos: pos, Reason: fmt.Sprintf("entry for offset %d points at a batch up to %d", s.base+int64(rel), b.LastOffset())}
		}
		if b.LastOffset() >= offset {
			return pos, size, nil
		}
		pos += size
	}
}

// AbortedTxns returns the aborted transactions that overlap [from, upTo). For a Slice see its Aborted.
func (l *Log) AbortedTxns(from, upTo int64) ([]AbortedTxn, error) {
	return l.abortedAmong(*l.segs.Load(), from, upTo)
}

func (l *Log) abortedAmong(segs []*segment, from, upTo int64) ([]AbortedTxn, error) {
	var out []AbortedTxn
	for i := max(floorSegment(segs, from), 0); i < len(segs); i++ {
		entries, err := l.abortedIn(segs, i)
		if err != nil {
			return nil, l.lookupError(err)
		}
		for _, e := range entries {
			if e.lastOffset >= from && e.firstOffset < upTo {
				out = append(out, AbortedTxn{e.producerID, e.firstOffset})
			}
			if e.lastStableOffset >= upTo {
				return out, nil // whatever ended later began later
			}
		}
	}
	return out, nil
}

// abortedIn returns the transaction index of segment i, made anew if the file is corrupt.
func (l *Log) abortedIn(segs []*segment, i int) ([]abortedTxn, error) {
	entries, err := segs[i].txns.all()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		return entries, err
	}
	if err := l.rebuildTxns(segs, i); err != nil {
		return nil, err
	}
	return segs[i].txns.all()
}
