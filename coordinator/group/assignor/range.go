package assignor

// Range gives each subscriber of a topic one run of its partitions, in the
// members' order. Topics with as many partitions and the same subscribers are
// cut at the same places, so that what has equal keys meets at one member.
func Range(members []Member, topics map[TopicID]Topic) map[string]Assignment {
	out := make(map[string]Assignment, len(members))
	subscribers := make(map[TopicID][]*Member)
	for _, m := range sorted(members) {
		out[m.ID] = make(Assignment)
		for _, t := range m.Topics {
			subscribers[t] = append(subscribers[t], m)
		}
	}
	for id, ms := range subscribers {
		t, ok := topics[id]
		if !ok {
			continue
		}
		size, extra := t.Partitions/int32(len(ms)), t.Partitions%int32(len(ms))
		next := int32(0)
		for i, m := range ms {
			n := size
			if int32(i) < extra {
				n++
			}
			for range n {
				out[m.ID].add(id, next)
				next++
			}
		}
	}
	return out
}
