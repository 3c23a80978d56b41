package group

import (
	"fmt"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// replayConsumer applies a record of a consumer group.
func (s *Shard) replayConsumer(kind int16, r runtime.Record) error {
	parts := 2
	if kind == typeConsumerGroup || kind == typeTargetEpoch {
		parts = 1
	}
	key, err := parseConsumerKey(r.Key, parts)
	if err != nil {
		return fmt.Errorf("key of a consumer group's record (type %d): %w", kind, err)
	}
	if r.Value == nil {
		s.replayConsumerTombstone(kind, key)
		return nil
	}
	g := s.consumer[key[0]]
	if g == nil {
		// Its offsets may come first in a log that was compacted: they made a
		// classic group, which has no record of its own.
		delete(s.classic, key[0])
		g = newConsumerGroup(key[0])
		s.consumer[key[0]] = g
	}
	if err := g.replay(kind, key, r.Value); err != nil {
		return fmt.Errorf("consumer group %q, record of type %d: %w", key[0], kind, err)
	}
	return nil
}

func (g *consumerGroup) replay(kind int16, key []string, value []byte) (err error) {
	switch kind {
	case typeConsumerGroup:
		g.epoch, g.hash, err = parseConsumerGroup(value)
	case typeConsumerMember:
		m := g.memberOr(key[1])
		if err = parseConsumerMember(value, m); err == nil && m.instanceID != nil {
			g.static[*m.instanceID] = m.id
		}
	case typeTargetEpoch:
		g.targetEpoch, g.assignedAt, err = parseTargetEpoch(value)
	case typeTargetMember:
		g.target[key[1]], err = parseTargetMember(value)
	case typeCurrentMember:
		m := g.memberOr(key[1])
		was := *m
		if err = parseCurrentMember(value, m); err == nil {
			g.own(m, &was)
		}
	case typeRegex:
		g.regexes[key[1]], err = parseRegex(value)
	}
	return err
}

func (g *consumerGroup) memberOr(id string) *consumerMember {
	m := g.members[id]
	if m == nil {
		m = &consumerMember{id: id}
		g.members[id] = m
	}
	return m
}

func (s *Shard) replayConsumerTombstone(kind int16, key []string) {
	g := s.consumer[key[0]]
	if g == nil {
		return
	}
	switch kind {
	case typeConsumerGroup:
		delete(s.consumer, g.id)
	case typeConsumerMember:
		m := g.members[key[1]]
		if m == nil {
			return
		}
		if m.instanceID != nil && g.static[*m.instanceID] == m.id {
			delete(g.static, *m.instanceID)
		}
		g.own(&consumerMember{id: m.id}, m)
		delete(g.members, m.id)
	case typeTargetEpoch:
		g.targetEpoch, g.assignedAt = 0, 0
	case typeTargetMember:
		delete(g.target, key[1])
	case typeCurrentMember:
		if m := g.members[key[1]]; m != nil {
			was := *m
			m.epoch, m.previousEpoch, m.state = epochLeave, epochLeave, memberStable
			m.assigned, m.revoking, m.since = nil, nil, nil
			g.own(m, &was)
		}
	case typeRegex:
		delete(g.regexes, key[1])
	}
}
