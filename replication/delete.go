package replication

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// DeleteToHighWatermark asks DeleteRecords to delete all that is committed.
const DeleteToHighWatermark = -1

// DeleteRecords makes the records below before unreadable on this replica, the
// leader, at once; the returned wait ends when the other replicas followed.
//
// Errors: OFFSET_OUT_OF_RANGE (negative or above the high watermark),
// POLICY_VIOLATION (a topic that is only compacted), INVALID_TOPIC_EXCEPTION
// (internal), NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR.
func (p *Partition) DeleteRecords(before int64) (*LowWatermarkWait, error) {
	if p.internal {
		return nil, fmt.Errorf("%w: cannot delete records of internal topic %s", kerr.InvalidTopicException, p.topic)
	}
	p.role.RLock()
	defer p.role.RUnlock()
	log, err := p.leads()
	if err != nil {
		return nil, err
	}
	if cfg := log.Config(); cfg.Compact && !cfg.Delete {
		return nil, fmt.Errorf("%w: the cleanup policy of %s does not delete", kerr.PolicyViolation, p.TopicPartition())
	}
	if before == DeleteToHighWatermark {
		before = p.highWatermark()
	}
	if before < 0 {
		return nil, fmt.Errorf("%w: %d is no offset", kerr.OffsetOutOfRange, before)
	}
	if err := log.SetLogStartOffset(before); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := p.watches; n != nil; n = n.next {
		n.w.push(n, 0, false) // the next response carries the new log start
	}
	w := &LowWatermarkWait{p: p, target: before, done: make(chan struct{})}
	p.lows = append(p.lows, w)
	p.lowMoved()
	return w, nil
}

// LowWatermarkWait waits until no replica that is up has records below an
// offset any more.
type LowWatermarkWait struct {
	p      *Partition
	target int64
	// done is closed, under p.mu, after low and err were set.
	done chan struct{}
	low  int64
	err  error
}

// Wait returns the low watermark, the smallest log start offset among the
// replicas that are up, once that has reached what was deleted up to. If ctx
// ends first it is REQUEST_TIMED_OUT; the records are deleted all the same.
func (w *LowWatermarkWait) Wait(ctx context.Context) (int64, error) {
	select {
	case <-w.done: // the timeout may be 0
		return w.low, w.err
	default:
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		w.p.dropLow(w)
		return Unknown, kerr.RequestTimedOut
	}
	return w.low, w.err
}

func (w *LowWatermarkWait) finish(low int64, err error) {
	w.low, w.err = low, err
	close(w.done)
}

// lowMoved ends the waits that the low watermark has reached. The caller holds
// role and mu.
func (p *Partition) lowMoved() {
	if len(p.lows) == 0 {
		return
	}
	low := p.log.Load().LogStartOffset()
	for _, r := range p.followers {
		if p.eligible(r.ID) {
			low = min(low, r.LogStart)
		}
	}
	p.lows = slices.DeleteFunc(p.lows, func(w *LowWatermarkWait) bool {
		if low < w.target {
			return false
		}
		w.finish(low, nil)
		return true
	})
}

// failLows ends all waits. The caller holds mu.
func (p *Partition) failLows(err error) {
	for _, w := range p.lows {
		w.finish(Unknown, err)
	}
	p.lows = nil
}

func (p *Partition) dropLow(w *LowWatermarkWait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lows = slices.DeleteFunc(p.lows, func(x *LowWatermarkWait) bool { return x == w })
}
