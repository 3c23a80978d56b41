//go:build unix

package peer

import (
	"errors"
	"net"
	"syscall"
)

// alive tells whether an unused connection can still carry a request: the other
// side neither closed it nor sent anything. Without this a request could go to
// a broker that has been restarted since, and nobody could tell whether it came
// to something.
func alive(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		quiet = errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK)
		return true
	})
	return err == nil && quiet
}
