package handler

// Broker is what the handlers share: the view of the cluster, the partitions
// of this broker, its configuration and clock.
type Broker struct {
	// NodeID is this broker's id in the cluster.
	NodeID int32
}
