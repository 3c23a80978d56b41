package node

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/gregor-broker/gregor/metadata/etcdembed"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/storage/vfs"
)

func TestMain(m *testing.M) {
	if lines := os.Getenv(nodeInProcess); lines != "" {
		if err := runNodeInProcess(lines); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func startNode(t *testing.T, o Options, lines ...string) *Node {
	t.Helper()
	o.Config = values(t, append([]string{"listeners=PLAINTEXT://127.0.0.1:0", "http.address="}, lines...)...)
	o.Log = zerolog.New(zerolog.ConsoleWriter{Out: t.Output(), NoColor: true})
	n, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	return n
}

func stopNode(t *testing.T, n *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func produce(t *testing.T, addr, topic, value string) error {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0), kgo.RecordRetries(0), kgo.RequestRetries(1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr()
}

func consume(t *testing.T, addr, topic string, n int) []string {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out []string
	for len(out) < n {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		f.EachRecord(func(r *kgo.Record) { out = append(out, string(r.Value)) })
	}
	return out
}

func TestRestartOnEmbeddedEtcd(t *testing.T) {
	dir := t.TempDir()
	var cluster string
	for i, value := range []string{"a", "b", "c"} {
		n := startNode(t, Options{}, "log.dirs="+dir)
		if i > 0 && n.ClusterID() != cluster {
			t.Fatalf("cluster %s became %s", cluster, n.ClusterID())
		}
		cluster = n.ClusterID()
		if err := produce(t, n.Addr(""), "t", value); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(consume(t, n.Addr("PLAINTEXT"), "t", i+1), ""); got != "abc"[:i+1] {
			t.Fatalf("got %q", got)
		}
		stopNode(t, n)
	}
}

// externalEtcd starts an etcd server that listens, until the test and all that it
// starts afterwards have ended.
func externalEtcd(t *testing.T) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	endpoint = l.Addr().String()
	server, err := etcdembed.Open(t.Context(), etcdembed.Options{Dir: t.TempDir(), ClientListener: l, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return endpoint
}

// TestExternalEtcd runs brokers against an etcd server that listens: it keeps
// the topics, and new log directories join the cluster it knows.
func TestExternalEtcd(t *testing.T) {
	endpoint := externalEtcd(t)
	dir := t.TempDir()
	keys := []string{"metadata.etcd.endpoints=" + endpoint, "metadata.etcd.prefix=/test", "broker.session.timeout.ms=1000"}
	n := startNode(t, Options{}, append(keys, "log.dirs="+dir)...)
	cluster := n.ClusterID()
	if err := produce(t, n.Addr(""), "t", "v"); err != nil {
		t.Fatal(err)
	}
	stopNode(t, n)

	n = startNode(t, Options{}, append(keys, "log.dirs="+dir)...)
	if got := consume(t, n.Addr(""), "t", 1); got[0] != "v" {
		t.Fatalf("got %q", got)
	}
	stopNode(t, n)

	n = startNode(t, Options{}, append(keys, "log.dirs="+t.TempDir())...)
	if n.ClusterID() != cluster {
		t.Fatalf("new directories joined cluster %s, want %s", n.ClusterID(), cluster)
	}
	stopNode(t, n)

	_, err := Start(t.Context(), Options{
		Config:    values(t, append(keys, "listeners=PLAINTEXT://127.0.0.1:0", "http.address=", "log.dirs="+t.TempDir())...),
		ClusterID: clusterA, Log: zerolog.Nop(),
	})
	if err == nil || !strings.Contains(err.Error(), "belongs to cluster "+cluster) {
		t.Fatalf("got %v", err)
	}
}

func TestUnreachableEtcd(t *testing.T) {
	_, err := Start(t.Context(), Options{Log: zerolog.Nop(), Config: values(t, "metadata.etcd.endpoints=127.0.0.1:1", "metadata.etcd.dial.timeout.ms=200",
		"listeners=PLAINTEXT://127.0.0.1:0", "http.address=", "log.dirs="+t.TempDir())})
	if err == nil || !strings.Contains(err.Error(), "metadata: etcd") {
		t.Fatalf("got %v", err)
	}
}

// TestLastDirectoryFails ends the node, as nothing is left to serve.
func TestLastDirectoryFails(t *testing.T) {
	files := vfs.NewFaulty(vfs.OS{}, nil)
	n, err := Start(t.Context(), Options{
		FS: files, Store: memstore.New(), Log: zerolog.Nop(),
		Config: values(t, "listeners=PLAINTEXT://127.0.0.1:0", "http.address=", "log.dirs="+t.TempDir()),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(context.Background()); !errors.Is(err, syscall.EIO) {
			t.Errorf("close: got %v, want the error of the disk", err)
		}
	}()
	if err := produce(t, n.Addr(""), "t", "good"); err != nil {
		t.Fatal(err)
	}
	files.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpWrite && filepath.Ext(op.Name) == ".log" {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	if err := produce(t, n.Addr(""), "t", "bad"); err == nil {
		t.Error("a record was acknowledged that could not be written")
	}
	select {
	case <-n.Failed():
		if !errors.Is(n.Err(), syscall.EIO) {
			t.Errorf("failed with %v", n.Err())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the node did not fail")
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	startNode(t, Options{Store: memstore.New()}, "log.dirs="+dir)
	_, err := Start(t.Context(), Options{
		Store: memstore.New(), Log: zerolog.Nop(),
		Config: values(t, "listeners=PLAINTEXT://127.0.0.1:0", "http.address=", "log.dirs="+dir),
	})
	if !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("got %v", err)
	}
}

func TestStartFailsCleanly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	config := func(address string) Options {
		return Options{Log: zerolog.Nop(), Config: values(t, "listeners=PLAINTEXT://127.0.0.1:0", "http.address="+address, "log.dirs="+dir)}
	}
	if _, err := Start(t.Context(), config(l.Addr().String())); err == nil || !strings.Contains(err.Error(), "http.address") {
		t.Fatalf("got %v", err)
	}
	// Everything that the failed start held is free again.
	n, err := Start(t.Context(), config(""))
	if err != nil {
		t.Fatal(err)
	}
	stopNode(t, n)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, config("")); err == nil {
		t.Fatal("started although it was told not to")
	}
}

// TestCloseCutsOffWhatDoesNotEnd closes a node whose client never finishes its
// request: the logs must still be marked clean.
func TestCloseCutsOffWhatDoesNotEnd(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, Options{Store: memstore.New()}, "log.dirs="+dir)
	conn, err := net.Dial("tcp", n.Addr(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 100, 0, 18}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	stopNode(t, n)
	if _, err := os.Stat(filepath.Join(dir, ".kafka_cleanshutdown")); err != nil {
		t.Error(err)
	}
}
