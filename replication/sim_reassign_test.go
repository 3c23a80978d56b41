package replication

import (
	"github.com/gregor-broker/gregor/metadata"
)

// reassign asks for other replicas: two to four of any brokers, more, fewer or others than
// now, or for the reassignment under way to be undone.
func (s *sim) reassign() {
	asked := metadata.Reassignment{Topic: "t"}
	if !s.part().Reassigning() || s.rng.IntN(3) > 0 {
		for _, i := range s.rng.Perm(len(s.brokers))[:2+s.rng.IntN(min(3, len(s.brokers)-1))] {
			asked.Replicas = append(asked.Replicas, s.brokers[i].id)
		}
	}
	from := s.pick()
	if !from.up {
		return
	}
	s.note("by way of broker %d the replicas are to be %v", from.id, asked.Replicas)
	var results []metadata.PartitionResult
	s.ask(from, &simRequest{decide: func(img *metadata.Image, _ bool) (plans []metadata.Plan, ok bool) {
		results, plans = metadata.Reassign(img, &s.env, []metadata.Reassignment{asked}, true)
		return plans, results[0].Err == nil
	}, answered: func(err error) {
		if err == nil {
			err = results[0].Err
		}
		s.note("reassignment: %v", err)
	}})
}
