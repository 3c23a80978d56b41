package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fault is what happens to the leader of a partition, and how it is undone.
type fault struct {
	name string
	do   func(*harness.Broker) error
	undo func(*harness.Broker) error
	// controller says that the leader is the active controller too.
	controller bool
}

var faults = []fault{
	{name: "kill -9 of the leader", do: killed, undo: (*harness.Broker).Start},
	{name: "kill -9 of leader and controller in one", do: killed, undo: (*harness.Broker).Start, controller: true},
	{name: "SIGSTOP of the leader", do: signalled(syscall.SIGSTOP), undo: signalled(syscall.SIGCONT)},
	{name: "clean stop of the leader", do: (*harness.Broker).Stop, undo: (*harness.Broker).Start},
}

func killed(n *harness.Broker) error {
	n.Kill()
	return nil
}

func signalled(s syscall.Signal) func(*harness.Broker) error {
	return func(n *harness.Broker) error { return syscall.Kill(n.Pid(), s) }
}

// What the producer of the failover scenario does.
const (
	failoverEvery = 5 * time.Millisecond
	// failoverPatience is how long it waits for an answer before it looks for
	// another leader: far below what clients default to, so that what is seen is
	// the cluster's part of the time.
	failoverPatience = 250 * time.Millisecond
	// failoverCalm is how long all is well before and after.
	failoverCalm  = 2 * time.Second
	failoverLimit = time.Minute
)

// failover measures the longest time between two acknowledgements that an
// acks=all producer gets when the leader of its partition goes. Unless a fault
// says otherwise, the leader is not the controller.
func (b *bench) failover() error {
	b.logf("scenario 15: failover, %d brokers", clusterNodes)
	defer b.alone(nil)()
	cs, stop, err := b.clusters(onAnyCPU)
	if err != nil {
		return err
	}
	defer stop()
	const topic = "failover"
	spread := [][]int32{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}}
	rows := map[string]map[string][]float64{}
	for _, c := range cs {
		rows[c.name] = map[string][]float64{}
		if err := c.createTopic(topic, spread...); err != nil {
			return err
		}
	}
	for range b.fewReps() {
		for _, f := range faults {
			for _, c := range cs {
				gap, err := c.failOnce(topic, int32(len(spread)), f)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, f.name, err)
				}
				rows[c.name][f.name] = append(rows[c.name][f.name], gap.Seconds()*1e3)
				b.logf("  %-8s %-40s no acknowledgement for %.0f ms", c.name, f.name, gap.Seconds()*1e3)
			}
		}
	}
	b.report.failovers(cs, rows)
	return nil
}

func (c *cluster) failOnce(topic string, partitions int32, f fault) (time.Duration, error) {
	if err := c.electPreferred(topic, partitions); err != nil {
		return 0, err
	}
	controller, err := c.controller()
	if err != nil {
		return 0, err
	}
	partition := controller % clusterNodes // led by the node after the controller
	if f.controller {
		partition = controller - 1
	}
	victim := c.nodes[partition]
	p, err := c.newPulse(topic, partition)
	if err != nil {
		return 0, err
	}
	defer p.close()
	if err := p.calm(failoverLimit); err != nil {
		return 0, fmt.Errorf("before: %w", err)
	}
	began := time.Now()
	if err := f.do(victim); err != nil {
		return 0, err
	}
	err = p.calm(failoverLimit)
	gap := p.longestSince(began)
	if undoErr := onAnyCPU(func() error { return f.undo(victim) }); err == nil {
		err = undoErr
	}
	return gap, err
}

// pulse is a producer that writes a small record to one partition every few
// milliseconds and notes when each is acknowledged. It has one request under way
// at a time, gives up on it soon, and asks each node in turn for the leader.
type pulse struct {
	c     *cluster
	conn  net.Conn
	frame []byte
	topic string
	part  int32
	stop  chan struct{}
	done  sync.WaitGroup

	mu   sync.Mutex
	acks []time.Time
}

func (c *cluster) newPulse(topic string, partition int32) (*pulse, error) {
	l, err := newLoad(topic, shape{records: 1, valueBytes: 100, batches: 1, partitions: 1, firstPartition: int(partition)})
	if err != nil {
		return nil, err
	}
	b := l.frames[0].batches[0]
	for i := 43; i < 57; i++ { // no producer id, epoch and sequence: what is lost is not missed
		b[i] = 0xff
	}
	b.ResetCRC()
	p := &pulse{c: c, frame: l.frames[0].bytes, topic: topic, part: partition, stop: make(chan struct{})}
	p.done.Go(p.run)
	return p, nil
}

func (p *pulse) run() {
	tick := time.NewTicker(failoverEvery)
	defer tick.Stop()
	defer p.disconnect()
	for next := 0; ; {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		if p.conn == nil {
			next++
			p.conn = p.connect(p.c.nodes[next%clusterNodes].Addr)
		}
		if p.conn == nil {
			continue
		}
		if p.write() != nil {
			p.disconnect()
			continue
		}
		p.mu.Lock()
		p.acks = append(p.acks, time.Now())
		p.mu.Unlock()
	}
}

// connect asks a node who leads, and connects to it.
func (p *pulse) connect(addr string) net.Conn {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 8
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &p.topic
	req.Topics = append(req.Topics, t)
	c, err := net.DialTimeout("tcp", addr, failoverPatience)
	if err != nil {
		return nil
	}
	defer c.Close()
	resp := kmsg.MetadataResponse{Version: 8}
	if err := exchange(c, encode(req, 1), &resp); err != nil || len(resp.Topics) != 1 {
		return nil
	}
	for _, q := range resp.Topics[0].Partitions {
		if q.Partition == p.part && q.Leader > 0 {
			leader, err := net.DialTimeout("tcp", p.c.nodes[q.Leader-1].Addr, failoverPatience)
			if err == nil {
				return leader
			}
		}
	}
	return nil
}

func (p *pulse) write() error {
	resp := kmsg.ProduceResponse{Version: 12}
	if err := exchange(p.conn, p.frame, &resp); err != nil {
		return err
	}
	return failed("Produce", resp.Topics[0].Partitions[0].ErrorCode)
}

func (p *pulse) disconnect() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// exchange sends a request and reads its answer, patiently but not for long.
func exchange(c net.Conn, request []byte, resp kmsg.Response) error {
	if err := c.SetDeadline(time.Now().Add(failoverPatience)); err != nil {
		return err
	}
	if _, err := c.Write(request); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, frame); err != nil {
		return err
	}
	return decode(frame, resp)
}

// calm waits until acknowledgements have come without a break for a while.
func (p *pulse) calm(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	began := time.Now()
	for time.Now().Before(deadline) {
		time.Sleep(failoverCalm / 20)
		p.mu.Lock()
		var last time.Time
		if n := len(p.acks); n > 0 {
			last = p.acks[n-1]
		}
		p.mu.Unlock()
		if time.Since(last) > failoverCalm/4 {
			began = time.Now()
		}
		if time.Since(began) > failoverCalm {
			return nil
		}
	}
	return fmt.Errorf("no steady acknowledgements within %s", limit)
}

// longestSince is the longest time without an acknowledgement that ended after
// began.
func (p *pulse) longestSince(began time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var longest time.Duration
	for i := 1; i < len(p.acks); i++ {
		if p.acks[i].After(began) {
			longest = max(longest, p.acks[i].Sub(p.acks[i-1]))
		}
	}
	return longest
}

func (p *pulse) close() {
	close(p.stop)
	p.done.Wait()
}
