package vfs

import "golang.org/x/sys/unix"

// Scratch returns n bytes of zeros that the Go heap knows nothing of. They take memory only as they are written, and all of
// it is given back to the system by FreeScratch, at once: what is needed once, for a moment, and by the hundreds of MB
// would otherwise stay with the process until the garbage collector comes by, minutes later where little happens.
func Scratch(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

// FreeScratch ends the life of what Scratch returned. Nothing may alias it any more: a later access ends the process.
func FreeScratch(b []byte) error { return unix.Munmap(b) }
