// Package brokertest runs a broker inside a Go test:
//
//	b := brokertest.Start(t)
//	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
//
// The broker listens on a free port of the loopback interface, keeps its logs in
// a temporary directory and its metadata in memory, is ready when Start
// returns, and is gone with everything it started when the test ends. Brokers
// share nothing, so tests with one each may run in parallel.
package brokertest

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/node"
)

// stopTimeout bounds the end of a broker; a test that leaves a request hanging
// should fail, not stall.
const stopTimeout = 10 * time.Second

// Broker is a running broker.
type Broker struct {
	tb   testing.TB
	node *node.Node
}

type options struct {
	lines []config.Line
	level zerolog.Level
}

// Option changes how Start configures a broker.
type Option func(*options)

// With sets a key of the broker's configuration; the last one for a key wins.
func With(key, value string) Option {
	return func(o *options) { o.lines = append(o.lines, config.Line{Key: key, Value: value}) }
}

// Verbose writes everything the broker logs to the test's output; without it
// only warnings and errors appear there.
func Verbose() Option {
	return func(o *options) { o.level = zerolog.DebugLevel }
}

// Start runs a broker until the test ends, or fails the test.
//
// What differs from a broker's defaults: PLAINTEXT on a free port of 127.0.0.1,
// logs in a temporary directory, metadata in memory, no HTTP listener, and
// group.initial.rebalance.delay.ms=0 and
// group.consumer.assignment.interval.ms=0, so that members of a group need not
// wait for others.
func Start(tb testing.TB, opts ...Option) *Broker {
	tb.Helper()
	store := newStore(tb)
	return start(tb, store, false, opts)
}

// StartCluster runs a cluster of n brokers until the test ends, or fails the
// test. Their ids are 1 to n; otherwise they differ from a broker's defaults as
// that of Start does, so that partitions have one replica unless a topic is
// created with more, or With("default.replication.factor", "3").
func StartCluster(tb testing.TB, n int, opts ...Option) []*Broker {
	tb.Helper()
	store := newStore(tb)
	brokers := make([]*Broker, n)
	for i := range brokers {
		brokers[i] = start(tb, store, true, append(opts[:len(opts):len(opts)], With("node.id", strconv.Itoa(i+1))))
	}
	return brokers
}

// newStore makes the metadata of a cluster, which goes after its brokers.
func newStore(tb testing.TB) *memstore.Store {
	store := memstore.New()
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Errorf("brokertest: closing the metadata: %v", err)
		}
	})
	return store
}

func start(tb testing.TB, store *memstore.Store, shared bool, opts []Option) *Broker {
	tb.Helper()
	o := options{level: zerolog.WarnLevel}
	for _, opt := range append([]Option{
		With("listeners", "PLAINTEXT://127.0.0.1:0"),
		With("log.dirs", tb.TempDir()),
		With("http.address", ""),
		With("metadata.store", "memory"),
		With("group.initial.rebalance.delay.ms", "0"),
	}, opts...) {
		opt(&o)
	}
	values, _, err := config.Build(config.Source{Name: "brokertest", Lines: o.lines})
	if err != nil {
		tb.Fatalf("brokertest: %v", err)
	}
	log := zerolog.New(zerolog.ConsoleWriter{Out: tb.Output(), NoColor: true, TimeFormat: "15:04:05.000"}).
		Level(o.level).With().Timestamp().Logger()
	n, err := node.Start(tb.Context(), node.Options{Config: values, Log: log, Store: store, Shared: shared, Version: "brokertest"})
	if err != nil {
		tb.Fatalf("brokertest: %v", err)
	}
	b := &Broker{tb: tb, node: n}
	tb.Cleanup(b.Stop)
	return b
}

// Addr is the host:port that clients connect to.
func (b *Broker) Addr() string { return b.node.Addr("") }

// ClusterID is the id of the broker's cluster.
func (b *Broker) ClusterID() string { return b.node.ClusterID() }

// Stop shuts the broker down in order, as a signal would. The end of the test
// does it for a broker that still runs.
func (b *Broker) Stop() {
	b.tb.Helper()
	// The test's own context has ended when its clean-up runs.
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := b.node.Close(ctx); err != nil {
		b.tb.Errorf("brokertest: stopping the broker: %v", err)
	}
}
