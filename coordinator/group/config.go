package group

import (
	"strconv"
	"time"
)

// Config are the broker's settings for groups, by the keys they come from.
type Config struct {
	MinSessionTimeout     time.Duration // group.min.session.timeout.ms
	MaxSessionTimeout     time.Duration // group.max.session.timeout.ms
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms
	MaxSize               int           // group.max.size
	OffsetMetadataMax     int           // offset.metadata.max.bytes
	OffsetsRetention      time.Duration // offsets.retention.minutes
	OffsetsCheckInterval  time.Duration // offsets.retention.check.interval.ms

	// MaxRecordBytes returns what one append takes of records, which can change
	// while the broker runs; nil: no bound.
	MaxRecordBytes func() int

	ConsumerMaxSize           int           // group.consumer.max.size
	ConsumerAssignors         []string      // group.consumer.assignors, the first is the default
	ConsumerSessionTimeout    time.Duration // group.consumer.session.timeout.ms
	ConsumerHeartbeatInterval time.Duration // group.consumer.heartbeat.interval.ms
	// ConsumerAssignmentInterval returns group.consumer.assignment.interval.ms,
	// which can change while the broker runs.
	ConsumerAssignmentInterval func() time.Duration
	// The bounds that a group's own settings are held to.
	ConsumerMinSessionTimeout, ConsumerMaxSessionTimeout         time.Duration
	ConsumerMinHeartbeatInterval, ConsumerMaxHeartbeatInterval   time.Duration
	ConsumerMinAssignmentInterval, ConsumerMaxAssignmentInterval time.Duration
	// MigrationPolicy is group.consumer.migration.policy in lower case:
	// which of the two protocols a group with members may change to.
	MigrationPolicy string

	// Count is told what happens, by all shards; it may be nil.
	Count func(Event)
}

// consumerSession is how long a member of a consumer group may be silent, by
// the group's own settings (the GROUP resource) or the broker's.
func (c *Config) consumerSession(own map[string]string) time.Duration {
	return bounded(own["consumer.session.timeout.ms"], c.ConsumerSessionTimeout, c.ConsumerMinSessionTimeout, c.ConsumerMaxSessionTimeout)
}

func (c *Config) consumerHeartbeat(own map[string]string) time.Duration {
	return bounded(own["consumer.heartbeat.interval.ms"], c.ConsumerHeartbeatInterval, c.ConsumerMinHeartbeatInterval, c.ConsumerMaxHeartbeatInterval)
}

// consumerAssignment is how long a target assignment stands before the next is
// computed.
func (c *Config) consumerAssignment(own map[string]string) time.Duration {
	return bounded(own["consumer.assignment.interval.ms"], c.ConsumerAssignmentInterval(), c.ConsumerMinAssignmentInterval, c.ConsumerMaxAssignmentInterval)
}

func bounded(ms string, fallback, lowest, highest time.Duration) time.Duration {
	n, err := strconv.ParseInt(ms, 10, 32)
	if err != nil {
		return fallback // not set; what is set was checked when it was
	}
	return min(max(time.Duration(n)*time.Millisecond, lowest), highest)
}

// newMemberJoinTimeout is how long a member that was just added may take to
// come back when the rebalance it started is over (KAFKA-7610): its session is
// not watched while its JoinGroup is parked.
const newMemberJoinTimeout = 5 * time.Minute

// Client is who sent a request.
type Client struct {
	ID   string
	Host string
}
