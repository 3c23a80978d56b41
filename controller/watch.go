package controller

import (
	"context"
	"errors"
	"time"

	"github.com/gregor-broker/gregor/metadata"
)

// relistDelay is how long the watch loop waits before it lists everything
// again after an error other than a compaction.
const relistDelay = 200 * time.Millisecond

// watchLoop keeps the newest image up with the store.
func (c *Controller) watchLoop() {
	for c.ctx.Err() == nil {
		at := c.newest.load().Revision
		err := c.follow(at + 1)
		if c.ctx.Err() != nil {
			return
		}
		if errors.Is(err, metadata.ErrCompacted) {
			c.log.Info().Int64("revision", at).Msg("metadata history was compacted, listing anew")
		} else {
			c.log.Error().Err(err).Msg("metadata watch failed, listing anew")
			c.pause(relistDelay)
		}
		next, err := c.relist()
		if err != nil {
			if c.ctx.Err() == nil {
				c.log.Error().Err(err).Msg("list metadata")
			}
			continue // and watch again from where we are
		}
		if next.Revision >= c.newest.load().Revision {
			c.learn(next)
		}
	}
}

func (c *Controller) pause(d time.Duration) { sleep(c.ctx, d) }

// sleep passes time, until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (c *Controller) relist() (*metadata.Image, error) {
	kvs, revision, err := c.opts.Store.Get(c.ctx, "")
	if err != nil {
		return nil, err
	}
	return metadata.FromKVs(kvs, revision)
}

// follow applies events from a revision on, until the watch ends.
func (c *Controller) follow(from int64) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	w := c.opts.Store.Watch(ctx, "", from)
	defer w.Close()
	for {
		select {
		case <-w.Ready():
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
		for {
			events, err := w.Take()
			if err != nil {
				return err
			}
			if len(events) == 0 {
				break
			}
			next, err := c.newest.load().Apply(events)
			if err != nil {
				return err
			}
			c.learn(next)
		}
	}
}

// learn makes img the newest, for decisions, and to be applied here.
func (c *Controller) learn(img *metadata.Image) {
	c.newest.set(img)
	token(c.fresh)
	c.signal()
}

// applyLoop has the subscribers apply the newest image and publishes it, each time
// there is one. It is the one goroutine that does: a subscriber that takes long, as
// with a disk that hangs, holds up neither the watch nor decisions.
func (c *Controller) applyLoop() {
	for {
		c.apply(c.newest.load())
		select {
		case <-c.fresh:
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Controller) apply(img *metadata.Image) {
	old := c.Image()
	if img == old {
		return
	}
	if delta := metadata.Diff(old, img); !delta.Empty() {
		for _, s := range c.subscribers {
			s(delta, img)
		}
		c.noteUnclean(delta, img)
	}
	if b := img.Broker(c.opts.NodeID); b != nil && b.Incarnation == c.opts.Incarnation {
		if img.Standing(b.ID, b.Incarnation) >= metadata.Fenced {
			c.brokerEpoch.Store(b.Epoch)
		}
	}
	c.published.set(img)
	c.signal() // what was applied is part of what this node says of itself
}

// noteUnclean logs and counts, on the node that is controller, the elections of
// leaders that may lack records which were acknowledged.
func (c *Controller) noteUnclean(delta *metadata.Delta, img *metadata.Image) {
	if img.ControllerID() != c.opts.NodeID {
		return
	}
	for _, d := range delta.Topics {
		if d.New == nil || d.Old == nil {
			continue
		}
		for _, n := range d.Partitions {
			p := d.New.Partitions[n]
			if !p.Recovering || int(n) >= len(d.Old.Partitions) || d.Old.Partitions[n].LeaderEpoch == p.LeaderEpoch {
				continue
			}
			c.unclean.Add(1)
			c.log.Warn().Str("topic", d.New.Name).Int32("partition", n).Int32("leader", p.Leader).Int32("leader_epoch", p.LeaderEpoch).
				Msg("elected a leader that may lack acknowledged records")
		}
	}
}

// UncleanElections is how many leaders this node, as controller, has seen elected
// that may lack records which were acknowledged.
func (c *Controller) UncleanElections() int64 { return c.unclean.Load() }
