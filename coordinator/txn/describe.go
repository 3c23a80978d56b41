package txn

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// Describe answers for one transactional id of DescribeTransactions (KIP-664).
func (s *Shard) Describe(_ time.Time, t runtime.Ticket, id string) runtime.Result {
	st := &step{}
	d := kmsg.NewDescribeTransactionsResponseTransactionState()
	d.TransactionalID = id
	tx := s.ids[id]
	if tx == nil {
		d.ErrorCode = kerr.TransactionalIDNotFound.Code
		st.reply(t, &d)
		return st.Result
	}
	d.State, d.TimeoutMillis, d.StartTimestamp = tx.state.String(), tx.timeoutMs, tx.startMs
	d.ProducerID, d.ProducerEpoch = tx.producerID, tx.epoch
	for i := range tx.topics {
		rt := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
		rt.Topic, rt.Partitions = tx.topics[i].Topic, tx.topics[i].Partitions
		d.Topics = append(d.Topics, rt)
	}
	st.reply(t, &d)
	return st.Result
}

// Filter says which transactions to list; the zero value of a field lets all
// pass.
type Filter struct {
	States      []string
	ProducerIDs []int64
	// RunningFor lists only transactions that began longer ago; negative: off.
	RunningFor time.Duration
	// Pattern must match the whole transactional id (KIP-1152).
	Pattern *regexp.Regexp
}

// List answers with the transactions that pass the filter.
func (s *Shard) List(now time.Time, t runtime.Ticket, f Filter) runtime.Result {
	st := &step{now: now}
	var list []kmsg.ListTransactionsResponseTransactionState
	for _, id := range slices.Sorted(maps.Keys(s.ids)) {
		if tx := s.ids[id]; f.passes(tx, st.nowMs()) {
			l := kmsg.NewListTransactionsResponseTransactionState()
			l.TransactionalID, l.ProducerID, l.TransactionState = id, tx.producerID, tx.state.String()
			list = append(list, l)
		}
	}
	st.reply(t, list)
	return st.Result
}

func (f *Filter) passes(tx *transaction, nowMs int64) bool {
	switch {
	case len(f.ProducerIDs) > 0 && !slices.Contains(f.ProducerIDs, tx.producerID):
	case len(f.States) > 0 && !slices.Contains(f.States, tx.state.String()):
	case f.RunningFor >= 0 && nowMs-tx.startMs <= f.RunningFor.Milliseconds():
	case f.Pattern != nil && !f.Pattern.MatchString(tx.id):
	default:
		return true
	}
	return false
}
