package node

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
)

// groupConfig takes the coordinator's settings from the broker's.
func groupConfig(v *config.Values) *group.Config {
	return &group.Config{
		MinSessionTimeout:     v.Duration("group.min.session.timeout.ms"),
		MaxSessionTimeout:     v.Duration("group.max.session.timeout.ms"),
		InitialRebalanceDelay: v.Duration("group.initial.rebalance.delay.ms"),
		MaxSize:               v.Int("group.max.size"),
		OffsetMetadataMax:     v.Int("offset.metadata.max.bytes"),
		OffsetsRetention:      time.Duration(v.Int64("offsets.retention.minutes")) * time.Minute,
		OffsetsCheckInterval:  v.Duration("offsets.retention.check.interval.ms"),

		ConsumerMaxSize:               v.Int("group.consumer.max.size"),
		ConsumerAssignors:             v.ConsumerAssignors(),
		ConsumerSessionTimeout:        v.Duration("group.consumer.session.timeout.ms"),
		ConsumerHeartbeatInterval:     v.Duration("group.consumer.heartbeat.interval.ms"),
		ConsumerMinSessionTimeout:     v.Duration("group.consumer.min.session.timeout.ms"),
		ConsumerMaxSessionTimeout:     v.Duration("group.consumer.max.session.timeout.ms"),
		ConsumerMinHeartbeatInterval:  v.Duration("group.consumer.min.heartbeat.interval.ms"),
		ConsumerMaxHeartbeatInterval:  v.Duration("group.consumer.max.heartbeat.interval.ms"),
		ConsumerAssignmentInterval:    func() time.Duration { return v.Duration("group.consumer.assignment.interval.ms") },
		ConsumerMinAssignmentInterval: v.Duration("group.consumer.min.assignment.interval.ms"),
		ConsumerMaxAssignmentInterval: v.Duration("group.consumer.max.assignment.interval.ms"),
		MigrationPolicy:               strings.ToLower(v.String("group.consumer.migration.policy")),
	}
}

// newGroups makes the group coordinator and lets it follow the leadership of
// its topic's partitions and the deletion of topics.
func newGroups(cfg *group.Config, v *config.Values, image func() *metadata.Image, now func() time.Time, log zerolog.Logger) (*runtime.Runtime[*group.Shard], error) {
	cfg.MaxRecordBytes = func() int {
		var own map[string]string
		if t := image().Topic(handler.OffsetsTopic); t != nil {
			own = t.Configs
		}
		return max(1, int(v.Topic(own).MaxMessageBytes)-protocol.BatchHeaderLen)
	}
	return runtime.New(runtime.Options[*group.Shard]{
		Name: "group",
		NewShard: func(_ int32, writable func() error) *group.Shard {
			return group.NewShard(cfg, newUUID, image, writable)
		},
		Now:             now,
		Log:             log,
		LoadBufferBytes: v.Int("offsets.load.buffer.size"),
		OnLoaded: func(partition int32, took time.Duration, records int64) {
			if records > 0 {
				log.Info().Int32("partition", partition).Int64("records", records).Dur("took", took).Msg("group coordinator loaded")
			}
		},
	})
}

// newUUID returns a random UUID in its usual form, as members' ids end in.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, says its documentation
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// leads starts and stops the shards of a coordinator with the leadership of its
// topic's partitions. It is called on the goroutine that applies metadata.
func leads[S runtime.Shard](r *runtime.Runtime[S], topic string) func(replication.LeadershipChange) {
	return func(c replication.LeadershipChange) {
		switch {
		case c.Partition.Topic() != topic:
		case c.Leader:
			r.Elected(c.Partition.Index(), c.Epoch, partitionLog{c.Partition})
		default:
			r.Resigned(c.Partition.Index(), c.Epoch)
		}
	}
}

// forgetDeleted drops the offsets of topics that were deleted, as their ids
// will never come back and a topic of the same name is another one.
func (n *Node) forgetDeleted(delta *metadata.Delta, _ *metadata.Image) {
	gone := make(map[string]metadata.ID)
	for _, t := range delta.Topics {
		if t.New == nil {
			gone[t.Old.Name] = t.Old.ID
		}
	}
	if len(gone) == 0 {
		return
	}
	// Beside the metadata, whose goroutine must not wait for a shard.
	n.background.Go(func() {
		for p := range n.groups.Partitions() {
			_, err := n.groups.Call(n.ctx, p, func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
				return s.ForgetTopics(now, t, gone)
			})
			if err != nil && n.ctx.Err() == nil {
				n.log.Warn().Err(err).Int32("partition", p).Strs("topics", slices.Sorted(maps.Keys(gone))).
					Msg("offsets of deleted topics stay until they expire")
			}
		}
	})
}
