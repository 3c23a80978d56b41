package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// moveRig drives a log in one of two directories, and moves it from one to the other.
type moveRig struct {
	*rig
	mem    *vfs.Mem
	faulty *vfs.Faulty
	mv     *Move
	// switched is to be finished: the log is in its new place, and the old one still there.
	switched *Move
	moved    int
}

func newMoveRig(seed uint64) *moveRig {
	mem := vfs.NewMem()
	return &moveRig{rig: newRig(seed), mem: mem, faulty: vfs.NewFaulty(mem, nil)}
}

func (r *moveRig) open() error {
	r.mv, r.switched = nil, nil
	if err := r.openDirs(r.faulty, "a", "b"); err != nil {
		return err
	}
	for _, dir := range []string{"a", "b"} {
		if _, err := r.mem.Stat(dir + "/" + rigPartition.String()); (err == nil) != (r.l.Dir() == dir) {
			return fmt.Errorf("the log is in %s, and %s has one: %w", r.l.Dir(), dir, err)
		}
	}
	return nil
}

func (r *moveRig) other() string {
	if r.l.Dir() == "a" {
		return "b"
	}
	return "a"
}

func (r *moveRig) begin() error {
	mv, err := r.m.BeginMove(r.l, r.other())
	if err != nil {
		return err
	}
	mv.buf, mv.leaves, r.mv = make([]byte, 64+r.rng.IntN(800)), int64(r.rng.IntN(3000)), mv
	return nil
}

// moveStep does a part of a move.
func (r *moveRig) moveStep() error {
	if mv := r.switched; mv != nil {
		r.switched = nil
		return mv.Finish()
	}
	if r.mv == nil {
		return r.begin()
	}
	switch k := r.rng.IntN(10); {
	case k < 4:
		_, err := r.mv.pass(context.Background())
		return r.mv.failed(err)
	case k < 5:
		mv := r.mv
		r.mv = nil
		return mv.Abandon()
	case k < 7:
		return r.mv.Copy(context.Background())
	}
	l, err := r.mv.Switch()
	if errors.Is(err, ErrBehind) {
		return r.mv.Copy(context.Background())
	}
	if err != nil {
		return err
	}
	r.l, r.mv, r.switched = l, nil, r.mv
	r.moved++
	return nil
}

func (r *moveRig) anyStep() error {
	if r.rng.IntN(4) == 0 {
		return r.moveStep()
	}
	return r.step()
}

// restart ends the broker in order and starts it again.
func (r *moveRig) restart() error {
	if r.switched != nil {
		if err := r.moveStep(); err != nil {
			return err
		}
	}
	if r.mv != nil {
		r.mv.Leave()
		if got := r.m.Moves(); len(got) > 0 {
			return fmt.Errorf("moves %+v", got)
		}
	}
	to := r.mv
	if err := r.m.Close(context.Background()); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	if !r.m.dirs[0].clean || !r.m.dirs[1].clean || r.m.shortened.Load() {
		return errors.New("not clean")
	}
	if left := r.m.Leftovers(); to != nil && left[rigPartition] != to.Dir() || to == nil && len(left) > 0 {
		return fmt.Errorf("left %v of a move to %v", left, to)
	}
	if to != nil && r.rng.IntN(2) == 0 {
		if err := r.begin(); err != nil {
			return err
		}
	} else {
		r.m.DropLeftovers()
	}
	r.m.Tick(r.now)
	return nil
}

// TestMoveModel moves a log to and fro while anything else happens to it, also in the midst of copying.
func TestMoveModel(t *testing.T) {
	moved := 0
	for seed := range uint64(60 / fewer) {
		r := newMoveRig(seed)
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
		for i := range 250 {
			where := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("seed %d step %d: %v", seed, i, err)
				}
			}
			if r.mv != nil {
				steps := 6
				r.mv.pace = func(context.Context, int) error {
					if steps--; steps > 0 && r.rng.IntN(3) == 0 {
						return r.step()
					}
					return nil
				}
			}
			where(r.anyStep())
			if i%10 == 0 {
				where(r.model.compare(r.l))
			}
			if r.rng.IntN(60) == 0 {
				where(r.restart())
				where(r.model.compare(r.l))
			}
		}
		moved += r.moved
	}
	t.Logf("moved %d times", moved)
	if moved < 100/fewer {
		t.Errorf("moved only %d times", moved)
	}
}

// TestMovePowerCuts cuts the power, or ends the process, at a random file operation, often one of a move, several times in
// a row, and now and then during the start after that as well.
func TestMovePowerCuts(t *testing.T) {
	crashes := 0
	for seed := *crashSeed; seed < *crashSeed+uint64(*crashRuns)/2; seed++ {
		n, err := runMoveCrashes(seed)
		if err != nil {
			t.Fatalf("-crash.seed %d -crash.runs 1: %v", seed, err)
		}
		crashes += n
	}
	t.Logf("%d crashes in the midst of a move's step", crashes)
}

func runMoveCrashes(seed uint64) (crashes int, err error) {
	r := newMoveRig(seed)
	if err := r.open(); err != nil {
		return 0, err
	}
	for life := range 6 {
		n, err := r.crashOnce()
		if err != nil {
			return crashes, fmt.Errorf("life %d: %w", life, err)
		}
		crashes += n
	}
	return crashes, nil
}

func (r *moveRig) picture(kill bool) *vfs.Mem {
	if kill {
		return r.mem.KillClone()
	}
	return r.mem.CrashClone(r.rng.Uint64())
}

func (r *moveRig) crashOnce() (inMove int, err error) {
	for range r.rng.IntN(60) {
		if err := r.anyStep(); err != nil {
			return 0, err
		}
	}
	s := &survivor{kill: r.rng.IntN(2) == 0}
	var picture *vfs.Mem
	for picture == nil {
		s.before, s.floor = r.model.clone(), r.l.RecoveryPoint()
		step, at := r.anyStep, r.rng.IntN(12)
		if r.rng.IntN(2) == 0 {
			step, at = r.moveStep, r.rng.IntN(60)
		}
		r.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
			if op.Index == at {
				picture = r.picture(s.kill)
			}
			return nil
		})
		if err := step(); err != nil {
			return 0, err
		}
		if picture != nil && at > 11 {
			inMove = 1
		}
		if picture == nil && r.faulty.Ops() > 0 && r.rng.IntN(3) == 0 {
			picture = r.picture(s.kill)
			s.before, s.floor = r.model.clone(), r.l.RecoveryPoint()
		}
		s.floor = min(s.floor, r.l.RecoveryPoint())
	}
	s.after = r.model.clone()
	return inMove, r.startFrom(picture, s)
}

// startFrom opens what a crash left, judges it, and goes on with it.
func (r *moveRig) startFrom(picture *vfs.Mem, s *survivor) error {
	for picture != nil {
		r.mem, r.faulty = picture, vfs.NewFaulty(picture, nil)
		picture = nil
		if r.rng.IntN(3) == 0 {
			at := r.rng.IntN(60)
			r.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
				if op.Index == at {
					picture = r.picture(s.kill)
				}
				return nil
			})
		}
		if err := r.open(); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		cut, err := s.judge(r.l)
		if err != nil {
			return err
		}
		r.faulty.SetRule(nil)
		if picture == nil {
			r.model = cut
			r.epoch = max(r.epoch, r.l.LatestEpoch())
		}
	}
	switch left := r.m.Leftovers()[rigPartition]; {
	case left == r.other() && r.rng.IntN(2) == 0:
		return r.begin()
	case r.rng.IntN(2) == 0:
		r.m.DropLeftovers()
	}
	return nil
}

// TestMoveCompactedPowerCuts cuts the power while a log with the gaps that the cleaner leaves is moved. Everything was flushed,
// so that recovery may take no gap for a loss.
func TestMoveCompactedPowerCuts(t *testing.T) {
	for seed := *crashSeed; seed < *crashSeed+uint64(*crashRuns)/2; seed++ {
		if err := runMoveCompacted(seed); err != nil {
			t.Fatalf("-crash.seed %d -crash.runs 2: %v", seed, err)
		}
	}
}

func runMoveCompacted(seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 3))
	r := newCompactRig(rng.IntN)
	r.dirs = []string{"/a", "/b"}
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(mem, nil)
	if err := r.openOn(faulty); err != nil {
		return err
	}
	for life := range 4 {
		where := func(err error) error { return fmt.Errorf("life %d: %w", life, err) }
		for range 10 + rng.IntN(40) {
			if err := r.append(); err != nil {
				return where(err)
			}
		}
		r.m.AwaitIdle()
		if err := r.l.Flush(); err != nil {
			return where(err)
		}
		r.now = r.now.Add(time.Duration(rng.IntN(8)) * time.Second)
		r.l.SetHighWatermark(r.end)
		r.m.Clean(r.now)
		to := "/a"
		if r.l.Dir() == to {
			to = "/b"
		}
		taken := picture(mem, faulty, rng.IntN(120), rng.Uint64())
		mv, err := r.m.BeginMove(r.l, to)
		if err != nil {
			return where(err)
		}
		if err := mv.Copy(context.Background()); err != nil {
			return where(err)
		}
		if r.m.Clean(r.now.Add(time.Hour)) > 0 {
			return where(errors.New("cleaned while it is moved"))
		}
		if r.l, err = mv.Switch(); err != nil {
			return where(err)
		}
		if err := mv.Finish(); err != nil {
			return where(err)
		}
		if err := r.check(); err != nil {
			return where(err)
		}
		clone := taken()
		if clone == nil {
			clone = mem.CrashClone(rng.Uint64())
		}
		mem = clone
		faulty = vfs.NewFaulty(mem, nil)
		if err := r.openOn(faulty); err != nil {
			return where(err)
		}
		r.l.SetHighWatermark(r.end)
		if err := r.check(); err != nil {
			return where(err)
		}
		if err := r.checkProducers(); err != nil {
			return where(err)
		}
		r.m.DropLeftovers()
	}
	return nil
}

// TestMoveFaults makes every file operation of a move fail, one after the other, on either side: the other side goes on, and
// so does the log unless its own directory failed. The next start finds one log that has everything.
func TestMoveFaults(t *testing.T) {
	for name, fault := range map[string]vfs.Fault{"EIO": {Err: syscall.EIO}, "ENOSPC": {Err: syscall.ENOSPC, Short: 3}} {
		t.Run(name, func(t *testing.T) {
			failed := map[string]int{}
			for seed := range max(1, uint64(3/fewer)) {
				for n := 0; ; n += fewer {
					dir, err := runMoveFault(seed, n, fault)
					if err != nil {
						t.Fatalf("seed %d, operation %d: %v", seed, n, err)
					}
					if dir == "" {
						break
					}
					failed[dir]++
				}
			}
			t.Logf("failed operations by directory: %v", failed)
			if failed["a"] < 10/fewer || failed["b"] < 30/fewer {
				t.Error("too few")
			}
		})
	}
}

func runMoveFault(seed uint64, n int, fault vfs.Fault) (in string, err error) {
	r := newMoveRig(seed)
	r.cfg.SegmentBytes, r.cfg.RetentionBytes, r.cfg.FlushMessages = 1000, -1, 1
	if err := r.open(); err != nil {
		return "", err
	}
	for range 40 {
		if err := r.append(); err != nil {
			return "", err
		}
	}
	home := r.l.Dir()
	r.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
		if op.Index != n {
			return nil
		}
		in, _, _ = strings.Cut(op.Name, "/")
		return &fault
	})
	stepErr := r.moveWhole()
	r.faulty.SetRule(nil)
	if in == "" {
		return "", stepErr
	}
	for _, d := range r.m.Dirs() {
		if d.Err != nil && d.Path != in {
			return in, fmt.Errorf("an error of %s took %s offline: %w", in, d.Path, d.Err)
		}
	}
	if stepErr != nil && r.l.Dir() != home {
		return in, stepErr // nothing may fail after the log has its new place, but for the removal of what is left
	}
	if r.l.Err() == nil {
		if err := r.model.compare(r.l); err != nil {
			return in, err
		}
		if err := r.append(); err != nil {
			return in, err
		}
	} else if !errors.Is(r.l.Err(), kerr.KafkaStorageError) {
		return in, r.l.Err()
	}
	online := 0
	for _, d := range r.m.Dirs() {
		if d.Err == nil {
			online++
		}
	}
	if online == 2 && stepErr != nil { // and then there is room
		if err := r.moveWhole(); err != nil {
			return in, fmt.Errorf("moved again: %w", err)
		}
	}
	r.m.unlock()
	for _, fs := range []*vfs.Mem{r.mem.KillClone(), r.mem.CrashClone(uint64(n))} {
		r.mem, r.faulty = fs, vfs.NewFaulty(fs, nil)
		if err := r.open(); err != nil {
			return in, fmt.Errorf("the next start: %w", err)
		}
		if err := r.model.compare(r.l); err != nil {
			return in, fmt.Errorf("the next start: %w", err)
		}
	}
	return in, nil
}

// moveWhole moves the log to the other directory. Errors of the removal of the old one have taken its directory offline.
func (r *moveRig) moveWhole() error {
	if err := r.begin(); err != nil {
		return err
	}
	for {
		err := r.mv.Copy(context.Background())
		var l *Log
		if err == nil {
			l, err = r.mv.Switch()
		}
		if errors.Is(err, ErrBehind) {
			continue
		}
		mv := r.mv
		r.mv = nil
		if err != nil {
			return errors.Join(err, mv.Abandon())
		}
		r.l = l
		_ = mv.Finish()
		return nil
	}
}

// TestMoveToDirThatComesBack: where the directory that a log was being moved to cannot be used at the next start, the log
// may be out of date, and is left alone until it can.
func TestMoveToDirThatComesBack(t *testing.T) {
	r := newMoveRig(5)
	err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := r.append(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	if err := r.mv.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"before", "after"} {
		if name == "after" {
			if r.l, err = r.mv.Switch(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(r.append(), r.l.Flush()); err != nil {
				t.Fatal(err)
			}
		}
		fs := r.mem.KillClone()
		again := &moveRig{rig: &rig{rng: r.rng, model: r.model.clone(), now: r.now, cfg: r.cfg}, mem: fs, faulty: vfs.NewFaulty(fs, nil)}
		again.faulty.SetRule(func(op vfs.Op) *vfs.Fault {
			if strings.HasPrefix(op.Name, "b") {
				return &vfs.Fault{Err: syscall.EIO}
			}
			return nil
		})
		m, err := Open(Options{FS: again.faulty, Dirs: []string{"a", "b"}, NodeID: 1, Defaults: r.cfg})
		if err != nil {
			t.Fatal(err)
		}
		if l := m.Log(rigPartition); l != nil {
			t.Errorf("%s: a log that may be out of date is used, up to %d of %d", name, l.LogEndOffset(), r.model.end)
		}
		m.unlock()
		again.faulty.SetRule(nil)
		if err := again.open(); err != nil {
			t.Fatal(err)
		}
		if err := again.model.compare(again.l); err != nil {
			t.Errorf("%s: with both directories: %v", name, err)
		}
		again.m.unlock()
		// The directory is taken out of log.dirs: what is left is what there is.
		if err := again.openDirs(fs.KillClone(), "a"); err != nil {
			t.Fatal(err)
		}
		if name == "before" && again.l.LogEndOffset() != again.model.end {
			t.Errorf("%s: alone: %d of %d", name, again.l.LogEndOffset(), again.model.end)
		}
	}
}

// TestSlicesOutliveAMove holds slices over a move and the removal of the old log.
func TestSlicesOutliveAMove(t *testing.T) {
	r := newRig(3)
	r.cfg = DefaultLogConfig()
	r.cfg.SegmentBytes, r.cfg.FileDeleteDelayMs = 2000, 0
	dir := t.TempDir()
	if err := r.openDirs(vfs.OS{}, dir+"/a", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := r.append(); err != nil {
			t.Fatal(err)
		}
	}
	r.l.SetHighWatermark(r.model.end)
	s, err := r.l.Read(1, 1000, r.model.end, true)
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	mv, err := r.m.BeginMove(r.l, dir+"/b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mv.Switch(); !errors.Is(err, ErrBehind) {
		t.Fatalf("switched without a copy: %v", err)
	}
	if _, err := r.m.BeginMove(r.l, dir+"/b"); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("moved twice: %v", err)
	}
	if err := mv.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.m.Moves(); len(got) != 1 || got[0].Size != r.l.Size() || got[0].End != r.model.end || got[0].Dir != dir+"/b" {
		t.Errorf("moves %+v of %d bytes up to %d", got, r.l.Size(), r.model.end)
	}
	if r.l, err = mv.Switch(); err != nil {
		t.Fatal(err)
	}
	if err := mv.Finish(); err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(time.Hour)
	r.m.Tick(r.now)
	got, err := s.AppendTo(nil)
	s.Release()
	if err != nil || string(got) != string(want) {
		t.Errorf("%d bytes, %d before: %v", len(got), len(want), err)
	}
	if err := r.model.compare(r.l); err != nil {
		t.Error(err)
	}
	if err := r.append(); err != nil {
		t.Error(err)
	}
	entries, err := (vfs.OS{}).List(dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Dir {
			t.Errorf("%s is left", e.Name)
		}
	}
	if err := r.m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestMoveBesideAll moves logs to and fro while they are appended to, read, truncated, cleaned and swept.
func TestMoveBesideAll(t *testing.T) {
	cfg := DefaultLogConfig()
	cfg.SegmentBytes, cfg.RetentionBytes, cfg.FileDeleteDelayMs = 20_000, 200_000, 0
	m, err := Open(Options{
		FS: vfs.NewMem(), Dirs: []string{"a", "b"}, NodeID: 1, Defaults: cfg, RetentionCheckInterval: 5 * time.Millisecond,
		FlushCheckInterval: 5 * time.Millisecond, HighWatermarkInterval: 5 * time.Millisecond, RecoveryCheckpointInterval: 5 * time.Millisecond,
		Cleaner: CleanerConfig{Backoff: 5 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	moved := make(chan struct{}, 1)
	for n := range int32(2) {
		tp := TopicPartition{"t", n}
		cfg := cfg
		if cfg.Compact = n == 1; cfg.Compact {
			cfg.MinCleanableRatio = 0
		}
		l, err := m.CreateLog(tp, TopicID{1}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		// role stands for the lock of the partition.
		var role sync.RWMutex
		use := func(work func(l *Log) error) {
			wg.Go(func() {
				for ctx.Err() == nil {
					role.RLock()
					err := work(l)
					role.RUnlock()
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		use(func(l *Log) error {
			rec := protocol.Record{Key: fmt.Append(nil, rng.IntN(50)), Value: make([]byte, rng.IntN(1000))}
			b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, []protocol.Record{rec})
			res, err := l.AppendAsLeader(b, AppendOptions{Version: 9})
			if err != nil {
				return err
			}
			l.SetHighWatermark(res.LastOffset + 1)
			time.Sleep(300 * time.Microsecond) // else there is always more to copy
			return nil
		})
		use(func(l *Log) error {
			start, end := l.LogStartOffset(), l.LogEndOffset()
			s, err := l.Read(start+(end-start)/2, 10_000, end, true)
			if errors.Is(err, kerr.OffsetOutOfRange) {
				return nil
			}
			if err != nil {
				return err
			}
			defer s.Release()
			data, err := s.AppendTo(nil)
			if b, _, nerr := protocol.NextBatch(data); nerr == nil && !b.ValidCRC() {
				return fmt.Errorf("batch at %d: CRC", b.BaseOffset())
			}
			return err
		})
		cut := make(chan struct{}, 1)
		wg.Go(func() { // truncation, in the midst of each move
			for {
				select {
				case <-cut:
				case <-ctx.Done():
					return
				}
				role.Lock()
				err := l.TruncateTo(l.LogEndOffset() - 3)
				role.Unlock()
				if err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				to := "a"
				if l.Dir() == to {
					to = "b"
				}
				mv, err := m.BeginMove(l, to)
				if err != nil {
					t.Error(err)
					return
				}
				mv.leaves = 50_000
				for pieces := 3; ; {
					mv.pace = func(ctx context.Context, _ int) error {
						if pieces--; pieces == 0 {
							select {
							case cut <- struct{}{}:
							default:
							}
						}
						return ctx.Err()
					}
					if err = mv.Copy(ctx); err != nil {
						break
					}
					role.Lock()
					var moved *Log
					if moved, err = mv.Switch(); err == nil {
						l = moved
					}
					role.Unlock()
					if !errors.Is(err, ErrBehind) {
						break
					}
				}
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					if err := mv.Abandon(); err != nil {
						t.Error(err)
					}
					return
				}
				if err := mv.Finish(); err != nil {
					t.Error(err)
				}
				select {
				case moved <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	}
	deadline := time.After(10 * time.Second) // enough moves for the purpose, however slow the machine
	done := 0
	for late := false; !late && done < 40; {
		select {
		case <-moved:
			done++
		case <-deadline:
			late = true
		}
	}
	if t.Logf("%d moves", done); done == 0 {
		t.Error("no move was completed")
	}
	cancel()
	wg.Wait()
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPreferredDirectory: a log is made where it was asked to be, once.
func TestPreferredDirectory(t *testing.T) {
	m, err := Open(Options{FS: vfs.NewMem(), Dirs: []string{"a", "b"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	create := func(n int32, want string) *Log {
		t.Helper()
		l, err := m.CreateLog(TopicPartition{"t", n}, TopicID{1}, DefaultLogConfig())
		if err != nil {
			t.Fatal(err)
		}
		if l.Dir() != want {
			t.Errorf("t-%d is in %s", n, l.Dir())
		}
		return l
	}
	create(0, "a")
	tp := TopicPartition{"t", 1}
	m.Prefer(tp, "a")
	create(1, "a")
	if err := m.DeleteLog(tp); err != nil {
		t.Fatal(err)
	}
	l := create(1, "b")
	m.Prefer(tp, "a")
	mv, err := m.BeginMove(l, "a")
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Preferred(tp); got != "" {
		t.Errorf("%s is still preferred", got)
	}
	if err := mv.Abandon(); err != nil {
		t.Error(err)
	}
	for n := range int32(mostPreferred + 10) {
		m.Prefer(TopicPartition{"u", n}, "a")
	}
	if n := len(m.preferred); n != mostPreferred {
		t.Errorf("%d directories are remembered", n)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestMovePace: a rate bounds what is copied, takes effect at once, and 0 lets nothing through.
func TestMovePace(t *testing.T) {
	var p movePace
	p.init()
	now := time.UnixMilli(1_700_000_000_000)
	if d, _ := p.take(now, 1<<40); d != 0 {
		t.Errorf("without a limit: %v", d)
	}
	p.setRate(1000)
	var waited time.Duration
	for range 30 {
		for {
			d, _ := p.take(now, 100)
			if d <= 0 {
				break
			}
			now = now.Add(d)
			waited += d
		}
	}
	if waited < 2900*time.Millisecond || waited > 3*time.Second {
		t.Errorf("3000 bytes took %v", waited)
	}
	p.setRate(0)
	done := make(chan error)
	go func() { done <- p.wait(t.Context(), 1) }()
	select {
	case <-done:
		t.Error("copied at rate 0")
	case <-time.After(20 * time.Millisecond):
	}
	p.setRate(1 << 40)
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.setRate(0)
	go func() { done <- p.wait(ctx, 1) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
