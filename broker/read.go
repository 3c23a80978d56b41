package broker

import (
	"encoding/binary"
	"errors"
	"io"
	"syscall"
	"time"
)

const (
	// sizeBytes precede every frame.
	sizeBytes = 4
	// headBytes is what has to be seen of a frame before memory is taken for
	// it: its size and its API key.
	headBytes = sizeBytes + 2
	// growth bounds memory by what has arrived of a frame: a client that
	// announces 100 MiB and sends 100 bytes gets the input buffer only, and
	// later at most this many bytes for each byte sent.
	growth = 64
	// smallestFrame is a v0 header: key, version, correlation id.
	smallestFrame = 8
)

// reader cuts what a connection receives into frames.
//
// It holds at most one of: nothing (idle), the input buffer with bytes
// [r:w) not yet consumed, or a larger buffer with one frame.
type reader struct {
	c   *conn
	raw syscall.RawConn

	in   *buffer
	r, w int
	big  *buffer
	// frame is how much of in the frame last returned takes.
	frame int
	// first holds the first bytes where there is no raw connection: reading
	// needs somewhere to go, and this is less than a buffer.
	first [headBytes]byte

	// Of the raw read that waits for the next request:
	onReadable func(fd uintptr) bool
	n          int
	err        error

	// deadline is the read deadline that is set on the connection, zero for
	// none. lastRequest is when the last frame was complete.
	deadline, lastRequest time.Time
}

func (rd *reader) init(c *conn, raw syscall.RawConn) {
	rd.c, rd.raw = c, raw
	rd.onReadable = rd.readable
	rd.lastRequest = time.Now()
}

// next waits for a frame and returns it without its size. The frame is valid
// until detach, the next call, or release.
func (rd *reader) next() ([]byte, error) {
	rd.consume()
	if rd.in == nil {
		if err := rd.awaitFirst(); err != nil {
			return nil, err
		}
	}
	if err := rd.fill(sizeBytes); err != nil {
		return nil, err
	}
	size := int(int32(binary.BigEndian.Uint32(rd.in.b[rd.r:])))
	if size < smallestFrame || size > rd.c.s.o.MaxRequestBytes {
		return nil, errFrameSize
	}
	if err := rd.fill(headBytes); err != nil {
		return nil, err
	}
	if size > rd.c.maxFrame(int16(binary.BigEndian.Uint16(rd.in.b[rd.r+sizeBytes:]))) {
		return nil, errFrameSize
	}
	total := sizeBytes + size
	if rd.w-rd.r < total {
		if err := rd.finish(total); err != nil {
			return nil, err
		}
	}
	rd.c.s.o.Metrics.bytesIn.Add(int64(total))
	if rd.big != nil {
		return rd.big.b[sizeBytes:total], nil
	}
	rd.frame = total
	return rd.in.b[rd.r+sizeBytes : rd.r+total : rd.r+total], nil
}

// consume gives back what the last frame occupied.
func (rd *reader) consume() {
	if rd.big != nil {
		rd.c.s.mem.put(rd.big)
		rd.big = nil
	}
	rd.r += rd.frame
	rd.frame = 0
	if rd.in != nil && rd.r == rd.w {
		rd.c.s.mem.putInput(rd.in)
		rd.in = nil
		rd.r, rd.w = 0, 0
	}
}

// detach lets go of the frame while its request is still in process, for
// requests that may wait for long and alias none of it.
func (rd *reader) detach() { rd.consume() }

// release gives back everything; the connection is over.
func (rd *reader) release() {
	rd.r, rd.frame = rd.w, 0
	rd.consume()
}

// awaitFirst waits, without holding a buffer, until something arrives: until
// then the connection is idle, afterwards the frame's clock runs.
func (rd *reader) awaitFirst() error {
	rd.c.idle.Store(true)
	defer rd.c.idle.Store(false)
	for {
		// The server first sets that it is draining, then wakes the idle.
		if rd.c.draining() {
			return errDraining
		}
		var err error
		if rd.raw != nil {
			err = rd.rawFirst()
		} else {
			err = rd.plainFirst()
		}
		if !isTimeout(err) {
			return err
		}
		if rd.c.draining() {
			return errDraining
		}
		if idle := rd.c.s.o.MaxIdle; idle > 0 && time.Since(rd.lastRequest) >= idle {
			return errIdle
		}
		rd.deadline = time.Time{} // it belonged to an earlier wait
	}
}

// rawFirst reads into a buffer that is taken only once there is something.
func (rd *reader) rawFirst() error {
	if err := rd.armIdle(); err != nil {
		return err
	}
	rd.n, rd.err = 0, nil
	if err := rd.raw.Read(rd.onReadable); err != nil {
		return err
	}
	return rd.err
}

// readable is called when the socket may have bytes, and says whether that is
// the end of waiting.
func (rd *reader) readable(fd uintptr) bool {
	in := rd.c.s.mem.input()
	for {
		rd.c.s.o.Metrics.reads.Add(1)
		n, err := syscall.Read(int(fd), in.b)
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			rd.in, rd.r, rd.w = in, 0, n
			return true
		}
		rd.c.s.mem.putInput(in)
		if err == syscall.EAGAIN {
			return false
		}
		if rd.err = err; err == nil {
			rd.err = io.EOF
		}
		return true
	}
}

// plainFirst is rawFirst for connections that are no sockets.
func (rd *reader) plainFirst() error {
	if err := rd.armIdle(); err != nil {
		return err
	}
	n, err := rd.c.nc.Read(rd.first[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	}
	rd.in = rd.c.s.mem.input()
	rd.r, rd.w = 0, copy(rd.in.b, rd.first[:n])
	return nil
}

// armIdle sets the deadline of the idle wait if none is set. It is not moved
// with every request, because setting it costs more than the request's own
// bookkeeping: when it fires, awaitFirst looks whether the connection was idle
// indeed.
func (rd *reader) armIdle() error {
	idle := rd.c.s.o.MaxIdle
	if idle <= 0 || !rd.deadline.IsZero() {
		return nil
	}
	if err := rd.setDeadline(rd.lastRequest.Add(idle)); err != nil {
		return err
	}
	// A drain that came before the deadline was set would be overwritten.
	if rd.c.draining() {
		return errDraining
	}
	return nil
}

func (rd *reader) setDeadline(t time.Time) error {
	rd.deadline = t
	return rd.c.nc.SetReadDeadline(t)
}

// fill reads until the input buffer has n bytes from r on. It is the begin of
// a frame: n is small.
func (rd *reader) fill(n int) error {
	if rd.w-rd.r >= n {
		return nil
	}
	rd.compact()
	clock := frameClock{rd: rd}
	for rd.w < n {
		if err := clock.read(rd.in.b, &rd.w, len(rd.in.b)); err != nil {
			return err
		}
	}
	return clock.stop()
}

// compact moves the unread bytes to the front.
func (rd *reader) compact() {
	rd.w = copy(rd.in.b, rd.in.b[rd.r:rd.w])
	rd.r = 0
}

// finish reads the rest of a frame of total bytes: in the input buffer when it
// fits, else into memory that grows with what has arrived.
func (rd *reader) finish(total int) error {
	if rd.r > 0 && total > len(rd.in.b)-rd.r {
		rd.compact()
	}
	clock := frameClock{rd: rd, have: rd.w - rd.r}
	end := min(rd.r+total, len(rd.in.b))
	for rd.w < end {
		if err := clock.read(rd.in.b, &rd.w, len(rd.in.b)); err != nil {
			return err
		}
	}
	if rd.w-rd.r < total {
		if err := rd.grow(&clock, total); err != nil {
			return err
		}
	}
	return clock.stop()
}

// grow reads a frame that does not fit the input buffer, which is full and
// begins with it.
func (rd *reader) grow(clock *frameClock, total int) error {
	mem := rd.c.s.mem
	have := rd.w
	for have < total {
		want := min(total, growth*have)
		clock.pause()
		b, err := mem.take(rd.c.s.ctx, want, rd.big)
		if err != nil {
			return err
		}
		clock.resume()
		if rd.big == nil {
			copy(b.b, rd.in.b[:have])
			rd.r = rd.w
			mem.putInput(rd.in)
			rd.in, rd.r, rd.w = nil, 0, 0
		} else {
			copy(b.b, rd.big.b[:have])
			mem.put(rd.big)
		}
		rd.big = b
		end := min(total, len(b.b))
		for have < end {
			if err := clock.read(b.b, &have, end); err != nil {
				return err
			}
		}
	}
	return nil
}

// frameClock gives a frame FrameTime plus what its bytes take at minRate.
type frameClock struct {
	rd      *reader
	start   time.Time
	have    int
	waiting time.Time
}

// read reads once into b[*w:end].
func (f *frameClock) read(b []byte, w *int, end int) error {
	if f.start.IsZero() {
		f.start = time.Now()
	}
	allowed := f.rd.c.s.o.FrameTime + time.Duration(f.have)*(time.Second/minRate)
	if err := f.rd.setDeadline(f.start.Add(allowed)); err != nil {
		return err
	}
	f.rd.c.s.o.Metrics.reads.Add(1)
	n, err := f.rd.c.nc.Read(b[*w:end])
	*w += n
	f.have += n
	switch {
	case n > 0:
		return nil
	case err == nil:
		return io.ErrNoProgress
	case isTimeout(err):
		return errSlow
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// pause stops the clock while the broker itself makes the client wait.
func (f *frameClock) pause() { f.waiting = time.Now() }

func (f *frameClock) resume() {
	if !f.start.IsZero() {
		f.start = f.start.Add(time.Since(f.waiting))
	}
}

// stop clears the deadline: while the request is in process nobody reads.
func (f *frameClock) stop() error { return f.rd.setDeadline(time.Time{}) }
