package check

import (
	"slices"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// script makes a history of operations that follow each other, each an instant
// unless it says its times.
func script(ops ...history.Op) []history.Op {
	for i := range ops {
		if ops[i].Type == "" {
			ops[i].Type = history.OK
		}
		if ops[i].Returned == 0 {
			ops[i].Invoked, ops[i].Returned = int64(10*i+1), int64(10*i+2)
		}
	}
	return history.Sorted(ops)
}

func key(topic string, p int32) history.Key { return history.Key{Topic: topic, Partition: p} }

func sent(k history.Key, v, offset int64) history.Mop {
	return history.Mop{Send: &history.Sent{Key: k, Value: v, Offset: offset}}
}

func got(k history.Key, from int64, values ...int64) history.Mop {
	var reads []history.Read
	for i, v := range values {
		reads = append(reads, history.Read{Offset: from + int64(i), Value: v})
	}
	return history.Mop{Poll: map[history.Key][]history.Read{k: reads}}
}

func judge(t *testing.T, want string, o Options, ops []history.Op) {
	t.Helper()
	r := Run(ops, o)
	found := properties(r)
	if want == "" && len(found) > 0 || want != "" && !slices.Equal(found, []string{want}) {
		t.Errorf("want only %q:\n%s", want, r.Summary())
	}
}

func TestCycles(t *testing.T) {
	a, b := key("t", 0), key("t", 1)
	// Two transactions that each read the other.
	circle := script(
		history.Op{Process: 1, F: history.Txn, Mops: []history.Mop{sent(a, 1, 0), got(b, 0, 2)}, Invoked: 1, Returned: 10},
		history.Op{Process: 2, F: history.Txn, Mops: []history.Mop{sent(b, 2, 0), got(a, 0, 1)}, Invoked: 2, Returned: 11},
	)
	judge(t, "P14", Options{}, circle)
	// Writes that interleave are Kafka's way.
	interleaved := script(
		history.Op{Process: 1, F: history.Txn, Mops: []history.Mop{sent(a, 1, 0), sent(b, 4, 1)}, Invoked: 1, Returned: 10},
		history.Op{Process: 2, F: history.Txn, Mops: []history.Mop{sent(a, 2, 1), sent(b, 3, 0)}, Invoked: 2, Returned: 11},
	)
	judge(t, "", Options{}, interleaved)
	if r := Run(interleaved, Options{}); !slices.Contains(r.Notes, "P13 G0: 1 circles of writes, which Kafka allows") {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestComponentsOfALongChain(t *testing.T) {
	g := graph{}
	const n = 20_000
	for i := range n {
		g.add(i, i+1)
	}
	if c := g.components(); len(c) != 0 {
		t.Fatalf("%d circles in a chain", len(c))
	}
	g.add(n, 0)
	if c := g.components(); len(c) != 1 || len(c[0]) != n+1 {
		t.Fatalf("%d circles", len(c))
	}
}

func TestPipe(t *testing.T) {
	in, out := key("in", 0), key("out", 0)
	o := Options{Pipes: []Pipe{{"in", "out"}}}
	run := func(values ...int64) []history.Op {
		ops := []history.Op{
			{Process: 1, F: history.Send, Mops: []history.Mop{sent(in, 1, 0), sent(in, 2, 1), sent(in, 3, 2)}},
			{Process: 2, F: history.Poll, Mops: []history.Mop{got(in, 0, 1, 2, 3)}},
		}
		var there []int64
		for i, v := range values {
			m := sent(out, int64(100+i), int64(i))
			m.Send.From = v
			there = append(there, m.Send.Value)
			ops = append(ops, history.Op{Process: 10 + i, F: history.Send, Mops: []history.Mop{m}})
		}
		return script(append(ops, history.Op{Process: 3, F: history.Poll, Mops: []history.Mop{got(out, 0, there...)}})...)
	}
	judge(t, "", o, run(1, 2, 3))
	judge(t, "P22", o, run(1, 3))
	judge(t, "P22", o, run(2, 1, 3))
	judge(t, "P22", o, run(1, 2))
	judge(t, "P22", o, run(1, 2, 3, 2))
	judge(t, "P22", o, script())
}

func TestBank(t *testing.T) {
	a, b := key("bank", 0), key("bank", 1)
	transfer := func(from, to int64) []history.Mop {
		x, y := sent(a, 1, 0), sent(b, 2, 0)
		x.Send.Delta, y.Send.Delta = from, to
		return []history.Mop{x, y}
	}
	o := Options{Banks: []string{"bank"}, Final: true}
	judge(t, "", o, script(
		history.Op{Process: 1, F: history.Txn, Mops: transfer(-5, 5)},
		history.Op{Process: 2, F: history.Poll, Mops: []history.Mop{got(a, 0, 1), got(b, 0, 2)}},
	))
	judge(t, "P23", o, script(
		history.Op{Process: 1, F: history.Txn, Mops: transfer(-5, 6)},
		history.Op{Process: 2, F: history.Poll, Mops: []history.Mop{got(a, 0, 1), got(b, 0, 2)}},
	))
	half := Run(script(
		history.Op{Process: 1, F: history.Txn, Type: history.Info, Mops: transfer(-5, 5)},
		history.Op{Process: 2, F: history.Poll, Mops: []history.Mop{got(a, 0, 1)}},
	), o)
	if !slices.Contains(properties(half), "P23") || !slices.Contains(properties(half), "P3") {
		t.Errorf("half a transfer:\n%s", half.Summary())
	}
}

func TestRegister(t *testing.T) {
	k := key("t", 0)
	commit := func(t history.Type, v, from, to int64) history.Op {
		return history.Op{Process: int(from), F: history.Commit, Type: t, Group: "g", Once: true, Offsets: map[history.Key]int64{k: v}, Invoked: from, Returned: to}
	}
	fetch := func(v, from, to int64) history.Op {
		return history.Op{Process: int(from), F: history.FetchOffset, Group: "g", Offsets: map[history.Key]int64{k: v}, Invoked: from, Returned: to}
	}
	for name, c := range map[string]struct {
		want string
		ops  []history.Op
	}{
		"in order":                       {"", []history.Op{fetch(-1, 1, 2), commit(history.OK, 7, 3, 4), fetch(7, 5, 6)}},
		"at the same time":               {"", []history.Op{commit(history.OK, 7, 1, 9), fetch(-1, 2, 3), fetch(7, 4, 5)}},
		"back":                           {"P24", []history.Op{commit(history.OK, 7, 1, 9), fetch(7, 2, 3), fetch(-1, 4, 5)}},
		"an old value":                   {"P24", []history.Op{commit(history.OK, 7, 1, 2), commit(history.OK, 8, 3, 4), fetch(7, 5, 6)}},
		"lost":                           {"P24", []history.Op{commit(history.OK, 7, 1, 2), fetch(-1, 5, 6)}},
		"unknown, much later":            {"", []history.Op{commit(history.Info, 7, 1, 2), fetch(-1, 5, 6), fetch(7, 7, 8)}},
		"unknown, and gone again":        {"P24", []history.Op{commit(history.Info, 7, 1, 2), fetch(7, 5, 6), fetch(-1, 7, 8)}},
		"refused, and has an effect":     {"P24", []history.Op{commit(history.Fail, 7, 1, 2), fetch(7, 5, 6)}},
		"before it was called":           {"P24", []history.Op{fetch(7, 1, 2), commit(history.OK, 7, 3, 4)}},
		"unknown, over one that is sure": {"", []history.Op{commit(history.Info, 7, 1, 2), commit(history.OK, 8, 3, 4), fetch(8, 5, 6), fetch(7, 7, 8)}},
	} {
		t.Run(name, func(t *testing.T) { judge(t, c.want, Options{}, script(c.ops...)) })
	}
}

func TestGroups(t *testing.T) {
	k := key("t", 0)
	send := history.Op{Process: 9, F: history.Send, Mops: []history.Mop{sent(k, 1, 0), sent(k, 2, 1), sent(k, 3, 2)}}
	subscribe := func(p int) history.Op { return history.Op{Process: p, F: history.Subscribe, Group: "g"} }
	owned := func(p int, generation int32) history.Op {
		return history.Op{Process: p, F: history.Owned, Group: "g", Member: "m", Generation: generation, Classic: true, Keys: []history.Key{k}}
	}
	poll := func(p int, from int64, values ...int64) history.Op {
		return history.Op{Process: p, F: history.Poll, Mops: []history.Mop{got(k, from, values...)}}
	}
	commit := func(p int, generation int32, offset int64) history.Op {
		return history.Op{Process: p, F: history.Commit, Group: "g", Generation: generation, Classic: true, Offsets: map[history.Key]int64{k: offset}}
	}
	modern := func(op history.Op) history.Op {
		op.Classic = false
		return op
	}
	for name, c := range map[string]struct {
		want string
		ops  []history.Op
	}{
		"handed over": {"", []history.Op{
			send, subscribe(1), owned(1, 1), poll(1, 0, 1), commit(1, 1, 1),
			subscribe(2), owned(2, 2), poll(2, 1, 2, 3), commit(2, 2, 3),
		}},
		"read again by the next owner": {"", []history.Op{
			send, subscribe(1), owned(1, 1), poll(1, 0, 1, 2), commit(1, 1, 1),
			subscribe(2), owned(2, 2), poll(2, 1, 2, 3), commit(2, 2, 3),
		}},
		"two owners": {"P25", []history.Op{
			send, subscribe(1), owned(1, 1), subscribe(2), owned(2, 1),
		}},
		"a commit of an old generation": {"P25", []history.Op{
			send, subscribe(1), owned(1, 1), poll(1, 0, 1), subscribe(2), owned(2, 2), commit(1, 1, 1),
		}},
		"a start beyond what was committed": {"P25", []history.Op{
			send, subscribe(1), owned(1, 1), poll(1, 0, 1, 2), commit(1, 1, 1), subscribe(2), owned(2, 2), poll(2, 2, 3),
		}},
		"a start before what an earlier owner committed": {"P25", []history.Op{
			send, subscribe(1), owned(1, 1), poll(1, 0, 1, 2), commit(1, 1, 1), commit(1, 1, 2),
			subscribe(2), owned(2, 2), poll(2, 0, 1, 2), commit(2, 2, 2),
			subscribe(3), owned(3, 3), poll(3, 1, 2),
		}},
		"a commit that came late to the next owner": {"", []history.Op{
			send, subscribe(1), owned(1, 1), poll(1, 0, 1, 2), commit(1, 1, 1), subscribe(2),
			{Process: 1, F: history.Commit, Type: history.Info, Group: "g", Generation: 1, Classic: true, Offsets: map[history.Key]int64{k: 2}, Returned: 500, Invoked: 61},
			owned(2, 2), poll(2, 1, 2, 3),
		}},
		"a commit after another member had the key, consumer protocol": {"P25", []history.Op{
			send, subscribe(1), modern(owned(1, 1)), poll(1, 0, 1), subscribe(2), modern(owned(2, 2)), modern(commit(1, 1, 1)),
		}},
		"its own commit of an older epoch, consumer protocol": {"", []history.Op{
			send, subscribe(1), modern(owned(1, 1)), poll(1, 0, 1), subscribe(2), modern(owned(1, 2)), modern(commit(1, 1, 1)),
		}},
		"committed and never delivered": {"P25", []history.Op{
			send, subscribe(1), owned(1, 1), poll(1, 0, 1), commit(1, 1, 3),
			{Process: 3, F: history.Poll, Mops: []history.Mop{got(k, 0, 1, 2, 3)}},
		}},
	} {
		t.Run(name, func(t *testing.T) { judge(t, c.want, Options{}, script(c.ops...)) })
	}
}

func TestFences(t *testing.T) {
	k := key("t", 0)
	op := history.Op{Process: 2, F: history.Txn, Mops: []history.Mop{sent(k, 1, 0)}}
	op.Mops[0].Send.PID, op.Mops[0].Send.Epoch = 5, 3
	read := history.Op{Process: 3, F: history.Poll, Mops: []history.Mop{got(k, 0, 1)}}
	bump := func(epoch int16) history.Op { return history.Op{Process: 1, F: history.InitPid, PID: 5, Epoch: epoch} }
	judge(t, "", Options{}, script(bump(3), op, bump(4), read))
	judge(t, "P21", Options{}, script(bump(4), op, read))
}

func TestMetadata(t *testing.T) {
	k := key("t", 0)
	say := func(broker, leader, epoch, partition int32) history.Op {
		return history.Op{Process: 1, F: history.Metadata, Leaders: []history.Leader{{Key: k, Broker: broker, Leader: leader, Epoch: epoch, PartitionEpoch: partition, ControllerEpoch: -1}}}
	}
	judge(t, "", Options{}, script(say(1, 1, 4, 1), say(2, 3, 3, -1), say(1, 2, 5, 2)))
	judge(t, "P27", Options{}, script(say(1, 1, 4, 1), say(1, 1, 3, 1)))
	judge(t, "P27", Options{}, script(say(1, 1, 4, 2), say(1, 1, 4, 1)))
	judge(t, "P27", Options{}, script(say(1, 1, 4, -1), say(2, 2, 4, -1)))
	// Who said it is not known.
	judge(t, "", Options{}, script(say(-1, 1, 4, 1), say(-1, 1, 3, 1)))
	// An older answer that is under way at the same time takes nothing back.
	slow, quick, after := say(1, 1, 4, 2), say(1, 1, 3, 1), say(1, 1, 3, 1)
	slow.Invoked, slow.Returned = 1, 10
	quick.Invoked, quick.Returned = 2, 5
	after.Invoked, after.Returned = 11, 12
	judge(t, "P27", Options{}, script(slow, quick, after))
}

func TestRecovery(t *testing.T) {
	k := key("t", 0)
	o := Options{RecoverWithin: time.Second}
	healed := history.Op{F: history.Healed}
	judge(t, "P16", o, script(history.Op{Process: 1, F: history.Send, Mops: []history.Mop{sent(k, 1, 0)}}, healed))
	judge(t, "", o, script(healed, history.Op{Process: 1, F: history.Send, Mops: []history.Mop{sent(k, 1, 0)}}, history.Op{Process: 1, F: history.Poll, Mops: []history.Mop{got(k, 0, 1)}}))
	// Each key counts by itself, but not one of a topic that comes and goes.
	send := func(k history.Key, v, offset, at int64) history.Op {
		return history.Op{Process: 1, F: history.Send, Mops: []history.Mop{sent(k, v, offset)}, Invoked: at, Returned: at + 1}
	}
	poll := func(k history.Key, from, at int64, values ...int64) history.Op {
		return history.Op{Process: 2, F: history.Poll, Mops: []history.Mop{got(k, from, values...)}, Invoked: at, Returned: at + 1}
	}
	second := int64(time.Second)
	other, churned := key("t", 1), key("churn"+history.Incarnation+"1", 0)
	healed.Invoked, healed.Returned = 5*second, 5*second
	before := []history.Op{
		send(k, 1, 0, 10), poll(k, 0, 20, 1), send(other, 1, 0, 30), poll(other, 0, 40, 1), send(churned, 1, 0, 50), poll(churned, 0, 60, 1), healed,
		send(k, 2, 1, 5*second+10), poll(k, 1, 5*second+20, 2),
	}
	for want, after := range map[string][]history.Op{
		"":    {send(other, 2, 1, 5*second+10), poll(other, 1, 5*second+20, 2)},
		"P16": {send(other, 2, 1, 5*second+10), poll(other, 1, 7*second, 2)},
	} {
		judge(t, want, o, script(slices.Concat(before, after)...))
	}
	judge(t, "P16", o, script(slices.Concat(before, []history.Op{send(other, 2, 1, 5*second+10)})...))
	judge(t, "P16", o, script(before...))
	// A poll that finds nothing, or is refused, is no proof of service.
	for _, nothing := range [][]history.Mop{{got(k, 0)}, {{Poll: map[history.Key][]history.Read{}}}} {
		judge(t, "P16", o, script(healed, history.Op{Process: 1, F: history.Send, Mops: []history.Mop{sent(k, 1, 0)}}, history.Op{Process: 1, F: history.Poll, Mops: nothing}))
	}
}

func TestStuck(t *testing.T) {
	k := key("t", 0)
	o := Options{StuckAfter: 10 * time.Second}
	marks := func(stable func(i int) int64, gap time.Duration) []history.Op {
		var ops []history.Op
		for i := range 15 {
			at := int64(i+1) * int64(gap)
			ops = append(ops, history.Op{F: history.Observe, Invoked: at, Returned: at + 1, Marks: []history.Mark{{
				Key: k, LeaderEpoch: 1, EpochStart: -1, LogStart: -1, LastStable: stable(i), High: int64(i) + 10, End: -1,
			}}})
		}
		return script(ops...)
	}
	judge(t, "P26", o, marks(func(int) int64 { return 5 }, time.Second))
	judge(t, "", o, marks(func(i int) int64 { return int64(i) }, time.Second))
	// Nobody could look for most of the time.
	few := marks(func(int) int64 { return 5 }, time.Minute)
	judge(t, "", o, few[:5])
	judge(t, "", o, marks(func(i int) int64 { return 5 + int64(i)/10*10 }, time.Second))
}

func TestDeposedLeader(t *testing.T) {
	k := key("t", 0)
	second := int64(time.Second)
	mark := func(broker, epoch int32, high, at int64) history.Op {
		return history.Op{
			F: history.Observe, Invoked: at, Returned: at + 1,
			Marks: []history.Mark{{Key: k, Broker: broker, LeaderEpoch: epoch, EpochStart: -1, LogStart: -1, LastStable: -1, High: high, End: -1, FromOffsets: true}},
		}
	}
	leader := func(broker, leader, epoch int32, at int64) history.Op {
		return history.Op{
			F: history.Metadata, Invoked: at, Returned: at + 1,
			Leaders: []history.Leader{{Key: k, Broker: broker, Leader: leader, Epoch: epoch, PartitionEpoch: -1, ControllerEpoch: -1}},
		}
	}
	send := history.Op{Process: 1, F: history.Send, Mops: []history.Mop{sent(k, 1, 0), sent(k, 2, 1)}, Invoked: 1, Returned: 2}
	read := history.Op{Process: 2, F: history.Poll, Mops: []history.Mop{got(k, 0, 1, 2)}, Invoked: 20 * second, Returned: 20*second + 1}
	refused := history.Op{Process: 3, F: history.Poll, Ended: map[history.Key]int64{k: 1}, Invoked: 22 * second, Returned: 22*second + 1}
	// Broker 1 was cut off and deposed, and answers from before the second record.
	past := []history.Op{send, leader(1, 1, 0, 10), leader(2, 2, 1, 10*second), read, mark(1, 0, 1, 21*second), refused}
	judge(t, "", Options{}, script(past...))
	// The new leader itself has lost it.
	judge(t, "P18", Options{}, script(send, leader(1, 1, 0, 10), leader(2, 2, 1, 10*second), read, mark(2, 1, 1, 21*second)))
	judge(t, "P18", Options{}, script(send, leader(1, 1, 0, 10), leader(2, 2, 1, 10*second), read, mark(2, 1, 2, 21*second), refused))
	// Broker 1 has heard of its successor.
	judge(t, "P18", Options{}, script(append(slices.Clone(past), leader(1, 2, 1, 15*second))...))
	// Nobody knows what broker 1 knows.
	judge(t, "P18", Options{}, script(append(slices.Clone(past[:1]), past[2:]...)...))
	// Broker 1 has what was refused.
	early := history.Op{Process: 3, F: history.Poll, Ended: map[history.Key]int64{k: 0}, Invoked: 22 * second, Returned: 22*second + 1}
	judge(t, "P18", Options{}, script(append(slices.Clone(past[:4]), mark(1, 0, 2, 21*second), early)...))
	// It was broker 2 that refused.
	its := refused
	its.Marks = []history.Mark{{Key: k, Broker: 2, LeaderEpoch: 1, EpochStart: -1, LogStart: -1, LastStable: -1, High: -1, End: -1}}
	judge(t, "P18", Options{}, script(append(slices.Clone(past[:5]), its)...))
}

// TestEpochThatEndsBelowAReader: an aborted transaction began an epoch, and a reader of
// committed records stands behind it with nothing read of that epoch. franz-go takes it
// for a loss that the epoch before ended below where it stands.
func TestEpochThatEndsBelowAReader(t *testing.T) {
	k := history.Key{Topic: "t"}
	ops := []history.Op{
		{Process: 1, F: history.Send, Type: history.OK, Mops: []history.Mop{{Send: &history.Sent{Key: k, Value: 1, Offset: 310}}}, Invoked: 1, Returned: 2},
		{Process: 1, F: history.Send, Type: history.OK, Mops: []history.Mop{{Send: &history.Sent{Key: k, Value: 2, Offset: 314}}}, Invoked: 3, Returned: 4},
		{Process: 2, F: history.Poll, Type: history.OK, Mops: []history.Mop{{Poll: map[history.Key][]history.Read{k: {{Offset: 310, Value: 1}, {Offset: 314, Value: 2, Epoch: 1}}}}}, Invoked: 5, Returned: 6},
		{Process: 3, F: history.Poll, Type: history.OK, EpochEnded: map[history.Key]history.EpochEnd{k: {Epoch: 0, End: 311}}, Invoked: 7, Returned: 8},
	}
	if got := properties(Run(ops, Options{})); slices.Contains(got, "P18") {
		t.Errorf("the records of epoch 0 do end at 311: %v", got)
	}
	ops[3].EpochEnded[k] = history.EpochEnd{Epoch: 0, End: 310}
	if got := properties(Run(ops, Options{})); !slices.Contains(got, "P18") {
		t.Errorf("one of epoch 0 was read at 310: %v", got)
	}
}
