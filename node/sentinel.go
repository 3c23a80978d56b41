package node

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
)

// sentinel notices processes that died by their closed connections, long before
// their sessions run out. The controller keeps a connection to every broker that
// is up, the other nodes that may become controller keep one to the controller.
// A connection that ends, and a port at which nobody listens any more, however
// often one asks, is a process that is gone: it is declared dead. Everything else
// (a flaky connection, a host that does not answer, a process that hangs) is left
// to the session.
//
// One goroutine follows the metadata, one watches each process; all end with ctx.
type sentinel struct {
	controller *controller.Controller
	id         int32
	// candidate says that this node may become controller.
	candidate bool
	// address is where a node accepts connections of others.
	address func(img *metadata.Image, id int32) (string, bool)
	// gone is told of a process that is gone before it is declared dead: the
	// store may need another leader first.
	gone func(ctx context.Context, id int32)
	log  zerolog.Logger
	// sleep passes time.
	sleep func(ctx context.Context, d time.Duration) error
	// watched are the processes watched now.
	watched map[process]context.CancelFunc

	mu sync.Mutex
	// declared are the processes that were declared dead.
	declared map[metadata.ID]bool
}

// process is one life of a node.
type process struct {
	id          int32
	incarnation metadata.ID
	address     string
}

const (
	sentinelDialTimeout = time.Second
	sentinelRetry       = time.Second
	// A port counts as closed when this many attempts in a row were refused.
	refusals       = 3
	refusalPause   = 20 * time.Millisecond
	unreachedPause = 400 * time.Millisecond
	// maxDeclared bounds what is remembered.
	maxDeclared = 1000
)

// run watches until ctx ends. spawn starts a goroutine that the caller waits for.
func (s *sentinel) run(ctx context.Context, spawn func(func())) {
	s.watched, s.declared = map[process]context.CancelFunc{}, map[metadata.ID]bool{}
	for {
		img := s.controller.Image()
		wanted := s.processes(img)
		for p, stop := range s.watched {
			if !wanted[p] {
				stop()
				delete(s.watched, p)
			}
		}
		for p := range wanted {
			if s.watched[p] != nil {
				continue
			}
			watch, stop := context.WithCancel(ctx)
			s.watched[p] = stop
			spawn(func() { s.watch(watch, p) })
		}
		brokers := img.Brokers()
		err := s.controller.Await(ctx, func(now *metadata.Image) bool {
			return now.ControllerFence() != img.ControllerFence() || !sameBrokers(now.Brokers(), brokers)
		})
		if err != nil {
			for _, stop := range s.watched {
				stop()
			}
			return
		}
	}
}

// sameBrokers says whether no broker changed: those that did not are the same.
func sameBrokers(a, b []*metadata.Broker) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// processes are those that this node has to watch.
func (s *sentinel) processes(img *metadata.Image) map[process]bool {
	out := map[process]bool{}
	add := func(id int32, incarnation metadata.ID) {
		if address, ok := s.address(img, id); ok && id != s.id {
			out[process{id, incarnation, address}] = true
		}
	}
	switch {
	case img.ControllerID() == s.id:
		for _, b := range img.Brokers() {
			if b.Active() {
				add(b.ID, b.Incarnation)
			}
		}
	case s.candidate && img.ControllerID() >= 0:
		add(img.ControllerID(), img.ControllerIncarnation())
	}
	return out
}

// watch holds a connection to a process, and when it ends looks whether the
// process is still there.
//
// A process that was never reached may have died before it could be, or the way
// to it is closed: it is declared dead after a longer time, and only once. If it
// lives, it comes back and is left alone.
func (s *sentinel) watch(ctx context.Context, p process) {
	// A process that dies closes its connections one after the other, and its
	// port when it likes: it stays one that was reached.
	reached := false
	for ctx.Err() == nil {
		reached = s.hold(ctx, p.address) || reached
		if ctx.Err() != nil {
			return
		}
		pause := refusalPause
		if !reached {
			if s.isDeclared(p.incarnation) {
				_ = s.sleep(ctx, sentinelRetry)
				continue
			}
			pause = unreachedPause
		}
		if !s.refused(ctx, p.address, pause) {
			_ = s.sleep(ctx, refusalPause)
			continue
		}
		s.log.Warn().Int32("node", p.id).Str("address", p.address).Msg("the process is gone; ending its session")
		s.declare(p.incarnation)
		reached = false
		s.gone(ctx, p.id)
		if err := s.controller.DeclareDead(ctx, p.id, p.incarnation); err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Int32("node", p.id).Msg("could not end the session of a dead process; it will run out")
		}
		// The metadata tells when there is nothing left to watch.
		_ = s.sleep(ctx, sentinelRetry)
	}
}

func (s *sentinel) isDeclared(incarnation metadata.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.declared[incarnation]
}

func (s *sentinel) declare(incarnation metadata.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.declared) >= maxDeclared {
		clear(s.declared)
	}
	s.declared[incarnation] = true
}

// hold connects, says a request, so that the other side knows what kind of
// connection this is, and returns when the connection has ended; false if it was
// not made.
func (s *sentinel) hold(ctx context.Context, address string) bool {
	dial := net.Dialer{Timeout: sentinelDialTimeout}
	conn, err := dial.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("gregor-sentinel"))
	hello := kmsg.NewPtrApiVersionsRequest()
	if _, err := conn.Write(format.AppendRequest(nil, hello, 0)); err != nil {
		return true
	}
	var buf [512]byte
	for {
		if _, err := conn.Read(buf[:]); err != nil {
			return true
		}
	}
}

// refused says whether nobody listens at an address.
func (s *sentinel) refused(ctx context.Context, address string, pause time.Duration) bool {
	dial := net.Dialer{Timeout: sentinelDialTimeout}
	for n := range refusals {
		if n > 0 && s.sleep(ctx, pause) != nil {
			return false
		}
		conn, err := dial.DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close()
			return false
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
	}
	return true
}
