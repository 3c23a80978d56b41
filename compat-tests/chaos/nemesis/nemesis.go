// Package nemesis does to brokers what happens to them: it kills, pauses and
// restarts their processes and spoils the network before them, in periods that
// a seed chooses. It cuts them off from each other, spoils their disks, and lets
// administrators act meanwhile, where it is given the means. A quarter of the
// periods is quiet, and at the end everything is healed.
//
// One goroutine runs the schedule; nothing else may start or end the nodes
// meanwhile. Each action of an administrator has a goroutine for a period.
package nemesis

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
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
	Storm   = "storm"   // all brokers in quick turn, and all at once
	Cut     = "cut"     // no client reaches a broker
	Bar     = "bar"     // some clients do not reach a broker, others do
	Reset   = "reset"   // all clients' connections break
	Slow    = "slow"    // what clients and a broker send each other trickles
	Net     = "net"     // requests and answers are delayed, lost, torn and cut in two
	Repeat  = "repeat"  // requests that may be repeated are, at once, later or stranded
	Isolate = "isolate" // brokers do not reach each other, clients reach them
	Etcd    = "etcd"    // a broker does not reach the controllers, other brokers and clients reach it
	Quorum  = "quorum"  // most or all controllers are paused or killed
	Full    = "full"    // a disk is full
	Disk    = "disk"    // a disk fails, and with it what was not synced to it
)

// All are all faults that need nothing but processes and a proxy.
var All = []string{Kill, Term, Pause, Storm, Cut, Bar, Reset, Slow, Net, Repeat}

// Clustered are those that need several brokers, Separated those that need a
// Network, Stored those that need Volumes.
var (
	Clustered = []string{Quorum}
	Separated = []string{Isolate, Etcd}
	Stored    = []string{Full, Disk}
)

// Nemesis is a schedule.
type Nemesis struct {
	// Nodes are all processes, brokers first. The first Brokers of them have a
	// proxy; those of Controllers, which may be brokers too, form the quorum.
	Nodes       []Node
	Brokers     int
	Controllers []int
	Proxy       *proxy.Set // before the brokers, in their order
	Recorder    *history.Recorder
	Faults      []string
	Seed        uint64
	// Network is what Isolate and Etcd need, nil where there is none.
	Network Network
	// ControllerPorts are the TCP ports that controllers listen at.
	ControllerPorts []string
	// Volumes are the brokers' disks, which Full and Disk need.
	Volumes []Volume
	// Whole tells whether every replica of every partition is in sync. A disk
	// that fails while another broker has not got everything back may hold the
	// only copy.
	Whole func(ctx context.Context) bool
	// Roles find nodes that are something in a cluster, such as the controller.
	Roles []Role
	// Actions are what administrators do meanwhile.
	Actions []Action
	// Period is the longest that one fault, or quiet, lasts.
	Period time.Duration
	Logf   func(format string, args ...any)

	rng  *rand.Rand
	done map[string]int
}

// Volume is a broker's disk.
type Volume interface {
	Fill() error
	Free() error
	// Fail lets every call answer EIO until Restore, which needs that nobody
	// uses the disk.
	Fail() error
	Restore() error
}

// Action is something that an administrator does to a cluster under load, again
// and again in a period that has it.
type Action struct {
	Name string
	// Do does it once and says what it did. It may well fail.
	Do func(ctx context.Context, rng *rand.Rand) (string, error)
	// Undo brings the cluster to where it was, when all faults are over.
	Undo func(ctx context.Context) error
}

// Network cuts brokers off from each other.
type Network interface {
	// Cut drops what broker i gets from others (in) or sends to them (out).
	Cut(i int, others []int, in, out bool) error
	// CutPorts drops what goes between node i and others to or from TCP ports.
	CutPorts(i int, others []int, ports ...string) error
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
	if failed == nil { // a broker that is gone is not healed
		n.Recorder.Event(history.Op{F: history.Healed})
	}
	return errors.Join(failed, n.undo(context.WithoutCancel(ctx)))
}

// undoWithin is how long administrators may take to bring a healed cluster to
// where it was.
const undoWithin = 90 * time.Second

func (n *Nemesis) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, undoWithin)
	defer cancel()
	var failed error
	for _, a := range n.Actions {
		if err := a.Undo(ctx); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", a.Name, err))
		}
	}
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
	acting := n.act(ctx)
	defer acting.stop()
	n.spoil(net)
	defer n.Proxy.Use()
	if len(process) == 0 {
		_ = n.wait(ctx, length)
		return nil
	}
	// One after the other: a killed broker cannot be paused.
	n.rng.Shuffle(len(process), func(i, j int) { process[i], process[j] = process[j], process[i] })
	for _, f := range process[:1+n.rng.IntN(min(2, len(process)))] {
		if err := n.do(ctx, f, length, len(net) == 0 && acting.nothing()); err != nil {
			return err
		}
		_ = n.wait(ctx, time.Duration(n.rng.Int64N(int64(2*time.Second))))
	}
	return nil
}

// acting is what administrators do in a period.
type acting struct {
	cancel context.CancelFunc
	each   []func()
}

func (a *acting) nothing() bool { return len(a.each) == 0 }

// stop returns when they do nothing any more.
func (a *acting) stop() {
	a.cancel()
	for _, wait := range a.each {
		wait()
	}
}

// act lets about half of the actions begin.
func (n *Nemesis) act(ctx context.Context) *acting {
	ctx, cancel := context.WithCancel(ctx)
	out := &acting{cancel: cancel}
	for _, a := range n.Actions {
		seed := n.rng.Uint64()
		if n.rng.IntN(2) == 0 {
			continue
		}
		n.done[a.Name]++
		ended := make(chan struct{})
		out.each = append(out.each, func() { <-ended })
		go func() {
			defer close(ended)
			rng := rand.New(rand.NewPCG(seed, 0x61))
			for ctx.Err() == nil {
				limited, over := context.WithTimeout(ctx, actWithin)
				what, err := a.Do(limited, rng)
				over()
				if err != nil {
					what += ": " + err.Error()
				}
				n.note("%s: %s", a.Name, what)
				_ = n.wait(ctx, time.Duration(rng.Int64N(int64(4*time.Second))))
			}
		}()
	}
	return out
}

// actWithin is how long an administrator waits for an answer.
const actWithin = 10 * time.Second

func (n *Nemesis) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n.Recorder.Event(history.Op{F: history.Nemesis, Note: text})
	n.Logf("nemesis: %s", text)
}

// do does one fault to one or all nodes and undoes it. alone says that nothing
// else goes on meanwhile.
func (n *Nemesis) do(ctx context.Context, fault string, length time.Duration, alone bool) error {
	targets, who := n.targets(ctx, fault)
	if fault == Disk && !n.Whole(ctx) {
		n.note("%s %s: not now, some replica is not in sync", fault, who)
		return nil
	}
	n.done[fault]++
	n.note("%s %s", fault, who)
	var failed error
	switch fault {
	case Kill, Term:
		failed = n.restart(ctx, fault, targets, length)
	case Storm:
		failed = n.storm(ctx)
	case Pause:
		failed = n.pause(ctx, targets, length)
	case Cut, Bar, Slow:
		n.spoilt(ctx, fault, targets, length)
	case Isolate:
		failed = n.isolate(ctx, targets, length)
	case Etcd:
		failed = n.unled(ctx, targets, length)
	case Quorum:
		failed = n.quorum(ctx, length, alone)
	case Full, Disk:
		failed = n.disks(ctx, fault, targets, length)
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
// all. Only processes are ended; what has to do with clients and records meets
// brokers.
func (n *Nemesis) targets(ctx context.Context, fault string) ([]int, string) {
	switch fault {
	case Storm:
		return nil, "all brokers"
	case Quorum:
		return nil, "of the controllers"
	}
	of := n.Brokers
	if slices.Contains([]string{Kill, Term, Pause, Isolate}, fault) {
		of = len(n.Nodes)
	}
	one := n.rng.IntN(of)
	role := n.rng.IntN(2 * (len(n.Roles) + 1))
	// Disks that fail all at once lose what no disk was asked to keep.
	if of > 1 && n.rng.IntN(8) == 0 && fault != Disk {
		var all []int
		for i := range of {
			all = append(all, i)
		}
		return all, names(all)
	}
	if role < len(n.Roles) {
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		// Who cannot be found is replaced by the one that chance chose.
		if i, err := n.Roles[role].Find(limited); err == nil && i >= 0 && i < of {
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
	if err := n.signal(targets, syscall.SIGSTOP); err != nil {
		return err
	}
	_ = n.wait(ctx, length)
	return n.signal(targets, syscall.SIGCONT)
}

func (n *Nemesis) signal(targets []int, s syscall.Signal) error {
	for _, i := range targets {
		if err := syscall.Kill(n.Nodes[i].Pid(), s); err != nil {
			return fmt.Errorf("node %d: %w: %w", i+1, ErrEnded, err)
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
		others := n.others(i)
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

func (n *Nemesis) others(i int) []int {
	var out []int
	for o := range n.Nodes {
		if o != i {
			out = append(out, o)
		}
	}
	return out
}

// storm ends all brokers, one right after the other, most of them before the
// one before them serves again, then all at once.
func (n *Nemesis) storm(ctx context.Context) error {
	for range 1 + n.rng.IntN(3) {
		for i := range n.Brokers {
			n.Nodes[i].Kill()
			if err := n.Nodes[i].Launch(); err != nil {
				return fmt.Errorf("broker %d: start: %w", i+1, err)
			}
			if n.rng.IntN(4) == 0 {
				if err := n.Nodes[i].AwaitReady(); err != nil {
					return fmt.Errorf("broker %d: start: %w", i+1, err)
				}
			}
			_ = n.wait(ctx, time.Duration(n.rng.Int64N(int64(1500*time.Millisecond))))
		}
	}
	var all []int
	for i := range n.Brokers {
		n.Nodes[i].Kill()
		all = append(all, i)
	}
	return n.begin(all...)
}

// spoilt does what a proxy does to all requests to a broker, for a while.
func (n *Nemesis) spoilt(ctx context.Context, fault string, targets []int, length time.Duration) {
	salt := n.rng.Uint64()
	for _, i := range targets {
		switch fault {
		case Cut:
			n.Proxy.Cut(i)
		case Slow:
			n.Proxy.Slow(i)
		case Bar:
			n.Proxy.Bar(i, func(id string) bool { return half(salt, id) })
			// They do not wait until it answers what they asked before.
			n.Proxy.Reset(i)
		}
	}
	_ = n.wait(ctx, length)
	for _, i := range targets {
		n.Proxy.Mend(i)
	}
}

// half chooses about half of all clients.
func half(salt uint64, id string) bool {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, salt, id) // a hash takes everything
	return h.Sum64()>>32&1 == 0
}

// unled cuts brokers off from the controllers' ports, and only those.
func (n *Nemesis) unled(ctx context.Context, targets []int, length time.Duration) error {
	for _, i := range targets {
		if err := n.Network.CutPorts(i, n.others(i), n.ControllerPorts...); err != nil {
			return err
		}
	}
	// Longer than a session, sometimes.
	_ = n.wait(ctx, 2*length)
	return n.Network.Heal()
}

// quorum takes the controllers their majority. Where they are no brokers and
// nothing else goes on, clients must be served meanwhile.
func (n *Nemesis) quorum(ctx context.Context, length time.Duration, alone bool) error {
	chosen := slices.Clone(n.Controllers)
	n.rng.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	if n.rng.IntN(3) > 0 {
		chosen = chosen[:len(chosen)/2+1]
	}
	how := Pause
	if n.rng.IntN(2) == 0 {
		how = Kill
	}
	n.note("%s controllers %s", how, names(chosen))
	length *= 2
	if how == Kill {
		for _, i := range chosen {
			n.Nodes[i].Kill()
		}
		n.serve(ctx, length, alone)
		return n.begin(chosen...)
	}
	if err := n.signal(chosen, syscall.SIGSTOP); err != nil {
		return err
	}
	n.serve(ctx, length, alone)
	return n.signal(chosen, syscall.SIGCONT)
}

// serve waits, and notes that clients must be served all the time.
func (n *Nemesis) serve(ctx context.Context, length time.Duration, must bool) {
	for _, i := range n.Controllers {
		must = must && i >= n.Brokers
	}
	if !must {
		_ = n.wait(ctx, length)
		return
	}
	o := n.Recorder.Begin(history.Op{F: history.Serving, Note: "without a majority of the controllers"})
	_ = n.wait(ctx, length)
	n.Recorder.End(o, history.OK, nil)
}

// disks fills or breaks disks for a while. What the brokers make of it is
// theirs; afterwards each is started anew with a sound disk.
func (n *Nemesis) disks(ctx context.Context, fault string, targets []int, length time.Duration) error {
	for _, i := range targets {
		spoil := n.Volumes[i].Fill
		if fault == Disk {
			spoil = n.Volumes[i].Fail
		}
		if err := spoil(); err != nil {
			return err
		}
	}
	_ = n.wait(ctx, length)
	for _, i := range targets {
		select {
		case <-n.Nodes[i].Exited():
			n.note("broker %d has ended", i+1)
		default:
		}
		mend := n.Volumes[i].Free
		n.Nodes[i].Kill()
		if fault == Disk {
			mend = n.Volumes[i].Restore
		}
		if err := mend(); err != nil {
			return err
		}
	}
	return n.begin(targets...)
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
			&proxy.Rule{Match: anything, Chance: 0.002, Action: proxy.TearRequest},
			&proxy.Rule{Match: anything, Chance: 0.002, Action: proxy.TearAnswer},
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
