package txn

import (
	"slices"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// wholly runs what a request does to a transactional id so that all of it happens
// or nothing; see [runtime.Wholly]. Markers would be asked for again, too, if the
// state of all ids had to be loaded.
func (s *Shard) wholly(id string, handle func() runtime.Result) runtime.Result {
	return runtime.Wholly(s.writable, func() func() { return s.remember(id) }, handle)
}

// remember notes what a handler changes of a transactional id besides its records,
// and returns what puts it back.
func (s *Shard) remember(id string) (undo func()) {
	tx, waiting := s.ids[id], slices.Clone(s.waiting[id])
	lastEpoch := int16(noEpoch)
	if tx != nil {
		lastEpoch = tx.lastEpoch
	}
	return func() {
		if tx != nil {
			tx.lastEpoch = lastEpoch
		}
		delete(s.waiting, id)
		if len(waiting) > 0 {
			s.waiting[id] = waiting
		}
	}
}
