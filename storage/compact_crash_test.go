package storage

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestCompactionPowerCuts cuts the power at a random file operation of a clean, then perhaps of the recovery, several times
// in a row. Everything was flushed, so that the log must be there with all that a clean may not remove.
func TestCompactionPowerCuts(t *testing.T) {
	cuts := 0
	for seed := *crashSeed; seed < *crashSeed+uint64(*crashRuns); seed++ {
		n, err := runCompactionCrashes(seed)
		if err != nil {
			t.Fatalf("-crash.seed %d -crash.runs 1: %v", seed, err)
		}
		cuts += n
	}
	t.Logf("%d power cuts", cuts)
	if cuts < 2**crashRuns {
		t.Errorf("only %d power cuts", cuts)
	}
}

// picture takes a crash clone of mem before the nth operation of faulty from now on.
func picture(mem *vfs.Mem, faulty *vfs.Faulty, n int, seed uint64) (taken func() *vfs.Mem) {
	var clone *vfs.Mem
	faulty.SetRule(func(vfs.Op) *vfs.Fault {
		if n == 0 {
			clone = mem.CrashClone(seed)
		}
		n--
		return nil
	})
	return func() *vfs.Mem {
		faulty.SetRule(nil)
		return clone
	}
}

func runCompactionCrashes(seed uint64) (cuts int, err error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := newCompactRig(rng.IntN)
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(mem, nil)
	if err := r.openOn(faulty); err != nil {
		return 0, err
	}
	for life := range 5 {
		where := func(err error) error { return fmt.Errorf("life %d: %w", life, err) }
		for range 10 + rng.IntN(40) {
			if err := r.append(); err != nil {
				return 0, where(err)
			}
			if rng.IntN(10) == 0 {
				r.m.AwaitIdle()
			}
		}
		r.m.AwaitIdle()
		if err := r.l.Flush(); err != nil {
			return 0, where(err)
		}
		r.now = r.now.Add(time.Duration(rng.IntN(8)) * time.Second)
		r.l.SetHighWatermark(r.end)
		taken := picture(mem, faulty, rng.IntN(150), rng.Uint64())
		r.m.Clean(r.now)
		if err := r.check(); err != nil {
			return 0, where(fmt.Errorf("before the cut: %w", err))
		}
		clone := taken()
		if clone == nil {
			clone = mem.CrashClone(rng.Uint64())
		}
		for rng.IntN(3) == 0 { // and again while it recovers
			cuts++
			f := vfs.NewFaulty(clone, nil)
			taken := picture(clone, f, rng.IntN(60), rng.Uint64())
			if err := r.openOn(f); err != nil {
				return 0, where(fmt.Errorf("recovery: %w", err))
			}
			if again := taken(); again != nil {
				clone = again
			} else {
				r.m.unlock()
			}
		}
		cuts++
		mem = clone
		faulty = vfs.NewFaulty(mem, nil)
		if err := r.openOn(faulty); err != nil {
			return 0, where(err)
		}
		r.l.SetHighWatermark(r.end)
		if err := r.check(); err != nil {
			return 0, where(err)
		}
		if err := r.checkProducers(); err != nil {
			return 0, where(err)
		}
	}
	return cuts, nil
}

// TestCompactionFaults makes every file operation of a clean fail, one after the other: what the log holds is as it was or
// as it should be, the rest of the broker goes on, and the next start finds a good log.
func TestCompactionFaults(t *testing.T) {
	faults := map[string]vfs.Fault{
		"EIO": {Err: syscall.EIO}, "ENOSPC": {Err: syscall.ENOSPC}, "short": {Short: 7},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			failed, offline := 0, 0
			for n := 0; ; n += fewer {
				fired, off, err := cleanWithFault(3, n, fault)
				if err != nil {
					t.Fatalf("operation %d: %v", n, err)
				}
				if !fired {
					break
				}
				failed++
				if off {
					offline++
				}
			}
			t.Logf("%d operations failed, %d took the directory offline", failed, offline)
			if failed < 10/fewer {
				t.Errorf("only %d operations failed", failed)
			}
		})
	}
}

func cleanWithFault(seed uint64, n int, fault vfs.Fault) (fired, offline bool, err error) {
	r := newCompactRig(rand.New(rand.NewPCG(seed, 2)).IntN)
	r.cfg.MinCleanableRatio, r.cfg.MinCompactionLagMs = 0, 0
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(mem, nil)
	if err := r.openOn(faulty); err != nil {
		return false, false, err
	}
	for range 60 {
		if err := r.append(); err != nil {
			return false, false, err
		}
	}
	r.m.AwaitIdle()
	if err := r.l.Flush(); err != nil {
		return false, false, err
	}
	r.l.SetHighWatermark(r.end)
	left := n
	faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		if fault.Short > 0 && op.Kind != vfs.OpWrite {
			return nil
		}
		left--
		if left == -1 {
			fired = true
			return &fault
		}
		return nil
	})
	r.m.Clean(r.now)
	faulty.SetRule(nil)
	offline = r.l.Err() != nil
	if !offline {
		if err := r.check(); err != nil {
			return fired, offline, fmt.Errorf("afterwards: %w", err)
		}
		r.now = r.now.Add(retryNoSpace) // and then it works
		r.m.Clean(r.now)
		if err := r.check(); err != nil {
			return fired, offline, fmt.Errorf("cleaned again: %w", err)
		}
		if s := r.m.CleanerStats().Uncleanable["/data"]; s.Logs > 0 {
			return fired, offline, fmt.Errorf("still uncleanable: %+v", s)
		}
	}
	for _, fs := range []*vfs.Mem{mem.KillClone(), mem.CrashClone(uint64(n))} {
		if err := r.openOn(fs); err != nil {
			return fired, offline, err
		}
		r.l.SetHighWatermark(r.end)
		if err := r.check(); err != nil {
			return fired, offline, fmt.Errorf("after the next start: %w", err)
		}
	}
	return fired, offline, nil
}
