package etcdembed

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Clients of ours look after their connections more often than gRPC allows by
// default.
const (
	pingsAllowed = time.Second
	serverPing   = 10 * time.Second
	pingTimeout  = 3 * time.Second
)

// headerTimeout bounds the wait for the head of a member's request.
const headerTimeout = 10 * time.Second

// served is what other nodes reach of a server. It owns a goroutine for each
// listener. Members' requests are answered from the start, at first with the
// word that the server is not ready: a member that starts asks the others, and
// must not wait for those that start at the same time.
type served struct {
	peers, clients net.Listener
	handler        atomic.Pointer[http.Handler]
	http           *http.Server
	grpc           *grpc.Server
	wg             sync.WaitGroup
}

func serve(peers, clients net.Listener) *served {
	s := &served{peers: peers, clients: clients}
	if peers == nil {
		return s
	}
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serveHTTP), ReadHeaderTimeout: headerTimeout,
		ErrorLog: zap.NewStdLog(zap.NewNop()), // what others send wrongly is theirs
	}
	s.wg.Go(func() {
		// It ends when it is closed.
		_ = s.http.Serve(peers)
	})
	return s
}

func (s *served) serveHTTP(w http.ResponseWriter, r *http.Request) {
	h := s.handler.Load()
	if h == nil {
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}

// attach serves what a started server has to say.
func (s *served) attach(server *embed.Etcd) {
	if s.peers != nil {
		h := etcdhttp.NewPeerHandler(server.GetLogger(), server.Server)
		s.handler.Store(&h)
	}
	if s.clients == nil {
		return
	}
	s.grpc = v3rpc.Server(server.Server, nil, nil,
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingsAllowed, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPing, Timeout: pingTimeout}))
	s.wg.Go(func() {
		if err := s.grpc.Serve(s.clients); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			server.GetLogger().Warn("serving clients ended: " + err.Error())
		}
	})
}

// closeClients ends the clients' connections.
func (s *served) closeClients() {
	switch {
	case s.grpc != nil:
		s.grpc.Stop()
	case s.clients != nil:
		_ = s.clients.Close()
	}
}

// close ends everything. A second call does nothing.
func (s *served) close() {
	s.closeClients()
	if s.http != nil {
		_ = s.http.Close() // the streams between members never fall idle
	}
	s.wg.Wait()
}
