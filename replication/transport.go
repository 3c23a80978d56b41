package replication

import (
	"context"
	"time"

	"github.com/gregor-broker/gregor/storage"
)

// Leader is the connection of one fetcher to one broker that leads. It is used
// by one goroutine. After an error it connects anew with the next call.
type Leader interface {
	// Fetch sends req and decodes the answer into resp, whose memory it may
	// use again. What resp refers to stays good until the next call. When ctx
	// ends, Fetch returns soon, and it is open whether the leader heard of it.
	Fetch(ctx context.Context, req *FetchRequest, resp *FetchResponse) error
	// Bounds asks for the log start and log end of a partition (ListOffsets).
	Bounds(ctx context.Context, req BoundsRequest) (start, end int64, err error)
	Close()
}

// FetchRequest is what a follower asks its leader for: a Fetch of which the
// fields that only matter to consumers are left out.
type FetchRequest struct {
	ReplicaID   int32
	BrokerEpoch int64
	MaxWait     time.Duration
	// MinBytes is what the leader waits for, up to MaxWait; MaxBytes bounds
	// the whole answer, but for its first batch.
	MinBytes, MaxBytes int32
	// SessionID and SessionEpoch name the incremental session (KIP-227).
	SessionID, SessionEpoch int32
	// Partitions are those that are new in the session or whose position
	// changed; with epoch 0 all. Those of one topic may stand apart.
	Partitions []FetchPosition
	// Forgotten leave the session.
	Forgotten []PartitionID
}

// PartitionID names a partition beyond the deletion of its topic.
type PartitionID struct {
	Topic     storage.TopicID
	Partition int32
}

// FetchPosition says where a follower's log ends.
type FetchPosition struct {
	PartitionID
	// LeaderEpoch is the epoch in which the follower takes the leader for one.
	LeaderEpoch int32
	// LastEpoch is the epoch of the last record that it has, NoEpoch if none.
	LastEpoch int32
	// Offset is its log end, LogStart its log start.
	Offset, LogStart int64
	MaxBytes         int32
}

// FetchResponse answers a FetchRequest.
type FetchResponse struct {
	// Err is the error of the whole request.
	Err       error
	SessionID int32
	// Partitions holds those with records or news; without a session all.
	Partitions []Fetched
}

// Fetched is the answer for one partition.
type Fetched struct {
	PartitionID
	Err                     error
	HighWatermark, LogStart int64
	// Diverging is set when the follower's log is not a prefix of the leader's:
	// the largest epoch of the leader's not above LastEpoch, and its end.
	Diverging *EpochEnd
	// Records are whole batches, except that the last may be cut off.
	Records []byte
}

// BoundsRequest asks for the ends of the log of a partition.
type BoundsRequest struct {
	ReplicaID   int32
	Topic       string
	Partition   int32
	LeaderEpoch int32
}
