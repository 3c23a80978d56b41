package controller

import (
	"slices"
	"time"

	"github.com/gregor-broker/gregor/metadata"
)

// settleFor is how long a broker has to be up before partitions are given back to it
// without anybody having asked. The clients of a broker that restarted may hold
// connections to the process of before, and some find out only when they use them:
// franz-go backs off then, for up to two seconds where several brokers restarted one
// after the other. After its ConnIdleTimeout, 20 s, it connects anew.
const settleFor = 30 * time.Second

// arrivals tell which registration of a broker was seen first when. All nodes take note,
// so that who becomes the controller knows.
type arrivals map[int32]arrival

type arrival struct {
	epoch int64
	seen  time.Time
}

// note takes note of the brokers that are up.
func (a arrivals) note(brokers []*metadata.Broker, now time.Time) {
	for id := range a {
		if !slices.ContainsFunc(brokers, func(b *metadata.Broker) bool { return b.ID == id && b.Active() }) {
			delete(a, id)
		}
	}
	for _, b := range brokers {
		if b.Active() && a[b.ID].epoch != b.Epoch {
			a[b.ID] = arrival{b.Epoch, now}
		}
	}
}

// settled tells which brokers have been up for at least after, and in how long the next
// one will have been; 0 if none is to come.
func (a arrivals) settled(now time.Time, after time.Duration) (is func(id int32) bool, next time.Duration) {
	for _, at := range a {
		if left := after - now.Sub(at.seen); left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return func(id int32) bool {
		at, up := a[id]
		return up && now.Sub(at.seen) >= after
	}, next
}

// giveBack plans for the brokers that have settled to lead what they are preferred for,
// and says when it is to be asked again.
func (c *Controller) giveBack(img *metadata.Image, now time.Time) (plans []metadata.Plan, again time.Duration) {
	interval := c.opts.RebalanceInterval
	settled, next := c.arrivals.settled(now, min(settleFor, interval))
	if next == 0 {
		next = interval
	}
	return metadata.GiveBack(img, settled), min(next, interval)
}
