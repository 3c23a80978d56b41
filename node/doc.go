// Package node runs one broker: it opens the metadata store and the log
// directories, joins them with replication, the coordinators, the controller
// and the server of the Kafka protocol, and takes all of it down again in order.
// The command and the test broker share it.
//
// Start opens what can be opened side by side and returns when the broker
// serves; where it fails it leaves nothing behind. Close goes through the parts
// so that nothing is acknowledged which the next start would not find: no new
// connections, requests in process are answered, coordinators and controller
// end, logs are flushed and marked clean, the store closes last.
//
// Which parts a node has follows from process.roles and the other KRaft keys
// (quorum.go): a broker serves clients, a controller keeps the metadata and may be
// elected. A node that stops hands its leadership over first, if there is anyone
// to take it.
//
// A Node has one goroutine for each listener, one for the HTTP server, and short
// ones beside the metadata's; everything else runs in the parts below it. It
// keeps no global state: many nodes live in one process.
package node
