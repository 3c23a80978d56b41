package handler

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
)

// addPartitionsToTxn answers AddPartitionsToTxn, versions 0 to 5.
//
//   - v0 to v3 come from clients: one transaction. All partitions are added or
//     none; where one does not exist, the others are OPERATION_NOT_ATTEMPTED.
//     Those of internal topics are TOPIC_AUTHORIZATION_FAILED.
//   - v4 and v5 come from brokers (KIP-890): many transactions at once, and
//     those with VerifyOnly are only looked at. v5 adds with transaction
//     version 2, and waits for the transaction before to complete, for all that
//     are in the request together no longer than the asking broker would have if
//     it were the coordinator. Nothing here asks whether a broker sent it, as
//     Kafka without an authorizer.
//   - v2 may answer PRODUCER_FENCED, before it is INVALID_PRODUCER_EPOCH.
func addPartitionsToTxn(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.AddPartitionsToTxnRequest)
	resp := req.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	img := b.Cluster.Image()
	if req.Version < 4 {
		add := txn.AddPartitions{TransactionalID: req.TransactionalID, ProducerID: req.ProducerID, Epoch: req.ProducerEpoch}
		for _, t := range req.Topics {
			for _, p := range t.Partitions {
				add.Partitions = append(add.Partitions, txn.TopicPartition{Topic: t.Topic, Partition: p})
			}
		}
		errs := b.addPartitions(r, img, add, true)
		for _, t := range req.Topics {
			rt := kmsg.NewAddPartitionsToTxnResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p, fencedBefore(protocol.Code(errs[0]), req.Version, 2)
				rt.Partitions = append(rt.Partitions, rp)
				errs = errs[1:]
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil
	}
	until := b.Now().Add(b.entryPatience())
	if !b.catchUp(r.Ctx, &req.UnknownTags) {
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp, nil
	}
	img = b.Cluster.Image()
	for i := range req.Transactions {
		resp.Transactions = append(resp.Transactions, b.addToTransaction(r, img, &req.Transactions[i], until))
	}
	return resp, nil
}

func (b *Broker) addToTransaction(r *Request, img *metadata.Image, t *kmsg.AddPartitionsToTxnRequestTransaction, until time.Time) kmsg.AddPartitionsToTxnResponseTransaction {
	add := txn.AddPartitions{
		TransactionalID: t.TransactionalID, ProducerID: t.ProducerID, Epoch: t.ProducerEpoch, VerifyOnly: t.VerifyOnly,
	}
	if r.Header.Version >= 5 {
		add.Version, add.Patience = txn.V2, until.Sub(b.Now())
	}
	for _, topic := range t.Topics {
		for _, p := range topic.Partitions {
			add.Partitions = append(add.Partitions, txn.TopicPartition{Topic: topic.Topic, Partition: p})
		}
	}
	errs := b.addPartitions(r, img, add, false)
	rt := kmsg.NewAddPartitionsToTxnResponseTransaction()
	rt.TransactionalID = t.TransactionalID
	for _, topic := range t.Topics {
		o := kmsg.NewAddPartitionsToTxnResponseTransactionTopic()
		o.Topic = topic.Topic
		for _, p := range topic.Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTransactionTopicPartition()
			rp.Partition, rp.ErrorCode = p, protocol.Code(errs[0])
			o.Partitions = append(o.Partitions, rp)
			errs = errs[1:]
		}
		rt.Topics = append(rt.Topics, o)
	}
	return rt
}

// addPartitions adds partitions that all exist and, for a client, are not the brokers'
// own.
func (b *Broker) addPartitions(r *Request, img *metadata.Image, add txn.AddPartitions, client bool) []error {
	errs := make([]error, len(add.Partitions))
	refused := false
	for i, tp := range add.Partitions {
		switch {
		case client && metadata.IsInternal(tp.Topic):
			errs[i], refused = kerr.TopicAuthorizationFailed, true
		case !hasPartition(img, tp.Topic, tp.Partition):
			errs[i], refused = kerr.UnknownTopicOrPartition, true
		default:
			errs[i] = kerr.OperationNotAttempted
		}
	}
	if refused {
		return errs
	}
	if add.TransactionalID == "" {
		return same(errs, kerr.InvalidRequest)
	}
	done, err := callTxn[[]error](r.Ctx, b, add.TransactionalID, addPartitionsHandler(add))
	if err != nil {
		return same(errs, err)
	}
	return done
}

func addPartitionsHandler(add txn.AddPartitions) runtime.Handler[*txn.Shard] {
	return func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.AddPartitions(now, t, add)
	}
}

func same(errs []error, err error) []error {
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func hasPartition(img *metadata.Image, topic string, partition int32) bool {
	t := img.Topic(topic)
	return t != nil && partition >= 0 && int(partition) < len(t.Partitions)
}
