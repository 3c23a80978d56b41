package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testBroker is a whole broker on one listener, without the process around it.
type testBroker struct {
	t          testing.TB
	s          *Server
	h          *handler.Broker
	controller *controller.Controller
	partitions *replication.Manager
	logs       *storage.Manager
	addr       string
	mem        *memListener
	store      *memstore.Store
}

// startBroker starts a broker that the end of the test stops. opts may change
// the server's options, settings are lines of configuration.
func startBroker(t testing.TB, opts func(*Options), settings ...config.Line) *testBroker {
	t.Helper()
	dir := t.TempDir()
	lines := append([]config.Line{{Key: "node.id", Value: "1"}, {Key: "log.dirs", Value: dir}}, settings...)
	cfg, _, err := config.Build(config.Source{Name: "test", Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	log := zerolog.Nop()
	if testing.Verbose() {
		log = zerolog.New(zerolog.NewTestWriter(t))
	}
	b := &testBroker{t: t}
	if b.logs, err = storage.Open(storage.Options{Dirs: cfg.LogDirs(), NodeID: 1, Log: log}); err != nil {
		t.Fatal(err)
	}
	b.partitions = replication.New(replication.Options{Logs: b.logs, NodeID: 1, Config: cfg, Now: time.Now, Log: log})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	port := int32(l.Addr().(*net.TCPAddr).Port)
	store := memstore.New()
	b.store = store
	b.controller, err = controller.New(controller.Options{
		Store: store, NodeID: 1, Exclusive: true, Log: log,
		Features:  map[string]int16{"metadata.version": 30},
		Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "127.0.0.1", Port: port, Security: "PLAINTEXT"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.controller.Subscribe(b.partitions.Apply)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.controller.Start(ctx); err != nil {
		t.Fatal(err)
	}
	b.h, err = handler.New(handler.Broker{
		NodeID: 1, ClusterID: b.controller.Image().ClusterID, Cluster: b.controller, Partitions: b.partitions,
		Logs: b.logs, Config: cfg, Now: time.Now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Handler: b.h, Log: log}
	if opts != nil {
		opts(&o)
	}
	if b.s, err = New(o); err != nil {
		t.Fatal(err)
	}
	b.mem = newMemListener()
	var serving sync.WaitGroup
	for _, l := range []net.Listener{l, b.mem} {
		serving.Go(func() {
			if err := b.s.Serve(l, "PLAINTEXT"); !errors.Is(err, ErrClosed) {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.s.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
		if used := b.s.mem.inUse(); used != 0 {
			t.Errorf("%d bytes of buffers were not given back", used)
		}
		if err := errors.Join(b.controller.Close(), store.Close(), b.logs.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	return b
}

// createTopic makes a topic and returns its id.
func (b *testBroker) createTopic(name string, partitions int32, configs map[string]*string) metadata.ID {
	b.t.Helper()
	return b.create(metadata.NewTopic{Name: name, Partitions: partitions, ReplicationFactor: 1, Configs: configs})
}

// createTopicOn makes a topic of one partition on certain brokers.
func (b *testBroker) createTopicOn(name string, replicas ...int32) metadata.ID {
	b.t.Helper()
	return b.create(metadata.NewTopic{
		Name: name, Partitions: -1, ReplicationFactor: -1,
		Assignment: []metadata.PartitionAssignment{{Partition: 0, Replicas: replicas}},
	})
}

func (b *testBroker) create(topic metadata.NewTopic) metadata.ID {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), answerTime)
	defer cancel()
	topic.ID = newTestID()
	res := b.controller.CreateTopics(ctx, []metadata.NewTopic{topic}, false)
	if res[0].Err != nil {
		b.t.Fatalf("creating %s: %v", topic.Name, res[0].Err)
	}
	return res[0].ID
}

// register adds a broker to the cluster that exists in the metadata only, until
// the end of the test.
func (b *testBroker) register(id int32) {
	b.t.Helper()
	other, err := controller.New(controller.Options{
		Store: b.store, NodeID: id, Rack: "there", Exclusive: true, Log: zerolog.Nop(),
		Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "other", Port: 9092, Security: "PLAINTEXT"}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), answerTime)
	defer cancel()
	if err := other.Start(ctx); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := other.Close(); err != nil {
			b.t.Error(err)
		}
	})
	await(b.t, func() bool {
		is := b.controller.Image().Broker(id)
		return is != nil && is.Active()
	})
}

// memListener is a listener for connections in memory.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memListener) Addr() net.Addr { return memAddr{} }

type memAddr struct{}

func (memAddr) Network() string { return "mem" }
func (memAddr) String() string  { return "mem" }

func (l *memListener) dial(t testing.TB) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	select {
	case l.conns <- server:
	case <-l.done:
		t.Fatal("listener is closed")
	}
	return client
}

// client is a connection that speaks frames.
type client struct {
	t testing.TB
	net.Conn
	correlation int32
}

func (b *testBroker) dial() *client {
	b.t.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	return newClient(b.t, c)
}

func newClient(t testing.TB, c net.Conn) *client {
	t.Cleanup(func() { _ = c.Close() })
	return &client{t: t, Conn: c}
}

// frame is a request of a kmsg request.
func (c *client) frame(req kmsg.Request) []byte {
	c.correlation++
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))
	return f.AppendRequest(nil, req, c.correlation)
}

func (c *client) send(p []byte) {
	c.t.Helper()
	if _, err := c.Write(p); err != nil {
		c.t.Fatal(err)
	}
}

const answerTime = 10 * time.Second

// receive reads one response frame without its size.
func (c *client) receive() ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c, p)
	return p, err
}

// answer reads the response to req and checks its correlation id.
func (c *client) answer(req kmsg.Request, correlation int32) kmsg.Response {
	c.t.Helper()
	p, err := c.receive()
	if err != nil {
		c.t.Fatalf("reading a response: %v", err)
	}
	if got := int32(binary.BigEndian.Uint32(p)); got != correlation {
		c.t.Fatalf("response to %d came for %d", got, correlation)
	}
	resp := req.ResponseKind()
	p = p[4:]
	if resp.IsFlexible() && req.Key() != 18 {
		p = p[1:]
	}
	if err := resp.ReadFrom(p); err != nil {
		c.t.Fatalf("response to %T: %v", req, err)
	}
	return resp
}

// ask sends a request and returns its response.
func (c *client) ask(req kmsg.Request) kmsg.Response {
	c.t.Helper()
	c.send(c.frame(req))
	return c.answer(req, c.correlation)
}

func apiVersionsRequest(version int16) *kmsg.ApiVersionsRequest {
	r := kmsg.NewPtrApiVersionsRequest()
	r.Version = version
	r.ClientSoftwareName, r.ClientSoftwareVersion = "test", "1.0"
	return r
}

// expectClosed reads until the broker has closed the connection, and fails if
// it answers.
func (c *client) expectClosed() {
	c.t.Helper()
	p, err := c.receive()
	var ne net.Error
	switch {
	case err == nil:
		c.t.Fatalf("answered with % x", p)
	case errors.As(err, &ne) && ne.Timeout():
		c.t.Fatal("the connection is still open")
	}
}

func newTestID() metadata.ID {
	var n byte
	return metadata.NewID(func(p []byte) {
		for i := range p {
			n++
			p[i] = n ^ byte(time.Now().UnixNano())
		}
	})
}

// deleteTopic deletes a topic by name.
func (b *testBroker) deleteTopic(name string) {
	b.t.Helper()
	if res := b.controller.DeleteTopics(context.Background(), []metadata.TopicRef{{Name: name}}); res[0].Err != nil {
		b.t.Fatalf("deleting %s: %v", name, res[0].Err)
	}
}
