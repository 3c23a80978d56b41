// Command suites runs other projects' own tests against a broker: those that
// were written by the people who wrote the clients, against Apache Kafka, and
// know nothing of gregor.
//
//	suites                          all suites, each against a gregor of its own
//	suites franz-go librdkafka      these
//	suites -have group,txn          the tests that need no more than groups and transactions
//	suites -addr HOST:PORT ...      a broker that runs already
//	suites -kafka ...               Apache Kafka, to prove the lists
//
// What each suite runs stands in a list beside this file: a test, what it needs
// of the broker, and a remark. A test whose needs are not all in -have is left
// out and counted as such; "never" leaves it out always, with the reason in the
// remark. Sources and builds are kept in $COMPAT_CACHE.
package main

import (
	"bufio"
	"cmp"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

//go:embed *.list
var lists embed.FS

// result is what became of one test.
type result struct {
	name   string
	state  state
	detail string
	// note is said of one that passed, too.
	note string
}

type state int

const (
	passed state = iota
	failed
	skipped
)

// suite is one project's tests.
type suite struct {
	name string
	list string // of tests, where it is another's
	// gives is what the suite has of itself, beside the broker.
	gives []string
	// properties the broker needs beyond the defaults
	properties []string
	// waits: it waits most of its time, so that it may run beside others that do.
	waits bool
	// run runs the given tests against a broker and reports each.
	run func(e env, tests []entry) error
}

// env is what a suite needs to know.
type env struct {
	addr string
	dir  string // scratch, removed afterwards
	jobs int
	// report takes a test's result as soon as it is known.
	report func(result)
}

// entry is one line of a list.
type entry struct {
	name, remark string
	needs        []string
}

var suites = []suite{
	{name: "franz-go", run: franzGo},
	{name: "kafka-junit", run: kafkaJUnit, properties: []string{
		"group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=0", "offsets.topic.num.partitions=1",
	}},
	// Their tests write to several partitions of topics that they do not create.
	{name: "librdkafka", run: librdkafka("classic"), gives: []string{"classic"}, properties: []string{"num.partitions=4"}, waits: true},
	// The same tests with groups of KIP-848.
	{name: "librdkafka-consumer", list: "librdkafka", run: librdkafka("consumer"), gives: []string{"kip848"}, properties: []string{"num.partitions=4"}, waits: true},
}

func main() {
	addr := flag.String("addr", "", "a broker that runs already")
	kafka := flag.Bool("kafka", false, "start Apache Kafka instead of gregor")
	have := flag.String("have", "group,consumer,txn,acl", "what the broker can do, of: "+strings.Join(allNeeds(), " "))
	only := flag.String("run", "", "only tests whose name matches this regular expression")
	jobs := flag.Int("jobs", 3, "test processes at a time, where a suite allows it")
	verbose := flag.Bool("v", false, "name passed and left-out tests too")
	flag.Parse()
	for _, name := range flag.Args() {
		// A flag behind a name would be one too, and what it asks for be left out without a word.
		if !slices.ContainsFunc(suites, func(s suite) bool { return s.name == name }) {
			fmt.Printf("%q is no suite; flags go before the names\n", name)
			os.Exit(2)
		}
	}
	var failed atomic.Bool
	run := func(s suite) {
		err := runSuite(s, *addr, *kafka, strings.Split(*have, ","), *only, *jobs, *verbose)
		switch {
		case err == nil:
		case harness.IsMissing(err) && os.Getenv("CI") != "true":
			fmt.Printf("%s: SKIPPED, %v\n", s.name, err)
		default:
			fmt.Printf("%s: FAILED: %v\n", s.name, err)
			failed.Store(true)
		}
	}
	var beside sync.WaitGroup
	for _, s := range suites {
		switch {
		case flag.NArg() > 0 && !slices.Contains(flag.Args(), s.name):
		case s.waits && *addr == "":
			beside.Go(func() { run(s) })
		default:
			run(s)
		}
	}
	beside.Wait()
	if failed.Load() {
		os.Exit(1)
	}
}

var errTests = errors.New("tests failed")

func runSuite(s suite, addr string, kafka bool, have []string, only string, jobs int, verbose bool) error {
	entries, err := readList(cmp.Or(s.list, s.name))
	if err != nil {
		return err
	}
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	var tests []entry
	left := map[string]int{}
	for _, e := range entries {
		if !pattern.MatchString(e.name) {
			continue
		}
		if why := missingNeed(e, append(s.gives, have...)); why != "" {
			left[why]++
			if verbose {
				fmt.Printf("%s: left out %s: needs %s: %s\n", s.name, e.name, why, e.remark)
			}
			continue
		}
		tests = append(tests, e)
	}
	dir, err := os.MkdirTemp("", "gregor-suite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if addr == "" {
		b, err := startBroker(dir, kafka, s.properties)
		if err != nil {
			return err
		}
		defer func() { _ = b.Stop() }()
		addr = b.Addr
	}
	start := time.Now()
	var mu sync.Mutex
	count := map[state]int{}
	report := func(r result) {
		mu.Lock()
		defer mu.Unlock()
		count[r.state]++
		switch {
		case r.state == failed:
			fmt.Printf("%s: FAIL %s\n", s.name, r.name)
			for line := range strings.SplitSeq(strings.TrimRight(r.detail, "\n"), "\n") {
				fmt.Printf("    | %.300s\n", line)
			}
		case r.state == passed && r.note != "":
			fmt.Printf("%s: ok   %s, but %s\n", s.name, r.name, r.note)
		case verbose && r.state == passed:
			fmt.Printf("%s: ok   %s\n", s.name, r.name)
		case verbose:
			fmt.Printf("%s: skip %s: %s\n", s.name, r.name, r.detail)
		}
	}
	if err := s.run(env{addr: addr, dir: dir, jobs: jobs, report: report}, tests); err != nil {
		return err
	}
	var out []string
	for need, n := range left {
		out = append(out, fmt.Sprintf("%d need %s", n, need))
	}
	slices.Sort(out)
	fmt.Printf("%s: %d passed, %d failed, %d skipped in %s; left out: %s\n", s.name, count[passed], count[failed], count[skipped],
		time.Since(start).Round(time.Second), strings.Join(out, ", "))
	switch {
	case count[failed] > 0:
		return errTests
	case count[passed] == 0:
		return errors.New("no test passed")
	}
	return nil
}

func startBroker(dir string, kafka bool, properties []string) (*harness.Broker, error) {
	if kafka {
		return harness.Kafka(dir, properties...)
	}
	bin, err := harness.BuildGregor(dir)
	if err != nil {
		return nil, err
	}
	return harness.Gregor(bin, dir, properties...)
}

// readList reads "test<TAB>needs<TAB>remark" lines; needs are joined by commas,
// "-" for none.
func readList(name string) ([]entry, error) {
	f, err := lists.Open(name + ".list")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []entry
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := append(strings.SplitN(line, "\t", 3), "", "")
		e := entry{name: parts[0], remark: parts[2]}
		if parts[1] != "-" && parts[1] != "" {
			e.needs = strings.Split(parts[1], ",")
		}
		out = append(out, e)
	}
	return out, nil
}

func missingNeed(e entry, have []string) string {
	for _, n := range e.needs {
		if n == "never" || !slices.Contains(have, n) {
			return n
		}
	}
	return ""
}

func allNeeds() []string {
	var out []string
	for _, s := range suites0 {
		entries, err := readList(s)
		if err != nil {
			continue
		}
		for _, e := range entries {
			for _, n := range e.needs {
				if n != "never" && !slices.Contains(out, n) {
					out = append(out, n)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

var suites0 = []string{"franz-go", "librdkafka", "kafka-junit"}
