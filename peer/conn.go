package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Conn is one connection to a broker. It belongs to one goroutine at a time. It
// connects with the first request, and again with the first one after an error.
type Conn struct {
	peers  *Peers
	id     int32
	format *kmsg.RequestFormatter

	net         net.Conn
	address     string
	correlation int32
	request     []byte // scratch
}

// Conn returns a connection of the caller's own, which is not made yet.
func (p *Peers) Conn(id int32, clientID string) *Conn {
	return &Conn{peers: p, id: id, format: kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID))}
}

// Close closes the connection; a later request would make it anew.
func (c *Conn) Close() {
	if c.net != nil {
		_ = c.net.Close()
		c.net = nil
	}
}

// keepRequest is the largest request buffer that a connection keeps.
const keepRequest = 64 << 10

// Do sends req and reads the frame of its answer, without the size, into buf
// if that is large enough. After an error the connection is closed. When ctx
// or Options.RequestTimeout ends, Do returns soon.
func (c *Conn) Do(ctx context.Context, req kmsg.Request, buf []byte) ([]byte, error) {
	if c.net == nil {
		conn, address, err := c.peers.dial(ctx, c.id)
		if err != nil {
			return nil, err
		}
		c.net, c.address = conn, address
	}
	frame, err := c.exchange(ctx, req, buf)
	if err != nil {
		c.Close()
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, fmt.Errorf("broker %d: %w", c.id, err)
	}
	return frame, nil
}

func (c *Conn) exchange(ctx context.Context, req kmsg.Request, buf []byte) ([]byte, error) {
	conn := c.net
	if err := conn.SetDeadline(time.Now().Add(c.peers.opts.RequestTimeout)); err != nil {
		return nil, err
	}
	// A deadline in the past ends the read or write that is under way.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.correlation++
	c.request = c.format.AppendRequest(c.request[:0], req, c.correlation)
	if _, err := conn.Write(c.request); err != nil {
		return nil, err
	}
	if cap(c.request) > keepRequest {
		c.request = nil
	}
	frame, err := c.read(buf)
	if err != nil {
		return nil, err
	}
	if !stop() {
		return nil, ctx.Err() // the deadline may hit the next request
	}
	return frame, nil
}

// minAnswer is the length of a response's shortest header.
const minAnswer = 4

func (c *Conn) read(buf []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.net, head[:]); err != nil {
		return nil, err
	}
	size := int64(int32(binary.BigEndian.Uint32(head[:])))
	if size < minAnswer || size > int64(c.peers.opts.MaxAnswerBytes) {
		return nil, fmt.Errorf("an answer of %d bytes, at most %d are allowed", size, c.peers.opts.MaxAnswerBytes)
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if _, err := io.ReadFull(c.net, buf); err != nil {
		return nil, err
	}
	if got := int32(binary.BigEndian.Uint32(buf)); got != c.correlation {
		return nil, fmt.Errorf("answer %d to request %d", got, c.correlation)
	}
	return buf, nil
}
