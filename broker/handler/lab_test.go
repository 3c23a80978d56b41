package handler_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// lab is a whole broker below its sockets: node 1 of a cluster in memory.
type lab struct {
	*handler.Broker
	t          *testing.T
	controller *controller.Controller
	partitions *replication.Manager
	// frozen is what the clock of the partitions says; nil where it runs.
	frozen atomic.Pointer[time.Time]
	// clientID is who asks.
	clientID string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	return labOf(t, labStore(t), controller.Options{NodeID: 1, Exclusive: true}, func(apply controller.Subscriber) controller.Subscriber {
		return apply
	})
}

func labStore(t *testing.T) metadata.Store {
	t.Helper()
	store := memstore.New()
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// labOf is a node of the cluster whose metadata is in store. around is put around
// what applies metadata to the broker.
func labOf(t *testing.T, store metadata.Store, o controller.Options, around func(controller.Subscriber) controller.Subscriber) *lab {
	t.Helper()
	logs, err := storage.Open(storage.Options{FS: vfs.NewMem(), Dirs: []string{"/d"}, Log: zerolog.Nop(), Now: time.Now, ClusterID: "lab", NodeID: o.NodeID})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := logs.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	values := config.Defaults()
	l := &lab{t: t}
	l.partitions = replication.New(replication.Options{Logs: logs, NodeID: o.NodeID, Config: values, Now: l.now, Log: zerolog.Nop()})
	o.Store, o.Log = store, zerolog.Nop()
	if l.controller, err = controller.New(o); err != nil {
		t.Fatal(err)
	}
	l.controller.Subscribe(around(l.partitions.Apply))
	if err := l.controller.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.controller.Close(); err != nil {
			t.Error(err)
		}
	})
	if l.Broker, err = handler.New(handler.Broker{
		NodeID: o.NodeID, ClusterID: "lab", Cluster: l.controller, Partitions: l.partitions, Logs: logs, Config: values,
		Now: time.Now, Log: zerolog.Nop(),
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

// now is the clock of the partitions.
func (l *lab) now() time.Time {
	if at := l.frozen.Load(); at != nil {
		return *at
	}
	return time.Now()
}

// freeze stops the clock of the partitions at some time from now on.
func (l *lab) freeze(ahead time.Duration) {
	at := time.Now().Add(ahead)
	l.frozen.Store(&at)
}

// create makes a topic and waits for nothing: it is usable at once.
func (l *lab) create(name string, partitions int32, configs map[string]string) {
	l.t.Helper()
	n := metadata.NewTopic{Name: name, Partitions: partitions, ReplicationFactor: 1, Configs: map[string]*string{}}
	for k, v := range configs {
		n.Configs[k] = &v
	}
	for _, r := range l.controller.CreateTopics(l.t.Context(), []metadata.NewTopic{n}, false) {
		if r.Err != nil {
			l.t.Fatal(r.Err, r.Message)
		}
	}
}

func (l *lab) partition(topic string, n int32) *replication.Partition {
	l.t.Helper()
	p, err := l.partitions.Partition(topic, n)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// produce appends one batch with a record for each timestamp.
func (l *lab) produce(topic string, n int32, producer *protocol.Producer, timestamps ...int64) {
	l.t.Helper()
	records := make([]protocol.Record, len(timestamps))
	for i, ts := range timestamps {
		records[i] = protocol.Record{OffsetDelta: int32(i), TimestampDelta: ts - timestamps[0], Value: []byte("v")}
	}
	batch := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: timestamps[0], Producer: producer}, records)
	if _, err := l.partition(topic, n).Append(batch, replication.AppendOptions{Acks: -1, Version: 13}); err != nil {
		l.t.Fatal(err)
	}
}

// ask has a request answered as dispatch does, over the wire's bytes both ways.
func ask[R kmsg.Response](l *lab, req kmsg.Request, version int16) R {
	l.t.Helper()
	req.SetVersion(version)
	resp, err := l.answer(l.t.Context(), req)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp.(R)
}

func (l *lab) answer(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	api := l.API(req.Key())
	if api == nil || !api.Serves(req.GetVersion()) {
		return nil, fmt.Errorf("%s v%d is not served", kmsg.NameForKey(req.Key()), req.GetVersion())
	}
	r := handler.NewRequest()
	r.Header = protocol.Header{Key: req.Key(), Version: req.GetVersion(), ClientID: l.clientID}
	r.Conn, r.Ctx = &handler.ConnInfo{Listener: "PLAINTEXT"}, ctx
	if err := api.Decode(r, req.AppendTo(nil)); err != nil {
		return nil, err
	}
	resp, err := api.Handle(l.Broker, r)
	if err != nil {
		return nil, err
	}
	again := req.ResponseKind()
	return again, again.ReadFrom(resp.AppendTo(nil))
}
