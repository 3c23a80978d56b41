// Package nemesis does to brokers what happens to them: it kills, pauses and
// restarts their processes and spoils the network before them, in periods that
// a seed chooses. A quarter of the periods is quiet, and at the end everything
// is healed.
//
// One goroutine runs the schedule; nothing else may start or end the nodes
// meanwhile.
package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/chaos/proxy"
)

// Node is a broker's process.
type Node interface {
	// Kill ends it with SIGKILL and Stop with SIGTERM; both return when it is
	// gone. Launch starts it, AwaitReady returns when it serves.
	Kill()
	Stop() error
	Launch() error
	AwaitReady() error
	Pid() int
	// Exited is closed when the process that Launch started is gone.
	Exited() <-chan struct{}
	Log() string
}

// Faults that a schedule may have.
const (
	Kill    = "kill"    // SIGKILL and start
	Term    = "term"    // SIGTERM and start
	Pause   = "pause"   // SIGSTOP, and SIGCONT later
	Cut     = "cut"     // no client reaches a broker
	Reset   = "reset"   // all clients' connections break
	Net     = "net"     // requests and answers are delayed, lost and cut in two
	Isolate = "isolate" // brokers do not reach each other, clients reach them
	Repeat  = "repeat"  // requests that may be repeated are, at once, later or stranded
)

// All are all faults that need nothing but processes and a proxy.
var All = []string{Kill, Term, Pause, Cut, Reset, Net, Repeat}

// Nemesis is a schedule.
type Nemesis struct {
	Nodes    []Node
	Proxy    *proxy.Set // before the nodes, in their order
	Recorder *history.Recorder
	Faults   []string
	Seed     uint64
	// Network is what Isolate needs, nil where there is none.
	Network Network
	// Roles find nodes that are something in a cluster, such as the controller.
	Roles []Role
	// Period is the longest that one fault, or quiet, lasts.
	Period time.Duration
	Logf   func(format string, args ...any)

	rng  *rand.Rand
	done map[string]int
}

// Network cuts brokers off from each other.
type Network interface {
	// Cut drops what broker i gets from others (in) or sends to them (out).
	Cut(i int, others []int, in, out bool) error
	Heal() error
}

// Role is something that a node of a cluster may be.
type Role struct {
	Name string
	// Find returns the node's index in Nodes.
	Find func(ctx context.Context) (int, error)
}

// ErrEnded says that a broker ended by itself.
var ErrEnded = errors.New("a broker ended by itself")

// Run plays the schedule until the context ends, and heals. It returns early,
// with an error, when a broker ends by itself or does not come back.
func (n *Nemesis) Run(ctx context.Context) error {
	n.rng = rand.New(rand.NewPCG(n.Seed, 0x6e))
	n.done = map[string]int{}
	var failed error
	for failed == nil && n.wait(ctx, time.Second) == nil {
		failed = n.period(ctx)
	}
	if failed == nil {
		failed = n.alive()
	}
	n.Proxy.Use()
	n.Recorder.Event(history.Op{F: history.Healed})
	return failed
}

// Done counts the faults that were done.
func (n *Nemesis) Done() map[string]int { return n.done }

// wait returns an error when the context ended or a broker did.
func (n *Nemesis) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// alive is an error where a process is gone that should be there.
func (n *Nemesis) alive() error {
	for i, node := range n.Nodes {
		select {
		case <-node.Exited():
			return fmt.Errorf("broker %d: %w:\n%s", i+1, ErrEnded, node.Log())
		default:
		}
	}
	return nil
}

// period is one period of the schedule, with some of the faults or none.
func (n *Nemesis) period(ctx context.Context) error {
	if err := n.alive(); err != nil {
		return err
	}
	length := n.Period/8 + time.Duration(n.rng.Int64N(int64(n.Period)))
	if n.rng.IntN(4) == 0 {
		_ = n.wait(ctx, length) // the schedule ends where the context does
		return nil
	}
	var net, process []string
	for _, f := range n.Faults {
		if n.rng.IntN(2) == 0 {
			continue
		}
		if f == Net || f == Repeat {
			net = append(net, f)
		} else {
			process = append(process, f)
		}
	}
	n.spoil(net)
	defer n.Proxy.Use()
	if len(process) == 0 {
		_ = n.wait(ctx, length)
		return nil
	}
	// One after the other: a killed broker cannot be paused.
	n.rng.Shuffle(len(process), func(i, j int) { process[i], process[j] = process[j], process[i] })
	for _, f := range process[:1+n.rng.IntN(min(2, len(process)))] {
		if err := n.do(ctx, f, length); err != nil {
			return err
		}
		_ = n.wait(ctx, time.Duration(n.rng.Int64N(int64(2*time.Second))))
	}
	return nil
}

func (n *Nemesis) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n.Recorder.Event(history.Op{F: history.Nemesis, Note: text})
	n.Logf("nemesis: %s", text)
}

// do does one fault to one or all nodes and undoes it.
func (n *Nemesis) do(ctx context.Context, fault string, length time.Duration) error {
	targets, who := n.targets(ctx)
	n.done[fault]++
	n.note("%s %s", fault, who)
	var failed error
	switch fault {
	case Kill, Term:
		failed = n.restart(ctx, fault, targets, length)
	case Pause:
		failed = n.pause(ctx, targets, length)
	case Cut:
		for _, i := range targets {
			n.Proxy.Cut(i)
		}
		_ = n.wait(ctx, length)
		for _, i := range targets {
			n.Proxy.Mend(i)
		}
	case Isolate:
		failed = n.isolate(ctx, targets, length)
	case Reset:
		for _, i := range targets {
			n.Proxy.Reset(i)
		}
	default:
		failed = fmt.Errorf("no fault is called %q", fault)
	}
	n.note("%s %s is over", fault, who)
	return failed
}

// targets chooses whom a fault meets: one node, most often for what it is, or
// all.
func (n *Nemesis) targets(ctx context.Context) ([]int, string) {
	one := n.rng.IntN(len(n.Nodes))
	role := n.rng.IntN(2 * (len(n.Roles) + 1))
	if len(n.Nodes) > 1 && n.rng.IntN(8) == 0 {
		var all []int
		for i := range n.Nodes {
			all = append(all, i)
		}
		return all, names(all)
	}
	if role < len(n.Roles) {
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		// Who cannot be found is replaced by the one that chance chose.
		if i, err := n.Roles[role].Find(limited); err == nil && i >= 0 && i < len(n.Nodes) {
			return []int{i}, fmt.Sprintf("%s (%s)", names([]int{i}), n.Roles[role].Name)
		}
	}
	return []int{one}, names([]int{one})
}

func names(targets []int) string {
	var out []string
	for _, i := range targets {
		out = append(out, fmt.Sprint(i+1))
	}
	return strings.Join(out, ",")
}

func (n *Nemesis) restart(ctx context.Context, fault string, targets []int, length time.Duration) error {
	// Several times in a row, sometimes: a broker that has just come back.
	for range 1 + n.rng.IntN(2) {
		if fault == Term {
			// One after the other, as an operator would.
			for _, i := range targets {
				if err := n.Nodes[i].Stop(); err != nil {
					return fmt.Errorf("broker %d: %w", i+1, err)
				}
				if err := n.begin(i); err != nil {
					return err
				}
			}
			continue
		}
		for _, i := range targets {
			n.Nodes[i].Kill()
		}
		if n.rng.IntN(2) == 0 {
			_ = n.wait(ctx, time.Duration(n.rng.Int64N(int64(length))))
		}
		// At once: no majority, no service.
		if err := n.begin(targets...); err != nil {
			return err
		}
	}
	return nil
}

// begin starts nodes that are down.
func (n *Nemesis) begin(targets ...int) error {
	for _, i := range targets {
		if err := n.Nodes[i].Launch(); err != nil {
			return fmt.Errorf("broker %d: start: %w", i+1, err)
		}
	}
	for _, i := range targets {
		if err := n.Nodes[i].AwaitReady(); err != nil {
			return fmt.Errorf("broker %d: start: %w", i+1, err)
		}
	}
	return nil
}

func (n *Nemesis) pause(ctx context.Context, targets []int, length time.Duration) error {
	for _, i := range targets {
		if err := syscall.Kill(n.Nodes[i].Pid(), syscall.SIGSTOP); err != nil {
			return fmt.Errorf("broker %d: %w: %w", i+1, ErrEnded, err)
		}
	}
	_ = n.wait(ctx, length)
	for _, i := range targets {
		if err := syscall.Kill(n.Nodes[i].Pid(), syscall.SIGCONT); err != nil {
			return fmt.Errorf("broker %d: %w: %w", i+1, ErrEnded, err)
		}
	}
	return nil
}

// isolate cuts the targets off from all others, in both directions or in one,
// or from one of them only, which leaves each with a majority of its own.
func (n *Nemesis) isolate(ctx context.Context, targets []int, length time.Duration) error {
	in, out := true, true
	switch n.rng.IntN(4) {
	case 0:
		in = false
	case 1:
		out = false
	}
	one := n.rng.IntN(3) == 0
	for _, i := range targets {
		var others []int
		for o := range n.Nodes {
			if o != i {
				others = append(others, o)
			}
		}
		if one {
			others = others[:1]
		}
		n.note("isolate %d from %s, in %t, out %t", i+1, names(others), in, out)
		if err := n.Network.Cut(i, others, in, out); err != nil {
			return err
		}
	}
	// Longer than a session, sometimes.
	_ = n.wait(ctx, 2*length)
	return n.Network.Heal()
}

// spoil sets the proxy's rules.
func (n *Nemesis) spoil(faults []string) {
	if len(faults) == 0 {
		return
	}
	var rules []*proxy.Rule
	if slices.Contains(faults, Repeat) {
		n.done[Repeat]++
		// A second copy must be harmless at any time: a Produce by its sequence,
		// the others by the epoch that each transaction has for itself.
		rules = append(rules,
			&proxy.Rule{Match: idempotent, Chance: 0.05, Action: proxy.RepeatLater, Jitter: 4 * time.Second},
			&proxy.Rule{Match: idempotent, Chance: 0.01, Action: proxy.Strand, Jitter: 4 * time.Second},
			&proxy.Rule{Match: repeatable, Chance: 0.05, Action: proxy.Repeat},
		)
	}
	if slices.Contains(faults, Net) {
		n.done[Net]++
		anything := func(*proxy.Request) bool { return true }
		rules = append(rules,
			&proxy.Rule{Match: anything, Chance: 0.02, Action: proxy.Delay, Jitter: 1500 * time.Millisecond},
			&proxy.Rule{Match: anything, Chance: 0.02, Action: proxy.DelayAnswer, Jitter: 1500 * time.Millisecond},
			&proxy.Rule{Match: anything, Chance: 0.01, Action: proxy.Stall, Jitter: 500 * time.Millisecond},
			&proxy.Rule{Match: anything, Chance: 0.003, Action: proxy.DropRequest},
			&proxy.Rule{Match: anything, Chance: 0.003, Action: proxy.DropAnswer},
		)
	}
	n.rng.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
	n.note("network: %s", strings.Join(faults, ", "))
	n.Proxy.Use(rules...)
}

// idempotent requests may arrive again at any later time: Produce of an
// idempotent producer, and what belongs to a transaction of version 2, whose
// epoch is its own.
func idempotent(r *proxy.Request) bool {
	switch kmsg.Key(r.Key) {
	case kmsg.Produce:
		return true
	case kmsg.EndTxn, kmsg.TxnOffsetCommit:
		return r.Version >= 5
	default:
		return false
	}
}

// repeatable requests may arrive twice in a row before either is answered.
func repeatable(r *proxy.Request) bool {
	switch kmsg.Key(r.Key) {
	case kmsg.Produce, kmsg.EndTxn, kmsg.TxnOffsetCommit, kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn,
		kmsg.OffsetCommit, kmsg.OffsetFetch, kmsg.Heartbeat, kmsg.SyncGroup, kmsg.FindCoordinator, kmsg.ListOffsets:
		return true
	default:
		return false
	}
}
