package compat

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

var (
	brokerFlag  = flag.String("broker", "gregor", "what to test: gregor, kafka or both")
	clientsFlag = flag.String("clients", "go", "go: franz-go only; all: every client and tool")
	gregorAddr  = flag.String("gregor-addr", "", "use the gregor that listens here instead of starting one")
	kafkaAddr   = flag.String("kafka-addr", "", "use the Apache Kafka that listens here instead of starting one")
	javaLines   = flag.String("java", strings.Join(harness.JavaLines, ","), "versions of the Java client; all: every line since 0.11")
	haveFlag    = flag.String("have", "group,consumer,txn,acl,reassign,quorum", "what gregor can do beyond topics and records, for the steps that need it: group,consumer,txn,share,quota,scram,acl,reassign,quorum")
	keep        = flag.Bool("keep", false, "keep the brokers' directories")
)

// world is what one run of the test binary shares: brokers and clients are
// started by the first test that needs them and ended by TestMain.
var world struct {
	mu      sync.Mutex
	dir     string
	brokers map[string]*harness.Broker
	clients map[string]harness.Client
	errs    map[string]error
	skipped map[string]bool
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gregor-compat-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	world.dir = dir
	world.brokers = map[string]*harness.Broker{}
	world.clients = map[string]harness.Client{}
	world.errs = map[string]error{}
	world.skipped = map[string]bool{}
	code := m.Run()
	for _, c := range world.clients {
		_ = c.Close()
	}
	for _, b := range world.brokers {
		if err := b.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if *keep {
		fmt.Fprintln(os.Stderr, "kept", dir)
	} else {
		_ = os.RemoveAll(dir)
	}
	var skipped []string
	for s := range world.skipped {
		skipped = append(skipped, s)
	}
	sort.Strings(skipped)
	for _, s := range skipped {
		fmt.Fprintln(os.Stderr, "SKIPPED", s)
	}
	return code
}

// skip skips aloud: the reason is printed once more when the run ends.
func skip(t *testing.T, what, reason string) {
	t.Helper()
	world.mu.Lock()
	world.skipped[what+": "+reason] = true
	world.mu.Unlock()
	t.Skip(what + ": " + reason)
}

// missing ends the test: in CI a client that is not there is a failure, unless nothing
// could have installed it; anywhere else it is skipped aloud.
func missing(t *testing.T, err error) {
	t.Helper()
	var m *harness.MissingError
	if errors.As(err, &m) && (m.Foreign || os.Getenv("CI") != "true") {
		skip(t, m.What, m.Reason)
	}
	t.Fatal(err)
}

// onAll runs f as a subtest against every broker that was asked for. Where both
// were, Apache Kafka comes first, so that a broken script shows as such.
func onAll(t *testing.T, f func(t *testing.T, b *harness.Broker)) {
	t.Helper()
	for _, name := range []string{"kafka", "gregor"} {
		if *brokerFlag != name && *brokerFlag != "both" {
			continue
		}
		t.Run(name, func(t *testing.T) { f(t, broker(t, name)) })
	}
}

// can tells whether a broker can do what a step needs. Apache Kafka can do all;
// gregor what -have names. An empty need is always met.
func can(b *harness.Broker, need string) bool {
	return need == "" || b.Name == "kafka" || slices.Contains(strings.Split(*haveFlag, ","), need)
}

// needAll skips a test that runs programs other than this one.
func needAll(t *testing.T) {
	t.Helper()
	if *clientsFlag != "all" {
		t.Skip("needs -clients all")
	}
}

func broker(t *testing.T, name string) *harness.Broker {
	t.Helper()
	world.mu.Lock()
	defer world.mu.Unlock()
	if b := world.brokers[name]; b != nil {
		return b
	}
	if err := world.errs[name]; err != nil {
		t.Fatal(err)
	}
	b, err := startBroker(name)
	if err != nil {
		if !harness.IsMissing(err) {
			world.errs[name] = err
		}
		world.mu.Unlock()
		defer world.mu.Lock()
		missing(t, err)
	}
	world.brokers[name] = b
	return b
}

func startBroker(name string) (*harness.Broker, error) {
	if addr := map[string]string{"gregor": *gregorAddr, "kafka": *kafkaAddr}[name]; addr != "" {
		return harness.Address(name, addr), nil
	}
	dir, err := os.MkdirTemp(world.dir, name+"-")
	if err != nil {
		return nil, err
	}
	if name == "kafka" {
		return harness.Kafka(dir)
	}
	bin, err := harness.BuildGregor(dir)
	if err != nil {
		return nil, err
	}
	return harness.Gregor(bin, dir)
}

// clientNames lists the clients of this run.
func clientNames(b *harness.Broker) []string {
	names := []string{"franz-go"}
	if *clientsFlag != "all" {
		return names
	}
	names = append(names, "librdkafka")
	lines := *javaLines
	if lines == "all" {
		lines = harness.AllJavaLines
	}
	for line := range strings.SplitSeq(lines, ",") {
		// Apache Kafka 4 refuses clients before 1.0 (KIP-896); gregor does not.
		if b.Name == "kafka" && !harness.AtLeast(line, 1, 0) {
			continue
		}
		names = append(names, "java-"+line)
	}
	return names
}

func newClient(name, addr string) (harness.Client, error) {
	switch {
	case name == "franz-go":
		return harness.NewFranz(addr)
	case name == "librdkafka":
		return harness.Python(addr)
	case name == "kafkajs" || name == "confluent-node":
		return harness.NodeTransactor(strings.TrimSuffix(name, "-node"), addr)
	default:
		return harness.Java(strings.TrimPrefix(name, "java-"), addr)
	}
}

func client(t *testing.T, b *harness.Broker, name string) harness.Client {
	t.Helper()
	world.mu.Lock()
	key := name + "@" + b.Addr
	c := world.clients[key]
	var err error
	if c == nil {
		if c, err = newClient(name, b.Addr); err == nil {
			world.clients[key] = c
		}
	}
	world.mu.Unlock()
	if err != nil {
		missing(t, err)
	}
	return c
}

// onEach runs f for every broker and every client.
func onEach(t *testing.T, f func(t *testing.T, b *harness.Broker, c harness.Client)) {
	t.Helper()
	onAll(t, func(t *testing.T, b *harness.Broker) {
		for _, name := range clientNames(b) {
			t.Run(name, func(t *testing.T) { f(t, b, client(t, b, name)) })
		}
	})
}

// needAdmin skips the first lines of the Java client, whose admin client could
// not grow topics or delete records yet.
func needAdmin(t *testing.T, c harness.Client) {
	t.Helper()
	if version, ok := strings.CutPrefix(c.Name(), "java-"); ok && !harness.AtLeast(version, 1, 1) {
		t.Skipf("%s has a smaller admin client", c.Name())
	}
}

// franz is franz-go, the client that checks what others did.
func franz(t *testing.T, b *harness.Broker) *harness.Franz {
	t.Helper()
	return client(t, b, "franz-go").(*harness.Franz)
}

// topicName is a topic name that no other test and no other run uses.
func topicName(t *testing.T) string {
	name := strings.NewReplacer("/", "-", "#", "-", " ", "-").Replace(t.Name())
	if len(name) > 100 {
		name = name[len(name)-100:]
	}
	return fmt.Sprintf("%s-%08x", name, rand.Uint32())
}

// createTopic creates a topic, deleted when the test ends.
func createTopic(t *testing.T, b *harness.Broker, partitions int, conf ...string) string {
	t.Helper()
	topic := topicName(t)
	f := franz(t, b)
	if _, err := f.Do("create", topic, fmt.Sprint(partitions), "1", harness.Conf(conf...)); err != nil {
		t.Fatalf("create %s: %v", topic, err)
	}
	t.Cleanup(func() { _, _ = f.Do("delete", topic) })
	settle(t, b, topic, partitions)
	return topic
}

// settle waits until every partition of a topic answers.
func settle(t *testing.T, b *harness.Broker, topic string, partitions int) {
	t.Helper()
	seen(t, b, func() bool {
		offsets, err := franz(t, b).Admin().ListEndOffsets(context.Background(), topic)
		return err == nil && offsets.Error() == nil && len(offsets[topic]) == partitions
	})
}

// seen waits until the broker shows a change of metadata. Apache Kafka
// acknowledges such a change when the controller has it, before the broker has;
// gregor promises more, so nobody waits for it.
func seen(t *testing.T, b *harness.Broker, is func() bool) {
	t.Helper()
	if b.Name != "kafka" {
		return
	}
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the change does not show within a minute")
		}
	}
}
