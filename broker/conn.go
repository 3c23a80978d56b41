package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/broker/handler"
)

// conn is one client connection. Everything but idle and nc belongs to the
// goroutine in serve.
type conn struct {
	s    *Server
	nc   net.Conn
	addr netip.Addr
	info handler.ConnInfo

	reader reader
	sender sender
	// request is the one in process.
	request *handler.Request
	// trusted is set once a request was answered: from then on frames may be
	// as large as the configuration allows.
	trusted bool
	// clientID is the last request's, kept to reuse the string.
	clientID string
	// quota is what was found for clientID last, nil where no quota is set.
	quota *limits
	// refused is how long the connection is held up before it is closed,
	// because its address makes too many.
	refused time.Duration
	// idle is set while the connection waits for a request, when Shutdown may
	// end it.
	idle atomic.Bool
}

// anonymous is the principal of a client that did not authenticate.
const anonymous = "User:ANONYMOUS"

func newConn(s *Server, nc net.Conn, listener string, addr netip.Addr) *conn {
	c := &conn{s: s, nc: nc, addr: addr}
	c.info = handler.ConnInfo{Listener: listener, Principal: anonymous}
	if addr.IsValid() {
		c.info.RemoteHost = addr.String()
	} else if a := nc.RemoteAddr(); a != nil {
		c.info.RemoteHost = a.String()
	}
	var raw syscall.RawConn
	if tcp, ok := nc.(*net.TCPConn); ok {
		// Errors here mean that the connection is gone already; reading will
		// tell.
		raw, _ = tcp.SyscallConn()
		if n := sendBuffer(s.o.SendBuffer, nc, addr); n > 0 {
			_ = tcp.SetWriteBuffer(n)
		}
		if s.o.ReceiveBuffer > 0 {
			_ = tcp.SetReadBuffer(s.o.ReceiveBuffer)
		}
	}
	c.reader.init(c, raw)
	c.sender.init(c, raw)
	return c
}

// localSendBuffer is the send buffer of connections within the machine. These
// have no round trip that a window of megabytes would have to bridge. Left to
// itself the kernel lets several MiB wait in the socket, which by the time they
// are read have left the CPU's cache: a fetch of large runs then costs nearly
// twice as much. With half of this the broker wakes twice as often to fill it,
// which bench's scenario 4 shows (0.26 against 0.19 CPU-s per GB in runs of 8 MiB).
const localSendBuffer = 256 << 10

// sendBuffer is the size to set for the socket's send buffer, 0 for what the
// operating system chooses: what was configured, if anything was.
func sendBuffer(configured int, nc net.Conn, peer netip.Addr) int {
	if configured > 0 {
		return configured
	}
	own, ok := nc.LocalAddr().(*net.TCPAddr)
	if peer.IsLoopback() || ok && peer == own.AddrPort().Addr().Unmap() {
		return localSendBuffer
	}
	return 0
}

// Reasons to close a connection that are the client's doing.
var (
	errFrameSize   = errors.New("frame size out of range")
	errIdle        = errors.New("idle for longer than connections.max.idle.ms")
	errSlow        = errors.New("frame arrives too slowly")
	errNotReading  = errors.New("client does not read its responses")
	errUnserved    = errors.New("API key or version is not served")
	errTooMany     = errors.New("address is above its connection_creation_rate")
	errDraining    = errors.New("server is shutting down")
	errWrongAnswer = errors.New("handler's answer cannot be sent")
)

// serve answers requests until the connection ends.
func (c *conn) serve() {
	err := c.loop()
	_ = c.nc.Close()
	c.release()
	c.s.o.Metrics.closed(err)
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errDraining) {
		return
	}
	ev := c.s.o.Log.Debug() //nolint:zerologlint // sent below, at one level or the other
	var p *panicError
	if errors.As(err, &p) {
		ev = c.s.o.Log.Error().Str("stack", string(p.stack)) //nolint:zerologlint // sent below
	}
	ev.Err(err).Str("listener", c.info.Listener).Str("client", c.info.RemoteHost).Str("client_id", c.clientID).
		Msg("closing connection")
}

// release gives back what the connection held when it ended, possibly in the
// middle of a request.
func (c *conn) release() {
	c.reader.release()
	if c.sender.out != nil {
		c.sender.end()
	}
	if c.request != nil {
		c.request.Release()
		c.request = nil
	}
}

// panicError is a panic in a handler: it ends its connection, not the broker.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func (c *conn) loop() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	if c.refused > 0 {
		c.mute(c.refused)
		return errTooMany
	}
	for {
		frame, err := c.reader.next()
		if err != nil {
			return err
		}
		if err := c.handle(frame); err != nil {
			return err
		}
		c.trusted = true
	}
}

// maxFrame is the largest frame a request of an API key may have.
func (c *conn) maxFrame(key int16) int {
	limit := c.s.o.MaxRequestBytes
	if key == keyProduce {
		return limit
	}
	if !c.trusted {
		return min(limit, maxFirstBytes)
	}
	return min(limit, maxOtherBytes)
}

// wakeIdle ends the connection if it waits for a request. The server has set
// closing before: whoever begins to wait later sees that.
func (c *conn) wakeIdle() {
	if c.idle.Load() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *conn) draining() bool { return c.s.draining.Err() != nil }

// isTimeout reports whether a deadline passed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
