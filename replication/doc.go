// Package replication makes a log into a partition: who may append to it, what
// of it is committed, and who waits for that.
//
// # The pieces
//
//	Manager      the partitions of this broker, in a lane for each log directory
//	lane.go      applies metadata to the partitions of one log directory, in order;
//	             placement.go says which those are
//	Partition    one log with its role (leader, follower), epoch and high watermark
//	waiters.go   parked produces (ProduceWait), parked fetches (Watcher, Watch)
//	fetcher.go   copies partitions from one leader; follow.go is what that does
//	             to their logs, transport.go what it needs of the network
//	moves.go     moves replicas from one log directory to another
//	insync.go    proposes changes of in-sync sets to the controller
//	isr.go watermark.go epoch.go
//	             the rules of replication as pure functions: no clock, no lock
//
// # Goroutines and locks
//
// Requests run on their connections' goroutines, and whoever moves a watermark wakes
// the waiters itself. Of its own the package has, for each log directory, one
// goroutine that applies metadata while there is some to apply, one for each fetcher,
// one for the in-sync sets, and one for the replicas that are moved there while any
// are; the last three end with Manager.Close. The controller's
// goroutine hands metadata to the lanes and waits for them, but for those whose
// directory hangs.
//
// So a disk that hangs holds up what is done to the partitions on it, and nothing
// that metadata asks of others: none of these goroutines works on two directories (but
// the one that moves replicas, whose other directory can hold up what else is moved to
// the same), and what tells the cluster of one that failed takes no lock of a
// partition. What the lanes need not wait for each other for:
//
//   - The order of metadata matters for a partition, and for the partitions that had
//     its name before; these are in one lane (placement).
//   - Which topics there are changes for all lanes at once, before any of them begins.
//   - The newest image (brokers, registrations) is seen by all, also by a lane that is
//     behind: what it decides is about who is up now, as it is for requests.
//   - Whether this process is granted its registration goes with the turn: a lane leads
//     nothing by an image that did not grant it.
//   - A replica that comes gets its directory before any lane begins.
//
// What is acknowledged is another matter: the image is published when all lanes but
// those that hang have applied it, and Manager.AwaitTopic waits for these too.
//
// Locks are taken in this order and never the other way round:
//
//	placement.mu     which partitions are in which lane
//	Manager.mu       which partitions exist
//	lane.mu          what is wanted of a lane, and how far it is
//	moves.mu         which replicas are moved
//	fetchers.mu      which fetcher copies what
//	fetcher.mu       what it copies, and from where on
//	Partition.role   who leads, in which epoch; held shared across an append,
//	                 so that an append never straddles a change of leadership
//	Partition.mu     high watermark, follower progress, waiters
//	Watcher.mu, ProduceWait.mu, the log's own locks: storage calls nothing here
//	                 while it holds one
//
// Callbacks (of NotifyAt, OnHighWatermark, OnLeadership) run while some of
// these locks are held or metadata waits: they must not block and, but for
// OnLeadership, not call back into the package. Store what was told and signal.
//
// # What is committed
//
// An offset below the high watermark is on every member of the maximal in-sync
// set: the committed ISR united with a change that is in flight (KIP-497). The
// watermark does not move while the committed ISR is smaller than
// min.insync.replicas (KIP-966), never moves back within a leader's epoch, and
// with one replica equals the log end after each append.
package replication
