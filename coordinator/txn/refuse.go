package txn

import (
	"slices"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// wholly runs what a request does to a transactional id so that all of it happens
// or nothing. While too few replicas are in sync records would be refused, and the
// state of all ids had to be loaded again, markers asked for again among it. So
// what a handler changed besides its records is put back, and its caller alone is
// refused; who only reads goes on.
func (s *Shard) wholly(id string, handle func() runtime.Result) runtime.Result {
	err := s.writable()
	if err == nil {
		return handle()
	}
	tx, waiting := s.ids[id], slices.Clone(s.waiting[id])
	lastEpoch := int16(noEpoch)
	if tx != nil {
		lastEpoch = tx.lastEpoch
	}
	r := handle()
	if len(r.Records) == 0 {
		return r
	}
	if tx != nil {
		tx.lastEpoch = lastEpoch
	}
	delete(s.waiting, id)
	if len(waiting) > 0 {
		s.waiting[id] = waiting
	}
	return runtime.Result{Refused: err}
}
