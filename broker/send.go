package broker

import (
	"errors"
	"fmt"
	"io"
	"math"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// copyBelow is up to which size a run of records is read and sent with
	// what surrounds it, in one write: two more system calls and a segment of
	// its own for header and trailer cost more than copying.
	copyBelow = 64 << 10
	// chunk bounds what is collected before it is written, and what one
	// sendfile is asked for.
	chunk = 256 << 10
	// sendfileMost bounds one call, so that a connection that is closed by
	// force does not first have to send gigabytes.
	sendfileMost = 4 << 20
)

// sender writes responses to a connection. Records of a fetch go from the file
// to the socket by sendfile, with an explicit offset, because the descriptor is
// shared, and with an exact count: asked for more than there is, the kernel
// keeps the last segment back for 200 ms.
type sender struct {
	c   *conn
	raw syscall.RawConn

	// out is the buffer that a response is built in, nil between responses.
	out *buffer
	// guess is the size of the last response but one, for the next buffer.
	guess int

	// Of the raw write in process:
	step  func(fd uintptr) bool
	mem   []byte
	more  bool // something follows mem
	fd    uintptr
	off   int64
	left  int
	err   error
	armed bool // a write deadline is set
}

func (s *sender) init(c *conn, raw syscall.RawConn) {
	s.c, s.raw = c, raw
	s.step = s.try
	s.guess = 512
}

// send writes one response. It returns when the socket has taken all of it.
func (s *sender) send(correlationID int32, resp kmsg.Response) error {
	if r, ok := resp.(handler.RecordsResponse); ok {
		return s.sendRecords(correlationID, r)
	}
	s.begin(s.guess)
	s.guess = 512
	frame := protocol.AppendResponse(s.out.b[:0], correlationID, resp)
	s.guess = max(s.guess, len(frame))
	err := s.write(frame, false)
	s.end()
	return err
}

// begin takes a buffer for about n bytes.
func (s *sender) begin(n int) { s.out = s.c.s.mem.get(n) }

// end gives the buffer back.
func (s *sender) end() {
	s.c.s.mem.put(s.out)
	s.out = nil
}

// sendRecords writes a response whose records are slices of logs.
func (s *sender) sendRecords(correlationID int32, resp handler.RecordsResponse) error {
	s.begin(resp.SizeHint())
	defer s.end()
	frame, splices := resp.AppendFrame(s.out.b[:0], correlationID)
	total := len(frame)
	for i := range splices {
		total += splices[i].Slice.Len
	}
	if total-4 > math.MaxInt32 {
		return fmt.Errorf("%w: %d bytes", errWrongAnswer, total)
	}
	putSize(frame, total-4)
	if len(splices) == 0 {
		return s.write(frame, false)
	}
	return s.splice(frame, splices, total)
}

func putSize(frame []byte, n int) {
	frame[0], frame[1], frame[2], frame[3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
}

// splice writes frame with the slices between its parts. What is small is
// collected and written together; what is large is sent from its file.
func (s *sender) splice(frame []byte, splices []handler.Splice, total int) error {
	tmp := s.c.s.mem.get(min(total, chunk))
	defer s.c.s.mem.put(tmp)
	buf := tmp.b[:0]
	at := 0
	for i := range splices {
		sp := &splices[i]
		var err error
		if buf, err = s.collect(buf, frame[at:sp.At], true); err != nil {
			return err
		}
		at = sp.At
		if buf, err = s.slice(buf, sp.Slice); err != nil {
			return err
		}
	}
	buf, err := s.collect(buf, frame[at:], true)
	if err != nil {
		return err
	}
	return s.write(buf, false)
}

// collect appends p to buf, writing buf first if p does not fit.
func (s *sender) collect(buf, p []byte, more bool) ([]byte, error) {
	if len(buf)+len(p) <= cap(buf) {
		return append(buf, p...), nil
	}
	if err := s.write(buf, true); err != nil {
		return buf, err
	}
	if len(p) > cap(buf) {
		return buf[:0], s.write(p, more)
	}
	return append(buf[:0], p...), nil
}

// slice sends or collects one run of records.
func (s *sender) slice(buf []byte, sl *storage.Slice) ([]byte, error) {
	switch {
	case sl.Mem != nil:
		return s.collect(buf, sl.Mem, true)
	case s.raw != nil && sl.Len >= copyBelow && sl.File().Fd() != vfs.NoFd:
		if err := s.write(buf, true); err != nil {
			return buf, err
		}
		return buf[:0], s.sendfile(sl)
	}
	return s.copySlice(buf, sl)
}

// copySlice reads a run of records from its file and writes it by way of buf.
func (s *sender) copySlice(buf []byte, sl *storage.Slice) ([]byte, error) {
	if cap(buf)-len(buf) < sl.Len && len(buf) > 0 {
		if err := s.write(buf, true); err != nil {
			return buf, err
		}
		buf = buf[:0]
	}
	if sl.Len <= cap(buf) {
		return sl.AppendTo(buf)
	}
	for off, left := sl.Off, sl.Len; left > 0; {
		n := min(left, cap(buf))
		if m, err := sl.File().ReadAt(buf[:n], off); m < n {
			return buf, shortRead(err)
		}
		off, left = off+int64(n), left-n
		if left == 0 {
			return buf[:n], nil
		}
		if err := s.write(buf[:n], true); err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// shortRead is the error of a file that has less than its log promised.
func shortRead(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading records to send: %w", err)
}

// write sends p; more tells that something follows at once.
func (s *sender) write(p []byte, more bool) error {
	if len(p) == 0 {
		return nil
	}
	s.c.s.o.Metrics.bytesOut.Add(int64(len(p)))
	if s.raw == nil {
		return s.plainWrite(p)
	}
	s.mem, s.more, s.left = p, more, 0
	return s.run()
}

// sendfile sends a run of records from its file.
func (s *sender) sendfile(sl *storage.Slice) error {
	s.c.s.o.Metrics.bytesOut.Add(int64(sl.Len))
	s.c.s.o.Metrics.sendfileBytes.Add(int64(sl.Len))
	s.mem, s.fd, s.off, s.left = nil, sl.File().Fd(), sl.Off, sl.Len
	return s.run()
}

// run lets try do what is set up in s, waiting for the socket in between.
func (s *sender) run() error {
	s.err = nil
	err := s.raw.Write(s.step)
	if s.armed {
		s.armed = false
		if derr := s.c.nc.SetWriteDeadline(time.Time{}); err == nil {
			err = derr
		}
	}
	s.mem = nil
	switch {
	case isTimeout(err):
		return errNotReading
	case err != nil:
		return err
	}
	return s.err
}

// try sends until all is sent (true) or the socket is full (false). Each time
// the socket is full, the client gets a new deadline: only one that reads
// nothing at all is given up.
func (s *sender) try(sock uintptr) bool {
	for len(s.mem) > 0 || s.left > 0 {
		var n int
		var err error
		if len(s.mem) > 0 {
			s.c.s.o.Metrics.writes.Add(1)
			n, err = sendMem(int(sock), s.mem, s.more)
		} else {
			s.c.s.o.Metrics.sendfiles.Add(1)
			n, err = sendFile(int(sock), int(s.fd), &s.off, min(s.left, sendfileMost))
		}
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return !s.arm()
		case err != nil:
			s.err = err
			return true
		case n == 0 && len(s.mem) == 0:
			s.err = shortRead(nil)
			return true
		case len(s.mem) > 0:
			s.mem = s.mem[n:]
		default:
			s.left -= n
		}
	}
	return true
}

// arm sets the deadline for the socket to take more; false if it cannot.
func (s *sender) arm() bool {
	if s.c.s.o.MaxIdle <= 0 {
		return true
	}
	s.armed = true
	s.err = s.c.nc.SetWriteDeadline(time.Now().Add(s.c.s.o.MaxIdle))
	return s.err == nil
}

// plainWrite is write for connections that are no sockets.
func (s *sender) plainWrite(p []byte) error {
	for len(p) > 0 {
		if idle := s.c.s.o.MaxIdle; idle > 0 {
			if err := s.c.nc.SetWriteDeadline(time.Now().Add(idle)); err != nil {
				return err
			}
		}
		// In pieces, so that the deadline follows the progress.
		n, err := s.c.nc.Write(p[:min(len(p), chunk)])
		p = p[n:]
		switch {
		case isTimeout(err) && n == 0:
			return errNotReading
		case err != nil && !isTimeout(err):
			return err
		}
	}
	return nil
}
