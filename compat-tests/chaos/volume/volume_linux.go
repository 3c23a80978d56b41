// Package volume gives each broker a disk of its own that can become full and
// that can fail: an ext4 file system in a file, mounted by a loop device. It
// needs Linux and root.
//
// A disk that fails is shut down as ext4's own crash tests do it: from then on
// every call on it is answered with EIO, and what was not synced to it is lost,
// as when its power is cut. Restore makes it sound again.
package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// Volume is one mounted file system. It is not for concurrent use.
type Volume struct {
	image, dir string
}

// ballast is the file that fills a volume.
const ballast = ".ballast"

// Supported says why this machine cannot do it, nil if it can.
func Supported() error {
	if os.Geteuid() != 0 {
		return errors.New("volumes need root")
	}
	for _, program := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

// New makes a volume of a size in bytes in the file image and mounts it at dir.
func New(image, dir string, size int64) (*Volume, error) {
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, err
	}
	// Nothing is kept back for root, who runs the brokers here.
	if err := run("mkfs.ext4", "-q", "-F", "-m", "0", image); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	v := &Volume{image: image, dir: dir}
	if err := v.mount(); err != nil {
		return nil, err
	}
	// Kafka takes every directory among its logs for a partition.
	return v, os.RemoveAll(filepath.Join(dir, "lost+found"))
}

func (v *Volume) mount() error { return run("mount", "-o", "loop", v.image, v.dir) }

// Fill takes all free space.
func (v *Volume) Fill() error {
	f, err := os.OpenFile(filepath.Join(v.dir, ballast), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	// Reserved, not written: that takes no time.
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for size := int64(256 << 20); size >= 4096; {
		switch err := syscall.Fallocate(int(f.Fd()), 0, end, size); {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		default:
			end += size
		}
	}
	return nil
}

// Free ends Fill.
func (v *Volume) Free() error {
	if err := os.Remove(filepath.Join(v.dir, ballast)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// ext4's request to shut down, without writing what is in memory.
const (
	shutdown        = 0x8004587d // _IOR('X', 125, __u32)
	withoutFlushing = 2
)

// Fail breaks the disk: every call on it answers EIO, and what was not synced
// is lost.
func (v *Volume) Fail() error {
	d, err := os.Open(v.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	how := uint32(withoutFlushing)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, d.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		return fmt.Errorf("shut %s down: %w", v.dir, errno)
	}
	return nil
}

// Restore ends Fail. No process may have a file of the volume open.
func (v *Volume) Restore() error {
	if err := run("umount", v.dir); err != nil {
		return err
	}
	return v.mount()
}

// Close unmounts the volume and deletes its image.
func (v *Volume) Close() error { return errors.Join(run("umount", v.dir), os.Remove(v.image)) }

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
