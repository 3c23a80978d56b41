package cluster

import "testing"

// bounces of one run; each hits whoever has the role by then.
const bounces = 3

// TestReplication: the leader of a partition, or the controller, is stopped or
// killed, for good or again and again, under load. Every acknowledged record is
// there, once and in order; at the end all replicas are in sync and the
// preferred leaders lead.
func TestReplication(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			c := start(t, name, here(3))
			for _, role := range []string{"leader", "controller"} {
				for _, failure := range []string{"clean_shutdown", "hard_shutdown", "clean_bounce", "hard_bounce"} {
					if !t.Run(failure+"_of_"+role, func(t *testing.T) { c.in(t).replication(client, role, failure) }) {
						return // its cluster is not what the next expects
					}
				}
			}
		})
	})
}

// in is the cluster within a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	one := *c
	one.t = t
	return &one
}

func (c *cluster) replication(client, role, failure string) {
	topic := c.create(c.spread(3), "min.insync.replicas=2")
	l := c.load(client, topic, loadConfig{})
	victim := func() int32 {
		if role == "controller" {
			return c.controller()
		}
		return c.leader(topic, 0)
	}
	times := bounces
	if failure == "clean_shutdown" || failure == "hard_shutdown" {
		times = 1
	}
	for range times {
		id := victim()
		if failure == "clean_shutdown" || failure == "clean_bounce" {
			c.stop(id)
		} else {
			c.kill(id)
		}
		c.awaitTopic(topic, "led by others", func(p partition) bool { return p.Leader > 0 && p.Leader != id })
		l.more(20)
		if times > 1 {
			c.restart(id)
			// Another must not go before this one is in sync: min.insync.replicas is 2.
			c.awaitTopic(topic, "all in sync", func(p partition) bool { return len(p.ISR) == 3 })
		}
	}
	l.more(20)
	l.end()
	for _, id := range c.ids {
		select {
		case <-c.node(id).Exited():
			c.restart(id)
		default:
		}
	}
	c.awaitWhole(topic)
}
