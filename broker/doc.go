// Package broker turns sockets into requests and answers into bytes.
//
// # The way of a request
//
//	Server.Serve   accepts; limits how many connections there are (server.go)
//	conn.serve     one goroutine per connection: wait, read a frame (conn.go, read.go)
//	conn.handle    header, table, decode, handler (dispatch.go)
//	conn.respond   the answer, with records sent from the file (send.go)
//
// A connection's goroutine does all of this in line, so that one request is in
// process at a time and responses leave in the order of the requests, as in
// Kafka, which mutes a channel until its response has left. Requests that a
// client pipelines wait in the socket's buffer.
//
// # Memory
//
// An idle connection owns no buffer: it waits for readability with a raw read
// that takes a pooled buffer only for the moment of the system call. A frame
// that does not fit the small input buffer gets memory as its bytes arrive,
// out of a budget shared by all connections (memory.go); when the budget is
// spent, connections stop reading and TCP holds the clients back.
//
// # Time
//
// Three clocks watch a client: connections.max.idle.ms between requests, a
// smallest rate within a frame, and connections.max.idle.ms without progress
// while a response is sent. The last is long on purpose: a consumer that
// processes records between polls does not read its socket meanwhile.
package broker
