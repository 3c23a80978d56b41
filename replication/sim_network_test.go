package replication

import "slices"

// store is the address of the controller's store in the network of the simulation.
const store int32 = 0

// simLink is one direction between two addresses.
type simLink struct{ from, to int32 }

// simMessage is on its way; it arrives once, several times, or never.
type simMessage struct {
	simLink
	arrive func()
}

// send puts something on its way: it arrives at once, late, or never. What a cut link
// does not lose waits for its end, as a connection does that goes on.
func (s *sim) send(from, to int32, arrive func()) {
	m := simMessage{simLink{from, to}, arrive}
	switch n := s.rng.IntN(10); {
	case from == to && n < 8 || s.healing:
		arrive()
	case s.isCut(from, to):
		if n < 3 {
			s.net = append(s.net, m)
		}
	case n < 6:
		arrive()
	case n < 9:
		s.net = append(s.net, m)
	}
}

// deliver lets something arrive that was late, whichever.
func (s *sim) deliver() {
	if len(s.net) == 0 {
		return
	}
	i := s.rng.IntN(len(s.net))
	m := s.net[i]
	if s.isCut(m.from, m.to) {
		return
	}
	if s.rng.IntN(3) > 0 { // else it will arrive once more
		s.net = slices.Delete(s.net, i, i+1)
	}
	m.arrive()
}

func (s *sim) isCut(from, to int32) bool { return s.cut[simLink{from, to}] }

// reaches reports whether something may get from one address to another.
func (s *sim) reaches(from, to int32) bool { return !s.isCut(from, to) }

func (s *sim) sever(a, b int32) { s.cut[simLink{a, b}], s.cut[simLink{b, a}] = true, true }

// partition cuts links, which stay cut until the next partition, or makes the network
// whole again.
func (s *sim) partition() {
	clear(s.cut)
	b := s.pick().id
	switch s.rng.IntN(7) {
	case 0:
		s.note("the network is whole")
	case 1:
		s.note("broker %d is isolated", b)
		for _, o := range s.brokers {
			s.sever(b, o.id)
		}
		s.sever(b, store)
		delete(s.cut, simLink{b, b})
	case 2:
		s.note("broker %d is isolated from the others, not from the store", b)
		for _, o := range s.brokers {
			s.sever(b, o.id)
		}
		delete(s.cut, simLink{b, b})
	case 3:
		s.note("broker %d is isolated from the store", b)
		s.sever(b, store)
	case 4:
		out := s.rng.IntN(2) == 0
		s.note("one way: broker %d sends %v", b, out)
		for to := range int32(len(s.brokers) + 1) {
			if to == b {
				continue
			}
			if out {
				s.cut[simLink{to, b}] = true
			} else {
				s.cut[simLink{b, to}] = true
			}
		}
	case 5:
		// Every address, the store among them, sees its neighbours in a ring only, which
		// is another majority for each.
		n := int32(len(s.brokers) + 1)
		reach := max(n/4, 1)
		s.note("a ring of majorities")
		ring := s.rng.Perm(int(n))
		for i := range n {
			for j := i + reach + 1; j < i+n-reach; j++ {
				s.sever(int32(ring[i]), int32(ring[j%n]))
			}
		}
	default:
		s.note("some links are cut")
		for range 1 + s.rng.IntN(3) {
			from, to := int32(s.rng.IntN(len(s.brokers)+1)), int32(s.rng.IntN(len(s.brokers)+1))
			if from != to {
				s.cut[simLink{from, to}] = true
			}
		}
	}
}
