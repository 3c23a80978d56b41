//go:build unix && !linux

package vfs

import "golang.org/x/sys/unix"

func syncFile(fd uintptr) error { return unix.Fsync(int(fd)) }

func preallocate(f *osFile, size int64) error { return extend(f, size) }
