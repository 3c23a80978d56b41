package harness

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Loop is what programs that kill a gregor again and again have in common:
// where it runs, and the seed of all that is random.
type Loop struct {
	Seed uint64
	Dir  string // of the broker; empty: a temporary one
	Bin  string // gregor's binary; empty: $GREGOR_BIN, else built from this tree
	Keep bool   // keep a temporary directory
}

// Flags defines the flags that set l.
func (l *Loop) Flags() {
	flag.Uint64Var(&l.Seed, "seed", uint64(time.Now().UnixNano()), "seed of all random choices")
	flag.StringVar(&l.Dir, "dir", "", "directory for the broker (default: a temporary one)")
	flag.StringVar(&l.Bin, "gregor", "", "gregor's binary (default: $GREGOR_BIN, else built from this tree)")
	flag.BoolVar(&l.Keep, "keep", false, "keep the directory")
}

// Main runs a loop, says how it went, and ends the process with status 1 where
// it failed.
func (l *Loop) Main(run func() (summary string, err error)) {
	start := time.Now()
	summary, err := run()
	took := time.Since(start).Round(time.Millisecond)
	if err != nil {
		fmt.Printf("FAIL (seed %d) after %s: %v\n", l.Seed, took, err)
		os.Exit(1)
	}
	fmt.Printf("ok: %s in %s\n", summary, took)
}

// Broker starts the gregor of a loop. The function that it returns, if there is
// no error, kills it and removes what is not to be kept.
func (l *Loop) Broker(conf ...string) (b *Broker, end func(), err error) {
	dir, remove := l.Dir, func() {}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "gregor-loop-"); err != nil {
			return nil, nil, err
		}
		if !l.Keep {
			remove = func() { _ = os.RemoveAll(dir) }
		}
	}
	bin := l.Bin
	if bin == "" {
		if bin, err = BuildGregor(dir); err != nil {
			remove()
			return nil, nil, err
		}
	}
	if b, err = Gregor(bin, dir, conf...); err != nil {
		remove()
		return nil, nil, err
	}
	return b, func() {
		b.Kill()
		remove()
	}, nil
}

// CutShort starts a broker that was killed and kills it within the given time,
// at any point of its recovery: not at all seven times out of eight, and twice
// once in sixty-four. It returns how often.
func CutShort(b *Broker, rng *rand.Rand, within time.Duration) (kills int, err error) {
	for rng.IntN(8) == 0 {
		if err := b.Launch(); err != nil {
			return kills, err
		}
		time.Sleep(time.Duration(rng.Int64N(int64(within))))
		b.Kill()
		kills++
	}
	return kills, nil
}

// LoopOptions make a client come back fast once the broker does.
func LoopOptions(addr string, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(addr),
		// A broker that is killed closes connections before their first answer, which
		// franz-go would take for a lack of TLS and not try again.
		kgo.AlwaysRetryEOF(),
		kgo.RetryBackoffFn(func(int) time.Duration { return 30 * time.Millisecond }),
		kgo.RequestRetries(10_000), kgo.RetryTimeout(2 * time.Minute),
		kgo.MetadataMinAge(50 * time.Millisecond),
	}, more...)
}
