package handler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf16"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
)

// OffsetsTopic is the internal topic whose partitions are the shards of the
// group coordinator.
const OffsetsTopic = "__consumer_offsets"

// Groups runs the group coordinator's shards on this broker.
// *runtime.Runtime[*group.Shard] is one.
type Groups interface {
	Call(ctx context.Context, partition int32, h runtime.Handler[*group.Shard]) (any, error)
	// Partitions lists the shards here and whether each has loaded.
	Partitions() map[int32]bool
}

// groupPartition is the partition of __consumer_offsets that a group lives in.
func (b *Broker) groupPartition(img *metadata.Image, group string) int32 {
	n := b.Config.Int32("offsets.topic.num.partitions")
	if t := img.Topic(OffsetsTopic); t != nil {
		n = int32(len(t.Partitions))
	}
	return partitionFor(group, n)
}

// partitionFor is Kafka's choice of a coordinator's partition: the key's
// String.hashCode modulo the number of partitions. Every client and broker
// depends on it.
func partitionFor(key string, n int32) int32 {
	var hash int32
	for _, unit := range utf16.Encode([]rune(key)) {
		hash = 31*hash + int32(unit)
	}
	return (hash & 0x7fffffff) % n
}

// callGroup runs a handler on the shard of a group and returns what answered
// its ticket. The error is a *kerr.Error that a client of groups knows: of what
// is not committed within offsets.commit.timeout.ms COORDINATOR_NOT_AVAILABLE,
// though it stays written.
func callGroup[T any](ctx context.Context, b *Broker, groupID string, h runtime.Handler[*group.Shard]) (T, error) {
	ctx, cancel := b.commitTimeout(ctx)
	defer cancel()
	return awaitGroup[T](ctx, b, groupID, h)
}

func (b *Broker) commitTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, b.Config.Duration("offsets.commit.timeout.ms"), kerr.RequestTimedOut)
}

// awaitGroup is callGroup for what waits for other members.
func awaitGroup[T any](ctx context.Context, b *Broker, groupID string, h runtime.Handler[*group.Shard]) (T, error) {
	var none T
	if b.Groups == nil {
		return none, kerr.CoordinatorNotAvailable
	}
	v, err := b.Groups.Call(ctx, b.groupPartition(b.Cluster.Image(), groupID), h)
	err = notInTime(ctx, err)
	if errors.Is(err, kerr.MessageTooLarge) {
		return none, kerr.InvalidCommitOffsetSize
	}
	if err != nil {
		return none, coordinatorError(err)
	}
	response, ok := v.(T)
	if !ok {
		return none, fmt.Errorf("handler: a group's shard answered %T, not %T", v, none)
	}
	return response, nil
}

// notInTime tells the end of the time to commit from the end of the broker.
func notInTime(ctx context.Context, err error) error {
	if err != nil && errors.Is(err, ctx.Err()) && errors.Is(context.Cause(ctx), kerr.RequestTimedOut) {
		return kerr.RequestTimedOut
	}
	return err
}

// coordinatorError turns what went wrong with a coordinator's write into what
// its clients understand: to look for the coordinator again, or to try again.
func coordinatorError(err error) error {
	for _, m := range []struct{ is, to *kerr.Error }{
		{kerr.NotEnoughReplicas, kerr.CoordinatorNotAvailable},
		{kerr.NotEnoughReplicasAfterAppend, kerr.CoordinatorNotAvailable},
		{kerr.UnknownTopicOrPartition, kerr.CoordinatorNotAvailable},
		{kerr.RequestTimedOut, kerr.CoordinatorNotAvailable},
		{kerr.NotLeaderForPartition, kerr.NotCoordinator},
		{kerr.KafkaStorageError, kerr.NotCoordinator},
	} {
		if errors.Is(err, m.is) {
			return m.to
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return kerr.NotCoordinator // this broker is going away
	}
	return err
}

// consumerProtocol tells whether members may speak the consumer protocol (KIP-848):
// the feature group.version switches it on, and group.coordinator.rebalance.protocols
// can switch it off.
func (b *Broker) consumerProtocol() bool {
	return b.Cluster.Image().Features()["group.version"] > 0 &&
		slices.Contains(b.Config.List("group.coordinator.rebalance.protocols"), "consumer")
}

func groupClient(r *Request) group.Client {
	return group.Client{ID: r.Header.ClientID, Host: "/" + r.Conn.RemoteHost}
}
