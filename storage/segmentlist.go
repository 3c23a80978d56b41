package storage

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// startAt makes the log empty, with a new segment at off.
func (l *Log) startAt(off int64) error {
	s := newSegment(l, off)
	s.startEmpty(l.now())
	if err := s.createFile(l.cfg.Load()); err != nil {
		return err
	}
	l.dirUnsynced = true
	l.publishSegments([]*segment{s})
	l.start.Store(off)
	l.hw.Store(off)
	l.recoveryPoint.Store(off)
	l.firstUnstable.Store(-1)
	l.setTail(s, 0, off)
	l.producers.reset()
	l.epochs.clear()
	l.lastFlush = l.now()
	return nil
}

// createFile makes an empty log file.
func (s *segment) createFile(cfg *LogConfig) error {
	f, padded, err := createLogFile(s.fs, s.name(logSuffix), cfg)
	if err != nil {
		return err
	}
	s.padded = padded
	s.mu.Lock()
	s.h = newHandle(f)
	s.mu.Unlock()
	return nil
}

// createLogFile makes an empty log file, with room for a whole segment if the topic wants it (preallocate): the file then
// is as long as a segment may become, and cut to what was appended when it is sealed or the log closed.
func createLogFile(fsys vfs.FS, name string, cfg *LogConfig) (f vfs.File, padded bool, err error) {
	f, err = fsys.Create(name)
	if err != nil || !cfg.Preallocate {
		return f, false, err
	}
	if err := f.Preallocate(cfg.SegmentBytes); err != nil {
		f.Close()
		return nil, false, err
	}
	return f, true, nil
}

// trim cuts what was preallocated and not used off a segment's file. Nobody reads there. Under hk.
func (s *segment) trim() error {
	if !s.padded {
		return nil
	}
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	if err := h.file.Truncate(s.size.Load()); err != nil {
		return err
	}
	s.padded = false
	return nil
}

// listSegments makes segments of the log files, and removes index files that belong to none.
func (l *Log) listSegments(files []vfs.Info) ([]*segment, error) {
	var segs []*segment
	bases := map[int64]bool{}
	for _, f := range files {
		if base, suffix, ok := parseFileName(f.Name); ok && suffix == logSuffix && !f.Dir {
			s := newSegment(l, base)
			s.size.Store(f.Size)
			s.created = f.ModTime
			segs = append(segs, s)
			bases[base] = true
		}
	}
	for _, f := range files {
		base, suffix, ok := parseFileName(f.Name)
		if !ok || bases[base] || (suffix != offsetsSuffix && suffix != timesSuffix && suffix != txnSuffix) {
			continue
		}
		if err := l.fs.Remove(path.Join(l.path, f.Name)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(segs, func(a, b *segment) int {
		if a.base < b.base {
			return -1
		}
		return 1
	})
	return segs, nil
}

// lastOffsetFromIndex finds the offset after the segment's last batch by reading from its last index entry on.
func (s *segment) lastOffsetFromIndex() (int64, error) {
	size := s.size.Load()
	if size == 0 {
		return s.base, nil
	}
	f, err := s.fs.Open(s.name(logSuffix))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	last, err := s.offsets.last(size)
	if err != nil {
		return 0, err
	}
	pos := int64(0)
	if len(last) > 0 {
		pos = int64(binary.BigEndian.Uint32(last[4:]))
	}
	if pos >= size {
		return 0, &CorruptError{File: s.offsets.path, Reason: fmt.Sprintf("position %d in a log of %d bytes", pos, size)}
	}
	end, at := s.base, pos
	err = eachHeader(f, pos, size, func(b protocol.Batch, p int64) error {
		if b.BaseOffset() < end {
			return &CorruptError{File: f.Name(), Pos: p, Reason: fmt.Sprintf("offset %d after %d", b.BaseOffset(), end)}
		}
		end, at = b.LastOffset()+1, p
		return nil
	})
	if err != nil {
		return 0, &CorruptError{File: f.Name(), Pos: at, Reason: err.Error()}
	}
	return end, nil
}
