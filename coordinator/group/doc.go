// Package group is the group coordinator's state machine: classic groups
// (KIP-62, 345, 394, 429, 814), consumer groups (KIP-848) and their offsets.
//
// A [Shard] is the state of one partition of __consumer_offsets. It is pure: it
// reads no clock, starts no goroutine and takes no lock; a request or a timeout
// goes in with the time, and records, replies and timers come out
// (coordinator/runtime says when they take effect).
//
// # What is in the log
//
// Kafka's own record formats, so that tools which read the topic go on working.
// The first two bytes of a key say what the record is:
//
//	0, 1  offset commit          group, topic, partition -> offset, leader epoch, metadata, times
//	2     classic group          group -> protocol, generation, leader, members with their assignment
//	3     consumer group         group -> epoch
//	5     consumer group member  group, member -> subscription, client, timeouts
//	6, 7  target assignment      group (, member) -> epoch, partitions
//	8     current assignment     group, member -> member epoch, owned partitions
//	16    regular expression     group, expression -> topics
//
// # What is not
//
// Between the end of a join and the leader's SyncGroup a classic group's new
// generation is only in memory, as in Kafka: after a fail-over its members find
// an older generation and join again. Timers and parked callers are soft too.
// Records of classic groups are therefore not replayed when this shard writes
// them (runtime.Result.SkipReplay): the state they describe is already there.
package group
