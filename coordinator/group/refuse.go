package group

import (
	"maps"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// timeoutAgain is when a timer goes off again whose records could not be written.
const timeoutAgain = 500 * time.Millisecond

// wholly runs what a request does to a group so that all of it happens or nothing;
// see [runtime.Wholly].
func (s *Shard) wholly(group string, handle func() runtime.Result) runtime.Result {
	return runtime.Wholly(s.writable, func() func() { return s.remember(group) }, handle)
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
