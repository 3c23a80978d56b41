package node

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// sniffTimeout is what a connection to a controller gets to say its first bytes.
const sniffTimeout = 10 * time.Second

// acceptPause is the time before another attempt to accept after one failed.
const acceptPause = 10 * time.Millisecond

// controllerPort is the one port of a controller. It tells by their first bytes
// who connects: the other members of the embedded etcd speak HTTP/1, its clients,
// which are brokers without a member of their own, HTTP/2 (gRPC), and all else is
// Kafka's protocol, whose requests begin with the upper byte of a length.
//
// One goroutine accepts, and one for each new connection waits for its first
// bytes; close ends them.
type controllerPort struct {
	root                   net.Listener
	members, stores, kafka *handedListener
	wg                     sync.WaitGroup
	// sniffed are the connections that have not said what they are.
	sniffed connSet
}

// splitPort takes a listener over.
func splitPort(root net.Listener) *controllerPort {
	p := &controllerPort{
		root:    root,
		members: newHandedListener(root.Addr()), stores: newHandedListener(root.Addr()), kafka: newHandedListener(root.Addr()),
	}
	p.wg.Go(p.accept)
	return p
}

func (p *controllerPort) accept() {
	for {
		c, err := p.root.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select { // out of descriptors, for one
			case <-time.After(acceptPause):
			case <-p.members.closed:
			}
			continue
		}
		if !p.sniffed.add(c) {
			continue
		}
		p.wg.Go(func() { p.sniff(c) })
	}
}

// preface is how every HTTP/2 connection of a client begins.
var preface = []byte("PRI * HTTP/2.0")

// sniff waits for the first bytes and hands the connection to who it is for.
func (p *controllerPort) sniff(c net.Conn) {
	first := make([]byte, 4) // enough to tell PRI from POST and PUT
	_ = c.SetReadDeadline(time.Now().Add(sniffTimeout))
	_, err := io.ReadFull(c, first)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	p.sniffed.drop(c)
	if err != nil {
		_ = c.Close()
		return
	}
	to := p.members
	switch {
	case bytes.HasPrefix(preface, first):
		to = p.stores
	case first[0] == 0:
		to = p.kafka
	}
	to.hand(&prefixedConn{Conn: c, first: first})
}

// close stops accepting. Connections that were handed out belong to who took
// them.
func (p *controllerPort) close() error {
	err := p.root.Close()
	p.sniffed.close()
	for _, l := range []*handedListener{p.members, p.stores, p.kafka} {
		_ = l.Close()
	}
	p.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// handedListener accepts the connections that it is handed.
type handedListener struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandedListener(addr net.Addr) *handedListener {
	return &handedListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *handedListener) hand(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *handedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *handedListener) Addr() net.Addr { return l.addr }

// prefixedConn gives back what was read of it.
type prefixedConn struct {
	net.Conn
	first []byte
}

func (c *prefixedConn) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}
