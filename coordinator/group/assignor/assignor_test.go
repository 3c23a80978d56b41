package assignor

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func topicID(n int) TopicID { return TopicID{15: byte(n + 1)} }

// draw makes a random group.
func draw(t *rapid.T) ([]Member, map[TopicID]Topic) {
	topics := make(map[TopicID]Topic)
	nTopics := rapid.IntRange(0, 6).Draw(t, "topics")
	for i := range nTopics {
		topics[topicID(i)] = Topic{
			ID: topicID(i), Name: fmt.Sprint("t", i),
			Partitions: rapid.Int32Range(1, 12).Draw(t, "partitions"),
		}
	}
	members := make([]Member, rapid.IntRange(1, 8).Draw(t, "members"))
	equal := rapid.Bool().Draw(t, "equal subscriptions")
	for i := range members {
		m := Member{ID: fmt.Sprint("m", i), Current: Assignment{}}
		for k := range nTopics {
			if equal || rapid.Bool().Draw(t, "subscribed") {
				m.Topics = append(m.Topics, topicID(k))
			}
		}
		members[i] = m
	}
	return members, topics
}

// checkComplete: every partition of a subscribed topic has one owner, who
// subscribes to it.
func checkComplete(t *rapid.T, members []Member, topics map[TopicID]Topic, got map[string]Assignment) {
	owner := make(map[partition]string)
	wanted := make(map[TopicID]bool)
	for _, m := range members {
		if got[m.ID] == nil {
			t.Fatalf("no entry for %s", m.ID)
		}
		mine := make(map[TopicID]bool)
		for _, id := range m.Topics {
			mine[id], wanted[id] = true, true
		}
		for id, ps := range got[m.ID] {
			if !mine[id] {
				t.Fatalf("%s got topic %v that it does not want", m.ID, id)
			}
			for i, n := range ps {
				if i > 0 && ps[i-1] >= n {
					t.Fatalf("%s: %v is not ascending", m.ID, ps)
				}
				if other, ok := owner[partition{id, n}]; ok {
					t.Fatalf("partition %d of %v belongs to %s and %s", n, id, other, m.ID)
				}
				owner[partition{id, n}] = m.ID
			}
		}
	}
	for id := range wanted {
		for n := range topics[id].Partitions {
			if _, ok := owner[partition{id, n}]; !ok {
				t.Fatalf("partition %d of %v belongs to nobody", n, id)
			}
		}
	}
}

func count(a Assignment) int {
	n := 0
	for _, ps := range a {
		n += len(ps)
	}
	return n
}

func TestRangeIsComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, topics := draw(t)
		checkComplete(t, members, topics, Range(members, topics))
	})
}

func TestUniformIsCompleteAndBalanced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, topics := draw(t)
		for _, m := range members {
			for id, topic := range topics { // any past, even one that is gone
				for n := range topic.Partitions + 2 {
					if rapid.IntRange(0, 3).Draw(t, "had") == 0 {
						m.Current.add(id, n)
					}
				}
			}
		}
		got := Uniform(members, topics)
		checkComplete(t, members, topics, got)
		for _, a := range members {
			for _, b := range members {
				for _, id := range b.Topics {
					if len(got[a.ID][id]) > 0 && count(got[a.ID]) >= count(got[b.ID])+2 {
						t.Fatalf("%s has %d, %s has %d and could take one", a.ID, count(got[a.ID]), b.ID, count(got[b.ID]))
					}
				}
			}
		}
	})
}

// A balanced assignment stays as it is, and a member that comes or goes moves
// only what it must.
func TestUniformIsSticky(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, topics := draw(t)
		for i := range members { // equal subscriptions: the least is known
			members[i].Topics = nil
			for id := range topics {
				members[i].Topics = append(members[i].Topics, id)
			}
		}
		got := Uniform(members, topics)
		for i := range members {
			members[i].Current = got[members[i].ID]
		}
		if again := Uniform(members, topics); fmt.Sprint(again) != fmt.Sprint(got) {
			t.Fatalf("%v became %v", got, again)
		}
		members = append(members, Member{ID: "new", Topics: members[0].Topics})
		after := Uniform(members, topics)
		moved := 0
		for _, m := range members[:len(members)-1] {
			kept := make(map[partition]bool)
			for id, ps := range m.Current {
				for _, n := range ps {
					kept[partition{id, n}] = true
				}
			}
			for id, ps := range after[m.ID] {
				for _, n := range ps {
					if !kept[partition{id, n}] {
						moved++
					}
				}
			}
		}
		if moved > 0 {
			t.Fatalf("%d partitions moved between members that were there before", moved)
		}
	})
}

func TestUniformPrefersRacks(t *testing.T) {
	topics := map[TopicID]Topic{topicID(0): {
		ID: topicID(0), Name: "t", Partitions: 4,
		Racks: [][]string{{"b"}, {"a"}, {"b"}, {"a"}},
	}}
	members := []Member{
		{ID: "m0", Rack: "a", Topics: []TopicID{topicID(0)}},
		{ID: "m1", Rack: "b", Topics: []TopicID{topicID(0)}},
	}
	got := fmt.Sprint(Uniform(members, topics)["m0"][topicID(0)], Uniform(members, topics)["m1"][topicID(0)])
	if got != "[1 3] [0 2]" {
		t.Fatal(got)
	}
}

func TestRangeAlignsTopics(t *testing.T) {
	topics := map[TopicID]Topic{
		topicID(0): {ID: topicID(0), Name: "a", Partitions: 5},
		topicID(1): {ID: topicID(1), Name: "b", Partitions: 5},
	}
	both := []TopicID{topicID(0), topicID(1)}
	got := Range([]Member{{ID: "z", InstanceID: "1", Topics: both}, {ID: "a", InstanceID: "2", Topics: both}}, topics)
	for _, id := range both {
		if s := fmt.Sprint(got["z"][id], got["a"][id]); s != "[0 1 2] [3 4]" {
			t.Fatal(s)
		}
	}
}
