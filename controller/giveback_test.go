package controller

import (
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
)

// Partitions are given back to brokers that have been up for a while: since they were
// seen first, or since they registered again.
func TestSettled(t *testing.T) {
	const after = 30 * time.Second
	began := time.Unix(1_800_000_000, 0)
	one, two := &metadata.Broker{ID: 1, Epoch: 10}, &metadata.Broker{ID: 2, Epoch: 11}
	fenced := &metadata.Broker{ID: 2, Epoch: 11, Fenced: true}
	again := &metadata.Broker{ID: 2, Epoch: 20}
	a := arrivals{}
	for _, step := range []struct {
		at       time.Duration
		brokers  []*metadata.Broker
		one, two bool
		next     time.Duration
	}{
		{0, []*metadata.Broker{one}, false, false, after},
		{10 * time.Second, []*metadata.Broker{one, two}, false, false, 20 * time.Second},
		{after, []*metadata.Broker{one, two}, true, false, 10 * time.Second},
		{40 * time.Second, []*metadata.Broker{one, two}, true, true, 0},
		{41 * time.Second, []*metadata.Broker{one, fenced}, true, false, 0},
		{42 * time.Second, []*metadata.Broker{one, two}, true, false, after},
		{43 * time.Second, []*metadata.Broker{one, again}, true, false, after},
		{73 * time.Second, []*metadata.Broker{one, again}, true, true, 0},
	} {
		a.note(step.brokers, began.Add(step.at))
		settled, next := a.settled(began.Add(step.at), after)
		if settled(1) != step.one || settled(2) != step.two || settled(3) || next != step.next {
			t.Errorf("after %v: broker 1 %t, broker 2 %t, the next in %v; want %+v", step.at, settled(1), settled(2), next, step)
		}
	}
}

// That a broker is up is noted when it comes, and not only when it is time to look for
// preferred leaders: who looks first would not give anything back before settleFor is over.
func TestArrivalsAreNoted(t *testing.T) {
	a := comesBack(t, Options{RebalanceInterval: time.Hour})
	epoch := a.Image().Broker(2).Epoch
	if err := a.Close(); err != nil { // ends the goroutine that notes
		t.Fatal(err)
	}
	if got := a.arrivals[2].epoch; got != epoch {
		t.Errorf("noted epoch %d, the broker has %d", got, epoch)
	}
}
