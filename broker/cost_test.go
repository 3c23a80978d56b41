package broker

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/gregor-broker/gregor/protocol"
)

// raw sends one frame and reads its response into buf, without allocating.
func (c *client) raw(frame, buf []byte) []byte {
	if _, err := c.Write(frame); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.ReadFull(c.Conn, buf[:4]); err != nil {
		c.t.Fatal(err)
	}
	n := int(binary.BigEndian.Uint32(buf))
	if _, err := io.ReadFull(c.Conn, buf[:n]); err != nil {
		c.t.Fatal(err)
	}
	return buf[:n]
}

// TestAllocations guards what a request on the hot paths may allocate in the
// whole broker: connection, handler, partition and log.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	b := startBroker(t, nil)
	id := b.createTopic("t", 2, nil)
	c := b.dial()
	buf := make([]byte, 8<<20)
	produce := func(version, acks int16, size int) func() {
		frame := c.frame(addRecords(produceRequest(version, acks), "t", id, 0, records(protocol.BatchParams{}, 1, size)))
		pristine := bytes.Clone(frame)
		return func() {
			copy(frame, pristine)
			if got := c.raw(frame, buf); len(got) < 20 {
				t.Fatal("no answer")
			}
		}
	}
	for range 20 {
		produce(9, 1, 10_000)()
	}
	fetch := func(version int16, maxBytes int32, offset int64) func() {
		r := fetchRequest(version)
		r.MaxBytes = maxBytes
		addFetch(r, "t", id, 0, offset)
		frame := c.frame(r)
		return func() { c.raw(frame, buf) }
	}
	r := fetchRequest(12)
	r.SessionEpoch = 0
	addFetch(r, "t", id, 1, 0)
	session := c.fetch(r).SessionID
	epoch := int32(0)
	idle := func() func() {
		r := fetchRequest(12)
		r.SessionID = session
		frame := c.frame(r)
		at := bytes.Index(frame, be32(uint32(session))) + 4
		return func() {
			epoch++
			binary.BigEndian.PutUint32(frame[at:], uint32(epoch))
			c.raw(frame, buf)
		}
	}
	for _, test := range []struct {
		name string
		most float64
		f    func()
	}{
		{"ApiVersions", 10, func() func() { f := c.frame(apiVersionsRequest(0)); return func() { c.raw(f, buf) } }()},
		{"produce v9 acks=1", 1, produce(9, 1, 100)},
		{"produce v13 acks=1", 1, produce(13, 1, 100)},
		{"produce 1 MB", 1, produce(9, 1, 1_000_000)},
		{"produce acks=all", 1, produce(9, -1, 100)},
		{"fetch copied", 1, fetch(12, 30_000, 0)},
		{"fetch by sendfile", 1, fetch(13, 1<<20, 0)},
		{"fetch nothing", 1, fetch(12, 1<<20, 20)},
		{"fetch in a session", 1, idle()},
	} {
		for range 20 {
			test.f() // fill the pools
		}
		if got := testing.AllocsPerRun(200, test.f); got > test.most {
			t.Errorf("%s: %v allocations, want at most %v", test.name, got, test.most)
		} else {
			t.Logf("%s: %v allocations", test.name, got)
		}
	}
}

// TestSystemCalls guards how many calls on the socket a request costs. Waiting
// for the next request takes one read more, which finds nothing.
func TestSystemCalls(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	m := b.s.o.Metrics
	buf := make([]byte, 8<<20)
	produce := func(size int) []byte {
		return c.frame(addRecords(produceRequest(9, 1), "t", id, 0, records(protocol.BatchParams{}, 1, size)))
	}
	for range 4 {
		c.raw(produce(100_000), buf)
	}
	small := b.createTopic("small", 1, nil)
	c.produce(9, 1, "small", small, 0, records(protocol.BatchParams{}, 10, 100))
	fetch := func(topic string, maxBytes int32) []byte {
		r := fetchRequest(12)
		r.MaxBytes = maxBytes
		addFetch(r, topic, id, 0, 0)
		return c.frame(r)
	}
	var pipelined []byte
	for range 100 {
		pipelined = append(pipelined, c.frame(apiVersionsRequest(0))...)
	}
	settled := func() {
		b.eachConn(func(c *conn) { await(t, func() bool { return c.idle.Load() }) })
	}
	for _, test := range []struct {
		name                     string
		reads, writes, sendfiles int64
		f                        func()
	}{
		{"small produce", 2, 1, 0, func() { c.raw(produce(100), buf) }},
		{"small fetch", 2, 1, 0, func() { c.raw(fetch("small", 1<<20), buf) }},
		{"fetch of 100 kB", 2, 2, 1, func() { c.raw(fetch("t", 1), buf) }},
		// The socket of a local client takes localSendBuffer at a time.
		{"fetch of 400 kB", 2, 2, 4, func() { c.raw(fetch("t", 500_000), buf) }},
	} {
		settled()
		reads, writes, sendfiles := m.reads.Load(), m.writes.Load(), m.sendfiles.Load()
		const n = 50
		for range n {
			test.f()
		}
		settled()
		reads, writes, sendfiles = m.reads.Load()-reads, m.writes.Load()-writes, m.sendfiles.Load()-sendfiles
		// A socket may be full or a request cut in two now and then.
		const slack = n / 5
		if reads > n*test.reads+slack || writes > n*test.writes+slack || sendfiles > n*test.sendfiles+slack || test.sendfiles > 0 && sendfiles < n {
			t.Errorf("%s: %d reads, %d writes, %d sendfiles for %d requests", test.name, reads, writes, sendfiles, n)
		} else {
			t.Logf("%s: %d reads, %d writes, %d sendfiles for %d requests", test.name, reads, writes, sendfiles, n)
		}
	}
	// Requests that are there together are read together.
	settled()
	reads := m.reads.Load()
	go func() { _, _ = c.Write(pipelined) }()
	for range 100 {
		if _, err := c.receive(); err != nil {
			t.Fatal(err)
		}
	}
	settled()
	if reads = m.reads.Load() - reads; reads > 20 {
		t.Errorf("%d reads for 100 requests that came together", reads)
	}
}
