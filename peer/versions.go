package peer

// The versions that brokers speak with each other. A rolling upgrade to a
// release that raises one needs both sides to serve it first.
const (
	// FetchVersion names topics by id, carries the broker epoch of the replica
	// and names the current leader in errors.
	FetchVersion int16 = 16
	// ListOffsetsVersion carries the leader epoch and the replica id.
	ListOffsetsVersion int16 = 7
	// OffsetForLeaderEpochVersion carries the replica id.
	OffsetForLeaderEpochVersion int16 = 4
	// AlterPartitionVersion carries the broker epoch of each member.
	AlterPartitionVersion int16 = 3
	// WriteTxnMarkersVersion carries the version of the transaction (KIP-1228).
	WriteTxnMarkersVersion int16 = 2
)
