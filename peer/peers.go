package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
)

// ErrNotSent marks the errors of requests of which the other broker cannot have
// heard: it was not connected to.
var ErrNotSent = errors.New("not sent")

// Options say how brokers are reached. Zero durations and sizes are replaced by
// the defaults given here.
type Options struct {
	// ClientID is what requests of Peers.Request say who they are.
	ClientID string
	// Address is the host and port of a broker's inter-broker listener; ok is
	// false while the cluster knows no such broker.
	Address func(id int32) (address string, ok bool)
	// Dial connects; a net.Dialer's DialContext unless set.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ConnectTimeout bounds one attempt to connect. Default 10s.
	ConnectTimeout time.Duration
	// RequestTimeout bounds the time from a request to the end of its answer. A
	// broker that hangs, or to which the way is cut, does not close its
	// connections; neither does the network tell. Default 30s.
	RequestTimeout time.Duration
	// Backoff is the pause after a failed attempt, doubled with each up to
	// MaxBackoff. Defaults 50ms and 1s.
	Backoff, MaxBackoff time.Duration
	// MaxAnswerBytes bounds an answer, so that a faulty peer cannot take all
	// memory. Default 100 MiB.
	MaxAnswerBytes int
	// MaxIdle is how many connections to one broker are kept unused. Default 4.
	MaxIdle int
}

func (o Options) withDefaults() Options {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&o.ConnectTimeout, 10 * time.Second}, {&o.RequestTimeout, 30 * time.Second}, {&o.Backoff, 50 * time.Millisecond}, {&o.MaxBackoff, time.Second}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if o.MaxAnswerBytes == 0 {
		o.MaxAnswerBytes = 100 << 20
	}
	if o.MaxIdle == 0 {
		o.MaxIdle = 4
	}
	return o
}

// Peers reaches the brokers of the cluster. Its methods may be called from any
// goroutine.
type Peers struct {
	opts Options

	mu     sync.Mutex
	nodes  map[int32]*node
	closed bool
}

// node is what is known of the way to one broker, under Peers.mu.
type node struct {
	idle []*Conn
	// failures counts failed attempts at address in a row; the next one is
	// made at retryAt.
	address  string
	failures int
	retryAt  time.Time
}

// New returns peers to whom nothing is connected yet.
func New(o Options) *Peers {
	return &Peers{opts: o.withDefaults(), nodes: map[int32]*node{}}
}

// Close closes the idle connections. Requests under way end with their contexts.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, n := range p.nodes {
		for _, c := range n.idle {
			c.Close()
		}
		n.idle = nil
	}
}

// Request sends req, whose version the caller has set, to a broker and returns
// the answer. It connects as needed, waiting as long as the backoff demands.
// Byte slices of the answer belong to the caller.
func (p *Peers) Request(ctx context.Context, id int32, req kmsg.Request) (kmsg.Response, error) {
	c := p.take(id)
	frame, err := c.Do(ctx, req, nil)
	if err != nil {
		c.Close()
		return nil, err
	}
	resp := req.ResponseKind()
	if _, err := protocol.ReadResponse(frame, resp); err != nil {
		c.Close()
		return nil, fmt.Errorf("answer of broker %d: %w", id, err)
	}
	p.give(c)
	return resp, nil
}

// take returns an idle connection that is still good, or a new one that is not
// connected yet.
func (p *Peers) take(id int32) *Conn {
	address, _ := p.opts.Address(id)
	for {
		p.mu.Lock()
		n := p.node(id)
		if len(n.idle) == 0 {
			p.mu.Unlock()
			return p.Conn(id, p.opts.ClientID)
		}
		c := n.idle[len(n.idle)-1]
		n.idle = n.idle[:len(n.idle)-1]
		p.mu.Unlock()
		if c.address == address && alive(c.net) {
			return c
		}
		c.Close()
	}
}

func (p *Peers) give(c *Conn) {
	p.mu.Lock()
	n := p.node(c.id)
	keep := !p.closed && len(n.idle) < p.opts.MaxIdle
	if keep {
		n.idle = append(n.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.Close()
	}
}

// node finds the entry of a broker. The caller holds mu.
func (p *Peers) node(id int32) *node {
	n := p.nodes[id]
	if n == nil {
		n = &node{}
		p.nodes[id] = n
	}
	return n
}

// dial connects to a broker once its backoff is over.
func (p *Peers) dial(ctx context.Context, id int32) (net.Conn, string, error) {
	for {
		address, ok := p.opts.Address(id)
		if !ok {
			return nil, "", fmt.Errorf("%w: broker %d is not known", ErrNotSent, id)
		}
		pause := p.pause(id, address)
		if pause <= 0 {
			return p.attempt(ctx, id, address)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, "", fmt.Errorf("%w: broker %d cannot be connected: %w", ErrNotSent, id, ctx.Err())
		}
	}
}

// pause is how long to wait before the next attempt. An address that was not
// tried yet is tried at once.
func (p *Peers) pause(id int32, address string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(id)
	if n.address != address {
		n.address, n.failures, n.retryAt = address, 0, time.Time{}
	}
	if n.failures == 0 {
		return 0
	}
	return time.Until(n.retryAt)
}

func (p *Peers) attempt(ctx context.Context, id int32, address string) (net.Conn, string, error) {
	dialing, cancel := context.WithTimeout(ctx, p.opts.ConnectTimeout)
	defer cancel()
	conn, err := p.opts.Dial(dialing, "tcp", address)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(id)
	if err == nil {
		n.failures = 0
		return conn, address, nil
	}
	if ctx.Err() == nil && n.address == address {
		pause := min(p.opts.Backoff<<min(n.failures, 16), p.opts.MaxBackoff)
		n.failures++
		n.retryAt = time.Now().Add(pause)
	}
	return nil, "", fmt.Errorf("%w: broker %d: %w", ErrNotSent, id, err)
}
