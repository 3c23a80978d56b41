package vfs

import (
	"io"
	"io/fs"
	"time"
)

// memFile is an open file of a Mem. It stays good when its name is removed, as on a Unix system.
type memFile struct {
	m      *Mem
	n      *memNode
	name   string
	closed bool
}

func (f *memFile) Name() string { return f.name }
func (f *memFile) Fd() uintptr  { return NoFd }

// check guards every operation: use after Close is a bug of the caller's that a real file would punish too. Under m.mu.
func (f *memFile) check(op string) error {
	if f.closed {
		return memError(op, f.name, fs.ErrClosed)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("read"); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("write"); err != nil {
		return 0, err
	}
	f.n.ops = append(f.n.ops, fileOp{off, append([]byte{}, p...)})
	f.n.data = writeAt(f.n.data, p, off)
	f.n.modTime = time.Now()
	return len(p), nil
}

// writeAt puts p at off, with zeros in a gap before it.
func writeAt(data, p []byte, off int64) []byte {
	if end := off + int64(len(p)); end > int64(len(data)) {
		data = resize(data, end)
	}
	copy(data[off:], p)
	return data
}

func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("truncate"); err != nil {
		return err
	}
	f.n.truncate(size)
	return nil
}

func (n *memNode) truncate(size int64) {
	n.ops = append(n.ops, fileOp{off: size})
	n.data = resize(n.data, size)
	n.modTime = time.Now()
}

func (f *memFile) Preallocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("preallocate"); err != nil {
		return err
	}
	if size > int64(len(f.n.data)) {
		f.n.truncate(size)
	}
	return nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("sync"); err != nil {
		return err
	}
	if len(f.n.ops) > 0 {
		f.n.synced = append([]byte(nil), f.n.data...)
		f.n.ops = nil
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("size"); err != nil {
		return 0, err
	}
	return int64(len(f.n.data)), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.check("close")
	f.closed = true
	return err
}
