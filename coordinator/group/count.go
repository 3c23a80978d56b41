package group

import (
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// Event is something that is counted.
type Event uint8

// What is counted.
const (
	// OffsetCommitted counts offsets, in transactions or not.
	OffsetCommitted Event = iota
	// OffsetExpired is an offset that nobody used for long, OffsetDeleted one
	// that was deleted on request.
	OffsetExpired
	OffsetDeleted
	// ClassicRebalance is a rebalance that was completed, ConsumerRebalance a
	// new epoch of a group of the newer protocol.
	ClassicRebalance
	ConsumerRebalance
	// Events is how many there are.
	Events
)

func (c *Config) count(e Event) {
	if c.Count != nil {
		c.Count(e)
	}
}

// Kind is the protocol of a group ("classic", "consumer") and its state.
type Kind struct {
	Protocol, State string
}

// Population is what a shard holds.
type Population struct {
	Groups  map[Kind]int
	Offsets int
}

// Count answers with the shard's *Population.
func (s *Shard) Count(_ time.Time, t runtime.Ticket) runtime.Result {
	p := &Population{Groups: make(map[Kind]int)}
	for _, g := range s.classic {
		p.Groups[Kind{"classic", g.state.String()}]++
	}
	for _, g := range s.consumer {
		p.Groups[Kind{"consumer", g.stateName()}]++
	}
	for _, o := range s.offsets {
		p.Offsets += len(o.byPartition)
	}
	return runtime.Result{Replies: []runtime.Reply{{Ticket: t, Response: p}}}
}
