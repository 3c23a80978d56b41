package etcdembed

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/storetest"
	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, dir string) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	s, err := Open(ctx, Options{Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		dir := t.TempDir() + "/" + DirName
		s := open(t, dir)
		return storetest.Subject{
			Store: s,
			Compact: func(t *testing.T, revision int64) {
				client := v3client.New(s.server.Server)
				defer client.Close()
				if _, err := client.Compact(t.Context(), revision, clientv3.WithCompactPhysical()); err != nil {
					t.Fatal(err)
				}
			},
			// etcd's leases follow the clock of the machine; the watch
			// that the contract waits on tells when they ran out.
			Pass: func(*testing.T, time.Duration) {},
			Reopen: func(t *testing.T) metadata.Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				return open(t, dir)
			},
		}
	})
}

func TestOpenReportsABadDirectory(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Dir: file, Log: zerolog.Nop()}); err == nil {
		t.Error("no error")
	}
}
