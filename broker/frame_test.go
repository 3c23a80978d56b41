package broker

import (
	"encoding/binary"
	"io"
	"math"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func rawHeader(key, version int16, rest ...byte) []byte {
	p := binary.BigEndian.AppendUint16(nil, uint16(key))
	p = binary.BigEndian.AppendUint16(p, uint16(version))
	p = append(p, 0, 0, 0, 9, 0xff, 0xff)
	p = append(p, rest...)
	return append(be32(uint32(len(p))), p...)
}

// TestBadInput sends what no client should. Apache Kafka 4.3.1 closes the
// connection on each of these as well. Beside it another connection is served;
// nothing takes memory for what a frame only claims, and the end of the test
// sees that all memory came back.
func TestBadInput(t *testing.T) {
	b := startBroker(t, nil)
	other := b.dial()
	for name, frame := range map[string][]byte{
		"length 0":                        be32(0),
		"length negative":                 be32(0xffffffff),
		"length smallest":                 be32(1 << 31),
		"length largest":                  be32(math.MaxInt32),
		"length above the limit":          be32(100<<20 + 1),
		"shorter than a header":           {0, 0, 0, 2, 0, 18},
		"unknown key":                     rawHeader(999, 0),
		"negative key":                    rawHeader(-1, 0),
		"key that Kafka 4 removed":        rawHeader(4, 0),
		"key of controllers":              rawHeader(52, 0, 0),
		"version too new":                 rawHeader(1, 99, 0),
		"version negative":                rawHeader(1, -1),
		"produce 0":                       rawHeader(0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0),
		"produce 2":                       rawHeader(0, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0),
		"client id longer than the frame": {0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 9, 0x7f, 0xff},
		"client id of negative length":    {0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 9, 0xff, 0xfe},
		"2^32-1 tags":                     rawHeader(18, 3, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"tag longer than the frame":       rawHeader(18, 3, 1, 0, 0x7f),
		"varint of six bytes":             rawHeader(18, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
		"body cut short":                  rawHeader(18, 3, 0, 2, 'a', 20, 'b'),
		"fetch of 2^31-1 topics":          rawHeader(1, 4, append(make([]byte, 17), 0x7f, 0xff, 0xff, 0xff)...),
		"fetch of -2 topics":              rawHeader(1, 4, append(make([]byte, 17), 0xff, 0xff, 0xff, 0xfe)...),
		"fetch with a null topic":         rawHeader(1, 4, append(make([]byte, 17), 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0)...),
		"produce of 2^31-1 topics":        rawHeader(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff),
		"produce with a bad records length": rawHeader(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 'a',
			0, 0, 0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff),
		"produce with negative records length": rawHeader(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 'a',
			0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe),
		"HTTP": []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"TLS":  {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4, 5, 6, 7, 8},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, conn := range map[string]net.Conn{"tcp": b.dial(), "pipe": b.mem.dial(t)} {
				c := newClient(t, conn)
				before := everAllocated()
				done := make(chan struct{})
				go func() { // a pipe takes no more than is read
					defer close(done)
					_, _ = c.Write(frame)
				}()
				c.expectClosed()
				<-done
				if took := everAllocated() - before; took > 256<<10 {
					t.Errorf("%s: %d KiB allocated for %d bytes", kind, took>>10, len(frame))
				}
				if got := other.ask(apiVersionsRequest(3)).(*kmsg.ApiVersionsResponse); got.ErrorCode != 0 {
					t.Errorf("%s: another connection was disturbed", kind)
				}
			}
		})
	}
}

// everAllocated is what the process has allocated since it began.
func everAllocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestFrameBeforeFirstRequest: who has not been answered yet gets no memory for
// large frames, unless they carry records, which some clients begin with.
func TestFrameBeforeFirstRequest(t *testing.T) {
	b := startBroker(t, nil)
	c := b.dial()
	c.send(append(be32(maxFirstBytes+1), 0, 3, 0, 0, 0, 0, 0, 1))
	c.expectClosed()

	c = b.dial()
	c.ask(apiVersionsRequest(0))
	c.send(append(be32(maxFirstBytes+1), 0, 3, 0, 0, 0, 0, 0, 1))
	c.expectOpen()

	c = b.dial()
	c.send(append(be32(maxFirstBytes+1), 0, 0, 0, 3, 0, 0, 0, 1))
	c.expectOpen()
}

// expectOpen sees that the broker waits for more.
func (c *client) expectOpen() {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		c.t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n > 0 || !isTimeout(err) {
		c.t.Fatalf("read %d bytes, %v; want an open connection", n, err)
	}
}

// TestSilenceAfterLargeLength: a length alone takes no memory, and who sends no
// more than that is given up.
func TestSilenceAfterLargeLength(t *testing.T) {
	announced := append(be32(100<<20), 0, 0, 0, 3, 0, 0, 0, 1)
	b := startBroker(t, nil) // gives a frame long enough for any machine
	var last *client
	for range 50 {
		last = b.dial()
		last.send(announced)
	}
	last.expectOpen()
	if used := b.s.mem.inUse(); used > 0 {
		t.Errorf("50 announced frames of 100 MiB hold %d bytes", used)
	}

	b = startBroker(t, func(o *Options) { o.FrameTime = 50 * time.Millisecond })
	c := b.dial()
	c.send(announced)
	c.expectClosed()
}

// TestSlowFrame: a client that sends a byte now and then is given up.
func TestSlowFrame(t *testing.T) {
	b := startBroker(t, func(o *Options) { o.FrameTime = 100 * time.Millisecond })
	for _, conn := range []net.Conn{b.dial(), b.mem.dial(t)} {
		c := newClient(t, conn)
		go func() {
			for _, p := range rawHeader(18, 0) {
				if _, err := c.Write([]byte{p}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond) // the slowness is what is tested
			}
		}()
		c.expectClosed()
	}
}

// TestMemoryGrowsWithWhatArrives sends a large frame in pieces.
func TestMemoryGrowsWithWhatArrives(t *testing.T) {
	b := startBroker(t, nil)
	c := b.dial()
	const size = 8 << 20
	frame := append(be32(size), make([]byte, size)...)
	copy(frame[4:], []byte{0, 0, 0, 3, 0, 0, 0, 1})
	sent := 0
	for _, part := range []int{8, 1000, 20 << 10, 1 << 20, size - 1<<20 - 100<<10} {
		c.send(frame[sent : sent+part])
		sent += part
		c.expectOpen()
		if used := b.s.mem.inUse(); used > int64(growth*max(sent, inputSize)) {
			t.Errorf("%d bytes sent hold %d", sent, used)
		}
	}
	c.send(frame[sent:]) // a produce request for nothing with acks=0
	c.ask(apiVersionsRequest(0))
}

// TestRequestMemory: connections wait for memory, and all are served in the end.
func TestRequestMemory(t *testing.T) {
	b := startBroker(t, func(o *Options) { o.RequestMemory = 2 << 20 })
	const n = 8
	done := make(chan error, n)
	for range n {
		c := b.dial()
		go func() {
			frame := c.frame(largeApiVersions(1 << 20))
			for len(frame) > 0 {
				k := min(len(frame), 100<<10)
				if _, err := c.Write(frame[:k]); err != nil {
					done <- err
					return
				}
				frame = frame[k:]
			}
			_, err := c.receive()
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// largeApiVersions is a produce request of about n bytes for a topic that is
// not there.
func largeApiVersions(n int) kmsg.Request {
	r := kmsg.NewPtrProduceRequest()
	r.Version, r.Acks, r.TimeoutMillis = 9, 1, 1000
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic = "nowhere"
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = make([]byte, n)
	topic.Partitions = append(topic.Partitions, p)
	r.Topics = append(r.Topics, topic)
	return r
}

// TestPipelining sends many requests at once: they are answered in order,
// however the bytes are cut.
func TestPipelining(t *testing.T) {
	b := startBroker(t, nil)
	for name, conn := range map[string]net.Conn{"tcp": b.dial(), "pipe": b.mem.dial(t)} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, conn)
			var all []byte
			const n = 10000
			for range n {
				all = append(all, c.frame(apiVersionsRequest(0))...)
			}
			go func() {
				for i := 0; len(all) > 0; i++ {
					k := min(len(all), 1+i*i%5000)
					if _, err := c.Write(all[:k]); err != nil {
						return
					}
					all = all[k:]
				}
			}()
			for i := range n {
				c.answer(apiVersionsRequest(0), int32(i+1))
			}
		})
	}
}

// TestIdleConnectionOwnsNothing: once answered, connections hold no buffer.
func TestIdleConnectionOwnsNothing(t *testing.T) {
	b := startBroker(t, nil)
	for range 20 {
		c := b.dial()
		c.ask(apiVersionsRequest(3))
	}
	b.eachConn(func(c *conn) {
		await(t, func() bool { return c.idle.Load() })
		if c.reader.in != nil || c.reader.big != nil || c.sender.out != nil {
			t.Error("an idle connection owns a buffer")
		}
	})
}

func (b *testBroker) eachConn(f func(*conn)) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	for c := range b.s.conns {
		f(c)
	}
}

// await waits for something that another goroutine is about to do.
func await(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(answerTime); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}

func TestIdleClose(t *testing.T) {
	const idle = 150 * time.Millisecond
	b := startBroker(t, func(o *Options) { o.MaxIdle = idle })
	c := b.dial()
	start := time.Now()
	c.ask(apiVersionsRequest(0))
	c.expectClosed()
	if d := time.Since(start); d < idle {
		t.Errorf("closed after %v", d)
	}
}

// TestRequestsKeepConnectionOpen, on a clock of its own.
func TestRequestsKeepConnectionOpen(t *testing.T) {
	b := startBroker(t, nil)
	synctest.Test(t, func(t *testing.T) {
		const idle = 10 * time.Minute
		s, err := New(Options{Handler: b.h, MaxIdle: idle})
		if err != nil {
			t.Fatal(err)
		}
		l := newMemListener()
		go func() { _ = s.Serve(l, "PLAINTEXT") }()
		c := newClient(t, l.dial(t))
		for range 10 {
			time.Sleep(idle - time.Second)
			c.ask(apiVersionsRequest(0))
		}
		last := time.Now()
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		if d := time.Since(last); d != idle {
			t.Errorf("closed after %v, want %v", d, idle)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestNeverReadingClient: who sends requests and reads no response is given up,
// and the memory comes back.
func TestNeverReadingClient(t *testing.T) {
	b := startBroker(t, func(o *Options) { o.MaxIdle, o.SendBuffer = 200*time.Millisecond, 4096 })
	narrow := func() *client {
		c := b.dial()
		if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := narrow()
	go func() {
		frame := c.frame(apiVersionsRequest(4))
		for {
			if _, err := c.Write(frame); err != nil {
				return
			}
		}
	}()
	await(t, func() bool { return b.s.o.Metrics.closedSlow.Load() == 1 })
	await(t, func() bool { return b.s.o.Metrics.Open() == 0 })

	pipe := newClient(t, b.mem.dial(t))
	pipe.send(pipe.frame(apiVersionsRequest(4)))
	await(t, func() bool { return b.s.o.Metrics.closedSlow.Load() == 2 })

	// Records are on their way from their file.
	id := b.createTopic("t", 1, nil)
	writer := b.dial()
	for range 8 {
		writer.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 1<<20-1000))
	}
	_ = writer.Close()
	await(t, func() bool { return b.s.o.Metrics.Open() == 0 })
	for i, dial := range []func() *client{narrow, func() *client { return newClient(t, b.mem.dial(t)) }} {
		c := dial()
		r := fetchRequest(12)
		p := addFetch(r, "t", id, 0, 0)
		r.MaxBytes, p.PartitionMaxBytes = 8<<20, 8<<20
		c.send(c.frame(r))
		await(t, func() bool { return b.s.o.Metrics.closedSlow.Load() == int64(3+i) })
		await(t, func() bool { return b.s.o.Metrics.Open() == 0 })
	}
}

func TestConnectionLimits(t *testing.T) {
	t.Run("per address", func(t *testing.T) {
		b := startBroker(t, func(o *Options) { o.MaxConnectionsPerIP = 2 })
		first, second := b.dial(), b.dial()
		first.ask(apiVersionsRequest(0))
		second.ask(apiVersionsRequest(0))
		b.dial().expectClosed()
		_ = first.Close()
		await(t, func() bool { return b.s.o.Metrics.Open() == 1 })
		b.dial().ask(apiVersionsRequest(0))
	})
	t.Run("descriptors", func(t *testing.T) {
		limit := uint64(1 << 20)
		b := startBroker(t, func(o *Options) { o.MaxDescriptor = limit })
		b.dial().ask(apiVersionsRequest(0))
		b = startBroker(t, func(o *Options) { o.MaxDescriptor = 3 }) // standard error is the highest below
		b.dial().expectClosed()
		b.mem.dial(t) // has none
	})
	t.Run("overrides", func(t *testing.T) {
		addrs := map[netip.Addr]int{netip.MustParseAddr("127.0.0.1"): 1}
		b := startBroker(t, func(o *Options) { o.MaxConnectionsByAddr = addrs })
		b.dial().ask(apiVersionsRequest(0))
		b.dial().expectClosed()
	})
	t.Run("of the broker", func(t *testing.T) {
		b := startBroker(t, func(o *Options) { o.MaxConnections = 2 })
		first, second := b.dial(), b.dial()
		first.ask(apiVersionsRequest(0))
		second.ask(apiVersionsRequest(0))
		third := b.dial() // waits in the backlog, or accepted just before the limit
		_ = first.Close()
		third.ask(apiVersionsRequest(0))
	})
}
