package assignor

import (
	"cmp"
	"slices"
)

// Uniform balances the number of partitions: no subscriber of a topic has two
// more than another who could take one of its partitions. Within that it moves
// as few partitions as it can, and gives those that have to move to members in
// a replica's rack where there are any.
func Uniform(members []Member, topics map[TopicID]Topic) map[string]Assignment {
	u := &uniform{topics: topics, order: inOrder(topics), owner: make(map[partition]*load)}
	for _, m := range sorted(members) {
		u.loads = append(u.loads, &load{Member: m, has: make(map[TopicID]bool, len(m.Topics)), got: make(Assignment)})
		for _, t := range m.Topics {
			u.loads[len(u.loads)-1].has[t] = true
		}
	}
	u.keep()
	u.fill()
	u.balance()
	out := make(map[string]Assignment, len(members))
	for _, l := range u.loads {
		out[l.ID] = l.got
	}
	for p, l := range u.owner {
		l.got.add(p.topic, p.n)
	}
	for _, l := range u.loads {
		l.got.sort()
	}
	return out
}

type partition struct {
	topic TopicID
	n     int32
}

// load is a member with what it gets.
type load struct {
	*Member
	has   map[TopicID]bool // subscribed
	count int
	got   Assignment
}

type uniform struct {
	topics map[TopicID]Topic
	order  []Topic
	loads  []*load
	owner  map[partition]*load
}

func (u *uniform) give(p partition, l *load) {
	if old := u.owner[p]; old != nil {
		old.count--
	}
	u.owner[p] = l
	l.count++
}

// keep lets members have again what they had, as far as it exists, they still
// want it, and it is within their fair share.
func (u *uniform) keep() {
	share, extra := u.fairShare()
	var more []func() // what each may have beyond the share, while extra lasts
	for _, l := range u.loads {
		for _, t := range u.order {
			if !l.has[t.ID] {
				continue
			}
			for _, n := range l.Current[t.ID] {
				p := partition{t.ID, n}
				if n >= t.Partitions || u.owner[p] != nil {
					continue
				}
				if l.count < share {
					u.give(p, l)
					continue
				}
				more = append(more, func() {
					if u.owner[p] == nil && l.count == share && extra > 0 {
						u.give(p, l)
						extra--
					}
				})
			}
		}
	}
	for _, f := range more {
		f()
	}
}

// fairShare is how many partitions each member ends up with if all subscribe
// to the same topics, and how many members have one more. With unequal
// subscriptions it sets no limit: a member may have to take more than others,
// and balance sorts it out.
func (u *uniform) fairShare() (share, extra int) {
	total := 0
	for _, t := range u.order {
		total += int(t.Partitions)
	}
	for _, l := range u.loads {
		if len(l.has) != len(u.topics) {
			return total, 0
		}
	}
	if len(u.loads) == 0 {
		return 0, 0
	}
	return total / len(u.loads), total % len(u.loads)
}

// fill gives away what nobody has: topics with few subscribers first, because
// they leave the least choice.
func (u *uniform) fill() {
	type job struct {
		topic *Topic
		to    []*load
	}
	var jobs []job
	for i := range u.order {
		j := job{topic: &u.order[i]}
		for _, l := range u.loads {
			if l.has[j.topic.ID] {
				j.to = append(j.to, l)
			}
		}
		if len(j.to) > 0 {
			jobs = append(jobs, j)
		}
	}
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(len(a.to), len(b.to)) })
	for _, j := range jobs {
		h := newLoadHeap(j.to)
		for n := range j.topic.Partitions {
			p := partition{j.topic.ID, n}
			if u.owner[p] != nil {
				continue
			}
			u.give(p, h.take(func(l *load) bool { return inRack(j.topic, n, l.Rack) }))
		}
	}
}

// loadHeap finds the least loaded of a topic's subscribers.
type loadHeap struct {
	loads []*load // by count
}

func newLoadHeap(loads []*load) *loadHeap {
	h := &loadHeap{loads: slices.Clone(loads)}
	slices.SortStableFunc(h.loads, func(a, b *load) int { return cmp.Compare(a.count, b.count) })
	return h
}

// take returns one of the least loaded, if there is one a preferred one, and
// puts it where it belongs with one partition more.
func (h *loadHeap) take(prefer func(*load) bool) *load {
	least := h.loads[0].count
	i := 0
	for k := 0; k < len(h.loads) && h.loads[k].count == least; k++ {
		if prefer(h.loads[k]) {
			i = k
			break
		}
	}
	l := h.loads[i]
	// It gets one more partition: behind all that have as few as it has now,
	// and behind those with one more, so that turns go round.
	end, _ := slices.BinarySearchFunc(h.loads, least+2, func(l *load, want int) int { return cmp.Compare(l.count, want) })
	copy(h.loads[i:end-1], h.loads[i+1:end])
	h.loads[end-1] = l
	return l
}

// balance moves partitions from members with many to members with at least
// two fewer until there is no such pair. Each move shrinks the sum of the
// squares of the counts, so it ends.
func (u *uniform) balance() {
	owned := make(map[*load][]partition)
	for _, t := range u.order {
		for n := range t.Partitions {
			p := partition{t.ID, n}
			if l := u.owner[p]; l != nil {
				owned[l] = append(owned[l], p)
			}
		}
	}
	for u.balanceOnce(owned) {
	}
}

// balanceOnce lets each overloaded member give one partition to the least
// loaded that can take it.
func (u *uniform) balanceOnce(owned map[*load][]partition) (moved bool) {
	byCount := slices.Clone(u.loads)
	slices.SortStableFunc(byCount, func(a, b *load) int { return cmp.Compare(a.count, b.count) })
	for i := len(byCount) - 1; i > 0; i-- {
		from := byCount[i]
		for _, to := range byCount[:i] {
			if from.count-to.count >= 2 && u.moveOne(owned, from, to) {
				moved = true
				break
			}
		}
	}
	return moved
}

// moveOne moves a partition that the receiver can have; the last that qualifies
// goes, and one near the receiver rather than one that is not.
func (u *uniform) moveOne(owned map[*load][]partition, from, to *load) bool {
	best := -1
	for k := len(owned[from]) - 1; k >= 0; k-- {
		p := owned[from][k]
		if !to.has[p.topic] {
			continue
		}
		if best < 0 {
			best = k
		}
		t := u.topics[p.topic]
		if inRack(&t, p.n, to.Rack) {
			best = k
			break
		}
		if to.Rack == "" {
			break
		}
	}
	if best < 0 {
		return false
	}
	p := owned[from][best]
	owned[from] = slices.Delete(owned[from], best, best+1)
	owned[to] = append(owned[to], p)
	u.give(p, to)
	return true
}
