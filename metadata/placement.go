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

// placer deals brokers out in rounds, as cards. Leaders come from one pack, in
// which the racks alternate, so that every broker leads equally often; the
// other replicas come from a pack per rack, beginning with the rack after the
// leader's.
type placer struct {
	racks   []*rackList
	leaders dealer
	rackOf  map[int32]int
}

type rackList struct {
	up, fenced dealer
}

// dealer hands out ids round-robin.
type dealer struct {
	ids []int32
	at  int
}

func newPlacer(brokers []*Broker, rand Rand) *placer {
	byRack := map[string]*rackList{}
	p := &placer{rackOf: map[int32]int{}}
	for _, b := range brokers {
		r := byRack[b.Rack]
		if r == nil {
			r = &rackList{}
			byRack[b.Rack] = r
			p.racks = append(p.racks, r)
		}
		if b.Active() {
			r.up.ids = append(r.up.ids, b.ID)
		} else {
			r.fenced.ids = append(r.fenced.ids, b.ID)
		}
	}
	shuffle(p.racks, rand)
	for i, r := range p.racks {
		shuffle(r.up.ids, rand)
		shuffle(r.fenced.ids, rand)
		for _, id := range r.up.ids {
			p.rackOf[id] = i
		}
	}
	for i, more := 0, true; more; i++ {
		more = false
		for _, r := range p.racks {
			if i < len(r.up.ids) {
				p.leaders.ids = append(p.leaders.ids, r.up.ids[i])
				more = true
			}
		}
	}
	p.leaders.at = rand.IntN(len(p.leaders.ids))
	return p
}

func shuffle[T any](list []T, rand Rand) {
	for i := len(list) - 1; i > 0; i-- {
		j := rand.IntN(i + 1)
		list[i], list[j] = list[j], list[i]
	}
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

// next returns the replicas of one partition. There are enough brokers. The
// leader's rack comes last in each round, since it has one already.
func (p *placer) next(rf int) []int32 {
	leader, _ := p.leaders.deal(nil)
	taken := append(make([]int32, 0, rf), leader)
	rounds := func(pack func(*rackList) *dealer) {
		for progress := true; progress; {
			progress = false
			for i := range p.racks {
				if len(taken) == rf {
					return
				}
				r := p.racks[(p.rackOf[leader]+1+i)%len(p.racks)]
				if id, ok := pack(r).deal(taken); ok {
					taken = append(taken, id)
					progress = true
				}
			}
		}
	}
	rounds(func(r *rackList) *dealer { return &r.up })
	rounds(func(r *rackList) *dealer { return &r.fenced })
	return taken
}
