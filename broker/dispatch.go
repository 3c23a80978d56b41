package broker

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	keyProduce          = 0
	keyApiVersions      = 18
	keyCreateTopics     = 19
	keyDeleteTopics     = 20
	keyCreatePartitions = 37
)

// handle answers one frame. An error closes the connection: the request cannot
// be answered, or the answer cannot be sent.
func (c *conn) handle(frame []byte) error {
	start := time.Now()
	key := int16(binary.BigEndian.Uint16(frame))
	version := int16(binary.BigEndian.Uint16(frame[2:]))
	b := c.s.o.Handler
	api := b.API(key)
	if api == nil || !api.Serves(version) {
		return c.unserved(frame, key, version)
	}
	h, body, err := protocol.ReadHeader(frame)
	if err != nil {
		return err
	}
	// Clients send the same id with every request; keep one string of it.
	if h.ClientID != c.clientID {
		c.clientID = h.ClientID
	}
	h.ClientID = c.clientID

	r := handler.NewRequest()
	c.request = r
	r.Header, r.Conn, r.Ctx, r.Draining = h, &c.info, c.s.ctx, c.s.draining
	if l := c.limits(); l != nil {
		return c.handleMetered(api, l, body, len(frame), start)
	}
	if err := api.Decode(r, body); err != nil {
		return err
	}
	if api.Detached {
		c.reader.detach()
	}
	resp, err := api.Handle(b, r)
	return c.answer(resp, err, start)
}

// answer sends the response to the request in process and ends it.
func (c *conn) answer(resp kmsg.Response, err error, start time.Time) error {
	r := c.request
	h := r.Header
	if err == nil && resp != nil {
		err = c.sender.send(h.CorrelationID, resp)
	}
	c.request = nil
	r.Release()
	end := time.Now()
	c.reader.lastRequest = end
	c.s.o.Metrics.request(h.Key, end.Sub(start), err != nil)
	return err
}

// handleMetered is the rest of handle for a client that has quotas.
func (c *conn) handleMetered(api *handler.API, l *limits, body []byte, size int, start time.Time) error {
	r := c.request
	key := r.Header.Key
	var clock cpuClock
	timed := l.request.quota > 0
	if timed {
		clock = startCPU()
	}
	resp, err := c.meter(api, l, r, body)
	var cpu time.Duration
	if timed {
		cpu = clock.stop()
	}
	var throttle time.Duration
	if err == nil {
		throttle = l.charge(key, size+sizeBytes, resp, cpu)
	}
	if err := c.answer(resp, err, start); err != nil {
		return err
	}
	if throttle > 0 {
		c.s.o.Metrics.throttled.Add(1)
		c.mute(throttle)
	}
	return nil
}

// meter decodes and handles a request within its client's quotas.
func (c *conn) meter(api *handler.API, l *limits, r *handler.Request, body []byte) (kmsg.Response, error) {
	if err := api.Decode(r, body); err != nil {
		return nil, err
	}
	l.narrow(r.Body)
	if l.mutation.quota > 0 {
		r.Mutations = l
	}
	if api.Detached {
		c.reader.detach()
	}
	return api.Handle(c.s.o.Handler, r)
}

// unserved deals with a request that is not in the table. Kafka answers only
// ApiVersions, so that a client of any age can find out what is served; it
// closes the connection on all others, even on what it does not know.
func (c *conn) unserved(frame []byte, key, version int16) error {
	if key == keyApiVersions {
		correlation := int32(binary.BigEndian.Uint32(frame[4:]))
		return c.sender.send(correlation, handler.UnsupportedApiVersions(c.s.o.Handler))
	}
	return fmt.Errorf("%w: key %d, version %d", errUnserved, key, version)
}
