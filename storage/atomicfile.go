package storage

import (
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// writeFileAtomic replaces a small file so that a crash leaves the old or the new contents, never a mixture: temporary
// file, fsync, rename, fsync of the directory.
func writeFileAtomic(fs vfs.FS, name string, data []byte) error {
	tmp := name + tmpSuffix
	f, err := fs.Create(tmp)
	if err != nil {
		return err
	}
	if err := writeFull(f, data, 0); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return renameDurably(fs, tmp, name)
}

// renameDurably renames a file or a directory within its directory. After an error nobody knows which name the disk has.
func renameDurably(fs vfs.FS, from, to string) error {
	if err := fs.Rename(from, to); err != nil {
		return err
	}
	return fs.SyncDir(path.Dir(to))
}

// removeDurably removes a file, which may be gone already.
func removeDurably(fs vfs.FS, name string) error {
	if err := fs.Remove(name); err != nil && !errors.Is(err, errNotExist) {
		return err
	}
	return fs.SyncDir(path.Dir(name))
}

// readFile reads a file whole. The limit guards against a file that is not what it should be.
func readFile(fs vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, &CorruptError{File: name, Reason: fmt.Sprintf("%d bytes, more than %d", size, limit)}
	}
	data := make([]byte, size)
	n, err := f.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data[:n], nil
}

// writeFull writes all of p at off. A write that is short without an error is io.ErrShortWrite.
func writeFull(f io.WriterAt, p []byte, off int64) error {
	n, err := f.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// readFull reads len(p) bytes at off; fewer is io.ErrUnexpectedEOF.
func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
