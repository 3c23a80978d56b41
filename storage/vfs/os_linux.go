package vfs

import "golang.org/x/sys/unix"

// syncFile uses fdatasync: it writes the size with the data and leaves only times behind.
func syncFile(fd uintptr) error {
	for {
		err := unix.Fdatasync(int(fd))
		if err != unix.EINTR {
			return err
		}
	}
}
