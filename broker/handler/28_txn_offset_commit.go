package handler

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
)

// txnOffsetCommit answers TxnOffsetCommit, versions 0 to 5: offsets that take
// effect when a producer's transaction commits. v3 names the member of the group
// for whom it commits (KIP-447), v4 may answer TRANSACTION_ABORTABLE; with v5
// the broker adds the group to the transaction, where before the client did
// with AddOffsetsToTxn and the broker only makes sure (KIP-890).
func txnOffsetCommit(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.TxnOffsetCommitRequest)
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	known := *req
	known.Topics = nil
	img := b.Cluster.Image()
	for _, t := range req.Topics {
		existing := t
		existing.Partitions = nil
		rt := kmsg.NewTxnOffsetCommitResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			if hasPartition(img, t.Topic, p.Partition) {
				existing.Partitions = append(existing.Partitions, p)
				continue
			}
			rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, kerr.UnknownTopicOrPartition.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		if len(existing.Partitions) > 0 {
			known.Topics = append(known.Topics, existing)
		}
		if len(rt.Partitions) > 0 {
			resp.Topics = append(resp.Topics, rt)
		}
	}
	if len(known.Topics) == 0 {
		return resp, nil
	}
	done, err := b.commitInTransaction(r.Ctx, &known)
	if err != nil {
		done = kmsg.NewPtrTxnOffsetCommitResponse()
		for _, t := range known.Topics {
			rt := kmsg.NewTxnOffsetCommitResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, protocol.Code(err)
				rt.Partitions = append(rt.Partitions, rp)
			}
			done.Topics = append(done.Topics, rt)
		}
	}
next:
	for _, t := range done.Topics {
		for i := range resp.Topics {
			if resp.Topics[i].Topic == t.Topic {
				resp.Topics[i].Partitions = append(resp.Topics[i].Partitions, t.Partitions...)
				continue next
			}
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

func (b *Broker) commitInTransaction(ctx context.Context, req *kmsg.TxnOffsetCommitRequest) (*kmsg.TxnOffsetCommitResponse, error) {
	tp := txn.TopicPartition{Topic: OffsetsTopic, Partition: b.groupPartition(b.Cluster.Image(), req.Group)}
	p, err := b.Partitions.Partition(tp.Topic, tp.Partition)
	if err != nil || !b.shows(p) {
		return nil, kerr.NotCoordinator
	}
	bumps := req.Version >= 5
	verify := bumps || b.Config.Bool("transaction.partition.verification.enable")
	var guard uint64
	if verify {
		if guard, err = b.enterWithOffsets(ctx, p, tp, req, bumps); err != nil {
			return nil, err
		}
	}
	return callGroup[*kmsg.TxnOffsetCommitResponse](ctx, b, req.Group, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		r := s.TxnOffsetCommit(now, t, req)
		// The log refuses what should have been refused before it was replayed.
		r.Check = func() error {
			return p.CheckTransactional(req.ProducerID, req.ProducerEpoch, guard, verify)
		}
		return r
	})
}

// enterWithOffsets makes sure that a group's partition takes part in the
// transaction.
func (b *Broker) enterWithOffsets(ctx context.Context, p *replication.Partition, tp txn.TopicPartition, req *kmsg.TxnOffsetCommitRequest, bumps bool) (guard uint64, err error) {
	const noSequence = -1
	guard, err = p.StartVerification(req.ProducerID, req.ProducerEpoch, noSequence, bumps)
	if err != nil {
		return 0, coordinatorError(err)
	}
	if guard == 0 {
		return 0, nil
	}
	add := txn.AddPartitions{
		TransactionalID: req.TransactionalID, ProducerID: req.ProducerID, Epoch: req.ProducerEpoch,
		Partitions: []txn.TopicPartition{tp}, VerifyOnly: !bumps,
	}
	if bumps {
		add.Version, add.Patience = txn.V2, b.entryPatience()
	}
	err = entryError(b.enterTransaction(ctx, add)[0], req.Version >= 4)
	if !bumps && errors.Is(err, kerr.ConcurrentTransactions) || errors.Is(err, kerr.NetworkException) {
		err = kerr.CoordinatorLoadInProgress // which all clients try again
	}
	return guard, err
}

// entryPatience is how long a write waits for the producer's transaction before
// to complete.
func (b *Broker) entryPatience() time.Duration {
	return b.Config.Duration("add.partitions.to.txn.retry.backoff.max.ms")
}
