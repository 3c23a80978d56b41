package compat

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// groupKind is a kind of member: what starts one.
type groupKind struct {
	name string
	// tardy members do not say that they lost partitions until they have joined
	// again.
	tardy bool
	// forgets: it may commit a record that it has just got when it is told to
	// end, and does not show it.
	forgets bool
	// unordered commits: it has many under way, and those that a lost connection
	// left without an answer it sends again after later ones.
	unordered bool
	command   func(addr, topic, group string) (harness.MemberCommand, error)
}

// groupKinds are the kinds of members that the group tests run.
var groupKinds = []groupKind{
	{name: "java-range", command: javaMember("--group-protocol", "classic", "--session-timeout", "10000", "--assignment-strategy", "org.apache.kafka.clients.consumer.RangeAssignor")},
	{name: "java-roundrobin", command: javaMember("--group-protocol", "classic", "--session-timeout", "10000", "--assignment-strategy", "org.apache.kafka.clients.consumer.RoundRobinAssignor")},
	{name: "java-sticky", command: javaMember("--group-protocol", "classic", "--session-timeout", "10000", "--assignment-strategy", "org.apache.kafka.clients.consumer.StickyAssignor")},
	{name: "java-cooperative", command: javaMember("--group-protocol", "classic", "--session-timeout", "10000", "--assignment-strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor")},
	{name: "java-consumer-uniform", command: javaMember("--group-protocol", "consumer", "--group-remote-assignor", "uniform")},
	{name: "java-consumer-range", command: javaMember("--group-protocol", "consumer", "--group-remote-assignor", "range")},
	{name: "franz-range", command: franzMember("range")},
	{name: "franz-roundrobin", command: franzMember("roundrobin")},
	{name: "franz-sticky", command: franzMember("sticky")},
	{name: "franz-cooperative", command: franzMember("cooperative-sticky")},
	{name: "franz-consumer-uniform", command: franzMember("consumer:uniform")},
	{name: "franz-consumer-range", command: franzMember("consumer:range")},
	{name: "librdkafka-range", command: pythonMember("librdkafka_member.py", "session.timeout.ms=10000")},
	{name: "librdkafka-cooperative", command: pythonMember("librdkafka_member.py", "session.timeout.ms=10000", "partition.assignment.strategy=cooperative-sticky")},
	{name: "librdkafka-consumer", command: pythonMember("librdkafka_member.py", "group.protocol=consumer")},
	{name: "kcat-range", forgets: true, command: kcatMember("partition.assignment.strategy=range")},
	{name: "kcat-cooperative", forgets: true, command: kcatMember("partition.assignment.strategy=cooperative-sticky")},
	{name: "kafka-python-range", command: pythonMember("kafka_python_member.py", "range")},
	{name: "kafka-python-cooperative", command: pythonMember("kafka_python_member.py", "cooperative-sticky")},
	{name: "aiokafka-roundrobin", command: pythonMember("aiokafka_member.py", "roundrobin")},
	{name: "kafkajs", tardy: true, command: nodeMember("kafkajs")},
	{name: "confluent-js", unordered: true, command: nodeMember("confluent", "session.timeout.ms=10000")},
	{name: "confluent-js-consumer", unordered: true, command: nodeMember("confluent", "group.protocol=consumer")},
}

type memberOf = func(addr, topic, group string) (harness.MemberCommand, error)

func javaMember(args ...string) memberOf {
	return func(addr, topic, group string) (harness.MemberCommand, error) {
		return harness.JavaMember(append([]string{"--bootstrap-server", addr, "--topic", topic, "--group-id", group, "--reset-policy", "earliest"}, args...)...)
	}
}

func franzMember(balancer string) memberOf {
	return func(addr, topic, group string) (harness.MemberCommand, error) {
		return harness.FranzMember(addr, topic, group, balancer)
	}
}

func pythonMember(program string, conf ...string) memberOf {
	return func(addr, topic, group string) (harness.MemberCommand, error) {
		return harness.PythonMember(program, append([]string{addr, topic, group}, conf...)...)
	}
}

func nodeMember(program string, conf ...string) memberOf {
	return func(addr, topic, group string) (harness.MemberCommand, error) {
		return harness.NodeMember(program, append([]string{addr, topic, group}, conf...)...)
	}
}

func kcatMember(conf ...string) memberOf {
	return func(addr, topic, group string) (harness.MemberCommand, error) {
		return harness.KcatMember(addr, topic, group, append([]string{
			"session.timeout.ms=10000", "auto.offset.reset=earliest", "auto.commit.interval.ms=100",
			"topic.metadata.refresh.interval.ms=1000", "reconnect.backoff.max.ms=500",
		}, conf...)...)
	}
}

// groupBroker makes a broker notice soon that a member is gone.
var groupBroker = []string{
	"group.initial.rebalance.delay.ms=500", "group.consumer.heartbeat.interval.ms=500", "group.consumer.min.heartbeat.interval.ms=500",
	"group.consumer.session.timeout.ms=10000", "group.consumer.min.session.timeout.ms=10000", "group.consumer.assignment.interval.ms=0",
}

// TestGroupsUnderChurn: members join and leave while records are written; one
// is killed, one stalls beyond its session, and the broker is killed too. No
// record is lost, no partition has two owners, and committed offsets never go
// back.
func TestGroupsUnderChurn(t *testing.T) {
	needAll(t)
	onOwn(t, groupBroker, func(t *testing.T, b *harness.Broker) {
		var kinds []groupKind
		for _, k := range groupKinds {
			if _, err := k.command(b.Addr, "", ""); err != nil {
				t.Run(k.name, func(t *testing.T) { missing(t, err) })
				continue
			}
			kinds = append(kinds, k)
		}
		for i, wave := range waves(kinds, atOnce()) {
			t.Run(fmt.Sprint("wave", i+1), func(t *testing.T) {
				kill := &killOnce{b: b}
				for _, kind := range wave {
					t.Run(kind.name, func(t *testing.T) {
						kill.join()
						t.Parallel()
						defer kill.leave()
						churn(t, b, kind, kill)
					})
				}
			})
		}
	})
}

// atOnce is how many groups run beside each other on each broker: most of their
// time goes by with waiting for sessions to end. Those of both brokers may run in
// parallel together, because they wait for each other.
func atOnce() int {
	n, err := strconv.Atoi(flag.Lookup("test.parallel").Value.String())
	if err != nil {
		return 1
	}
	return min(max(n/2, 1), 5)
}

// waves deals kinds out, each wave at most so many, so that those that are heavy
// to start, which stand beside each other, do not start together.
func waves(kinds []groupKind, size int) [][]groupKind {
	out := make([][]groupKind, (len(kinds)+size-1)/size)
	for i, k := range kinds {
		out[i%len(out)] = append(out[i%len(out)], k)
	}
	return out
}

// killOnce kills a broker and starts it again when all who use it are ready.
type killOnce struct {
	b *harness.Broker

	mu   sync.Mutex
	left int // have joined and not left, nor are ready
	done chan struct{}
	err  error
}

func (k *killOnce) join() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.done == nil {
		k.done = make(chan struct{})
	}
	k.left++
}

// leave is for one that may have failed before it was ready.
func (k *killOnce) leave() {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.done:
	default:
		k.ready()
	}
}

// await returns when the broker was killed and serves again.
func (k *killOnce) await() error {
	k.mu.Lock()
	k.ready()
	k.mu.Unlock()
	<-k.done
	return k.err
}

// ready is called with mu held; the last one kills.
func (k *killOnce) ready() {
	if k.left--; k.left > 0 {
		return
	}
	k.b.Kill()
	k.err = k.b.Start()
	close(k.done)
}

const churnPartitions = 6

// group is a consumer group under test and what its members have said.
type group struct {
	t           *testing.T
	b           *harness.Broker
	topic, name string
	kind        groupKind
	adm         *kadm.Client

	mu    sync.Mutex
	owner [churnPartitions]*harness.Member
	since [churnPartitions]int64 // when it said so, by its clock, in ms
	// claims are partitions that one member got before another was heard to give
	// them up. What members say comes by pipes of their own, and not in order;
	// what they say of the time decides.
	claims   []claim
	consumed [churnPartitions]map[int64]bool
	count    map[*harness.Member]int // partitions owned
	wrong    []string
}

func churn(t *testing.T, b *harness.Broker, kind groupKind, kill *killOnce) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(0), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	g := &group{t: t, b: b, kind: kind, adm: kadm.NewClient(cl), count: map[*harness.Member]int{}}
	for i := range g.consumed {
		g.consumed[i] = map[int64]bool{}
	}
	g.topic = topicName(t)
	g.name = g.topic
	if r, err := g.adm.CreateTopic(t.Context(), churnPartitions, 1, nil, g.topic); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	// kcat ends when it asks for a topic that does not exist yet.
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: g.topic, Value: []byte("first")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { g.produce(ctx, cl) })
	work.Go(func() { g.watchOffsets(ctx) })

	first, second := g.start("first"), g.start("second")
	g.await("two share", func() bool { return g.count[first] > 0 && g.count[second] > 0 })
	third := g.start("third")
	g.await("three share", func() bool {
		return g.count[first] > 0 && g.count[second] > 0 && g.count[third] > 0 && g.count[first]+g.count[second]+g.count[third] == churnPartitions
	})
	g.lose(first)
	signalTo(t, first, syscall.SIGKILL)
	g.await("two share what the killed one had", func() bool { return g.count[second]+g.count[third] == churnPartitions })
	if err := kill.await(); err != nil {
		t.Fatal(err)
	}
	fourth := g.start("fourth")
	// Until all have said what they got: one that is stopped before would say so
	// when it goes on, and it is long true no more.
	g.await("a new one gets its share after the broker was killed", func() bool {
		return g.count[fourth] > 0 && g.count[second] > 0 && g.count[second]+g.count[third]+g.count[fourth] == churnPartitions
	})
	g.lose(second)
	signalTo(t, second, syscall.SIGSTOP)
	g.await("two share what the stalled one had", func() bool { return g.count[third]+g.count[fourth] == churnPartitions })
	signalTo(t, second, syscall.SIGCONT)
	g.await("the stalled one is back", func() bool { return g.count[second] > 0 })
	signalTo(t, third, syscall.SIGTERM)
	g.await("two are left", func() bool { return g.count[third] == 0 && g.count[second]+g.count[fourth] == churnPartitions })
	stop()
	work.Wait()
	g.drain(cl)
}

func (g *group) start(name string) *harness.Member {
	g.t.Helper()
	command, err := g.kind.command(g.b.Addr, g.topic, g.name)
	if err != nil {
		g.t.Fatal(err)
	}
	return startMember(g.t, name, g.heard, command)
}

// lose takes a member's partitions away: it is about to be unable to say so.
func (g *group) lose(m *harness.Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.claims = slices.DeleteFunc(g.claims, func(c claim) bool { return c.from == m })
	for p, o := range g.owner {
		if o == m {
			g.owner[p] = nil
		}
	}
	g.count[m] = 0
}

// claim says that from has to have given a partition up by the time that to got
// it.
type claim struct {
	partition int32
	from, to  *harness.Member
	by        int64 // ms; 0 if to did not say
	heard     time.Time
}

func (g *group) heard(m *harness.Member, e harness.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.Name {
	case "partitions_assigned":
		for _, p := range e.Partitions {
			g.assigned(m, p.Partition, e.Timestamp)
		}
	case "partitions_revoked":
		for _, p := range e.Partitions {
			g.revoked(m, p.Partition, e.Timestamp)
		}
	case "records_consumed":
		for _, p := range e.Partitions {
			for o := p.MinOffset; o <= p.MaxOffset; o++ {
				g.consumed[p.Partition][o] = true
			}
		}
	}
}

func (g *group) assigned(m *harness.Member, p int32, at int64) {
	o := g.owner[p]
	switch {
	case o == m:
		return
	case o != nil && !g.kind.tardy && at < g.since[p]:
		// It had it before the one that has it now.
		g.claims = append(g.claims, claim{p, m, o, g.since[p], time.Now()})
		return
	case o != nil && !g.kind.tardy:
		g.claims = append(g.claims, claim{p, o, m, at, time.Now()})
	}
	if o != nil {
		g.count[o]--
	}
	g.owner[p], g.since[p] = m, at
	g.count[m]++
}

func (g *group) revoked(m *harness.Member, p int32, at int64) {
	g.claims = slices.DeleteFunc(g.claims, func(c claim) bool {
		if c.from != m || c.partition != p {
			return false
		}
		if at > c.by && c.by != 0 {
			g.wrong = append(g.wrong, fmt.Sprintf("%s got partition %d %d ms before %s gave it up", c.to.Name, p, at-c.by, m.Name))
		}
		return true
	})
	if g.owner[p] == m {
		g.owner[p] = nil
		g.count[m]--
	}
}

// unsettled are claims that nobody explained in time, which is long, because
// what a member says may lie in its pipe while the machine is busy.
func (g *group) unsettled() (wrong []string) {
	for _, c := range g.claims {
		if time.Since(c.heard) > 20*time.Second {
			wrong = append(wrong, fmt.Sprintf("%s got partition %d, which %s has", c.to.Name, c.partition, c.from.Name))
		}
	}
	return wrong
}

// await waits until the group is as it should be.
func (g *group) await(what string, is func() bool) {
	g.t.Helper()
	for wait := newPatience(); ; {
		g.mu.Lock()
		g.wrong = append(g.wrong, g.unsettled()...)
		done, wrong := is(), len(g.wrong) > 0
		var owned []string
		for m, n := range g.count {
			owned = append(owned, fmt.Sprintf("%s:%d", m.Name, n))
		}
		slices.Sort(owned)
		state := fmt.Sprint(g.wrong, owned)
		g.mu.Unlock()
		switch {
		case wrong:
			g.t.Fatalf("until %s: %s", what, state)
		case done:
			return
		case wait.over(state):
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
				if o.At < last[o.Partition] && !g.kind.unordered {
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

// drain waits until everything is committed, and looks for what nobody got. A
// member that kept its partitions through a rebalance, in which it could not
// commit, commits what it had then with the next records: so there are some.
func (g *group) drain(cl *kgo.Client) {
	g.t.Helper()
	ends, err := g.adm.ListEndOffsets(g.t.Context(), g.topic)
	if err != nil {
		g.t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
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
		for range churnPartitions {
			if err := cl.ProduceSync(g.t.Context(), &kgo.Record{Topic: g.topic, Value: []byte("more")}).FirstErr(); err != nil {
				g.t.Fatal(err)
			}
		}
	}
	g.await("no partition has two owners", func() bool { return len(g.claims) == 0 })
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wrong) > 0 {
		g.t.Fatal(g.wrong)
	}
	total := 0
	var lost []string
	ends.Each(func(o kadm.ListedOffset) {
		for at := range o.Offset {
			if !g.consumed[o.Partition][at] {
				lost = append(lost, fmt.Sprintf("offset %d of partition %d", at, o.Partition))
				continue
			}
			total++
		}
	})
	if len(lost) > 1 || len(lost) == 1 && !g.kind.forgets {
		g.t.Errorf("nobody consumed %d records: %v", len(lost), lost[:min(len(lost), 20)])
	}
	g.t.Logf("%d records", total)
}
