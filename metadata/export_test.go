package metadata

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Dump writes all that an image holds, also what it does not hand out.
func Dump(i *Image) string {
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d cluster %+v\n", i.Revision, i.cluster)
	fmt.Fprintf(&b, "controller %+v producers %+v\n", i.controller, i.producer)
	for name, t := range i.topics.all() {
		fmt.Fprintf(&b, "topic %s %s at %d %v internal=%v\n", name, FormatID(t.ID), t.Revision, sorted(t.Configs), t.Internal)
		for n, p := range t.Partitions {
			fmt.Fprintf(&b, "  %d %+v\n", n, *p)
		}
	}
	for id, t := range i.ids.all() {
		fmt.Fprintf(&b, "id %s %s same=%v\n", FormatID(id), t.Name, i.Topic(t.Name) == t)
	}
	for id, s := range i.staged.all() {
		fmt.Fprintf(&b, "staged %s\n", FormatID(id))
		for n, p := range s.parts {
			if p != nil {
				fmt.Fprintf(&b, "  %d %+v\n", n, *p)
			}
		}
	}
	for r, c := range i.configs.all() {
		fmt.Fprintf(&b, "config %v %v at %d\n", r, sorted(c.values), c.revision)
	}
	for _, q := range i.quotas.All() {
		fmt.Fprintf(&b, "quota %+v %v at %d\n", q.Entity, q.Values, q.revision)
	}
	for _, id := range i.scram.IDs() {
		fmt.Fprintf(&b, "scram %v %+v\n", id, *i.scram.Get(id))
	}
	for _, br := range i.brokers {
		fmt.Fprintf(&b, "broker %+v\n", *br)
	}
	for _, s := range i.regs {
		fmt.Fprintf(&b, "state %+v\n", *s)
	}
	return b.String()
}

func sorted(m map[string]string) (pairs []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, k+"="+m[k])
	}
	return pairs
}

// Smap is the immutable map, for its own test.
type Smap struct{ m smap[string, *int] }

// NewSmap returns an empty one.
func NewSmap() Smap { return Smap{smap[string, *int]{cmp: strings.Compare}} }

// Edit makes several changes at once: nil deletes.
func (s Smap) Edit(changes map[string]*int) Smap {
	e := s.m.edit(&editToken{})
	for _, k := range slices.Sorted(maps.Keys(changes)) {
		if v := changes[k]; v != nil {
			e.set(k, v)
		} else {
			e.del(k)
		}
	}
	return Smap{e.done()}
}

// Get looks a key up.
func (s Smap) Get(k string) (*int, bool) { return s.m.get(k) }

// Content returns all that is in the map.
func (s Smap) Content() (keys []string, content map[string]*int) {
	content = map[string]*int{}
	for k, v := range s.m.all() {
		keys = append(keys, k)
		content[k] = v
	}
	return keys, content
}

// From returns the keys from one on.
func (s Smap) From(k string) (keys []string) {
	s.m.from(k, func(k string, _ *int) bool { keys = append(keys, k); return true })
	return keys
}

// Shape returns the number of entries and of chunks.
func (s Smap) Shape() (n, chunks int) { return s.m.n, len(s.m.chunks) }

// DiffSmap returns the keys whose values differ.
func DiffSmap(a, b Smap) (keys []string) {
	diff(a.m, b.m, func(k string, _ *int, _ bool, _ *int, _ bool) { keys = append(keys, k) })
	return keys
}

// Rules is what reassess depends on, for tests of it.
type Rules struct {
	Active, Lossy func(int32) bool
	MinISR        int
	Unclean       bool
	Ends          map[int32]LogEnd
}

// Reassess is what Sweep does to each partition.
func Reassess(p *Partition, r Rules) *Partition {
	return p.reassess(rules{active: r.Active, alive: r.Active, lossy: r.Lossy, minISR: r.MinISR, unclean: r.Unclean, ends: r.Ends})
}

// IncarnationOf returns the incarnation that registered last, zero if none.
func IncarnationOf(i *Image, id int32) ID {
	if s := i.brokerState(id); s != nil && s.regRevision != 0 {
		return ID(s.reg.Incarnation)
	}
	return ID{}
}

// SetISR is the change that gives a partition another ISR.
func SetISR(t *Topic, n int32, isr []int32) Change {
	p := *t.Partitions[n]
	p.ISR = isr
	p.PartitionEpoch++
	return putPart(t.ID, n, &p, p.Revision)
}
