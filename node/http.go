package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"time"
)

// adminServer is the HTTP side of a node: metrics, health, and on loopback
// profiles. One goroutine serves it; Close ends it.
type adminServer struct {
	listener net.Listener
	server   *http.Server
	done     chan struct{}
}

// check is one condition of readiness: nil when it holds.
type check struct {
	name string
	ok   func() error
}

// listenAdmin binds the address, so that a port in use is an error of the
// start, and serves metrics and checks on it.
func listenAdmin(ctx context.Context, address string, metrics http.Handler, checks []check) (*adminServer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("http.address: %w", err)
	}
	a := &adminServer{
		listener: l,
		server: &http.Server{
			Handler:           adminHandler(l.Addr(), metrics, checks),
			ReadHeaderTimeout: 5 * time.Second,
			MaxHeaderBytes:    16 << 10,
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(a.done)
		// Serve returns an error in every case; other than that of
		// Close it can only be the listener's, and then nobody is served.
		_ = a.server.Serve(l)
	}()
	return a, nil
}

// close answers what is in flight for a moment and then cuts it off: a profile
// being taken must not hold up the broker's end.
func (a *adminServer) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := a.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = a.server.Close()
	}
	<-a.done
	return err
}

func adminHandler(bound net.Addr, metrics http.Handler, checks []check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, checks) })
	if loopback(bound.String()) {
		mux.Handle("/debug/pprof/", loopbackOnly(http.HandlerFunc(pprof.Index)))
		mux.Handle("/debug/pprof/cmdline", loopbackOnly(http.HandlerFunc(pprof.Cmdline)))
		mux.Handle("/debug/pprof/profile", loopbackOnly(http.HandlerFunc(pprof.Profile)))
		mux.Handle("/debug/pprof/symbol", loopbackOnly(http.HandlerFunc(pprof.Symbol)))
		mux.Handle("/debug/pprof/trace", loopbackOnly(http.HandlerFunc(pprof.Trace)))
	}
	return mux
}

// ready answers 200 when every check holds and 503 otherwise; with ?verbose it
// tells of each, as Kubernetes and etcd do.
func ready(w http.ResponseWriter, r *http.Request, checks []check) {
	status, report := http.StatusOK, ""
	for _, c := range checks {
		if err := c.ok(); err != nil {
			status = http.StatusServiceUnavailable
			report += "[-]" + c.name + " failed: " + err.Error() + "\n"
			continue
		}
		report += "[+]" + c.name + " ok\n"
	}
	if _, verbose := r.URL.Query()["verbose"]; !verbose && status == http.StatusOK {
		report = "ok\n"
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, report)
}

// loopbackOnly serves peers on this machine. The address is bound to loopback
// already; this also keeps out a browser that another site sent here, whose
// request names a foreign host.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if !loopback(r.RemoteAddr) || (host != "localhost" && !loopback(net.JoinHostPort(host, "0"))) {
			http.Error(w, "profiles are for this machine only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func loopback(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().Unmap().IsLoopback()
}
