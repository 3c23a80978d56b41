package main

import (
	"fmt"
	"time"
)

// rebalancePartitions of the topic that the group consumes, two for each of its
// members.
func (b *bench) rebalancePartitions() int32 { return int32(2 * b.members) }

// rebalances is what one group cost, repetition by repetition.
type rebalances struct {
	joinWall, joinCPU []float64 // seconds
	moreWall, moreCPU []float64
	beatCPU           []float64 // microseconds each
	stolen            float64
}

// rebalance measures how long a large group takes until all its members have
// their partitions: as they all come at once, and as one more comes.
func (b *bench) rebalance() error {
	const topic = "rebalanced"
	for _, s := range b.brokers() {
		if err := s.createTopic(topic, b.rebalancePartitions()); err != nil {
			return err
		}
		defer s.deleteTopic(topic) //nolint:errcheck // the broker ends soon
		if err := s.awaitCoordinator(groupCoordinator, "rebalance"); err != nil {
			return err
		}
	}
	for _, consume := range []bool{false, true} {
		name := "classic protocol"
		if consume {
			name = "consumer protocol (KIP-848)"
		}
		b.logf("scenario 10.2: a group of %d members, %s", b.members, name)
		rows := map[string]*rebalances{}
		for rep := range b.fewReps() + 1 {
			for _, s := range b.brokers() {
				if rep == 0 && s != b.kafka {
					continue // the first one warms the JVM up
				}
				r := rows[s.name]
				if r == nil {
					r = &rebalances{}
				}
				if err := b.rebalanceOnce(s, topic, consume, r); err != nil {
					return fmt.Errorf("%s, %s: %w", name, s.name, err)
				}
				n := len(r.joinWall) - 1
				b.logf("  %-8s all join: %5.2f s, %.3f CPU-s; one more: %5.2f s, %.3f CPU-s; %.0f us CPU per heartbeat",
					s.name, r.joinWall[n], r.joinCPU[n], r.moreWall[n], r.moreCPU[n], r.beatCPU[n])
				if rep > 0 {
					rows[s.name] = r
				}
			}
		}
		b.report.rebalances(fmt.Sprintf("10.2 One group of %d members, %s", b.members, name), names(b.brokers()), rows)
	}
	return nil
}

// restTime is how long a group that has settled is watched: some heartbeats and a
// half, as those of a classic group come all at once from when it settled.
const restTime = 6*beat + beat/2

func (b *bench) rebalanceOnce(s *subject, topic string, consume bool, out *rebalances) (err error) {
	b.topics++
	group := fmt.Sprintf("rebalance-%d", b.topics)
	if err := s.awaitGroup(group); err != nil {
		return err
	}
	c := newCrowd(consume)
	defer func() {
		if leaveErr := c.leave(); err == nil {
			err = leaveErr
		}
	}()
	var members []*member
	for i := range b.members + 1 {
		m, err := newMember(s, group, topic, b.rebalancePartitions())
		if err != nil {
			return err
		}
		if consume {
			m.id = uuid(i + 1)
		}
		members = append(members, m)
	}
	first, last := members[:b.members], members[b.members]
	time.Sleep(settle)
	join, err := s.timed(0, func() error {
		for _, m := range first {
			c.add(m)
		}
		return c.await(b.rebalancePartitions())
	})
	if err != nil {
		return err
	}
	before := c.beats()
	rest, err := s.timed(0, func() error {
		time.Sleep(restTime)
		return nil
	})
	if err != nil {
		return err
	}
	beats := c.beats() - before
	more, err := s.timed(0, func() error {
		c.add(last)
		return c.await(b.rebalancePartitions())
	})
	if err != nil {
		return err
	}
	out.joinWall, out.joinCPU = append(out.joinWall, join.wall.Seconds()), append(out.joinCPU, join.cpu.Seconds())
	out.moreWall, out.moreCPU = append(out.moreWall, more.wall.Seconds()), append(out.moreCPU, more.cpu.Seconds())
	out.beatCPU = append(out.beatCPU, rest.cpu.Seconds()*1e6/float64(max(beats, 1)))
	out.stolen = max(out.stolen, join.stolen, rest.stolen, more.stolen)
	return nil
}
