package compat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The shop of java/streams/StreamsApp.java: its orders are numbers, written for
// one customer after the other, each at a later time.
const (
	shopPartitions = 4
	shopCustomers  = 40
	shopRegions    = 5
	shopWindowMs   = 10_000 // as StreamsApp.WINDOW
	orderEveryMs   = 20     // in the records' timestamps

	maxOrdersBehind = 1000
)

func customer(n int) string { return fmt.Sprint("customer-", n%shopCustomers) }
func region(n int) string   { return fmt.Sprint("region-", n%shopCustomers%shopRegions) }

// TestStreams: a Kafka Streams application with an aggregation, windows, a
// stream-table join, a table-table join and standby replicas, in two instances
// that are killed, stalled and lose their state, on a broker that is killed
// too. What it made of the orders is what a correct run makes of them: with
// exactly_once_v2 each order counted once, everywhere, and every intermediate
// total written once and in order; with at_least_once none lost.
func TestStreams(t *testing.T) {
	needAll(t)
	onOwn(t, eosBroker, func(t *testing.T, b *harness.Broker) {
		for _, guarantee := range []string{"at_least_once", "exactly_once_v2"} {
			t.Run(guarantee, func(t *testing.T) {
				if _, _, err := harness.StreamsApp(); err != nil {
					missing(t, err)
				}
				runShop(t, b, guarantee)
			})
		}
	})
}

// eosBroker is what makes a broker look for transactions that timed out, and
// form groups, sooner than by default.
var eosBroker = []string{"group.initial.rebalance.delay.ms=500", "transaction.abort.timed.out.transaction.cleanup.interval.ms=500"}

// instance is an instance of the application; what runs for it is replaced when
// it dies of what it may die of.
type instance struct {
	name string
	m    *harness.Member
	over bool // it is not replaced any more
}

// shop is a run of the application and what its instances said.
type shop struct {
	t         *testing.T
	b         *harness.Broker
	cl        *kgo.Client
	adm       *kadm.Client
	guarantee string
	prefix    string // of topics, and the application id
	dir       string // of the instances' states
	epochMs   int64  // time of the first order
	instances map[string]*instance

	mu       sync.Mutex
	state    map[*harness.Member]string
	count    map[string]int64 // records restored, loaded into standbys, promotions
	failures []string
	fallen   []*harness.Member // to be replaced, see heard
	sent     int               // orders acknowledged
	seen     map[int]bool      // orders seen in the output of the first join
	moved    map[string]bool   // customers seen in their last region
}

func runShop(t *testing.T, b *harness.Broker, guarantee string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ProducerLinger(0), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{
		t: t, b: b, cl: cl, adm: kadm.NewClient(cl), guarantee: guarantee, prefix: topicName(t), dir: t.TempDir(),
		epochMs:   time.Now().UnixMilli() / shopWindowMs * shopWindowMs,
		instances: map[string]*instance{}, state: map[*harness.Member]string{}, count: map[string]int64{}, seen: map[int]bool{}, moved: map[string]bool{},
	}
	for _, topic := range []string{"customers", "orders", "each", "totals", "joined", "windows"} {
		if r, err := s.adm.CreateTopic(t.Context(), shopPartitions, 1, nil, s.prefix+"-"+topic); err != nil || r.Err != nil {
			t.Fatal(topic, err, r.Err)
		}
	}
	for i := range shopCustomers {
		s.put("customers", s.epochMs-1, customer(i), region(i))
	}
	ctx, stop := context.WithCancel(t.Context())
	orders, stopOrders := context.WithCancel(ctx)
	var work, writing sync.WaitGroup
	defer func() {
		stop()
		cl.Close() // or a write waits for ever for a broker that did not come back
		writing.Wait()
		work.Wait()
	}()
	writing.Go(func() { s.order(orders) })
	work.Go(func() { s.watch(ctx) })
	s.trouble()
	stopOrders()
	writing.Wait()
	a, c := s.start("a"), s.start("b")
	s.await("all orders are out", s.upToDate(0))

	// A last change of the tables' other side.
	for i := range shopRegions {
		s.put("customers", s.orderMs(s.sent), customer(i), "moved")
	}
	s.await("the last change is joined", func() bool { return len(s.moved) == shopRegions })
	s.await("all is added up", s.addedUp) // windows are behind a topic of their own
	s.end(a, syscall.SIGTERM)
	s.end(c, syscall.SIGTERM)
	stop()
	work.Wait()
	s.verify()
}

// trouble is what the instances and the broker go through. Orders are written
// all the while.
func (s *shop) trouble() {
	a, b := s.start("a"), s.start("b")
	s.await("both run, with standbys", func() bool {
		return s.state[a.m] == "RUNNING" && s.state[b.m] == "RUNNING" && s.count["standby"] > 0 && len(s.seen) > 500
	})

	s.end(a, syscall.SIGKILL)
	s.await("the other one takes over, with its standbys", s.upToDate(100))
	s.mu.Lock()
	promoted := s.count["promoted"]
	s.mu.Unlock()
	if promoted == 0 {
		s.t.Error("no standby became active")
	}
	a = s.start("a")
	s.await("both run again", func() bool { return s.state[a.m] == "RUNNING" && s.state[b.m] == "RUNNING" })

	bounceInTransactions(s.t, s.b)
	s.await("both go on after the broker was killed", s.upToDate(100))

	// All are gone, one loses its state, and the broker dies while it is restored.
	s.end(a, syscall.SIGKILL)
	s.end(b, syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(s.dir, "b")); err != nil {
		s.t.Fatal(err)
	}
	a, b = s.start("a"), s.start("b")
	s.await("the instances rebalance", func() bool { return s.state[b.m] == "REBALANCING" })
	bounceInTransactions(s.t, s.b)
	s.await("the state is restored", s.upToDate(100))
	s.await("both run", func() bool { return s.state[a.m] == "RUNNING" && s.state[b.m] == "RUNNING" })

	downInTransactions(s.t, s.b)
	s.end(b, syscall.SIGKILL)
	if err := s.b.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.await("one goes on alone", s.upToDate(100))
	b = s.start("b")
	s.await("two run", func() bool { return s.state[a.m] == "RUNNING" && s.state[b.m] == "RUNNING" })

	// A zombie: it sleeps through its session, and wakes in a transaction that
	// others have ended. With at_least_once nothing keeps it from writing its old
	// totals over newer ones, so there it does not wake.
	s.replace()
	signalTo(s.t, a.m, syscall.SIGSTOP)
	s.await("the other one goes on", s.upToDate(100))
	if s.guarantee == "exactly_once_v2" {
		signalTo(s.t, a.m, syscall.SIGCONT)
		s.await("the zombie does no harm", s.upToDate(1000))
	}
	s.end(a, syscall.SIGKILL)
	s.end(b, syscall.SIGKILL)
	a = s.start("a")
	s.await("the last one restores", s.upToDate(100))
	s.end(a, syscall.SIGTERM)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Logf("records restored: %d, into standbys: %d; stores promoted: %d", s.count["restored"], s.count["standby"], s.count["promoted"])
	if s.count["restored"] == 0 {
		s.t.Error("no changelog was restored")
	}
}

// start starts an instance, whose state lies in a directory of its name.
func (s *shop) start(name string) *instance {
	s.t.Helper()
	in := &instance{name: name, m: s.launch(name)}
	s.instances[name] = in
	return in
}

func (s *shop) launch(name string) *harness.Member {
	s.t.Helper()
	program, args, err := harness.StreamsApp(s.b.Addr, s.prefix, s.guarantee, filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return startMember(s.t, name, s.heard, harness.MemberCommand{Program: program, Args: args})
}

// end ends an instance, if it runs still, and waits until it is gone.
func (s *shop) end(in *instance, sig syscall.Signal) {
	in.over = true
	_ = in.m.Signal(sig)
	<-in.m.Done()
}

// replace does what a supervisor does for instances that gave up.
func (s *shop) replace() {
	s.t.Helper()
	s.mu.Lock()
	fallen := s.fallen
	s.fallen = nil
	s.mu.Unlock()
	for _, m := range fallen {
		in := s.instances[m.Name]
		if in.m != m || in.over {
			continue
		}
		_ = m.Signal(syscall.SIGKILL)
		<-m.Done()
		m := s.launch(in.name)
		s.mu.Lock()
		in.m = m
		s.mu.Unlock()
	}
}

func (s *shop) heard(m *harness.Member, e harness.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Name {
	case "state":
		s.state[m] = e.State
	case "promoted":
		s.count[e.Name]++
	case "failed":
		// A commit that comes when the coordinator has ended the transaction, because
		// the instance slept or the broker was away for too long, is answered
		// INVALID_TXN_STATE, by Apache Kafka as by gregor. Kafka Streams takes that
		// for fatal.
		if s.guarantee == "exactly_once_v2" && strings.Contains(e.State, "InvalidTxnStateException") {
			s.t.Logf("%s gave up: %s", m.Name, e.State)
			s.fallen = append(s.fallen, m)
			return
		}
		s.failures = append(s.failures, m.Name+": "+e.State)
	default:
		s.count[e.Name] += e.Count
	}
}

// upToDate tells whether all orders are out that are written by now, and so
// many after them.
func (s *shop) upToDate(more int) func() bool {
	s.mu.Lock()
	next, want := 0, s.sent+more
	s.mu.Unlock()
	return func() bool {
		for ; s.seen[next] && next < want; next++ {
		}
		return next == want
	}
}

// await waits for a condition, which is asked under the lock.
func (s *shop) await(what string, is func() bool) {
	s.t.Helper()
	for wait := newPatience(); ; time.Sleep(50 * time.Millisecond) {
		s.replace()
		s.mu.Lock()
		done, failures, seen, sent := is(), s.failures, len(s.seen), s.sent
		how := fmt.Sprint(seen, s.count, s.state)
		s.mu.Unlock()
		switch {
		case len(failures) > 0:
			s.t.Fatalf("until %s: %v", what, failures)
		case done:
			s.t.Logf("%s, after %.1f s", what, wait.took())
			return
		case wait.over(how):
			s.t.Fatalf("never: %s; %d of %d orders are out; %s", what, seen, sent, s.open())
		}
	}
}

// open tells which transactions are open, and where no stable offset comes.
func (s *shop) open() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var b strings.Builder
	txns, err := s.adm.ListTransactions(ctx, nil, nil)
	fmt.Fprintf(&b, "transactions (%v):", err)
	for _, x := range txns.Sorted() {
		if strings.HasPrefix(x.TxnID, s.prefix) && x.State != "CompleteCommit" && x.State != "CompleteAbort" {
			fmt.Fprintf(&b, " %s is %s;", x.TxnID, x.State)
		}
	}
	topics, err := s.adm.ListTopics(ctx)
	if err != nil {
		return fmt.Sprint(&b, err)
	}
	names := slices.DeleteFunc(topics.Names(), func(n string) bool { return !strings.HasPrefix(n, s.prefix) })
	ends, err := s.adm.ListEndOffsets(ctx, names...)
	stable, err2 := s.adm.ListCommittedOffsets(ctx, names...)
	fmt.Fprintf(&b, " unstable (%v %v):", err, err2)
	ends.Each(func(o kadm.ListedOffset) {
		if at, ok := stable.Lookup(o.Topic, o.Partition); ok && at.Offset < o.Offset {
			fmt.Fprintf(&b, " %s[%d] from %d to %d;", o.Topic, o.Partition, at.Offset, o.Offset)
		}
	})
	return b.String()
}

func (s *shop) put(topic string, ms int64, key, value string) {
	s.t.Helper()
	r := &kgo.Record{Topic: s.prefix + "-" + topic, Key: []byte(key), Value: []byte(value), Timestamp: time.UnixMilli(ms)}
	if err := s.cl.ProduceSync(s.t.Context(), r).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// orderMs is the time of an order.
func (s *shop) orderMs(n int) int64 { return s.epochMs + int64(n)*orderEveryMs }

// order writes orders until it is stopped.
func (s *shop) order(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		behind := s.sent - len(s.seen)
		s.mu.Unlock()
		if behind > maxOrdersBehind {
			continue // a slow machine must not be left with more and more to do
		}
		var batch []*kgo.Record
		for range 10 {
			batch = append(batch, &kgo.Record{
				Topic: s.prefix + "-orders", Key: []byte(customer(n)), Value: strconv.AppendInt(nil, int64(n), 10),
				Timestamp: time.UnixMilli(s.orderMs(n)),
			})
			n++
		}
		err := s.cl.ProduceSync(context.WithoutCancel(ctx), batch...).FirstErr()
		s.mu.Lock()
		if err != nil {
			s.failures = append(s.failures, "orders: "+err.Error())
		}
		s.sent = n
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// watch notes which orders came out.
func (s *shop) watch(ctx context.Context) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.b.Addr), kgo.ConsumeTopics(s.prefix+"-each", s.prefix+"-joined"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		s.t.Error(err)
		return
	}
	defer cl.Close()
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		s.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			number, _, _ := strings.Cut(string(r.Value), "@")
			if strings.HasPrefix(number, "moved=") {
				s.moved[string(r.Key)] = true
			} else if n, err := strconv.Atoi(number); err == nil {
				s.seen[n] = true
			}
		})
		s.mu.Unlock()
	}
}

// row is a record of an output.
type row struct{ key, value string }

// read returns what is committed in a topic, in the order of each partition.
func (s *shop) read(topic string, partitions int) []row {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	ends, err := s.adm.ListCommittedOffsets(ctx, topic)
	if err != nil || ends.Error() != nil || len(ends[topic]) != partitions {
		s.t.Fatalf("%s: %v %v %v", topic, ends, err, ends.Error())
	}
	rows, err := readTo(ctx, s.b.Addr, topic, ends[topic])
	if err != nil {
		s.t.Fatalf("%s: %v", topic, err)
	}
	return rows
}

// readTo reads committed records of a topic, up to the offsets.
func readTo(ctx context.Context, addr, topic string, ends map[int32]kadm.ListedOffset) ([]row, error) {
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	for p, end := range ends {
		if end.Offset > 0 {
			from[p], left[p] = kgo.NewOffset().AtStart(), end.Offset
		}
	}
	// Control records are asked for, because they may be the last ones.
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var rows []row
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("partitions are not read to their ends: %v: %w", left, ctx.Err())
		}
		for _, f := range fetches.Errors() {
			return nil, f.Err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() && r.Offset < ends[r.Partition].Offset {
				rows = append(rows, row{string(r.Key), string(r.Value)})
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return rows, nil
}

func last(rows []row) map[string]string {
	m := map[string]string{}
	for _, r := range rows {
		m[r.key] = r.value
	}
	return m
}

// expected is what a correct run puts out for each key, in order.
func (s *shop) expected() (totals, windows, joined map[string][]string) {
	totals, windows, joined = map[string][]string{}, map[string][]string{}, map[string][]string{}
	for n := range s.sent {
		w := fmt.Sprintf("%s@%d", region(n), s.orderMs(n)/shopWindowMs*shopWindowMs)
		totals[customer(n)] = append(totals[customer(n)], add(totals[customer(n)], n))
		windows[w] = append(windows[w], add(windows[w], n))
	}
	for i := range shopCustomers {
		for _, total := range totals[customer(i)] {
			joined[customer(i)] = append(joined[customer(i)], region(i)+"="+total)
		}
		if i < shopRegions {
			all := totals[customer(i)]
			joined[customer(i)] = append(joined[customer(i)], "moved="+all[len(all)-1])
		}
	}
	return totals, windows, joined
}

// addedUp reports whether the last total of every key is out.
func (s *shop) addedUp() bool {
	totals, windows, joined := s.expected()
	for topic, want := range map[string]map[string][]string{"totals": totals, "windows": windows, "joined": joined} {
		got := last(s.read(s.prefix+"-"+topic, shopPartitions))
		for key, w := range want {
			if atLeast(got[key], w[len(w)-1]) != nil {
				return false
			}
		}
	}
	return true
}

// verify compares the outputs and the changelogs with what a correct run must
// give.
func (s *shop) verify() {
	eos := s.guarantee == "exactly_once_v2"
	totals, windows, joined := s.expected()
	times := map[string]int{}
	for _, r := range s.read(s.prefix+"-each", shopPartitions) {
		times[r.key+" "+r.value]++
	}
	for n := range s.sent {
		want := fmt.Sprintf("%s %d@%s", customer(n), n, region(n))
		if times[want] == 0 || eos && times[want] != 1 {
			s.t.Errorf("%q is in the output %d times", want, times[want])
		}
		delete(times, want)
	}
	if len(times) > 0 {
		s.t.Errorf("in the output of the join, and never right: %v", times)
	}
	s.compare("totals", totals, eos, false)
	// Customers of a region come from several partitions, in any order.
	s.compare("windows", windows, eos, true)
	s.compare("joined", joined, eos, false)

	s.compareState("totals", totals, func(key string) string { return key })
	s.compareState("joined", joined, func(key string) string { return key })
	s.compareState("windows", windows, func(key string) string {
		// The key, the start of the window and a number that is not used.
		at := len(key) - 12
		return fmt.Sprintf("%s@%d", key[:at], binary.BigEndian.Uint64([]byte(key[at:])))
	})
	s.t.Logf("%d orders", s.sent)
}

func add(totals []string, n int) string {
	sum := 0
	if len(totals) > 0 {
		_, text, _ := strings.Cut(totals[len(totals)-1], ":")
		sum, _ = strconv.Atoi(text)
	}
	return fmt.Sprintf("%d:%d", len(totals)+1, sum+n)
}

// compare looks at an output of totals: with exactly_once_v2 every key has all
// its totals, once each and in order (in any order of what is added up, the
// counts and the last total are known still); with at_least_once the last one is not
// less than it must be.
func (s *shop) compare(topic string, want map[string][]string, eos bool, anyOrder bool) {
	got := map[string][]string{}
	for _, r := range s.read(s.prefix+"-"+topic, shopPartitions) {
		got[r.key] = append(got[r.key], r.value)
	}
	for key := range got {
		if want[key] == nil {
			s.t.Errorf("%s: nobody asked for %s", topic, key)
		}
	}
	for key, w := range want {
		if eos && anyOrder {
			got[key], w = countsAndLast(got[key]), countsAndLast(w)
		}
		if err := sameTotals(got[key], w, eos); err != nil {
			s.t.Errorf("%s of %s: %v", topic, key, err)
		}
	}
}

// countsAndLast leaves the counts of all totals but the last one.
func countsAndLast(totals []string) []string {
	out := slices.Clone(totals)
	for i := range max(0, len(out)-1) {
		out[i], _, _ = strings.Cut(out[i], ":")
	}
	return out
}

func sameTotals(got, want []string, eos bool) error {
	if len(got) == 0 {
		return errors.New("nothing")
	}
	if !eos {
		return atLeast(got[len(got)-1], want[len(want)-1])
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("number %d is %s, want %s", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d of them, want %d", len(got), len(want))
	}
	return nil
}

// atLeast compares "[region=]count:sum".
func atLeast(got, want string) error {
	var n [2][2]int
	for i, v := range []string{got, want} {
		before, total, found := strings.Cut(v, "=")
		if !found {
			total = before
		} else if !strings.HasPrefix(want, before+"=") {
			return fmt.Errorf("%s, want %s", got, want)
		}
		if _, err := fmt.Sscanf(total, "%d:%d", &n[i][0], &n[i][1]); err != nil {
			return fmt.Errorf("%q: %w", v, err)
		}
	}
	if n[0][0] < n[1][0] || n[0][1] < n[1][1] {
		return fmt.Errorf("%s is less than %s", got, want)
	}
	return nil
}

// compareState compares the last records of a store's changelog, which is the
// state of the store.
func (s *shop) compareState(store string, want map[string][]string, name func(key string) string) {
	got := map[string]string{}
	for key, v := range last(s.read(s.prefix+"-"+store+"-changelog", shopPartitions)) {
		got[name(key)] = v
	}
	if len(got) != len(want) {
		s.t.Errorf("the store %s has %d keys, want %d", store, len(got), len(want))
	}
	for key, w := range want {
		err := sameTotals([]string{got[key]}, w[len(w)-1:], s.guarantee == "exactly_once_v2")
		if err != nil {
			s.t.Errorf("the store %s for %s: %v", store, key, err)
		}
	}
}
