//go:build race

package storage

// fewer divides what the simulations do. Each runs on one goroutine, so that the race detector, which makes them ten times
// slower, has nothing to find in them; what runs on several is not divided.
const fewer = 10

// raceEnabled tells that the race detector is on, which allocates, and has pools lose things.
const raceEnabled = true
