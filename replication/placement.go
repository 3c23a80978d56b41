package replication

import (
	"slices"
	"sync"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
)

// placement knows in which lane each replica of this broker is. Apply's goroutine
// decides that, lanes look it up.
//
// A place is kept by a partition's name until the lane has finished the turn in which
// metadata took the replica away. Who comes back before, whatever its topic id, gets
// the same one. The logs that are set aside as strays have places until that is done.
type placement struct {
	mu     sync.Mutex
	places map[string]map[int32]*place
	// leaving are the places that metadata has no replica for any more.
	leaving []storage.TopicPartition
}

type place struct {
	lane *lane
	// since is the turn in which the place was given. In those before it the replica was
	// nowhere, or in another lane, which did what they say of it.
	since int64
	// left is the turn in which metadata took the replica away, 0 if it is there.
	left int64
}

// laneOf is the lane of a partition, nil if it has no place here that it was given by a
// turn.
func (pl *placement) laneOf(tp storage.TopicPartition, turn int64) *lane {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if p := pl.places[tp.Topic][tp.Partition]; p != nil && p.since <= turn {
		return p.lane
	}
	return nil
}

// lanesOf are the lanes in which a topic has places.
func (pl *placement) lanesOf(topic string) []*lane {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	var lanes []*lane
	for _, p := range pl.places[topic] {
		if !slices.Contains(lanes, p.lane) {
			lanes = append(lanes, p.lane)
		}
	}
	return lanes
}

// place follows a turn: replicas that come get a place, and those that go lose it
// when their lane has done with them.
func (m *Manager) place(t *turn, first bool) {
	pl := &m.placement
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.free()
	for _, d := range t.delta.Topics {
		if d.New == nil {
			for n := range d.Old.Partitions {
				pl.leave(storage.TopicPartition{Topic: d.Old.Name, Partition: int32(n)}, t.number)
			}
		}
	}
	come := func(known bool) {
		for _, d := range t.delta.Topics {
			if d.New != nil {
				m.placeTopic(d, t, first, known)
			}
		}
	}
	if first {
		come(true) // so that all that is there counts where the rest goes
	}
	come(false)
	if first {
		m.placeStrays(t)
	}
}

// placeStrays places the logs found at start that metadata has no replica for: their
// names are taken until the lanes have set them aside. The caller holds placement.mu.
func (m *Manager) placeStrays(t *turn) {
	pl := &m.placement
	for _, log := range m.opts.Logs.Logs() {
		if tp := log.TopicPartition(); pl.places[tp.Topic][tp.Partition] == nil {
			pl.give(tp, m.laneAt(log.Dir()), t.number)
			pl.leave(tp, t.number)
		}
	}
}

// placeTopic places the replicas of a topic that came, or with known only those of
// which there is a log. The caller holds placement.mu.
func (m *Manager) placeTopic(d metadata.TopicDelta, t *turn, first, known bool) {
	pl := &m.placement
	for _, n := range d.Partitions {
		tp := storage.TopicPartition{Topic: d.New.Name, Partition: n}
		if !slices.Contains(d.New.Partitions[n].Replicas, m.opts.NodeID) {
			pl.leave(tp, t.number)
			continue
		}
		if p := pl.places[tp.Topic][n]; p != nil {
			p.left = 0
			continue
		}
		log := m.opts.Logs.Log(tp)
		if known && log == nil {
			continue
		}
		var l *lane
		if log != nil {
			l = m.laneAt(log.Dir())
		} else {
			l = m.choose(tp, !first && !hadReplica(d.Old, n, m.opts.NodeID))
		}
		pl.give(tp, l, t.number)
	}
}

// give places a replica. The caller holds mu.
func (pl *placement) give(tp storage.TopicPartition, l *lane, turn int64) {
	if pl.places[tp.Topic] == nil {
		pl.places[tp.Topic] = map[int32]*place{}
	}
	pl.places[tp.Topic][tp.Partition] = &place{lane: l, since: turn}
	l.placed++
}

// laneAt is the lane of a log directory.
func (m *Manager) laneAt(dir string) *lane {
	i := slices.IndexFunc(m.lanes, func(l *lane) bool { return l.dir == dir })
	return m.lanes[i] // a log is in one of the directories
}

// choose is the lane of a replica without a log: the one that was asked for
// (MoveReplica), else the one with the fewest, of those whose directory can be used. A directory that is known to hang is left out where
// another can be had. A replica that is not new may be on a directory that is offline,
// and gets its place there. The caller holds placement.mu.
func (m *Manager) choose(tp storage.TopicPartition, isNew bool) *lane {
	offline := func(l *lane) bool { return m.opts.Logs.DirErr(l.dir) != nil }
	if !isNew {
		if i := slices.IndexFunc(m.lanes, offline); i >= 0 {
			return m.lanes[i]
		}
	}
	if dir := m.opts.Logs.Preferred(tp); dir != "" && m.opts.Logs.DirErr(dir) == nil {
		return m.laneAt(dir)
	}
	least := func(bad func(*lane) bool) (best *lane) {
		for _, l := range m.lanes {
			if !bad(l) && (best == nil || l.placed < best.placed) {
				best = l
			}
		}
		return best
	}
	for _, bad := range []func(*lane) bool{
		func(l *lane) bool { return offline(l) || l.hangs() },
		offline,
	} {
		if l := least(bad); l != nil {
			return l
		}
	}
	return m.lanes[0]
}

// leave notes that metadata took a replica away in a turn. The caller holds mu.
func (pl *placement) leave(tp storage.TopicPartition, turn int64) {
	p := pl.places[tp.Topic][tp.Partition]
	if p == nil || p.left != 0 {
		return
	}
	p.left = turn
	pl.leaving = append(pl.leaving, tp)
}

// free gives up the places of replicas that their lanes have taken away. The caller
// holds mu.
func (pl *placement) free() {
	pl.leaving = slices.DeleteFunc(pl.leaving, func(tp storage.TopicPartition) bool {
		p := pl.places[tp.Topic][tp.Partition]
		if p.left == 0 {
			return true // it came back
		}
		if done, _ := p.lane.reached(p.left); !done {
			return false
		}
		delete(pl.places[tp.Topic], tp.Partition)
		if len(pl.places[tp.Topic]) == 0 {
			delete(pl.places, tp.Topic)
		}
		p.lane.placed--
		return true
	})
}
