package handler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Broker is what the handlers share: the view of the cluster, the partitions
// of this broker, its configuration and clock. It is filled by whoever wires
// the process, completed by New and immutable from then on.
type Broker struct {
	// NodeID is this broker's id in the cluster, Rack its failure zone (may be
	// empty).
	NodeID    int32
	ClusterID string
	Rack      string

	// Cluster is the metadata and the way to change it, Partitions what of it
	// lives on this broker, Logs where that is stored.
	Cluster    Cluster
	Partitions *replication.Manager
	Logs       Logs
	Config     *config.Values
	// Groups is the group coordinator. Nil answers COORDINATOR_NOT_AVAILABLE.
	Groups Groups
	// Transactions is the transaction coordinator and Markers what ends
	// transactions on partitions. Nil: there is none.
	Transactions Transactions
	Markers      *Markers
	// Verifications are counted; may be nil.
	Verifications *Verifications
	// HandedOn counts the writes that another broker leads by now; New makes it if
	// it is nil.
	HandedOn *HandedOn
	// Peers reaches other brokers; nil where there are none.
	Peers Peers
	// Quorum is the controllers that keep the metadata; nil where that is not
	// known.
	Quorum Quorum
	// Calls answers what other nodes ask of the controller; nil where there
	// are none.
	Calls func(ctx context.Context, message []byte) []byte

	Now func() time.Time
	Log zerolog.Logger
	// LogLevel lets clients see and change the level of Log. May be nil.
	LogLevel LogLevel

	// Features are the cluster features ApiVersions tells clients of
	// (KIP-584). A feature is listed when everything it promises works.
	Features []Feature

	apis    map[int16]*API
	apiKeys []kmsg.ApiVersionsResponseApiKey

	sessions      *sessionCache
	fetchMaxBytes int32
	mostAnswered  int // see room
	// interBroker is the name of the listener between brokers.
	interBroker string

	producerIDs *producerIDs
}

// Cluster is the view of the cluster and what changes it. *controller.Controller
// is one. A change that was answered without an error was applied on this
// broker when the call returned, but for replicas in a log directory that hangs
// (replication.Manager.AwaitTopic).
type Cluster interface {
	// Image is the metadata as of the last revision that was applied here. It
	// is immutable; one request looks at one image.
	Image() *metadata.Image
	// Await returns when Image meets a condition. done must not wait for anything.
	Await(ctx context.Context, done func(*metadata.Image) bool) error
	// BrokerEpoch is the epoch of this broker's registration.
	BrokerEpoch() int64
	CreateTopics(ctx context.Context, topics []metadata.NewTopic, validateOnly bool) []metadata.TopicResult
	DeleteTopics(ctx context.Context, topics []metadata.TopicRef) []metadata.TopicResult
	CreatePartitions(ctx context.Context, topics []metadata.NewPartitions, validateOnly bool) []metadata.TopicResult
	AlterConfigs(ctx context.Context, alterations []metadata.ConfigAlteration, validateOnly bool) []metadata.ConfigResult
	ElectLeaders(ctx context.Context, kind metadata.ElectionType, topics []metadata.TopicPartitions) ([]metadata.PartitionResult, error)
	Reassign(ctx context.Context, asked []metadata.Reassignment, allowRFChange bool) ([]metadata.PartitionResult, error)
	AlterQuotas(ctx context.Context, alterations []metadata.QuotaAlteration, resolves func(host string) bool, validateOnly bool) ([]metadata.QuotaResult, error)
	AlterScram(ctx context.Context, deletions []metadata.ScramID, upsertions []metadata.ScramUpsertion) ([]metadata.ScramResult, error)
	UpdateFeatures(ctx context.Context, updates []metadata.FeatureUpdate, validateOnly bool) (metadata.Outcome, error)
	UnregisterBroker(ctx context.Context, id int32) (metadata.Outcome, error)
	// AllocateProducerIDs reserves count producer ids from first on.
	AllocateProducerIDs(ctx context.Context) (first int64, count int32, err error)
}

// Quorum is the servers that keep the metadata, one in each controller.
type Quorum interface {
	Members(ctx context.Context) ([]QuorumMember, error)
	// RemoveMember takes a controller's vote away for good; false if there is
	// no such one.
	RemoveMember(ctx context.Context, id int32) (bool, error)
}

// QuorumMember is one of the servers that keep the metadata.
type QuorumMember struct {
	ID int32
	// Listener, Host and Port are where other nodes reach it.
	Listener, Host string
	Port           uint16
	// Voter is false for one that is still catching up.
	Voter bool
	// Revision is how far it has come, -1 where it did not say.
	Revision int64
}

// Logs is what lies in the log directories of this broker. *storage.Manager is
// one.
type Logs interface {
	Logs() []*storage.Log
	Log(tp storage.TopicPartition) *storage.Log
	Dirs() []storage.DirInfo
	DirPaths() []string
	Moves() []storage.MoveInfo
}

// Feature is one versioned feature of the cluster (KIP-584): the range of
// levels this broker supports, and the level that a cluster it forms starts
// with, 0 for none.
type Feature struct {
	Name      string
	Min, Max  int16
	Finalized int16
}

// DefaultFeatures is what is true of this broker by itself. metadata.version
// 30 is Apache Kafka 4.3's; clients read from it which admin calls exist.
func DefaultFeatures() []Feature {
	return []Feature{
		{Name: "eligible.leader.replicas.version", Min: 0, Max: 1, Finalized: 1}, // KIP-966
		{Name: "group.version", Min: 0, Max: 1, Finalized: 1},                    // KIP-848
		{Name: "metadata.version", Min: 7, Max: 30, Finalized: 30},
		{Name: "transaction.version", Min: 0, Max: 2, Finalized: 2}, // KIP-890
	}
}

// New checks that everything the handlers need is there and completes b.
func New(b Broker) (*Broker, error) {
	switch {
	case b.Cluster == nil:
		return nil, errors.New("handler: Cluster is missing")
	case b.Partitions == nil:
		return nil, errors.New("handler: Partitions is missing")
	case b.Logs == nil:
		return nil, errors.New("handler: Logs is missing")
	case b.Config == nil:
		return nil, errors.New("handler: Config is missing")
	case b.Now == nil:
		return nil, errors.New("handler: Now is missing")
	}
	if b.Features == nil {
		b.Features = DefaultFeatures()
	}
	if b.HandedOn == nil {
		b.HandedOn = &HandedOn{}
	}
	b.producerIDs = &producerIDs{}
	b.fetchMaxBytes = b.Config.Int32("fetch.max.bytes")
	b.mostAnswered = mostAnswered
	b.interBroker = b.Config.InterBrokerListener()
	b.sessions = newSessionCache(b.Config.Int("max.incremental.fetch.session.cache.slots"), b.Now)
	rows := apis()
	slices.SortFunc(rows, func(x, y API) int { return int(x.Key) - int(y.Key) })
	b.apis = make(map[int16]*API, len(rows))
	for i := range rows {
		a := &rows[i]
		if b.apis[a.Key] != nil {
			return nil, fmt.Errorf("handler: two rows for API key %d", a.Key)
		}
		b.apis[a.Key] = a
		if a.Internal {
			continue
		}
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.Key, a.Min, a.Max
		b.apiKeys = append(b.apiKeys, k)
	}
	return &b, nil
}

// fromBroker reports whether a request came over the listener between brokers:
// only there may somebody call himself a replica or ask for what a controller
// answers (CVE-2018-1288).
func (b *Broker) fromBroker(r *Request) bool {
	return strings.EqualFold(r.Conn.Listener, b.interBroker)
}

// API returns the row of an API key, nil when the key is not served.
func (b *Broker) API(key int16) *API { return b.apis[key] }

// Serves reports whether the row covers the version.
func (a *API) Serves(version int16) bool { return version >= a.Min && version <= a.Max }

// Handle answers one request of this row's key; see Func.
func (a *API) Handle(b *Broker, r *Request) (kmsg.Response, error) { return a.handle(b, r) }
