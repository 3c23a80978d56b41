package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
)

// listener is a broker that answers with what answer returns, and closes the
// connection where that is nil.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func listen(t *testing.T, answer func(h protocol.Header, body []byte) []byte) *listener {
	t.Helper()
	nl, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{Listener: nl}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := nl.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.conns = append(l.conns, c)
			l.mu.Unlock()
			wg.Go(func() { serve(c, answer) })
		}
	})
	t.Cleanup(func() {
		_ = nl.Close()
		l.drop()
		wg.Wait()
	})
	return l
}

// drop closes all connections and reports how many there were.
func (l *listener) drop() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.conns)
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
	return n
}

func serve(c net.Conn, answer func(protocol.Header, []byte) []byte) {
	defer c.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		h, body, err := protocol.ReadHeader(frame)
		if err != nil {
			return
		}
		out := answer(h, body)
		if out == nil {
			return
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// healthy answers a Heartbeat with its correlation id as the error code.
func healthy(h protocol.Header, _ []byte) []byte {
	resp := &kmsg.HeartbeatResponse{Version: h.Version, ErrorCode: int16(h.CorrelationID)}
	return protocol.AppendResponse(nil, h.CorrelationID, resp)
}

func heartbeat() *kmsg.HeartbeatRequest {
	req := kmsg.NewPtrHeartbeatRequest()
	req.SetVersion(4)
	return req
}

func peersTo(t *testing.T, address func() string, o Options) *Peers {
	t.Helper()
	o.ClientID = "broker-1"
	o.Address = func(id int32) (string, bool) { return address(), id == 2 }
	p := New(o)
	t.Cleanup(p.Close)
	return p
}

func ask(t *testing.T, p *Peers) int16 {
	t.Helper()
	resp, err := p.Request(t.Context(), 2, heartbeat())
	if err != nil {
		t.Fatal(err)
	}
	return resp.(*kmsg.HeartbeatResponse).ErrorCode
}

func TestConnectionIsUsedAgain(t *testing.T) {
	l := listen(t, healthy)
	p := peersTo(t, func() string { return l.Addr().String() }, Options{})
	for want := int16(1); want <= 3; want++ {
		if got := ask(t, p); got != want {
			t.Errorf("request %d went as number %d of its connection", want, got)
		}
	}
}

// TestRestartIsNotSeen: the connections to a broker that restarted are replaced
// before a request is lost on one.
func TestRestartIsNotSeen(t *testing.T) {
	l := listen(t, healthy)
	p := peersTo(t, func() string { return l.Addr().String() }, Options{})
	ask(t, p)
	if n := l.drop(); n != 1 {
		t.Fatalf("%d connections", n)
	}
	// The end of a connection comes with the next read on this side.
	p.mu.Lock()
	idle := p.nodes[2].idle[0].net
	p.mu.Unlock()
	for alive(idle) {
		if t.Context().Err() != nil {
			t.Fatal("the end was never seen")
		}
	}
	if got := ask(t, p); got != 1 {
		t.Errorf("the request went as number %d", got)
	}
}

func TestAddressChanges(t *testing.T) {
	a, b := listen(t, healthy), listen(t, healthy)
	address := a.Addr().String()
	p := peersTo(t, func() string { return address }, Options{})
	ask(t, p)
	address = b.Addr().String()
	ask(t, p)
	if n := b.drop(); n != 1 {
		t.Errorf("%d connections to the new address", n)
	}
}

func TestUnknownBroker(t *testing.T) {
	p := peersTo(t, func() string { return "" }, Options{})
	if _, err := p.Request(t.Context(), 3, heartbeat()); !errors.Is(err, ErrNotSent) {
		t.Error(err)
	}
}

// TestBackoff: attempts at a broker that is down become rarer, an attempt at
// another address is made at once.
func TestBackoff(t *testing.T) {
	down := errors.New("down")
	var attempts int
	address := "down:1"
	p := peersTo(t, func() string { return address }, Options{
		Backoff: 20 * time.Millisecond, MaxBackoff: time.Hour,
		Dial: func(context.Context, string, string) (net.Conn, error) { attempts++; return nil, down },
	})
	for range 3 {
		if _, err := p.Request(t.Context(), 2, heartbeat()); !errors.Is(err, down) || !errors.Is(err, ErrNotSent) {
			t.Fatal(err)
		}
	}
	if pause := p.pause(2, address); pause < 40*time.Millisecond {
		t.Errorf("after %d failures the pause is %v", attempts, pause)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Request(ctx, 2, heartbeat()); !errors.Is(err, context.Canceled) || attempts != 3 {
		t.Errorf("%v, %d attempts", err, attempts)
	}
	address = "other:1"
	if _, err := p.Request(t.Context(), 2, heartbeat()); !errors.Is(err, down) || attempts != 4 {
		t.Errorf("%v, %d attempts", err, attempts)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for name, answer := range map[string]func(protocol.Header, []byte) []byte{
		"too large":  func(protocol.Header, []byte) []byte { return []byte{0, 0, 4, 1} },
		"negative":   func(protocol.Header, []byte) []byte { return []byte{0xff, 0xff, 0xff, 0xff} },
		"too short":  func(protocol.Header, []byte) []byte { return []byte{0, 0, 0, 3, 1, 2, 3} },
		"of another": func(h protocol.Header, b []byte) []byte { h.CorrelationID++; return healthy(h, b) },
		"closed":     func(protocol.Header, []byte) []byte { return nil },
		"garbage":    func(h protocol.Header, _ []byte) []byte { return []byte{0, 0, 0, 5, 0, 0, 0, byte(h.CorrelationID), 0} },
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, answer)
			p := peersTo(t, func() string { return l.Addr().String() }, Options{MaxAnswerBytes: 1 << 10})
			if resp, err := p.Request(t.Context(), 2, heartbeat()); err == nil || errors.Is(err, ErrNotSent) {
				t.Errorf("%v, %v", resp, err)
			}
		})
	}
}

func TestContextEndsARequest(t *testing.T) {
	asked := make(chan struct{})
	l := listen(t, func(protocol.Header, []byte) []byte {
		close(asked)
		<-t.Context().Done()
		return nil
	})
	p := peersTo(t, func() string { return l.Addr().String() }, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := p.Request(ctx, 2, heartbeat()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRequestTimesOut: a broker that hangs keeps its connections open.
func TestRequestTimesOut(t *testing.T) {
	ended := make(chan struct{})
	l := listen(t, func(protocol.Header, []byte) []byte {
		<-ended
		return nil
	})
	t.Cleanup(func() { close(ended) }) // before the listener's
	p := peersTo(t, func() string { return l.Addr().String() }, Options{RequestTimeout: 20 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := p.Request(ctx, 2, heartbeat()); !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
		t.Error(err)
	}
}
