package storage

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

var (
	crashSeed = flag.Uint64("crash.seed", 0, "first seed of the crash tests")
	crashRuns = flag.Int("crash.runs", 400/fewer, "how many seeds the crash tests try")
)

// survivor says what a crash must have left.
type survivor struct {
	// One of these was the log: before the step that the crash interrupted, or after it.
	before, after *model
	floor         int64 // everything below was durable
	kill          bool  // only the process ended: all whole batches must be there
}

// judge compares a recovered log with what it must be, and returns the model cut to it.
func (s *survivor) judge(l *Log) (*model, error) {
	if end := l.LogEndOffset(); s.before.origin != s.after.origin && l.LogStartOffset() == end {
		m := &model{origin: end, start: end, end: end} // in the middle of throwing everything away
		return m, m.compare(l)
	} else if s.before.origin != s.after.origin {
		s.kill, s.floor = false, 0
	} else if s.after.end < s.before.end { // in the middle of a truncation
		s.kill, s.floor = false, min(s.floor, s.after.end)
	}
	var errs []error
	for _, m := range []*model{s.after, s.before} {
		cut, err := s.judgeOne(m, l)
		if err == nil {
			return cut, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("against the log after: %w\nbefore: %w", errs[0], errs[1])
}

func (s *survivor) judgeOne(m *model, l *Log) (*model, error) {
	start, end := l.LogStartOffset(), l.LogEndOffset()
	floor := min(s.floor, m.end)
	if s.kill {
		floor = m.end
	}
	if end < floor || end > m.end {
		return nil, fmt.Errorf("log ends at %d, durable up to %d, written up to %d", end, floor, m.end)
	}
	if start > m.start {
		return nil, fmt.Errorf("log starts at %d, was %d", start, m.start)
	}
	// Records below the start may be there again: that was not checkpointed yet.
	cut := m.clone()
	cut.start = start
	n := len(cut.batches)
	for n > 0 && cut.batches[n-1].LastOffset() >= end {
		n--
	}
	var err error
	if n > 0 && n < len(cut.batches) && cut.batches[n].BaseOffset() < end {
		err = fmt.Errorf("log ends at %d, within the batch at %d", end, cut.batches[n].BaseOffset())
	}
	cut.batches, cut.end = cut.batches[:n], end
	if err == nil {
		err = cut.compare(l)
	}
	if err != nil && start == end && l.Segments() == 1 && l.Size() == 0 && !s.kill {
		// Or what survived ends below the checkpointed log start: nothing of it is left.
		cut = &model{origin: end, start: end, end: end}
		err = cut.compare(l)
	}
	return cut, err
}

// crashRig is a rig on a file system that can take a picture of itself right before any operation.
type crashRig struct {
	*rig
	mem    *vfs.Mem
	faulty *vfs.Faulty
}

func newCrashRig(seed uint64) *crashRig {
	mem := vfs.NewMem()
	return &crashRig{rig: newRig(seed), mem: mem, faulty: vfs.NewFaulty(mem, nil)}
}

// TestPowerCuts cuts the power at a random file operation of a random step, several times in a row, and now and then
// during the recovery from the last cut as well.
func TestPowerCuts(t *testing.T) {
	for seed := *crashSeed; seed < *crashSeed+uint64(*crashRuns); seed++ {
		if err := runCrashes(seed, func(*rand.Rand) bool { return false }); err != nil {
			t.Fatalf("-crash.seed %d -crash.runs 1: %v", seed, err)
		}
	}
}

// TestKills ends the process instead: what was written is there.
func TestKills(t *testing.T) {
	for seed := *crashSeed; seed < *crashSeed+uint64(*crashRuns)/2; seed++ {
		if err := runCrashes(seed, func(*rand.Rand) bool { return true }); err != nil {
			t.Fatalf("-crash.seed %d -crash.runs 2: %v", seed, err)
		}
	}
}

// TestKillsAndPowerCuts mixes the two: what the process had not synced when it was killed, its successor must.
func TestKillsAndPowerCuts(t *testing.T) {
	for seed := *crashSeed; seed < *crashSeed+uint64(*crashRuns)/2; seed++ {
		if err := runCrashes(seed, func(rng *rand.Rand) bool { return rng.IntN(2) == 0 }); err != nil {
			t.Fatalf("-crash.seed %d -crash.runs 2: %v", seed, err)
		}
	}
}

func runCrashes(seed uint64, kill func(*rand.Rand) bool) error {
	r := newCrashRig(seed)
	if err := r.open(r.faulty); err != nil {
		return err
	}
	for life := range 6 {
		if err := r.crashOnce(kill(r.rng)); err != nil {
			return fmt.Errorf("life %d: %w", life, err)
		}
	}
	return nil
}

// crashOnce works for a while, takes a picture in the middle of something, and goes on from that.
func (r *crashRig) crashOnce(kill bool) error {
	for range r.rng.IntN(80) {
		if err := r.step(); err != nil {
			return err
		}
	}
	s := &survivor{kill: kill}
	var picture *vfs.Mem
	for picture == nil { // some steps touch no file
		s.before, s.floor = r.model.clone(), r.l.RecoveryPoint()
		at := r.rng.IntN(12)
		seed := r.rng.Uint64()
		r.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
			if op.Index == at {
				picture = r.picture(kill, seed)
			}
			return nil
		})
		if err := r.step(); err != nil {
			return err
		}
		if picture == nil && r.faulty.Ops() > 0 {
			picture = r.picture(kill, seed)
			s.before, s.floor = r.model.clone(), r.l.RecoveryPoint()
		}
		s.floor = min(s.floor, r.l.RecoveryPoint()) // a truncation lowers it
	}
	r.faulty.SetRule(nil)
	s.after = r.model.clone()
	return r.recoverFrom(picture, s)
}

func (r *crashRig) picture(kill bool, seed uint64) *vfs.Mem {
	if kill {
		return r.mem.KillClone()
	}
	return r.mem.CrashClone(seed)
}

// recoverFrom opens the log on what a crash left, judges it, and takes it for the next life. Sometimes recovery itself is
// cut short first, which must not cost anything.
func (r *crashRig) recoverFrom(picture *vfs.Mem, s *survivor) error {
	for {
		r.mem, r.faulty = picture, vfs.NewFaulty(picture, nil)
		picture = nil
		if r.rng.IntN(3) == 0 {
			at, seed := r.rng.IntN(60), r.rng.Uint64()
			r.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
				if op.Index == at {
					picture = r.picture(s.kill, seed)
				}
				return nil
			})
		}
		if err := r.open(r.faulty); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		cut, err := s.judge(r.l)
		if err != nil {
			return err
		}
		if picture == nil {
			r.faulty.SetRule(nil)
			r.model = cut
			r.epoch = max(r.epoch, r.l.LatestEpoch())
			return nil
		}
	}
}

// TestFaults makes each operation of a run fail once, with each kind of error, and checks that the log answers with
// KAFKA_STORAGE_ERROR from then on and that a start on a good disk finds everything that was flushed.
func TestFaults(t *testing.T) {
	faults := map[string]vfs.Fault{
		"EIO":         {Err: syscall.EIO},
		"ENOSPC":      {Err: syscall.ENOSPC, Short: 100},
		"short write": {Short: 50},
	}
	mutating := []vfs.OpKind{vfs.OpCreate, vfs.OpRename, vfs.OpSyncDir, vfs.OpWrite, vfs.OpTruncate, vfs.OpSync, vfs.OpOpen, vfs.OpRead, vfs.OpReserve}
	for name, fault := range faults {
		kinds := mutating
		if fault.Err == nil {
			kinds = []vfs.OpKind{vfs.OpWrite}
		}
		t.Run(name, func(t *testing.T) {
			for seed := range max(1, uint64(4/fewer)) {
				for n := 0; ; n += fewer {
					hit, err := runFault(seed, n, fault, kinds)
					if err != nil {
						t.Fatalf("seed %d, operation %d: %v", seed, n, err)
					}
					if !hit {
						t.Logf("seed %d: %d operations", seed, n)
						break
					}
				}
			}
		})
	}
}

// runFault runs some steps with the n-th operation failing. hit: there was an n-th one.
func runFault(seed uint64, n int, fault vfs.Fault, kinds []vfs.OpKind) (hit bool, err error) {
	r := newCrashRig(seed)
	if err := r.open(r.faulty); err != nil {
		return false, err
	}
	nth := vfs.FailNth(n, fault, kinds...)
	r.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		f := nth(op)
		hit = hit || f != nil
		return f
	})
	var stepErr error
	before := r.model.clone()
	floor := int64(0)
	for range 60 {
		before, floor = r.model.clone(), r.l.RecoveryPoint()
		r.tried = nil
		if stepErr = r.step(); stepErr != nil {
			break
		}
	}
	if !hit {
		return false, stepErr
	}
	if stepErr != nil {
		if !errors.Is(stepErr, kerr.KafkaStorageError) && !errors.Is(stepErr, kerr.CorruptMessage) {
			return true, fmt.Errorf("step failed with %w", stepErr)
		}
		if err := r.mustBeOffline(); err != nil {
			return true, err
		}
	}
	// The machine is switched off and gets a new disk with what was on the old one.
	after := r.model.clone()
	if b, _, err := protocol.NextBatch(r.tried); stepErr != nil && err == nil && b.BaseOffset() >= after.end {
		after.append(r.tried) // what was answered with an error may be there all the same
	}
	s := &survivor{before: before, after: after, floor: min(floor, r.l.RecoveryPoint())}
	r.m.unlock()
	return true, r.recoverFrom(r.mem.CrashClone(uint64(n)), s)
}

// mustBeOffline checks that nothing is done any more in a directory that has failed.
func (r *crashRig) mustBeOffline() error {
	ops := r.mutations()
	b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: r.now.UnixMilli()}, three())
	for name, err := range map[string]error{
		"append": second(r.l.AppendAsLeader(b, AppendOptions{Version: 9, Now: r.now})),
		"read":   second(r.l.Read(r.l.LogStartOffset(), 100, 1<<40, true)),
		"flush":  r.l.Flush(),
		"lookup": third(r.l.OffsetForTimestamp(0, 1<<40)),
		"cut":    r.l.TruncateTo(r.l.LogStartOffset()),
	} {
		if !errors.Is(err, kerr.KafkaStorageError) {
			return fmt.Errorf("%s after a failure: %v", name, err)
		}
	}
	if err := r.m.Close(context.Background()); err == nil {
		return errors.New("close of a failed directory says that all is well")
	}
	if r.m.Dirs()[0].Err == nil {
		return errors.New("directory is not offline")
	}
	if got := r.mutations(); !slices.Equal(ops, got) {
		return errors.New("the directory was changed after it had failed")
	}
	if _, err := r.mem.Stat("data/" + cleanShutdownFile); err == nil {
		return errors.New("a failed directory has the clean marker")
	}
	return nil
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// mutations is a picture of all files, to see whether anything changed.
func (r *crashRig) mutations() []string {
	var out []string
	infos, _ := r.mem.List("data/" + rigPartition.String())
	for _, in := range infos {
		f, err := r.mem.Open("data/" + rigPartition.String() + "/" + in.Name)
		if err != nil {
			continue
		}
		data := make([]byte, in.Size)
		f.ReadAt(data, 0)
		f.Close()
		out = append(out, fmt.Sprint(in.Name, bytes.Count(data, []byte{0}), len(data)))
	}
	return out
}

// TestGarbageFiles spoils or removes each file of a log that was shut down cleanly or not: indexes, snapshots and
// checkpoints are rebuilt; a spoilt log is cut, never served.
func TestGarbageFiles(t *testing.T) {
	for seed := range uint64(40 / fewer) {
		r := newCrashRig(seed)
		r.cfg.RetentionBytes = -1
		if err := r.open(r.faulty); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			if err := r.append(); err != nil {
				t.Fatal(err)
			}
		}
		clean := seed%2 == 0
		if clean {
			if err := r.m.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			r.m.AwaitIdle()
			r.m.unlock()
		}
		infos, err := r.mem.List("data/" + rigPartition.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range infos {
			if _, suffix, ok := parseFileName(in.Name); ok && suffix == logSuffix {
				continue
			}
			for _, how := range []string{"remove", "empty", "cut", "flip"} {
				if how == "flip" && in.Name == partitionMetaFile {
					continue // another topic's log, and refused as such
				}
				fs := r.mem.KillClone()
				spoilFile(fs, "data/"+rigPartition.String()+"/"+in.Name, how, r.rng)
				again := &rig{rng: r.rng, model: r.model.clone(), now: r.now, cfg: r.cfg}
				if err := again.open(fs); err != nil {
					t.Fatalf("seed %d, clean %v, %s %s: %v", seed, clean, how, in.Name, err)
				}
				_, suffix, _ := parseFileName(in.Name)
				if clean && suffix == txnSuffix && how != "cut" {
					continue // without a checksum and outside recovery there is no telling
				}
				if clean && how == "flip" && (suffix == timesSuffix || suffix == offsetsSuffix || in.Name == epochFile) {
					continue // may be a valid entry by chance
				}
				if err := again.model.compare(again.l); err != nil {
					t.Fatalf("seed %d, clean %v, %s %s: %v", seed, clean, how, in.Name, err)
				}
			}
		}
	}
}

func spoilFile(fs *vfs.Mem, name, how string, rng *rand.Rand) {
	if how == "remove" {
		fs.Remove(name)
		return
	}
	f, err := fs.Open(name)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	size, _ := f.Size()
	switch {
	case how == "empty":
		f.Truncate(0)
	case how == "cut" && size > 0:
		f.Truncate(size - 1)
	case how == "flip" && size > 0:
		b := make([]byte, 1)
		at := rng.Int64N(size)
		f.ReadAt(b, at)
		b[0] ^= 1 << rng.IntN(8)
		f.WriteAt(b, at)
	}
}
