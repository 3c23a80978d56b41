// Package wire speaks Kafka's protocol request by request, at any version, and
// brings the answers into a form in which those of two brokers can be compared.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Conn is one connection to a broker. It is not for concurrent use.
type Conn struct {
	// Timeout is how long one request may take.
	Timeout     time.Duration
	c           net.Conn
	correlation int32
}

// Dial connects to a broker.
func Dial(addr string) (*Conn, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &Conn{Timeout: 15 * time.Second, c: c}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

// Do sends one request at the version it carries and reads the answer.
func (c *Conn) Do(req kmsg.Request) (kmsg.Response, error) {
	c.correlation++
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("gregor-compat"))
	body, err := c.roundTrip(f.AppendRequest(nil, req, c.correlation))
	if err != nil {
		return nil, fmt.Errorf("%s v%d: %w", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	b := kbin.Reader{Src: body}
	if got := b.Int32(); got != c.correlation {
		return nil, fmt.Errorf("%s v%d: correlation id %d, want %d", kmsg.NameForKey(req.Key()), req.GetVersion(), got, c.correlation)
	}
	resp := req.ResponseKind()
	// An ApiVersions answer has no tags in its header, so that a client that
	// does not know the version yet can read it.
	if resp.IsFlexible() && req.Key() != 18 {
		if n := b.Uvarint(); n != 0 {
			return nil, fmt.Errorf("%s v%d: %d tags in the response header", kmsg.NameForKey(req.Key()), req.GetVersion(), n)
		}
	}
	if err := resp.ReadFrom(b.Src); err != nil {
		return nil, fmt.Errorf("%s v%d: answer of %d bytes: %w", kmsg.NameForKey(req.Key()), req.GetVersion(), len(body), err)
	}
	return resp, nil
}

// Send sends one request and expects no answer (Produce with acks=0).
func (c *Conn) Send(req kmsg.Request) error {
	c.correlation++
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("gregor-compat"))
	_, err := c.c.Write(f.AppendRequest(nil, req, c.correlation))
	return err
}

// DoRaw sends a frame without its length and reads the answer's frame.
func (c *Conn) DoRaw(frame []byte) ([]byte, error) {
	return c.roundTrip(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
}

func (c *Conn) roundTrip(frame []byte) ([]byte, error) {
	if err := c.c.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return nil, err
	}
	if _, err := c.c.Write(frame); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c.c, size[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c.c, body)
	return body, err
}

// RemoteAddr is where the connection leads.
func (c *Conn) RemoteAddr() string { return c.c.RemoteAddr().String() }
