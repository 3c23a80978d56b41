//go:build !race

package storage

// fewer divides what the simulations do under the race detector; see race_test.go.
const fewer = 1

// raceEnabled tells that the race detector is on, which allocates, and has pools lose things.
const raceEnabled = false
