package check

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

func properties(r *Report) []string {
	var out []string
	for _, f := range r.Findings {
		if !slices.Contains(out, f.Property) {
			out = append(out, f.Property)
		}
	}
	return out
}

func wantClean(t *testing.T, ops []history.Op, o Options) *Report {
	t.Helper()
	r := Run(ops, o)
	if len(r.Findings) > 0 {
		t.Fatalf("a clean history is judged:\n%s", r.Summary())
	}
	return r
}

func wantFound(t *testing.T, ops []history.Op, o Options, property string) {
	t.Helper()
	r := Run(ops, o)
	if !slices.Contains(properties(r), property) {
		t.Fatalf("%s was not found:\n%s", property, r.Summary())
	}
}

var simOptions = Options{Final: true, RecoverWithin: time.Hour}

func TestCleanHistories(t *testing.T) {
	for seed := range uint64(40) {
		s := simulate(seed, 300)
		ops := s.history()
		// The sim's last send comes after the final polls.
		wantClean(t, ops[:len(ops)-1], Options{
			Final: true, StuckAfter: time.Hour, RecoverWithin: time.Hour, Replicas: []Replica{s.replica(1), s.replica(2)},
		})
	}
}

// place is where something stands in a history.
type place struct{ op, mop, at int }

// pollsOf are the places of polled records for which f holds.
func pollsOf(ops []history.Op, f func(op *history.Op, reads []history.Read, i int) bool) []place {
	var out []place
	for i := range ops {
		for j := range ops[i].Mops {
			for _, reads := range ops[i].Mops[j].Poll {
				for n := range reads {
					if f(&ops[i], reads, n) {
						out = append(out, place{i, j, n})
					}
				}
			}
		}
	}
	return out
}

func poll(ops []history.Op, p place) (history.Key, []history.Read) {
	for k, reads := range ops[p.op].Mops[p.mop].Poll {
		return k, reads
	}
	return history.Key{}, nil
}

func okPoll(op *history.Op, _ []history.Read, _ int) bool { return op.Type == history.OK && !op.Final }

// everywhere takes a value out of all polls.
func everywhere(ops []history.Op, k history.Key, v int64) {
	for i := range ops {
		for j := range ops[i].Mops {
			if reads, is := ops[i].Mops[j].Poll[k]; is {
				ops[i].Mops[j].Poll[k] = slices.DeleteFunc(reads, func(r history.Read) bool { return r.Value == v })
			}
		}
	}
}

func writerOf(ops []history.Op, k history.Key, v int64) *history.Op {
	for i := range ops {
		for _, s := range ops[i].Sends() {
			if s.Key == k && s.Value == v {
				return &ops[i]
			}
		}
	}
	return nil
}

// TestMutations spoils a clean history in one way at a time.
func TestMutations(t *testing.T) {
	mutations := map[string]struct {
		property string
		// spoil changes the history, or says that it has no place for it.
		spoil func(s *sim, ops []history.Op) bool
	}{
		"another value at an offset": {"P1", func(s *sim, ops []history.Op) bool {
			for _, p := range pollsOf(ops, okPoll) {
				_, reads := poll(ops, p)
				reads[p.at].Value = 1_000_000
				return true
			}
			return false
		}},
		"an acknowledgement names another record's offset": {"P1", func(s *sim, ops []history.Op) bool {
			for i := range ops {
				for _, m := range ops[i].Sends() {
					if ops[i].Type == history.OK && m.Offset > 0 && s.logs[m.Key].values[m.Offset-1] >= 0 {
						m.Offset--
						return true
					}
				}
			}
			return false
		}},
		"a value at a second offset": {"P2", func(s *sim, ops []history.Op) bool {
			for _, p := range pollsOf(ops, okPoll) {
				k, reads := poll(ops, p)
				ops[p.op].Mops[p.mop].Poll[k] = append(reads, history.Read{Offset: 1_000_000, Value: reads[0].Value})
				return true
			}
			return false
		}},
		"an acknowledged value that nobody reads": {"P3", func(s *sim, ops []history.Op) bool {
			for _, p := range pollsOf(ops, okPoll) {
				k, reads := poll(ops, p)
				v := reads[p.at].Value
				if w := writerOf(ops, k, v); w.Type == history.OK && reads[p.at].Offset < 10 {
					everywhere(ops, k, v)
					return true
				}
			}
			return false
		}},
		"half of an unknown transaction": {"P3", func(s *sim, ops []history.Op) bool {
			for i := range ops {
				sends := ops[i].Sends()
				if ops[i].F != history.Txn || ops[i].Type != history.Info || len(sends) < 2 || s.logs[sends[0].Key].values[sends[0].Offset] < 0 {
					continue
				}
				everywhere(ops, sends[0].Key, sends[0].Value)
				return true
			}
			return false
		}},
		"the last acknowledged value is missing": {"P4", func(s *sim, ops []history.Op) bool {
			k := s.keys[0]
			for o := len(s.logs[k].values) - 1; o >= 0; o-- {
				v := s.logs[k].values[o]
				if v < 0 || writerOf(ops, k, v).Type != history.OK {
					continue
				}
				everywhere(ops, k, v)
				return true
			}
			return false
		}},
		"an aborted value is read": {"P5", func(s *sim, ops []history.Op) bool {
			for i := range ops {
				if ops[i].Type != history.Fail || len(ops[i].Sends()) == 0 {
					continue
				}
				m := ops[i].Sends()[0]
				last := &ops[len(ops)-1]
				last.Mops = append(last.Mops, history.Mop{Poll: map[history.Key][]history.Read{m.Key: {{Offset: max(m.Offset, 1_000_000), Value: m.Value}}}})
				return true
			}
			return false
		}},
		"a value from nowhere": {"P5", func(s *sim, ops []history.Op) bool {
			last := &ops[len(ops)-1]
			last.Mops = append(last.Mops, history.Mop{Poll: map[history.Key][]history.Read{s.keys[0]: {{Offset: 1_000_000, Value: 1_000_000}}}})
			return true
		}},
		"a transaction reads itself": {"P6", func(s *sim, ops []history.Op) bool {
			for i := range ops {
				if ops[i].F == history.Txn && len(ops[i].Sends()) > 0 {
					m := ops[i].Sends()[0]
					ops[i].Mops = append(ops[i].Mops, history.Mop{Poll: map[history.Key][]history.Read{m.Key: {{Offset: m.Offset, Value: m.Value}}}})
					return true
				}
			}
			return false
		}},
		"one of two writes of a transaction is passed over": {"P7", func(s *sim, ops []history.Op) bool {
			// In the final poll, which reads all.
			for i := range ops {
				sends := ops[i].Sends()
				for a := range sends {
					for b := range a {
						if ops[i].Type != history.OK || ops[i].F != history.Txn || sends[a].Key != sends[b].Key {
							continue
						}
						k, v := sends[a].Key, sends[a].Value
						if int(sends[a].Offset) > len(s.logs[k].values)-10 {
							continue
						}
						for n := range ops {
							if reads, is := pollMop(&ops[n], k); is && ops[n].Final {
								ops[n].Mops[0].Poll[k] = slices.DeleteFunc(reads, func(r history.Read) bool { return r.Value == v })
								return true
							}
						}
					}
				}
			}
			return false
		}},
		"a poll passes over a value": {"P8", func(s *sim, ops []history.Op) bool {
			for _, p := range pollsOf(ops, func(op *history.Op, reads []history.Read, i int) bool { return i > 0 && i < len(reads)-1 }) {
				k, reads := poll(ops, p)
				ops[p.op].Mops[p.mop].Poll[k] = slices.Delete(reads, p.at, p.at+1)
				return true
			}
			return false
		}},
		"a poll is out of order": {"P9", func(s *sim, ops []history.Op) bool {
			for _, p := range pollsOf(ops, func(op *history.Op, reads []history.Read, i int) bool { return i > 0 }) {
				_, reads := poll(ops, p)
				reads[p.at], reads[p.at-1] = reads[p.at-1], reads[p.at]
				return true
			}
			return false
		}},
		"the next poll passes over a value": {"P10", func(s *sim, ops []history.Op) bool {
			for _, p := range pollsOf(ops, func(op *history.Op, reads []history.Read, i int) bool {
				return okPoll(op, reads, i) && i == 0 && len(reads) > 1 && reads[0].Offset > 3 && op.F == history.Poll
			}) {
				k, reads := poll(ops, p)
				if !readBefore(ops, p.op, k) {
					continue
				}
				ops[p.op].Mops[p.mop].Poll[k] = reads[1:]
				return true
			}
			return false
		}},
		"the next poll goes back": {"P11", func(s *sim, ops []history.Op) bool {
			for _, p := range pollsOf(ops, okPoll) {
				k, reads := poll(ops, p)
				if ops[p.op].F != history.Poll {
					continue
				}
				again := ops[p.op]
				again.Mops = []history.Mop{{Poll: map[history.Key][]history.Read{k: slices.Clone(reads)}}}
				again.F, again.Final = history.Poll, false
				ops[p.op+1] = again // in the place of the next operation
				return !ops[p.op+1].Final
			}
			return false
		}},
		"sends in the wrong order": {"P12", func(s *sim, ops []history.Op) bool {
			for i := range ops {
				sends := ops[i].Sends()
				for a := range sends {
					for b := range a {
						if ops[i].Type == history.OK && sends[a].Key == sends[b].Key {
							*sends[a], *sends[b] = *sends[b], *sends[a]
							return true
						}
					}
				}
			}
			return false
		}},
		"nothing works after the faults": {"P16", func(s *sim, ops []history.Op) bool {
			for i := range ops {
				if ops[i].F == history.Healed {
					ops[i].Returned += int64(2 * time.Hour)
					for j := i + 1; j < len(ops); j++ {
						ops[j].Invoked += int64(4 * time.Hour)
						ops[j].Returned += int64(4 * time.Hour)
					}
				}
			}
			return true
		}},
		"the stable offset above the watermark": {"P17", func(s *sim, ops []history.Op) bool {
			return eachMark(ops, func(m *history.Mark) { m.LastStable = m.High + 1 })
		}},
		"the watermark goes back": {"P17", func(s *sim, ops []history.Op) bool {
			last := &ops[len(ops)-2]
			if last.F != history.Observe {
				return false
			}
			last.Marks[0].High--
			last.Marks[0].LastStable--
			last.Marks[0].End--
			return true
		}},
		"the leader epoch goes back": {"P17", func(s *sim, ops []history.Op) bool {
			return eachMark(ops, func(m *history.Mark) { m.LeaderEpoch = 3 })
		}},
		"a latest offset below the start of the epoch": {"P17", func(s *sim, ops []history.Op) bool {
			return eachMark(ops, func(m *history.Mark) { m.EpochStart = m.High + 1 })
		}},
		"a latest offset below what was read": {"P18", func(s *sim, ops []history.Op) bool {
			last := &ops[len(ops)-2]
			if last.F != history.Observe {
				return false
			}
			last.Marks[0].High, last.Marks[0].LastStable, last.Marks[0].End = 1, 1, 1
			return true
		}},
		"an epoch ends before what was read of it": {"P18", func(s *sim, ops []history.Op) bool {
			last := &ops[len(ops)-1]
			last.EpochEnded = map[history.Key]history.EpochEnd{s.keys[0]: {Epoch: math.MaxInt32, End: 1}}
			return true
		}},
		"a read of what was read is out of range": {"P18", func(s *sim, ops []history.Op) bool {
			last := &ops[len(ops)-1]
			last.Ended = map[history.Key]int64{s.keys[0]: 1}
			return true
		}},
	}
	for name, m := range mutations {
		t.Run(name, func(t *testing.T) {
			spoiled := 0
			for seed := range uint64(8) {
				s := simulate(seed, 300)
				ops := s.history()
				clean := properties(Run(ops[:len(ops)-1], simOptions))
				if len(clean) > 0 {
					t.Fatalf("seed %d is not clean: %v", seed, clean)
				}
				if !m.spoil(s, ops) {
					continue
				}
				spoiled++
				wantFound(t, history.Sorted(ops), simOptions, m.property)
			}
			if spoiled < 2 {
				t.Fatalf("only %d of 8 histories had a place for it", spoiled)
			}
		})
	}
}

func pollMop(op *history.Op, k history.Key) ([]history.Read, bool) {
	for i := range op.Mops {
		if reads, is := op.Mops[i].Poll[k]; is {
			return reads, true
		}
	}
	return nil, false
}

// readBefore tells whether the process read the key in an ok operation since
// it assigned.
func readBefore(ops []history.Op, i int, k history.Key) bool {
	for j := i - 1; j >= 0; j-- {
		if ops[j].Process != ops[i].Process {
			continue
		}
		if ops[j].F == history.Assign {
			return false
		}
		reads, is := pollMop(&ops[j], k)
		if is && ops[j].Type == history.OK && len(reads) > 0 {
			return true
		}
	}
	return false
}

// eachMark changes a mark in the middle of the history.
func eachMark(ops []history.Op, f func(*history.Mark)) bool {
	for i := len(ops) / 3; i < len(ops)-3; i++ {
		if len(ops[i].Marks) > 0 {
			f(&ops[i].Marks[0])
			return true
		}
	}
	return false
}

func TestReplicas(t *testing.T) {
	mutations := map[string]struct {
		property string
		spoil    func(l *Log) bool
	}{
		"nothing":                        {"", func(*Log) bool { return true }},
		"another byte":                   {"P19", func(l *Log) bool { l.Batches[2].Hash++; return true }},
		"an epoch that goes back":        {"P19", func(l *Log) bool { l.Batches[2].LeaderEpoch = 4; return true }},
		"a batch too few":                {"P19", func(l *Log) bool { l.Batches = slices.Delete(l.Batches, 3, 4); return true }},
		"two batches swapped":            {"P19", func(l *Log) bool { l.Batches[3], l.Batches[4] = l.Batches[4], l.Batches[3]; return true }},
		"a value that is not there":      {"P20", func(l *Log) bool { return anyData(l, func(b *Batch) { b.Values = nil }) }},
		"a sequence that is repeated":    {"P21", func(l *Log) bool { return anyData(l, func(b *Batch) { b.BaseSequence-- }) }},
		"a sequence that is passed over": {"P21", func(l *Log) bool { return anyData(l, func(b *Batch) { b.BaseSequence++ }) }},
		"an epoch of a producer before":  {"P21", func(l *Log) bool { return anyData(l, func(b *Batch) { b.Epoch = -1; b.BaseSequence = 0 }) }},
	}
	for name, m := range mutations {
		t.Run(name, func(t *testing.T) {
			s := simulate(4, 400)
			ops := s.history()
			r1, r2 := s.replica(1), s.replica(2)
			k := s.keys[1]
			l := r2.Logs[k]
			if !m.spoil(&l) {
				t.Fatal("no place for it")
			}
			r2.Logs[k] = l
			r := Run(ops[:len(ops)-1], Options{Final: true, Replicas: []Replica{r1, r2}})
			got := properties(r)
			if m.property == "" && len(got) > 0 || m.property != "" && !slices.Contains(got, m.property) {
				t.Fatalf("want %q:\n%s", m.property, r.Summary())
			}
		})
	}
}

// One that is short hides nothing of others, and one that is not there is missed.
func TestReplicasThatAreShortOrMissing(t *testing.T) {
	s := simulate(4, 400)
	ops := s.history()
	k := s.keys[1]
	replicas := []Replica{s.replica(1), s.replica(2), s.replica(3)}
	o := Options{Final: true, Replicas: replicas, Kept: s.keys, Copies: 3}
	wantClean(t, ops[:len(ops)-1], o)

	short, other := replicas[0].Logs[k], replicas[2].Logs[k]
	n := len(short.Batches)
	short.Batches, short.High, short.InSync = short.Batches[:n/2], short.Batches[n/2].Base, false
	other.Batches[n-1].Hash++
	replicas[0].Logs[k] = short
	wantFound(t, ops[:len(ops)-1], o, "P19")

	other.Batches[n-1].Hash--
	delete(replicas[0].Logs, k)
	wantFound(t, ops[:len(ops)-1], o, "P20")
}

// anyData changes a data batch whose value was acknowledged and which is not
// its producer's first.
func anyData(l *Log, f func(*Batch)) bool {
	for i := len(l.Batches) / 2; i < len(l.Batches); i++ {
		if b := &l.Batches[i]; !b.Control && b.BaseSequence > 0 {
			f(b)
			return true
		}
	}
	return false
}
