package storage

import (
	"errors"
	"path"
	"slices"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// readEpochs reads the leader-epoch file. It says false if that is missing or corrupt.
func (l *Log) readEpochs() bool {
	name := path.Join(l.path, epochFile)
	data, err := readFile(l.fs, name, smallFileLimit)
	if err == nil {
		l.epochs.entries, err = parseEpochs(name, data)
	}
	if err != nil && !errors.Is(err, errNotExist) {
		l.log.Warn().Err(err).Str("log", l.tp.String()).Msg("cannot read the leader epochs, rebuilding them")
	}
	return err == nil
}

// rebuildEpochs gathers the leader epochs from the batch headers of all segments, as far as these can be read: a bad
// batch is for recovery to judge.
func (l *Log) rebuildEpochs(segs []*segment) {
	l.epochs.dirty = true // so that even an empty file is written, and this is not done again
	for _, s := range segs {
		h, err := s.acquire()
		if err != nil {
			return
		}
		err = eachHeader(h.file, 0, s.size.Load(), func(b protocol.Batch, _ int64) error {
			if epoch := b.LeaderEpoch(); epoch > l.epochs.latest() {
				l.epochs.assign(epoch, b.BaseOffset())
			}
			return nil
		})
		s.unload()
		h.release()
		if err != nil {
			return
		}
	}
}

// rebuildProducers brings the producers to what they are at end: from the latest snapshot that is not above it, and the
// batches from there on.
func (l *Log) rebuildProducers(end int64) error {
	if err := l.replay(l.producers, end, nil); err != nil {
		return err
	}
	l.producers.passWatermark(l.hw.Load())
	l.publishTxns()
	return nil
}

// replay makes ps what the producers were at end. onAbort, if given, is told of every abort marker on the way.
func (l *Log) replay(ps *producers, end int64, onAbort func(*segment, abortedTxn)) error {
	from, err := l.restoreSnapshot(ps, end)
	if err != nil {
		return err
	}
	segs := *l.segs.Load()
	for i := max(floorSegment(segs, from), 0); i < len(segs) && segs[i].base < end && from < end; i++ {
		if err := l.replaySegment(ps, segs[i], from, end, onAbort); err != nil {
			return err
		}
	}
	return nil
}

// rebuildTxns makes the transaction index of a segment anew.
func (l *Log) rebuildTxns(segs []*segment, i int) error {
	s, end := segs[i], l.LogEndOffset()
	if i+1 < len(segs) {
		end = segs[i+1].base
	}
	var entries []abortedTxn
	ps := newProducers()
	// From a snapshot at or below the base; one above it would not see the segment's markers.
	if err := l.replay(ps, s.base, nil); err != nil {
		return err
	}
	err := l.replaySegment(ps, s, s.base, end, func(_ *segment, t abortedTxn) { entries = append(entries, t) })
	if err != nil {
		return err
	}
	s.txns.replace(entries)
	return nil
}

// hasSnapshot says whether there is a good snapshot at off.
func (l *Log) hasSnapshot(off int64) bool {
	name := path.Join(l.path, fileName(off, snapshotSuffix))
	data, err := readFile(l.fs, name, 1<<31)
	return err == nil && newProducers().restore(name, data) == nil
}

// restoreSnapshot loads the latest good snapshot at or below end. Bad ones are removed.
func (l *Log) restoreSnapshot(ps *producers, end int64) (int64, error) {
	infos, err := l.fs.List(l.path)
	if err != nil {
		return 0, err
	}
	for _, in := range slices.Backward(infos) {
		off, suffix, ok := parseFileName(in.Name)
		if !ok || suffix != snapshotSuffix || off > end {
			continue
		}
		name := path.Join(l.path, in.Name)
		data, err := readFile(l.fs, name, 1<<31)
		if err == nil {
			err = ps.restore(name, data)
		}
		if err == nil {
			return off, nil
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			return 0, err
		}
		l.log.Warn().Err(err).Str("log", l.tp.String()).Msg("removing a bad producer snapshot")
		if err := l.fs.Remove(name); err != nil {
			return 0, err
		}
	}
	ps.reset()
	return 0, nil
}

// replaySegment takes the batches of a segment in [from, end) into ps.
func (l *Log) replaySegment(ps *producers, s *segment, from, end int64, onAbort func(*segment, abortedTxn)) error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	pos := int64(0)
	if from > s.base {
		if err := s.load(); err != nil {
			return err
		}
		_, pos, _ = s.offsets.searchOffset(from - s.base)
	}
	return eachHeader(h.file, pos, s.size.Load(), func(b protocol.Batch, pos int64) error {
		if b.ProducerID() < 0 || b.LastOffset() < from || b.BaseOffset() >= end {
			return nil
		}
		if b.IsControl() {
			whole, err := readBatch(h.file, pos, s.size.Load())
			if err != nil {
				return err
			}
			b = whole
		}
		done, ended := ps.apply(b)
		if ended && done.aborted && onAbort != nil {
			onAbort(s, abortedTxn{done.producerID, done.firstOffset, done.lastOffset, ps.stableAfter(done)})
		}
		return nil
	})
}

// readBatch reads the whole batch at pos.
func readBatch(file vfs.File, pos, limit int64) (protocol.Batch, error) {
	size, err := batchSize(file, pos, limit)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	if err := readFull(file, buf, pos); err != nil {
		return nil, err
	}
	return buf, nil
}
