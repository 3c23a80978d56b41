package handler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// Markers ends transactions: it writes their markers to the partitions that
// took part, wherever those are led, and then tells the coordinator.
//
// A transaction that is decided must end, so markers are tried until they are
// written. One goroutine does that for each transaction and there is never more
// than one for a transactional id: a second one would write its markers late,
// maybe into the next transaction of a producer that keeps its epoch.
type Markers struct {
	o   MarkersOptions
	ctx context.Context //nolint:containedctx // ends all retries, whoever asked for them
	end context.CancelFunc
	wg  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// jobs are the transactions under way, by transactional id.
	jobs map[string]*markerJob
	// since is, by partition of the coordinator's topic, the first coordinator
	// epoch whose markers are not another broker's, or another job's, to write.
	since map[int32]int32
}

// MarkersOptions is what Markers works with.
type MarkersOptions struct {
	NodeID     int32
	Image      func() *metadata.Image
	Partitions *replication.Manager
	Groups     Groups
	// Transactions is told when all markers are written.
	Transactions Transactions
	// Peers reaches the leaders of other partitions; may be nil.
	Peers Peers
	Now   func() time.Time
	Log   zerolog.Logger
	// Timeout is how long a marker may take to be committed before it is tried
	// again.
	Timeout time.Duration
}

type markerJob struct {
	txn.SendMarkers
	partition, coordinatorEpoch int32

	cancel context.CancelFunc
	done   chan struct{}
}

// NewMarkers returns Markers that work until Close.
func NewMarkers(o MarkersOptions) *Markers {
	m := &Markers{o: o, jobs: make(map[string]*markerJob), since: make(map[int32]int32)}
	m.ctx, m.end = context.WithCancel(context.Background())
	return m
}

// Close ends all retries. What is not written by then is asked for again when
// the coordinator's shard is loaded the next time.
func (m *Markers) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.end()
	m.wg.Wait()
}

// Send has the markers of a transaction written, decided by the coordinator's
// shard of a partition in a leader epoch. It does not block. A job that is under
// way for the same transactional id is ended first.
func (m *Markers) Send(partition, coordinatorEpoch int32, what txn.SendMarkers) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || coordinatorEpoch < m.since[partition] {
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	j := &markerJob{SendMarkers: what, partition: partition, coordinatorEpoch: coordinatorEpoch, cancel: cancel, done: make(chan struct{})}
	before := m.jobs[what.TransactionalID]
	m.jobs[what.TransactionalID] = j
	m.wg.Go(func() {
		defer m.finished(j)
		if before != nil {
			before.cancel()
			<-before.done
			if !m.pending(ctx, j) {
				return
			}
		}
		m.run(ctx, j)
	})
}

// Leadership ends what shards of before asked for: who coordinates the transactions now
// asks for the markers of all that are not completed. A job that went on could write
// its markers when they are long written, and a partition need not know of that: one
// whose topic was created again does not know the newer coordinator's epoch. It is to
// be told before the coordinator is, and does not block.
func (m *Markers) Leadership(c replication.LeadershipChange) {
	if c.Partition.Topic() != TransactionsTopic {
		return
	}
	since := c.Epoch
	if !c.Leader {
		since++
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !c.Leader && since <= m.since[c.Partition.Index()] {
		return // news about the past
	}
	m.since[c.Partition.Index()] = since
	for _, j := range m.jobs {
		if j.partition == c.Partition.Index() && j.coordinatorEpoch < since {
			j.cancel()
		}
	}
}

func (m *Markers) finished(j *markerJob) {
	j.cancel()
	m.mu.Lock()
	if m.jobs[j.TransactionalID] == j {
		delete(m.jobs, j.TransactionalID)
	}
	m.mu.Unlock()
	close(j.done)
}

// Pending counts the transactions whose markers are not all written.
func (m *Markers) Pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.jobs)
}

const (
	markerBackoff    = 10 * time.Millisecond
	markerMaxBackoff = time.Second
)

// run writes until nothing is left, then completes.
func (m *Markers) run(ctx context.Context, j *markerJob) {
	left := j.Partitions
	backoff := markerBackoff
	for {
		var fenced bool
		if left, fenced = m.writeAll(ctx, j, left); fenced {
			m.log(j).Warn().Msg("another broker coordinates the transaction now: its markers are that one's to write")
			return
		}
		if ctx.Err() != nil {
			return
		}
		if len(left) == 0 && !m.complete(ctx, j) {
			return
		}
		if !waited(ctx, &backoff) {
			return
		}
	}
}

// waited waits before something is tried again, each time longer, and says whether
// it is to be.
func waited(ctx context.Context, backoff *time.Duration) bool {
	select {
	case <-time.After(*backoff):
	case <-ctx.Done():
		return false
	}
	*backoff = min(2**backoff, markerMaxBackoff)
	return true
}

func (m *Markers) log(j *markerJob) *zerolog.Logger {
	l := m.o.Log.With().Str("transactional_id", j.TransactionalID).Int64("producer_id", j.ProducerID).Int16("epoch", j.Epoch).Logger()
	return &l
}

// pending tells whether a transaction still waits for its markers. A shard that was
// loaded asks for all that it found undone, and the job of before may have completed
// it since: markers that are written once more then would end the next transaction
// of a producer that keeps its epoch.
func (m *Markers) pending(ctx context.Context, j *markerJob) bool {
	backoff := markerBackoff
	for {
		answer, err := m.o.Transactions.Call(ctx, j.partition, func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
			return s.Pending(now, t, j.completion())
		})
		if !triedAgain(err) {
			is, _ := answer.(bool)
			return is
		}
		if !waited(ctx, &backoff) {
			return false
		}
	}
}

func (j *markerJob) completion() txn.Completion {
	return txn.Completion{
		TransactionalID: j.TransactionalID, ProducerID: j.ProducerID, Epoch: j.Epoch, Commit: j.Commit, DecidedMs: j.DecidedMs,
	}
}

// triedAgain tells which errors of a shard pass without its being loaded anew, when
// it would ask again.
func triedAgain(err error) bool {
	return errors.Is(err, kerr.CoordinatorLoadInProgress) || errors.Is(err, kerr.NotEnoughReplicas)
}

// complete tells the coordinator and says whether to try that again, as while too
// few replicas of its log are in sync. If the shard is gone or loads its log again,
// it will ask for the markers once more.
func (m *Markers) complete(ctx context.Context, j *markerJob) (again bool) {
	_, err := m.o.Transactions.Call(ctx, j.partition, func(s *txn.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		return s.Complete(now, t, j.completion())
	})
	if err != nil && ctx.Err() == nil {
		m.log(j).Info().Err(err).Msg("transaction is not completed")
	}
	return triedAgain(err)
}

// writeAll writes the markers of a transaction to partitions and returns those
// that have none yet. fenced: there is a newer coordinator.
func (m *Markers) writeAll(ctx context.Context, j *markerJob, tps []txn.TopicPartition) (left []txn.TopicPartition, fenced bool) {
	marker := runtime.Marker{
		Producer: runtime.Producer{ID: j.ProducerID, Epoch: j.Epoch}, Commit: j.Commit,
		CoordinatorEpoch: j.coordinatorEpoch, Version: j.Version,
	}
	img := m.o.Image()
	if !knowsCoordinator(img, j) {
		return tps, false
	}
	byLeader := make(map[int32][]txn.TopicPartition)
	for _, tp := range tps {
		if !hasPartition(img, tp.Topic, tp.Partition) || tp.Topic == TransactionsTopic {
			// Deleted, and the transaction's records with it; or of a coordinator's
			// own log, which an older version let into a transaction.
			continue
		}
		leader, _ := leaderOf(img.Topic(tp.Topic), tp.Partition)
		byLeader[leader] = append(byLeader[leader], tp)
	}
	for _, w := range m.writeToLeaders(ctx, img, marker, byLeader) {
		tps := w.partitions
		for i, err := range w.errs {
			switch {
			case err == nil:
			case errors.Is(err, kerr.TransactionCoordinatorFenced):
				fenced = true
			case errors.Is(err, kerr.InvalidProducerEpoch):
				// The partition has seen a later epoch, which only comes after
				// this transaction's end.
				m.log(j).Info().Err(err).Str("topic", tps[i].Topic).Int32("partition", tps[i].Partition).
					Msg("the transaction has ended already on a partition")
			default:
				if ctx.Err() == nil {
					m.log(j).Debug().Err(err).Str("topic", tps[i].Topic).Int32("partition", tps[i].Partition).Msg("marker is not written")
				}
				left = append(left, tps[i])
			}
		}
	}
	return left, fenced
}

// written is what became of the markers for one leader's partitions.
type written struct {
	partitions []txn.TopicPartition
	errs       []error
}

// writeToLeaders writes to all leaders at the same time: those of one that hangs are
// not to keep the others' readers waiting.
func (m *Markers) writeToLeaders(ctx context.Context, img *metadata.Image, marker runtime.Marker, byLeader map[int32][]txn.TopicPartition) []written {
	all := make([]written, 0, len(byLeader))
	var writes sync.WaitGroup
	for leader, tps := range byLeader {
		all = append(all, written{partitions: tps})
		w := &all[len(all)-1] // all has its room already
		writes.Go(func() {
			switch {
			case leader == m.o.NodeID:
				w.errs = m.Write(ctx, marker, tps)
			case leader < 0 || m.o.Peers == nil:
				w.errs = same(make([]error, len(tps)), kerr.LeaderNotAvailable)
			default:
				w.errs = m.writeRemotely(ctx, leader, marker, tps, meantSince(img, tps))
			}
		})
	}
	writes.Wait()
	return all
}

// knowsCoordinator tells whether an image is as new as the coordinator that sent
// the job. One that is older may lack a partition which exists: a coordinator
// begins its work while metadata is being applied, and is in the image only
// afterwards. In one that is as new, what is missing was deleted, because a
// partition exists before it takes part in a transaction.
func knowsCoordinator(img *metadata.Image, j *markerJob) bool {
	t := img.Topic(TransactionsTopic)
	return t != nil && int(j.partition) < len(t.Partitions) && t.Partitions[j.partition].LeaderEpoch >= j.coordinatorEpoch
}

// Write writes a marker to partitions that this broker leads and waits until it
// is committed. It returns an error for each partition.
func (m *Markers) Write(ctx context.Context, marker runtime.Marker, tps []txn.TopicPartition) []error {
	errs := make([]error, len(tps))
	parts := make([]int, len(tps))
	var wait replication.ProduceWait
	var groups sync.WaitGroup // each waits for its own partition, and the others not for it
	for i, tp := range tps {
		parts[i] = -1
		p, err := m.o.Partitions.Partition(tp.Topic, tp.Partition)
		if err != nil {
			errs[i] = err
			continue
		}
		if tp.Topic == TransactionsTopic {
			continue // where nothing is ever open, and only the coordinator may write
		}
		if tp.Topic == OffsetsTopic {
			groups.Go(func() { errs[i] = m.writeToGroup(ctx, p, marker) })
			continue
		}
		end, err := m.append(p, marker)
		if err != nil {
			errs[i] = err
			continue
		}
		parts[i] = wait.Add(p, end)
	}
	wait.Wait(ctx, m.o.Timeout)
	groups.Wait()
	for i, part := range parts {
		if part >= 0 {
			errs[i] = wait.Err(part)
		}
	}
	return errs
}

// append writes a marker as a control batch and returns the offset behind it.
func (m *Markers) append(p *replication.Partition, marker runtime.Marker) (end int64, err error) {
	now := m.o.Now()
	kind := protocol.ControlAbort
	if marker.Commit {
		kind = protocol.ControlCommit
	}
	const acksAll = -1
	res, err := p.Append(protocol.AppendControlBatch(nil, protocol.ControlParams{
		TimestampMs: now.UnixMilli(), ProducerID: marker.Producer.ID, ProducerEpoch: marker.Producer.Epoch,
		Type: kind, CoordinatorEpoch: marker.CoordinatorEpoch,
	}), replication.AppendOptions{Acks: acksAll, Origin: storage.Coordinator, Now: now, TxnVersion: marker.Version})
	return res.LastOffset + 1, err
}

// writeToGroup ends a transaction on a partition of __consumer_offsets, which
// only the group coordinator writes to.
func (m *Markers) writeToGroup(ctx context.Context, p *replication.Partition, marker runtime.Marker) error {
	if m.o.Groups == nil {
		return kerr.CoordinatorNotAvailable
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.o.Timeout, kerr.RequestTimedOut)
	defer cancel()
	_, err := m.o.Groups.Call(ctx, p.Index(), func(s *group.Shard, now time.Time, t runtime.Ticket) runtime.Result {
		r := s.EndTransaction(now, t, marker)
		// A refusal by the log would throw away the shard.
		r.Check = func() error {
			return p.CheckMarker(marker.Producer.ID, marker.Producer.Epoch, marker.CoordinatorEpoch, marker.Version)
		}
		return r
	})
	return notInTime(ctx, err)
}

func (m *Markers) writeRemotely(ctx context.Context, leader int32, marker runtime.Marker, tps []txn.TopicPartition, since int64) []error {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Version = 2
	tagSince(&req.UnknownTags, since)
	rm := kmsg.NewWriteTxnMarkersRequestMarker()
	rm.ProducerID, rm.ProducerEpoch, rm.Committed = marker.Producer.ID, marker.Producer.Epoch, marker.Commit
	rm.CoordinatorEpoch, rm.TransactionVersion = marker.CoordinatorEpoch, int8(marker.Version)
	for _, tp := range tps {
		rt := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		rt.Topic, rt.Partitions = tp.Topic, []int32{tp.Partition}
		rm.Topics = append(rm.Topics, rt)
	}
	req.Markers = append(req.Markers, rm)
	errs := same(make([]error, len(tps)), kerr.NetworkException)
	ctx, cancel := while(ctx, func() bool {
		img := m.o.Image()
		return slices.ContainsFunc(tps, func(tp txn.TopicPartition) bool {
			now, _ := leaderOf(img.Topic(tp.Topic), tp.Partition)
			return now == leader
		})
	})
	defer cancel()
	answer, err := m.o.Peers.Request(ctx, leader, req)
	resp, ok := answer.(*kmsg.WriteTxnMarkersResponse)
	if err != nil || !ok {
		return same(errs, fmt.Errorf("%w: broker %d: %w", kerr.NetworkException, leader, err))
	}
	said := make(map[txn.TopicPartition]int16)
	for _, rm := range resp.Markers {
		for _, rt := range rm.Topics {
			for _, rp := range rt.Partitions {
				said[txn.TopicPartition{Topic: rt.Topic, Partition: rp.Partition}] = rp.ErrorCode
			}
		}
	}
	for i, tp := range tps {
		if code, ok := said[tp]; ok {
			errs[i] = kerr.ErrorForCode(code)
		}
	}
	return errs
}
