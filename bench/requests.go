package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/wire"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// encode is a request as it goes over the wire.
func encode(req kmsg.Request, correlation int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("gregor-bench")).AppendRequest(nil, req, correlation)
}

// decode reads an answer that came as a frame.
func decode(frame []byte, resp kmsg.Response) error {
	head := 4 // correlation id
	if resp.IsFlexible() {
		head++ // no tags
	}
	if len(frame) < head {
		return io.ErrUnexpectedEOF
	}
	return resp.ReadFrom(frame[head:])
}

// ask sends a request and reads its answer.
func (c *rawConn) ask(req kmsg.Request) (kmsg.Response, error) {
	if err := c.write(encode(req, 1)); err != nil {
		return nil, err
	}
	frame, err := c.frame()
	if err != nil {
		return nil, err
	}
	resp := req.ResponseKind()
	return resp, decode(frame, resp)
}

// failed makes an error of an error code.
func failed(what string, code int16) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", what, kerr.ErrorForCode(code))
}

// Codes that pass by themselves: a coordinator that loads or moves, a
// transaction that ends.
var passing = []int16{
	kerr.CoordinatorLoadInProgress.Code, kerr.CoordinatorNotAvailable.Code, kerr.NotCoordinator.Code,
	kerr.ConcurrentTransactions.Code,
}

// Kinds of coordinators.
const (
	groupCoordinator = 0
	txnCoordinator   = 1
)

// awaitCoordinator returns once the coordinator of a group or of a
// transactional id is there; asking makes its topic.
func (s *subject) awaitCoordinator(kind int8, key string) error {
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version = 4
	req.CoordinatorType, req.CoordinatorKeys = kind, []string{key}
	return s.patiently(func(c *wire.Conn) (int16, error) {
		resp, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.(*kmsg.FindCoordinatorResponse).Coordinators[0].ErrorCode, nil
	})
}

// patiently tries something until it is not refused with a passing code.
func (s *subject) patiently(f func(*wire.Conn) (code int16, err error)) error {
	c, err := wire.Dial(s.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline := time.Now().Add(time.Minute)
	for {
		code, err := f(c)
		if err != nil || !slices.Contains(passing, code) || time.Now().After(deadline) {
			if err == nil {
				err = failed(s.name, code)
			}
			return err
		}
		time.Sleep(time.Millisecond)
	}
}
