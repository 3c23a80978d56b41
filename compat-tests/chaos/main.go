// Command chaos runs clients against a broker that is killed, paused, restarted
// and cut off, and judges what they saw: the properties of package check.
//
//	chaos -for 10m                    gregor, built from this tree
//	chaos -for 10m -broker kafka      the same against Apache Kafka
//	chaos -seed N                     the same schedule again
//	chaos -clients all                Java's clients and librdkafka's beside franz-go's
//
// It prints how many operations of each kind ran, what the network did, and
// every finding, and ends with status 1 where there is one or where too little
// ran to say anything. The history of a run with findings is kept.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/check"
	"github.com/gregor-broker/gregor/compat-tests/chaos/disk"
	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/chaos/nemesis"
	"github.com/gregor-broker/gregor/compat-tests/chaos/netns"
	"github.com/gregor-broker/gregor/compat-tests/chaos/proxy"
	"github.com/gregor-broker/gregor/compat-tests/chaos/volume"
	"github.com/gregor-broker/gregor/compat-tests/chaos/work"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

type options struct {
	duration, period time.Duration
	seed             uint64
	broker, bin      string
	chosen, admin    string
	clients          string
	rate             float64
	brokers          int
	controllers      int
	isolate, volumes bool
	dir, out, judge  string
	verbose          bool
}

func main() {
	var o options
	flag.DurationVar(&o.duration, "for", time.Minute, "how long the faults go on")
	flag.DurationVar(&o.period, "period", 8*time.Second, "how long one fault, or quiet, lasts at most")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano())%1_000_000, "seed of all random choices")
	flag.StringVar(&o.broker, "broker", "gregor", "gregor or kafka")
	flag.StringVar(&o.bin, "gregor", "", "gregor's binary (default: $GREGOR_BIN, else built from this tree)")
	flag.StringVar(&o.chosen, "faults", "", "which faults, or none (default: all that the run has the means for)")
	flag.StringVar(&o.admin, "admin", recreate+","+reassign, "what administrators do meanwhile, or none")
	flag.StringVar(&o.clients, "clients", "franz-go", "franz-go, and java and librdkafka beside it, or all")
	flag.Float64Var(&o.rate, "rate", 8, "operations a second of each client, at most")
	flag.IntVar(&o.brokers, "brokers", 1, "how many brokers; from two on, each record has two or three replicas")
	flag.IntVar(&o.controllers, "controllers", 0, "how many controllers in processes of their own (default: each broker is one)")
	flag.BoolVar(&o.volumes, "volumes", false, "disks that become full and fail, one for each broker; needs Linux and root")
	flag.BoolVar(&o.isolate, "isolate", false, "brokers in network namespaces, which are cut off from each other too; needs root")
	flag.StringVar(&o.dir, "dir", "", "directory for the broker, kept afterwards (default: a temporary one)")
	flag.StringVar(&o.out, "history", "", "where to keep the history in any case")
	flag.StringVar(&o.judge, "judge", "", "run nothing, judge a history that was kept")
	flag.BoolVar(&o.verbose, "v", false, "say each fault")
	flag.Parse()
	if o.chosen == "" {
		o.chosen = strings.Join(o.possible(), ",")
	}
	if o.clients == "all" {
		o.clients = "franz-go,java,librdkafka"
	}
	if o.judge != "" {
		os.Exit(judge(o, os.Stdout))
	}
	os.Exit(run(o, os.Stdout))
}

// What administrators do.
const (
	recreate = "recreate" // delete a topic and create it again
	reassign = "reassign" // move replicas
)

// possible are the faults that the run has the means for.
func (o options) possible() []string {
	out := slices.Clone(nemesis.All)
	if o.brokers+o.controllers > 1 {
		out = append(out, nemesis.Clustered...)
	}
	if o.isolate {
		out = append(out, nemesis.Separated...)
	}
	if o.volumes {
		out = append(out, nemesis.Stored...)
	}
	return out
}

// acts tells whether administrators do something in the run.
func (o options) acts(what string) bool {
	return slices.Contains(strings.Split(o.admin, ","), what) && (what != reassign || o.brokers > 1)
}

// others are the clients beside franz-go.
func (o options) others() []string {
	return slices.DeleteFunc(strings.Split(o.clients, ","), func(name string) bool { return name == "franz-go" })
}

// judge judges again what a run kept. The brokers' disks are gone.
func judge(o options, out io.Writer) int {
	f, err := os.Open(o.judge)
	if err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	defer f.Close()
	ops, err := history.Load(f)
	if err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	report := check.Run(ops, o.properties(true))
	fmt.Fprint(out, report.Summary())
	return min(len(report.Findings), 1)
}

// faultsInARow is how many times the longest period a coordinator may be kept
// from ending a transaction that is overdue: a majority, of controllers or of a
// partition's replicas, may be away for 2.25 of them, and two faults follow each
// other.
const faultsInARow = 5

// properties say what a run that came to its end must have kept.
func (o options) properties(ended bool) check.Options {
	l := limitsOf(o.broker)
	c := check.Options{Final: ended, StuckAfter: txnTimeout + 30*time.Second + faultsInARow*o.period, RecoverWithin: l.Recover, ServeWithin: l.Serve}
	if ended {
		c.Banks = []string{work.BankTopic}
		for _, p := range work.Pipes(o.others()) {
			c.Pipes = append(c.Pipes, check.Pipe{In: p[0], Out: p[1]})
		}
	}
	return c
}

func run(o options, out io.Writer) int {
	fmt.Fprintf(out, "chaos: %d %s, %d controllers of their own, for %s, seed %d, faults %s, administrators %s\n",
		o.brokers, o.broker, o.controllers, o.duration, o.seed, o.chosen, o.admin)
	start := time.Now()
	r := &chaos{options: o, out: out, rec: history.NewRecorder()}
	// A run that is interrupted still ends its brokers.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := r.play(ctx)
	if report != nil {
		fmt.Fprint(out, report.Summary())
	}
	fmt.Fprintf(out, "faults: %s\nnetwork: %s\n", counts(r.faults), counts(r.network))
	if err == nil && report != nil && len(report.Findings) > 0 {
		err = fmt.Errorf("%d findings", len(report.Findings))
	}
	if err != nil || o.out != "" {
		fmt.Fprintf(out, "history: %s\n", r.keep())
	}
	took := time.Since(start).Round(time.Second)
	if err != nil {
		fmt.Fprintf(out, "FAIL (%s, seed %d) after %s: %v\n", o.broker, o.seed, took, err)
		return 1
	}
	fmt.Fprintf(out, "ok: %s, seed %d, in %s\n", o.broker, o.seed, took)
	return 0
}

func counts(m map[string]int) string {
	var out []string
	for k, n := range m {
		out = append(out, fmt.Sprintf("%s %d", k, n))
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// txnTimeout of transactional clients, and how long a broker lets transactions
// be open at most.
const txnTimeout = 10 * time.Second

// settings make timeouts short enough for a run to see them pass.
var settings = []string{
	fmt.Sprintf("transaction.max.timeout.ms=%d", txnTimeout.Milliseconds()),
	"transaction.abort.timed.out.transaction.cleanup.interval.ms=1000",
	"offsets.topic.num.partitions=5",
	"transaction.state.log.num.partitions=5",
	"group.initial.rebalance.delay.ms=0",
	"group.consumer.min.session.timeout.ms=5000",
	"group.consumer.session.timeout.ms=6000",
	"group.consumer.min.heartbeat.interval.ms=500",
	"group.consumer.heartbeat.interval.ms=1000",
}

// patience is what a Kafka needs to come up at all on a machine that is busy:
// a broker that is not registered within its first minute ends.
var patience = []string{
	"initial.broker.registration.timeout.ms=300000",
	"controller.quorum.election.timeout.ms=5000",
	"controller.quorum.fetch.timeout.ms=8000",
}

// chaos is one run.
type chaos struct {
	options
	out     io.Writer
	rec     *history.Recorder
	disk    []*volume.Volume
	faults  map[string]int
	network map[string]int
}

// A run that could not do this much in a minute of faults says nothing.
var least = map[history.Kind]int{
	history.Send: 40, history.Poll: 60, history.Txn: 60, history.Commit: 20, history.FetchOffset: 20, history.Observe: 40, history.Owned: 2,
}

func (c *chaos) play(ctx context.Context) (*check.Report, error) {
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "gregor-chaos-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		c.dir = dir
	} else if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	var between *netns.Net
	if c.isolate {
		if err := netns.Supported(); err != nil {
			return nil, err
		}
		var err error
		if between, err = netns.New(c.brokers + c.controllers); err != nil {
			return nil, err
		}
		defer func() {
			if err := between.Close(); err != nil {
				fmt.Fprintln(c.out, "networks that are left:", err)
			}
		}()
	}
	if c.volumes {
		defer func() {
			for _, v := range c.disk {
				if err := v.Close(); err != nil {
					fmt.Fprintln(c.out, "a disk that is left:", err)
				}
			}
		}()
		if err := c.mount(); err != nil {
			return nil, err
		}
	}
	nodes, err := c.prepare(between)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, b := range nodes {
			b.Kill()
		}
	}()
	if err := harness.StartAll(nodes); err != nil {
		return nil, err
	}
	brokers := nodes[:c.brokers]
	net, err := proxy.New(c.seed, addresses(brokers)...)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	w, err := c.load(ctx, nodes, net, between)
	c.network = net.Done()
	options := c.properties(err == nil)
	if !c.rec.Ended(0, func(o *history.Op) bool { return o.F == history.Healed }) {
		// A broker that does not stop or start in time is a failure by itself,
		// and no reason to blame the others that they do not recover.
		options.RecoverWithin = 0
	}
	if err == nil {
		options.Kept, options.Copies = w.Keys(), min(c.brokers, 3)
		options.Replicas, err = c.disks(brokers, options.Kept)
	}
	report := check.Run(c.rec.History(), options)
	return report, errors.Join(err, c.enough(report))
}

func addresses(brokers []*harness.Broker) []string {
	var out []string
	for _, b := range brokers {
		out = append(out, b.Addr)
	}
	return out
}

// volumeSize is more than a run writes, and little enough to be filled quickly.
const volumeSize = 1 << 30

// mount gives each broker a disk of its own.
func (c *chaos) mount() error {
	if err := volume.Supported(); err != nil {
		return err
	}
	for i := range c.brokers {
		home := harness.HomeOf(c.dir, i+1)
		v, err := volume.New(home+".image", filepath.Join(home, "data"), volumeSize)
		if err != nil {
			return err
		}
		c.disk = append(c.disk, v)
	}
	return nil
}

// prepare makes the brokers and the controllers, which do not run yet.
func (c *chaos) prepare(between *netns.Net) ([]*harness.Broker, error) {
	places := harness.Here(c.brokers + c.controllers)
	if between != nil {
		for i := range places {
			places[i] = harness.Place{Host: between.Host(i), Command: between.Command(i)}
		}
	}
	layout := harness.Layout{Brokers: places[:c.brokers], Controllers: places[c.brokers:]}
	switch c.broker {
	case "gregor":
		if c.bin == "" {
			bin, err := harness.BuildGregor(c.dir)
			if err != nil {
				return nil, err
			}
			c.bin = bin
		}
		return harness.NewClusterOf(c.bin, nil, c.dir, layout, settings...)
	case "kafka":
		jvm := append(slices.Clone(harness.SmallJVM), "-XX:TieredStopAtLevel=1", "-Xshare:auto")
		return harness.NewClusterOf("", jvm, c.dir, layout, append(slices.Clone(settings), patience...)...)
	default:
		return nil, fmt.Errorf("-broker is gregor or kafka, not %q", c.broker)
	}
}

// disks ends the brokers and reads what they wrote. One broker is asked to
// stop; several, which are all in sync by now, cannot leave one after the other
// without a majority, so they are killed.
func (c *chaos) disks(brokers []*harness.Broker, keys []history.Key) ([]check.Replica, error) {
	var out []check.Replica
	for _, b := range brokers {
		if len(brokers) > 1 {
			b.Kill()
		} else if err := b.Stop(); err != nil {
			return nil, err
		}
	}
	for i, b := range brokers {
		r, err := disk.Read(int32(i+1), b.DataDir, keys, work.Decode)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// drivers starts them.
func (c *chaos) drivers() ([]*harness.Standing, error) {
	var out []*harness.Standing
	for _, name := range c.others() {
		start := map[string]func() (*harness.Driver, error){"java": harness.JavaDriver, "librdkafka": harness.PythonDriver}[name]
		if start == nil {
			return out, fmt.Errorf("-clients are franz-go, java and librdkafka, not %q", name)
		}
		d, err := harness.Stand(start, c.gone)
		if err != nil {
			return out, err
		}
		out = append(out, d)
	}
	return out, nil
}

// gone records that a driver's program ended by itself.
func (c *chaos) gone(err error, again bool) {
	how := history.Fail
	if again {
		how = history.OK
	}
	c.rec.End(c.rec.Begin(history.Op{F: history.Gone, Note: err.Error()}), how, nil)
}

// load runs the clients through the faults and to the end. Its error is a
// finding too: a broker that died, or clients that did not recover.
func (c *chaos) load(ctx context.Context, nodes []*harness.Broker, net *proxy.Set, between *netns.Net) (*work.Run, error) {
	logf := func(format string, args ...any) {
		if c.verbose {
			fmt.Fprintf(c.out, "%s "+format+"\n", append([]any{time.Duration(c.rec.Now()).Round(time.Millisecond)}, args...)...)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	drivers, err := c.drivers()
	defer func() {
		for _, d := range drivers {
			if err := d.Close(); err != nil {
				logf("%s: %v", d.Name, err)
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	w := work.New(work.Config{
		Drivers:  drivers,
		Recorder: c.rec, Addrs: net.Addrs(), Seed: c.seed, Rate: c.rate, Churn: c.acts(recreate),
		Replicas: int16(min(c.brokers, 3)), MinInSync: int16(min(c.brokers, 2)), TxnTimeout: txnTimeout, Logf: logf,
	})
	if err := w.Setup(ctx); err != nil {
		return w, err
	}
	w.Start(ctx)
	n := c.nemesis(nodes, net, between, w)
	n.Logf = logf
	faulty, over := context.WithTimeout(ctx, c.duration)
	failed := n.Run(faulty)
	over()
	c.faults = n.Done()
	limit := limitsOf(c.broker)
	if failed == nil {
		c.recovered(ctx, w, limit.Recover)
	}
	logf("quiet")
	w.Quiet()
	limited, done := context.WithTimeout(ctx, limit.Drain)
	defer done()
	logf("drain")
	failed = errors.Join(failed, w.Drain(limited))
	logf("final polls")
	return w, errors.Join(failed, w.Final(ctx, limit.Final))
}

// atLeast is how long writers go on after healing in any case.
const atLeast = 10 * time.Second

// recovered waits until everybody had the time to be served again: the writers
// must not end before P16 expects them to be.
func (c *chaos) recovered(ctx context.Context, w *work.Run, within time.Duration) {
	from := c.rec.Now()
	watching, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { w.Watch(watching) })
	defer watch.Wait()
	defer end()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		past := time.Duration(c.rec.Now() - from)
		if past >= within || past >= atLeast && w.Served(from) {
			return
		}
	}
}

// nemesis gives a schedule what the run has the means for.
func (c *chaos) nemesis(nodes []*harness.Broker, net *proxy.Set, between *netns.Net, w *work.Run) *nemesis.Nemesis {
	n := &nemesis.Nemesis{Brokers: c.brokers, Proxy: net, Recorder: c.rec, Seed: c.seed, Period: c.period}
	for i, b := range nodes {
		n.Nodes = append(n.Nodes, b)
		if b.Controller != "" {
			n.Controllers = append(n.Controllers, i)
			_, port, _ := strings.Cut(b.Controller, ":")
			n.ControllerPorts = append(n.ControllerPorts, port)
		}
	}
	brokers := nodes[:c.brokers]
	if len(nodes) > 1 {
		n.Roles = roles(nodes, c.brokers)
	}
	if c.chosen != "none" {
		n.Faults = strings.Split(c.chosen, ",")
	}
	if between != nil {
		n.Network = between
	}
	for _, v := range c.disk {
		n.Volumes = append(n.Volumes, v)
	}
	moves := &reassigner{addrs: addresses(brokers), replicas: min(c.brokers, 3)}
	n.Whole = moves.whole
	if c.acts(recreate) {
		n.Actions = append(n.Actions, nemesis.Action{Name: recreate, Do: w.Recreate, Undo: w.RestoreChurn})
	}
	if c.acts(reassign) {
		n.Actions = append(n.Actions, nemesis.Action{Name: reassign, Do: moves.do, Undo: moves.undo})
	}
	return n
}

// enough is an error where too little succeeded.
func (c *chaos) enough(r *check.Report) error {
	minutes := max(c.duration.Minutes(), 0.5)
	for kind, n := range least {
		if got := r.Ops[kind][history.OK]; float64(got) < float64(n)*minutes {
			return fmt.Errorf("only %d operations %q succeeded in %s: too few to say anything", got, kind, c.duration)
		}
	}
	return nil
}

// keep writes the history to a file and returns its name.
func (c *chaos) keep() string {
	name := c.options.out
	if name == "" {
		name = filepath.Join(os.TempDir(), fmt.Sprintf("chaos-%s-%d.jsonl", c.broker, c.seed))
	}
	f, err := os.Create(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if err := history.Write(f, c.rec.History()); err != nil {
		return err.Error()
	}
	return name
}
