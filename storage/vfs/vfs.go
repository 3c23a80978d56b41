// Package vfs is the only place in gregor that touches files.
//
// FS has three implementations: OS (the real file system), Mem (a file system in memory that can be cloned as a power cut
// would leave it, see Mem.CrashClone) and Faulty (wraps another FS and makes chosen operations fail). Everything that
// storage promises about crashes and disk errors is tested through the latter two.
//
// All implementations are safe for concurrent use; the package starts no goroutine.
package vfs

import (
	"errors"
	"io"
	"time"
)

// ErrLocked says that another process (or another opener in this one) holds the lock.
var ErrLocked = errors.New("vfs: locked by another process")

// NoFd is what File.Fd returns for a file without a descriptor of the operating system.
const NoFd = ^uintptr(0)

// FS is a hierarchical file system. Names are slash-separated paths.
//
// A new, renamed or removed name is durable only after SyncDir of its directory; the contents of a file only after its
// Sync. Errors wrap fs.ErrNotExist and fs.ErrExist where these apply.
type FS interface {
	// Create makes a new, empty file open for reading and writing, or empties the one that is there.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// OpenOrCreate opens a file for reading and writing and makes an empty one if there is none.
	OpenOrCreate(name string) (File, error)
	// Rename moves a file or a directory, replacing a file that has the new name.
	Rename(oldName, newName string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// RemoveAll removes a file or a directory with all that it holds; a name that is not there is no error.
	RemoveAll(name string) error
	// MkdirAll makes a directory and its parents.
	MkdirAll(name string) error
	// List returns the entries of a directory, sorted by name.
	List(dir string) ([]Info, error)
	// Stat describes a file or a directory.
	Stat(name string) (Info, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock on a file, making it if need be, until the Closer is closed or the process ends. If
	// another holder has it, the error wraps ErrLocked.
	Lock(name string) (io.Closer, error)
	// Usage returns the size and the usable bytes of the volume that holds dir.
	Usage(dir string) (total, usable int64, err error)
}

// Info describes a directory entry.
type Info struct {
	Name    string // last element of the path
	Size    int64
	Dir     bool
	ModTime time.Time
}

// File is an open file, read and written only at explicit positions, so that one descriptor serves many readers.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Truncate sets the size.
	Truncate(size int64) error
	// Preallocate makes the file at least size long and reserves the blocks for it, where the file system can. What was
	// not written reads as zeros. It fails with NoSpace before any write could.
	Preallocate(size int64) error
	// Sync makes contents and size durable.
	Sync() error
	Size() (int64, error)
	// Fd is the descriptor for sendfile, or NoFd.
	Fd() uintptr
	Name() string
}
