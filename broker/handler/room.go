package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// mostAnswered is how many bytes an answer may have before the next of the
// things asked for is refused instead. Much larger answers reach nobody: it is
// librdkafka's receive.message.max.bytes, and about what franz-go reads at most.
const mostAnswered = 100_000_000

// errNoRoom is the error of what no longer fits an answer. Clients do not ask
// again after it.
var errNoRoom = kerr.PolicyViolation

// room bounds an answer to a request that names many things of which each has
// much to it. Without it a frame of 10 KB that names one broker's configuration
// two thousand times brings 200 MB, and the largest frame more than any machine
// has.
type room struct {
	left    int
	scratch []byte
}

func (b *Broker) room() room { return room{left: b.mostAnswered} }

// full reports whether nothing more fits after part, a response that holds
// nothing but what was answered last (see last).
func (r *room) full(part kmsg.Response) bool {
	r.scratch = part.AppendTo(r.scratch[:0])
	r.left -= len(r.scratch)
	return r.left < 0
}

// last is the last element of s, if it has any.
func last[T any](s []T) []T { return s[max(0, len(s)-1):] }
