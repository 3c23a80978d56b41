// Package proxy stands between Kafka clients and brokers and does to chosen
// requests what a bad network does: it delays them, repeats them, loses their
// answers, and delivers them long after the client gave up and went on.
//
// A [Set] has one listener for each broker. It knows Kafka's frames, so a rule
// may choose by API key, client id or content, and it writes its own addresses
// into the answers that name brokers, so that clients come through it whatever
// the brokers advertise.
//
// Each client connection has two goroutines, one for each direction; both end
// when either side closes or the set is closed.
package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Action is what happens to a request.
type Action int

// The actions.
const (
	// Pass sends it on as it is.
	Pass Action = iota
	// Delay keeps it, and all that follow on its connection, for a while.
	Delay
	// DelayAnswer keeps its answer, and all that follow, for a while.
	DelayAnswer
	// DropRequest closes the connection instead of sending it on.
	DropRequest
	// DropAnswer closes the connection instead of handing on the answer.
	DropAnswer
	// Repeat sends it twice, one after the other; the client gets the first
	// answer once the second is there too.
	Repeat
	// RepeatLater sends it on, and after a while again on a connection of its
	// own. Only requests that must be harmless a second time may be chosen.
	RepeatLater
	// Strand closes the client's connection and sends the request on after a
	// while, on a connection of its own: it was in the network all the time.
	Strand
	// Stall sends half of it, waits, and sends the rest.
	Stall
	// TearRequest sends half of it and resets both connections.
	TearRequest
	// TearAnswer hands on half of its answer and resets both connections.
	TearAnswer
)

var actionNames = []string{
	"pass", "delay", "delay-answer", "drop-request", "drop-answer", "repeat", "repeat-later", "strand", "stall", "tear-request", "tear-answer",
}

func (a Action) String() string { return actionNames[a] }

// Request is what a rule sees of a request.
type Request struct {
	Broker   int // index in the set
	Key      int16
	Version  int16
	ClientID string
	// Frame is the request without its length.
	Frame []byte
}

// Rule does its action to requests that match.
type Rule struct {
	Match  func(*Request) bool
	Chance float64 // 0 means always
	Times  int     // how often at most, 0 means without end
	Action Action
	// Wait is how long the action takes; Jitter is added at random.
	Wait, Jitter time.Duration
	// Release, where it is not nil, is awaited instead of Wait.
	Release <-chan struct{}
	// Did, where it is not nil, is told what was chosen, and must not block.
	Did func(*Request)
	// Answered, where it is not nil, is given the answer's frame to what
	// RepeatLater and Strand sent late, nil where there was none.
	Answered func(frame []byte)
}

// Keys matches the given API keys.
func Keys(keys ...kmsg.Key) func(*Request) bool {
	return func(r *Request) bool {
		for _, k := range keys {
			if r.Key == int16(k) {
				return true
			}
		}
		return false
	}
}

// Set is a proxy for each of some brokers.
type Set struct {
	brokers []*broker
	addrs   map[string]string // broker's address to the proxy's

	mu    sync.Mutex
	rng   *rand.Rand
	rules []*Rule
	done  map[string]int // actions done, by name and API
	conns map[net.Conn]int
	cut   map[int]bool
	slow  map[int]bool
	bar   map[int]func(clientID string) bool

	closed chan struct{}
	work   sync.WaitGroup
}

type broker struct {
	index    int
	upstream string
	listener net.Listener
}

// maxFrame is what brokers accept by default.
const maxFrame = 100 << 20

// New listens for each of the brokers' addresses. The seed chooses which
// requests suffer.
func New(seed uint64, upstream ...string) (*Set, error) {
	s := &Set{
		addrs: map[string]string{}, rng: rand.New(rand.NewPCG(seed, 0x70)), done: map[string]int{},
		conns: map[net.Conn]int{}, cut: map[int]bool{}, slow: map[int]bool{}, bar: map[int]func(string) bool{},
		closed: make(chan struct{}),
	}
	for i, addr := range upstream {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.Close()
			return nil, err
		}
		b := &broker{i, addr, l}
		s.brokers = append(s.brokers, b)
		s.addrs[addr] = l.Addr().String()
		s.work.Go(func() { s.accept(b) })
	}
	return s, nil
}

// Addrs are the addresses to give to clients, in the order of the brokers.
func (s *Set) Addrs() []string {
	var out []string
	for _, b := range s.brokers {
		out = append(out, b.listener.Addr().String())
	}
	return out
}

// Use replaces the rules. The first that matches decides.
func (s *Set) Use(rules ...*Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = rules
}

// Cut closes all connections to a broker and refuses new ones until Mend.
func (s *Set) Cut(broker int) {
	s.mu.Lock()
	s.cut[broker] = true
	s.mu.Unlock()
	s.Reset(broker)
}

// Slow lets what goes to and from a broker trickle until Mend.
func (s *Set) Slow(broker int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow[broker] = true
}

// Bar closes the connection of each client of a broker that sends a request
// and whose id matches, until Mend. Other clients do not notice.
func (s *Set) Bar(broker int, clients func(clientID string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bar[broker] = clients
}

// Mend ends Cut, Slow and Bar.
func (s *Set) Mend(broker int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cut, broker)
	delete(s.slow, broker)
	delete(s.bar, broker)
}

// Reset breaks all connections to a broker: both ends get a reset.
func (s *Set) Reset(broker int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, b := range s.conns {
		if b == broker {
			reset(c)
		}
	}
}

// reset closes a connection with a RST instead of a FIN, where it is one of
// TCP.
func reset(c net.Conn) {
	if t, is := c.(*net.TCPConn); is {
		_ = t.SetLinger(0) // what fails on a closed connection is not needed
	}
	_ = c.Close()
}

// barred tells whether a request may not pass.
func (s *Set) barred(r *Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	clients := s.bar[r.Broker]
	if clients == nil || !clients(r.ClientID) {
		return false
	}
	s.done["bar"]++
	return true
}

// A slow connection carries a chunk in a tick: some 25 KiB/s, and 20 ms more
// for the smallest frame.
const (
	slowChunk = 512
	slowTick  = 20 * time.Millisecond
)

// write hands a frame on, piece by piece where the broker's network is slow.
func (s *Set) write(c net.Conn, broker int, frame []byte) error {
	rest := withLength(frame)
	for len(rest) > 0 {
		s.mu.Lock()
		slow := s.slow[broker]
		s.mu.Unlock()
		if !slow {
			_, err := c.Write(rest)
			return err
		}
		n := min(slowChunk, len(rest))
		if !s.wait(&pass, slowTick) {
			return net.ErrClosed
		}
		if _, err := c.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// Done tells how often each action was done to each API.
func (s *Set) Done() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for k, n := range s.done {
		out[k] = n
	}
	return out
}

// Close ends all connections and returns when nothing runs any more.
func (s *Set) Close() {
	select {
	case <-s.closed:
		return
	default:
	}
	close(s.closed)
	for _, b := range s.brokers {
		_ = b.listener.Close()
	}
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
}

func (s *Set) accept(b *broker) {
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return // closed
		}
		if !s.adopt(c, b.index) {
			continue
		}
		s.work.Go(func() {
			defer s.forget(c)
			s.serve(b, c)
		})
	}
}

// adopt takes a connection into the set, or closes it.
func (s *Set) adopt(c net.Conn, broker int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
	default:
		if !s.cut[broker] {
			s.conns[c] = broker
			return true
		}
	}
	_ = c.Close()
	return false
}

func (s *Set) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = c.Close()
	delete(s.conns, c)
}

// choose finds what to do with a request.
func (s *Set) choose(r *Request) (*Rule, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rule := range s.rules {
		if rule.Times < 0 || !rule.Match(r) {
			continue
		}
		if rule.Chance > 0 && s.rng.Float64() >= rule.Chance {
			continue
		}
		if rule.Times > 0 {
			if rule.Times--; rule.Times == 0 {
				rule.Times = -1
			}
		}
		wait := rule.Wait
		if rule.Jitter > 0 {
			wait += time.Duration(s.rng.Int64N(int64(rule.Jitter)))
		}
		if rule.Action != Pass {
			s.done[rule.Action.String()+" "+kmsg.NameForKey(r.Key)]++
		}
		if rule.Did != nil {
			rule.Did(r)
		}
		return rule, wait
	}
	return &pass, 0
}

var pass = Rule{Action: Pass}

// wait returns whether the set is still open after the rule's time.
func (s *Set) wait(r *Rule, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	after := t.C
	if r.Release != nil {
		after = nil
	}
	select {
	case <-after:
		return true
	case <-r.Release:
		return true
	case <-s.closed:
		return false
	}
}

// inflight is a request whose answer is awaited.
type inflight struct {
	key, version int16
	copies       int
	first        []byte // answer to the first copy
	rule         *Rule
	wait         time.Duration
}

// link is one client connection with the one to the broker behind it.
type link struct {
	set      *Set
	broker   *broker
	client   net.Conn
	upstream net.Conn

	mu      sync.Mutex
	waiting map[int32]*inflight
}

func (s *Set) serve(b *broker, client net.Conn) {
	upstream, err := net.DialTimeout("tcp", b.upstream, 5*time.Second)
	if err != nil || !s.adopt(upstream, b.index) {
		return
	}
	defer s.forget(upstream)
	l := &link{set: s, broker: b, client: client, upstream: upstream, waiting: map[int32]*inflight{}}
	var answers sync.WaitGroup
	answers.Go(func() {
		l.answers()
		_ = client.Close()
	})
	l.requests()
	_ = client.Close()
	_ = upstream.Close()
	answers.Wait()
}

// requests hands on until the client closes or an action ends the connection.
func (l *link) requests() {
	for {
		frame, err := readFrame(l.client)
		if err != nil {
			return
		}
		r, correlation, err := parse(frame)
		if err != nil {
			return
		}
		r.Broker = l.broker.index
		if l.set.barred(r) {
			return
		}
		rule, wait := l.set.choose(r)
		f := &inflight{key: r.Key, version: r.Version, copies: 1, rule: rule, wait: wait}
		switch rule.Action {
		case DropRequest:
			return
		case Strand:
			l.set.later(l.broker, rule, wait, frame)
			return
		case Delay:
			if !l.set.wait(rule, wait) {
				return
			}
		case Repeat:
			f.copies = 2
		case RepeatLater:
			l.set.later(l.broker, rule, wait, frame)
		case TearRequest:
			whole := withLength(frame)
			_, _ = l.upstream.Write(whole[:len(whole)/2]) // it is torn in any case
			reset(l.upstream)
			reset(l.client)
			return
		case Pass, DelayAnswer, DropAnswer, Stall, TearAnswer:
		}
		l.mu.Lock()
		l.waiting[correlation] = f
		l.mu.Unlock()
		if rule.Action == Stall {
			whole := withLength(frame)
			if _, err := l.upstream.Write(whole[:len(whole)/2]); err != nil || !l.set.wait(rule, wait) {
				return
			}
			if _, err := l.upstream.Write(whole[len(whole)/2:]); err != nil {
				return
			}
			continue
		}
		for range f.copies {
			if err := l.set.write(l.upstream, l.broker.index, frame); err != nil {
				return
			}
		}
	}
}

// answers hands on until the broker closes or an action ends the connection.
func (l *link) answers() {
	for {
		frame, err := readFrame(l.upstream)
		if err != nil || len(frame) < 4 {
			return
		}
		correlation := int32(binary.BigEndian.Uint32(frame))
		l.mu.Lock()
		f := l.waiting[correlation]
		if f == nil {
			l.mu.Unlock()
			return // an answer to nothing: the connection is no good
		}
		if f.copies--; f.copies == 0 {
			delete(l.waiting, correlation)
		}
		l.mu.Unlock()
		if f.first == nil {
			f.first = frame
		}
		if f.copies > 0 {
			continue
		}
		switch f.rule.Action {
		case DropAnswer:
			return
		case DelayAnswer:
			if !l.set.wait(f.rule, f.wait) {
				return
			}
		default:
		}
		out, err := l.set.rewrite(f.key, f.version, f.first)
		if err != nil {
			return
		}
		if f.rule.Action == TearAnswer {
			whole := withLength(out)
			_, _ = l.client.Write(whole[:len(whole)/2]) // it is torn in any case
			reset(l.client)
			reset(l.upstream)
			return
		}
		if err := l.set.write(l.client, l.broker.index, out); err != nil {
			return
		}
	}
}

// later sends a request on a connection of its own, after the rule's time.
func (s *Set) later(b *broker, rule *Rule, d time.Duration, frame []byte) {
	s.work.Go(func() {
		if !s.wait(rule, d) {
			return
		}
		c, err := net.DialTimeout("tcp", b.upstream, 5*time.Second)
		if err != nil || !s.adopt(c, b.index) {
			return // lost in the network after all
		}
		defer s.forget(c)
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return
		}
		if err := writeFrame(c, frame); err != nil {
			return
		}
		// The answer goes to no client, but a broker may drop a request whose
		// connection is closed.
		answer, err := readFrame(c)
		if err != nil {
			answer = nil
		}
		if rule.Answered != nil {
			rule.Answered(answer)
		}
	})
}

// parse reads a request's header.
func parse(frame []byte) (*Request, int32, error) {
	if len(frame) < 10 {
		return nil, 0, errors.New("a request without a header")
	}
	r := &Request{
		Key:     int16(binary.BigEndian.Uint16(frame)),
		Version: int16(binary.BigEndian.Uint16(frame[2:])),
		Frame:   frame,
	}
	if n := int(int16(binary.BigEndian.Uint16(frame[8:]))); n > 0 {
		if len(frame) < 10+n {
			return nil, 0, errors.New("a client id beyond the request")
		}
		r.ClientID = string(frame[10 : 10+n])
	}
	return r, int32(binary.BigEndian.Uint32(frame[4:])), nil
}

// Body decodes the request of a frame.
func (r *Request) Body() (kmsg.Request, error) {
	req := kmsg.RequestForKey(r.Key)
	if req == nil {
		return nil, fmt.Errorf("unknown API %d", r.Key)
	}
	req.SetVersion(r.Version)
	at := 10 + len(r.ClientID)
	if req.IsFlexible() {
		if at >= len(r.Frame) || r.Frame[at] != 0 {
			return nil, errors.New("tags in a request header")
		}
		at++
	}
	return req, req.ReadFrom(r.Frame[at:])
}

// rewrite puts the proxies' addresses where an answer names brokers.
func (s *Set) rewrite(key, version int16, frame []byte) ([]byte, error) {
	switch kmsg.Key(key) {
	case kmsg.Metadata, kmsg.FindCoordinator, kmsg.DescribeCluster, kmsg.Produce, kmsg.Fetch:
	default:
		return frame, nil
	}
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	resp := req.ResponseKind()
	at := 4
	if resp.IsFlexible() {
		if len(frame) < 5 || frame[4] != 0 {
			return nil, errors.New("tags in an answer's header")
		}
		at = 5
	}
	if err := resp.ReadFrom(frame[at:]); err != nil {
		return nil, err
	}
	if !s.readdress(resp) {
		return frame, nil
	}
	return resp.AppendTo(append([]byte(nil), frame[:at]...)), nil
}

// readdress changes the addresses in an answer and says whether there were any.
func (s *Set) readdress(resp kmsg.Response) bool {
	any := false
	put := func(host *string, port *int32) {
		proxied, is := s.addrs[net.JoinHostPort(*host, strconv.Itoa(int(*port)))]
		if !is {
			return
		}
		h, p, err := net.SplitHostPort(proxied)
		n, err2 := strconv.Atoi(p)
		if err == nil && err2 == nil {
			*host, *port, any = h, int32(n), true
		}
	}
	switch resp := resp.(type) {
	case *kmsg.MetadataResponse:
		for i := range resp.Brokers {
			put(&resp.Brokers[i].Host, &resp.Brokers[i].Port)
		}
	case *kmsg.FindCoordinatorResponse:
		put(&resp.Host, &resp.Port)
		for i := range resp.Coordinators {
			put(&resp.Coordinators[i].Host, &resp.Coordinators[i].Port)
		}
	case *kmsg.DescribeClusterResponse:
		for i := range resp.Brokers {
			put(&resp.Brokers[i].Host, &resp.Brokers[i].Port)
		}
	case *kmsg.ProduceResponse:
		for i := range resp.Brokers {
			put(&resp.Brokers[i].Host, &resp.Brokers[i].Port)
		}
	case *kmsg.FetchResponse:
		for i := range resp.Brokers {
			put(&resp.Brokers[i].Host, &resp.Brokers[i].Port)
		}
	}
	return any
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	frame := make([]byte, n)
	_, err := io.ReadFull(r, frame)
	return frame, err
}

func withLength(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame))), frame...)
}

func writeFrame(w io.Writer, frame []byte) error {
	_, err := w.Write(withLength(frame))
	return err
}
