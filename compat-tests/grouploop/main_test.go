package main

import (
	"testing"
	"time"
)

// A short form of the run that CONTRIBUTING.md names.
func TestFewKills(t *testing.T) {
	o := options{rounds: 4, groups: len(kinds), members: 2, partitions: 3, every: 4, seed: uint64(time.Now().UnixNano()), dir: t.TempDir()}
	t.Logf("seed %d", o.seed)
	summary, err := run(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(summary)
}
