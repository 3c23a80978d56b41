package node

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
)

// maxControllerRequest bounds a request to a controller: what one transaction of
// the metadata takes, many times over.
const maxControllerRequest = 16 << 20

// answerTimeout is what the other node gets to take an answer.
const answerTimeout = 10 * time.Second

// controllerServer speaks Kafka's protocol at a controller's port: ApiVersions,
// and what other nodes ask of the one that is controller. One goroutine accepts,
// and each connection has one, which answers in order. An answer is given within
// the time that its request names (controller.Answer bounds it), and a connection
// that does not take it ends.
type controllerServer struct {
	listener net.Listener
	calls    func(ctx context.Context, message []byte) []byte
	wg       sync.WaitGroup
	ctx      context.Context //nolint:containedctx // the server's life
	cancel   context.CancelFunc
	conns    connSet
}

func serveController(l net.Listener, calls func(context.Context, []byte) []byte) *controllerServer {
	s := &controllerServer{listener: l, calls: calls}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			if !s.conns.add(c) {
				return
			}
			s.wg.Go(func() { s.serve(c) })
		}
	})
	return s
}

func (s *controllerServer) close() {
	_ = s.listener.Close()
	s.cancel()
	s.conns.close()
	s.wg.Wait()
}

func (s *controllerServer) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.conns.drop(c)
	}()
	r := bufio.NewReader(c)
	for {
		frame, err := readRequest(r)
		if err != nil {
			return
		}
		answer, err := s.answer(frame)
		if err != nil {
			return // what cannot be understood cannot be answered
		}
		if err := c.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// readRequest reads one frame. Memory is taken as it arrives.
func readRequest(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int64(int32(binary.BigEndian.Uint32(head[:])))
	if size < 0 || size > maxControllerRequest {
		return nil, fmt.Errorf("a request of %d bytes", size)
	}
	frame, err := io.ReadAll(io.LimitReader(r, size))
	if err == nil && int64(len(frame)) < size {
		err = io.ErrUnexpectedEOF
	}
	return frame, err
}

var errNotServed = errors.New("not served by a controller")

func (s *controllerServer) answer(frame []byte) ([]byte, error) {
	h, body, err := protocol.ReadHeader(frame)
	if err != nil {
		return nil, err
	}
	var resp kmsg.Response
	switch kmsg.Key(h.Key) {
	case kmsg.ApiVersions:
		resp = controllerVersions(h.Version)
	case kmsg.Envelope:
		req, err := protocol.Decode(h.Key, h.Version, body)
		if err != nil {
			return nil, err
		}
		e := req.ResponseKind().(*kmsg.EnvelopeResponse)
		e.ResponseData = s.calls(s.ctx, req.(*kmsg.EnvelopeRequest).RequestData)
		resp = e
	default:
		return nil, errNotServed
	}
	return protocol.AppendResponse(nil, h.CorrelationID, resp), nil
}

// maxControllerVersions is the highest version of ApiVersions answered.
const maxControllerVersions = 3

func controllerVersions(version int16) kmsg.Response {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version = version
	if version < 0 || version > maxControllerVersions {
		resp.Version, resp.ErrorCode = 0, kerr.UnsupportedVersion.Code
	}
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = int16(kmsg.ApiVersions), 0, maxControllerVersions
	resp.ApiKeys = append(resp.ApiKeys, k)
	return resp
}
