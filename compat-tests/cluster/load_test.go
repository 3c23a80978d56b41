package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// ack is a record that was acknowledged. Its value is a number that its writer
// counted up.
type ack struct {
	value     int64
	partition int32
	offset    int64
	at        time.Time
}

// journal is what a writer and a reader saw. Their goroutines write it; changed
// is closed, and replaced, at each entry.
type journal struct {
	mu      sync.Mutex
	acks    []ack
	read    map[int32][]span // by partition, in the order of reading
	polls   []time.Time      // when records were read
	errors  []string
	changed chan struct{}
}

// span is a run of offsets that were read, both ends included.
type span struct{ from, to int64 }

func newJournal() *journal { return &journal{read: map[int32][]span{}, changed: make(chan struct{})} }

func (j *journal) note(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f()
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *journal) failed(format string, args ...any) {
	j.note(func() { j.errors = append(j.errors, fmt.Sprintf(format, args...)) })
}

// reading adds what was read of a partition to the last span where it goes on
// there.
func (j *journal) reading(partition int32, from, to int64, at time.Time) {
	j.note(func() {
		j.polls = append(j.polls, at)
		s := j.read[partition]
		if n := len(s); n > 0 && s[n-1].to+1 == from {
			s[n-1].to = to
			return
		}
		j.read[partition] = append(s, span{from, to})
	})
}

// await returns once the journal is as wanted; is is called under its lock.
func (j *journal) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		j.mu.Lock()
		yes, changed := is(), j.changed
		acked, errors := len(j.acks), slices.Clone(j.errors)
		j.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("not within %v: %s; %d records acknowledged, errors %q", patience, what, acked, errors)
		}
	}
}

// load is a writer and a reader of one topic. The writer is idempotent and the
// reader is a group of one.
type load struct {
	*journal
	c          *cluster
	topic      string
	partitions int
	stopWriter func()
	stopReader func()
}

// loadConfig is how a load differs from the ordinary one.
type loadConfig struct {
	rack     string // of the reader
	noReader bool
}

// load starts clients and returns once each partition took a record that was
// read.
func (c *cluster) load(client, topic string, conf loadConfig) *load {
	c.t.Helper()
	ps := c.awaitTopic(topic, "led", func(p partition) bool { return p.Leader > 0 })
	l := &load{journal: newJournal(), c: c, topic: topic, partitions: len(ps), stopReader: func() {}}
	l.stopWriter = sync.OnceFunc(l.write(client))
	c.t.Cleanup(l.stopWriter)
	if !conf.noReader {
		l.stopReader = sync.OnceFunc(l.readAs(client, conf))
		c.t.Cleanup(l.stopReader)
	}
	l.more(1)
	if !conf.noReader {
		l.await(c.t, "something of each partition read", func() bool { return len(l.read) == l.partitions })
	}
	return l
}

// more returns once each partition took n records more.
func (l *load) more(n int) {
	l.c.t.Helper()
	l.moreOf(n, func(int32) bool { return true })
}

// moreOf is more of some partitions.
func (l *load) moreOf(n int, of func(partition int32) bool) {
	l.c.t.Helper()
	l.mu.Lock()
	from := len(l.acks)
	l.mu.Unlock()
	got := map[int32]int{}
	l.await(l.c.t, fmt.Sprintf("%d records more for each partition", n), func() bool {
		for _, a := range l.acks[from:] {
			got[a.partition]++
		}
		from = len(l.acks)
		for p := range int32(l.partitions) {
			if of(p) && got[p] < n {
				return false
			}
		}
		return true
	})
}

// writesPerSecond of all writers, to all partitions together.
const writesPerSecond = 500

// write starts a writer. What it returns ends it, once all that it sent is
// answered.
func (l *load) write(client string) (stop func()) {
	switch client {
	case "java":
		conf := properties(l.c.t, "enable.idempotence=true", "retries=2147483647", "linger.ms=0")
		return l.program("VerifiableProducer", l.heardProducer)(harness.JavaTool("VerifiableProducer",
			"--bootstrap-server", l.c.bootstrap(), "--topic", l.topic, "--throughput", strconv.Itoa(writesPerSecond),
			"--repeating-keys", strconv.Itoa(20*l.partitions), "--command-config", conf))
	case "librdkafka":
		return l.program("librdkafka", l.heardProducer)(harness.PythonMember("librdkafka_producer.py", l.c.bootstrap(), l.topic,
			strconv.Itoa(l.partitions), strconv.Itoa(writesPerSecond)))
	default:
		return l.writeFranz()
	}
}

func (l *load) writeFranz() (stop func()) {
	cl := l.c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.c.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		next := time.NewTicker(time.Second / writesPerSecond)
		defer next.Stop()
		for n := int64(0); ; n++ {
			r := &kgo.Record{Topic: l.topic, Partition: int32(n % int64(l.partitions)), Value: strconv.AppendInt(nil, n, 10)}
			cl.Produce(context.WithoutCancel(ctx), r, func(r *kgo.Record, err error) {
				if err != nil {
					l.failed("write %d: %v", n, err)
					return
				}
				l.note(func() { l.acks = append(l.acks, ack{n, r.Partition, r.Offset, time.Now()}) })
			})
			select {
			case <-next.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
		limited, over := context.WithTimeout(context.Background(), patience)
		defer over()
		if err := cl.Flush(limited); err != nil {
			l.failed("the last writes: %v", err)
		}
	}
}

// writeBehind writes n records more to some partitions, with numbers behind those
// of the writer, which has ended.
func (l *load) writeBehind(n int, of func(partition int32) bool) {
	t := l.c.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl := l.c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	defer cl.Close()
	const behind = int64(1) << 40
	for i := range int64(n) {
		for p := range int32(l.partitions) {
			if !of(p) {
				continue
			}
			r := &kgo.Record{Topic: l.topic, Partition: p, Value: strconv.AppendInt(nil, behind+i, 10)}
			if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatalf("write to %d: %v", p, err)
			}
			l.note(func() { l.acks = append(l.acks, ack{behind + i, p, r.Offset, time.Now()}) })
		}
	}
}

// heardProducer reads what Kafka's VerifiableProducer prints.
func (l *load) heardProducer(line string) {
	var e struct {
		Name, Value, Message, Exception string
		Timestamp, Offset               int64
		Partition                       int32
	}
	if json.Unmarshal([]byte(line), &e) != nil {
		return
	}
	switch e.Name {
	case "producer_send_success":
		n, err := strconv.ParseInt(e.Value, 10, 64)
		if err != nil {
			l.failed("%s: %v", line, err)
			return
		}
		l.note(func() { l.acks = append(l.acks, ack{n, e.Partition, e.Offset, time.UnixMilli(e.Timestamp)}) })
	case "producer_send_error":
		l.failed("write %s: %s %s", e.Value, e.Exception, e.Message)
	}
}

// program starts a client in a process of its own. What it returns ends it with
// SIGTERM.
func (l *load) program(name string, heard func(line string)) func(harness.MemberCommand, error) (stop func()) {
	return func(cmd harness.MemberCommand, err error) func() {
		l.c.t.Helper()
		if err != nil {
			missing(l.c.t, err)
		}
		cmd.Parse = func(line string) (e harness.Event, is bool) {
			heard(line)
			return e, false
		}
		m, err := harness.StartMember(name, func(*harness.Member, harness.Event) {}, cmd)
		if err != nil {
			l.c.t.Fatal(err)
		}
		ending := make(chan struct{})
		go func() {
			<-m.Done()
			select {
			case <-ending:
			default:
				l.failed("%s ended by itself:\n%s", name, m.Stderr())
			}
		}()
		return func() {
			close(ending)
			if err := m.Signal(syscall.SIGTERM); err != nil {
				return // it ended by itself, which was noted
			}
			limit := time.NewTimer(patience)
			defer limit.Stop()
			select {
			case <-m.Done():
			case <-limit.C:
				l.failed("%s did not end:\n%s", name, m.Stderr())
				_ = m.Signal(syscall.SIGKILL)
			}
		}
	}
}

// readAs starts a reader, from the start of the topic.
func (l *load) readAs(client string, conf loadConfig) (stop func()) {
	group := "readers-of-" + l.topic
	switch client {
	case "java":
		lines := []string{"metadata.max.age.ms=1000"}
		if conf.rack != "" {
			lines = append(lines, "client.rack="+conf.rack)
		}
		cmd, err := harness.JavaMember("--bootstrap-server", l.c.bootstrap(), "--topic", l.topic, "--group-id", group,
			"--reset-policy", "earliest", "--command-config", properties(l.c.t, lines...))
		return l.program("VerifiableConsumer", l.heardConsumer)(cmd, err)
	case "librdkafka":
		args := []string{l.c.bootstrap(), l.topic, group}
		if conf.rack != "" {
			args = append(args, "client.rack="+conf.rack)
		}
		return l.program("librdkafka reader", l.heardConsumer)(harness.PythonMember("librdkafka_member.py", args...))
	default:
		return l.readFranz(kgo.ConsumerGroup(group), kgo.Rack(conf.rack))
	}
}

// readFranz starts a reader that is this process.
func (l *load) readFranz(opts ...kgo.Opt) (stop func()) {
	cl := l.c.client(append(opts, kgo.ConsumeTopics(l.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMaxAge(time.Second), kgo.FetchMaxWait(500*time.Millisecond))...)
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.c.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fs := cl.PollFetches(ctx)
			fs.EachError(func(_ string, p int32, err error) {
				if ctx.Err() == nil {
					l.failed("read of %d: %v", p, err)
				}
			})
			at := time.Now()
			fs.EachPartition(func(p kgo.FetchTopicPartition) {
				for _, r := range p.Records {
					l.reading(p.Partition, r.Offset, r.Offset, at)
				}
			})
		}
	}()
	return func() { cancel(); <-done; cl.Close() }
}

// heardConsumer reads what Kafka's VerifiableConsumer prints.
func (l *load) heardConsumer(line string) {
	var e harness.Event
	if json.Unmarshal([]byte(line), &e) != nil || e.Name != "records_consumed" {
		return
	}
	for _, p := range e.Partitions {
		l.reading(p.Partition, p.MinOffset, p.MaxOffset, time.UnixMilli(e.Timestamp))
	}
}

// end stops the writer, waits until all that it was told is there was read, and
// judges.
func (l *load) end() {
	l.c.t.Helper()
	l.stopWriter()
	stored := l.stored()
	if l.readers() {
		l.await(l.c.t, "all acknowledged records read", func() bool { return len(l.unread()) == 0 })
	}
	l.stopReader()
	l.judge(stored)
}

func (l *load) readers() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.read) > 0
}

// unread are acknowledged records that no reader read. The journal is locked.
func (l *load) unread() []ack {
	var out []ack
	for _, a := range l.acks {
		if !slices.ContainsFunc(l.read[a.partition], func(s span) bool { return s.from <= a.offset && a.offset <= s.to }) {
			out = append(out, a)
		}
	}
	return out
}

// stored reads the whole topic with a client of its own: values by offset, by
// partition.
func (l *load) stored() map[int32]map[int64]int64 {
	t := l.c.t
	t.Helper()
	out := map[int32]map[int64]int64{}
	ends := map[int32]int64{}
	l.c.await("the ends of "+l.topic, func(ctx context.Context) (bool, error) {
		o, err := l.c.adm.ListEndOffsets(ctx, l.topic)
		if err != nil || o.Error() != nil {
			return false, fmt.Errorf("%w %w", err, o.Error())
		}
		for p, e := range o[l.topic] {
			ends[p] = e.Offset
		}
		return len(ends) == l.partitions, nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl := l.c.client(kgo.ConsumeTopics(l.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for next := map[int32]int64{}; !maps.Equal(next, ends); {
		fs := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("reading %s from its start: at %v of %v", l.topic, next, ends)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if out[r.Partition] == nil {
				out[r.Partition] = map[int64]int64{}
			}
			n, err := strconv.ParseInt(string(r.Value), 10, 64)
			if err != nil {
				t.Fatalf("%s-%d@%d holds %q", r.Topic, r.Partition, r.Offset, r.Value)
			}
			if r.Offset < ends[r.Partition] {
				out[r.Partition][r.Offset] = n
				next[r.Partition] = r.Offset + 1
			}
		})
	}
	return out
}

// judge compares what was acknowledged, what is stored and what was read: every
// acknowledged record at its offset; none twice and all in order, since the
// writer is idempotent; nothing skipped by a reader; and no error at a client.
func (l *load) judge(stored map[int32]map[int64]int64) {
	t := l.c.t
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.errors {
		t.Errorf("a client saw: %s", e)
	}
	if len(l.acks) == 0 {
		t.Error("nothing was acknowledged")
	}
	lost := 0
	for _, a := range l.acks {
		if n, there := stored[a.partition][a.offset]; !there || n != a.value {
			if lost++; lost <= 5 {
				t.Errorf("%d was acknowledged at %d@%d, where %d is (%v)", a.value, a.partition, a.offset, n, there)
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged records are lost", lost, len(l.acks))
	}
	for p, values := range stored {
		last := int64(-1)
		for _, offset := range slices.Sorted(maps.Keys(values)) {
			if values[offset] <= last {
				t.Errorf("partition %d: %d stands at %d, behind %d", p, values[offset], offset, last)
			}
			last = values[offset]
		}
	}
	for p, spans := range l.read {
		// A reader may read again what it had not committed, but skip nothing.
		end := int64(-1)
		for i, s := range spans {
			if i > 0 && s.from > end+1 {
				t.Errorf("partition %d: the reader went from %d to %d", p, end, s.from)
			}
			end = max(end, s.to)
		}
	}
}

// gap is the longest time between two acknowledgements of one partition, from a
// point in time on.
func (l *load) gap(since time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, longest := map[int32]time.Time{}, time.Duration(0)
	for _, a := range l.acks {
		if before, ok := last[a.partition]; ok && !a.at.Before(since) {
			longest = max(longest, a.at.Sub(before))
		}
		last[a.partition] = a.at
	}
	return longest
}

// readGap is the longest time in which nothing was read.
func (l *load) readGap(since time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest := time.Duration(0)
	for i, at := range l.polls {
		if i > 0 && !at.Before(since) {
			longest = max(longest, at.Sub(l.polls[i-1]))
		}
	}
	return longest
}
