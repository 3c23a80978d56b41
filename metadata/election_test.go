package metadata_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"pgregory.net/rapid"
)

// cluster simulates the brokers of one partition: which are up, and which have
// every committed record on their disks.
type cluster struct {
	t        *rapid.T
	p        *metadata.Partition
	up       map[int32]bool
	lossy    map[int32]bool
	complete map[int32]bool
	minISR   int
	unclean  bool
}

func (c *cluster) rules() metadata.Rules {
	return metadata.Rules{
		Active: func(id int32) bool { return c.up[id] },
		Lossy:  func(id int32) bool { return c.lossy[id] },
		MinISR: c.minISR, Unclean: c.unclean,
	}
}

// sweep reassesses the partition and checks what must hold of every step.
func (c *cluster) sweep() {
	old := c.p
	next := metadata.Reassess(old, c.rules())
	c.p = next
	if again := metadata.Reassess(next, c.rules()); again != next {
		c.t.Fatalf("not settled:\n%+v\n%+v", next, again)
	}
	if next == old {
		return
	}
	fail := func(what string) {
		c.t.Fatalf("%s (up %v, lossy %v, min %d)\n%+v\n%+v", what, c.up, c.lossy, c.minISR, old, next)
	}
	if next.PartitionEpoch != old.PartitionEpoch+1 {
		fail("the partition epoch must grow by one")
	}
	if changed := next.Leader != old.Leader; changed != (next.LeaderEpoch == old.LeaderEpoch+1) {
		fail("the leader epoch grows with every change of the leader, and only then")
	}
	c.checkLeader(old, fail)
	eligible := slices.Contains(old.ISR, next.Leader) || slices.Contains(old.ELR, next.Leader)
	if next.Leader != old.Leader && next.Leader != metadata.NoLeader && !eligible {
		// The loss is said aloud: what this leader has, counts from now on.
		c.complete = map[int32]bool{next.Leader: true}
	}
	c.checkSets(fail)
}

func (c *cluster) checkSets(fail func(string)) {
	p := c.p
	if len(p.ISR) >= min(c.minISR, len(p.Replicas)) && len(p.ELR)+len(p.LastKnownELR) > 0 {
		fail("ELR must be empty when the ISR suffices")
	}
	for _, id := range p.ISR {
		if !slices.Contains(p.Replicas, id) || slices.Contains(p.ELR, id) || !c.up[id] || c.lossy[id] {
			fail("an ISR member must be a replica, up, and in no ELR")
		}
	}
	for _, id := range p.ELR {
		if !slices.Contains(p.Replicas, id) || c.lossy[id] {
			fail("an ELR member must be a replica that lost nothing")
		}
		if !c.complete[id] {
			fail("an ELR member must have all committed records")
		}
	}
}

func (c *cluster) checkLeader(old *metadata.Partition, fail func(string)) {
	p := c.p
	if p.Leader == metadata.NoLeader {
		if slices.ContainsFunc(p.ELR, func(id int32) bool { return c.up[id] }) || len(p.ISR) > 0 {
			fail("there is an eligible leader, but it was not elected")
		}
		return
	}
	if !slices.Contains(p.ISR, p.Leader) || !c.up[p.Leader] {
		fail("the leader must be up and in sync")
	}
	if p.Leader != old.Leader && !p.Recovering && !c.complete[p.Leader] {
		fail("a leader that lacks committed records must be marked")
	}
	if p.Recovering && !old.Recovering && !c.unclean {
		if slices.ContainsFunc(old.Replicas, func(id int32) bool { return c.up[id] && c.complete[id] && slices.Contains(old.ELR, id) }) {
			fail("an unclean leader was preferred to an eligible one")
		}
	}
}

// TestElections runs random histories of crashes, clean stops, restarts,
// commits and catching up.
func TestElections(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "replicas")
		c := &cluster{
			t: t, up: map[int32]bool{}, lossy: map[int32]bool{}, complete: map[int32]bool{},
			minISR: rapid.IntRange(1, 3).Draw(t, "min.insync"), unclean: rapid.Bool().Draw(t, "unclean"),
			p: &metadata.Partition{Leader: 1},
		}
		for id := int32(1); id <= int32(n); id++ {
			c.p.Replicas = append(c.p.Replicas, id)
			c.p.ISR = append(c.p.ISR, id)
			c.up[id], c.complete[id] = true, true
		}
		clean := map[int32]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := rapid.Int32Range(1, int32(n)).Draw(t, "broker")
			switch step := rapid.SampledFrom([]string{"crash", "stop", "return", "commit", "catch up"}).Draw(t, "step"); step {
			case "crash", "stop":
				if c.up[id] {
					c.up[id], clean[id] = false, step == "stop"
				}
			case "return":
				c.comeBack(id, clean[id])
			case "commit":
				c.commit()
			case "catch up":
				c.catchUp(id)
			}
			c.sweep()
		}
	})
}

// comeBack registers a broker anew: until it is granted it is fenced, and if it
// was killed, its disk may have lost what it acknowledged.
func (c *cluster) comeBack(id int32, clean bool) {
	if c.up[id] {
		return
	}
	if !clean {
		c.complete[id] = false
		c.lossy[id] = true
	}
	c.sweep()
	c.lossy[id] = false
	c.up[id] = true
}

// commit moves the high watermark, which needs min.insync.replicas: whoever is
// not in sync lacks the new record. A leader that can commit has recovered.
func (c *cluster) commit() {
	if c.p.Leader == metadata.NoLeader || len(c.p.ISR) < min(c.minISR, len(c.p.Replicas)) {
		return
	}
	for _, id := range c.p.Replicas {
		c.complete[id] = slices.Contains(c.p.ISR, id)
	}
	if c.p.Recovering {
		next := *c.p
		next.Recovering = false
		next.PartitionEpoch++
		c.p = &next
	}
}

// catchUp has a follower fetch all and join the ISR, as a leader would ask for.
func (c *cluster) catchUp(id int32) {
	if c.p.Leader == metadata.NoLeader || !c.up[id] || slices.Contains(c.p.ISR, id) {
		return
	}
	next := *c.p
	next.ISR = append(slices.Clone(next.ISR), id)
	next.ELR = slices.DeleteFunc(slices.Clone(next.ELR), func(e int32) bool { return e == id })
	next.LastKnownELR = slices.DeleteFunc(slices.Clone(next.LastKnownELR), func(e int32) bool { return e == id })
	if len(next.ISR) >= min(c.minISR, len(next.Replicas)) {
		next.ELR, next.LastKnownELR = nil, nil
	}
	next.PartitionEpoch++
	c.p = &next
	// What the leader has is what the follower has now.
	c.complete[id] = c.complete[c.p.Leader]
}

// TestElectionSteps spells out what Kafka does, one case each.
func TestElectionSteps(t *testing.T) {
	all := func(ids ...int32) func(int32) bool {
		return func(id int32) bool { return slices.Contains(ids, id) }
	}
	part := func(leader int32, isr, elr, last []int32) *metadata.Partition {
		return &metadata.Partition{Leader: leader, Replicas: []int32{1, 2, 3}, ISR: isr, ELR: elr, LastKnownELR: last}
	}
	for _, tc := range []struct {
		name  string
		p     *metadata.Partition
		rules metadata.Rules
		want  string
	}{
		{"nothing to do", part(1, []int32{1, 2, 3}, nil, nil), metadata.Rules{Active: all(1, 2, 3), MinISR: 2}, "same"},
		{"follower goes", part(1, []int32{1, 2, 3}, nil, nil), metadata.Rules{Active: all(1, 2), MinISR: 2}, "1@0 isr [1 2] elr [] last []"},
		{"leader goes", part(1, []int32{1, 2, 3}, nil, nil), metadata.Rules{Active: all(2, 3), MinISR: 2}, "2@1 isr [2 3] elr [] last []"},
		{"below min", part(1, []int32{1, 2, 3}, nil, nil), metadata.Rules{Active: all(3), MinISR: 2}, "3@1 isr [3] elr [1 2] last []"},
		{"all go", part(1, []int32{1, 2, 3}, nil, nil), metadata.Rules{Active: all(), MinISR: 2}, "-1@1 isr [] elr [1 2 3] last [1]"},
		{"eligible returns", part(-1, nil, []int32{1, 2}, []int32{1}), metadata.Rules{Active: all(2), MinISR: 2}, "2@1 isr [2] elr [1] last []"},
		{"eligible returns and suffices", part(-1, nil, []int32{1, 2}, []int32{1}), metadata.Rules{Active: all(2), MinISR: 1}, "2@1 isr [2] elr [] last []"},
		{"killed member loses its place", part(1, []int32{1, 2}, []int32{3}, nil), metadata.Rules{Active: all(1), Lossy: all(2, 3), MinISR: 3}, "1@0 isr [1] elr [] last [2 3]"},
		{"last one is killed", part(1, []int32{1}, nil, nil), metadata.Rules{Active: all(), Lossy: all(1), MinISR: 1}, "-1@1 isr [] elr [] last [1]"},
		{"last known leader returns", part(-1, nil, nil, []int32{1}), metadata.Rules{Active: all(1), MinISR: 1}, "1@1 isr [1] elr [] last [] recovering"},
		{"another than the last known returns", part(-1, nil, nil, []int32{1}), metadata.Rules{Active: all(2), MinISR: 1}, "same"},
		{"unclean", part(-1, nil, nil, []int32{1}), metadata.Rules{Active: all(2), MinISR: 1, Unclean: true}, "2@1 isr [2] elr [] last [] recovering"},
		{"unclean is not preferred", part(-1, nil, []int32{3}, nil), metadata.Rules{Active: all(2, 3), MinISR: 1, Unclean: true}, "3@1 isr [3] elr [] last []"},
		{"min above the replicas", part(1, []int32{1, 2, 3}, nil, nil), metadata.Rules{Active: all(1, 2), MinISR: 9}, "1@0 isr [1 2] elr [3] last []"},
	} {
		if tc.rules.Lossy == nil {
			tc.rules.Lossy = all()
		}
		next := metadata.Reassess(tc.p, tc.rules)
		got := fmt.Sprintf("%d@%d isr %v elr %v last %v", next.Leader, next.LeaderEpoch, next.ISR, next.ELR, next.LastKnownELR)
		if next.Recovering {
			got += " recovering"
		}
		if next == tc.p {
			got = "same"
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
