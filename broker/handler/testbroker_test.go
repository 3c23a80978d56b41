package handler

import (
	"context"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// testBroker is a broker without sockets: its handlers, on metadata in memory
// and a log directory of its own.
type testBroker struct {
	*Broker
	store *memstore.Store
	// listener is where the requests come in.
	listener string
	changed  chan struct{} // gets a value, if there is room, when metadata changed
}

func newTestBroker(t testing.TB, overrides ...string) *testBroker {
	t.Helper()
	src := config.Source{Name: "test", Lines: []config.Line{{Key: "log.dirs", Value: t.TempDir()}}}
	for i := 0; i < len(overrides); i += 2 {
		src.Lines = append(src.Lines, config.Line{Key: overrides[i], Value: overrides[i+1]})
	}
	cfg, _, err := config.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := storage.Open(storage.Options{Dirs: cfg.LogDirs(), Log: zerolog.Nop(), NodeID: 1, ClusterID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	parts := replication.New(replication.Options{Logs: logs, NodeID: 1, Config: cfg, Now: time.Now, Log: zerolog.Nop()})
	store := memstore.New()
	ctrl, err := controller.New(controller.Options{
		Store: store, NodeID: 1, Exclusive: true, DefaultPartitions: cfg.Int32("num.partitions"), Rules: ConfigRules(cfg), Log: zerolog.Nop(),
		Features: finalized(), Served: served(),
		Endpoints: []metadata.Endpoint{
			{Listener: "PLAINTEXT", Host: "127.0.0.1", Port: 9092, Security: "PLAINTEXT"},
			{Listener: "INTERNAL", Host: "inside", Port: 9093, Security: "PLAINTEXT"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctrl.Subscribe(DynamicConfig(cfg, 1, zerolog.Nop()))
	ctrl.Subscribe(parts.Apply)
	changed := make(chan struct{}, 1)
	ctrl.Subscribe(func(*metadata.Delta, *metadata.Image) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := ctrl.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ctrl.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := logs.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	b, err := New(Broker{
		NodeID: 1, Cluster: ctrl, Partitions: parts, Logs: logs, Config: cfg, Now: time.Now, Log: zerolog.Nop(),
		LogLevel: new(testLevel),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Groups = newTestGroups(ctrl.Image)
	return &testBroker{Broker: b, store: store, listener: "PLAINTEXT", changed: changed}
}

// await waits until the cluster is as it should be.
func (b *testBroker) await(ctx context.Context, t testing.TB, is func(*metadata.Image) bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond) // an image is published after its subscribers were told
	defer tick.Stop()
	for !is(b.Cluster.Image()) {
		select {
		case <-ctx.Done():
			for _, br := range b.Cluster.Image().Brokers() {
				t.Logf("%+v", br)
			}
			t.Fatal(ctx.Err())
		case <-b.changed:
		case <-tick.C:
		}
	}
}

type testLevel struct{ level zerolog.Level }

func (l *testLevel) Level() zerolog.Level         { return l.level }
func (l *testLevel) SetLevel(level zerolog.Level) { l.level = level }

// play answers a request as a connection would, and returns the response as a
// client would read it.
func (b *testBroker) play(t testing.TB, req kmsg.Request) kmsg.Response {
	t.Helper()
	a := b.API(req.Key())
	if a == nil || !a.Serves(req.GetVersion()) {
		t.Fatalf("%s v%d is not served", kmsg.NameForKey(req.Key()), req.GetVersion())
	}
	r := NewRequest()
	r.Header.Key, r.Header.Version = req.Key(), req.GetVersion()
	r.Header.ClientID = "gregor-script"
	r.Conn = &ConnInfo{Listener: b.listener, Principal: "User:ANONYMOUS", RemoteHost: "127.0.0.1"}
	r.Ctx, r.Draining = context.Background(), context.Background()
	if err := a.Decode(r, req.AppendTo(nil)); err != nil {
		t.Fatalf("%s v%d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	resp, err := a.Handle(b.Broker, r)
	if err != nil {
		t.Fatalf("%s v%d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	read := req.ResponseKind()
	if err := read.ReadFrom(resp.AppendTo(nil)); err != nil {
		t.Fatal(err)
	}
	return read
}

// finalized and served are the features of a cluster of such brokers.
func finalized() map[string]int16 {
	out := map[string]int16{}
	for _, f := range DefaultFeatures() {
		out[f.Name] = f.Finalized
	}
	return out
}

func served() (out []metadata.FeatureRange) {
	for _, f := range DefaultFeatures() {
		out = append(out, metadata.FeatureRange{Name: f.Name, Min: f.Min, Max: f.Max})
	}
	return out
}
