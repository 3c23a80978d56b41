package replication

import (
	"maps"
	"slices"

	"github.com/gregor-broker/gregor/metadata"
)

// simEra is what must not be lost from one unclean election to the next. The election
// gives up what was committed in leader epochs before its own and is not in the log of
// who was elected, and nothing else: all the rest goes over into the new era, and
// from its epoch on all rules hold again. Who does not know of it yet may
// acknowledge and show records in the old era, as an isolated broker would.
type simEra struct {
	// epoch is the first leader epoch, alone who was elected in it.
	epoch int32
	alone int32
	// opened: somebody leads in it, so that what is left of the era before is known.
	// shared: who was elected is not the only one in sync any more.
	opened, shared bool

	acked     map[int64]string
	committed map[int64]simBatch
	top       int64 // the end of what was ever committed
}

// eraOf is the index of the era of a leader epoch.
func (s *sim) eraOf(epoch int32) int {
	for i := len(s.eras) - 1; i > 0; i-- {
		if s.eras[i].epoch <= epoch {
			return i
		}
	}
	return 0
}

// unproven is the era of a log of which it is not known to which it belongs: of none
// once there are several.
func (s *sim) unproven(b *simBroker) int {
	if len(s.eras) > 1 {
		return -1
	}
	return b.era
}

// conforms notes that the log of a broker is that of an era.
func (s *sim) conforms(b *simBroker, era int) {
	if b.era != era {
		b.era, b.checked = era, 0
	}
}

// openEras begins the eras whose first leader leads now.
func (s *sim) openEras(part *metadata.Partition) {
	if len(s.eras) == 1 {
		return
	}
	for _, b := range s.brokers {
		p := b.partition()
		if p == nil {
			continue
		}
		if snap := p.Snapshot(); snap.IsLeader && snap.Err == nil {
			s.open(s.eraOf(snap.LeaderEpoch), b, p)
		}
	}
	if era := s.eras[len(s.eras)-1]; era.opened && len(part.ISR) >= s.env.MinInsyncReplicas {
		era.shared = true
	}
}

// open begins an era with what its first leader has of the one before.
func (s *sim) open(i int, b *simBroker, p *Partition) {
	era := s.eras[i]
	if era.opened {
		return
	}
	if b.id != era.alone {
		s.fail("broker %d leads after broker %d was elected uncleanly, and nobody else was in sync", b.id, era.alone)
	}
	before := i - 1
	for !s.eras[before].opened {
		before--
	}
	old, have := s.eras[before], s.content(b, p)
	era.opened, era.acked, era.committed = true, maps.Clone(old.acked), maps.Clone(old.committed)
	maps.DeleteFunc(era.acked, func(o int64, value string) bool { return !holds(have, o, value) })
	maps.DeleteFunc(era.committed, func(o int64, want simBatch) bool { return have[o] != want })
	for _, batch := range era.committed {
		era.top = max(era.top, batch.last+1)
	}
	s.note("  broker %d leads with %d of %d committed batches", b.id, len(era.committed), len(old.committed))
}

// alone reports whether a broker has what nobody else needs to have: after an unclean
// election, until another one is in sync. What it does not sync it may lose, which
// is not for replication to prevent.
func (s *sim) alone(b *simBroker) bool {
	era := s.eras[len(s.eras)-1]
	return len(s.eras) > 1 && !era.shared && era.alone == b.id
}

// permitsUnclean reports whether the configuration in an image asks for unclean
// elections.
func (s *sim) permitsUnclean(img *metadata.Image) bool {
	return img != nil && img.TopicByID(s.topic) != nil && img.TopicByID(s.topic).Configs["unclean.leader.election.enable"] == "true"
}

// askUnclean asks for an unclean election, if it is needed, or permits or forbids
// them from now on.
func (s *sim) askUnclean() {
	if s.rng.IntN(3) == 0 {
		permit := !s.permitsUnclean(s.image())
		s.note("unclean elections are permitted: %v", permit)
		s.configure(permit)
		return
	}
	from := s.pick()
	if !from.up {
		return
	}
	s.note("by way of broker %d an unclean election is asked for", from.id)
	var results []metadata.PartitionResult
	s.ask(from, &simRequest{elects: true, decide: func(img *metadata.Image, _ bool) (plans []metadata.Plan, ok bool) {
		env := s.env
		env.LogEnds = s.logEnds(metadata.UncleanElections(img, &env, true))
		results, plans = metadata.ElectLeaders(img, &env, metadata.UncleanElection, []metadata.TopicPartitions{{Topic: "t", Partitions: []int32{0}}})
		return plans, results[0].Err == nil
	}, answered: func(err error) {
		if err == nil {
			err = results[0].Err
		}
		s.note("unclean election: %v", err)
	}})
}

// logEnds is what brokers say of their logs, those that answer.
func (s *sim) logEnds(asked map[int32][]metadata.PartitionID) metadata.LogEnds {
	ends := metadata.LogEnds{}
	for _, id := range slices.Sorted(maps.Keys(asked)) {
		p := s.brokers[id-1].partition()
		if p == nil || s.rng.IntN(4) == 0 {
			continue
		}
		epoch, offset, err := p.LogEnd()
		if err != nil {
			continue
		}
		for _, of := range asked[id] {
			if ends[of] == nil {
				ends[of] = map[int32]metadata.LogEnd{}
			}
			ends[of][id] = metadata.LogEnd{Epoch: epoch, Offset: offset}
		}
	}
	return ends
}
