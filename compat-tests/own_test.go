package compat

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// ownBroker starts a broker that no other test uses, with more properties, so
// that it can be killed.
func ownBroker(t *testing.T, name string, conf ...string) *harness.Broker {
	t.Helper()
	dir, err := os.MkdirTemp(world.dir, name+"-own-")
	if err != nil {
		t.Fatal(err)
	}
	var b *harness.Broker
	if name == "kafka" {
		b, err = harness.Kafka(dir, conf...)
	} else {
		var bin string
		if bin, err = harness.BuildGregor(dir); err == nil {
			b, err = harness.Gregor(bin, dir, conf...)
		}
	}
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(b.Kill)
	return b
}

// onOwn runs f as a subtest against a broker of its own of each kind, both at
// once: most of the time of tests that kill goes by with waiting for sessions
// and transactions to end.
func onOwn(t *testing.T, conf []string, f func(t *testing.T, b *harness.Broker)) {
	t.Helper()
	for _, name := range []string{"kafka", "gregor"} {
		if *brokerFlag != name && *brokerFlag != "both" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, ownBroker(t, name, conf...))
		})
	}
}

// downInTransactions takes a broker down while transactions are open on it:
// gregor with SIGKILL. Apache Kafka 4.3.1 loses transactions when it is killed in
// the middle of them (the markers are missing in some partitions for good, or
// records come twice), so that a script is proved on it with SIGTERM.
func downInTransactions(t *testing.T, b *harness.Broker) {
	t.Helper()
	if b.Name != "kafka" {
		b.Kill()
		return
	}
	t.Log("Apache Kafka is stopped, not killed: killed, it loses transactions")
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
}

// bounceInTransactions is downInTransactions, and starts the broker again.
func bounceInTransactions(t *testing.T, b *harness.Broker) {
	t.Helper()
	downInTransactions(t, b)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
}

// startMember starts a process that a test kills and stops, and that is gone
// when the test ends. What it says is given to heard, in order.
func startMember(t *testing.T, name string, heard func(*harness.Member, harness.Event), command harness.MemberCommand) *harness.Member {
	t.Helper()
	m, err := harness.StartMember(name, heard, command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Signal(syscall.SIGKILL) // it may be gone
		<-m.Done()
		if t.Failed() {
			t.Logf("%s: %s", name, m.Stderr())
		}
	})
	return m
}

// signalTo sends a process that runs a signal.
func signalTo(t *testing.T, m *harness.Member, s syscall.Signal) {
	t.Helper()
	if err := m.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// patience ends when nothing happens any more, or when it takes too long: on a
// busy machine much takes long, and few things stand still.
type patience struct {
	began, moved time.Time
	last         string
}

const (
	standstill = 5 * time.Minute
	tooLong    = 15 * time.Minute
)

func newPatience() *patience { return &patience{began: time.Now(), moved: time.Now()} }

// over is told how things are.
func (p *patience) over(how string) bool {
	if how != p.last {
		p.last, p.moved = how, time.Now()
	}
	return time.Since(p.moved) > standstill || time.Since(p.began) > tooLong
}

// took is how long it has been.
func (p *patience) took() float64 { return time.Since(p.began).Seconds() }
