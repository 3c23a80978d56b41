package controller

import (
	"context"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/rs/zerolog"
)

// Options says what a Controller works with. Store and NodeID must be set.
type Options struct {
	Store  metadata.Store
	NodeID int32
	// Rack and Endpoints are what clients and other brokers learn of this
	// broker.
	Rack      string
	Endpoints []metadata.Endpoint
	// ClusterID is the cluster that the store must belong to, or that is
	// formed in it when it is empty. Empty: take what is there, or a new one.
	ClusterID string
	// Incarnation tells this process from its predecessors; random if zero.
	Incarnation metadata.ID
	// PreviousBrokerEpoch is the broker epoch found in the marker of a clean
	// shutdown, 0 if there was none. It proves that the logs hold all that
	// the former process acknowledged.
	PreviousBrokerEpoch int64
	// Exclusive says that no other process can be running with this node id
	// on this store, as when the store lives in this process: the remains of
	// a former process are taken over at once. Otherwise they must have run
	// out first.
	Exclusive bool
	// SessionTimeout is how long a broker that gives no sign of life counts
	// as up (default 9s).
	SessionTimeout time.Duration
	// DefaultPartitions and DefaultReplicationFactor serve topics created
	// with -1 (default 1).
	DefaultPartitions        int32
	DefaultReplicationFactor int16
	// MinInsyncReplicas and UncleanLeaderElection are the broker's static
	// defaults of the topic configs of that name.
	MinInsyncReplicas     int
	UncleanLeaderElection bool
	// Rules checks config keys and values; see metadata.ConfigRules.
	Rules metadata.ConfigRules
	// Features are the finalized feature levels of a cluster formed now.
	Features map[string]int16
	Log      zerolog.Logger
	// Seed makes choices repeatable; 0 draws a random one.
	Seed uint64
}

// Subscriber is told what changed and the image that it led to. It is called
// on the watch loop, in revision order, before the image is published and
// before anything is acknowledged; it must not wait for the controller.
type Subscriber func(delta *metadata.Delta, img *metadata.Image)

// API is what the rest of a broker asks of the controller.
type API interface {
	Image() *metadata.Image
	BrokerEpoch() int64
	CreateTopics(ctx context.Context, topics []metadata.NewTopic, validateOnly bool) []metadata.TopicResult
	DeleteTopics(ctx context.Context, topics []metadata.TopicRef) []metadata.TopicResult
	CreatePartitions(ctx context.Context, topics []metadata.NewPartitions, validateOnly bool) []metadata.TopicResult
	AlterConfigs(ctx context.Context, alterations []metadata.ConfigAlteration, validateOnly bool) []metadata.ConfigResult
	AllocateProducerIDs(ctx context.Context) (first int64, count int32, err error)
}
