package handler

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
)

// initProducerID answers InitProducerId (KIP-98), versions 0 to 5.
//
//   - Without a transactional id the producer gets an id that no producer ever
//     had, with epoch 0, whatever else it says.
//   - v2 is flexible. v3 carries the producer id and epoch that the client has
//     already (KIP-360): both or neither, else INVALID_REQUEST. Only a
//     transactional producer keeps its id; an idempotent one gets a new one.
//   - v4 may answer PRODUCER_FENCED, v5 TRANSACTION_ABORTABLE (KIP-890).
//   - A transactional id is for the transaction coordinator, see
//     txn.Shard.InitProducerID.
func initProducerID(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.InitProducerIDRequest)
	resp, err := b.initProducer(r.Ctx, req)
	if err != nil {
		resp = req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = protocol.Code(err), -1, -1
	}
	resp.ErrorCode = fencedBefore(resp.ErrorCode, req.Version, 4)
	return resp, nil
}

func (b *Broker) initProducer(ctx context.Context, req *kmsg.InitProducerIDRequest) (*kmsg.InitProducerIDResponse, error) {
	// Before v3 both have their default, -1.
	if (req.ProducerID == -1) != (req.ProducerEpoch == -1) {
		return nil, kerr.InvalidRequest
	}
	if req.TransactionalID != nil {
		if *req.TransactionalID == "" {
			return nil, kerr.InvalidRequest
		}
		return callTxnWithID[*kmsg.InitProducerIDResponse](ctx, b, *req.TransactionalID, func(newID int64) runtime.Handler[*txn.Shard] {
			return func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
				return s.InitProducerID(now, t, req, newID)
			}
		})
	}
	id, err := b.newProducerID(ctx)
	if err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp, nil
}

// producerIDs hands out ids from the block that this broker reserved last. What
// is left of a block when the broker ends is never used.
type producerIDs struct {
	mu       sync.Mutex
	at, left int64
}

// next returns an unused id, reserving a block if need be. Requests that come
// meanwhile wait for the same block.
func (p *producerIDs) next(ctx context.Context, reserve func(context.Context) (int64, int32, error)) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		first, count, err := reserve(ctx)
		if err != nil {
			return 0, err
		}
		p.at, p.left = first, int64(count)
	}
	id := p.at
	p.at++
	p.left--
	return id, nil
}
