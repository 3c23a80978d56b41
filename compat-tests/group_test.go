package compat

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// groupKinds are the kinds of members that the group tests run: what starts a
// process that joins the group and says what happens to it.
var groupKinds = []struct {
	name    string
	command func(addr, topic, group string) (string, []string, error)
}{
	{"java-range", javaMember("--group-protocol", "classic", "--session-timeout", "6000", "--assignment-strategy", "org.apache.kafka.clients.consumer.RangeAssignor")},
	{"java-roundrobin", javaMember("--group-protocol", "classic", "--session-timeout", "6000", "--assignment-strategy", "org.apache.kafka.clients.consumer.RoundRobinAssignor")},
	{"java-sticky", javaMember("--group-protocol", "classic", "--session-timeout", "6000", "--assignment-strategy", "org.apache.kafka.clients.consumer.StickyAssignor")},
	{"java-cooperative", javaMember("--group-protocol", "classic", "--session-timeout", "6000", "--assignment-strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor")},
	{"java-consumer-uniform", javaMember("--group-protocol", "consumer", "--group-remote-assignor", "uniform")},
	{"java-consumer-range", javaMember("--group-protocol", "consumer", "--group-remote-assignor", "range")},
	{"librdkafka-range", pythonMember("session.timeout.ms=6000")},
	{"librdkafka-cooperative", pythonMember("session.timeout.ms=6000", "partition.assignment.strategy=cooperative-sticky")},
	{"librdkafka-consumer", pythonMember("group.protocol=consumer")},
	{"kafkajs", func(addr, topic, group string) (string, []string, error) {
		return harness.NodeMember(addr, topic, group)
	}},
}

func javaMember(args ...string) func(addr, topic, group string) (string, []string, error) {
	return func(addr, topic, group string) (string, []string, error) {
		return harness.JavaMember(append([]string{"--bootstrap-server", addr, "--topic", topic, "--group-id", group, "--reset-policy", "earliest"}, args...)...)
	}
}

func pythonMember(conf ...string) func(addr, topic, group string) (string, []string, error) {
	return func(addr, topic, group string) (string, []string, error) {
		return harness.PythonMember(append([]string{addr, topic, group}, conf...)...)
	}
}

// groupBroker starts a broker whose groups notice soon that a member is gone.
func groupBroker(t *testing.T, name string) *harness.Broker {
	t.Helper()
	dir, err := os.MkdirTemp(world.dir, name+"-groups-")
	if err != nil {
		t.Fatal(err)
	}
	conf := []string{
		"group.initial.rebalance.delay.ms=500", "group.consumer.heartbeat.interval.ms=500", "group.consumer.min.heartbeat.interval.ms=500",
		"group.consumer.session.timeout.ms=6000", "group.consumer.min.session.timeout.ms=6000", "group.consumer.assignment.interval.ms=0",
	}
	var b *harness.Broker
	if name == "kafka" {
		b, err = harness.Kafka(dir, conf...)
	} else {
		var bin string
		if bin, err = harness.BuildGregor(dir); err == nil {
			b, err = harness.Gregor(bin, dir, conf...)
		}
	}
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(b.Kill)
	return b
}

// TestGroupsUnderChurn: members join and leave while records are written; one
// is killed, one stalls beyond its session, and the broker is killed too. No
// record is lost, no partition has two owners, and committed offsets never go
// back.
func TestGroupsUnderChurn(t *testing.T) {
	needAll(t)
	for _, name := range []string{"kafka", "gregor"} {
		if *brokerFlag != name && *brokerFlag != "both" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := groupBroker(t, name)
			for _, kind := range groupKinds {
				t.Run(kind.name, func(t *testing.T) {
					if _, _, err := kind.command(b.Addr, "", ""); err != nil {
						missing(t, err)
					}
					churn(t, b, kind.name == "kafkajs", kind.command)
				})
			}
		})
	}
}

const churnPartitions = 6

// group is a consumer group under test and what its members have said.
type group struct {
	t           *testing.T
	b           *harness.Broker
	topic, name string
	// tardy members do not say that they lost partitions until they have joined
	// again.
	tardy   bool
	command func(addr, topic, group string) (string, []string, error)
	adm     *kadm.Client

	mu       sync.Mutex
	owner    [churnPartitions]*harness.Member
	consumed [churnPartitions]map[int64]bool
	// gone are members whose word does not count: they were killed, or stopped
	// and have not heard yet what they lost.
	gone  map[*harness.Member]bool
	count map[*harness.Member]int // partitions owned
	wrong []string
}

func churn(t *testing.T, b *harness.Broker, tardy bool, command func(addr, topic, group string) (string, []string, error)) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	g := &group{t: t, b: b, tardy: tardy, command: command, adm: kadm.NewClient(cl), gone: map[*harness.Member]bool{}, count: map[*harness.Member]int{}}
	for i := range g.consumed {
		g.consumed[i] = map[int64]bool{}
	}
	g.topic = topicName(t)
	g.name = g.topic
	if r, err := g.adm.CreateTopic(t.Context(), churnPartitions, 1, nil, g.topic); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { g.produce(ctx, cl) })
	work.Go(func() { g.watchOffsets(ctx) })

	first, second := g.start("first"), g.start("second")
	g.await("two share", func() bool { return g.count[first] > 0 && g.count[second] > 0 })
	third := g.start("third")
	g.await("three share", func() bool { return g.count[first] > 0 && g.count[second] > 0 && g.count[third] > 0 })
	g.lose(first)
	g.signal(first, syscall.SIGKILL)
	g.await("two share what the killed one had", func() bool { return g.count[second]+g.count[third] == churnPartitions })
	b.Kill()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	fourth := g.start("fourth")
	g.await("a new one gets its share after the broker was killed", func() bool { return g.count[fourth] > 0 })
	g.lose(second)
	g.signal(second, syscall.SIGSTOP)
	g.await("two share what the stalled one had", func() bool { return g.count[third]+g.count[fourth] == churnPartitions })
	g.signal(second, syscall.SIGCONT)
	g.await("the stalled one is back", func() bool { return g.count[second] > 0 })
	g.signal(third, syscall.SIGTERM)
	g.await("two are left", func() bool { return g.count[third] == 0 && g.count[second]+g.count[fourth] == churnPartitions })
	stop()
	work.Wait()
	g.drain()
}

func (g *group) start(name string) *harness.Member {
	g.t.Helper()
	program, args, err := g.command(g.b.Addr, g.topic, g.name)
	if err != nil {
		g.t.Fatal(err)
	}
	m, err := harness.StartMember(name, g.heard, program, args...)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		_ = m.Signal(syscall.SIGKILL)
		<-m.Done()
		if g.t.Failed() {
			g.t.Logf("%s: %s", name, m.Stderr())
		}
	})
	return m
}

func (g *group) signal(m *harness.Member, s syscall.Signal) {
	if err := m.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// lose takes a member's partitions away: it is about to be unable to say so.
func (g *group) lose(m *harness.Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone[m] = true
	for p, o := range g.owner {
		if o == m {
			g.owner[p] = nil
		}
	}
	g.count[m] = 0
}

func (g *group) heard(m *harness.Member, e harness.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.Name {
	case "partitions_assigned":
		delete(g.gone, m)
		for _, p := range e.Partitions {
			if o := g.owner[p.Partition]; o != nil && o != m && g.tardy {
				g.count[o]--
			} else if o != nil && o != m {
				g.wrong = append(g.wrong, fmt.Sprintf("%s got partition %d, which %s has", m.Name, p.Partition, o.Name))
			}
			if g.owner[p.Partition] != m {
				g.owner[p.Partition] = m
				g.count[m]++
			}
		}
	case "partitions_revoked":
		for _, p := range e.Partitions {
			if g.owner[p.Partition] == m {
				g.owner[p.Partition] = nil
				g.count[m]--
			}
		}
	case "records_consumed":
		for _, p := range e.Partitions {
			for o := p.MinOffset; o <= p.MaxOffset; o++ {
				g.consumed[p.Partition][o] = true
			}
		}
	}
}

// await waits until the group is as it should be.
func (g *group) await(what string, is func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; {
		g.mu.Lock()
		done, wrong := is(), len(g.wrong) > 0
		state := fmt.Sprint(g.wrong)
		for m, n := range g.count {
			state += fmt.Sprintf(" %s:%d", m.Name, n)
		}
		g.mu.Unlock()
		switch {
		case wrong:
			g.t.Fatalf("until %s: %s", what, state)
		case done:
			return
		case time.Now().After(deadline):
			g.t.Fatalf("never: %s; %s", what, state)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (g *group) produce(ctx context.Context, cl *kgo.Client) {
	for i := 0; ctx.Err() == nil; i++ {
		r := &kgo.Record{Topic: g.topic, Value: fmt.Append(nil, i)}
		if err := cl.ProduceSync(context.WithoutCancel(ctx), r).FirstErr(); err != nil {
			g.complain("produce: %v", err)
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (g *group) complain(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wrong = append(g.wrong, fmt.Sprintf(format, args...))
}

// watchOffsets sees to it that no committed offset goes back.
func (g *group) watchOffsets(ctx context.Context) {
	last := map[int32]int64{}
	for ctx.Err() == nil {
		offsets, err := g.adm.FetchOffsets(ctx, g.name)
		if err == nil {
			offsets.Each(func(o kadm.OffsetResponse) {
				if o.At < last[o.Partition] {
					g.complain("the offset committed for partition %d went from %d to %d", o.Partition, last[o.Partition], o.At)
				}
				last[o.Partition] = o.At
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// drain waits until everything is committed, and looks for what nobody got.
func (g *group) drain() {
	g.t.Helper()
	ends, err := g.adm.ListEndOffsets(g.t.Context(), g.topic)
	if err != nil {
		g.t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		offsets, err := g.adm.FetchOffsets(g.t.Context(), g.name)
		behind := 0
		ends.Each(func(o kadm.ListedOffset) {
			if at, ok := offsets.Lookup(g.topic, o.Partition); !ok || at.At < o.Offset {
				behind++
			}
		})
		if err == nil && behind == 0 {
			break
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%d partitions are not consumed to the end: %v, %v", behind, offsets, err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wrong) > 0 {
		g.t.Fatal(g.wrong)
	}
	total := 0
	ends.Each(func(o kadm.ListedOffset) {
		for at := range o.Offset {
			if !g.consumed[o.Partition][at] {
				g.t.Errorf("nobody consumed offset %d of partition %d", at, o.Partition)
				return
			}
			total++
		}
	})
	g.t.Logf("%d records", total)
}
