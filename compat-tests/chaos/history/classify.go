package history

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Request says which answer is classified.
type Request int

// The requests whose answers tell whether there was an effect.
const (
	// ProduceOnce is one Produce request that nobody repeated.
	ProduceOnce Request = iota
	// ProduceRetried is the last answer that a client got which repeats
	// requests by itself: an earlier attempt may have been appended.
	ProduceRetried
	// EndCommit is EndTxn that commits, by a client that repeats it.
	EndCommit
	// EndAbort is EndTxn that aborts, of a transaction that nobody asked to
	// commit.
	EndAbort
	// CommitOnce is one OffsetCommit or TxnOffsetCommit that nobody repeated.
	CommitOnce
	// Question is a request that changes nothing.
	Question
)

// ErrAborted is a client's that aborted what it was asked to commit: it never
// asked a broker to commit it.
var ErrAborted = errors.New("the client aborted what it was to commit")

// Classify says what an answer, or the lack of one, means for the operation
// (reliability notes, section 2.0). It is unknown whatever is not certain.
func Classify(r Request, err error) Type {
	if r == EndAbort {
		// Whoever ends the transaction instead of us, and whenever, aborts it.
		return Fail
	}
	if err == nil {
		return OK
	}
	if r == Question || errors.Is(err, ErrAborted) {
		return Fail
	}
	var code *kerr.Error
	if !errors.As(err, &code) {
		// A timeout, a broken connection, a client that gave up.
		return Info
	}
	if refused[r][code.Code] {
		return Fail
	}
	return Info
}

// refused are the errors that a broker answers before it changed anything.
// NOT_LEADER_OR_FOLLOWER is not among those of a Produce: Kafka answers so
// also when it stops being the leader after it appended.
var refused = map[Request]map[int16]bool{
	ProduceOnce: codes(
		kerr.NotEnoughReplicas, kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.CorruptMessage, kerr.InvalidRecord,
		kerr.InvalidTxnState, kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
		kerr.InvalidRequiredAcks, kerr.UnsupportedVersion, kerr.InvalidTopicException,
		// One attempt that was refused for what the producer's state is.
		kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.TransactionalIDNotFound,
	),
	// Only what the batch itself is, since each attempt sends the same one.
	ProduceRetried: codes(kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.CorruptMessage, kerr.InvalidRecord),
	EndCommit:      codes(kerr.InvalidTxnState),
	// NOT_COORDINATOR and COORDINATOR_NOT_AVAILABLE are not here: Kafka answers
	// so also where it lost the partition, or waited too long, after the append.
	// Nor are COORDINATOR_LOAD_IN_PROGRESS and CONCURRENT_TRANSACTIONS, which pass by
	// themselves: the network may repeat a request, the client gets the answer to the
	// first copy, and the second is taken when the coordinator has loaded (seed 9501
	// with three brokers).
	CommitOnce: codes(
		kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.FencedMemberEpoch, kerr.StaleMemberEpoch, kerr.FencedInstanceID,
		kerr.RebalanceInProgress,
		kerr.InvalidGroupID, kerr.GroupIDNotFound, kerr.GroupAuthorizationFailed, kerr.OffsetMetadataTooLarge,
		kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState,
		kerr.UnknownTopicOrPartition, kerr.UnstableOffsetCommit,
	),
}

func codes(list ...*kerr.Error) map[int16]bool {
	out := map[int16]bool{}
	for _, e := range list {
		out[e.Code] = true
	}
	return out
}
