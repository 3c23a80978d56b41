package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// sample is one repetition of one subject.
type sample struct {
	cpu, wall time.Duration
	// client is the CPU time of this process, which is the client of it.
	client time.Duration
	amount int64 // that the result is related to: bytes or requests
	calls  int64 // system calls, in a repetition of their own; -1 unknown
	stolen float64
}

// cpuPerGB in seconds per 10^9 bytes.
func (s sample) cpuPerGB() float64 { return s.cpu.Seconds() / (float64(s.amount) / 1e9) }

// bothPerGB is cpuPerGB of subject and client together.
func (s sample) bothPerGB() float64 { return (s.cpu + s.client).Seconds() / (float64(s.amount) / 1e9) }

func (s sample) megabytesPerSecond() float64 { return float64(s.amount) / 1e6 / s.wall.Seconds() }

// cpuEach in microseconds per request.
func (s sample) cpuEach() float64 { return s.cpu.Seconds() * 1e6 / float64(s.amount) }

func (s sample) perSecond() float64 { return float64(s.amount) / s.wall.Seconds() }

// cpu is the CPU time of the subject's process, or of all of its cluster.
func (s *subject) cpu() (time.Duration, error) {
	if s.nodes == nil {
		return processCPU(s.pid)
	}
	var sum time.Duration
	for _, n := range s.nodes {
		t, err := processCPU(n.Pid())
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// timed runs f and says what it cost the subject.
func (s *subject) timed(amount int64, f func() error) (sample, error) {
	steal0, total0 := stolen()
	cpu0, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	client0, err := processCPU(os.Getpid())
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.name, err)
	}
	out := sample{wall: time.Since(start), amount: amount, calls: -1}
	client1, err := processCPU(os.Getpid())
	if err != nil {
		return sample{}, err
	}
	cpu1, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	steal1, total1 := stolen()
	out.cpu, out.client = cpu1-cpu0, client1-client0
	out.stolen = float64(steal1-steal0) / float64(max(total1-total0, 1))
	return out, nil
}

// spread is the median of some numbers with the least and the greatest.
type spread struct{ median, least, most float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{m, v[0], v[len(v)-1]}
}

func (s spread) format(f string) string {
	return fmt.Sprintf(f+" ("+f+"–"+f+")", s.median, s.least, s.most)
}

// series is all repetitions of one line of a table.
type series struct {
	line    string
	samples []sample
	// callsPerMB is -1 where it is not known.
	callsPerMB float64
}

func (s *series) cpuPerGB() spread  { return s.spread(sample.cpuPerGB) }
func (s *series) bothPerGB() spread { return s.spread(sample.bothPerGB) }
func (s *series) rate() spread      { return s.spread(sample.megabytesPerSecond) }

func (s *series) spread(of func(sample) float64) spread {
	var v []float64
	for _, x := range s.samples {
		v = append(v, of(x))
	}
	return spreadOf(v)
}

func (s *series) mostStolen() float64 {
	most := 0.0
	for _, x := range s.samples {
		most = max(most, x.stolen)
	}
	return most
}

// floods are the repetitions of something that is done as often as it can.
type floods struct {
	rate, cpu []float64 // per second; microseconds each
	stolen    float64
}

func (f *floods) add(s sample) {
	f.rate, f.cpu = append(f.rate, s.perSecond()), append(f.cpu, s.cpuEach())
	f.stolen = max(f.stolen, s.stolen)
}

// contender is a line of a table that is measured again and again, in turn with
// the others.
type contender struct {
	line string
	s    *subject
	// run does the work once, on fresh ground, and says how many bytes it was.
	// Only what happens in between begin and end counts.
	run func(timed func(bytes int64, f func() error) error) error
}

// interleave measures A B C A B C ...: what the machine does meanwhile hits all
// alike. Then each runs once more for its system calls.
func (b *bench) interleave(cs []contender, reps int) ([]*series, error) {
	out := make([]*series, len(cs))
	for i, c := range cs {
		out[i] = &series{line: c.line, callsPerMB: -1}
	}
	for range reps {
		for i, c := range cs {
			err := c.run(func(bytes int64, f func() error) error {
				s, err := c.s.timed(bytes, f)
				out[i].samples = append(out[i].samples, s)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.line, err)
			}
			last := out[i].samples[len(out[i].samples)-1]
			b.logf("  %-28s %.3f CPU-s/GB, %4.0f MB/s, stolen %.1f%%", c.line, last.cpuPerGB(), last.megabytesPerSecond(), 100*last.stolen)
		}
	}
	if !b.calls {
		return out, nil
	}
	for i, c := range cs {
		err := c.run(func(bytes int64, f func() error) error {
			n, err := countSyscalls(c.s.pid, f)
			if n >= 0 {
				out[i].callsPerMB = float64(n) / (float64(bytes) / 1e6)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.line, err)
		}
	}
	return out, nil
}

// profileTo keeps a CPU profile of gregor for each scenario.
func (b *bench) profileTo(name string) (stop func()) {
	if b.profiles == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		data, err := get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", b.http, b.profileSeconds))
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profiles, name+".pprof"), data, 0o644)
		}
		if err != nil {
			b.logf("profile: %v", err)
		}
	}()
	return func() { <-done }
}
