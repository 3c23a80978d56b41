package replication

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/metadata"
)

// The controllers of the simulation decide with the real decisions, each on the image
// that it heard of, one write after the other, as package controller does. Their
// writes are delayed, lost and repeated like everything else: a controller that was
// replaced goes on until it hears of it, and what it wrote before may arrive after.

// simTxn is a transaction, and who decided it on what.
type simTxn struct {
	metadata.Txn
	// fence is what the writer takes for its election; 0 for no controller.
	fence int64
	// image is what it was decided on; nil for nobody's decision.
	image *metadata.Image
	// elects says that an unclean election was asked for in this very request. set is
	// the in-sync set that a leader asked for, nil where none did.
	elects bool
	set    []metadata.ISRMember
}

// simRequest is what only the controller decides.
type simRequest struct {
	decide   func(img *metadata.Image, retried bool) (plans []metadata.Plan, ok bool)
	answered func(err error)
	// elects asks for an unclean election, set for another in-sync set.
	elects bool
	set    []metadata.ISRMember
}

// control lets a controller do one thing, and the only one all there is to do.
func (s *sim) control(b *simBroker) {
	if s.faults.standbys {
		for range 1 + s.rng.IntN(3) {
			if s.rng.IntN(3) > 0 {
				s.follow(b)
			}
			s.turn(b)
		}
		return
	}
	for {
		plan := s.due(s.image())
		if plan.Empty() {
			break
		}
		s.txn(simTxn{Txn: metadata.TxnOf(plan.Guard, plan.Commit), image: s.image()})
	}
	s.checkFenced()
}

// settle lets the controllers do all there is to do.
func (s *sim) settle() {
	if !s.faults.standbys {
		s.control(nil)
		return
	}
	for rev := int64(-1); rev != s.rev; {
		rev = s.rev
		for _, b := range s.brokers {
			s.follow(b)
			s.turn(b)
		}
	}
}

// due is the next write that brings partitions and brokers in order, nil if they are.
func (s *sim) due(img *metadata.Image) metadata.Plan {
	env := s.env
	if asked := metadata.UncleanElections(img, &env, false); len(asked) > 0 {
		if changes := metadata.CleanSweep(img, &env); len(changes) > 0 {
			return metadata.Plan{Commit: changes}
		}
		env.LogEnds = s.logEnds(asked)
	}
	if changes := metadata.Sweep(img, &env); len(changes) > 0 {
		return metadata.Plan{Commit: changes}
	}
	return metadata.NextBrokerChange(img)
}

// follow lets the controller of a broker hear of metadata.
func (s *sim) follow(b *simBroker) {
	if b.up && s.reaches(store, b.id) {
		b.seen = len(s.images)
	}
}

// controls reports whether the process of a broker takes itself for the controller.
func (b *simBroker) controls(img *metadata.Image) bool {
	return img.ControllerID() == b.id && img.ControllerIncarnation() == b.incarnation
}

// turn lets the controller of a broker do the next thing: stand for election, or if
// it is elected, bring something in order.
func (s *sim) turn(b *simBroker) {
	if !b.up {
		return
	}
	img := s.images[b.seen-1]
	if changes := metadata.Elect(img, b.id, b.incarnation, "", 1); changes != nil {
		s.write(b, simTxn{Txn: metadata.TxnOf(nil, changes)}, true, func(bool) {})
		return
	}
	if !b.controls(img) {
		return
	}
	plan := s.due(img)
	if plan.Empty() {
		if b.seen == len(s.images) {
			s.checkFenced()
		}
		return
	}
	s.write(b, s.decided(img, plan.Guard, plan.Commit), false, func(bool) {})
}

// decided is the transaction of a controller with an image.
func (s *sim) decided(img *metadata.Image, guards []metadata.Compare, changes []metadata.Change) simTxn {
	if !s.faults.standbys {
		return simTxn{Txn: metadata.TxnOf(guards, changes), image: img}
	}
	t := simTxn{Txn: metadata.Decree(img, img.ControllerFence(), 0, guards, changes), image: img, fence: img.ControllerFence()}
	switch {
	case s.unfenced:
		t.Txn = metadata.TxnOf(guards, changes)
	case s.blind:
		t.If = t.If[:1] // its election, and nothing that it decided on
	}
	return t
}

// write sends a transaction to the store, with leased only if the session of the
// process lives when it arrives. After a success the controller has seen its write;
// after a conflict it decides on what it conflicted with.
func (s *sim) write(b *simBroker, t simTxn, leased bool, done func(ok bool)) {
	life, incarnation := b.life, b.incarnation
	s.send(b.id, store, func() {
		who, alive := s.image().Alive(b.id)
		ok := (!leased || alive && who == incarnation) && s.txn(t)
		at := len(s.images)
		s.send(store, b.id, func() {
			if b.up && b.life == life {
				b.seen = max(b.seen, at)
				done(ok)
			}
		})
	})
}

// ask lets a broker ask the controller that it knows of.
func (s *sim) ask(from *simBroker, r *simRequest) {
	if !s.faults.standbys {
		s.send(from.id, store, func() {
			s.control(nil)
			plans, _ := r.decide(s.image(), false)
			for _, plan := range plans {
				t := simTxn{Txn: metadata.TxnOf(plan.Guard, plan.Commit), image: s.image(), elects: r.elects, set: r.set}
				if !s.txn(t) {
					s.fail("the only controller cannot write")
				}
			}
			s.send(store, from.id, func() { r.answered(nil) })
		})
		return
	}
	if from.applied == 0 {
		return
	}
	id := s.images[from.applied-1].ControllerID()
	if id < 0 {
		return // nobody to ask; the outcome is open
	}
	c := s.brokers[id-1]
	s.send(from.id, id, func() {
		s.decide(c, c.life, r, false, func(err error) {
			s.send(id, from.id, func() { r.answered(err) })
		})
	})
}

// decide is what a node does with a request: it decides as controller, again after a
// conflict and when it does not hear of what it wrote.
func (s *sim) decide(c *simBroker, life int, r *simRequest, retried bool, answer func(error)) {
	if !c.up || c.life != life {
		return
	}
	again := func() { s.decide(c, life, r, true, answer) }
	img := s.images[c.seen-1]
	if !c.controls(img) {
		if img.ControllerID() < 0 {
			return // it waits for there to be one, and the asker for no longer than that
		}
		if plans, ok := r.decide(img, true); retried && ok && len(changesOf(plans)) == 0 {
			answer(nil)
		} else {
			answer(kerr.NotController)
		}
		return
	}
	if plan := s.due(img); !plan.Empty() {
		// Requests are served when all else is in order.
		s.write(c, s.decided(img, plan.Guard, plan.Commit), false, func(bool) { s.decide(c, life, r, retried, answer) })
		return
	}
	plans, _ := r.decide(img, retried)
	changes := changesOf(plans)
	if len(changes) == 0 {
		answer(nil)
		return
	}
	var guards []metadata.Compare
	for _, p := range plans {
		guards = append(guards, p.Guard...)
	}
	t := s.decided(img, guards, changes)
	t.elects, t.set = r.elects, r.set
	open := true
	s.write(c, t, false, func(ok bool) {
		open = false
		if ok {
			answer(nil)
		} else {
			again()
		}
	})
	if open && s.rng.IntN(2) == 0 {
		s.net = append(s.net, simMessage{simLink{c.id, c.id}, func() {
			if open {
				again()
			}
		}})
	}
}

func changesOf(plans []metadata.Plan) []metadata.Change {
	var changes []metadata.Change
	for _, p := range plans {
		changes = append(changes, p.Commit...)
	}
	return changes
}

// checkWrite holds the rules of metadata against a transaction that the store took.
func (s *sim) checkWrite(t *simTxn, before, after *metadata.Image) {
	if t.fence != 0 && t.fence != before.ControllerFence() {
		s.fail("the controller of fence %d wrote, which was replaced by that of %d", t.fence, before.ControllerFence())
	}
	if after.ControllerEpoch() < before.ControllerEpoch() || after.ControllerFence() > before.ControllerFence() && after.ControllerEpoch() != before.ControllerEpoch()+1 {
		s.fail("the controller epoch went from %d to %d", before.ControllerEpoch(), after.ControllerEpoch())
	}
	old, now := s.partIn(before), s.partIn(after)
	if now.Revision == old.Revision || old.Replicas == nil {
		return
	}
	s.note("  revision %d: leader %d in epoch %d, replicas %v, adding %v, removing %v, ISR %v, ELR %v, last known %v",
		s.rev, now.Leader, now.LeaderEpoch, now.Replicas, now.Adding, now.Removing, now.ISR, now.ELR, now.LastKnownELR)
	if now.PartitionEpoch != old.PartitionEpoch+1 || now.LeaderEpoch < old.LeaderEpoch || now.Leader != old.Leader && now.LeaderEpoch == old.LeaderEpoch {
		s.fail("epochs went from %d, %d (leader %d) to %d, %d (leader %d)",
			old.LeaderEpoch, old.PartitionEpoch, old.Leader, now.LeaderEpoch, now.PartitionEpoch, now.Leader)
	}
	s.checkJoined(t, before, old, now)
	if !s.isUnclean(t, old, now) {
		s.checkReplicas(t, old, now)
	}
}

// checkJoined looks at who joins at the wish of a leader: whoever does is up, and is the
// process that the leader heard of, not fenced since (rule 7).
func (s *sim) checkJoined(t *simTxn, before *metadata.Image, old, now *metadata.Partition) {
	for _, m := range t.set {
		if slices.Contains(old.ISR, m.BrokerID) || !slices.Contains(now.ISR, m.BrokerID) {
			continue
		}
		if b := before.Broker(m.BrokerID); b == nil || !b.Active() || b.Epoch != m.BrokerEpoch || b.Revision != m.Registration {
			s.fail("broker %d joins as %+v, it is %+v", m.BrokerID, m, b)
		}
	}
}

// isUnclean looks at who is in sync and was not before. Either the leader asked for that,
// or who leads now was eligible; anything else is an unclean election, which somebody must
// have asked for.
func (s *sim) isUnclean(t *simTxn, old, now *metadata.Partition) bool {
	if t.set != nil {
		return false
	}
	for _, id := range now.ISR {
		if slices.Contains(old.ISR, id) || slices.Contains(old.ELR, id) {
			continue
		}
		complete := slices.ContainsFunc(old.ELR, func(o int32) bool { return !s.brokers[o-1].unclean })
		if slices.Equal(old.LastKnownELR, []int32{id}) && len(old.ISR) == 0 && !complete {
			continue // the last leader has what anybody has
		}
		if !t.elects && !s.permitsUnclean(t.image) {
			s.fail("broker %d was elected uncleanly, which nobody asked for", id)
		}
		s.note("  broker %d is elected uncleanly", id)
		s.eras = append(s.eras, &simEra{epoch: now.LeaderEpoch, alone: id})
		return true
	}
	return false
}

// checkReplicas holds a reassignment against rule 20: a replica is dropped when those that
// are added are in sync, and while the in-sync set is below its minimum, none that is
// complete; but where unclean elections are permitted, a reassignment may be undone with
// nobody else in sync.
func (s *sim) checkReplicas(t *simTxn, old, now *metadata.Partition) {
	dropped := without(old.Replicas, now.Replicas)
	if len(dropped) == 0 {
		return
	}
	if missing := without(without(now.Replicas, old.Replicas), now.ISR); len(missing) > 0 {
		s.fail("%v are dropped before %v are in sync", dropped, missing)
	}
	complete := slices.Concat(old.ISR, old.ELR)
	undone := s.permitsUnclean(t.image) && len(without(old.ISR, old.Adding)) == 0
	if !undone && len(without(complete, dropped)) < len(complete) && len(now.ISR) < min(s.env.MinInsyncReplicas, len(now.Replicas)) {
		s.fail("dropping %v leaves ISR %v of ISR %v and ELR %v", dropped, now.ISR, old.ISR, old.ELR)
	}
	if now.LeaderEpoch == old.LeaderEpoch {
		s.fail("%v are dropped and go on in epoch %d", dropped, now.LeaderEpoch)
	}
}

func without(ids, others []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return slices.Contains(others, id) })
}
