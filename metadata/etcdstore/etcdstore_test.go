package etcdstore_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/etcdstore"
	"github.com/gregor-broker/gregor/metadata/storetest"
	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
)

// startServer starts etcd as an operator would run it, with its own settings
// and a port, and returns where it listens.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startServer(t *testing.T) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	local := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = local, local
	cfg.TickMs, cfg.ElectionMs = 10, 50 // only so that the test starts fast
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(etcdstore.ZapLogger(zerolog.Nop()))
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(20 * time.Second):
		t.Fatal("etcd does not get ready")
	}
	return server.Clients[0].Addr().String()
}

// proxy forwards connections, and can cut all of them.
type proxy struct {
	net.Listener
	to    string
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to, conns: map[net.Conn]struct{}{}}
	p.wg.Add(1)
	go p.run()
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) run() {
	defer p.wg.Done()
	for {
		client, err := p.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wg.Add(2)
		go p.copy(client, server)
		go p.copy(server, client)
	}
}

func (p *proxy) copy(dst, src net.Conn) {
	defer p.wg.Done()
	_, _ = io.Copy(dst, src)
	_, _ = dst.Close(), src.Close()
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		p := startProxy(t, startServer(t))
		log := zerolog.Nop()
		s, err := etcdstore.Dial(t.Context(), etcdstore.DialOptions{
			Options: etcdstore.Options{Log: log}, Endpoints: []string{p.Addr().String()},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return storetest.Subject{
			Store: s,
			Compact: func(t *testing.T, revision int64) {
				client, err := clientv3.New(clientv3.Config{Endpoints: []string{p.to}, Logger: etcdstore.ZapLogger(log)})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if _, err := client.Compact(t.Context(), revision, clientv3.WithCompactPhysical()); err != nil {
					t.Fatal(err)
				}
			},
			// etcd's leases follow the clock of the machine; the watch
			// that the contract waits on tells when they ran out.
			Pass: func(*testing.T, time.Duration) {},
			Cut:  func(*testing.T) { p.cut() },
		}
	})
}

func TestDialReportsAnUnreachableServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, err = etcdstore.Dial(t.Context(), etcdstore.DialOptions{
		Options: etcdstore.Options{Log: zerolog.Nop()}, Endpoints: []string{addr}, DialTimeout: 300 * time.Millisecond,
	})
	if err == nil {
		t.Error("no error")
	}
}

// TestPrefixesAreSeparate: two clusters in one etcd see nothing of each other.
// One prefix may begin like the other.
func TestPrefixesAreSeparate(t *testing.T) {
	addr := startServer(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stores []*etcdstore.Store
	for _, prefix := range []string{"/one", "/one2"} {
		s, err := etcdstore.Dial(ctx, etcdstore.DialOptions{
			Options: etcdstore.Options{Prefix: prefix, Log: zerolog.Nop()}, Endpoints: []string{addr},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		stores = append(stores, s)
	}
	w := stores[1].Watch(ctx, "", 1)
	defer w.Close()
	for i, s := range stores {
		txn := metadata.Txn{If: []metadata.Compare{{Key: "a"}}, Then: []metadata.Op{{Key: "a", Value: []byte{byte('1' + i)}}}}
		if r, err := s.Txn(ctx, txn); err != nil || !r.Succeeded {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	<-w.Ready()
	events, err := w.Take()
	if err != nil || len(events) != 1 || string(events[0].Value) != "2" {
		t.Errorf("%v, %v", events, err)
	}
	kvs, _, err := stores[0].Get(ctx, "")
	if err != nil || len(kvs) != 1 || kvs[0].Key != "a" || string(kvs[0].Value) != "1" {
		t.Errorf("%v, %v", kvs, err)
	}
}
