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
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/check"
	"github.com/gregor-broker/gregor/compat-tests/chaos/disk"
	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/chaos/nemesis"
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
	dir, out         string
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
	flag.StringVar(&o.dir, "dir", "", "directory for the broker, kept afterwards (default: a temporary one)")
	flag.StringVar(&o.out, "history", "", "where to keep the history in any case")
	flag.BoolVar(&o.verbose, "v", false, "say each fault")
	flag.Parse()
	os.Exit(run(o, os.Stdout))
}

func run(o options, out io.Writer) int {
	fmt.Fprintf(out, "chaos: %s for %s, seed %d, faults %s\n", o.broker, o.duration, o.seed, o.chosen)
	start := time.Now()
	r := &chaos{options: o, out: out, rec: history.NewRecorder()}
	report, err := r.play()
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

// properties make timeouts short enough for a run to see them pass.
var properties = []string{
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

func (c *chaos) play() (*check.Report, error) {
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
	b, err := c.start()
	if err != nil {
		return nil, err
	}
	defer b.Kill()
	net, err := proxy.New(c.seed, b.Addr)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	err = c.load(b, net)
	c.network = net.Done()
	options := check.Options{
		Final: err == nil, Banks: []string{work.BankTopic}, StuckAfter: txnTimeout + 30*time.Second + c.period, RecoverWithin: 30 * time.Second,
	}
	for _, p := range work.Pipes() {
		if err == nil {
			options.Pipes = append(options.Pipes, check.Pipe{In: p[0], Out: p[1]})
		}
	}
	if stopErr := b.Stop(); err == nil {
		err = stopErr
	}
	if err == nil {
		replica, diskErr := disk.Read(1, b.DataDir, work.Keys(), work.Decode)
		err = diskErr
		options.Replicas = []check.Replica{replica}
	}
	report := check.Run(c.rec.History(), options)
	return report, errors.Join(err, c.enough(report))
}

func (c *chaos) start() (*harness.Broker, error) {
	switch c.broker {
	case "gregor":
		if c.bin == "" {
			bin, err := harness.BuildGregor(c.dir)
			if err != nil {
				return nil, err
			}
			c.bin = bin
		}
		return harness.Gregor(c.bin, c.dir, properties...)
	case "kafka":
		return harness.Kafka(c.dir, properties...)
	default:
		return nil, fmt.Errorf("-broker is gregor or kafka, not %q", c.broker)
	}
}

// load runs the clients through the faults and to the end. Its error is a
// finding too: a broker that died, or clients that did not recover.
func (c *chaos) load(b *harness.Broker, net *proxy.Set) error {
	logf := func(format string, args ...any) {
		if c.verbose {
			fmt.Fprintf(c.out, "%s "+format+"\n", append([]any{time.Duration(c.rec.Now()).Round(time.Millisecond)}, args...)...)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := work.New(work.Config{
		Recorder: c.rec, Addrs: net.Addrs(), Seed: c.seed, Rate: c.rate, Replicas: 1, MinInSync: 1, TxnTimeout: txnTimeout, Logf: logf,
	})
	if err := w.Setup(ctx); err != nil {
		return err
	}
	w.Start(ctx)
	n := &nemesis.Nemesis{
		Nodes: []nemesis.Node{b}, Proxy: net, Recorder: c.rec, Seed: c.seed, Period: c.period, Logf: logf,
	}
	if c.chosen != "none" {
		n.Faults = strings.Split(c.chosen, ",")
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
	case <-b.Exited():
	}
	logf("quiet")
	w.Quiet()
	limited, done := context.WithTimeout(ctx, 2*time.Minute)
	defer done()
	logf("drain")
	failed = errors.Join(failed, w.Drain(limited))
	logf("final polls")
	last, end := context.WithTimeout(ctx, time.Minute)
	defer end()
	return errors.Join(failed, w.Final(last))
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
