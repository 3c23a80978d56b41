package node

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAdminServer(t *testing.T) {
	var broken error
	a, err := listenAdmin(t.Context(), "127.0.0.1:0",
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "gregor_up 1\n") }),
		[]check{{"metadata", func() error { return nil }}, {"logs", func() error { return broken }}})
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + a.listener.Addr().String()
	client := &http.Client{}
	get := func(path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	expect := func(path string, status int, part string) {
		t.Helper()
		if s, body := get(path); s != status || !strings.Contains(body, part) {
			t.Errorf("%s: got %d %q, want %d with %q", path, s, body, status, part)
		}
	}
	expect("/livez", 200, "ok")
	expect("/readyz", 200, "ok")
	expect("/readyz?verbose", 200, "[+]logs ok")
	expect("/metrics", 200, "gregor_up 1")
	expect("/debug/pprof/cmdline", 200, "")
	expect("/nothing", 404, "")
	broken = errors.New("disk on fire")
	expect("/readyz", 503, "[-]logs failed: disk on fire")
	expect("/livez", 200, "ok")

	client.CloseIdleConnections()
	if err := a.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", a.listener.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}

func TestAdminAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listenAdmin(t.Context(), l.Addr().String(), http.NotFoundHandler(), nil); err == nil || !strings.Contains(err.Error(), "http.address") {
		t.Fatalf("got %v", err)
	}
}

func TestProfilesStayOnLoopback(t *testing.T) {
	for name, tc := range map[string]struct {
		bound, remote, host string
		want                int
	}{
		"loopback":             {"127.0.0.1:1", "127.0.0.1:5", "127.0.0.1:1", 200},
		"loopback by name":     {"127.0.0.1:1", "127.0.0.1:5", "localhost:1", 200},
		"ipv6":                 {"[::1]:1", "[::1]:5", "[::1]:1", 200},
		"bound to all":         {"0.0.0.0:1", "127.0.0.1:5", "127.0.0.1:1", 404},
		"foreign peer":         {"127.0.0.1:1", "10.0.0.1:5", "127.0.0.1:1", 403},
		"rebound foreign name": {"127.0.0.1:1", "127.0.0.1:5", "evil.example:1", 403},
	} {
		t.Run(name, func(t *testing.T) {
			bound, err := net.ResolveTCPAddr("tcp", tc.bound)
			if err != nil {
				t.Fatal(err)
			}
			req := httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", nil)
			req.RemoteAddr, req.Host = tc.remote, tc.host
			rec := httptest.NewRecorder()
			adminHandler(bound, http.NotFoundHandler(), nil).ServeHTTP(rec, req)
			if rec.Code != tc.want {
				t.Fatalf("got %d, want %d", rec.Code, tc.want)
			}
		})
	}
}
