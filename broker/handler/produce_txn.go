package handler

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// transactionEntry is a transactional batch of a produce request: the place of
// its partition in the request and how it may be appended.
type transactionEntry struct {
	topic, part int
	// replica is the partition's, nil where this broker has none.
	replica *replication.Partition
	guard   uint64
	verify  bool
	err     error
}

// entry is what was found out about a partition of the request.
func (c *produceCall) entry(topic, part int) transactionEntry {
	for i := range c.entries {
		if e := &c.entries[i]; e.topic == topic && e.part == part {
			return *e
		}
	}
	return transactionEntry{}
}

// enterTransaction makes sure that the transaction coordinator knows of every
// partition of the request before the producer's transaction begins there.
//
// Clients of transaction version 2 (Produce v12) do not add partitions to their
// transaction: the first write does. For the others, who have added them, the
// broker asks whether that is so, or else a write that was long under way could
// begin a transaction that nobody ever ends (KIP-890).
func (c *produceCall) enterTransaction(b *Broker, r *Request) error {
	bumps := c.req.Version >= 12
	verify := bumps || b.Config.Bool("transaction.partition.verification.enable")
	add := txn.AddPartitions{TransactionalID: *c.req.TransactionID, ProducerID: -1, VerifyOnly: !bumps}
	if bumps {
		add.Version, add.Patience = txn.V2, b.entryPatience()
	}
	var asked []int // indexes of entries, by partition of add
	for i := range c.req.Topics {
		t := &c.req.Topics[i]
		for j := range t.Partitions {
			batch, _, err := protocol.NextBatch(t.Partitions[j].Records)
			if err != nil || !batch.IsTransactional() {
				continue // Append says what is wrong with it
			}
			switch {
			case add.ProducerID == -1:
				add.ProducerID, add.Epoch = batch.ProducerID(), batch.ProducerEpoch()
			case add.ProducerID != batch.ProducerID() || add.Epoch != batch.ProducerEpoch():
				return kerr.InvalidProducerIDMapping
			}
			e := transactionEntry{topic: i, part: j, verify: verify}
			if verify {
				c.startVerification(b, r, &e, t, batch, bumps)
				if e.err == nil && e.guard != 0 {
					asked = append(asked, len(c.entries))
					add.Partitions = append(add.Partitions, txn.TopicPartition{Topic: e.replica.Topic(), Partition: e.replica.Index()})
				}
			}
			c.entries = append(c.entries, e)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	for i, err := range b.enterTransaction(r.Ctx, add) {
		c.entries[asked[i]].err = produceEntryError(err, c.req.Version)
	}
	return nil
}

// startVerification fills in whether the first write of a transaction is to be verified.
func (c *produceCall) startVerification(b *Broker, r *Request, e *transactionEntry, t *kmsg.ProduceRequestTopic, batch protocol.Batch, bumps bool) {
	p, err := producedPartition(b, c.req.Version, t, t.Partitions[e.part].Partition)
	if err != nil {
		e.err = err
		return
	}
	e.replica = p
	start := func() error {
		if !b.shows(p) {
			return kerr.NotLeaderForPartition
		}
		e.guard, err = p.StartVerification(batch.ProducerID(), batch.ProducerEpoch(), batch.BaseSequence(), bumps)
		return err
	}
	e.err = start()
	if c.news.leads(r, p, e.err) {
		e.err = start()
	}
}

// produceEntryError is an error of the transaction coordinator as a producer
// knows how to handle it. What will pass is NOT_ENOUGH_REPLICAS: all producers
// try that again, and without asking for metadata.
func produceEntryError(err error, version int16) error {
	err = entryError(err, version >= 11)
	retried := []*kerr.Error{
		kerr.NetworkException, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator,
		kerr.OperationNotAttempted, // another topic of the request is deleted, which is not known here yet
	}
	if version < 12 {
		retried = append(retried, kerr.ConcurrentTransactions)
	}
	for _, e := range retried {
		if errors.Is(err, e) {
			return &storage.InvalidRecordError{
				Err: kerr.NotEnoughReplicas,
				Message: fmt.Sprintf("Unable to verify the partition has been added to the transaction. Underlying error: %s",
					e.Message),
			}
		}
	}
	if errors.Is(err, kerr.InvalidTxnState) {
		return &storage.InvalidRecordError{Err: kerr.InvalidTxnState, Message: "Partition was not added to the transaction"}
	}
	return err
}
