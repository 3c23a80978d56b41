package proxy

import (
	"encoding/binary"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fakeBroker answers each request and tells which it got.
type fakeBroker struct {
	l        net.Listener
	requests chan *Request
}

func startBroker(t *testing.T) *fakeBroker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := &fakeBroker{l, make(chan *Request, 100)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(c)
		}
	}()
	return b
}

func (b *fakeBroker) serve(c net.Conn) {
	defer c.Close()
	for {
		frame, err := readFrame(c)
		if err != nil {
			return
		}
		r, correlation, err := parse(frame)
		if err != nil {
			return
		}
		b.requests <- r
		req := kmsg.RequestForKey(r.Key)
		req.SetVersion(r.Version)
		resp := req.ResponseKind()
		if m, is := resp.(*kmsg.MetadataResponse); is {
			host, port, _ := net.SplitHostPort(b.l.Addr().String())
			n, _ := strconv.Atoi(port)
			m.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: host, Port: int32(n)}, {NodeID: 2, Host: "elsewhere", Port: 9092}}
		}
		out := binary.BigEndian.AppendUint32(nil, uint32(correlation))
		if resp.IsFlexible() {
			out = append(out, 0)
		}
		if writeFrame(c, resp.AppendTo(out)) != nil {
			return
		}
	}
}

func ask(t *testing.T, c net.Conn, req kmsg.Request, correlation int32) (kmsg.Response, error) {
	t.Helper()
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me"))
	if _, err := c.Write(f.AppendRequest(nil, req, correlation)); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	frame, err := readFrame(c)
	if err != nil {
		return nil, err
	}
	if got := int32(binary.BigEndian.Uint32(frame)); got != correlation {
		t.Fatalf("answer to %d, not %d", got, correlation)
	}
	resp := req.ResponseKind()
	at := 4
	if resp.IsFlexible() {
		at = 5
	}
	return resp, resp.ReadFrom(frame[at:])
}

func setUp(t *testing.T, rules ...*Rule) (*Set, *fakeBroker, func() net.Conn) {
	t.Helper()
	b := startBroker(t)
	s, err := New(1, b.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.Use(rules...)
	return s, b, func() net.Conn {
		c, err := net.Dial("tcp", s.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

func metadata(version int16) kmsg.Request {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = version
	return req
}

func endTxn() kmsg.Request {
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID = 4, "t", 7
	return req
}

func TestAddressesBecomeTheProxys(t *testing.T) {
	s, _, dial := setUp(t)
	for _, version := range []int16{1, 8, 9, 13} {
		resp, err := ask(t, dial(), metadata(version), 5)
		if err != nil {
			t.Fatal(err)
		}
		brokers := resp.(*kmsg.MetadataResponse).Brokers
		if got := net.JoinHostPort(brokers[0].Host, strconv.Itoa(int(brokers[0].Port))); got != s.Addrs()[0] {
			t.Errorf("version %d: broker 1 is at %s, the proxy at %s", version, got, s.Addrs()[0])
		}
		if brokers[1].Host != "elsewhere" || brokers[1].Port != 9092 {
			t.Errorf("version %d: a broker that is not ours became %v", version, brokers[1])
		}
	}
}

func (b *fakeBroker) next(t *testing.T) *Request {
	t.Helper()
	select {
	case r := <-b.requests:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no request came")
		return nil
	}
}

func TestRepeat(t *testing.T) {
	_, b, dial := setUp(t, &Rule{Match: Keys(kmsg.EndTxn), Action: Repeat, Times: 1})
	c := dial()
	for i := range int32(3) {
		if _, err := ask(t, c, endTxn(), i); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		b.next(t)
	}
	select {
	case <-b.requests:
		t.Fatal("a fifth request")
	default:
	}
}

func TestDropAnswerAndRequest(t *testing.T) {
	_, b, dial := setUp(t, &Rule{Match: Keys(kmsg.EndTxn), Action: DropAnswer}, &Rule{Match: Keys(kmsg.Metadata), Action: DropRequest})
	if _, err := ask(t, dial(), endTxn(), 1); err == nil {
		t.Fatal("an answer that should be lost")
	}
	b.next(t)
	if _, err := ask(t, dial(), metadata(8), 1); err == nil {
		t.Fatal("an answer to a request that should be lost")
	}
	select {
	case r := <-b.requests:
		t.Fatalf("request %d reached the broker", r.Key)
	default:
	}
}

func TestStrandedRequestArrivesLater(t *testing.T) {
	release := make(chan struct{})
	s, b, dial := setUp(t, &Rule{Match: Keys(kmsg.EndTxn), Action: Strand, Times: 1, Release: release})
	if _, err := ask(t, dial(), endTxn(), 1); err == nil {
		t.Fatal("an answer to a stranded request")
	}
	if _, err := ask(t, dial(), metadata(8), 2); err != nil {
		t.Fatal(err)
	}
	if r := b.next(t); r.Key != 3 {
		t.Fatalf("the broker got %d first", r.Key)
	}
	close(release)
	r := b.next(t)
	body, err := r.Body()
	if err != nil {
		t.Fatal(err)
	}
	if e, is := body.(*kmsg.EndTxnRequest); !is || e.ProducerID != 7 || r.ClientID != "me" {
		t.Fatalf("the broker got %+v of %q", body, r.ClientID)
	}
	if n := s.Done()["strand EndTxn"]; n != 1 {
		t.Fatalf("done %v", s.Done())
	}
}

func TestRepeatLater(t *testing.T) {
	release := make(chan struct{})
	_, b, dial := setUp(t, &Rule{Match: Keys(kmsg.EndTxn), Action: RepeatLater, Times: 1, Release: release})
	c := dial()
	if _, err := ask(t, c, endTxn(), 1); err != nil {
		t.Fatal(err)
	}
	b.next(t)
	if _, err := ask(t, c, metadata(8), 2); err != nil {
		t.Fatal(err)
	}
	b.next(t)
	close(release)
	if r := b.next(t); r.Key != 26 {
		t.Fatalf("the broker got %d", r.Key)
	}
}

func TestDelaysAndStalls(t *testing.T) {
	for _, action := range []Action{Delay, DelayAnswer, Stall} {
		release := make(chan struct{})
		chosen := make(chan struct{})
		_, _, dial := setUp(t, &Rule{Match: Keys(kmsg.EndTxn), Action: action, Release: release, Did: func(*Request) { close(chosen) }})
		c, answered := dial(), make(chan error, 1)
		go func() {
			_, err := ask(t, c, endTxn(), 1)
			answered <- err
		}()
		<-chosen
		select {
		case err := <-answered:
			t.Fatalf("%s: answered at once: %v", action, err)
		case <-time.After(50 * time.Millisecond):
		}
		close(release)
		if err := <-answered; err != nil {
			t.Fatalf("%s: %v", action, err)
		}
	}
}

func TestCutAndMend(t *testing.T) {
	s, _, dial := setUp(t)
	c := dial()
	if _, err := ask(t, c, metadata(8), 1); err != nil {
		t.Fatal(err)
	}
	s.Cut(0)
	if _, err := ask(t, c, metadata(8), 2); err == nil {
		t.Fatal("an answer through a cut")
	}
	if _, err := ask(t, dial(), metadata(8), 3); err == nil {
		t.Fatal("an answer through a cut")
	}
	s.Mend(0)
	if _, err := ask(t, dial(), metadata(8), 4); err != nil {
		t.Fatal(err)
	}
}

func TestTornRequestsAndAnswers(t *testing.T) {
	_, b, dial := setUp(t, &Rule{Match: Keys(kmsg.EndTxn), Action: TearAnswer}, &Rule{Match: Keys(kmsg.Metadata), Action: TearRequest})
	if _, err := ask(t, dial(), endTxn(), 1); err == nil {
		t.Fatal("a whole answer that should be torn")
	}
	b.next(t)
	if _, err := ask(t, dial(), metadata(8), 1); err == nil {
		t.Fatal("an answer to a request that should be torn")
	}
	select {
	case r := <-b.requests:
		t.Fatalf("request %d reached the broker whole", r.Key)
	default:
	}
}

func TestBarMeetsChosenClients(t *testing.T) {
	s, b, dial := setUp(t)
	s.Bar(0, func(id string) bool { return id == "me" })
	if _, err := ask(t, dial(), metadata(8), 1); err == nil {
		t.Fatal("an answer to a client that is barred")
	}
	s.Bar(0, func(id string) bool { return id != "me" })
	if _, err := ask(t, dial(), metadata(8), 2); err != nil {
		t.Fatal(err)
	}
	b.next(t)
	s.Bar(0, func(string) bool { return true })
	s.Mend(0)
	if _, err := ask(t, dial(), metadata(8), 3); err != nil {
		t.Fatal(err)
	}
}

func TestSlowBrokersAnswersAreWhole(t *testing.T) {
	s, _, dial := setUp(t)
	s.Slow(0)
	c := dial()
	for i := range int32(3) {
		if _, err := ask(t, c, metadata(8), i); err != nil {
			t.Fatal(err)
		}
	}
}
