package controller

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
)

// The names of what any node is asked.
const (
	callApplied = "Applied"
	callLogEnds = "LogEnds"
)

const (
	// appliedTimeout bounds one question whether a node has applied a revision,
	// and appliedPause is the time between two.
	appliedTimeout = time.Second
	appliedPause   = 20 * time.Millisecond
	// appliedLimit bounds all of them: a broker that hangs, or that others alone
	// reach, must not hold up a shutdown until it is killed.
	appliedLimit = 3 * time.Second
	// logEndsTimeout is what unclean elections wait for the brokers' word.
	logEndsTimeout = time.Second
)

// reach asks a broker and decodes its answer.
func reach[R any](ctx context.Context, c *Controller, broker int32, name string, args any) (result R, err error) {
	message, err := encodeCall(ctx, name, args, false)
	if err != nil {
		return result, err
	}
	answer, err := decodeAnswer(c.opts.Call(ctx, broker, message))
	if err != nil {
		return result, err
	}
	return result, json.Unmarshal(answer.Results, &result)
}

func answerCall[A, R any](ctx context.Context, m callMessage, do func(context.Context, A) (R, error)) callAnswer {
	var args A
	if err := json.Unmarshal(m.Args, &args); err != nil {
		return callAnswer{Code: kerr.InvalidRequest.Code}
	}
	result, err := do(ctx, args)
	if err != nil {
		return callAnswer{Code: codeOf(err)}
	}
	encoded, err := json.Marshal(result)
	if err != nil {
		return callAnswer{Code: kerr.UnknownServerError.Code}
	}
	return callAnswer{Results: encoded}
}

type appliedArgs struct{ Revision int64 }

// answerApplied answers once this node's subscribers have applied a revision.
func (c *Controller) answerApplied(ctx context.Context, a appliedArgs) (bool, error) {
	if err := c.published.awaitRevision(ctx, a.Revision); err != nil {
		return false, kerr.RequestTimedOut
	}
	return true, nil
}

// awaitApplied returns when every other broker has applied a revision, or is not
// up any more, or none that is left has said so within appliedLimit.
func (c *Controller) awaitApplied(ctx context.Context, revision int64) {
	if c.opts.Call == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, appliedLimit)
	defer cancel()
	var wg sync.WaitGroup
	for _, b := range c.Image().Brokers() {
		if b.ID != c.opts.NodeID && b.Active() {
			wg.Go(func() { c.awaitAppliedBy(ctx, b, revision) })
		}
	}
	wg.Wait()
	if ctx.Err() != nil {
		c.log.Warn().Msg("stopping though not every broker is known to have heard who leads now")
	}
}

func (c *Controller) awaitAppliedBy(ctx context.Context, b *metadata.Broker, revision int64) {
	// Who is fenced, or another process by now, is told of the leaders when it
	// comes back.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = c.newest.await(ctx, func(img *metadata.Image) bool {
			now := img.Broker(b.ID)
			return now == nil || !now.Active() || now.Incarnation != b.Incarnation
		})
		cancel()
	}()
	for ctx.Err() == nil {
		short, done := context.WithTimeout(ctx, appliedTimeout)
		_, err := reach[bool](short, c, b.ID, callApplied, appliedArgs{revision})
		done()
		if err == nil || errors.Is(err, kerr.UnsupportedVersion) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
			break // an older version does not know the question
		}
		c.log.Debug().Err(err).Int32("broker", b.ID).Msg("not known to have applied what was handed over")
		sleep(ctx, appliedPause)
	}
	cancel()
	<-gone
}

// ReplicaEnd is how far this broker's log of a partition goes. Known is false where
// it has none, or none that can be read.
type ReplicaEnd struct {
	metadata.LogEnd
	Known bool
}

type logEndsArgs struct{ Partitions []metadata.PartitionID }

// answerLogEnds says how far the logs of this node go, in the order asked for.
func (c *Controller) answerLogEnds(_ context.Context, a logEndsArgs) ([]ReplicaEnd, error) {
	if c.opts.LogEnds == nil {
		return nil, kerr.UnsupportedVersion
	}
	return c.opts.LogEnds(a.Partitions), nil
}

// askLogEnds asks the brokers for their logs of partitions of which one replica
// must be chosen without any being known to have all committed records; see
// metadata.UncleanElections. Who does not answer in time is only chosen where
// nobody does.
func (c *Controller) askLogEnds(asked map[int32][]metadata.PartitionID) {
	c.env.LogEnds = nil
	if len(asked) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, logEndsTimeout)
	defer cancel()
	known := metadata.LogEnds{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for broker, partitions := range asked {
		wg.Go(func() {
			ends, err := c.logEndsOf(ctx, broker, partitions)
			if err != nil || len(ends) != len(partitions) {
				c.log.Warn().Err(err).Int32("broker", broker).Msg("unclean election without knowing a broker's logs")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, id := range partitions {
				if known[id] == nil {
					known[id] = map[int32]metadata.LogEnd{}
				}
				if ends[i].Known {
					known[id][broker] = ends[i].LogEnd
				}
			}
		})
	}
	wg.Wait()
	c.env.LogEnds = known
}

func (c *Controller) logEndsOf(ctx context.Context, broker int32, partitions []metadata.PartitionID) ([]ReplicaEnd, error) {
	args := logEndsArgs{partitions}
	switch {
	case broker == c.opts.NodeID:
		return c.answerLogEnds(ctx, args)
	case c.opts.Call == nil:
		return nil, errUnanswered
	}
	return reach[[]ReplicaEnd](ctx, c, broker, callLogEnds, args)
}
