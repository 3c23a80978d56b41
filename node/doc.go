// Package node runs one broker: it opens the metadata store and the log
// directories, joins them with replication, the controller and the server of
// the Kafka protocol, and takes all of it down again in order. The command and
// the test broker share it.
package node
