package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage"
)

// moves carries replicas from one log directory of this broker to another
// (AlterReplicaLogDirs). storage.Move does the copying; here is decided which log
// goes where, and when nobody may use it.
//
// A directory that replicas go to has a goroutine as long as any do, which takes one
// after the other: so disks are filled side by side, each by one copy at a time.
// close ends them. A move is in all from the moment it is asked for until nothing is
// left to do for it; whoever ends it cancels its ctx and, if need be, waits for done.
//
// A replica that was moved stays in the lane of the directory that it left until the
// broker starts again. Should either of the two hang before, the metadata's wishes for
// what else is in that lane may wait for it.
type moves struct {
	m       *Manager
	ctx     context.Context //nolint:containedctx // ends the goroutines
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	all    map[storage.TopicPartition]*move
	// queues are the moves to a directory that were not begun, for directories with a
	// goroutine.
	queues map[string][]*move
}

// move is one replica on its way.
type move struct {
	p    *Partition
	dir  string
	copy *storage.Move // nil until the directory of the copy was made
	// ctx ends when the move shall.
	ctx    context.Context //nolint:containedctx // of the move, not of who asked for it
	cancel context.CancelFunc
	// done is closed when the move is out of moves.all.
	done chan struct{}
}

// moveEndsWithin is how long who asks for another destination waits for the move to
// the last one to end: that waits for a disk.
const moveEndsWithin = 10 * time.Second

func newMoves(m *Manager) *moves {
	ms := &moves{m: m, all: map[storage.TopicPartition]*move{}, queues: map[string][]*move{}}
	ms.ctx, ms.stop = context.WithCancel(context.Background())
	return ms
}

// close ends the goroutines and waits for them. What was copied stays, so that the
// next start knows which moves to begin anew.
func (ms *moves) close() {
	ms.mu.Lock()
	ms.closed = true
	ms.mu.Unlock()
	ms.stop()
	ms.running.Wait()
}

// MoveReplica has the replica of a partition on this broker moved to a log directory
// (one of storage.Options.Dirs), or, if it is there already, not moved any more. It
// returns when the move has begun. A directory is remembered for a replica that is
// made later, whatever the answer.
//
// Errors: INVALID_TOPIC_EXCEPTION (the copy's name would be too long for a file),
// LOG_DIR_NOT_FOUND, KAFKA_STORAGE_ERROR (the directory is offline, or the replica; or
// any directory is, because then nobody knows what lies there),
// UNKNOWN_TOPIC_OR_PARTITION, REPLICA_NOT_AVAILABLE, REQUEST_TIMED_OUT (the move to
// another directory does not end).
func (m *Manager) MoveReplica(ctx context.Context, topic string, index int32, dir string) error {
	tp := storage.TopicPartition{Topic: topic, Partition: index}
	if err := m.movable(tp, dir); err != nil {
		return err
	}
	p, absent := m.Partition(topic, index)
	if p != nil && p.dir() != "" {
		if err := p.Snapshot().Err; errors.Is(err, kerr.KafkaStorageError) {
			return err
		}
	}
	if err := m.moves.endOther(ctx, tp, dir); err != nil {
		return err
	}
	home := ""
	if p != nil {
		home = p.dir()
	}
	if home != dir {
		m.opts.Logs.Prefer(tp, dir)
	}
	switch {
	case errors.Is(absent, kerr.NotLeaderForPartition):
		return fmt.Errorf("%w: %s is on other brokers", kerr.ReplicaNotAvailable, tp)
	case absent != nil:
		return absent
	case home == "":
		return fmt.Errorf("%w: %s was not found", kerr.ReplicaNotAvailable, tp)
	case home == dir:
		return nil
	case m.anyDirOffline():
		return fmt.Errorf("%w: a log directory is offline, and nothing is moved meanwhile", kerr.KafkaStorageError)
	}
	return m.moves.begin(p, dir)
}

// movable says what is wrong with a directory, or with the name of a partition.
func (m *Manager) movable(tp storage.TopicPartition, dir string) error {
	if !storage.MovableName(tp) {
		return fmt.Errorf("%w: the name is too long to be moved", kerr.InvalidTopicException)
	}
	return m.opts.Logs.DirErr(dir)
}

// endOther ends the move of a replica to any directory but dir.
func (ms *moves) endOther(ctx context.Context, tp storage.TopicPartition, dir string) error {
	ms.mu.Lock()
	mv := ms.all[tp]
	ms.mu.Unlock()
	if mv == nil || mv.dir == dir {
		return nil
	}
	ms.end(mv)
	ctx, cancel := context.WithTimeout(ctx, moveEndsWithin)
	defer cancel()
	select {
	case <-mv.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the move of %s to %s does not end", kerr.RequestTimedOut, tp, mv.dir)
	}
}

// end has a move end. It does not wait for that.
func (ms *moves) end(mv *move) {
	mv.cancel()
	ms.mu.Lock()
	defer ms.mu.Unlock()
	queue := ms.queues[mv.dir]
	if i := slices.Index(queue, mv); i >= 0 && !ms.closed {
		ms.queues[mv.dir] = slices.Delete(queue, i, i+1)
		ms.running.Go(func() { ms.finish(mv, mv.ctx.Err()) })
	}
}

// endOf ends the move of a replica that goes away, if there is one.
func (ms *moves) endOf(tp storage.TopicPartition) {
	ms.mu.Lock()
	mv := ms.all[tp]
	ms.mu.Unlock()
	if mv != nil {
		ms.end(mv)
	}
}

// dirFailed ends the moves from and to a directory that went offline.
func (ms *moves) dirFailed(dir string) {
	ms.mu.Lock()
	var ended []*move
	for _, mv := range ms.all {
		if mv.copy != nil && (mv.dir == dir || mv.copy.Log().Dir() == dir) {
			ended = append(ended, mv)
		}
	}
	ms.mu.Unlock()
	for _, mv := range ended {
		ms.end(mv)
	}
}

// begin makes the directory of the copy and has the directory's goroutine do the rest.
func (ms *moves) begin(p *Partition, dir string) error {
	tp := p.TopicPartition()
	mv := &move{p: p, dir: dir, done: make(chan struct{})}
	mv.ctx, mv.cancel = context.WithCancel(ms.ctx)
	ms.mu.Lock()
	known := ms.all[tp] != nil
	if !known && !ms.closed {
		ms.all[tp] = mv
	}
	closed := ms.closed
	ms.mu.Unlock()
	if known || closed {
		mv.cancel()
		if closed {
			return fmt.Errorf("%w: the broker stops", kerr.KafkaStorageError)
		}
		return nil // to the same directory: another request came between, whose wish counts as well
	}
	log, err := p.movableLog()
	var copied *storage.Move
	if err == nil {
		copied, err = ms.m.opts.Logs.BeginMove(log, dir)
	}
	if err != nil {
		ms.forget(mv)
		return err
	}
	ms.m.opts.Log.Info().Stringer("partition", tp).Str("from", log.Dir()).Str("to", dir).Msg("a replica moves to another log directory")
	ms.mu.Lock()
	defer ms.mu.Unlock()
	mv.copy = copied
	if ms.closed {
		copied.Leave()
		delete(ms.all, tp)
		close(mv.done)
		return nil
	}
	queue, busy := ms.queues[dir]
	ms.queues[dir] = append(queue, mv)
	if !busy {
		ms.running.Go(func() { ms.run(dir) })
	}
	return nil
}

// run carries what goes to one directory until there is nothing more.
func (ms *moves) run(dir string) {
	for {
		ms.mu.Lock()
		queue := ms.queues[dir]
		if len(queue) == 0 {
			delete(ms.queues, dir)
			ms.mu.Unlock()
			return
		}
		mv := queue[0]
		ms.queues[dir] = slices.Delete(queue, 0, 1)
		ms.mu.Unlock()
		ms.finish(mv, ms.carry(mv))
	}
}

// carry copies the log and puts it in its new place. Appends go on meanwhile, but for
// the last of it.
func (ms *moves) carry(mv *move) error {
	for {
		if err := mv.copy.Copy(mv.ctx); err != nil {
			return err
		}
		if err := mv.ctx.Err(); err != nil {
			return err
		}
		if err := mv.p.relocate(mv.copy); !errors.Is(err, storage.ErrBehind) {
			return err
		}
	}
}

// finish cleans up after a move that succeeded, or failed with err.
func (ms *moves) finish(mv *move, err error) {
	log := ms.m.opts.Log.With().Stringer("partition", mv.p.TopicPartition()).Str("from", mv.copy.Log().Dir()).Str("to", mv.dir).Logger()
	switch {
	case err == nil:
		log.Info().Msg("a replica was moved to another log directory")
		if err := mv.copy.Finish(); err != nil {
			log.Error().Err(err).Msg("the old place of a replica that was moved cannot be cleared")
		}
	case ms.ctx.Err() != nil:
		mv.copy.Leave()
	default:
		if mv.ctx.Err() != nil {
			log.Info().Msg("a replica is no longer moved to another log directory")
		} else {
			log.Error().Err(err).Msg("a replica could not be moved to another log directory")
		}
		if err := mv.copy.Abandon(); err != nil {
			log.Error().Err(err).Msg("what was copied of a replica that is not moved cannot be removed")
		}
	}
	ms.forget(mv)
}

func (ms *moves) forget(mv *move) {
	mv.cancel()
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.all, mv.p.TopicPartition())
	close(mv.done)
}

// resume begins the moves anew that were under way when the broker stopped. It is
// called once, when the replicas are there, and does not wait for a disk.
func (ms *moves) resume() {
	left := ms.m.opts.Logs.Leftovers()
	if len(left) == 0 {
		return
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.closed {
		return
	}
	ms.running.Go(func() {
		for tp, dir := range left {
			p, err := ms.m.Partition(tp.Topic, tp.Partition)
			if err != nil || p.dir() == dir {
				continue
			}
			if err := ms.begin(p, dir); err != nil {
				ms.m.opts.Log.Error().Err(err).Stringer("partition", tp).Str("to", dir).Msg("a move to another log directory cannot be begun again")
			}
		}
		if ms.ctx.Err() == nil {
			ms.m.opts.Logs.DropLeftovers()
		}
	})
}

// movableLog is the log, if it can be used.
func (p *Partition) movableLog() (*storage.Log, error) {
	p.role.RLock()
	defer p.role.RUnlock()
	return p.usable()
}

// relocate puts the log in its new place, while no append or read is under way.
func (p *Partition) relocate(mv *storage.Move) error {
	p.role.Lock()
	defer p.role.Unlock()
	log, err := p.usable()
	if err != nil {
		return err
	}
	if log != mv.Log() {
		return fmt.Errorf("%w: %s has another log by now", kerr.ReplicaNotAvailable, p.TopicPartition())
	}
	if log, err = mv.Switch(); err != nil {
		return err
	}
	p.log.Store(log)
	return nil
}

// MoveStats tells of the moves of replicas between log directories.
type MoveStats struct {
	Moving int   // replicas on their way
	Bytes  int64 // copied since the start
}

// Moves counts the moves of replicas between log directories.
func (m *Manager) Moves() MoveStats {
	return MoveStats{len(m.opts.Logs.Moves()), m.opts.Logs.MovedBytes()}
}
