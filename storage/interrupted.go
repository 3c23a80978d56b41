package storage

import (
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// finishInterrupted completes or undoes what a crash interrupted: removes temporary and deleted files, puts complete
// replacements (.swap) in their place, and names segments that were rolled but not named. It returns the files as they
// then are.
func (l *Log) finishInterrupted(files []vfs.Info) ([]vfs.Info, error) {
	changed := false
	for _, f := range files {
		if f.Dir {
			continue
		}
		var err error
		switch name := path.Join(l.path, f.Name); {
		case strings.HasSuffix(f.Name, deletedSuffix), strings.HasSuffix(f.Name, cleanedSuffix), strings.HasSuffix(f.Name, tmpSuffix):
			err = l.fs.Remove(name)
		case strings.HasSuffix(f.Name, nextSuffix):
			err = l.adoptNext(name, f.Size)
		case strings.HasSuffix(f.Name, logSuffix+swapSuffix):
			err = l.finishSwap(f.Name, f.Size, files)
		case strings.HasSuffix(f.Name, swapSuffix):
			err = l.fs.Remove(name) // indexes of a replacement are rebuilt
		default:
			continue
		}
		if err != nil && !errors.Is(err, errNotExist) {
			return nil, err
		}
		changed = true
	}
	if !changed {
		return files, nil
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return nil, err
	}
	return l.fs.List(l.path)
}

// adoptNext names a segment that was begun under a provisional name, or removes it if it holds nothing.
func (l *Log) adoptNext(name string, size int64) error {
	f, err := l.fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	base := int64(-1)
	r := newHeaderReader(f, size)
	defer r.free()
	if b, _, err := r.header(0); err == nil && b.BaseOffset() >= 0 {
		base = b.BaseOffset()
	}
	if base < 0 {
		return l.fs.Remove(name)
	}
	to := path.Join(l.path, fileName(base, logSuffix))
	if in, err := l.fs.Stat(to); err == nil && in.Size > 0 {
		return l.fs.Remove(name)
	}
	return l.fs.Rename(name, to)
}

// finishSwap puts a complete replacement in the place of the segments whose offsets it covers.
func (l *Log) finishSwap(swap string, size int64, files []vfs.Info) error {
	base, _, ok := parseFileName(swap)
	if !ok {
		return l.fs.Remove(path.Join(l.path, swap))
	}
	end, err := l.endOfFile(path.Join(l.path, swap), size)
	if err != nil {
		return err
	}
	for _, f := range files {
		off, suffix, ok := parseFileName(f.Name)
		if !ok || strings.HasSuffix(suffix, swapSuffix) || off < base || (off >= end && off != base) {
			continue
		}
		if slices.Contains([]string{logSuffix, offsetsSuffix, timesSuffix, txnSuffix}, suffix) && !(off == base && suffix == logSuffix) {
			if err := l.fs.Remove(path.Join(l.path, f.Name)); err != nil && !errors.Is(err, errNotExist) {
				return err
			}
		}
	}
	// Once the replacement has its name nothing tells what it covers: that must be gone by then.
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	return l.fs.Rename(path.Join(l.path, swap), path.Join(l.path, fileName(base, logSuffix)))
}

// endOfFile is the offset after the last whole batch of a log file.
func (l *Log) endOfFile(name string, size int64) (int64, error) {
	f, err := l.fs.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end := int64(-1)
	err = eachHeader(f, 0, size, func(b protocol.Batch, _ int64) error {
		end = b.LastOffset() + 1
		return nil
	})
	return end, err
}
