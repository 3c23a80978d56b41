package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawConn is a connection with blocking system calls: the client that costs
// least.
type rawConn struct {
	fd   int
	buf  []byte // what was read ahead
	tmp  [1024]byte
	sink []byte
}

func dialRaw(addr string) (*rawConn, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}); err == nil {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return nil, err
	}
	tv := syscall.NsecToTimeval(int64(60 * time.Second))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv); err != nil {
		return nil, err
	}
	return &rawConn{fd: fd, sink: make([]byte, 1<<20)}, nil
}

func (c *rawConn) close() { _ = syscall.Close(c.fd) }

func (c *rawConn) write(p []byte) error {
	for len(p) > 0 {
		n, err := syscall.Write(c.fd, p)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// read reads exactly len(p) bytes, and a little ahead.
func (c *rawConn) read(p []byte) error {
	for len(p) > 0 {
		if len(c.buf) == 0 {
			n, err := syscall.Read(c.fd, c.tmp[:])
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF
			}
			c.buf = c.tmp[:n]
		}
		n := copy(p, c.buf)
		p, c.buf = p[n:], c.buf[n:]
	}
	return nil
}

func (c *rawConn) readN(n int) ([]byte, error) {
	p := make([]byte, n)
	return p, c.read(p)
}

// nap is how long the client sleeps when there is nothing to drop. It drops
// bytes faster than they come; if it waited for them, it would be woken after
// each segment, and waking is charged to the sender: on a virtual machine that
// was a third of what a fetch cost the broker.
const nap = 20 * time.Microsecond

// discard drops n bytes in the kernel: with MSG_TRUNC they are not copied.
func (c *rawConn) discard(n int) error {
	ahead := min(n, len(c.buf))
	c.buf = c.buf[ahead:]
	n -= ahead
	for n > 0 {
		m, _, err := syscall.Recvfrom(c.fd, c.sink[:min(n, len(c.sink))], syscall.MSG_TRUNC|syscall.MSG_DONTWAIT)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if errors.Is(err, syscall.EAGAIN) {
			sleepUntil(time.Now().Add(nap))
			continue
		}
		if err != nil {
			return err
		}
		if m == 0 {
			return io.ErrUnexpectedEOF
		}
		n -= m
	}
	return nil
}

// frame reads a whole response without its size.
func (c *rawConn) frame() ([]byte, error) {
	var size [4]byte
	if err := c.read(size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > 1<<20 {
		return nil, fmt.Errorf("response of %d bytes", n)
	}
	p := make([]byte, n)
	return p, c.read(p)
}

// shape is what produce requests look like.
type shape struct {
	records    int // in a batch
	valueBytes int
	batches    int // in a request, each for another partition
	partitions int // that are written to
	// firstPartition is where they begin.
	firstPartition int
	codec          protocol.Codec
	// transactional is the producer's transactional id, "" for none.
	transactional string
}

// load is a set of encoded produce requests that are sent again and again, with
// new sequences.
type load struct {
	shape
	topic      string
	frames     []frame
	batchBytes int // of the first; uncompressed all are equal
	// plainBytes is what one frame carries before compression, wireBytes what
	// of its batches is stored, both on average.
	plainBytes, wireBytes int64
}

type frame struct {
	bytes   []byte
	batches []protocol.Batch // within bytes
	parts   []int            // which partition each is for
}

// payload is text like JSON that compresses about 4 to 1.
func payload(n int, rng *rand.Rand) []byte {
	words := []string{"order", "customer", "amount", "currency", "status", "shipped", "created", "warehouse", "priority", "country"}
	p := []byte(`{`)
	for len(p) < n {
		p = fmt.Appendf(p, `"%s_%s":{"id":"%08x","value":%d,"state":"%s"},`,
			words[rng.IntN(len(words))], words[rng.IntN(len(words))], rng.Uint32(), rng.IntN(1000), words[rng.IntN(len(words))])
	}
	return p[:n]
}

// distinct is how many different requests a load repeats.
const distinct = 6

func newLoad(topic string, sh shape) (*load, error) {
	l := &load{shape: sh, topic: topic}
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Now().UnixMilli()
	next := 0
	for i := range distinct {
		req := kmsg.NewPtrProduceRequest()
		req.Version = 12
		req.Acks, req.TimeoutMillis = -1, 30000
		if sh.transactional != "" {
			req.TransactionID = &sh.transactional
		}
		t := kmsg.NewProduceRequestTopic()
		t.Topic = topic
		f := frame{}
		var batches [][]byte
		for range sh.batches {
			records := make([]protocol.Record, sh.records)
			for k := range records {
				records[k] = protocol.Record{OffsetDelta: int32(k), Value: payload(sh.valueBytes, rng)}
			}
			b := protocol.AppendBatch(nil, protocol.BatchParams{
				BaseTimestamp: now, Codec: sh.codec, LeaderEpoch: -1, Transactional: sh.transactional != "",
				Producer: &protocol.Producer{ID: 0, Epoch: 0, BaseSequence: 0},
			}, records)
			batches = append(batches, b)
			l.wireBytes += int64(len(b))
			p := kmsg.NewProduceRequestTopicPartition()
			p.Partition, p.Records = int32(sh.firstPartition+next%sh.partitions), b
			f.parts = append(f.parts, next%sh.partitions)
			next++
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
		f.bytes = encode(req, int32(i))
		at := 0
		for _, b := range batches { // they follow each other in the frame, in order
			j := indexFrom(f.bytes, b[:61], at)
			if j < 0 {
				return nil, errors.New("batch not found in its own request")
			}
			f.batches = append(f.batches, f.bytes[j:j+len(b)])
			at = j + len(b)
		}
		l.frames = append(l.frames, f)
	}
	l.batchBytes = len(l.frames[0].batches[0])
	l.wireBytes /= distinct
	l.plainBytes = int64(sh.batches) * int64(sh.records) * int64(sh.valueBytes)
	return l, nil
}

func indexFrom(p, sub []byte, at int) int {
	for ; at+len(sub) <= len(p); at++ {
		if string(p[at:at+len(sub)]) == string(sub) {
			return at
		}
	}
	return -1
}

// producer sends a load as an idempotent producer does, five requests in
// flight.
type producer struct {
	l     *load
	c     *rawConn
	id    int64
	epoch int16
	seq   []int32
	// floor is set where nobody looks at the answers.
	floor bool
}

const inFlight = 5

func newProducer(s *subject, l *load) (*producer, error) {
	p := &producer{l: l, seq: make([]int32, l.partitions)}
	var err error
	if s.broker == nil {
		p.floor = true
	} else if p.id, p.epoch, err = s.producerID(l.transactional); err != nil {
		return nil, err
	}
	if p.c, err = dialRaw(s.addr); err != nil {
		return nil, err
	}
	if p.floor {
		err = p.c.write(fmt.Appendf(nil, "produce %d %d %s\n", l.batches, 64, s.dir))
	}
	return p, err
}

// stamp gives the frame's batches the producer's identity and sequences.
func (p *producer) stamp(f *frame) {
	for i, b := range f.batches {
		binary.BigEndian.PutUint64(b[43:], uint64(p.id))
		binary.BigEndian.PutUint16(b[51:], uint16(p.epoch))
		binary.BigEndian.PutUint32(b[53:], uint32(p.seq[f.parts[i]]))
		p.seq[f.parts[i]] += int32(p.l.records)
		b.ResetCRC()
	}
}

// run sends n requests and reads all answers.
func (p *producer) run(n int) error {
	out := 0
	for i := range n {
		if out == inFlight {
			if err := p.answer(); err != nil {
				return err
			}
			out--
		}
		f := &p.l.frames[i%len(p.l.frames)]
		p.stamp(f)
		if err := p.c.write(f.bytes); err != nil {
			return err
		}
		out++
	}
	for ; out > 0; out-- {
		if err := p.answer(); err != nil {
			return err
		}
	}
	return nil
}

func (p *producer) answer() error {
	b, err := p.c.frame()
	if err != nil || p.floor {
		return err
	}
	return produced(b)
}

// produced says what a Produce v12 response says went wrong.
func produced(b []byte) error {
	resp := kmsg.ProduceResponse{Version: 12}
	if err := decode(b, &resp); err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := failed("Produce", p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// consumer reads a topic from its beginning to its end as one that assigns
// partitions itself does, without a session.
type consumer struct {
	c       *rawConn
	frame   []byte
	at      []int // where in the frame the offset of each partition stands
	offsets []int64
	end     int64
	batch   int // bytes of each batch
	records int
	bytes   int64
}

const fetchMaxBytes = 57671680 // fetch.max.bytes of the Java consumer, 50 MiB + 5 MiB

func newConsumer(s *subject, l *load, end int64, partitionMax int) (*consumer, error) {
	c := &consumer{offsets: make([]int64, l.partitions), end: end, batch: l.batchBytes, records: l.records}
	req := kmsg.NewPtrFetchRequest()
	req.Version = 12
	req.ReplicaID = -1
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 500, 1, fetchMaxBytes
	req.SessionID, req.SessionEpoch = 0, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = l.topic
	const mark = 0x1122334455667700
	for i := range l.partitions {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.LastFetchedEpoch, p.LogStartOffset = int32(i), -1, -1, -1
		p.FetchOffset, p.PartitionMaxBytes = mark+int64(i), int32(partitionMax)
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	c.frame = encode(req, 7)
	for i := range l.partitions {
		at := indexFrom(c.frame, binary.BigEndian.AppendUint64(nil, uint64(mark+i)), 0)
		if at < 0 {
			return nil, errors.New("offset not found in its own request")
		}
		c.at = append(c.at, at)
	}
	var err error
	c.c, err = dialRaw(s.addr)
	return c, err
}

// run reads until all partitions are at their end.
func (c *consumer) run() error {
	for !c.done() {
		for i, at := range c.at {
			binary.BigEndian.PutUint64(c.frame[at:], uint64(c.offsets[i]))
		}
		if err := c.c.write(c.frame); err != nil {
			return err
		}
		if err := c.response(); err != nil {
			return err
		}
	}
	return nil
}

func (c *consumer) done() bool {
	for _, o := range c.offsets {
		if o < c.end {
			return false
		}
	}
	return true
}

// response reads a Fetch v12 response and drops its records in the kernel.
func (c *consumer) response() error {
	r := fieldReader{c: c.c}
	r.skip(4 + 4 + 1) // size, correlation id, tags
	r.skip(4)         // throttle
	if code := r.int(2); code != 0 && r.err == nil {
		return fmt.Errorf("fetch: error %d", code)
	}
	r.skip(4) // session
	progress := false
	for topics := r.uvarint() - 1; topics > 0 && r.err == nil; topics-- {
		r.skip(r.uvarint() - 1) // name
		for parts := r.uvarint() - 1; parts > 0 && r.err == nil; parts-- {
			part := r.int(4)
			if code := r.int(2); code != 0 && r.err == nil {
				return fmt.Errorf("fetch: partition %d: error %d", part, code)
			}
			r.skip(8 + 8 + 8)
			if n := r.uvarint(); n > 1 {
				return errors.New("fetch: aborted transactions where there are none")
			}
			r.skip(4)
			size := max(r.uvarint()-1, 0)
			if r.err != nil {
				return r.err
			}
			if err := c.c.discard(size); err != nil {
				return err
			}
			c.bytes += int64(size)
			c.offsets[part] += int64(size / c.batch * c.records) // a part of a batch at the end is read again
			progress = progress || size >= c.batch
			r.tags()
		}
		r.tags()
	}
	r.tags()
	if r.err == nil && !progress {
		return errors.New("fetch: no whole batch in a response")
	}
	return r.err
}

// fieldReader reads the fields of a response; after an error all are 0.
type fieldReader struct {
	c   *rawConn
	err error
	b   [64]byte
}

func (r *fieldReader) skip(n int) {
	if r.err == nil && n > 0 {
		r.err = r.c.read(make([]byte, n))
	}
}

func (r *fieldReader) int(n int) int {
	if r.err != nil {
		return 0
	}
	r.err = r.c.read(r.b[:n])
	v := 0
	for _, b := range r.b[:n] {
		v = v<<8 | int(b)
	}
	return v
}

func (r *fieldReader) uvarint() int {
	v := 0
	for shift := 0; shift < 35; shift += 7 {
		b := r.int(1)
		v |= b & 0x7f << shift
		if b < 0x80 {
			break
		}
	}
	return v
}

func (r *fieldReader) tags() {
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		r.uvarint()
		r.skip(r.uvarint())
	}
}
