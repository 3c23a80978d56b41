package handler

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
)

// listTransactions answers ListTransactions (KIP-664), versions 0 to 2: the
// transactions that this broker coordinates, by state, by producer id, from v1
// on by how long they run (KIP-994) and from v2 on by a pattern of their id
// (KIP-1152). States that do not exist are told back. While a shard is still
// loading the answer is COORDINATOR_LOAD_IN_PROGRESS.
func listTransactions(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ListTransactionsRequest)
	resp := req.ResponseKind().(*kmsg.ListTransactionsResponse)
	if b.Transactions == nil {
		resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
		return resp, nil
	}
	f := txn.Filter{ProducerIDs: req.ProducerIDFilters, RunningFor: -1}
	if req.DurationFilterMillis >= 0 {
		f.RunningFor = time.Duration(req.DurationFilterMillis) * time.Millisecond
	}
	if p := req.TransactionalIDPattern; p != nil && *p != "" {
		re, err := regexp.Compile("^(?:" + *p + ")$")
		if err != nil {
			resp.ErrorCode = kerr.InvalidRegularExpression.Code
			return resp, nil //nolint:nilerr // the client has its code
		}
		f.Pattern = re
	}
	states := kmsg.TransactionStateStrings()
	for _, s := range req.StateFilters {
		if slices.Contains(states, s) {
			f.States = append(f.States, s)
		} else {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, s)
		}
	}
	if len(req.StateFilters) > 0 && len(f.States) == 0 {
		return resp, nil // only states that do not exist: no transaction is in one
	}
	for _, p := range slices.Sorted(maps.Keys(b.Transactions.Partitions())) {
		v, err := b.Transactions.Call(r.Ctx, p, func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
			return s.List(now, t, f)
		})
		if err != nil {
			resp.ErrorCode, resp.TransactionStates = protocol.Code(coordinatorError(err)), nil
			return resp, nil
		}
		list, _ := v.([]kmsg.ListTransactionsResponseTransactionState)
		resp.TransactionStates = append(resp.TransactionStates, list...)
	}
	return resp, nil
}
