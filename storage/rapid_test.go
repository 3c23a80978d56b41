package storage

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestLogIsItsModel lets rapid choose the steps, so that it can shorten a failing run.
func TestLogIsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(rapid.Uint64().Draw(t, "seed"))
		fs := vfs.NewMem()
		if err := r.open(fs); err != nil {
			t.Fatal(err)
		}
		do := func(f func() error) func(*rapid.T) {
			return func(t *rapid.T) {
				// Each step draws its own randomness: shortening the run must not change the steps that stay.
				r.rng = rand.New(rand.NewPCG(rapid.Uint64Range(0, 1<<20).Draw(t, "rng"), 3))
				r.now = r.now.Add(time.Duration(r.rng.IntN(1000)) * time.Millisecond)
				if err := f(); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append":         do(r.append),
			"append more":    do(r.append),
			"replicate":      do(r.replicate),
			"flush":          do(func() error { return r.l.Flush() }),
			"delete records": do(r.deleteRecords),
			"truncate":       do(r.truncate),
			"tick": do(func() error {
				r.now = r.now.Add(10 * time.Minute)
				r.m.Tick(r.now)
				r.model.start = max(r.model.start, r.l.LogStartOffset())
				return r.l.Err()
			}),
			"restart": do(func() error {
				if err := r.m.Close(t.Context()); err != nil {
					return err
				}
				return r.open(fs)
			}),
			"kill": do(func() error {
				r.model.start = r.l.LogStartOffset()
				fs = fs.KillClone()
				if err := r.open(fs); err != nil {
					return err
				}
				// The log start may be older than it was, but not newer.
				if r.l.LogStartOffset() <= r.model.start {
					r.model.start = r.l.LogStartOffset()
				}
				return nil
			}),
			"": func(t *rapid.T) {
				if err := r.model.compare(r.l); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}
