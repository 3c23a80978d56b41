package handler

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// API is one row of the table of what this broker serves.
type API struct {
	Key int16
	// Min and Max are the lowest and highest version served. A version in
	// this range is a promise: everything it can ask for is answered.
	Min, Max int16
	handle   Func
	// decode, if set, decodes the body instead of protocol.Decode: into memory
	// that r keeps for the next request.
	decode func(r *Request, body []byte) (kmsg.Request, error)
	// Detached says that the decoded request aliases nothing of its frame,
	// whose memory is then given back before the handler runs: it may wait
	// for long.
	Detached bool
	// Internal says that only gregor's own nodes ask: ApiVersions leaves it
	// out.
	Internal bool
}

// Func answers one request. A Kafka error code belongs into the response; an
// error returned here closes the connection, because the request could not be
// answered at all. A nil response with a nil error means that the client
// expects none (Produce with acks=0).
type Func func(b *Broker, r *Request) (kmsg.Response, error)

// ConnInfo describes the client's end of a connection.
type ConnInfo struct {
	// Listener is the name of the listener that accepted the connection,
	// e.g. "PLAINTEXT". Metadata answers with this listener's endpoints.
	Listener   string
	RemoteHost string
	// Principal is "User:ANONYMOUS" where nobody authenticated.
	Principal string
	// SoftwareName and SoftwareVersion are what ApiVersions v3 told (KIP-511).
	SoftwareName, SoftwareVersion string
}

// apis is THE table: what is not listed here is not served, and ApiVersions
// advertises exactly these rows. Keep it sorted by key. It is a function
// because the ApiVersions handler reads the table that lists it; New calls it
// once.
func apis() []API {
	return []API{
		{Key: 0, Min: 0, Max: 13, handle: produce, decode: decodeProduce},
		{Key: 1, Min: 4, Max: 18, handle: fetch, decode: decodeFetch, Detached: true},
		{Key: 2, Min: 1, Max: 11, handle: listOffsets},
		{Key: 3, Min: 0, Max: 13, handle: metadataRequest},
		{Key: 8, Min: 2, Max: 10, handle: offsetCommit},
		{Key: 9, Min: 1, Max: 10, handle: offsetFetch},
		{Key: 10, Min: 0, Max: 6, handle: findCoordinator},
		{Key: 11, Min: 0, Max: 9, handle: joinGroup},
		{Key: 12, Min: 0, Max: 4, handle: heartbeat},
		{Key: 13, Min: 0, Max: 5, handle: leaveGroup},
		{Key: 14, Min: 0, Max: 5, handle: syncGroup},
		{Key: 15, Min: 0, Max: 6, handle: describeGroups},
		{Key: 16, Min: 0, Max: 5, handle: listGroups},
		{Key: 18, Min: 0, Max: 4, handle: apiVersions},
		{Key: 19, Min: 2, Max: 7, handle: createTopics},
		{Key: 20, Min: 1, Max: 6, handle: deleteTopics},
		{Key: 21, Min: 0, Max: 2, handle: deleteRecords},
		{Key: 22, Min: 0, Max: 5, handle: initProducerID},
		{Key: 23, Min: 2, Max: 4, handle: offsetForLeaderEpoch},
		{Key: 24, Min: 0, Max: 5, handle: addPartitionsToTxn},
		{Key: 25, Min: 0, Max: 4, handle: addOffsetsToTxn},
		{Key: 26, Min: 0, Max: 5, handle: endTxn},
		{Key: 27, Min: 1, Max: 2, handle: writeTxnMarkers},
		{Key: 28, Min: 0, Max: 5, handle: txnOffsetCommit},
		{Key: 29, Min: 1, Max: 3, handle: describeACLs},
		{Key: 30, Min: 1, Max: 3, handle: createACLs},
		{Key: 31, Min: 1, Max: 3, handle: deleteACLs},
		{Key: 32, Min: 0, Max: 4, handle: describeConfigs},
		{Key: 33, Min: 0, Max: 2, handle: alterConfigs},
		{Key: 34, Min: 1, Max: 2, handle: alterReplicaLogDirs},
		{Key: 35, Min: 0, Max: 5, handle: describeLogDirs},
		{Key: 37, Min: 0, Max: 3, handle: createPartitions},
		{Key: 42, Min: 0, Max: 2, handle: deleteGroups},
		{Key: 43, Min: 0, Max: 2, handle: electLeaders},
		{Key: 44, Min: 0, Max: 1, handle: incrementalAlterConfigs},
		{Key: 45, Min: 0, Max: 1, handle: alterPartitionReassignments},
		{Key: 46, Min: 0, Max: 0, handle: listPartitionReassignments},
		{Key: 47, Min: 0, Max: 0, handle: offsetDelete},
		{Key: 48, Min: 0, Max: 1, handle: describeClientQuotas},
		{Key: 49, Min: 0, Max: 1, handle: alterClientQuotas},
		{Key: 50, Min: 0, Max: 0, handle: describeUserScramCredentials},
		{Key: 51, Min: 0, Max: 0, handle: alterUserScramCredentials},
		{Key: 55, Min: 0, Max: 2, handle: describeQuorum},
		{Key: 57, Min: 0, Max: 2, handle: updateFeatures},
		{Key: 58, Min: 0, Max: 0, handle: envelope, Internal: true},
		{Key: 60, Min: 0, Max: 2, handle: describeCluster},
		{Key: 61, Min: 0, Max: 0, handle: describeProducers},
		{Key: 64, Min: 0, Max: 0, handle: unregisterBroker},
		{Key: 65, Min: 0, Max: 0, handle: describeTransactions},
		{Key: 66, Min: 0, Max: 2, handle: listTransactions},
		{Key: 68, Min: 0, Max: 1, handle: consumerGroupHeartbeat},
		{Key: 69, Min: 0, Max: 1, handle: consumerGroupDescribe},
		{Key: 74, Min: 0, Max: 1, handle: listConfigResources},
		{Key: 75, Min: 0, Max: 0, handle: describeTopicPartitions},
		{Key: 81, Min: 0, Max: 0, handle: removeRaftVoter},
	}
}
