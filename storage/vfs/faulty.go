package vfs

import (
	"io"
	"sync"
)

// OpKind is a kind of operation that Faulty can make fail.
type OpKind string

// The kinds of operations.
const (
	OpCreate   OpKind = "create"
	OpOpen     OpKind = "open"
	OpRename   OpKind = "rename"
	OpRemove   OpKind = "remove"
	OpMkdir    OpKind = "mkdir"
	OpList     OpKind = "list"
	OpStat     OpKind = "stat"
	OpSyncDir  OpKind = "syncdir"
	OpLock     OpKind = "lock"
	OpRead     OpKind = "read"
	OpWrite    OpKind = "write"
	OpTruncate OpKind = "truncate"
	OpReserve  OpKind = "preallocate"
	OpSync     OpKind = "sync"
	OpSize     OpKind = "size"
)

// Op is an operation about to happen.
type Op struct {
	Index int // counts from 0
	Kind  OpKind
	Name  string
}

// Fault makes an operation fail. A write may first put Short bytes down; with Err nil it then claims to have written just
// these. With Until set the operation hangs before it does anything, until that is closed; with Err nil it then happens.
type Fault struct {
	Err   error
	Short int
	Until <-chan struct{}
}

// Rule decides on an operation; nil lets it happen.
type Rule func(Op) *Fault

// FailNth fails the operation with index n, of the given kinds or of any.
func FailNth(n int, fault Fault, kinds ...OpKind) Rule {
	count := 0
	return func(op Op) *Fault {
		if len(kinds) > 0 {
			match := false
			for _, k := range kinds {
				match = match || k == op.Kind
			}
			if !match {
				return nil
			}
		}
		count++
		if count-1 == n {
			return &fault
		}
		return nil
	}
}

// Faulty passes everything on to another file system, except where a rule says otherwise.
type Faulty struct {
	fs FS

	mu   sync.Mutex
	n    int
	rule Rule
}

// NewFaulty wraps fs. A nil rule lets everything happen.
func NewFaulty(fs FS, rule Rule) *Faulty { return &Faulty{fs: fs, rule: rule} }

// SetRule replaces the rule and starts counting anew.
func (f *Faulty) SetRule(rule Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule, f.n = rule, 0
}

// Ops is the number of operations since the rule was set.
func (f *Faulty) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// check counts an operation and asks the rule what becomes of it. One that is to hang hangs here.
func (f *Faulty) check(kind OpKind, name string) *Fault {
	fault := f.ask(kind, name)
	if fault == nil || fault.Until == nil {
		return fault
	}
	<-fault.Until
	if fault.Err == nil {
		return nil
	}
	return fault
}

// ask calls the rule under mu, so that it needs no lock of its own.
func (f *Faulty) ask(kind OpKind, name string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	op := Op{f.n, kind, name}
	f.n++
	if f.rule == nil {
		return nil
	}
	return f.rule(op)
}

func (f *Faulty) err(kind OpKind, name string) error {
	if fault := f.check(kind, name); fault != nil {
		return memError(string(kind), name, fault.Err)
	}
	return nil
}

func (f *Faulty) file(kind OpKind, name string, open func(string) (File, error)) (File, error) {
	if err := f.err(kind, name); err != nil {
		return nil, err
	}
	file, err := open(name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f}, nil
}

// Create implements FS.
func (f *Faulty) Create(name string) (File, error) { return f.file(OpCreate, name, f.fs.Create) }

// Open implements FS.
func (f *Faulty) Open(name string) (File, error) { return f.file(OpOpen, name, f.fs.Open) }

// OpenOrCreate implements FS.
func (f *Faulty) OpenOrCreate(name string) (File, error) {
	return f.file(OpCreate, name, f.fs.OpenOrCreate)
}

// Rename implements FS.
func (f *Faulty) Rename(oldName, newName string) error {
	if err := f.err(OpRename, oldName); err != nil {
		return err
	}
	return f.fs.Rename(oldName, newName)
}

// Remove implements FS.
func (f *Faulty) Remove(name string) error {
	if err := f.err(OpRemove, name); err != nil {
		return err
	}
	return f.fs.Remove(name)
}

// RemoveAll implements FS.
func (f *Faulty) RemoveAll(name string) error {
	if err := f.err(OpRemove, name); err != nil {
		return err
	}
	return f.fs.RemoveAll(name)
}

// MkdirAll implements FS.
func (f *Faulty) MkdirAll(name string) error {
	if err := f.err(OpMkdir, name); err != nil {
		return err
	}
	return f.fs.MkdirAll(name)
}

// List implements FS.
func (f *Faulty) List(dir string) ([]Info, error) {
	if err := f.err(OpList, dir); err != nil {
		return nil, err
	}
	return f.fs.List(dir)
}

// Stat implements FS.
func (f *Faulty) Stat(name string) (Info, error) {
	if err := f.err(OpStat, name); err != nil {
		return Info{}, err
	}
	return f.fs.Stat(name)
}

// SyncDir implements FS.
func (f *Faulty) SyncDir(dir string) error {
	if err := f.err(OpSyncDir, dir); err != nil {
		return err
	}
	return f.fs.SyncDir(dir)
}

// Lock implements FS.
func (f *Faulty) Lock(name string) (io.Closer, error) {
	if err := f.err(OpLock, name); err != nil {
		return nil, err
	}
	return f.fs.Lock(name)
}

// Usage implements FS.
func (f *Faulty) Usage(dir string) (total, usable int64, err error) { return f.fs.Usage(dir) }

type faultyFile struct {
	File
	fs *Faulty
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.err(OpRead, f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	fault := f.fs.check(OpWrite, f.Name())
	if fault == nil {
		return f.File.WriteAt(p, off)
	}
	n, err := f.File.WriteAt(p[:min(fault.Short, len(p))], off)
	if err == nil && fault.Err != nil {
		err = memError("write", f.Name(), fault.Err)
	}
	return n, err
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.fs.err(OpTruncate, f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultyFile) Preallocate(size int64) error {
	if err := f.fs.err(OpReserve, f.Name()); err != nil {
		return err
	}
	return f.File.Preallocate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.fs.err(OpSync, f.Name()); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) Size() (int64, error) {
	if err := f.fs.err(OpSize, f.Name()); err != nil {
		return 0, err
	}
	return f.File.Size()
}
