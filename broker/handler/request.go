package handler

import (
	"context"
	"sync"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Request is one decoded request with what the handlers need to know about
// where it came from.
type Request struct {
	Header protocol.Header
	// Body aliases the connection's frame buffer: byte slices in it are
	// valid until the handler returns and must be copied to be kept.
	Body kmsg.Request
	Conn *ConnInfo
	// Ctx ends when the broker is told to stop at once.
	Ctx context.Context
	// Draining ends when the broker begins to shut down: who waits for
	// something to happen answers now with what there is.
	Draining context.Context
	// Mutations bounds what the client may change of the cluster; nil where
	// nothing does.
	Mutations Mutations

	// Memory of the hot requests, kept from request to request.
	produce produceCall
	fetch   fetchCall
}

// Mutations is a client's controller_mutation_rate (KIP-599).
type Mutations interface {
	// Take counts n partitions created or deleted; a negative n takes back
	// what was counted. Strict counts none, and says so with false, while the
	// client is above its quota.
	Take(n int, strict bool) bool
}

// mutate counts partitions that a request creates or deletes. False: the client
// has to wait, and is told so with THROTTLING_QUOTA_EXCEEDED, which requests
// know from the version strictSince on; earlier ones are held up afterwards.
func (r *Request) mutate(partitions int, strictSince int16) bool {
	return r.Mutations == nil || r.Mutations.Take(partitions, r.Header.Version >= strictSince)
}

// unmutate takes back what was counted of a change that failed.
func (r *Request) unmutate(partitions int) {
	if r.Mutations != nil && partitions > 0 {
		r.Mutations.Take(-partitions, false)
	}
}

const throttledText = "The throttling quota has been exceeded."

var requests = sync.Pool{New: func() any { return new(Request) }}

// NewRequest returns a Request from a pool.
func NewRequest() *Request { return requests.Get().(*Request) }

// Release gives the request and its response back once that has been sent.
func (r *Request) Release() {
	r.produce.reset()
	r.fetch.reset()
	r.Header, r.Body, r.Conn, r.Ctx, r.Draining = protocol.Header{}, nil, nil, nil, nil
	r.Mutations = nil
	requests.Put(r)
}

// Decode decodes the body of a request of this row's key into r.Body.
func (a *API) Decode(r *Request, body []byte) (err error) {
	if a.decode != nil {
		r.Body, err = a.decode(r, body)
	} else {
		r.Body, err = protocol.Decode(a.Key, r.Header.Version, body)
	}
	return err
}

// RecordsResponse is a response with records that stay where they are until
// the sender puts them on the wire.
type RecordsResponse interface {
	kmsg.Response
	// SizeHint is about how long the frame is without the records.
	SizeHint() int
	// AppendFrame appends the frame without the records and with 0 for its
	// size, and says where the records belong.
	AppendFrame(dst []byte, correlationID int32) ([]byte, []Splice)
}

// Splice is a run of records that belongs in front of byte At of a frame.
type Splice struct {
	At    int
	Slice *storage.Slice
}
