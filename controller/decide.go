package controller

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
)

// defaultRetryDelay is how long the decision loop waits after an error of the store.
const defaultRetryDelay = 100 * time.Millisecond

// minTxnTimeout bounds a transaction. Its outcome is then unknown, and the same
// compares are tried again, with twice the time up to maxTxnTimeout. It is short
// because members of the store that lose their leader forget what they were
// asked, without a word.
const (
	minTxnTimeout = 400 * time.Millisecond
	maxTxnTimeout = 5 * time.Second
)

// errConflict says that a transaction's compares did not hold: the decision
// was made on an image that is no longer true.
var errConflict = errors.New("controller: metadata changed meanwhile")

// request is one call that waits for the decision loop.
type request struct {
	ctx context.Context
	// decide makes the plans for the request on an image, and keeps the
	// results for when they are in the store. It may be called again, on a
	// later image; retried says that the plans of an earlier call may have
	// been carried out without our learning of it. ok says that no part of
	// the request was answered with an error.
	decide func(img *metadata.Image, retried bool) (plans []metadata.Plan, ok bool)
	// done receives the decision once the plans are in the store.
	done    chan decided
	retried bool
	// elects says that the plans change what elections depend on.
	elects bool
	// refused requests have been answered with an error.
	refused bool
}

// decided is what became of a request: an error, or the revision of an image that
// shows what was done.
type decided struct {
	revision int64
	err      error
}

// sweepState remembers of which brokers all partitions were swept.
type sweepState struct {
	brokers []*metadata.Broker
	fence   int64
}

// submit queues a request for the decision loop and waits for it. It returns the
// revision of an image that shows what was done.
func (c *Controller) submit(r *request) (int64, error) {
	r.done = make(chan decided, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, kerr.BrokerNotAvailable
	}
	c.queue = append(c.queue, r)
	c.mu.Unlock()
	c.signal()
	select {
	case d := <-r.done:
		return d.revision, d.err
	case <-r.ctx.Done():
		// The loop may be at it, so that the outcome is open.
		return 0, kerr.RequestTimedOut
	}
}

// takeQueue returns the requests that are still waited for.
func (c *Controller) takeQueue() []*request {
	c.mu.Lock()
	defer c.mu.Unlock()
	var taken []*request
	for _, r := range c.queue {
		if r.ctx.Err() == nil {
			taken = append(taken, r)
		}
	}
	c.queue = nil
	return taken
}

// putBack returns requests that were not answered to the head of the queue.
func (c *Controller) putBack(rs []*request) {
	rs = slices.DeleteFunc(slices.Clone(rs), func(r *request) bool { return r.refused })
	if len(rs) == 0 {
		return
	}
	c.mu.Lock()
	c.queue = append(rs, c.queue...)
	c.mu.Unlock()
	c.signal()
}

func (c *Controller) failQueue() {
	for _, r := range c.takeQueue() {
		r.done <- decided{err: kerr.BrokerNotAvailable}
	}
}

// decisionLoop keeps this node present and, while it is the controller, makes
// the metadata what requests and the state of the brokers ask for. Every turn
// looks at the newest image and does what it finds to do; nothing is
// remembered that the image does not say, but for how long brokers have been up, so
// that a turn that failed, or that another controller left unfinished, is simply done
// again.
func (c *Controller) decisionLoop() {
	var rebalance <-chan time.Time
	var timer *time.Timer
	if c.opts.RebalanceInterval > 0 {
		timer = time.NewTimer(c.opts.RebalanceInterval)
		defer timer.Stop()
		rebalance = timer.C
	}
	for {
		var lost <-chan struct{}
		if c.session.lost != nil {
			lost = c.session.lost
		}
		select {
		case <-c.wake:
		case <-lost:
		case <-rebalance:
			c.rebalance = true
		case <-c.ctx.Done():
			return
		}
		err := c.turn()
		if c.rebalanceIn > 0 {
			timer.Reset(c.rebalanceIn)
			c.rebalanceIn = 0
		}
		switch {
		case c.ctx.Err() != nil:
			return
		case errors.Is(err, errConflict):
			c.signal()
		case errors.Is(err, metadata.ErrLeaderChanged):
			c.log.Info().Err(err).Msg("writing metadata again")
			c.signal()
		case err != nil:
			c.log.Error().Err(err).Msg("metadata store")
			c.pause(c.retryDelay)
			c.signal()
		}
	}
}

// turn does all there is to do on the newest image and what follows from it. That
// image has what the turn before wrote, also if it ended with an error.
func (c *Controller) turn() error {
	if err := c.ensureSession(); err != nil {
		return err
	}
	img, err := c.awaitRevision(c.lastWrite)
	if err != nil {
		return err
	}
	for {
		changes := c.presenceChanges(img)
		if len(changes) == 0 {
			break
		}
		next, err := c.commit(img, changes)
		if err != nil {
			return err
		}
		img = next
	}
	c.arrivals.note(img.Brokers(), time.Now())
	img, active, err := c.ensureElected(img)
	if err != nil {
		return err
	}
	if !active {
		c.refuseQueue(img)
		if c.rebalance {
			c.rebalance, c.rebalanceIn = false, c.opts.RebalanceInterval
		}
		return nil
	}
	if img, err = c.tendBrokers(img); err != nil {
		return err
	}
	if c.rebalance {
		plans, again := c.giveBack(img, time.Now())
		if len(plans) > 0 {
			c.log.Info().Int("partitions", len(plans)).Msg("giving partitions back to their preferred leaders")
		}
		if img, err = c.carryOut(img, plans); err != nil {
			return err
		}
		c.rebalance, c.rebalanceIn = false, again
	}
	if orphans := metadata.Orphans(img); len(orphans) > 0 {
		if img, err = c.commitAll(img, orphans); err != nil {
			return err
		}
	}
	return c.serveQueue(img)
}

// ensureElected stands for election if there is no controller, and says whether
// this node is it.
func (c *Controller) ensureElected(img *metadata.Image) (*metadata.Image, bool, error) {
	s := &c.session
	if c.opts.BrokerOnly {
		return img, false, nil
	}
	if changes := metadata.Elect(img, c.opts.NodeID, c.opts.Incarnation, c.opts.Address, s.lease); changes != nil {
		next, err := c.commit(img, changes)
		if err != nil {
			return img, false, err
		}
		img = next
	}
	// We are what the store says we are, even if the answer to our own
	// election was lost.
	was := s.fence
	s.fence = 0
	if img.ControllerID() == c.opts.NodeID && img.ControllerIncarnation() == c.opts.Incarnation {
		s.fence = img.ControllerFence()
	}
	if s.fence != 0 && s.fence != was {
		c.log.Info().Int32("epoch", img.ControllerEpoch()).Msg("elected controller")
	}
	return img, s.fence != 0, nil
}

// tendBrokers fences, grants and unfences, one broker at a time, each followed
// by what it means for the partitions.
func (c *Controller) tendBrokers(img *metadata.Image) (*metadata.Image, error) {
	for {
		if !c.isSwept(img) {
			swept := img
			asked := metadata.UncleanElections(img, &c.env, false)
			if len(asked) > 0 {
				// Who can be elected without losing anything need not wait for that.
				next, err := c.commitAll(img, metadata.CleanSweep(img, &c.env))
				if err != nil {
					return img, err
				}
				img = next
			}
			c.askLogEnds(asked)
			next, err := c.commitAll(img, metadata.Sweep(img, &c.env))
			if err != nil {
				return img, err
			}
			img = next
			c.swept = sweepState{brokers: swept.Brokers(), fence: c.session.fence}
			continue // the brokers may have changed meanwhile
		}
		plan := metadata.NextBrokerChange(img)
		if plan.Empty() {
			return img, nil
		}
		var err error
		if img, err = c.carryOut(img, []metadata.Plan{plan}); err != nil {
			return img, err
		}
	}
}

// isSwept says whether the partitions were swept since we were elected and
// since the brokers changed. Equal brokers are the same slice.
func (c *Controller) isSwept(img *metadata.Image) bool {
	if c.swept.fence != c.session.fence || len(c.swept.brokers) != len(img.Brokers()) {
		return false
	}
	for i, b := range img.Brokers() {
		if c.swept.brokers[i] != b {
			return false
		}
	}
	return true
}

// refuseQueue answers requests that another node must decide on. Without any
// controller they stay: soon there will be one.
func (c *Controller) refuseQueue(img *metadata.Image) {
	if img.ControllerID() < 0 {
		return
	}
	for _, r := range c.takeQueue() {
		if r.retried && c.wasDone(img, r) {
			r.done <- decided{revision: img.Revision}
		} else {
			r.done <- decided{err: kerr.NotController}
		}
	}
}

// wasDone says whether a request of which we did not learn the outcome was
// carried out. The image shows our successor's election, so that what is not in
// it by now never will be: our writes fail from there on.
func (c *Controller) wasDone(img *metadata.Image, r *request) bool {
	plans, ok := r.decide(img, true)
	return ok && !slices.ContainsFunc(plans, func(p metadata.Plan) bool { return !p.Empty() })
}

// serveQueue decides on all queued requests, packs their plans into as few
// transactions as they fit, and answers when these are in the image. Requests that
// touch the same key wait for each other.
func (c *Controller) serveQueue(img *metadata.Image) error {
	queue := c.takeQueue()
	for len(queue) > 0 {
		round, rest, plans, err := c.decideRound(img, queue)
		if slices.ContainsFunc(round, func(r *request) bool { return r.elects }) {
			c.swept = sweepState{}
			c.signal()
		}
		if err == nil {
			img, err = c.carryOut(img, plans)
		}
		if err != nil {
			for _, r := range round {
				// Also after a conflict: it may be with our own
				// transaction of which we did not learn.
				r.retried = true
			}
			c.putBack(queue)
			return err
		}
		for _, r := range round {
			if !r.refused {
				r.done <- decided{revision: img.Revision}
			}
		}
		queue = rest
	}
	return nil
}

// decideRound decides on as many requests as do not touch the same keys, each
// on an image that has the effects of those before it.
func (c *Controller) decideRound(img *metadata.Image, queue []*request) (round, rest []*request, plans []metadata.Plan, err error) {
	touched := newTouched()
	var before []metadata.Change // of the request before, not yet in img
	for i, r := range queue {
		if img, err = img.With(before); err != nil {
			return round, nil, nil, err
		}
		made, _ := r.decide(img, r.retried)
		if touched.meets(made) {
			return round, queue[i:], plans, nil
		}
		if c.tooLarge(made) {
			r.refused = true
			r.done <- decided{err: kerr.PolicyViolation}
			made = nil
		}
		before = nil
		for _, p := range made {
			before = append(append(before, p.Stage...), p.Commit...)
		}
		for _, ch := range before {
			touched.add(ch)
		}
		plans = append(plans, made...)
		round = queue[:i+1]
	}
	return round, nil, plans, nil
}

// tooLarge says whether a plan holds what no transaction can take. Retrying it
// would only hold up the others.
func (c *Controller) tooLarge(plans []metadata.Plan) bool {
	limits := c.opts.Store.Limits()
	for _, p := range plans {
		if (&packer{}).fitsPlan(limits, p.Guard, p.Commit) {
			continue
		}
		return true
	}
	return false
}

// touched is what the requests of a round write: keys, and all keys below a
// prefix where that is deleted. Prefixes end with a slash.
type touched struct {
	keys     map[string]bool
	prefixes map[string]bool
	above    map[string]bool // every prefix that a key is below
}

func newTouched() *touched {
	return &touched{keys: map[string]bool{}, prefixes: map[string]bool{}, above: map[string]bool{}}
}

func (t *touched) add(ch metadata.Change) {
	if ch.Kind == metadata.OpDeletePrefix {
		t.prefixes[ch.Key] = true
		return
	}
	t.keys[ch.Key] = true
	for p := range prefixesOf(ch.Key) {
		t.above[p] = true
	}
}

// meets says whether plans write or compare what was touched. A transaction
// takes neither a key twice nor a key beside the deletion of what is above it.
func (t *touched) meets(plans []metadata.Plan) bool {
	for _, p := range plans {
		for _, ch := range p.Stage {
			if t.has(ch.Op) {
				return true
			}
		}
		for _, ch := range p.Commit {
			if t.has(ch.Op) {
				return true
			}
		}
		for _, g := range p.Guard {
			if t.has(metadata.Op{Key: g.Key}) {
				return true
			}
		}
	}
	return false
}

func (t *touched) has(op metadata.Op) bool {
	if op.Kind == metadata.OpDeletePrefix {
		return t.prefixes[op.Key] || t.above[op.Key]
	}
	if t.keys[op.Key] {
		return true
	}
	for p := range prefixesOf(op.Key) {
		if t.prefixes[p] {
			return true
		}
	}
	return false
}

// prefixesOf are the prefixes of a key that end with a slash.
func prefixesOf(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range len(key) {
			if key[i] == '/' && !yield(key[:i+1]) {
				return
			}
		}
	}
}

// carryOut commits plans and returns the image that shows them.
// Plans that fit share a transaction; one that is too large is staged first.
func (c *Controller) carryOut(img *metadata.Image, plans []metadata.Plan) (*metadata.Image, error) {
	limits := c.opts.Store.Limits()
	var revision int64
	var pack packer
	flush := func() (err error) {
		if len(pack.changes) > 0 {
			revision, err = c.decree(img, pack.guards, pack.changes)
			pack = packer{}
		}
		return err
	}
	for _, p := range plans {
		if p.Empty() {
			continue
		}
		if !pack.fitsPlan(limits, p.Guard, p.Stage, p.Commit) {
			if err := flush(); err != nil {
				return img, err
			}
		}
		if pack.fitsPlan(limits, p.Guard, p.Stage, p.Commit) {
			pack.add(p.Stage)
			pack.add(p.Commit)
			pack.guard(p.Guard)
			continue
		}
		for _, batch := range split(limits, p.Stage) {
			if _, err := c.decree(img, nil, batch); err != nil {
				return img, err
			}
		}
		pack.add(p.Commit)
		pack.guard(p.Guard)
		if err := flush(); err != nil {
			return img, err
		}
	}
	if err := flush(); err != nil {
		return img, err
	}
	if revision == 0 {
		return img, nil // nothing to write
	}
	return c.awaitRevision(revision)
}

// packer gathers changes of one transaction, and what is compared besides them.
type packer struct {
	changes []metadata.Change
	guards  []metadata.Compare
	bytes   int
}

func (p *packer) fitsPlan(limits metadata.Limits, guards []metadata.Compare, parts ...[]metadata.Change) bool {
	limits.Ops -= len(p.newGuards(guards))
	return p.fits(limits, parts...)
}

func (p *packer) newGuards(guards []metadata.Compare) []metadata.Compare {
	var fresh []metadata.Compare
	for _, g := range guards {
		if !slices.Contains(p.guards, g) && !slices.Contains(fresh, g) {
			fresh = append(fresh, g)
		}
	}
	return fresh
}

func (p *packer) guard(guards []metadata.Compare) {
	p.guards = append(p.guards, p.newGuards(guards)...)
}

func (p *packer) fits(limits metadata.Limits, parts ...[]metadata.Change) bool {
	n, bytes := len(p.changes)+len(p.guards)+metadata.DecreeCompares, p.bytes+metadata.DecreeBytes
	for _, part := range parts {
		n += len(part)
		bytes += sizeOf(part)
	}
	return n <= limits.Ops && bytes <= limits.Bytes
}

func (p *packer) add(changes []metadata.Change) {
	p.changes = append(p.changes, changes...)
	p.bytes += sizeOf(changes)
}

func sizeOf(changes []metadata.Change) int {
	n := 0
	for _, ch := range changes {
		n += len(ch.Key) + len(ch.Value)
	}
	return n
}

// split cuts changes that are independent of each other into transactions.
func split(limits metadata.Limits, changes []metadata.Change) [][]metadata.Change {
	var batches [][]metadata.Change
	var pack packer
	for i := range changes {
		one := changes[i : i+1]
		if len(pack.changes) > 0 && !pack.fits(limits, one) {
			batches = append(batches, pack.changes)
			pack = packer{}
		}
		pack.add(one)
	}
	if len(pack.changes) > 0 {
		batches = append(batches, pack.changes)
	}
	return batches
}

// commitAll writes independent changes as controller and returns the image
// that shows them all.
func (c *Controller) commitAll(img *metadata.Image, changes []metadata.Change) (*metadata.Image, error) {
	if len(changes) == 0 {
		return img, nil
	}
	var revision int64
	for _, batch := range split(c.opts.Store.Limits(), changes) {
		var err error
		if revision, err = c.decree(img, nil, batch); err != nil {
			return img, err
		}
	}
	return c.awaitRevision(revision)
}

// commit writes changes of this node in one transaction and returns the image that
// shows them.
func (c *Controller) commit(img *metadata.Image, changes []metadata.Change) (*metadata.Image, error) {
	revision, err := c.write(img, metadata.TxnOf(nil, changes))
	if err != nil {
		return img, err
	}
	return c.awaitRevision(revision)
}

// decree writes changes as controller, in one transaction, and returns its revision.
func (c *Controller) decree(img *metadata.Image, guards []metadata.Compare, changes []metadata.Change) (int64, error) {
	revision, err := c.write(img, metadata.Decree(img, c.session.fence, c.lastDecree, guards, changes))
	if err == nil {
		c.lastDecree = revision
	}
	return revision, err
}

// write commits what was decided on img and returns its revision. After a conflict
// it returns once there is a newer image to decide on.
func (c *Controller) write(img *metadata.Image, txn metadata.Txn) (int64, error) {
	base := max(img.Revision, c.lastWrite)
	ctx, cancel := context.WithTimeout(c.ctx, max(c.txnTimeout, minTxnTimeout))
	defer cancel()
	result, err := c.opts.Store.Txn(ctx, txn)
	if err == nil {
		c.txnTimeout = 0
	}
	switch {
	case err != nil:
		if ctx.Err() != nil && !errors.Is(err, metadata.ErrLeaderChanged) {
			c.txnTimeout = min(2*max(c.txnTimeout, minTxnTimeout), maxTxnTimeout)
		}
		return 0, fmt.Errorf("write metadata: %w", err)
	case !result.Succeeded:
		c.log.Debug().Str("key", txn.Then[0].Key).Int64("revision", base).Msg("metadata changed meanwhile")
		return 0, c.awaitNews(base)
	}
	c.lastWrite = result.Revision
	return result.Revision, nil
}

// awaitRevision returns the newest image once it is of at least that revision.
func (c *Controller) awaitRevision(revision int64) (*metadata.Image, error) {
	err := c.newest.awaitRevision(c.ctx, revision)
	return c.newest.load(), err
}

// awaitNews returns errConflict when the image is newer than revision base: what
// a conflict was with must come. It does not wait for ever, since a conflict
// with a write of ours whose answer was lost may already be in the image.
func (c *Controller) awaitNews(base int64) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.retryDelay)
	defer cancel()
	err := c.newest.awaitRevision(ctx, base+1)
	if err != nil && c.ctx.Err() != nil {
		return err
	}
	return errConflict
}
