// Package cluster plays scenarios with whole clusters of real processes: brokers
// are stopped, killed, paused, cut off, moved and lose their disks while real
// clients write and read. They are the scenarios of Apache Kafka's own system
// tests (kafkatest/tests/core) as far as processes on one machine suffice:
//
//	replication    leaders and controllers are bounced, cleanly and hard
//	reassign       partitions grow, shrink and move under load, with bounces, with a throttle, and are cancelled
//	scale          hundreds of topics
//	logdir         one of two log directories fails
//	moves          replicas move from one log directory to another
//	follower       consumers read from the replica in their rack (KIP-392)
//	roundtrip      a broker is paused or cut off
//	restart        a rolling restart, a replaced disk, a changed address
//
// Each takes Apache Kafka instead of gregor too, which proves the script.
//
//	go test ./cluster                                        franz-go against gregor, seconds each
//	go test ./cluster -count=1 -long -clients all            the longer ones too, with the Java client and librdkafka
//	go test ./cluster -count=1 -long -broker kafka           franz-go against Apache Kafka, a minute each
//
// One goroutine drives a scenario; clients run beside it and write what they saw
// into a journal, which is judged at the end.
package cluster
