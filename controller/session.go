package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/metadata"
)

// session is this node's lease and what hangs on it. It belongs to the
// decision loop.
//
// The lease only tells others that this process is gone. Nothing that this
// process does relies on still having it: every write compares revisions.
type session struct {
	lease metadata.LeaseID
	// lost closes when the lease is gone; nil without a lease.
	lost <-chan struct{}
	// stop ends the keeping alive.
	stop context.CancelFunc
	// fence is the create revision of our key as controller, 0 if we are not.
	fence int64
}

// ensureSession has a lease, or gets one.
func (c *Controller) ensureSession() error {
	s := &c.session
	if s.lost != nil {
		select {
		case <-s.lost:
			if err := c.ctx.Err(); err != nil {
				return err // we are closing; Close gives the session up
			}
			c.log.Warn().Msg("metadata session lost")
			c.isolated.Store(true)
			s.stop()
			*s = session{}
		default:
			return nil
		}
	}
	lease, err := c.opts.Store.Grant(c.ctx, c.opts.SessionTimeout)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(c.ctx)
	lost, err := c.opts.Store.KeepAlive(ctx, lease)
	if err != nil {
		stop()
		return err
	}
	*s = session{lease: lease, lost: lost, stop: stop}
	c.isolated.Store(false)
	return nil
}

// Isolated says that this node has lost its session and could not begin another
// one yet, so that it may have been fenced without knowing. A node whose session
// is lost to the others only is not told so by this: nothing that must not
// happen may rest on it (rule 3).
func (c *Controller) Isolated() bool { return c.isolated.Load() }

// liveness returns what this broker should say of itself.
func (c *Controller) liveness(img *metadata.Image) metadata.Liveness {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Ready: the published image shows the granted registration, so that all
	// subscribers have applied it; the logs were recovered before Start.
	ready := c.Image().Standing(c.opts.NodeID, c.opts.Incarnation) >= metadata.Fenced
	return metadata.Liveness{Incarnation: c.opts.Incarnation, Ready: ready, Stopping: c.stopping, Offline: c.offline}
}

// SetOffline tells the cluster which replicas of this broker cannot be served
// because their log directories failed; it replaces what was told before. Others
// take over the leadership of these partitions, as if the broker were down for
// them. It does not block.
//
// An error says that there are more of them than the store takes, and that nothing
// was told: then the broker must end, or it would lead what it cannot serve.
func (c *Controller) SetOffline(replicas metadata.Replicas) error {
	told := metadata.Live(metadata.Empty(), c.opts.NodeID, metadata.Liveness{Incarnation: c.opts.Incarnation, Offline: replicas}, 0)
	most := c.opts.Store.Limits().Bytes
	if size := sizeOf([]metadata.Change{told}); size > most-most/8 { // a registration may go along
		return fmt.Errorf("controller: telling which replicas are offline takes %d bytes: %w", size, metadata.ErrTxnTooLarge)
	}
	c.mu.Lock()
	c.offline = replicas
	c.mu.Unlock()
	c.signal()
	return nil
}

// knownDead says whether a predecessor of this process cannot be running.
func (c *Controller) knownDead(incarnation metadata.ID) bool {
	return incarnation != c.opts.Incarnation && (c.opts.Exclusive || slices.Contains(c.opts.Dead, incarnation))
}

// presenceChanges returns what this broker has to write to be registered and
// seen alive; nil if nothing, or if it has to wait for a predecessor's session
// to end.
func (c *Controller) presenceChanges(img *metadata.Image) []metadata.Change {
	id := c.opts.NodeID
	other, alive := img.Alive(id)
	alive = alive && other != c.opts.Incarnation
	if alive && c.knownDead(other) || img.ControllerID() == id && c.knownDead(img.ControllerIncarnation()) {
		return metadata.Bury(img, id)
	}
	if alive || c.opts.ControllerOnly {
		return nil
	}
	var changes []metadata.Change
	if img.Standing(id, c.opts.Incarnation) == metadata.Unregistered {
		changes = metadata.Register(img, metadata.Registration{
			ID: id, Incarnation: c.opts.Incarnation, Rack: c.opts.Rack,
			Endpoints: c.opts.Endpoints, PreviousEpoch: c.opts.PreviousBrokerEpoch,
		})
	}
	if live := c.liveness(img); !img.Says(id, live, c.session.lease) {
		changes = append(changes, metadata.Live(img, id, live, c.session.lease))
	}
	return changes
}

// buryTimeout bounds the first attempt to end a dead process's session.
const buryTimeout = 100 * time.Millisecond

// DeclareDead ends the session of another node's process that was seen to be
// gone, so that what follows need not wait until it has run out: the controller
// fences the broker as if it had. Whoever was declared dead wrongly gives a new
// sign of life; nothing rests on the declaration being true.
func (c *Controller) DeclareDead(ctx context.Context, id int32, incarnation metadata.ID) error {
	for timeout := buryTimeout; ; timeout = min(2*timeout, minTxnTimeout) {
		img := c.newest.load()
		if now, alive := img.Alive(id); alive && now != incarnation {
			return nil
		}
		if img.ControllerID() == id && img.ControllerIncarnation() != incarnation {
			return nil
		}
		changes := metadata.Bury(img, id)
		if len(changes) == 0 {
			return nil
		}
		// The dead process may have led the store's members: what they were
		// asked in that moment is lost, and nobody says so.
		short, cancel := context.WithTimeout(ctx, timeout)
		result, err := c.opts.Store.Txn(short, metadata.TxnOf(nil, changes))
		cancel()
		switch {
		case err == nil && result.Succeeded:
			return nil
		case ctx.Err() != nil || c.ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case errors.Is(err, metadata.ErrLeaderChanged), errors.Is(err, context.DeadlineExceeded):
			continue // nobody answered
		}
		// Somebody was faster.
		_ = c.awaitNews(img.Revision)
	}
}
