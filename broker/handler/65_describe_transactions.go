package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
)

// describeTransactions answers DescribeTransactions (KIP-664), version 0, for
// transactional ids that this broker coordinates.
func describeTransactions(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeTransactionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
	room := b.room()
	for _, id := range req.TransactionalIDs {
		if room.full(&kmsg.DescribeTransactionsResponse{Version: req.Version, TransactionStates: last(resp.TransactionStates)}) {
			d := kmsg.NewDescribeTransactionsResponseTransactionState()
			d.TransactionalID, d.ErrorCode = id, errNoRoom.Code
			resp.TransactionStates = append(resp.TransactionStates, d)
			continue
		}
		var d *kmsg.DescribeTransactionsResponseTransactionState
		err := error(kerr.InvalidRequest)
		if id != "" {
			d, err = callTxn[*kmsg.DescribeTransactionsResponseTransactionState](r.Ctx, b, id, func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
				return s.Describe(now, t, id)
			})
		}
		if err != nil {
			failed := kmsg.NewDescribeTransactionsResponseTransactionState()
			failed.TransactionalID, failed.ErrorCode = id, protocol.Code(err)
			d = &failed
		}
		resp.TransactionStates = append(resp.TransactionStates, *d)
	}
	return resp, nil
}
