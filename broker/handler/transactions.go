package handler

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
)

// TransactionsTopic is the internal topic whose partitions are the shards of
// the transaction coordinator.
const TransactionsTopic = "__transaction_state"

// Transactions runs the transaction coordinator's shards on this broker.
// *runtime.Runtime[*txn.Shard] is one.
type Transactions interface {
	Call(ctx context.Context, partition int32, h runtime.Handler[*txn.Shard]) (any, error)
	// Partitions lists the shards here and whether each has loaded.
	Partitions() map[int32]bool
}

// Peers sends requests to other brokers of the cluster.
type Peers interface {
	// Request sends a request, in the version that it names, and returns the
	// response. An error means that it is unknown whether it was handled.
	Request(ctx context.Context, node int32, req kmsg.Request) (kmsg.Response, error)
}

// stillEvery is how often it is looked whether who was asked is still the one to ask.
const stillEvery = 500 * time.Millisecond

// while returns a context that ends soon after still has become false: a broker that
// hangs does not close its connections, and is replaced long before a request to it
// times out.
func while(ctx context.Context, still func() bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	var look func()
	look = func() {
		if ctx.Err() != nil {
			return
		}
		if !still() {
			cancel()
			return
		}
		time.AfterFunc(stillEvery, look)
	}
	first := time.AfterFunc(stillEvery, look)
	return ctx, func() {
		first.Stop()
		cancel()
	}
}

// txnPartition is the partition of __transaction_state that a transactional id
// lives in.
func (b *Broker) txnPartition(img *metadata.Image, id string) int32 {
	n := b.Config.Int32("transaction.state.log.num.partitions")
	if t := img.Topic(TransactionsTopic); t != nil {
		n = int32(len(t.Partitions))
	}
	return partitionFor(id, n)
}

// callTxn runs a handler on the shard of a transactional id and returns what
// answered its ticket. The error is a *kerr.Error that a transactional producer
// knows.
func callTxn[T any](ctx context.Context, b *Broker, id string, h runtime.Handler[*txn.Shard]) (T, error) {
	var none T
	if b.Transactions == nil {
		return none, kerr.CoordinatorNotAvailable
	}
	// What cannot be committed is not waited for longer than for other brokers; it may
	// be committed later all the same.
	ctx, cancel := context.WithTimeoutCause(ctx, b.Config.Duration("request.timeout.ms"), kerr.RequestTimedOut)
	defer cancel()
	v, err := b.Transactions.Call(ctx, b.txnPartition(b.Cluster.Image(), id), h)
	if err = notInTime(ctx, err); err != nil {
		return none, coordinatorError(err)
	}
	response, ok := v.(T)
	if !ok {
		return none, fmt.Errorf("handler: a transaction's shard answered %T, not %T", v, none)
	}
	return response, nil
}

// callTxnWithID is callTxn for a request that may need a producer id, which is
// reserved only if it does.
func callTxnWithID[T any](ctx context.Context, b *Broker, id string, h func(newID int64) runtime.Handler[*txn.Shard]) (T, error) {
	var none T
	v, err := callTxn[any](ctx, b, id, h(-1))
	if err != nil {
		return none, err
	}
	if _, needs := v.(txn.NeedProducerID); needs {
		newID, err := b.newProducerID(ctx)
		if err != nil {
			return none, err
		}
		return callTxn[T](ctx, b, id, h(newID))
	}
	response, ok := v.(T)
	if !ok {
		return none, fmt.Errorf("handler: a transaction's shard answered %T, not %T", v, none)
	}
	return response, nil
}

// newProducerID reserves a producer id, or says what clients try again.
func (b *Broker) newProducerID(ctx context.Context) (int64, error) {
	id, err := b.producerIDs.next(ctx, b.Cluster.AllocateProducerIDs)
	if err != nil {
		b.Log.Warn().Err(err).Msg("no producer ids could be reserved")
		return 0, kerr.CoordinatorLoadInProgress // as with Kafka
	}
	return id, nil
}

// enterTransaction makes partitions of this broker part of a producer's
// transaction, or checks that they are, wherever its coordinator is. It returns
// an error for each partition.
func (b *Broker) enterTransaction(ctx context.Context, req txn.AddPartitions) []error {
	began := b.Now()
	errs := b.askToEnter(ctx, req)
	b.Verifications.count(b.Now().Sub(began), errs)
	return errs
}

// Verifications count how often, for how long and with what success the
// transaction coordinator was asked before a producer's first write.
type Verifications struct {
	// Failed counts partitions, Asked calls.
	Asked, Failed, Nanos atomic.Int64
}

func (v *Verifications) count(took time.Duration, errs []error) {
	if v == nil {
		return // of a test
	}
	v.Asked.Add(1)
	v.Nanos.Add(int64(took))
	for _, err := range errs {
		if err != nil {
			v.Failed.Add(1)
		}
	}
}

func (b *Broker) askToEnter(ctx context.Context, req txn.AddPartitions) []error {
	img := b.Cluster.Image()
	leader, _ := leaderOf(img.Topic(TransactionsTopic), b.txnPartition(img, req.TransactionalID))
	var errs []error
	var err error
	switch {
	case leader == b.NodeID:
		errs, err = callTxn[[]error](ctx, b, req.TransactionalID, addPartitionsHandler(req))
	case leader < 0 || b.Peers == nil:
		err = kerr.CoordinatorNotAvailable
	default:
		errs, err = b.enterRemotely(ctx, leader, req, meantSince(img, req.Partitions))
	}
	if err != nil {
		errs = make([]error, len(req.Partitions))
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// enterRemotely asks another broker with AddPartitionsToTxn. That one waits for as
// long as is set there.
func (b *Broker) enterRemotely(ctx context.Context, leader int32, add txn.AddPartitions, since int64) ([]error, error) {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version = 5
	tagSince(&req.UnknownTags, since)
	t := kmsg.NewAddPartitionsToTxnRequestTransaction()
	t.TransactionalID, t.ProducerID, t.ProducerEpoch, t.VerifyOnly = add.TransactionalID, add.ProducerID, add.Epoch, add.VerifyOnly
	for _, tp := range add.Partitions {
		rt := kmsg.NewAddPartitionsToTxnRequestTransactionTopic()
		rt.Topic, rt.Partitions = tp.Topic, []int32{tp.Partition}
		t.Topics = append(t.Topics, rt)
	}
	req.Transactions = append(req.Transactions, t)
	ctx, cancel := while(ctx, func() bool {
		img := b.Cluster.Image()
		now, _ := leaderOf(img.Topic(TransactionsTopic), b.txnPartition(img, add.TransactionalID))
		return now == leader
	})
	defer cancel()
	answer, err := b.Peers.Request(ctx, leader, req)
	if err != nil {
		b.Log.Debug().Err(err).Int32("broker", leader).Msg("transaction coordinator cannot be reached")
		return nil, kerr.NetworkException
	}
	resp, ok := answer.(*kmsg.AddPartitionsToTxnResponse)
	if !ok || len(resp.Transactions) != 1 && resp.ErrorCode == 0 {
		return nil, kerr.NetworkException
	}
	if resp.ErrorCode != 0 {
		return nil, kerr.ErrorForCode(resp.ErrorCode)
	}
	said := make(map[txn.TopicPartition]error)
	for _, rt := range resp.Transactions[0].Topics {
		for _, rp := range rt.Partitions {
			said[txn.TopicPartition{Topic: rt.Topic, Partition: rp.Partition}] = kerr.ErrorForCode(rp.ErrorCode)
		}
	}
	errs := make([]error, len(add.Partitions))
	for i, tp := range add.Partitions {
		err, ok := said[tp]
		if !ok {
			err = kerr.NetworkException
		}
		errs[i] = err
	}
	return errs, nil
}

// entryError is an error of the transaction coordinator as the producer is told
// that writes to a partition: a fenced one hears of its epoch, and clients that
// do not know TRANSACTION_ABORTABLE (before Produce v11, TxnOffsetCommit v4) of
// the transaction's state.
func entryError(err error, knowsAbortable bool) error {
	switch {
	case errors.Is(err, kerr.ProducerFenced):
		return kerr.InvalidProducerEpoch
	case errors.Is(err, kerr.TransactionAbortable) && !knowsAbortable:
		return kerr.InvalidTxnState
	}
	return err
}

// fencedBefore is PRODUCER_FENCED as clients of before it know it.
func fencedBefore(code, version, knows int16) int16 {
	if code == kerr.ProducerFenced.Code && version < knows {
		return kerr.InvalidProducerEpoch.Code
	}
	return code
}
