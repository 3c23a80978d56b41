package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// Replica is what one broker's disk holds, read from its segment files while
// the broker is down (or all is quiet).
type Replica struct {
	Broker int32
	Logs   map[history.Key]Log
}

// Log is a replica of one partition.
type Log struct {
	InSync bool
	// Start is the log start offset, High the high watermark: what lies
	// between them is equal on all replicas.
	Start, High int64
	Batches     []Batch
}

// Batch is a record batch as it lies in a segment.
type Batch struct {
	Base, Last   int64
	LeaderEpoch  int32
	PID          int64 // -1: no idempotent producer
	Epoch        int16
	BaseSequence int32
	Txn, Control bool
	Hash         uint64  // of all bytes
	Values       []int64 // of the records, none in a control batch
}

// disks is P19 and P20. P19: within a log, offsets and leader epochs never go
// back; between replicas, the batches from the higher log start to the lower
// high watermark are equal byte for byte. P20: each acknowledged value is in
// every in-sync replica, and no replica is missing.
func disks(a *analysis) {
	logs := map[history.Key][]placed{}
	for _, r := range a.o.Replicas {
		for k, l := range r.Logs {
			logs[k] = append(logs[k], placed{r.Broker, l})
		}
	}
	for _, k := range sortedKeys(logs) {
		list := logs[k]
		slices.SortFunc(list, func(x, y placed) int { return cmp.Compare(x.broker, y.broker) })
		for i, l := range list {
			a.within(k, l)
			// Each with each: one that is short says nothing of the ends of others.
			for _, other := range list[:i] {
				a.match(k, other, l)
			}
		}
	}
	a.onDisk(logs)
}

type placed struct {
	broker int32
	Log
}

func (a *analysis) within(k history.Key, l placed) {
	for i := 1; i < len(l.Batches); i++ {
		before, b := l.Batches[i-1], l.Batches[i]
		if b.Base <= before.Last {
			a.find(Finding{"P19", "log matching", k, fmt.Sprintf("broker %d: the batch at %d follows one that ends at %d", l.broker, b.Base, before.Last), nil})
		}
		if b.LeaderEpoch < before.LeaderEpoch {
			a.find(Finding{"P19", "log matching", k, fmt.Sprintf("broker %d: leader epoch %d at offset %d follows %d", l.broker, b.LeaderEpoch, b.Base, before.LeaderEpoch), nil})
		}
	}
}

func (a *analysis) match(k history.Key, x, y placed) {
	from, to := max(x.Start, y.Start), min(x.High, y.High)
	cut := func(l placed) []Batch {
		var out []Batch
		for _, b := range l.Batches {
			if b.Base >= from && b.Last < to {
				out = append(out, b)
			}
		}
		return out
	}
	bx, by := cut(x), cut(y)
	for i := range max(len(bx), len(by)) {
		switch {
		case i >= len(bx) || i >= len(by):
			a.find(Finding{"P19", "log matching", k, fmt.Sprintf("between %d and %d broker %d has %d batches, broker %d has %d", from, to, x.broker, len(bx), y.broker, len(by)), nil})
			return
		case bx[i].Base != by[i].Base || bx[i].Hash != by[i].Hash:
			a.find(Finding{"P19", "log matching", k, fmt.Sprintf("brokers %d and %d differ from the batches at %d and %d on", x.broker, y.broker, bx[i].Base, by[i].Base), nil})
			return
		}
	}
}

func (a *analysis) onDisk(logs map[history.Key][]placed) {
	if len(a.o.Replicas) > 0 {
		for _, k := range a.o.Kept {
			if n := len(logs[k]); n < a.o.Copies {
				a.find(Finding{"P20", "lost on disk", k, fmt.Sprintf("%d brokers have its files, not %d", n, a.o.Copies), nil})
			}
		}
	}
	type copyOf struct {
		key    history.Key
		broker int32
	}
	there := map[copyOf]map[int64]bool{}
	for k, list := range logs {
		for _, l := range list {
			values := map[int64]bool{}
			for _, b := range l.Batches {
				for _, v := range b.Values {
					values[v] = true
				}
			}
			there[copyOf{k, l.broker}] = values
		}
	}
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		for _, s := range op.Sends() {
			for _, l := range logs[s.Key] {
				if l.InSync && !there[copyOf{s.Key, l.broker}][s.Value] {
					a.find(Finding{"P20", "lost on disk", s.Key, fmt.Sprintf("value %d is not in the files of broker %d, which is in sync", s.Value, l.broker), indexes(op)})
				}
			}
		}
	}
}

// producers is P21. In a log: the sequences of each producer epoch begin at 0
// and go on without a gap or a repetition, and a producer's epochs never go
// back. In the history: what was sent with an epoch after a higher one of the
// same producer id had been handed out is never visible.
func producers(a *analysis) {
	for _, r := range a.o.Replicas {
		for _, k := range sortedKeys(r.Logs) {
			a.sequences(k, r.Broker, r.Logs[k].Batches)
		}
	}
	a.fences()
}

func (a *analysis) sequences(k history.Key, broker int32, batches []Batch) {
	type state struct {
		epoch int16
		next  int32
	}
	at := map[int64]state{}
	for _, b := range batches {
		if b.PID < 0 {
			continue
		}
		s, known := at[b.PID]
		if known && b.Epoch < s.epoch {
			a.find(Finding{"P21", "producer fence", k, fmt.Sprintf("broker %d: producer %d appended at offset %d with epoch %d after epoch %d", broker, b.PID, b.Base, b.Epoch, s.epoch), nil})
			continue
		}
		if !known || b.Epoch > s.epoch {
			s = state{epoch: b.Epoch}
		}
		if !b.Control {
			if b.BaseSequence != s.next {
				a.find(Finding{"P21", "producer order", k, fmt.Sprintf("broker %d: producer %d epoch %d has sequence %d at offset %d, not %d", broker, b.PID, b.Epoch, b.BaseSequence, b.Base, s.next), nil})
			}
			// From 2^31-1 to 0.
			s.next = int32((int64(b.BaseSequence) + b.Last - b.Base + 1) & 0x7fffffff)
		}
		at[b.PID] = s
	}
}

func (a *analysis) fences() {
	type bump struct {
		epoch int16
		op    *history.Op
	}
	bumps := map[int64][]bump{}
	for i := range a.ops {
		op := &a.ops[i]
		if op.F == history.InitPid && op.Type == history.OK {
			bumps[op.PID] = append(bumps[op.PID], bump{op.Epoch, op})
		}
	}
	if len(bumps) == 0 {
		return
	}
	for i := range a.ops {
		op := &a.ops[i]
		for _, s := range op.Sends() {
			if s.PID == 0 || !a.seen[written{s.Key, s.Value}] {
				continue
			}
			for _, b := range bumps[s.PID] {
				if b.epoch > s.Epoch && b.op.Returned < op.Invoked {
					a.find(Finding{"P21", "producer fence", s.Key, fmt.Sprintf("value %d of producer %d epoch %d is visible, and was sent after epoch %d was handed out", s.Value, s.PID, s.Epoch, b.epoch), indexes(b.op, op)})
					break
				}
			}
		}
	}
}
