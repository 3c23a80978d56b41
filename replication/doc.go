// Package replication makes a log into a partition: who may append to it, what
// of it is committed, and who waits for that.
//
// # The pieces
//
//	Manager      the partitions of this broker; applies metadata in order
//	Partition    one log with its role (leader, follower), epoch and high watermark
//	waiters.go   parked produces (ProduceWait), parked fetches (Watcher, Watch)
//	fetcher.go   copies partitions from one leader; follow.go is what that does
//	             to their logs, transport.go what it needs of the network
//	insync.go    proposes changes of in-sync sets to the controller
//	isr.go watermark.go epoch.go
//	             the rules of replication as pure functions: no clock, no lock
//
// # Goroutines and locks
//
// Requests run on their connections' goroutines, metadata on the controller's,
// and whoever moves a watermark wakes the waiters itself. Of its own the
// package has one goroutine for each fetcher and one for the in-sync sets; all
// end with Manager.Close. Locks are taken in this order and never the other way
// round:
//
//	Manager.mu       which partitions exist
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
