package main

import (
	"fmt"
	"slices"
	"time"
)

// replicatedProduce measures bulk produce to a leader with two followers: what
// all three brokers spend for each byte that a client wrote.
func (b *bench) replicatedProduce() error {
	b.logf("scenario 16: produce with %d replicas", clusterNodes)
	defer b.alone(nil)()
	cs, stop, err := b.clusters(onBrokerCPU)
	if err != nil {
		return err
	}
	defer stop()
	sh := bulkShapes[1].shape
	var contenders []contender
	for _, c := range cs {
		contenders = append(contenders, contender{c.name, c.subject(), func(timed func(int64, func() error) error) error {
			return b.replicateOnce(c, sh, b.size/2, timed)
		}})
		if c.name == "kafka" {
			// Three JVMs have to warm up, of which two only follow.
			s := c.subject()
			err := b.replicateOnce(c, sh, b.warmup, func(bytes int64, f func() error) error {
				m, err := s.timed(bytes, f)
				b.logf("  kafka warms up: %d MiB, %.3f CPU-s/GB", bytes/megabyte, m.cpuPerGB())
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	calls := b.calls
	b.calls = false // they are counted for one process only
	all, err := b.interleave(contenders, b.fewReps())
	b.calls = calls
	if err != nil {
		return err
	}
	b.report.table(fmt.Sprintf("16. Produce with %d replicas, acks=all, all brokers on one CPU: %s", clusterNodes, bulkShapes[1].name), "GB (all brokers)", all)
	return nil
}

// replicateOnce is produceOnce in a cluster, whose first node leads all.
func (b *bench) replicateOnce(c *cluster, sh shape, size int64, timed func(int64, func() error) error) error {
	b.topics++
	topic := fmt.Sprintf("replicated-%d", b.topics)
	l, err := newLoad(topic, sh)
	if err != nil {
		return err
	}
	if err := c.createTopic(topic, slices.Repeat([][]int32{{1, 2, 3}}, sh.partitions)...); err != nil {
		return err
	}
	s := c.subject()
	p, err := newProducer(s, l)
	if err != nil {
		return err
	}
	defer p.c.close()
	if err := p.run(8); err != nil {
		return err
	}
	time.Sleep(settle)
	n := max(int(size/l.plainBytes), 1)
	if err := timed(int64(n)*l.plainBytes, func() error { return p.run(n) }); err != nil {
		return err
	}
	if err := c.awaitPartitions(topic, inSync); err != nil {
		return err
	}
	return s.deleteTopic(topic)
}
