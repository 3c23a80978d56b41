// Package work is the load of a chaos run: clients that send, poll, commit and
// move records, with every operation of theirs in a history.
//
// A [Run] has phases that its caller begins in order: Setup makes the topics,
// Start the clients, Quiet ends those that write, Drain waits until the
// consumers have everything and ends them, and Final reads everything from the
// beginning. Each client is a goroutine; one that cannot go on is thrown away
// and followed by another with a process number of its own, as in Jepsen.
package work

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/gregor-broker/gregor/compat-tests/wire"
)

// Config says what a run does.
type Config struct {
	Recorder *history.Recorder
	// Addrs are where clients connect, proxies or brokers.
	Addrs []string
	Seed  uint64
	// Rate is how many operations a second each client does at most.
	Rate float64
	// Replicas of each topic, and how many of them must be in sync.
	Replicas, MinInSync int16
	// TxnTimeout of all transactional clients.
	TxnTimeout time.Duration
	// Churn adds the clients of ChurnTopic.
	Churn bool
	// Drivers add clients that are not franz-go's.
	Drivers []*harness.Standing
	// Logf is told what a person would want to know.
	Logf func(format string, args ...any)
}

// Topics of a run, and their partitions.
const (
	MixTopic  = "mix"
	BankTopic = "bank"
	regTopic  = "register"

	mixParts  = 4
	pipeParts = 3
	regParts  = 4
)

// opLimit is how long one operation may try before its client is thrown away.
const opLimit = 20 * time.Second

// protocols are the group protocols of franz-go's groups.
var protocols = []string{"classic", "consumer"}

// flows name the groups of a run, those that move records and those that only
// read them: one for each group protocol with franz-go, and one for each other
// client, which are named.
func flows(others []string) []string { return append(slices.Clone(protocols), others...) }

func pipeIn(flow string) string     { return "pipe-" + flow + "-in" }
func pipeOut(flow string) string    { return "pipe-" + flow + "-out" }
func groupTopic(flow string) string { return "group-" + flow }

// Pipes are the pairs of topics that records are moved between in a run with
// other clients than franz-go.
func Pipes(others []string) [][2]string {
	var out [][2]string
	for _, f := range flows(others) {
		out = append(out, [2]string{pipeIn(f), pipeOut(f)})
	}
	return out
}

func (r *Run) flows() []string {
	var others []string
	for _, d := range r.Drivers {
		others = append(others, d.Name)
	}
	return flows(others)
}

// recordTopics are the topics that hold records, with their partitions.
func (r *Run) recordTopics() map[string]int32 {
	t := map[string]int32{MixTopic: mixParts, BankTopic: mixParts}
	for _, f := range r.flows() {
		t[pipeIn(f)], t[pipeOut(f)], t[groupTopic(f)] = pipeParts, pipeParts, pipeParts
	}
	return t
}

// keys are all keys that hold records and stay.
func (r *Run) keys() []history.Key {
	var out []history.Key
	for t, n := range r.recordTopics() {
		for p := range n {
			out = append(out, history.Key{Topic: t, Partition: p})
		}
	}
	return out
}

// Run is one load.
type Run struct {
	Config
	rec   *history.Recorder
	value atomic.Int64 // the last one that was handed out

	writers, readers         sync.WaitGroup
	stopWriters, stopReaders context.CancelFunc
	slots                    int
	churned                  []history.Key // of the last topic with the name ChurnTopic
}

// Keys are the keys of the topics that are there after Final.
func (r *Run) Keys() []history.Key { return append(r.keys(), r.churned...) }

// New prepares a run.
func New(c Config) *Run {
	r := &Run{Config: c, rec: c.Recorder}
	if r.Logf == nil {
		r.Logf = func(string, ...any) {}
	}
	return r
}

// Setup makes the topics.
func (r *Run) Setup(ctx context.Context) error {
	cl, err := r.client("setup")
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	configs := map[string]*string{
		"min.insync.replicas": kadm.StringPtr(strconv.Itoa(int(max(r.MinInSync, 1)))),
		"segment.bytes":       kadm.StringPtr("1048576"),
	}
	topics := r.recordTopics()
	topics[regTopic] = regParts
	for t, n := range topics {
		resp, err := adm.CreateTopic(ctx, n, r.Replicas, configs, t)
		if err == nil {
			err = resp.Err
		}
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create %s: %w", t, err)
		}
	}
	if r.Churn {
		return r.RestoreChurn(ctx)
	}
	return nil
}

// Start starts all clients.
func (r *Run) Start(ctx context.Context) {
	wctx, stopWriters := context.WithCancel(ctx)
	rctx, stopReaders := context.WithCancel(ctx)
	r.stopWriters, r.stopReaders = stopWriters, stopReaders
	write := func(f func(context.Context, *life) error) { r.spawn(wctx, &r.writers, f) }
	read := func(f func(context.Context, *life) error) { r.spawn(rctx, &r.readers, f) }
	for range 2 {
		write(r.sender(nil, MixTopic))
		write(r.banker(nil))
	}
	for range 3 {
		write(r.mixer)
		write(r.registrar)
	}
	for _, p := range protocols {
		write(r.sender(nil, pipeIn(p)))
		write(r.sender(nil, groupTopic(p)))
		for range 2 {
			read(r.mover(p))
		}
		for range 3 {
			read(r.member(p))
		}
	}
	for _, d := range r.Drivers {
		for _, topic := range []string{MixTopic, pipeIn(d.Name), groupTopic(d.Name)} {
			write(r.sender(d, topic))
		}
		write(r.banker(d))
		read(r.assigned(d))
		for range 2 {
			read(r.drivenMover(d))
			read(r.drivenMember(d))
		}
	}
	for _, addr := range r.Addrs {
		read(r.observer(addr))
	}
	if r.Churn {
		for range 2 {
			write(r.churner)
			read(r.churnReader)
		}
	}
}

// Quiet ends the clients that write and waits for them.
func (r *Run) Quiet() {
	r.stopWriters()
	r.writers.Wait()
}

// Served tells whether all that clients got done before the faults were over, at
// healed, they got done after it.
func (r *Run) Served(healed int64) bool {
	recovery := history.NewRecovery(healed)
	r.rec.Each(recovery.Take)
	return recovery.Whole()
}

// stop ends the clients that consume and waits for them.
func (r *Run) stop() {
	r.stopReaders()
	r.readers.Wait()
}

// life is one client, from its start until it cannot go on.
type life struct {
	*Run
	slot    int // the lives of one slot follow each other and share its names
	process int
	rng     *rand.Rand
	next    time.Time
	inSync  map[history.Key]int // of an observer: replicas in sync, as last heard
	starts  map[reign]int64     // of an observer: where logs of leader epochs begin
}

func (r *Run) life(slot int, rng *rand.Rand) *life {
	return &life{Run: r, slot: slot, process: r.rec.Process(), rng: rng, next: time.Now(), starts: map[reign]int64{}}
}

// spawn runs one life after another.
func (r *Run) spawn(ctx context.Context, wg *sync.WaitGroup, f func(context.Context, *life) error) {
	r.slots++
	slot := r.slots
	rng := rand.New(rand.NewPCG(r.Seed, uint64(slot)))
	wg.Go(func() {
		for ctx.Err() == nil {
			l := r.life(slot, rng)
			err := f(ctx, l)
			if ctx.Err() != nil {
				return
			}
			op := l.op(history.Crash)
			if err != nil {
				op.Note = err.Error()
			}
			r.rec.Event(op)
			l.next = time.Now().Add(200 * time.Millisecond)
			l.pace(ctx)
		}
	})
}

func (l *life) op(kind history.Kind) history.Op { return history.Op{Process: l.process, F: kind} }

// ask begins an operation and sends a request. Where there is no answer the
// operation has failed, and is over.
func ask[R kmsg.Response](l *life, kind history.Kind, c *wire.Conn, req kmsg.Request) (o *history.Op, answer R, err error) {
	o = l.rec.Begin(l.op(kind))
	got, err := c.Do(req)
	if err != nil {
		l.rec.End(o, history.Fail, err)
		return o, answer, err
	}
	return o, got.(R), nil
}

// metadataOf asks for topics.
func metadataOf(version int16, names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = version
	for _, name := range names {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, topic)
	}
	return req
}

// pace waits until the client may do its next operation, and says whether it
// shall.
func (l *life) pace(ctx context.Context) bool {
	wait := time.Until(l.next)
	gap := time.Duration(float64(time.Second) / l.Rate * (0.5 + l.rng.Float64()))
	l.next = time.Now().Add(max(wait, 0) + gap)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}

// limited is a context for one operation, which is finished even when the run
// ends meanwhile.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), opLimit)
}

// client makes a client that comes back fast once a broker does.
func (r *Run) client(name string, more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(r.options(name, more...)...)
}

func (r *Run) options(name string, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(r.Addrs...), kgo.ClientID(name),
		kgo.RetryBackoffFn(func(n int) time.Duration { return time.Duration(min(n, 10)) * 30 * time.Millisecond }),
		kgo.RequestRetries(1000), kgo.RetryTimeout(opLimit), kgo.DialTimeout(3 * time.Second),
		kgo.RequestTimeoutOverhead(5 * time.Second), kgo.ProduceRequestTimeout(5 * time.Second),
		kgo.MetadataMinAge(100 * time.Millisecond), kgo.MetadataMaxAge(10 * time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.FetchMaxWait(200 * time.Millisecond), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	}, more...)
}

// sent is a record to send, with a value that nobody had before.
func (r *Run) sent(k history.Key) *history.Sent {
	return &history.Sent{Key: k, Value: r.value.Add(1), Offset: -1}
}

// A record's value is its number, what it adds to an account, and the number
// of the record that it hands on.
func encode(s *history.Sent) []byte {
	return []byte(fmt.Sprintf("%d:%d:%d", s.Value, s.Delta, s.From))
}

// Decode reads the number of a record; -1 is none of ours.
func Decode(value []byte) int64 {
	number, _, _ := strings.Cut(string(value), ":")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return -1
	}
	return n
}
