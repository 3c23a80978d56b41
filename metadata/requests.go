package metadata

// NewTopic asks for a topic.
type NewTopic struct {
	Name string
	// Partitions and ReplicationFactor may be -1 for the broker's default.
	// Both must be -1 when Assignment is given.
	Partitions        int32
	ReplicationFactor int16
	// Assignment names the replicas of each partition, instead of letting
	// the controller place them.
	Assignment []PartitionAssignment
	Configs    map[string]*string
	// ID is the id the topic will have. It is chosen before the first try,
	// so that a try whose outcome was unknown is recognised.
	ID ID
}

// PartitionAssignment names the replicas of one partition.
type PartitionAssignment struct {
	Partition int32
	Replicas  []int32
}

// TopicResult answers one topic of a CreateTopics, DeleteTopics or
// CreatePartitions request. Err is nil or holds a *kerr.Error; Message is what
// Kafka says about it.
type TopicResult struct {
	Name    string
	ID      ID
	Err     error
	Message string
	// Partitions, ReplicationFactor and Configs describe the topic that was
	// created, or would have been.
	Partitions        int32
	ReplicationFactor int16
	Configs           map[string]string
}

// TopicRef names a topic by name or, if the name is empty, by id.
type TopicRef struct {
	Name string
	ID   ID
}

// NewPartitions asks for a topic to have Count partitions.
type NewPartitions struct {
	Topic string
	Count int32
	// Assignment, if not nil, names the replicas of each new partition.
	Assignment [][]int32
}

// ConfigOpKind is Kafka's number of what IncrementalAlterConfigs does to a key.
type ConfigOpKind int8

// The operations of IncrementalAlterConfigs (KIP-339).
const (
	ConfigSet      ConfigOpKind = 0
	ConfigDelete   ConfigOpKind = 1
	ConfigAppend   ConfigOpKind = 2
	ConfigSubtract ConfigOpKind = 3
)

// ConfigOp changes one key.
type ConfigOp struct {
	Key  string
	Kind ConfigOpKind
	// Value is nil where the request carried null.
	Value *string
}

// ConfigAlteration changes the configs of one resource. With Replace, the
// resource has afterwards exactly the keys set in Ops (AlterConfigs);
// otherwise Ops are applied to what is there (IncrementalAlterConfigs).
type ConfigAlteration struct {
	Resource ConfigResource
	Ops      []ConfigOp
	Replace  bool
}

// ConfigResult answers one ConfigAlteration.
type ConfigResult struct {
	Resource ConfigResource
	Err      error
	Message  string
}
