package compat

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// onEachTransactor runs f for every broker and every client that knows
// transactions; those of Node know nothing but them.
func onEachTransactor(t *testing.T, f func(t *testing.T, b *harness.Broker, c harness.Client)) {
	t.Helper()
	onAll(t, func(t *testing.T, b *harness.Broker) {
		if !can(b, "txn") {
			t.Skip("needs -have txn")
		}
		names := clientNames(b)
		if *clientsFlag == "all" {
			names = append(names, "kafkajs", "confluent-node")
		}
		for _, name := range names {
			t.Run(name, func(t *testing.T) { f(t, b, client(t, b, name)) })
		}
	})
}

// fenced are the codes by which clients learn that another has taken their
// transactional id over: INVALID_PRODUCER_EPOCH, PRODUCER_FENCED, and what
// librdkafka and franz-go make of them once they know.
var fenced = []int16{47, 90, -144, 55}

// transactor is a client of transactions on one topic of two partitions.
type transactor struct {
	t     *testing.T
	b     *harness.Broker
	c     harness.Client
	topic string
}

func (x *transactor) try(command string, args ...string) error {
	_, err := x.c.Do(command, args...)
	return err
}

func (x *transactor) do(command string, args ...string) {
	x.t.Helper()
	err := x.try(command, args...)
	// Not every client waits for a coordinator that is new, and Apache Kafka's
	// takes its time.
	for end := time.Now().Add(2 * time.Minute); slices.Contains([]int16{14, 15, 16}, harness.Code(err)) && time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
		err = x.try(command, args...)
	}
	if err != nil {
		x.t.Fatalf("%s %v: %v", command, args, err)
	}
}

func (x *transactor) trySend(name string, partition int, value string) error {
	return x.try("send", name, x.topic, fmt.Sprint(partition), base64.StdEncoding.EncodeToString([]byte(value)))
}

func (x *transactor) send(name string, partition int, value string) {
	x.t.Helper()
	if err := x.trySend(name, partition, value); err != nil {
		x.t.Fatalf("send %s: %v", value, err)
	}
}

// committed waits until no transaction is open, nor waits for its marker, and
// compares what a read_committed consumer sees: a string for each partition.
func (x *transactor) committed(want ...string) {
	x.t.Helper()
	adm := franz(x.t, x.b).Admin()
	x.await("the transactions' markers", func() bool {
		ends, err := adm.ListEndOffsets(x.t.Context(), x.topic)
		if err != nil {
			x.t.Fatal(err)
		}
		stable, err := adm.ListCommittedOffsets(x.t.Context(), x.topic)
		if err != nil {
			x.t.Fatal(err)
		}
		done := len(ends[x.topic]) == len(want)
		ends.Each(func(o kadm.ListedOffset) {
			s, ok := stable.Lookup(x.topic, o.Partition)
			done = done && ok && s.Err == nil && o.Err == nil && s.Offset == o.Offset
		})
		return done
	})
	x.read(true, want...)
}

func (x *transactor) await(what string, is func() bool) {
	x.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			x.t.Fatalf("never: %s", what)
		}
	}
}

// read compares what a consumer sees at once.
func (x *transactor) read(committed bool, want ...string) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 30*time.Second)
	defer cancel()
	values, err := readAll(ctx, x.b.Addr, x.topic, committed)
	if err != nil {
		x.t.Fatal(err)
	}
	got := make([]string, len(want))
	for p := range got {
		got[p] = strings.Join(values[int32(p)], " ")
	}
	if !slices.Equal(got, want) {
		x.t.Fatalf("committed %v: read %q, want %q", committed, got, want)
	}
}

// readAll reads the values of all partitions of a topic to their present ends.
func readAll(ctx context.Context, addr, topic string, committed bool) (map[int32][]string, error) {
	adm, isolation, list := kadm.NewClient(nil), kgo.ReadUncommitted(), (*kadm.Client).ListEndOffsets
	if committed {
		isolation, list = kgo.ReadCommitted(), (*kadm.Client).ListCommittedOffsets
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords())
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm = kadm.NewClient(cl)
	ends, err := list(adm, ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	from, left := map[int32]kgo.Offset{}, map[int32]bool{}
	for p, end := range ends[topic] {
		if end.Offset > 0 {
			from[p], left[p] = kgo.NewOffset().AtStart(), true
		}
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	values := map[int32][]string{}
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		for _, f := range fetches.Errors() {
			return nil, fmt.Errorf("partitions %v are not read to their ends: %w", left, f.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end := ends[topic][r.Partition].Offset
			if !r.Attrs.IsControl() && r.Offset < end {
				values[r.Partition] = append(values[r.Partition], string(r.Value))
			}
			if r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	return values, nil
}

// offset waits until the group's committed offset for partition 0 is what it
// must be.
func (x *transactor) offset(group string, want int64) {
	x.t.Helper()
	x.await(fmt.Sprintf("offset %d for group %s", want, group), func() bool {
		offsets, err := franz(x.t, x.b).Admin().FetchOffsets(x.t.Context(), group)
		if err != nil {
			x.t.Fatal(err)
		}
		o, ok := offsets.Lookup(x.topic, 0)
		return ok && o.Err == nil && o.At == want
	})
}

// noOffset sees to it that nothing is committed for the group.
func (x *transactor) noOffset(group string) {
	x.t.Helper()
	offsets, err := franz(x.t, x.b).Admin().FetchOffsets(x.t.Context(), group)
	if err != nil {
		x.t.Fatal(err)
	}
	if o, ok := offsets.Lookup(x.topic, 0); ok && o.At >= 0 {
		x.t.Fatalf("group %s has offset %d already", group, o.At)
	}
}

// TestTransactions: commit, abort, offsets in transactions, and producers that
// lose their transactional id to another.
func TestTransactions(t *testing.T) {
	onEachTransactor(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		x := &transactor{t, b, c, createTopic(t, b, 2)}
		id, group := x.topic+"-id", x.topic+"-group"
		// A new coordinator takes its time where the machine is busy, and not every
		// client waits for it.
		x.await("the group's coordinator", func() bool {
			var at kadm.Offsets
			at.AddOffset(x.topic, 1, 0, -1)
			return franz(t, b).Admin().CommitAllOffsets(t.Context(), group, at) == nil
		})
		x.do("open", "first", id, "60000")
		defer func() { _ = x.try("close", "first") }()

		x.do("begin", "first")
		x.send("first", 0, "a")
		x.send("first", 1, "b")
		x.read(false, "a", "b")
		x.read(true, "", "")
		x.do("commit", "first")
		x.committed("a", "b")

		x.do("begin", "first")
		x.send("first", 0, "x")
		x.do("abort", "first")
		x.committed("a", "b")

		x.do("begin", "first")
		x.send("first", 0, "c")
		x.do("sendoffsets", "first", group, x.topic, "0", "5")
		x.noOffset(group)
		x.do("commit", "first")
		x.offset(group, 5)
		x.do("begin", "first")
		x.send("first", 0, "x")
		x.do("sendoffsets", "first", group, x.topic, "0", "9")
		x.do("abort", "first")
		x.offset(group, 5)
		x.committed("a c", "b")

		// One that ends without a record, and others at once after it.
		x.do("begin", "first")
		x.do("commit", "first")
		for _, v := range []string{"d", "e", "f"} {
			x.do("begin", "first")
			x.send("first", 1, v)
			x.do("commit", "first")
		}
		x.committed("a c", "b d e f")

		// Another takes the transactional id over, in the middle of a transaction:
		// that is undone, and what the zombie does afterwards comes to nothing.
		x.do("begin", "first")
		x.send("first", 0, "zombie")
		x.do("open", "second", id, "60000")
		defer func() { _ = x.try("close", "second") }()
		err := x.trySend("first", 0, "zombie")
		if err == nil {
			t.Error("a fenced producer may write")
		}
		if err := x.try("commit", "first"); !slices.Contains(fenced, harness.Code(err)) {
			t.Errorf("the commit of a fenced producer: %v", err)
		}
		x.do("begin", "second")
		x.send("second", 0, "g")
		x.do("commit", "second")
		x.committed("a c g", "b d e f")

		// And between two transactions.
		x.do("open", "third", id, "60000")
		defer func() { _ = x.try("close", "third") }()
		err = x.try("begin", "second")
		if err == nil {
			err = x.trySend("second", 0, "zombie")
		}
		if err == nil {
			t.Error("a producer that was fenced between two transactions may write")
		}
		x.do("begin", "third")
		x.send("third", 0, "h")
		x.do("commit", "third")
		x.committed("a c g h", "b d e f")
	})
}

// pipeKinds are programs that move records in transactions.
var pipeKinds = []struct {
	name string
	// alone: the offsets of its transactions are committed whoever is a member
	// of the group by now (KIP-447), so that exactly once needs one transactional
	// id for all who may take a partition over.
	alone   bool
	command func(args ...string) (string, []string, error)
}{
	{"java-classic", false, javaPipe("4.3.1", "group.protocol=classic", "session.timeout.ms=6000")},
	{"java-cooperative", false, javaPipe("4.3.1", "group.protocol=classic", "session.timeout.ms=6000", "partition.assignment.strategy=org.apache.kafka.clients.consumer.CooperativeStickyAssignor")},
	{"java-consumer", false, javaPipe("4.3.1", "group.protocol=consumer")},
	{"java-2.8.2", false, javaPipe("2.8.2", "session.timeout.ms=6000")},
	{"librdkafka", false, pythonPipe("session.timeout.ms=6000")},
	{"librdkafka-consumer", false, pythonPipe("group.protocol=consumer")},
	{"kafkajs", true, nodePipe("kafkajs")},
	{"confluent-node", false, nodePipe("confluent")},
}

func javaPipe(version string, conf ...string) func(args ...string) (string, []string, error) {
	return func(args ...string) (string, []string, error) {
		return harness.JavaPipe(version, append(slices.Clone(args), conf...)...)
	}
}

func pythonPipe(conf ...string) func(args ...string) (string, []string, error) {
	return func(args ...string) (string, []string, error) {
		return harness.PythonPipe(append(slices.Clone(args), conf...)...)
	}
}

func nodePipe(library string) func(args ...string) (string, []string, error) {
	return func(args ...string) (string, []string, error) { return harness.NodePipe(library, args...) }
}

const pipePartitions = 4

// TestPipelines: records are moved from a topic to another in transactions that
// commit the group's offsets too, by members that are killed and, what makes
// zombies, stopped until others have taken over; the broker is killed as well.
// Every record arrives once and in order.
func TestPipelines(t *testing.T) {
	needAll(t)
	onOwn(t, append([]string{
		"group.consumer.heartbeat.interval.ms=500", "group.consumer.min.heartbeat.interval.ms=500",
		"group.consumer.session.timeout.ms=6000", "group.consumer.min.session.timeout.ms=6000", "group.consumer.assignment.interval.ms=0",
	}, eosBroker...), func(t *testing.T, b *harness.Broker) {
		for _, kind := range pipeKinds {
			t.Run(kind.name, func(t *testing.T) {
				if _, _, err := kind.command(); err != nil {
					missing(t, err)
				}
				runPipeline(t, b, kind.alone, kind.command)
			})
		}
	})
}

type pipeline struct {
	t       *testing.T
	b       *harness.Broker
	alone   bool
	command func(args ...string) (string, []string, error)
	prefix  string

	mu    sync.Mutex
	sent  [pipePartitions]int
	moved [pipePartitions]int
	wrong []string
}

func runPipeline(t *testing.T, b *harness.Broker, alone bool, command func(args ...string) (string, []string, error)) {
	p := &pipeline{t: t, b: b, alone: alone, command: command, prefix: topicName(t)}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"-in", "-out"} {
		if r, err := kadm.NewClient(cl).CreateTopic(t.Context(), pipePartitions, 1, nil, p.prefix+topic); err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	filling, full := context.WithCancel(ctx)
	var reader, writer sync.WaitGroup
	reader.Go(func() { p.watch(ctx) })
	writer.Go(func() { p.fill(filling, cl) })
	defer func() {
		stop()
		cl.Close() // or a write waits for ever for a broker that did not come back
		reader.Wait()
		writer.Wait()
	}()

	first := p.start("first")
	p.await("records are moved", p.progress(50))
	other := first
	if !alone {
		other = p.start("other")
	}
	p.await("records are moved", p.progress(50))
	first.end(syscall.SIGKILL)
	if alone {
		other = p.start("other")
	}
	p.await("another one takes over from one that was killed", p.progress(50))
	bounceInTransactions(t, b)
	p.await("it goes on after the broker was killed", p.progress(50))

	other.signal(syscall.SIGSTOP) // what makes a zombie
	p.start("third")
	p.await("another one takes over from one that was stopped", p.progress(50))
	if alone {
		other.leave() // its next life would take the id away again
	}
	other.signal(syscall.SIGCONT)
	p.await("the zombie does no harm", p.progress(200))
	full()
	writer.Wait()
	p.await("all is moved", p.progress(0))
	stop()
	reader.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent != p.moved || len(p.wrong) > 0 {
		t.Fatalf("moved %v of %v: %v", p.moved, p.sent, p.wrong)
	}
	t.Logf("moved %v", p.moved)
}

// slot is a program and its supervisor, which starts it again where it gives
// up.
type slot struct {
	p    *pipeline
	name string
	args []string

	mu      sync.Mutex
	current *harness.Member
	over    bool
}

func (p *pipeline) start(name string) *slot {
	p.t.Helper()
	id := p.prefix + "-" + name
	if p.alone {
		id = p.prefix
	}
	s := &slot{p: p, name: name, args: []string{p.b.Addr, p.prefix + "-in", p.prefix + "-out", p.prefix, id}}
	var running sync.WaitGroup
	running.Go(s.run)
	p.t.Cleanup(func() {
		if p.t.Failed() {
			s.signal(syscall.SIGQUIT) // most say where they are
			time.Sleep(time.Second)
		}
		s.end(syscall.SIGKILL)
		running.Wait()
		if p.t.Failed() {
			p.t.Logf("%s: %s", name, s.current.Stderr())
		}
	})
	return s
}

func (s *slot) run() {
	for {
		program, args, err := s.p.command(s.args...)
		if err == nil {
			err = s.once(program, args)
		}
		if err != nil {
			s.p.complain("%s: %v", s.name, err)
			return
		}
		s.mu.Lock()
		over := s.over
		s.mu.Unlock()
		if over {
			return
		}
		s.p.t.Logf("%s gave up and starts again: %.300s", s.name, s.current.Stderr())
	}
}

// once runs the program until it ends.
func (s *slot) once(program string, args []string) error {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return nil
	}
	m, err := harness.StartMember(s.name, func(*harness.Member, harness.Event) {}, harness.MemberCommand{Program: program, Args: args})
	s.current = m
	s.mu.Unlock()
	if err != nil {
		return err
	}
	<-m.Done()
	return nil
}

// leave tells the supervisor to let it be when it ends.
func (s *slot) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

func (s *slot) end(sig syscall.Signal) {
	s.leave()
	s.signal(sig)
}

func (s *slot) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		_ = s.current.Signal(sig) // it may have ended
	}
}

func (p *pipeline) complain(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

// progress tells whether all is moved that is written by now, and so many of
// each partition after it.
func (p *pipeline) progress(more int) func() bool {
	p.mu.Lock()
	want := p.sent
	p.mu.Unlock()
	return func() bool {
		for i, n := range p.moved {
			if n < want[i]+more {
				return false
			}
		}
		return true
	}
}

func (p *pipeline) await(what string, is func() bool) {
	p.t.Helper()
	for wait := newPatience(); ; time.Sleep(50 * time.Millisecond) {
		p.mu.Lock()
		done, wrong, sent, moved := is(), p.wrong, p.sent, p.moved
		p.mu.Unlock()
		switch {
		case len(wrong) > 0:
			p.t.Fatalf("until %s: %v", what, wrong)
		case done:
			p.t.Logf("%s, after %.1f s", what, wait.took())
			return
		case wait.over(fmt.Sprint(moved)):
			p.t.Fatalf("never: %s; moved %v of %v", what, moved, sent)
		}
	}
}

// fill writes numbers into the input.
func (p *pipeline) fill(ctx context.Context, cl *kgo.Client) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		behind := p.sent[0] - slices.Min(p.moved[:])
		p.mu.Unlock()
		if behind > 500 {
			n-- // a slow machine must not be left with more and more to do
			continue
		}
		var batch []*kgo.Record
		for i := range int32(pipePartitions) {
			batch = append(batch, &kgo.Record{Topic: p.prefix + "-in", Partition: i, Value: fmt.Append(nil, n)})
		}
		if err := cl.ProduceSync(context.WithoutCancel(ctx), batch...).FirstErr(); err != nil {
			p.complain("input: %v", err)
			return
		}
		p.mu.Lock()
		for i := range p.sent {
			p.sent[i]++
		}
		p.mu.Unlock()
	}
}

// watch reads the output, in which the numbers of each partition must be in
// order.
func (p *pipeline) watch(ctx context.Context) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.b.Addr), kgo.ConsumeTopics(p.prefix+"-out"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		p.complain("%v", err)
		return
	}
	defer cl.Close()
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		p.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			if want := fmt.Sprint(p.moved[r.Partition]); string(r.Value) != want && len(p.wrong) < 10 {
				p.wrong = append(p.wrong, fmt.Sprintf("partition %d offset %d has number %s, not %s", r.Partition, r.Offset, r.Value, want))
			}
			p.moved[r.Partition]++
		})
		p.mu.Unlock()
	}
}
