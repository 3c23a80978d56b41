package etcdstore_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/gregor-broker/gregor/metadata/etcdstore"
)

// ofVersion is an etcd server that only says which version it is.
type ofVersion struct {
	pb.UnimplementedMaintenanceServer
	version string
}

func (s ofVersion) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{}, Version: s.version}, nil
}

// TestDialRefusesOldServers says which server is too old, and what is needed.
func TestDialRefusesOldServers(t *testing.T) {
	for version, ok := range map[string]bool{"3.4.36": false, "2.3.8": false, "unknown": false, "3.5.0": true, "3.7.3": true, "4.0.0": true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		pb.RegisterMaintenanceServer(server, ofVersion{version: version})
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		store, err := etcdstore.Dial(ctx, etcdstore.DialOptions{
			Options: etcdstore.Options{Log: zerolog.Nop()}, Endpoints: []string{l.Addr().String()},
		})
		cancel()
		if err == nil {
			err = store.Close()
		}
		switch {
		case ok && err != nil:
			t.Errorf("version %s: %v", version, err)
		case !ok && (err == nil || !strings.Contains(err.Error(), l.Addr().String()+" runs version "+version+", gregor needs 3.5 or later")):
			t.Errorf("version %s: %v", version, err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}
