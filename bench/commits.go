package main

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	commitConnections = 10
	commitPartitions  = 6 // in each commit
	commitOffset      = 1_000_000
	commitWindow      = 5 // commits in flight on a connection, one for each of as many groups
)

// committers are groups of one member each, of the classic protocol, that
// commit over a few connections.
type committers struct {
	s      *subject
	conns  []*rawConn
	frames [][]byte // one for each group
}

// joiners is how many groups form at a time, which takes them
// group.initial.rebalance.delay.ms.
const joiners = 200

// newCommitters makes the groups: every member joins on a connection of its own,
// as the broker answers only when the group has formed.
func (b *bench) newCommitters(s *subject, topic string, groups int) (*committers, error) {
	if err := s.createTopic(topic, commitPartitions); err != nil {
		return nil, err
	}
	if err := s.awaitCoordinator(groupCoordinator, "commit"); err != nil {
		return nil, err
	}
	c := &committers{s: s, frames: make([][]byte, groups)}
	next := make(chan int, groups)
	for i := range groups {
		next <- i
	}
	close(next)
	err := parallel(joiners, func() error {
		for i := range next {
			m, err := newMember(s, fmt.Sprintf("commit-%d", i), topic, commitPartitions)
			if err != nil {
				return err
			}
			_, err = m.join()
			_ = m.c.Close()
			if err != nil {
				return err
			}
			c.frames[i] = encode(m.commitRequest(), int32(i))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, c.dial(dialRaw)
}

// commitRequest commits an offset for each of the topic's partitions.
func (m *member) commitRequest() *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version = 9
	req.Group, req.Generation, req.MemberID = m.group, m.epoch, m.id
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = m.topic
	for i := range m.partitions {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.Metadata = i, commitOffset, kmsg.StringPtr("")
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// echo is the committers that send what c sends to the floor, which sends as many bytes back
// as a broker.
func (c *committers) echo(floor *subject) (*committers, error) {
	longest := 0
	for _, f := range c.frames {
		longest = max(longest, len(f))
	}
	e := &committers{s: floor}
	for _, f := range c.frames { // the floor knows one size
		e.frames = append(e.frames, append(f[:len(f):len(f)], make([]byte, longest-len(f))...))
	}
	return e, e.dial(func(addr string) (*rawConn, error) {
		conn, err := dialRaw(addr)
		if err != nil {
			return nil, err
		}
		return conn, conn.write(fmt.Appendf(nil, "echo %d %d\n", longest, echoAnswer))
	})
}

// echoAnswer is about the size of an OffsetCommit response.
const echoAnswer = 80

func (c *committers) dial(one func(addr string) (*rawConn, error)) error {
	for range commitConnections {
		conn, err := one(c.s.addr)
		if err != nil {
			return err
		}
		c.conns = append(c.conns, conn)
	}
	return nil
}

func (c *committers) close() {
	for _, conn := range c.conns {
		conn.close()
	}
}

func (c *committers) send(i int) error {
	return c.conns[i%len(c.conns)].write(c.frames[i%len(c.frames)])
}

// receive reads the answer to request i and looks at it.
func (c *committers) receive(i int) error {
	conn := c.conns[i%len(c.conns)]
	if c.s.broker == nil {
		_, err := conn.readN(echoAnswer)
		return err
	}
	frame, err := conn.frame()
	if err != nil {
		return err
	}
	resp := kmsg.OffsetCommitResponse{Version: 9}
	if err := decode(frame, &resp); err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := failed("OffsetCommit", p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// flood commits n times, as fast as the answers come.
func (c *committers) flood(n int) error {
	window := commitWindow * len(c.conns)
	for i := range n {
		if i >= window {
			if err := c.receive(i - window); err != nil {
				return err
			}
		}
		if err := c.send(i); err != nil {
			return err
		}
	}
	return forEach(max(n-window, 0), n, 1, c.receive)
}

// floodCommits are in one repetition of the flood.
const floodCommits = 20_000

// commits measures offset commits of many groups: each once a second, and as
// many as the broker takes.
func (b *bench) commits() error {
	b.logf("scenario 10.1: %d groups commit", b.groups)
	const topic = "committed"
	all := map[string]*committers{}
	for _, s := range b.brokers() {
		c, err := b.newCommitters(s, topic, b.groups)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer s.deleteTopic(topic) //nolint:errcheck // the broker ends soon
		defer c.close()
		all[s.name] = c
	}
	echo, err := all["gregor"].echo(b.floor)
	if err != nil {
		return err
	}
	defer echo.close()
	all["floor"] = echo
	if b.kafka != nil {
		for began := time.Now(); time.Since(began) < b.latencyWarm; {
			if err := all["kafka"].flood(floodCommits / 4); err != nil {
				return err
			}
		}
	}
	paced, flooded := map[string]*latencies{}, map[string]*floods{}
	for _, s := range b.subjects() {
		paced[s.name], flooded[s.name] = &latencies{}, &floods{}
	}
	for range b.reps {
		for _, s := range b.subjects() {
			if err := b.commitOnce(all[s.name], paced[s.name], flooded[s.name]); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	b.report.latencies(fmt.Sprintf("10.1 Offset commits of %d groups, each once a second (open loop, %d partitions a commit, %d connections), microseconds; median second",
		b.groups, commitPartitions, commitConnections), names(b.subjects()), paced)
	b.report.floods(fmt.Sprintf("10.1 Offset commits of %d groups as fast as the answers come (%d connections, %d in flight on each)",
		b.groups, commitConnections, commitWindow), "commit", names(b.subjects()), flooded)
	return nil
}

func (b *bench) commitOnce(c *committers, paced *latencies, flooded *floods) error {
	defer b.alone(c.s)()
	time.Sleep(time.Second) // it was stopped, and catches up
	if err := c.flood(floodCommits / 10); err != nil {
		return err
	}
	m, err := c.s.timed(floodCommits, func() error { return c.flood(floodCommits) })
	if err != nil {
		return err
	}
	flooded.add(m)
	q, err := c.s.pace(func() ([]time.Duration, error) {
		return openLoop(b.groups, b.latencyTime, len(c.conns), c.send, c.receive)
	})
	if err != nil {
		return err
	}
	paced.add(q, b.groups)
	b.logf("  %-8s paced: %5.1f us CPU each, flood: %6.0f commits/s, %5.1f us CPU each", c.s.name, q.cpu, m.perSecond(), m.cpuEach())
	return nil
}
