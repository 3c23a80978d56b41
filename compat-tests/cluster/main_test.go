package cluster

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

var (
	brokerFlag  = flag.String("broker", "gregor", "what to test: gregor, kafka or both")
	clientsFlag = flag.String("clients", "go", "go: franz-go only; all: Java and librdkafka too")
	longFlag    = flag.Bool("long", false, "the scenarios that take longer, too")
	keepFlag    = flag.Bool("keep", false, "keep the brokers' directories")
)

// world is what one run of the test binary shares.
var world struct {
	dir    string
	gregor func() (string, error) // its binary, built once
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gregor-cluster-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	world.dir = dir
	world.gregor = sync.OnceValues(func() (string, error) { return harness.BuildGregor(dir) })
	code := m.Run()
	if *keepFlag {
		fmt.Fprintln(os.Stderr, "kept", dir)
	} else if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// missing ends the test: in CI what is not there is a failure, anywhere else it
// is skipped aloud.
func missing(t *testing.T, err error) {
	t.Helper()
	var m *harness.MissingError
	if errors.As(err, &m) && os.Getenv("CI") != "true" {
		t.Skip(m.What + ": " + m.Reason)
	}
	t.Fatal(err)
}

// long skips what takes too long for every day.
func long(t *testing.T) {
	t.Helper()
	if !*longFlag {
		t.Skip("needs -long")
	}
}

// onEach runs f as a subtest for each kind of broker that was asked for. Apache
// Kafka comes first, so that a broken script shows as such.
func onEach(t *testing.T, f func(t *testing.T, name string)) {
	t.Helper()
	for _, name := range []string{"kafka", "gregor"} {
		if *brokerFlag == name || *brokerFlag == "both" {
			t.Run(name, func(t *testing.T) { f(t, name) })
		}
	}
}

// withEach runs f as a subtest with each client that was asked for.
func withEach(t *testing.T, f func(t *testing.T, client string)) {
	t.Helper()
	clients := []string{"franz-go"}
	if *clientsFlag == "all" {
		clients = append(clients, "java", "librdkafka")
	}
	for _, client := range clients {
		t.Run(client, func(t *testing.T) { f(t, client) })
	}
}

// here are n nodes on this machine that are brokers and controllers.
func here(n int) harness.Layout { return harness.Layout{Brokers: harness.Here(n)} }

// apart are n brokers, and a controller in a process of its own, so that brokers
// may go as they please.
func apart(n int) harness.Layout {
	return harness.Layout{Brokers: harness.Here(n), Controllers: harness.Here(1)}
}

// home is a directory of one test.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(world.dir, filepath.Base(t.Name())+"-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
