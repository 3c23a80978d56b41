//go:build race

package protocol

// raceEnabled: the race detector changes what is allocated, and there is no
// concurrency here for it to watch.
const raceEnabled = true
