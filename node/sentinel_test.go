package node

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
)

// TestDyingProcess: a process whose connection ended while its port was still open
// for a moment is as dead as any other, and nobody waits for it as for one that
// was never reached.
func TestDyingProcess(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := controller.New(controller.Options{Store: memstore.New(), NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var slept []time.Duration
	s := &sentinel{
		controller: c, id: 1, log: zerolog.Nop(), declared: map[metadata.ID]bool{},
		sleep: func(_ context.Context, d time.Duration) error {
			slept = append(slept, d)
			return nil
		},
		gone: func(context.Context, int32) { cancel() },
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch(ctx, process{id: 2, incarnation: metadata.ID{1}, address: l.Addr().String()})
	}()
	for range 2 { // the connection that is held, and the look whether the port is open
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	<-watched
	if !s.isDeclared(metadata.ID{1}) {
		t.Error("not declared dead")
	}
	for _, d := range slept {
		if d == unreachedPause {
			t.Errorf("slept %v", slept)
			break
		}
	}
}
