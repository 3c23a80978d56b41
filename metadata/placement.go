package metadata

import (
	"fmt"
	"slices"
)

// Place chooses the replicas of new partitions: no broker twice in one
// partition, leaders and replicas spread evenly over brokers, replicas of a
// partition over as many racks as there are. Fenced brokers are taken only as
// followers, and only when the others do not suffice; brokers without a rack
// count as one rack. It returns why there is no such placement.
func Place(brokers []*Broker, partitions, replicationFactor int, rand Rand) (replicas [][]int32, problem string) {
	up := 0
	for _, b := range brokers {
		if b.Active() {
			up++
		}
	}
	switch {
	case replicationFactor < 1:
		return nil, fmt.Sprintf("Invalid replication factor %d: the replication factor must be positive.", replicationFactor)
	case len(brokers) < replicationFactor:
		return nil, fmt.Sprintf("The target replication factor of %d cannot be reached because only %d broker(s) are registered or some brokers have all their log directories cordoned.", replicationFactor, len(brokers))
	case up == 0:
		return nil, "All brokers are currently fenced."
	}
	p := newPlacer(brokers, rand)
	for range partitions {
		replicas = append(replicas, p.next(replicationFactor))
	}
	return replicas, ""
}

// placer deals brokers out in rounds, as cards: rack by rack, and within a rack
// broker by broker, from a random place on.
type placer struct {
	racks []*rackList
	// first is the rack of the next leader.
	first int
	rand  Rand
}

type rackList struct {
	up, fenced dealer
}

// dealer hands out ids round-robin.
type dealer struct {
	ids []int32
	at  int
	// dealt counts since the ids were last shuffled.
	dealt int
}

func newPlacer(brokers []*Broker, rand Rand) *placer {
	byRack := map[string]*rackList{}
	var names []string
	for _, b := range brokers {
		r := byRack[b.Rack]
		if r == nil {
			r = &rackList{}
			byRack[b.Rack] = r
			names = append(names, b.Rack)
		}
		if b.Active() {
			r.up.ids = append(r.up.ids, b.ID)
		} else {
			r.fenced.ids = append(r.fenced.ids, b.ID)
		}
	}
	slices.Sort(names)
	p := &placer{rand: rand}
	for _, name := range names {
		r := byRack[name]
		r.up.shuffle(rand)
		r.fenced.shuffle(rand)
		p.racks = append(p.racks, r)
	}
	for i := len(p.racks) - 1; i > 0; i-- {
		j := rand.IntN(i + 1)
		p.racks[i], p.racks[j] = p.racks[j], p.racks[i]
	}
	return p
}

func (d *dealer) shuffle(rand Rand) {
	for i := len(d.ids) - 1; i > 0; i-- {
		j := rand.IntN(i + 1)
		d.ids[i], d.ids[j] = d.ids[j], d.ids[i]
	}
	d.dealt = 0
}

// deal returns the next id that is not yet in taken, false if there is none.
func (d *dealer) deal(taken []int32) (int32, bool) {
	for i := range d.ids {
		id := d.ids[(d.at+i)%len(d.ids)]
		if !slices.Contains(taken, id) {
			d.at = (d.at + i + 1) % len(d.ids)
			return id, true
		}
	}
	return 0, false
}

// next returns the replicas of one partition. There are enough brokers.
func (p *placer) next(rf int) []int32 {
	taken := make([]int32, 0, rf)
	start := p.first
	p.first = (p.first + 1) % len(p.racks)
	// The leader must be up; the others prefer a rack that has none yet.
	for _, fenced := range []bool{false, true} {
		for len(taken) < rf {
			before := len(taken)
			for i := 0; i < len(p.racks) && len(taken) < rf; i++ {
				r := p.racks[(start+i)%len(p.racks)]
				d := &r.up
				if fenced {
					d = &r.fenced
				}
				if id, ok := d.deal(taken); ok {
					taken = append(taken, id)
				}
			}
			if len(taken) == before {
				break
			}
		}
	}
	return taken
}
