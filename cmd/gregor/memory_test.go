package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCgroupLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		file, content string
		want          int64
	}{
		"version 2":           {"fs/cgroup/memory.max", "536870912\n", 536870912},
		"version 2, no limit": {"fs/cgroup/memory.max", "max\n", 0},
		"version 1":           {"fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n", 1073741824},
		"version 1, no limit": {"fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n", 0},
		"no control groups":   {"x", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, tc.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tc.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := cgroupLimit(dir); got != tc.want {
				t.Fatalf("got %d, want %d", got, tc.want)
			}
		})
	}
}
