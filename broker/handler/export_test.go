package handler

// PartitionsLookedAt is how many partitions the last fetch looked at.
func (r *Request) PartitionsLookedAt() int { return r.fetch.looks }
