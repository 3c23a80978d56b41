package controller

import (
	"time"

	"github.com/gregor-broker/gregor/metadata"
)

// settleFor is how long a broker has to be up before partitions are given back to it
// without anybody having asked. The clients of a broker that restarted may hold
// connections to the process of before, and some find out only when they use them:
// franz-go backs off then, for up to two seconds where several brokers restarted one
// after the other. After its ConnIdleTimeout, 20 s, it connects anew.
const settleFor = 30 * time.Second

// arrivals tell which registration of a broker was seen first when, by those who look
// for preferred leaders.
type arrivals map[int32]arrival

type arrival struct {
	epoch int64
	seen  time.Time
}

// settled takes note of the brokers that are up, and returns those of them that have
// been for at least after, and in how long the next one will have been; 0 if none is
// to come.
func (a arrivals) settled(brokers []*metadata.Broker, now time.Time, after time.Duration) (is func(id int32) bool, next time.Duration) {
	up := map[int32]bool{}
	for _, b := range brokers {
		if !b.Active() {
			continue
		}
		if a[b.ID].epoch != b.Epoch {
			a[b.ID] = arrival{b.Epoch, now}
		}
		left := after - now.Sub(a[b.ID].seen)
		up[b.ID] = left <= 0
		if left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	for id := range a {
		if _, is := up[id]; !is {
			delete(a, id)
		}
	}
	return func(id int32) bool { return up[id] }, next
}

// giveBack plans for the brokers that have settled to lead what they are preferred for,
// and says when it is to be asked again.
func (c *Controller) giveBack(img *metadata.Image, now time.Time) (plans []metadata.Plan, again time.Duration) {
	interval := c.opts.RebalanceInterval
	settled, next := c.arrivals.settled(img.Brokers(), now, min(settleFor, interval))
	if next == 0 {
		next = interval
	}
	return metadata.GiveBack(img, settled), min(next, interval)
}
