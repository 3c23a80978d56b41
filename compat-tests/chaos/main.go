// Command chaos runs clients against a broker that is killed, paused, restarted
// and cut off, and judges what they saw: the properties of package check.
//
//	chaos -for 10m                    gregor, built from this tree
//	chaos -for 10m -broker kafka      the same against Apache Kafka
//	chaos -seed N                     the same schedule again
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
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/check"
	"github.com/gregor-broker/gregor/compat-tests/chaos/disk"
	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/chaos/nemesis"
	"github.com/gregor-broker/gregor/compat-tests/chaos/netns"
	"github.com/gregor-broker/gregor/compat-tests/chaos/proxy"
	"github.com/gregor-broker/gregor/compat-tests/chaos/work"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

type options struct {
	duration, period time.Duration
	seed             uint64
	broker, bin      string
	chosen           string
	rate             float64
	brokers          int
	isolate          bool
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
	flag.StringVar(&o.chosen, "faults", strings.Join(nemesis.All, ","), "which faults, or none")
	flag.Float64Var(&o.rate, "rate", 8, "operations a second of each client, at most")
	flag.IntVar(&o.brokers, "brokers", 1, "how many brokers; from two on, each record has two or three replicas")
	flag.BoolVar(&o.isolate, "isolate", false, "brokers in network namespaces, which are cut off from each other too; needs root")
	flag.StringVar(&o.dir, "dir", "", "directory for the broker, kept afterwards (default: a temporary one)")
	flag.StringVar(&o.out, "history", "", "where to keep the history in any case")
	flag.StringVar(&o.judge, "judge", "", "run nothing, judge a history that was kept")
	flag.BoolVar(&o.verbose, "v", false, "say each fault")
	flag.Parse()
	if o.judge != "" {
		os.Exit(judge(o, os.Stdout))
	}
	os.Exit(run(o, os.Stdout))
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

// properties say what a run that came to its end must have kept.
func (o options) properties(ended bool) check.Options {
	c := check.Options{Final: ended, StuckAfter: txnTimeout + 30*time.Second + o.period, RecoverWithin: 30 * time.Second}
	if ended {
		c.Banks = []string{work.BankTopic}
		for _, p := range work.Pipes() {
			c.Pipes = append(c.Pipes, check.Pipe{In: p[0], Out: p[1]})
		}
	}
	return c
}

func run(o options, out io.Writer) int {
	fmt.Fprintf(out, "chaos: %d %s for %s, seed %d, faults %s\n", o.brokers, o.broker, o.duration, o.seed, o.chosen)
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

// chaos is one run.
type chaos struct {
	options
	out     io.Writer
	rec     *history.Recorder
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
	places := harness.Here(c.brokers)
	var between *netns.Net
	if c.isolate {
		if err := netns.Supported(); err != nil {
			return nil, err
		}
		var err error
		if between, err = netns.New(c.brokers); err != nil {
			return nil, err
		}
		defer func() {
			if err := between.Close(); err != nil {
				fmt.Fprintln(c.out, "networks that are left:", err)
			}
		}()
		for i := range places {
			places[i] = harness.Place{Host: between.Host(i), Command: between.Command(i)}
		}
	}
	brokers, err := c.prepare(places)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, b := range brokers {
			b.Kill()
		}
	}()
	if err := harness.StartAll(brokers); err != nil {
		return nil, err
	}
	var addrs []string
	for _, b := range brokers {
		addrs = append(addrs, b.Addr)
	}
	net, err := proxy.New(c.seed, addrs...)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	err = c.load(ctx, brokers, net, between)
	c.network = net.Done()
	options := c.properties(err == nil)
	if err == nil {
		options.Replicas, err = c.disks(brokers)
	}
	report := check.Run(c.rec.History(), options)
	return report, errors.Join(err, c.enough(report))
}

// prepare makes the brokers, which do not run yet.
func (c *chaos) prepare(places []harness.Place) ([]*harness.Broker, error) {
	switch c.broker {
	case "gregor":
		if c.bin == "" {
			bin, err := harness.BuildGregor(c.dir)
			if err != nil {
				return nil, err
			}
			c.bin = bin
		}
		return harness.NewClusterAt(c.bin, nil, c.dir, places, settings...)
	case "kafka":
		return harness.NewClusterAt("", harness.SmallJVM, c.dir, places, settings...)
	default:
		return nil, fmt.Errorf("-broker is gregor or kafka, not %q", c.broker)
	}
}

// disks ends the brokers and reads what they wrote. One broker is asked to
// stop; several, which are all in sync by now, cannot leave one after the other
// without a majority, so they are killed.
func (c *chaos) disks(brokers []*harness.Broker) ([]check.Replica, error) {
	var out []check.Replica
	for _, b := range brokers {
		if len(brokers) > 1 {
			b.Kill()
		} else if err := b.Stop(); err != nil {
			return nil, err
		}
	}
	for i, b := range brokers {
		r, err := disk.Read(int32(i+1), b.DataDir, work.Keys(), work.Decode)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// load runs the clients through the faults and to the end. Its error is a
// finding too: a broker that died, or clients that did not recover.
func (c *chaos) load(ctx context.Context, brokers []*harness.Broker, net *proxy.Set, between *netns.Net) error {
	logf := func(format string, args ...any) {
		if c.verbose {
			fmt.Fprintf(c.out, "%s "+format+"\n", append([]any{time.Duration(c.rec.Now()).Round(time.Millisecond)}, args...)...)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := work.New(work.Config{
		Recorder: c.rec, Addrs: net.Addrs(), Seed: c.seed, Rate: c.rate,
		Replicas: int16(min(c.brokers, 3)), MinInSync: int16(min(c.brokers, 2)), TxnTimeout: txnTimeout, Logf: logf,
	})
	if err := w.Setup(ctx); err != nil {
		return err
	}
	w.Start(ctx)
	n := &nemesis.Nemesis{Proxy: net, Recorder: c.rec, Seed: c.seed, Period: c.period, Logf: logf}
	for _, b := range brokers {
		n.Nodes = append(n.Nodes, b)
	}
	if c.brokers > 1 {
		n.Roles = roles(brokers)
	}
	if c.chosen != "none" {
		n.Faults = strings.Split(c.chosen, ",")
	}
	if between != nil {
		n.Network, n.Faults = between, append(n.Faults, nemesis.Isolate)
	}
	faulty, over := context.WithTimeout(ctx, c.duration)
	failed := n.Run(faulty)
	over()
	c.faults = n.Done()
	// Everybody must be served again before the writers end.
	recovery := time.NewTimer(10 * time.Second)
	defer recovery.Stop()
	select {
	case <-recovery.C:
	case <-ctx.Done():
	}
	logf("quiet")
	w.Quiet()
	limited, done := context.WithTimeout(ctx, 2*time.Minute)
	defer done()
	logf("drain")
	failed = errors.Join(failed, w.Drain(limited))
	logf("final polls")
	return errors.Join(failed, w.Final(ctx, time.Minute))
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
