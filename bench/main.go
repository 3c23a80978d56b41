// Command bench measures gregor beside Apache Kafka and beside the machine's
// floor (see floor/), in one run, with equal settings, and writes a report.
//
//	make bench            from the top of the tree: about half an hour
//	go run . -quick       some minutes, to see whether something broke
//	go run . -only 4      one scenario
//
// What is measured is the broker's CPU time for the same bytes: on a small
// machine throughput says more about the client. The broker has one CPU, the
// client another; repetitions of all subjects take turns, so that what else the
// machine does hits all alike.
//
//	main.go       flags, the brokers, the order of things
//	produce.go fetch.go latency.go commits.go rebalance.go load.go start.go
//	transactions.go cluster.go failover.go replicated.go
//	              what is measured, with the numbers of the reports
//	measure.go    repetitions, medians
//	client.go     a client that costs next to nothing: encoded requests are
//	              replayed, records are dropped in the kernel
//	requests.go   requests whose answers are looked at; members.go: members of
//	              groups without a consumer behind them
//	subject.go    starting and asking brokers; machine.go: CPU, memory, load
//	report.go     Markdown
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// bench is one run.
type bench struct {
	dir   string
	tools tools
	// gregor, kafka (nil without) and floor run all the time.
	gregor, kafka, floor *subject

	reps         int
	size, warmup int64
	latencyTime  time.Duration
	// latencyWarm is how long Kafka's JVM warms up before its first repetition.
	latencyWarm   time.Duration
	latencyWarmed bool
	idle          time.Duration
	calls, fill   bool
	// groups commit, members are in one group, offsets are loaded.
	groups, members, offsets int
	settings                 []string // of gregor only
	// favoured tells that the latency scenario ran with precedence.
	favoured bool

	profiles       string
	profileSeconds int
	http           string

	topics int
	cold   []string
	report *report
	began  time.Time
	// revision is what gregor was built from.
	revision string
}

func main() {
	if err := pinSelf(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	b := &bench{began: time.Now()}
	quick := flag.Bool("quick", false, "small sizes: some minutes, numbers that only show what broke")
	size := flag.Int64("size", 768, "MiB per repetition")
	warmup := flag.Int64("warmup", 4096, "MiB that Kafka's JVM gets to warm up before what is measured")
	only := flag.String("only", "", "scenarios to run, such as 1,4 (all)")
	noKafka := flag.Bool("no-kafka", false, "leave Apache Kafka out")
	out := flag.String("out", "", "report to write (standard output)")
	flag.IntVar(&b.reps, "reps", 5, "repetitions")
	flag.DurationVar(&b.latencyTime, "latency", 5*time.Second, "length of a repetition of the latency scenario")
	flag.DurationVar(&b.idle, "idle", 10*time.Second, "how long a broker rests before its memory is read")
	flag.IntVar(&b.groups, "groups", 1000, "groups that commit offsets")
	flag.IntVar(&b.members, "members", 500, "members of the group that rebalances")
	flag.IntVar(&b.offsets, "offsets", 1_000_000, "committed offsets that a coordinator loads")
	flag.BoolVar(&b.calls, "syscalls", true, "count system calls (needs perf)")
	flag.BoolVar(&b.fill, "fill", true, "fill free memory with page cache first")
	flag.StringVar(&b.profiles, "profiles", "", "directory for CPU profiles of gregor")
	flag.IntVar(&b.profileSeconds, "profile-seconds", 10, "length of a profile, from the start of its scenario")
	flag.Func("gregor", "key=value, a setting of gregor only, to see what it is worth; may be repeated", func(v string) error {
		b.settings = append(b.settings, v)
		return nil
	})
	scratch := flag.String("dir", "", "where the brokers keep their data, the same file system for all (a temporary directory)")
	flag.Parse()
	b.latencyWarm = 20 * time.Second
	if *quick {
		if err := quicken(); err != nil {
			return err
		}
		b.latencyWarm = 2 * time.Second
	}
	b.size, b.warmup = *size*megabyte, *warmup*megabyte

	dir, err := os.MkdirTemp(*scratch, "gregor-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.dir = dir
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	finished := make(chan error, 1)
	defer b.stop()
	go func() { finished <- b.all(*only, *noKafka) }()
	select {
	case err = <-finished:
	case s := <-interrupted:
		return fmt.Errorf("%s", s)
	}
	if b.report == nil || b.report.head == "" {
		return err
	}
	return errors.Join(err, b.write(*out))
}

// write writes the report, to the standard output where no file is named.
func (b *bench) write(out string) error {
	text := b.report.String()
	if out == "" {
		_, err := io.WriteString(os.Stdout, text)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	b.logf("report in %s", out)
	return os.WriteFile(out, []byte(text), 0o644)
}

// quicken makes everything small that was not asked for by a flag of its own.
func quicken() error {
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range map[string]string{
		"size": "128", "warmup": "512", "reps": "3", "latency": "2s", "idle": "2s", "syscalls": "false", "fill": "false",
		"groups": "100", "members": "50", "offsets": "50000",
	} {
		if given[name] {
			continue
		}
		if err := flag.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (b *bench) all(only string, noKafka bool) error {
	if err := b.start(noKafka); err != nil {
		return err
	}
	b.report = newReport()
	if err := b.touchMemory(); err != nil {
		return err
	}
	var failures error
	load0 := loadAverage()
	steal0, total0 := stolen()
	for _, sc := range []struct {
		number string
		run    func() error
	}{
		{"1", b.bulkProduce},
		{"3", b.compressedProduce},
		{"4", b.warmFetch},
		{"7", b.latency},
		{"10.1", b.commits},
		{"10.2", b.rebalance},
		{"10.3", b.loadCoordinator},
		{"13", b.transactions},
		{"15", b.failover},
		{"16", b.replicatedProduce},
		{"12", b.startAndFootprint},
	} {
		if !wanted(only, sc.number) {
			continue
		}
		stop := b.profileTo("scenario-" + sc.number)
		err := sc.run()
		stop()
		if err != nil { // the others are worth having all the same
			err = fmt.Errorf("scenario %s: %w", sc.number, err)
			failures = errors.Join(failures, err)
			b.logf("%v", err)
		}
	}
	steal1, total1 := stolen()
	b.report.head = b.describe(load0, float64(steal1-steal0)/float64(max(total1-total0, 1)))
	return failures
}

// wanted tells whether a scenario was asked for; 10 asks for all of 10.1, 10.2...
func wanted(only, number string) bool {
	whole, _, _ := strings.Cut(number, ".")
	asked := strings.Split(only, ",")
	return only == "" || slices.Contains(asked, number) || slices.Contains(asked, whole)
}

func (b *bench) start(noKafka bool) error {
	var err error
	b.revision = revision()
	if b.tools, err = build(b.dir); err != nil {
		return err
	}
	more := b.settings
	if b.profiles != "" {
		port, err := harness.FreePort()
		if err != nil {
			return err
		}
		b.http = fmt.Sprintf("127.0.0.1:%d", port)
		more = append(more, "http.address="+b.http)
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		name string
		at   **subject
	}{{"gregor", &b.gregor}, {"kafka", &b.kafka}, {"floor", &b.floor}} {
		if s.name == "kafka" && noKafka {
			continue
		}
		if *s.at, err = b.tools.prepare(s.name, b.dir, more...); err != nil {
			return err
		}
		if err := (*s.at).start(); err != nil {
			return err
		}
	}
	return nil
}

// touchMemory fills the memory that nobody uses, except what the run itself
// needs, with page cache, and lets the page cache use the rest once. On a
// virtual machine memory that the guest has not used for a while belongs to the
// host, and whoever touches it next pays many times what writing a page costs:
// more than all that is measured here. The fill is clean and goes where someone
// needs the memory.
func (b *bench) touchMemory() error {
	need := 8 * b.size
	f, err := os.Create(filepath.Join(b.dir, "fill"))
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := make([]byte, megabyte)
	if fill := freeMemory() - need; fill > 0 && b.fill {
		if err := f.Truncate(fill); err != nil { // a hole, which costs no disk
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, chunk); err != nil {
			return err
		}
	}
	t, err := os.Create(filepath.Join(b.dir, "touch"))
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	defer t.Close()
	for n := int64(0); n < need; n += megabyte {
		if _, err := t.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) stop() {
	for _, s := range []*subject{b.gregor, b.kafka, b.floor} {
		s.stop()
	}
}

// subjects are in the order in which they take turns.
func (b *bench) subjects() []*subject {
	if b.kafka == nil {
		return []*subject{b.gregor, b.floor}
	}
	return []*subject{b.gregor, b.kafka, b.floor}
}

// brokers are the subjects without the floor.
func (b *bench) brokers() []*subject {
	return slices.DeleteFunc(b.subjects(), func(s *subject) bool { return s.broker == nil })
}

func names(ss []*subject) []string {
	var out []string
	for _, s := range ss {
		out = append(out, s.name)
	}
	return out
}

// fewReps is how often something is repeated that takes long each time.
func (b *bench) fewReps() int { return min(b.reps, 3) }

func (b *bench) contenders(of func(*subject) contender) []contender {
	var cs []contender
	for _, s := range b.subjects() {
		cs = append(cs, of(s))
	}
	return cs
}

// describe says what was measured, where and how.
func (b *bench) describe(load0, stolen float64) string {
	lines := []string{
		fmt.Sprintf("Written by `bench` on %s, in %s.", b.began.UTC().Format("2006-01-02 15:04 UTC"), time.Since(b.began).Round(time.Second)),
		"",
		"- Machine: " + machine() + ".",
		fmt.Sprintf("- Load average %.1f at the start, %.1f at the end; %.2f%% of the CPU time was stolen. The benchmark itself is a load of 1 to 2: what is above that is other people's work, which disturbs times more than CPU time.", load0, loadAverage(), 100*stolen),
		"- gregor " + b.revision + ", static and stripped, " + b.configuration() + ", embedded etcd.",
	}
	if b.kafka != nil {
		lines = append(lines,
			fmt.Sprintf("- Apache Kafka %s, KRaft, default configuration, %s, JVM flags of its own start script (`%s`). Before a scenario is measured the JVM gets %d MiB of it to warm up (a quarter of that for what resembles the one before).",
				harness.KafkaVersion, javaVersion(), strings.Join(kafkaJVM, " "), b.warmup/megabyte))
	}
	if realTime() {
		lines = append(lines, "- All of it, brokers and client, ran as real-time threads that take turns (SCHED_RR): what else the machine did had to stand back.")
	} else if b.favoured {
		lines = append(lines, "- In scenario 7 the other brokers are stopped, and broker and client are real-time threads (SCHED_RR), so that other people's work does not delay them.")
	}
	return strings.Join(append(lines,
		fmt.Sprintf("- Both brokers: `%s`, replication factor 1 (3 in 15 and 16, acks=all), no fsync, data on the same file system.", strings.Join(common, " ")),
		fmt.Sprintf("- Broker on CPU %d, client on CPU %d. %d repetitions, taking turns; median (least–most). CPU is the broker process's own clock. System calls are counted in one more repetition, because counting costs.", brokerCPU, clientCPU, b.reps),
		fmt.Sprintf("- Produce and fetch: %d MiB of records a repetition. Client: requests encoded before, five in flight, idempotent, acks=all; fetched records are dropped in the kernel (MSG_TRUNC).", b.size/megabyte),
		"- Before all else free memory was filled with page cache: a virtual machine charges the first use of memory to whoever happens to touch it, at a multiple of what is measured here. Repetitions that still had to pay show as the greatest in their line.",
		"- Floor: the same bytes over the same loopback with nothing but CRC-32C and pwrite (produce), sendfile of gregor's own files in the same chunks (fetch), echo (latency), exec and listen of a static Go program (start).",
	), "\n") + "\n"
}

func (b *bench) configuration() string {
	if len(b.settings) == 0 {
		return "default configuration"
	}
	return "`" + strings.Join(b.settings, " ") + "`"
}

func revision() string {
	out, err := exec.Command("git", "-C", harness.Root(), "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "of unknown revision"
	}
	return strings.TrimSpace(string(out))
}

func javaVersion() string {
	out, err := exec.Command("java", "-version").CombinedOutput()
	if err != nil {
		return "Java"
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(first)
}

func get(url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}
