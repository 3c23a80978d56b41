package broker

import (
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
)

// TestSendBuffer: little is sent ahead within the machine, and what was
// configured wins.
func TestSendBuffer(t *testing.T) {
	at := func(own string) net.Conn {
		return addressed{own: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(own))}
	}
	for _, test := range []struct {
		configured int
		own, peer  string
		want       int
	}{
		{0, "127.0.0.1:9092", "127.0.0.1", localSendBuffer},
		{0, "[::1]:9092", "::1", localSendBuffer},
		{0, "10.0.0.1:9092", "10.0.0.1", localSendBuffer},
		{0, "10.0.0.1:9092", "10.0.0.2", 0},
		{4096, "127.0.0.1:9092", "127.0.0.1", 4096},
		{4096, "10.0.0.1:9092", "10.0.0.2", 4096},
	} {
		if got := sendBuffer(test.configured, at(test.own), netip.MustParseAddr(test.peer)); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
	if runtime.GOOS != "linux" {
		return
	}
	b := startBroker(t, nil)
	c := b.dial()
	c.raw(c.frame(apiVersionsRequest(0)), make([]byte, 1<<16))
	b.eachConn(func(c *conn) {
		var size int
		err := c.sender.raw.Control(func(fd uintptr) {
			size, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
		})
		if err != nil || size != 2*localSendBuffer { // Linux doubles it for its own needs
			t.Errorf("SO_SNDBUF is %d, %v", size, err)
		}
	})
}

type addressed struct {
	net.Conn
	own net.Addr
}

func (a addressed) LocalAddr() net.Addr { return a.own }
