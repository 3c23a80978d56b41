package etcdembed

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/metadata"
)

func TestTrimKeepsEverything(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "etcd"), Log: zerolog.Nop()}
	open := func() *Store {
		t.Helper()
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	closeStore := func(s *Store) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		t.Helper()
		info, err := os.Stat(filepath.Join(o.Dir, "member", "snap", "db"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if err := trimDatabase(o.Dir); err != nil {
		t.Fatalf("a new directory: %v", err)
	}
	s := open()
	if _, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{{Kind: metadata.OpPut, Key: "k", Value: []byte("v")}}}); err != nil {
		t.Fatal(err)
	}
	closeStore(s)
	before := size()
	if err := trimDatabase(o.Dir); err != nil {
		t.Fatal(err)
	}
	if after := size(); after >= before {
		t.Errorf("trimmed from %d to %d bytes", before, after)
	}
	for range 2 {
		s = open()
		kvs, _, err := s.Get(t.Context(), "k")
		if err != nil || len(kvs) != 1 || string(kvs[0].Value) != "v" {
			t.Fatalf("got %v, %v", kvs, err)
		}
		closeStore(s)
	}
}
