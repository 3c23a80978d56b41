package group

import (
	"maps"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// timeoutAgain is when a timer goes off again whose records could not be written.
const timeoutAgain = 500 * time.Millisecond

// wholly runs what a request does to a group so that all of it happens or
// nothing.
//
// Handlers change the state of a group before their records are appended, so that
// a failed append costs the state of all groups: it has to be loaded again. That
// too few replicas are in sync is known beforehand, and lasts. Then the group is
// put back to what it was if the handler wrote anything, and its caller alone is
// refused; what only reads, and what is not in the log, goes on.
func (s *Shard) wholly(group string, handle func() runtime.Result) runtime.Result {
	err := s.writable()
	if err == nil {
		return handle()
	}
	undo := s.remember(group)
	r := handle()
	if len(r.Records) == 0 {
		return r
	}
	undo()
	return runtime.Result{Refused: err}
}

// remember copies a group and returns what puts the copy in its place.
func (s *Shard) remember(id string) (undo func()) {
	var classic *classicGroup
	var consumer *consumerGroup
	if g := s.classic[id]; g != nil {
		classic = g.clone()
	}
	if g := s.consumer[id]; g != nil {
		consumer = g.clone()
	}
	return func() {
		delete(s.classic, id)
		delete(s.consumer, id)
		if classic != nil {
			s.classic[id] = classic
		}
		if consumer != nil {
			s.consumer[id] = consumer
		}
	}
}

func (g *classicGroup) clone() *classicGroup {
	c := *g
	c.members = make(map[string]*member, len(g.members))
	for id, m := range g.members {
		copied := *m // of what it points to nothing is changed in place
		c.members[id] = &copied
	}
	c.order, c.static = slices.Clone(g.order), maps.Clone(g.static)
	c.pending, c.pendingSync = maps.Clone(g.pending), maps.Clone(g.pendingSync)
	return &c
}

func (g *consumerGroup) clone() *consumerGroup {
	c := *g
	c.members = make(map[string]*consumerMember, len(g.members))
	for id, m := range g.members {
		copied := *m
		c.members[id] = &copied
	}
	c.static, c.target, c.regexes = maps.Clone(g.static), maps.Clone(g.target), maps.Clone(g.regexes)
	c.owners, c.pending = maps.Clone(g.owners), maps.Clone(g.pending)
	return &c
}
