package work

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/wire"
)

// helper is a life for what the run does itself.
func (r *Run) helper() *life {
	return r.life(0, rand.New(rand.NewPCG(r.Seed, 0)))
}

// every calls f until it is content or the context ends.
func (l *life) every(ctx context.Context, gap time.Duration, f func() (bool, error)) error {
	for {
		done, err := f()
		if done {
			return nil
		}
		l.next = time.Now().Add(gap)
		if !l.pace(ctx) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Drain waits until the consumers have all that was written, and ends them. An
// error says what they do not get to.
func (r *Run) Drain(ctx context.Context) error {
	defer r.stop()
	l := r.helper()
	cl, err := r.client("drain")
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	left := ""
	err = l.every(ctx, 300*time.Millisecond, func() (bool, error) {
		left = ""
		for _, f := range r.flows() {
			for group, topic := range map[string]string{"movers-" + f: pipeIn(f), "members-" + f: groupTopic(f)} {
				behind, err := r.behind(ctx, adm, group, topic)
				if err != nil {
					return false, err
				}
				if behind != "" {
					left = group + ": " + behind
				}
			}
		}
		return left == "", nil
	})
	if err != nil {
		return fmt.Errorf("the groups do not get to the end (%s): %w", left, err)
	}
	return nil
}

// behind says which partitions a group has not committed to the end.
func (r *Run) behind(ctx context.Context, adm *kadm.Client, group, topic string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ends, err := adm.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return "", err
	}
	if err := ends.Error(); err != nil {
		return "", err
	}
	at, err := adm.FetchOffsets(ctx, group)
	if err != nil {
		return "", err
	}
	behind := ""
	ends.Each(func(end kadm.ListedOffset) {
		o, is := at.Lookup(topic, end.Partition)
		if end.Offset > 0 && (!is || o.At < end.Offset) {
			behind = fmt.Sprintf("partition %d of %s is at %d of %d", end.Partition, topic, o.At, end.Offset)
		}
	})
	return behind, nil
}

// Final waits until no transaction is open, and reads every key from its
// beginning to its end, within the given time for each. An error says what it
// does not get to; what was read is in the history in any case.
func (r *Run) Final(ctx context.Context, within time.Duration) error {
	l := r.helper()
	ends := map[history.Key]int64{}
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := l.every(limited, 300*time.Millisecond, func() (bool, error) { return l.settled(ends) })
	if err != nil {
		err = fmt.Errorf("not all partitions are whole and have no open transaction: %w", err)
	}
	ctx, end := context.WithTimeout(ctx, within)
	defer end()
	err = errors.Join(err, l.readAll(ctx, ends))
	if r.Churn {
		var churnErr error
		r.churned, churnErr = l.finalChurn(ctx)
		err = errors.Join(err, churnErr)
	}
	return err
}

// Watch reads every key from where it ends, until the context does: so that it is
// no matter of chance which keys are read again once the faults are over.
func (r *Run) Watch(ctx context.Context) {
	l := r.helper()
	assign := l.op(history.Assign)
	assign.Keys = l.keys()
	l.rec.Event(assign)
	cl, err := l.client("watch", kgo.ConsumePartitions(at(assign.Keys, kgo.NewOffset().AtEnd())))
	if err != nil {
		r.Logf("watch: %v", err)
		return
	}
	defer cl.Close()
	for l.pace(ctx) {
		o := l.rec.Begin(l.op(history.Poll))
		pctx, cancel := context.WithTimeout(ctx, pollFor)
		fetches := cl.PollRecords(pctx, 2000)
		cancel()
		o.Mops = []history.Mop{{Poll: reads(fetches)}}
		l.rec.End(o, history.OK, nil)
	}
}

// readAll reads every key to its end.
func (l *life) readAll(ctx context.Context, ends map[history.Key]int64) error {
	assign := l.op(history.Assign)
	assign.Keys = l.keys()
	l.rec.Event(assign)
	// With control records, so that the end of a log is seen to be reached.
	cl, err := l.client("final", kgo.ConsumePartitions(at(assign.Keys, kgo.NewOffset().AtStart())), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer cl.Close()
	left := maps.Clone(ends)
	maps.DeleteFunc(left, func(_ history.Key, end int64) bool { return end == 0 })
	for len(left) > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("the final polls did not get to the ends %v: %w", left, ctx.Err())
		}
		op := l.op(history.Poll)
		op.Final = true
		o := l.rec.Begin(op)
		pctx, cancel := context.WithTimeout(ctx, pollFor)
		fetches := cl.PollRecords(pctx, 2000)
		cancel()
		o.Mops = []history.Mop{{Poll: reads(fetches)}}
		l.rec.End(o, history.OK, nil)
		for it := fetches.RecordIter(); !it.Done(); {
			rec := it.Next()
			k := history.Key{Topic: rec.Topic, Partition: rec.Partition}
			if rec.Offset >= left[k]-1 {
				delete(left, k)
			}
		}
	}
	return nil
}

func at(keys []history.Key, offset kgo.Offset) map[string]map[int32]kgo.Offset {
	out := map[string]map[int32]kgo.Offset{}
	for _, k := range keys {
		if out[k.Topic] == nil {
			out[k.Topic] = map[int32]kgo.Offset{}
		}
		out[k.Topic][k.Partition] = offset
	}
	return out
}

// settled notes the ends of all keys and says whether each has its last stable
// offset there, and all its replicas in sync.
func (l *life) settled(ends map[history.Key]int64) (bool, error) {
	clear(ends)
	open, behind := 0, 0
	for _, addr := range l.Addrs {
		c, err := wire.Dial(addr)
		if err != nil {
			return false, err
		}
		c.Timeout = rawLimit
		marks, err := l.observe(c)
		_ = c.Close()
		if err != nil {
			return false, err
		}
		for _, m := range marks {
			ends[m.Key] = m.High
			if m.LastStable != m.High {
				open++
			}
			if l.inSync[m.Key] < int(l.Replicas) {
				behind++
			}
		}
	}
	if missing := len(l.keys()) - len(ends); missing > 0 || open > 0 || behind > 0 {
		return false, fmt.Errorf("%d partitions without an answer, %d with an open transaction, %d with replicas that are not in sync", missing, open, behind)
	}
	return true, nil
}
