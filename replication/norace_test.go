//go:build !race

package replication

// raceEnabled tells that the race detector is on, which allocates.
const raceEnabled = false
