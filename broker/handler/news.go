package handler

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/replication"
)

// newsPatience bounds how long one request waits for this broker to learn what its
// client was told by another: brokers hear of a change within milliseconds of each
// other.
const newsPatience = 50 * time.Millisecond

// newsWait is the wait of all partitions of one request for news of who leads them.
// The zero value is ready to use, and again after end.
type newsWait struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// until ends newsPatience after it was first asked for, or with the request.
func (w *newsWait) until(r *Request) context.Context {
	if w.ctx == nil {
		w.ctx, w.cancel = context.WithTimeout(r.Ctx, newsPatience)
	}
	return w.ctx
}

// heard waits for this broker to hear of the leader epoch that a client named, if it
// was refused because it had not, and reports whether it has by now. Replicas are not
// waited for: they hear of news as this broker does, and come again.
func (w *newsWait) heard(r *Request, p *replication.Partition, replica, epoch int32, refused error) bool {
	return errors.Is(refused, kerr.UnknownLeaderEpoch) && replica < 0 && p != nil && p.AwaitEpoch(w.until(r), epoch)
}

// leads waits for this broker to lead a partition that refused a write because it does
// not, and reports whether it does.
func (w *newsWait) leads(r *Request, p *replication.Partition, refused error) bool {
	return errors.Is(refused, kerr.NotLeaderForPartition) && p != nil && p.AwaitLeadership(w.until(r))
}

// end frees what until took.
func (w *newsWait) end() {
	if w.cancel != nil {
		w.cancel()
	}
	*w = newsWait{}
}
