package group

import "time"

// Config are the broker's settings for groups, by the keys they come from.
type Config struct {
	MinSessionTimeout     time.Duration // group.min.session.timeout.ms
	MaxSessionTimeout     time.Duration // group.max.session.timeout.ms
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms
	MaxSize               int           // group.max.size
	OffsetMetadataMax     int           // offset.metadata.max.bytes
	OffsetsRetention      time.Duration // offsets.retention.minutes
	OffsetsCheckInterval  time.Duration // offsets.retention.check.interval.ms
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
