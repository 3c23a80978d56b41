package storage

import (
	"encoding/base64"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TopicID is the unique id of a topic; the zero id means that it is not known.
type TopicID [16]byte

// String is the form Kafka prints and stores: base64 for URLs, without padding.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// TopicPartition names a log.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// String is the name of the log's directory.
func (tp TopicPartition) String() string {
	return tp.Topic + "-" + strconv.Itoa(int(tp.Partition))
}

// Origin says who appends: it decides which checks a batch must pass.
type Origin int8

const (
	// Client is a Produce request: every check.
	Client Origin = iota
	// Coordinator is the broker itself: control batches are allowed, sequences are not checked.
	Coordinator
	// Replication is a follower copying its leader: offsets and epochs are taken as they stand.
	Replication
)

// AppendOptions goes with AppendAsLeader.
type AppendOptions struct {
	LeaderEpoch int32
	Origin      Origin
	Version     int16     // of the Produce request; decides whether zstd is allowed. 0 for appends of the broker itself
	Now         time.Time // becomes the log append time; the zero time means Options.Now()
	// Verify refuses a transactional batch with INVALID_TXN_STATE unless its producer has a transaction open here or Guard
	// is the one that StartVerification gave.
	Verify bool
	Guard  uint64
	// TxnVersion is the transaction version of a marker; from 2 on its epoch must be new here, see Log.CheckMarker.
	TxnVersion int16
	// StrictSequence refuses a producer that is not known, and one of whom only markers are, unless it begins with sequence
	// 0. Otherwise any sequence is taken of them (KIP-360).
	StrictSequence bool
}

// AppendResult tells where records went.
type AppendResult struct {
	FirstOffset, LastOffset int64
	LogAppendTimeMs         int64 // -1 if the topic keeps the producer's timestamps
	LogStartOffset          int64
	MaxTimestamp            int64
	// Duplicate says that nothing was written: the batch was there already, at the offsets given.
	Duplicate bool
}

// RecordError names the record, by its index in the batch, that made the batch unacceptable.
type RecordError struct {
	Index   int32
	Message string
}

// InvalidRecordError is the refusal of a batch because of single records in it (KIP-467).
type InvalidRecordError struct {
	Err     *kerr.Error
	Records []RecordError
	Message string
}

func (e *InvalidRecordError) Error() string { return e.Err.Message + ": " + e.Message }

// Unwrap returns the Kafka error.
func (e *InvalidRecordError) Unwrap() error { return e.Err }

// TimestampOffset answers a search by time.
type TimestampOffset struct {
	Timestamp   int64
	Offset      int64
	LeaderEpoch int32 // -1 if the batch carries none
}

// EpochStart is an entry of the leader-epoch file: Epoch began at StartOffset.
type EpochStart struct {
	Epoch       int32
	StartOffset int64
}

// AbortedTxn is an aborted transaction that overlaps a read: a reader that wants only committed records drops the
// transactional records of the producer from FirstOffset on until the abort marker.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64
}

// ProducerState is what a log knows of an idempotent or transactional producer, as DescribeProducers shows it.
type ProducerState struct {
	ProducerID       int64
	ProducerEpoch    int16
	LastSequence     int32 // -1 if unknown
	LastTimestamp    int64
	CoordinatorEpoch int32 // -1 if there was no marker yet
	TxnStartOffset   int64 // -1 if no transaction is open
	LastOffset       int64 // -1 if unknown
}

// DirInfo describes a log directory.
type DirInfo struct {
	Path                    string
	ID                      TopicID // of meta.properties, in the form of a topic id
	Err                     error   // not nil: offline
	TotalBytes, UsableBytes int64   // of the volume; -1 if unknown
}
