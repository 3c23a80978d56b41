package check

import (
	"math/rand/v2"
	"slices"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// sim is a broker that keeps every promise, as a model: it makes histories that
// the checker must find clean and that the tests then spoil.
type sim struct {
	rng  *rand.Rand
	now  int64
	ops  []history.Op
	logs map[history.Key]*simLog
	keys []history.Key

	value   int64
	clients []*simClient
	process int
}

type simLog struct {
	values  []int64 // by offset; -1 is a marker or an aborted record
	pending map[int64]bool
	batches []Batch
}

type simClient struct {
	process  int
	position map[history.Key]int64
	txn      *history.Op // open
	at       []int64     // offsets of its sends
	seq      map[history.Key]int32
	epoch    int16
}

func simulate(seed uint64, steps int) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 1)), logs: map[history.Key]*simLog{}}
	for i := range 3 {
		k := history.Key{Topic: "t", Partition: int32(i)}
		s.keys = append(s.keys, k)
		s.logs[k] = &simLog{pending: map[int64]bool{}}
	}
	for range 4 {
		s.clients = append(s.clients, s.client())
	}
	for range steps {
		s.step(s.rng.IntN(len(s.clients)))
	}
	for _, c := range s.clients {
		if c.txn != nil {
			s.end(c, history.OK)
		}
	}
	s.event(history.Op{F: history.Healed})
	c := s.client()
	for _, k := range s.keys {
		s.sendTo(c, history.OK, k)
	}
	for _, k := range s.keys {
		op := history.Op{Process: c.process, F: history.Poll, Final: true, Mops: []history.Mop{s.poll(c, k, 1<<30)}}
		s.event(op)
	}
	for range 2 {
		s.observe()
	}
	s.send(c, history.OK)
	return s
}

func (s *sim) client() *simClient {
	s.process++
	c := &simClient{process: s.process, position: map[history.Key]int64{}, seq: map[history.Key]int32{}}
	s.event(history.Op{Process: c.process, F: history.Assign, Keys: s.keys})
	return c
}

func (s *sim) event(op history.Op) {
	op.Type, op.Index = history.OK, len(s.ops)
	op.Invoked, op.Returned = s.now, s.now+1
	s.now += 2
	s.ops = append(s.ops, op)
}

func (s *sim) step(i int) {
	c := s.clients[i]
	switch n := s.rng.IntN(20); {
	case c.txn != nil && n < 8:
		s.mop(c)
	case c.txn != nil && n < 16:
		s.end(c, []history.Type{history.OK, history.OK, history.OK, history.Fail, history.Info}[s.rng.IntN(5)])
	case c.txn != nil:
		// others go on
	case n < 8:
		c.txn = &history.Op{Process: c.process, F: history.Txn, Invoked: s.now}
		s.now++
		s.mop(c)
	case n < 13:
		s.send(c, []history.Type{history.OK, history.OK, history.Fail, history.Info}[s.rng.IntN(4)])
	case n < 19:
		s.event(history.Op{Process: c.process, F: history.Poll, Mops: []history.Mop{s.poll(c, s.pick(), 4)}})
	default:
		s.observe()
	}
}

func (s *sim) pick() history.Key { return s.keys[s.rng.IntN(len(s.keys))] }

// append adds a record, or a marker where v is -1, and returns its offset.
func (s *sim) append(c *simClient, k history.Key, v int64, txn bool) int64 {
	l := s.logs[k]
	o := int64(len(l.values))
	l.values = append(l.values, v)
	b := Batch{Base: o, Last: o, PID: int64(c.process), Epoch: c.epoch, BaseSequence: -1, Control: v < 0, Txn: txn, Hash: uint64(v)}
	if v >= 0 {
		b.BaseSequence, b.Values = c.seq[k], []int64{v}
		c.seq[k]++
	}
	l.batches = append(l.batches, b)
	return o
}

func (s *sim) send(c *simClient, t history.Type) {
	keys := make([]history.Key, 1+s.rng.IntN(3))
	for i := range keys {
		keys[i] = s.pick()
	}
	s.sendTo(c, t, keys...)
}

func (s *sim) sendTo(c *simClient, t history.Type, keys ...history.Key) {
	var mops []history.Mop
	for _, k := range keys {
		s.value++
		sent := &history.Sent{Key: k, Value: s.value, Offset: -1}
		if t == history.OK || t == history.Info && s.rng.IntN(2) == 0 {
			o := s.append(c, k, s.value, false)
			if t == history.OK {
				sent.Offset = o
			}
		}
		mops = append(mops, history.Mop{Send: sent})
	}
	s.event(history.Op{Process: c.process, F: history.Send, Mops: mops})
	s.ops[len(s.ops)-1].Type = t
}

func (s *sim) mop(c *simClient) {
	s.now++
	if s.rng.IntN(3) == 0 {
		c.txn.Mops = append(c.txn.Mops, s.poll(c, s.pick(), 4))
		c.at = append(c.at, -1)
		return
	}
	k := s.pick()
	s.value++
	o := s.append(c, k, s.value, true)
	s.logs[k].pending[o] = true
	c.txn.Mops = append(c.txn.Mops, history.Mop{Send: &history.Sent{Key: k, Value: s.value, Offset: o}})
	c.at = append(c.at, o)
}

func (s *sim) end(c *simClient, t history.Type) {
	op, commit := c.txn, t == history.OK || t == history.Info && s.rng.IntN(2) == 0
	marked := map[history.Key]bool{}
	for i, m := range op.Mops {
		if m.Send == nil {
			continue
		}
		l := s.logs[m.Send.Key]
		delete(l.pending, c.at[i])
		if !commit {
			l.values[c.at[i]] = -1
		}
		marked[m.Send.Key] = true
	}
	c.epoch++
	for _, k := range s.keys {
		if marked[k] {
			s.append(c, k, -1, true)
		}
	}
	c.seq = map[history.Key]int32{}
	op.Type, op.Returned, op.Index = t, s.now, len(s.ops)
	s.now++
	s.ops = append(s.ops, *op)
	c.txn, c.at = nil, nil
	switch t {
	case history.Fail: // seek back
		for i := len(op.Mops) - 1; i >= 0; i-- {
			for k, reads := range op.Mops[i].Poll {
				if len(reads) > 0 {
					c.position[k] = reads[0].Offset
				}
			}
		}
	case history.Info: // crash
		*c = *s.client()
	}
}

func (l *simLog) stable() int64 {
	stable := int64(len(l.values))
	for o := range l.pending {
		stable = min(stable, o)
	}
	return stable
}

func (s *sim) poll(c *simClient, k history.Key, n int) history.Mop {
	l := s.logs[k]
	var reads []history.Read
	for end := l.stable(); c.position[k] < end && len(reads) < n; c.position[k]++ {
		if v := l.values[c.position[k]]; v >= 0 {
			reads = append(reads, history.Read{Offset: c.position[k], Value: v})
		}
	}
	return history.Mop{Poll: map[history.Key][]history.Read{k: reads}}
}

func (s *sim) observe() {
	var marks []history.Mark
	for _, k := range s.keys {
		l := s.logs[k]
		end := int64(len(l.values))
		marks = append(marks, history.Mark{Key: k, Broker: 1, EpochStart: 0, LastStable: l.stable(), High: end, End: end, FromOffsets: true})
	}
	s.event(history.Op{F: history.Observe, Marks: marks})
}

// replica is what the sim's broker has on its disk.
func (s *sim) replica(broker int32) Replica {
	r := Replica{Broker: broker, Logs: map[history.Key]Log{}}
	for k, l := range s.logs {
		r.Logs[k] = Log{InSync: true, High: int64(len(l.values)), Batches: slices.Clone(l.batches)}
	}
	return r
}

// history is a deep enough copy to spoil.
func (s *sim) history() []history.Op {
	ops := slices.Clone(s.ops)
	for i := range ops {
		ops[i].Mops = slices.Clone(ops[i].Mops)
		for j, m := range ops[i].Mops {
			if m.Send != nil {
				sent := *m.Send
				ops[i].Mops[j].Send = &sent
			}
			if m.Poll != nil {
				polls := map[history.Key][]history.Read{}
				for k, reads := range m.Poll {
					polls[k] = slices.Clone(reads)
				}
				ops[i].Mops[j].Poll = polls
			}
		}
		ops[i].Marks = slices.Clone(ops[i].Marks)
	}
	return history.Sorted(ops)
}
