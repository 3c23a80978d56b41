package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestRollingRestart: the brokers restart one after the other, twice, under
// load. Clients see no error, and the gap in what is acknowledged, and in what is
// read, is logged for each restart.
func TestRollingRestart(t *testing.T) {
	long(t)
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			c := start(t, name, here(3))
			topic := c.create(c.spread(6), "min.insync.replicas=2")
			l := c.load(client, topic, loadConfig{})
			l.more(50)
			began := time.Now()
			l.more(50)
			t.Logf("with nothing going on: %v between two acknowledgements at most, %v between two reads", l.gap(began), l.readGap(began))
			var gaps, readGaps []time.Duration
			for range 2 {
				for _, id := range c.ids {
					began := time.Now()
					c.stop(id)
					stopped := time.Since(began)
					l.more(20)
					gap, readGap := l.gap(began), l.readGap(began)
					c.restart(id)
					started := time.Since(began) - stopped
					c.awaitWhole(topic)
					l.more(20)
					t.Logf("broker %d: stop %v, start %v, whole after %v; longest gap of acknowledgements %v while it stopped, %v until all was as before; of reads %v and %v",
						id, stopped.Round(time.Millisecond), started.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), gap, l.gap(began), readGap, l.readGap(began))
					gaps, readGaps = append(gaps, l.gap(began)), append(readGaps, l.readGap(began))
				}
			}
			slices.Sort(gaps)
			slices.Sort(readGaps)
			t.Logf("%s with %s: gaps of acknowledgements %v, of reads %v", name, client, gaps, readGaps)
			l.end()
		})
	})
}

// TestUnregister: a broker that is down for good is forgotten, under load, and is
// listed no more; its replicas go elsewhere. One of the same id may join later.
func TestUnregister(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			c := start(t, name, apart(4))
			topic := c.create([][]int32{{1, 2, 4}, {2, 4, 3}, {4, 3, 1}}, "min.insync.replicas=2")
			l := c.load(client, topic, loadConfig{})
			c.stop(4)
			c.await("broker 4 fenced", func(ctx context.Context) (bool, error) {
				fenced, err := c.fenced(ctx)
				return slices.Equal(fenced, []int32{4}), err
			})
			req := kmsg.NewPtrUnregisterBrokerRequest()
			req.BrokerID = 4
			r, err := req.RequestWith(t.Context(), c.cl)
			if err == nil {
				err = kerr.ErrorForCode(r.ErrorCode)
			}
			if err != nil {
				t.Fatal(err)
			}
			c.await("broker 4 forgotten", func(ctx context.Context) (bool, error) {
				fenced, err := c.fenced(ctx)
				return len(fenced) == 0, err
			})
			l.more(10)
			to := [][]int32{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}}
			c.reassign(topic, to)
			c.awaitAssigned(topic, to)
			l.more(10)
			c.restart(4)
			c.create([][]int32{{4, 1, 2}})
			l.end()
		})
	})
}

// fenced are the brokers that are registered and not up (KIP-1073).
func (c *cluster) fenced(ctx context.Context) (ids []int32, err error) {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeFencedBrokers = true
	r, err := req.RequestWith(ctx, c.cl)
	if err != nil {
		return nil, err
	}
	for _, b := range r.Brokers {
		if b.IsFenced {
			ids = append(ids, b.NodeID)
		}
	}
	return ids, kerr.ErrorForCode(r.ErrorCode)
}

// TestReplacedDisk: a broker's disk is empty when it starts again, under load.
// It gets everything from the others and leads again. Where it is a controller
// too, it is removed as such first, and joins anew.
func TestReplacedDisk(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		if name == "kafka" {
			t.Skip("Kafka's directories have to be formatted by hand")
		}
		withEach(t, func(t *testing.T, client string) {
			for _, both := range []bool{false, true} {
				t.Run(fmt.Sprintf("controller=%t", both), func(t *testing.T) {
					layout := apart(3)
					if both {
						layout = here(3)
					}
					c := start(t, name, layout, "controller.quorum.auto.join.enable="+strconv.FormatBool(both))
					topic := c.create(c.spread(3), "min.insync.replicas=2")
					l := c.load(client, topic, loadConfig{})
					for _, id := range c.ids {
						c.kill(id)
						if err := os.RemoveAll(c.node(id).DataDir); err != nil {
							t.Fatal(err)
						}
						l.more(20)
						if both {
							c.removeController(id)
						}
						c.restart(id)
						c.awaitWhole(topic)
						l.more(20)
					}
					l.end()
				})
			}
		})
	})
}

// removeController takes a controller that is down out of the quorum, as
// kafka-metadata-quorum.sh remove-controller does.
func (c *cluster) removeController(id int32) {
	c.t.Helper()
	req := kmsg.NewPtrRemoveRaftVoterRequest()
	req.VoterID = id
	c.await(fmt.Sprintf("controller %d removed", id), func(ctx context.Context) (bool, error) {
		r, err := req.RequestWith(ctx, c.cl)
		if err != nil {
			return false, err
		}
		err = kerr.ErrorForCode(r.ErrorCode)
		return err == nil, err
	})
}

// TestChangedAddress: the brokers move to other ports one after the other, under
// load. Clients find all of them, the last one too, though none of the addresses
// they started with is left.
func TestChangedAddress(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			c := start(t, name, here(3))
			topic := c.create(c.spread(3), "min.insync.replicas=2")
			l := c.load(client, topic, loadConfig{})
			for _, id := range c.ids {
				c.stop(id)
				if err := c.node(id).Move(); err != nil {
					t.Fatal(err)
				}
				c.restart(id)
				c.awaitWhole(topic)
				l.more(50)
			}
			l.end()
		})
	})
}
