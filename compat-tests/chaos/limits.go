package main

import "time"

// limits are the times of a run that depend on how quick the broker under test
// is. A Kafka on a busy machine takes longer to come back; how long it may take
// to start and to stop is the harness's matter, whose brokers do both.
type limits struct {
	// Recover is how long after healing it may take until every key is sent to
	// and polled again (P16). The writers go on for as long.
	Recover time.Duration
	// Serve is the longest that no send or no poll may succeed while clients must
	// be served (P16): as long as one operation may take on a busy machine.
	Serve time.Duration
	// Drain is how long consumers may take to what was written, Final how long
	// the last polls may take for each of their parts.
	Drain, Final time.Duration
}

// limitsOf are those of gregor or kafka.
func limitsOf(broker string) limits {
	if broker == "kafka" {
		return limits{Recover: 2 * time.Minute, Serve: 30 * time.Second, Drain: 5 * time.Minute, Final: 3 * time.Minute}
	}
	return limits{Recover: 30 * time.Second, Serve: 10 * time.Second, Drain: 2 * time.Minute, Final: time.Minute}
}
