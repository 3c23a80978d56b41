package etcdstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestOnceSound: a change that the quorum refuses for its health is tried again
// until it is taken, fails otherwise, or nobody waits any more. Servers in this
// process hand the error of gRPC on, clients elsewhere that of etcd.
func TestOnceSound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []error{rpctypes.ErrGRPCUnhealthy, rpctypes.ErrUnhealthy, errors.Join(rpctypes.ErrUnhealthy), nil}
		refusals, began := 0, time.Now()
		err := OnceSound(t.Context(), time.Second, func(error) { refusals++ }, func() error {
			next := answers[0]
			answers = answers[1:]
			return next
		})
		if err != nil || refusals != 3 || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %d refusals and %v", err, refusals, time.Since(began))
		}
		other := errors.New("other")
		if err := OnceSound(t.Context(), time.Second, nil, func() error { return other }); !errors.Is(err, other) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = OnceSound(ctx, time.Second, nil, func() error { return rpctypes.ErrUnhealthy })
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, rpctypes.ErrUnhealthy) {
			t.Error(err)
		}
	})
}
