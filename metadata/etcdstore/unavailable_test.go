package etcdstore

import (
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestUnavailable(t *testing.T) {
	for _, err := range []error{rpctypes.ErrLeaderChanged, rpctypes.ErrNoLeader, rpctypes.ErrTimeoutDueToLeaderFail, fmt.Errorf("get: %w", rpctypes.ErrTimeout)} {
		if !unavailable(err) {
			t.Errorf("%v would end a start", err)
		}
	}
	for _, err := range []error{rpctypes.ErrLeaseNotFound, rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed} {
		if unavailable(err) {
			t.Errorf("%v would be asked for ever", err)
		}
	}
}
