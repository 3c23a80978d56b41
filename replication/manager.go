package replication

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage"
)

// Options is what a Manager needs.
type Options struct {
	Logs   *storage.Manager
	NodeID int32
	Now    func() time.Time
	Log    zerolog.Logger
}

// Manager holds the partitions of this broker and keeps them as metadata says.
// Lookups may come from any goroutine; Apply comes from the controller's.
type Manager struct {
	opts Options
	env  environment

	mu     sync.RWMutex
	topics map[string]*hosted
	byID   map[storage.TopicID]*hosted
}

// hosted is a topic of which this broker has replicas.
type hosted struct {
	name string
	id   storage.TopicID
	// partitions by index; nil where this broker has no replica.
	partitions []*Partition
}

// New returns a manager without partitions; Apply brings them.
func New(o Options) *Manager {
	m := &Manager{opts: o, topics: map[string]*hosted{}, byID: map[storage.TopicID]*hosted{}}
	m.env = environment{nodeID: o.NodeID, now: o.Now, maxLagMs: 30_000, brokerState: func(int32) (int64, bool) { return -1, true }}
	return m
}

// Partition finds a replica by the topic's name: UNKNOWN_TOPIC_OR_PARTITION if
// there is no such partition in the cluster, NOT_LEADER_OR_FOLLOWER if it is
// on other brokers only.
func (m *Manager) Partition(topic string, index int32) (*Partition, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if p := m.topics[topic].partition(index); p != nil {
		return p, nil
	}
	return nil, kerr.UnknownTopicOrPartition
}

// PartitionByID finds a replica by the topic's id: UNKNOWN_TOPIC_ID if there is
// no such topic, else as Partition.
func (m *Manager) PartitionByID(id storage.TopicID, index int32) (*Partition, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if p := m.byID[id].partition(index); p != nil {
		return p, nil
	}
	return nil, kerr.UnknownTopicID
}

func (t *hosted) partition(index int32) *Partition {
	if t == nil || index < 0 || int(index) >= len(t.partitions) {
		return nil
	}
	return t.partitions[index]
}
