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

// preallocate reserves blocks. On a file system that cannot it sets the size, which is all that Kafka does.
func preallocate(f *osFile, size int64) error {
	for {
		switch err := unix.Fallocate(int(f.fd), 0, 0, size); err {
		case unix.EINTR:
		case unix.EOPNOTSUPP, unix.ENOSYS:
			return extend(f, size)
		default:
			return err
		}
	}
}
