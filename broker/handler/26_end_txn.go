package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
)

// endTxn answers EndTxn, versions 0 to 5, when the decision to commit or abort
// is committed; the markers are written after that. v2 may answer
// PRODUCER_FENCED, v3 is flexible, v4 may answer TRANSACTION_ABORTABLE, v5 bumps
// the producer's epoch and returns it (KIP-890).
func endTxn(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.EndTxnRequest)
	var resp *kmsg.EndTxnResponse
	err := error(kerr.InvalidRequest)
	if req.TransactionalID != "" {
		resp, err = callTxnWithID[*kmsg.EndTxnResponse](r.Ctx, b, req.TransactionalID, func(newID int64) runtime.Handler[*txn.Shard] {
			return func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
				return s.EndTxn(now, t, req, newID)
			}
		})
	}
	if err != nil {
		resp = req.ResponseKind().(*kmsg.EndTxnResponse)
		resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = protocol.Code(err), -1, -1
	}
	resp.ErrorCode = fencedBefore(resp.ErrorCode, req.Version, 2)
	return resp, nil
}
