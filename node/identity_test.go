package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

const (
	clusterA = "4L6g3nShT-eMCtK--X86sw"
	clusterB = "5L6g3nShT-eMCtK--X86sw"
)

func TestFormat(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "a", "b"), t.TempDir()
	v := values(t, "log.dirs="+one, "node.id=3")
	done, err := Format(vfs.OS{}, v, clusterA, false)
	if err != nil || len(done) != 1 || done[0].Already {
		t.Fatalf("got %+v, %v", done, err)
	}
	id, err := storage.ReadIdentity(vfs.OS{}, one)
	if err != nil || id != (storage.Identity{ClusterID: clusterA, NodeID: 3}) {
		t.Fatalf("got %+v, %v", id, err)
	}

	both := values(t, "log.dirs="+one+","+two, "node.id=3")
	refuse := func(want, cluster string, ignore bool, lines ...string) {
		t.Helper()
		_, err := Format(vfs.OS{}, values(t, append([]string{"log.dirs=" + two + "," + one}, lines...)...), cluster, ignore)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("got %v, want %q", err, want)
		}
		if _, err := os.Stat(filepath.Join(two, "meta.properties")); err == nil {
			t.Fatal("a directory was formatted all the same")
		}
	}
	refuse("already formatted", clusterA, false, "node.id=3")
	refuse("belongs to cluster "+clusterA, clusterB, true, "node.id=3")
	refuse("belongs to node 3", clusterA, true, "node.id=4")
	refuse("not 16 bytes", "short", true, "node.id=3")

	done, err = Format(vfs.OS{}, both, clusterA, true)
	if err != nil || len(done) != 2 || !done[0].Already || done[1].Already {
		t.Fatalf("got %+v, %v", done, err)
	}
}

func TestClusterIdentity(t *testing.T) {
	a, b, empty := t.TempDir(), t.TempDir(), t.TempDir()
	for dir, id := range map[string]string{a: clusterA, b: clusterB} {
		if err := storage.Format(vfs.OS{}, dir, storage.Identity{ClusterID: id, NodeID: 1}); err != nil {
			t.Fatal(err)
		}
	}
	file, nonsense := filepath.Join(t.TempDir(), "file"), t.TempDir()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.WriteFile(filepath.Join(nonsense, "meta.properties"), []byte("node.id=one\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		dirs, asked, want, err string
	}{
		"one cannot be read": {dirs: file + "," + a, want: clusterA},
		"none can be read":   {dirs: file, asked: clusterA, err: file},
		"one is nonsense":    {dirs: a + "," + nonsense, err: "not a number"},
		"found":              {dirs: a, want: clusterA},
		"found wins":         {dirs: a, asked: clusterB, want: clusterA},
		"second dir":         {dirs: empty + "," + a, want: clusterA},
		"asked":              {dirs: empty, asked: clusterB, want: clusterB},
		"nothing":            {dirs: empty, want: ""},
		"asked malformed":    {dirs: empty, asked: "x", err: "not 16 bytes"},
		"two clusters":       {dirs: a + "," + b, err: "belongs to cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := clusterIdentity(vfs.OS{}, strings.Split(tc.dirs, ","), tc.asked, zerolog.Nop())
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Fatalf("got %q, %v, want %q", got, err, tc.want)
			}
		})
	}
}
