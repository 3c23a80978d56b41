package history

// Recovery follows whether clients get done again, after the faults are over,
// what they got done before: each service on its own. Topics that come and go are
// left out.
type Recovery struct {
	Healed int64 // when the faults were over

	before map[Service]bool
	again  map[Service]int64 // the first answer to a call after Healed
}

// NewRecovery begins with no operation. Whatever happens, something must be
// sent, and something polled: that is the service of the key without a name.
func NewRecovery(healed int64) *Recovery {
	return &Recovery{
		Healed: healed,
		before: map[Service]bool{{Kind: Send}: true, {Kind: Poll}: true},
		again:  map[Service]int64{},
	}
}

// Take takes an operation; their order does not matter.
func (r *Recovery) Take(o *Op) {
	o.Served(func(s Service) {
		if s.Key.Name() != s.Key.Topic {
			return
		}
		if o.Invoked < r.Healed {
			r.before[s] = true
			return
		}
		for _, s := range []Service{s, {Kind: s.Kind}} {
			if at, is := r.again[s]; !is || o.Returned < at {
				r.again[s] = o.Returned
			}
		}
	})
}

// Each calls f for each service that there must be again, with when it first was,
// or Never.
func (r *Recovery) Each(f func(s Service, at int64)) {
	for s := range r.before {
		at, is := r.again[s]
		if !is {
			at = Never
		}
		f(s, at)
	}
}

// Whole tells whether every service is there again.
func (r *Recovery) Whole() bool {
	whole := true
	r.Each(func(_ Service, at int64) { whole = whole && at != Never })
	return whole
}
