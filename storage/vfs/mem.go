package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mem is a file system in memory that knows what of it is durable: contents up to the last Sync of each file, names up to
// the last SyncDir of each directory. CrashClone returns what a power cut would leave.
type Mem struct {
	mu    sync.Mutex
	root  *memNode
	names []dirOp // changes of names that no SyncDir has made durable, in order
	locks map[string]bool
	size  int64 // what Usage reports as the size of the volume
}

// memNode is a file or a directory, apart from its names.
type memNode struct {
	// Directory: the names now, and those that would be there after a power cut if no pending change survived.
	children map[string]*memNode
	durable  map[string]*memNode

	// File: the contents now, those of the last Sync, and what was done since.
	data    []byte
	synced  []byte
	ops     []fileOp
	modTime time.Time
}

func (n *memNode) isDir() bool { return n.children != nil }

// fileOp is a write, or a truncation if data is nil.
type fileOp struct {
	off  int64
	data []byte
}

// dirOp is one atomic change of names in one directory; a nil node removes the name.
type dirOp struct {
	dir     *memNode
	changes []nameChange
}

type nameChange struct {
	name string
	node *memNode
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{root: newMemDir(), locks: map[string]bool{}, size: 1 << 40}
}

func newMemDir() *memNode {
	return &memNode{children: map[string]*memNode{}, durable: map[string]*memNode{}, modTime: time.Now()}
}

// split returns the elements of a path.
func split(name string) []string {
	return strings.FieldsFunc(path.Clean("/"+name), func(r rune) bool { return r == '/' })
}

func memError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// lookup finds a node. Under mu.
func (m *Mem) lookup(name string) *memNode {
	n := m.root
	for _, e := range split(name) {
		if n = n.children[e]; n == nil {
			return nil
		}
	}
	return n
}

// parent finds the directory that holds, or would hold, name. Under mu.
func (m *Mem) parent(name string) (dir *memNode, base string, err error) {
	elems := split(name)
	if len(elems) == 0 {
		return nil, "", fs.ErrInvalid
	}
	n := m.root
	for _, e := range elems[:len(elems)-1] {
		if n = n.children[e]; n == nil {
			return nil, "", fs.ErrNotExist
		}
	}
	if !n.isDir() {
		return nil, "", syscall.ENOTDIR
	}
	return n, elems[len(elems)-1], nil
}

// change applies name changes now and remembers them as not durable. Under mu.
func (m *Mem) change(dir *memNode, changes ...nameChange) {
	apply(dir.children, changes)
	m.names = append(m.names, dirOp{dir, changes})
}

func apply(names map[string]*memNode, changes []nameChange) {
	for _, c := range changes {
		if c.node == nil {
			delete(names, c.name)
		} else {
			names[c.name] = c.node
		}
	}
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) { return m.open(name, true, true) }

// Open implements FS.
func (m *Mem) Open(name string) (File, error) { return m.open(name, false, false) }

// OpenOrCreate implements FS.
func (m *Mem) OpenOrCreate(name string) (File, error) { return m.open(name, true, false) }

func (m *Mem) open(name string, create, empty bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return nil, memError("open", name, err)
	}
	n := dir.children[base]
	switch {
	case n == nil && !create:
		return nil, memError("open", name, fs.ErrNotExist)
	case n == nil:
		n = &memNode{modTime: time.Now()}
		m.change(dir, nameChange{base, n})
	case n.isDir():
		return nil, memError("open", name, syscall.EISDIR)
	case empty && len(n.data) > 0:
		n.truncate(0)
	}
	return &memFile{m, n, name, false}, nil
}

// Rename implements FS, within one directory or from one to another; the latter becomes durable with the new one.
func (m *Mem) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, oldBase, err := m.parent(oldName)
	if err != nil {
		return memError("rename", oldName, err)
	}
	to, newBase, err := m.parent(newName)
	if err != nil {
		return memError("rename", newName, err)
	}
	n := from.children[oldBase]
	if n == nil {
		return memError("rename", oldName, fs.ErrNotExist)
	}
	if there := to.children[newBase]; there != nil && there.isDir() && len(there.children) > 0 {
		return memError("rename", newName, syscall.ENOTEMPTY)
	}
	if from == to {
		m.change(from, nameChange{oldBase, nil}, nameChange{newBase, n})
		return nil
	}
	m.change(to, nameChange{newBase, n})
	m.change(from, nameChange{oldBase, nil})
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return memError("remove", name, err)
	}
	n := dir.children[base]
	if n == nil {
		return memError("remove", name, fs.ErrNotExist)
	}
	if len(n.children) > 0 {
		return memError("remove", name, syscall.ENOTEMPTY)
	}
	m.change(dir, nameChange{base, nil})
	return nil
}

// RemoveAll implements FS.
func (m *Mem) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil || dir.children[base] == nil {
		return nil
	}
	m.change(dir, nameChange{base, nil})
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for _, e := range split(name) {
		next := n.children[e]
		if next == nil {
			next = newMemDir()
			m.change(n, nameChange{e, next})
		}
		if !next.isDir() {
			return memError("mkdir", name, syscall.ENOTDIR)
		}
		n = next
	}
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.lookup(dir)
	if n == nil {
		return nil, memError("list", dir, fs.ErrNotExist)
	}
	if !n.isDir() {
		return nil, memError("list", dir, syscall.ENOTDIR)
	}
	infos := make([]Info, 0, len(n.children))
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		infos = append(infos, n.children[name].info(name))
	}
	return infos, nil
}

// Stat implements FS.
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.lookup(name)
	if n == nil {
		return Info{}, memError("stat", name, fs.ErrNotExist)
	}
	return n.info(path.Base(name)), nil
}

func (n *memNode) info(name string) Info {
	return Info{Name: name, Size: int64(len(n.data)), Dir: n.isDir(), ModTime: n.modTime}
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.lookup(dir)
	if n == nil {
		return memError("syncdir", dir, fs.ErrNotExist)
	}
	m.names = slices.DeleteFunc(m.names, func(op dirOp) bool {
		if op.dir == n {
			apply(n.durable, op.changes)
		}
		return op.dir == n
	})
	return nil
}

// Lock implements FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.OpenOrCreate(name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := path.Clean(name)
	if m.locks[key] {
		return nil, fmt.Errorf("%s: %w", name, ErrLocked)
	}
	m.locks[key] = true
	return &memLock{m, key, f}, nil
}

type memLock struct {
	m   *Mem
	key string
	f   File
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	delete(l.m.locks, l.key)
	l.m.mu.Unlock()
	return l.f.Close()
}

// Usage implements FS.
func (m *Mem) Usage(string) (total, usable int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size, m.size - m.root.bytes(), nil
}

func (n *memNode) bytes() int64 {
	sum := int64(len(n.data))
	for _, c := range n.children {
		sum += c.bytes()
	}
	return sum
}
