package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/rs/zerolog"
)

// ErrClosed is what Serve returns after Shutdown or Close.
var ErrClosed = errors.New("broker: server closed")

// Options are a Server's limits and surroundings. Zero values mean Kafka's
// defaults.
type Options struct {
	Handler *handler.Broker
	Log     zerolog.Logger
	// Metrics counts what happens; nil for none.
	Metrics *Metrics

	// MaxRequestBytes is socket.request.max.bytes: the largest frame.
	MaxRequestBytes int
	// RequestMemory is queued.max.request.bytes: what all frames larger than
	// the input buffer may hold at a time. Kafka has no limit by default;
	// ours is 512 MiB, and at least one frame always finds room.
	RequestMemory int64
	// MaxIdle is connections.max.idle.ms; negative for never.
	MaxIdle time.Duration
	// FrameTime is how long a frame may take from its first byte to its last,
	// on top of what its bytes take at MinRate.
	FrameTime time.Duration
	// MaxConnections is max.connections, 0 for no limit, negative for none:
	// beyond it, accepting waits for a connection to end.
	MaxConnections int
	// MaxConnectionsPerIP is max.connections.per.ip with its overrides by
	// address, 0 for no limit, negative for none: beyond it, a connection is
	// closed at once.
	MaxConnectionsPerIP  int
	MaxConnectionsByAddr map[netip.Addr]int
	// MaxDescriptor refuses connections whose file descriptor is not below it,
	// 0 for no limit. Descriptors are given out from the lowest, so it keeps
	// those above it for the logs, whatever number of clients come.
	MaxDescriptor uint64
	// SendBuffer and ReceiveBuffer are the sizes of the socket's buffers, 0
	// for what the operating system chooses (and adapts), except that little is
	// sent ahead to clients on the same machine.
	SendBuffer, ReceiveBuffer int
	// QuotaWindows and QuotaWindow are quota.window.num and
	// quota.window.size.seconds: the windows over which the rates of clients
	// are measured. The other two are controller.quota.window.num and
	// controller.quota.window.size.seconds, whose product at the quota is how
	// much may be changed at once.
	QuotaWindows, MutationQuotaWindows int
	QuotaWindow, MutationQuotaWindow   time.Duration
}

const (
	defaultMaxRequestBytes = 100 << 20
	defaultRequestMemory   = 512 << 20
	defaultMaxIdle         = 10 * time.Minute
	defaultFrameTime       = 30 * time.Second
	// minRate in bytes per second is what a slow client has to keep up within
	// a frame.
	minRate = 1 << 10
	// maxFirstBytes bounds a frame before the first request on a connection
	// was answered, and maxOtherBytes any frame that carries no records: what
	// is decoded into structs takes a multiple of its bytes. Produce is exempt
	// from both, because there are clients that begin with it.
	maxFirstBytes = 512 << 10
	maxOtherBytes = 16 << 20
	// defaultWindows is quota.window.num, of a second each.
	defaultWindows = 11
	trimEvery      = 10 * time.Second
)

// Server accepts connections and answers their requests. All listeners of a
// broker share one Server, and with it its limits.
type Server struct {
	o   Options
	mem *memory
	// quotas measures the clients that have any.
	quotas *quotas

	// ctx ends with Close: what is in process gives up. draining ends with
	// Shutdown: long polls answer now, idle connections end.
	ctx, draining context.Context
	stop, drainer context.CancelFunc

	mu        sync.Mutex
	closing   bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	byAddr    map[netip.Addr]int
	// room is signalled when a connection ends or the server closes.
	room *sync.Cond
	// running counts the goroutines of connections and the trimmer.
	running sync.WaitGroup
}

// New returns a Server that serves nothing yet. It must be closed.
func New(o Options) (*Server, error) {
	if o.Handler == nil {
		return nil, errors.New("broker: Handler is missing")
	}
	if o.MaxRequestBytes == 0 {
		o.MaxRequestBytes = defaultMaxRequestBytes
	}
	if o.MaxRequestBytes < 0 || o.MaxRequestBytes > 1<<31-1-64 {
		return nil, fmt.Errorf("broker: MaxRequestBytes %d is out of range", o.MaxRequestBytes)
	}
	if o.RequestMemory <= 0 {
		o.RequestMemory = defaultRequestMemory
	}
	if o.MaxIdle == 0 {
		o.MaxIdle = defaultMaxIdle
	}
	if o.FrameTime == 0 {
		o.FrameTime = defaultFrameTime
	}
	if o.QuotaWindows == 0 {
		o.QuotaWindows, o.QuotaWindow = defaultWindows, time.Second
	}
	if o.MutationQuotaWindows == 0 {
		o.MutationQuotaWindows, o.MutationQuotaWindow = defaultWindows, time.Second
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	s := &Server{
		o:         o,
		mem:       newMemory(o.RequestMemory),
		quotas:    newQuotas(&o),
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
		byAddr:    map[netip.Addr]int{},
	}
	s.room = sync.NewCond(&s.mu)
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.draining, s.drainer = context.WithCancel(s.ctx)
	o.Metrics.memory = s.mem.inUse
	s.running.Go(s.trim)
	return s, nil
}

// trim returns unused buffers until the server closes. Where many bytes were
// left to the garbage collector it sees that this comes: by itself it comes when
// the heap has doubled, which after a few requests of 100 MB, in a broker that
// has little to do, is when the runtime forces it, minutes later.
func (s *Server) trim() {
	t := time.NewTicker(trimEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if s.mem.trim() {
				runtime.GC() // finds them
				runtime.GC() // has the scavenger aim at what the heap is now
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// Serve accepts connections of the listener with this name until the listener
// fails or the server closes. It closes l.
func (s *Server) Serve(l net.Listener, name string) error {
	defer l.Close()
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()

	var backoff time.Duration
	for {
		if !s.awaitRoom() {
			return ErrClosed
		}
		nc, err := l.Accept()
		if err != nil {
			if s.isClosing() {
				return ErrClosed
			}
			// Out of descriptors, most likely: it passes when connections end.
			var ne net.Error
			if !errors.As(err, &ne) || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("broker: accept on %s: %w", name, err)
			}
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			s.o.Log.Warn().Err(err).Str("listener", name).Msg("cannot accept a connection")
			select {
			case <-time.After(backoff):
			case <-s.draining.Done():
			}
			continue
		}
		backoff = 0
		s.start(nc, name)
	}
}

// awaitRoom waits while max.connections is reached; false when the server
// closes.
func (s *Server) awaitRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closing && s.o.MaxConnections != 0 && len(s.conns) >= s.o.MaxConnections {
		s.room.Wait()
	}
	return !s.closing
}

// start registers the connection and serves it on a goroutine of its own, or
// closes it when its address has too many.
func (s *Server) start(nc net.Conn, listener string) {
	if s.o.MaxDescriptor > 0 && descriptor(nc) >= s.o.MaxDescriptor {
		s.refuse(nc)
		s.o.Log.Debug().Str("listener", listener).Msg("refusing a connection: too many files are open")
		return
	}
	addr := addrOf(nc)
	c := newConn(s, nc, listener, addr)
	c.refused = s.connectionDelay(addr)
	s.mu.Lock()
	if s.closing || s.tooManyLocked(addr) {
		s.mu.Unlock()
		s.refuse(nc)
		return
	}
	s.conns[c] = struct{}{}
	s.byAddr[addr]++
	s.running.Add(1)
	s.mu.Unlock()
	s.o.Metrics.accepted.Add(1)
	s.o.Metrics.open.Add(1)
	go func() {
		defer s.ended(c)
		c.serve()
	}()
}

func (s *Server) refuse(nc net.Conn) {
	s.o.Metrics.refused.Add(1)
	_ = nc.Close()
}

// descriptor is the connection's file descriptor, 0 where there is none.
func descriptor(nc net.Conn) (n uint64) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0 // closed already; reading will tell
	}
	_ = raw.Control(func(fd uintptr) { n = uint64(fd) })
	return n
}

func (s *Server) tooManyLocked(addr netip.Addr) bool {
	limit := s.o.MaxConnectionsPerIP
	if n, ok := s.o.MaxConnectionsByAddr[addr]; ok {
		limit = n
	} else if limit == 0 {
		return false
	}
	return s.byAddr[addr] >= limit
}

func (s *Server) ended(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	if s.byAddr[c.addr]--; s.byAddr[c.addr] == 0 {
		delete(s.byAddr, c.addr)
	}
	s.room.Broadcast()
	s.mu.Unlock()
	s.o.Metrics.open.Add(-1)
	s.running.Done()
}

// addrOf is the client's address; the zero Addr where there is none, as on
// in-memory connections.
func addrOf(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// Shutdown stops accepting, ends idle connections, lets requests in process be
// answered (long polls at once) and returns when all connections are closed.
// When ctx ends first, it closes the rest by force and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.drain()
	done := make(chan struct{})
	go func() {
		s.awaitConns()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, s.Close())
}

// awaitConns returns when no connection is left.
func (s *Server) awaitConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) > 0 {
		s.room.Wait()
	}
}

// drain makes connections end after the request in process.
func (s *Server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.drainer()
	for l := range s.listeners {
		_ = l.Close() // Serve sees the failed accept
	}
	for c := range s.conns {
		c.wakeIdle()
	}
	s.room.Broadcast()
}

// Close ends the server at once: listeners and connections are closed, what is
// in process is told to give up. It returns when every goroutine has ended.
func (s *Server) Close() error {
	s.drain()
	s.stop()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.nc.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}
