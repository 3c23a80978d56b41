package txn

import (
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// Event is something that is counted.
type Event uint8

// What is counted.
const (
	// Committed and Aborted are decisions.
	Committed Event = iota
	Aborted
	// TimedOut is an abort of a transaction that took too long, Fenced one
	// because another producer took the transactional id over.
	TimedOut
	Fenced
	// Expired is a transactional id that nobody used for long.
	Expired
	// Events is how many there are.
	Events
)

func (c *Config) count(e Event) {
	if c.Count != nil {
		c.Count(e)
	}
}

// Count answers with the number of transactional ids in each state, as a
// map[State]int.
func (s *Shard) Count(_ time.Time, t runtime.Ticket) runtime.Result {
	states := make(map[State]int)
	for _, tx := range s.ids {
		states[tx.state]++
	}
	return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: states}}}
}
