package main

import (
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// A short form of the run that CONTRIBUTING.md names.
func TestFewKills(t *testing.T) {
	o := options{rounds: 4, groups: len(kinds), members: 2, partitions: 3, every: 4, Loop: harness.Loop{Seed: uint64(time.Now().UnixNano()), Dir: t.TempDir()}}
	t.Logf("seed %d", o.Seed)
	summary, err := run(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(summary)
}
