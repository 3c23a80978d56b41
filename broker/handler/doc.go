// Package handler answers Kafka requests, one file per API key.
//
// A file NN_name.go holds the handler of the API with key NN and says at its
// head which versions it serves, how it behaves, and which KIP changed what.
// The one table in apis.go lists every API that is served with its version
// range; ApiVersions is derived from it, so that what is advertised is what is
// handled.
//
// Handlers run in line on the goroutine of the connection that sent the
// request and may block: a connection has one request in process at a time, as
// Kafka mutes a channel until its response has left. They hold no state of
// their own; what outlives a request belongs to Broker.
package handler
