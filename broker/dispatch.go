package broker

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/protocol"
)

const (
	keyProduce     = 0
	keyApiVersions = 18
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
	if err := api.Decode(r, body); err != nil {
		return err
	}
	if api.Detached {
		c.reader.detach()
	}
	resp, err := api.Handle(b, r)
	if err == nil && resp != nil {
		err = c.sender.send(h.CorrelationID, resp)
	}
	c.request = nil
	r.Release()
	end := time.Now()
	c.reader.lastRequest = end
	c.s.o.Metrics.request(key, end.Sub(start), err != nil)
	return err
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
