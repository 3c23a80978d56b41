// Package cluster plays scenarios with whole clusters of real processes: brokers
// are stopped, killed, paused, cut off, moved and lose their disks while real
// clients write and read. They are the scenarios of Apache Kafka's own system
// tests (kafkatest/tests/core) as far as processes on one machine suffice:
//
//	replication    leaders and controllers are bounced, cleanly and hard
//	reassign       partitions grow, shrink and move under load, with bounces, with a throttle, and are cancelled
//	scale          hundreds of topics
//	logdir         one of two log directories fails
//	follower       consumers read from the replica in their rack (KIP-392)
//	roundtrip      a broker is paused or cut off
//	restart        a rolling restart, a replaced disk, a changed address
//
// Each takes Apache Kafka instead of gregor too, on which none has been seen to pass
// yet: until then a failure there may be the script's.
//
//	go test ./cluster                                        franz-go against gregor, seconds each
//	go test ./cluster -count=1 -broker both -clients all     with the Java client and librdkafka
//
// One goroutine drives a scenario; clients run beside it and write what they saw
// into a journal, which is judged at the end.
package cluster
