package metadata

import (
	"slices"
	"strings"
)

// Image is the metadata of the cluster as of one revision. It never changes
// and may be read by any number of goroutines; nothing reachable from it may
// be written.
type Image struct {
	// ClusterID is the base64 form of the cluster's UUID; empty before the
	// cluster was formed.
	ClusterID string
	// Revision is the store's revision that the image shows.
	Revision int64

	cluster    clusterState
	controller controllerState
	topics     smap[string, *Topic]
	ids        smap[ID, *Topic]
	// staged holds what is in the store but in no topic: partitions whose
	// topic key is not written yet or already deleted.
	staged   smap[ID, *stagedTopic]
	configs  smap[ConfigResource, *configState]
	brokers  []*Broker // by id
	regs     []*brokerState
	producer producerState
	quotas   *QuotaSet
	scram    *ScramSet
}

// Topic is one topic. Partition i of it is Partitions[i].
type Topic struct {
	Name string
	ID   ID
	// Internal topics belong to the coordinators and are hidden from
	// subscriptions by pattern.
	Internal   bool
	Partitions []*Partition
	// Configs holds what was set for this topic, not the defaults.
	Configs map[string]string
	// Revision is where the topic's own key (id, size, configs) last changed, Created
	// where it came to be.
	Revision, Created int64
}

// NoLeader is the leader of a partition that has none.
const NoLeader int32 = -1

// Partition is the state of one partition that its replicas agree on.
type Partition struct {
	// Leader is NoLeader when no eligible replica is up.
	Leader int32
	// LeaderEpoch increases with every change of the leader, PartitionEpoch
	// with every change of the partition.
	LeaderEpoch, PartitionEpoch int32
	// Replicas is in order of preference, the preferred leader first.
	Replicas []int32
	// ISR holds the replicas that have all committed records.
	ISR []int32
	// ELR holds replicas that left an ISR below min.insync.replicas and so
	// still have all committed records (KIP-966).
	ELR []int32
	// LastKnownELR holds replicas that left the ELR by an unclean shutdown.
	LastKnownELR []int32
	// Adding and Removing name the replicas of a reassignment under way.
	Adding, Removing []int32
	// OfflineReplicas are those whose broker is fenced or unknown, or whose
	// log directory failed. It is derived from the brokers, not stored.
	OfflineReplicas []int32
	// Recovering says that the leader was elected without proof of holding
	// all committed records and has not yet said that it recovered.
	Recovering bool
	// Revision is where the partition's key last changed: what a
	// compare-and-set of it compares.
	Revision int64
}

// Broker is one registered broker.
type Broker struct {
	ID int32
	// Epoch tells this registration from all former ones; requests with an
	// older one are refused (STALE_BROKER_EPOCH).
	Epoch int64
	// Revision is that of the registration as it is now: it changes with every fencing
	// and unfencing.
	Revision int64
	// Incarnation tells this process from all former ones.
	Incarnation ID
	// Rack is empty where none is configured.
	Rack      string
	Endpoints []Endpoint
	// Fenced brokers lead nothing and are shown to no client.
	Fenced bool
	// ShuttingDown brokers are handing over their leadership.
	ShuttingDown bool
	// Offline are the replicas that the broker has in log directories that
	// failed, as it said last. They lead nothing and are not in sync.
	Offline Replicas
}

// Active says whether the broker may lead partitions and join ISRs.
func (b *Broker) Active() bool { return !b.Fenced && !b.ShuttingDown }

// Endpoint is where a broker is reached by the clients of one listener.
type Endpoint struct {
	Listener string
	Host     string
	Port     int32
	// Security is Kafka's name of the protocol: PLAINTEXT, SSL,
	// SASL_PLAINTEXT, SASL_SSL.
	Security string
}

// ConfigType is Kafka's number of a kind of resource that has configs.
type ConfigType int8

// The resources whose configs are kept in the metadata.
const (
	ConfigTopic         ConfigType = 2
	ConfigBroker        ConfigType = 4
	ConfigBrokerLogger  ConfigType = 8
	ConfigClientMetrics ConfigType = 16
	ConfigGroup         ConfigType = 32
)

// ConfigResource names what a config belongs to. The broker with the empty
// name stands for the default of all brokers.
type ConfigResource struct {
	Type ConfigType
	Name string
}

// Empty returns the image of a cluster in which nothing happened yet.
func Empty() *Image {
	return &Image{
		topics:  smap[string, *Topic]{cmp: strings.Compare},
		ids:     smap[ID, *Topic]{cmp: compareID},
		staged:  smap[ID, *stagedTopic]{cmp: compareID},
		configs: smap[ConfigResource, *configState]{cmp: compareResource},
		controller: controllerState{
			record: controllerRecord{ID: -1},
		},
	}
}

// Topic returns the topic of that name, or nil.
func (i *Image) Topic(name string) *Topic {
	t, _ := i.topics.get(name)
	return t
}

// TopicByID returns the topic with that id, or nil.
func (i *Image) TopicByID(id ID) *Topic {
	t, _ := i.ids.get(id)
	return t
}

// TopicCount returns how many topics there are.
func (i *Image) TopicCount() int { return i.topics.n }

// Topics returns all topics, sorted by name.
func (i *Image) Topics() []*Topic {
	all := make([]*Topic, 0, i.topics.n)
	for _, t := range i.topics.all() {
		all = append(all, t)
	}
	return all
}

// TopicsFrom calls yield with the topics whose name is not below name, in
// order, until it returns false.
func (i *Image) TopicsFrom(name string, yield func(*Topic) bool) {
	i.topics.from(name, func(_ string, t *Topic) bool { return yield(t) })
}

// Brokers returns all registered brokers, fenced ones too, sorted by id. The
// slice must not be written.
func (i *Image) Brokers() []*Broker { return i.brokers }

// Broker returns the broker with that id, or nil.
func (i *Image) Broker(id int32) *Broker {
	n, ok := slices.BinarySearchFunc(i.brokers, id, func(b *Broker, id int32) int { return int(b.ID) - int(id) })
	if !ok {
		return nil
	}
	return i.brokers[n]
}

// ControllerID returns which node is controller, -1 if none is.
func (i *Image) ControllerID() int32 { return i.controller.record.ID }

// ControllerEpoch returns how many controllers were elected so far.
func (i *Image) ControllerEpoch() int32 { return i.controller.epoch.Epoch }

// ControllerFence returns the create revision of the controller's key, which
// every write of that controller compares; 0 if there is none.
func (i *Image) ControllerFence() int64 { return i.controller.fence }

// ControllerIncarnation returns which process is controller.
func (i *Image) ControllerIncarnation() ID { return i.controller.record.Incarnation }

// ControllerAddress returns the host and port at which the controller answers
// other nodes; empty where that is its inter-broker listener.
func (i *Image) ControllerAddress() string { return i.controller.record.Address }

// Features returns the finalized feature levels (KIP-584). The map must not be
// written.
func (i *Image) Features() map[string]int16 { return i.cluster.record.Features }

// Config returns what was set for a resource, not the defaults; nil if
// nothing was. The map must not be written.
func (i *Image) Config(r ConfigResource) map[string]string {
	if r.Type == ConfigTopic {
		if t := i.Topic(r.Name); t != nil {
			return t.Configs
		}
		return nil
	}
	if c, ok := i.configs.get(r); ok {
		return c.values
	}
	return nil
}

// ConfigResources returns the resources of one type that have configs, sorted
// by name. Topics are not kept here.
func (i *Image) ConfigResources(t ConfigType) []ConfigResource {
	var found []ConfigResource
	i.configs.from(ConfigResource{Type: t}, func(r ConfigResource, _ *configState) bool {
		if r.Type != t {
			return false
		}
		found = append(found, r)
		return true
	})
	return found
}
