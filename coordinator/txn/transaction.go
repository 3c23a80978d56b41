package txn

import (
	"fmt"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// State is the state of a transaction, with the numbers of its records.
type State = kmsg.TransactionState

// The states; see the picture in the package's comment.
const (
	Empty          State = 0
	Ongoing        State = 1
	PrepareCommit  State = 2
	PrepareAbort   State = 3
	CompleteCommit State = 4
	CompleteAbort  State = 5
	// These two exist in Kafka's memory only.
	Dead              State = 6
	PrepareEpochFence State = 7
)

// V2 is the transaction version that bumps the epoch with each transaction.
const V2 int16 = 2

// TopicPartition names a partition that takes part in a transaction.
type TopicPartition struct {
	Topic     string
	Partition int32
}

const (
	noProducerID = -1
	noEpoch      = -1
	// maxEpoch is only reached by fencing and by the end of a transaction: no
	// client ever holds it, so there is always an epoch left to fence with.
	maxEpoch = math.MaxInt16
)

func exhausted(epoch int16) bool { return epoch >= maxEpoch-1 }

// outOfEpochs tells that the producer was fenced with the last epoch: whoever
// goes on needs another id, also the producer that may take its fence over.
func (tx *transaction) outOfEpochs() bool { return tx.epoch == maxEpoch }

// transaction is what is known of one transactional id. Values are replaced,
// never changed, but for lastEpoch.
type transaction struct {
	id         string
	producerID int64
	// prevProducerID is the producer id before the last transition, for a retry
	// that was sent before the id changed.
	prevProducerID int64
	// nextProducerID is what the producer id becomes with Complete, because
	// the epochs of the present one are used up; -1 if it stays.
	nextProducerID int64
	epoch          int16
	timeoutMs      int32
	state          State
	topics         []kmsg.TxnMetadataValueTopic
	startMs        int64 // -1 before the first partition
	updatedMs      int64
	// version is the transaction version that the client spoke last.
	version int16

	// lastEpoch is the epoch before the last bump, -1 if a retry from there is
	// not welcome. As in Kafka it is not in the log: after a change of
	// coordinators such a retry is fenced.
	lastEpoch int16
}

func (tx *transaction) has(tp TopicPartition) bool {
	for i := range tx.topics {
		if tx.topics[i].Topic == tp.Topic {
			return slices.Contains(tx.topics[i].Partitions, tp.Partition)
		}
	}
	return false
}

// with returns the topics with partitions added.
func (tx *transaction) with(tps []TopicPartition) []kmsg.TxnMetadataValueTopic {
	topics := slices.Clone(tx.topics)
next:
	for _, tp := range tps {
		for i := range topics {
			if topics[i].Topic == tp.Topic {
				if !slices.Contains(topics[i].Partitions, tp.Partition) {
					topics[i].Partitions = append(slices.Clip(topics[i].Partitions), tp.Partition)
				}
				continue next
			}
		}
		topics = append(topics, kmsg.TxnMetadataValueTopic{Topic: tp.Topic, Partitions: []int32{tp.Partition}})
	}
	return topics
}

func (tx *transaction) partitions() []TopicPartition {
	var out []TopicPartition
	for i := range tx.topics {
		for _, p := range tx.topics[i].Partitions {
			out = append(out, TopicPartition{tx.topics[i].Topic, p})
		}
	}
	return out
}

// ending tells whether the decision is made and markers are under way.
func (tx *transaction) ending() bool { return tx.state == PrepareCommit || tx.state == PrepareAbort }

// becomes tells whether a producer has the id that the transaction gets with
// its completion, because the epochs of the present one are used up: the answer
// to EndTxn told it before (KAFKA-18660).
func (tx *transaction) becomes(producerID int64, epoch int16) bool {
	return tx.ending() && tx.nextProducerID >= 0 && tx.nextProducerID == producerID && epoch == 0
}

// completed is how the transaction looks when all markers are written.
func (tx *transaction) completed(nowMs int64) transaction {
	done := *tx
	done.state = CompleteAbort
	if tx.state == PrepareCommit {
		done.state = CompleteCommit
	}
	if tx.version >= V2 && tx.nextProducerID != noProducerID {
		// The client saw epoch maxEpoch-1 last and continues with 0 of a new id.
		done.producerID, done.epoch = tx.nextProducerID, 0
	}
	done.nextProducerID = noProducerID
	done.topics = []kmsg.TxnMetadataValueTopic{}
	done.updatedMs = nowMs
	return done
}

// record is the record that says this of the transaction.
func (tx *transaction) record(valueVersion int16) runtime.Record {
	v := kmsg.NewTxnMetadataValue()
	v.Version = valueVersion
	v.ProducerID, v.PreviousProducerID, v.NextProducerID = tx.producerID, tx.prevProducerID, tx.nextProducerID
	v.ProducerEpoch = tx.epoch
	v.TimeoutMillis = tx.timeoutMs
	v.State = tx.state
	v.LastUpdateTimestamp, v.StartTimestamp = tx.updatedMs, tx.startMs
	v.ClientTransactionVersion = tx.version
	if tx.state != Empty {
		if v.Topics = tx.topics; v.Topics == nil {
			v.Topics = []kmsg.TxnMetadataValueTopic{}
		}
	}
	return runtime.Record{Key: recordKey(tx.id), Value: v.AppendTo(nil)}
}

func recordKey(id string) []byte {
	k := kmsg.TxnMetadataKey{TransactionalID: id}
	return k.AppendTo(nil)
}

// parse reads a record's value.
func parse(id string, value []byte) (*transaction, error) {
	v := kmsg.NewTxnMetadataValue()
	if err := v.ReadFrom(value); err != nil {
		return nil, err
	}
	if v.Version < 0 || v.Version > 1 {
		return nil, fmt.Errorf("value has version %d, known are 0 and 1", v.Version)
	}
	if v.State < Empty || v.State > CompleteAbort {
		return nil, fmt.Errorf("state %d is never written", v.State)
	}
	return &transaction{
		id: id, producerID: v.ProducerID, prevProducerID: v.PreviousProducerID, nextProducerID: v.NextProducerID,
		epoch: v.ProducerEpoch, timeoutMs: v.TimeoutMillis, state: v.State, topics: v.Topics,
		startMs: v.StartTimestamp, updatedMs: v.LastUpdateTimestamp, version: v.ClientTransactionVersion,
		lastEpoch: noEpoch,
	}, nil
}
