// Package peer carries requests from this broker to the other brokers of the
// cluster, over their inter-broker listeners.
//
//	Peers   who can be reached where; a few idle connections to each
//	Conn    one connection for one goroutine, e.g. of a replica fetcher
//
// A connection carries one request at a time, as a broker handles only one of
// each connection anyway. All brokers of a cluster speak the versions named in
// versions.go, so there is no ApiVersions before the first request.
//
// The package starts no goroutine: who asks dials, writes and reads. An error
// of a request says nothing about whether the other broker carried it out,
// unless it is ErrNotSent.
package peer
