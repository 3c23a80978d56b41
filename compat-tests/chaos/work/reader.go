package work

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// pollFor is how long a poll waits for records.
const pollFor = 300 * time.Millisecond

// reader is a consumer that decides itself what it reads.
type reader struct {
	*life
	cl     *kgo.Client
	at     map[history.Key]int64 // where the next poll of each key begins
	broken bool                  // it must assign again
}

// assign starts reading keys, where they were left or from their beginning.
func (r *reader) assign(keys []history.Key, fromStart bool) error {
	op := r.op(history.Assign)
	op.Keys = keys
	r.rec.Event(op)
	at := map[history.Key]int64{}
	for _, k := range keys {
		if !fromStart {
			at[k] = r.at[k]
		} else {
			at[k] = 0
		}
	}
	return r.seek(at)
}

// seek goes on reading at other offsets, without an operation of its own.
func (r *reader) seek(at map[history.Key]int64) error {
	r.close()
	offsets := map[string]map[int32]kgo.Offset{}
	for k, o := range at {
		if offsets[k.Topic] == nil {
			offsets[k.Topic] = map[int32]kgo.Offset{}
		}
		offsets[k.Topic][k.Partition] = kgo.NewOffset().At(o)
	}
	cl, err := r.client(fmt.Sprintf("reader-%d", r.slot), kgo.ConsumePartitions(offsets))
	if err != nil {
		return err
	}
	r.cl, r.at, r.broken = cl, maps.Clone(at), false
	return nil
}

func (r *reader) positions() map[history.Key]int64 { return maps.Clone(r.at) }

func (r *reader) close() {
	if r.cl != nil {
		r.cl.Close()
		r.cl = nil
	}
}

// poll is one poll, alone or in a transaction.
func (r *reader) poll(ctx context.Context, o *history.Op) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollFor)
	defer cancel()
	fetches := r.cl.PollRecords(ctx, 60)
	o.Mops = append(o.Mops, history.Mop{Poll: reads(fetches)})
	for k, list := range o.Mops[len(o.Mops)-1].Poll {
		r.at[k] = list[len(list)-1].Offset + 1
	}
	for _, e := range fetches.Errors() {
		r.broken = r.took(o, e) || r.broken
	}
	return nil
}

// took notes an error of a fetch, and says whether the partition is given up.
func (r *reader) took(o *history.Op, e kgo.FetchError) bool {
	var loss *kgo.ErrDataLoss
	k := history.Key{Topic: e.Topic, Partition: e.Partition}
	switch {
	case errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, context.Canceled):
		return false
	case errors.Is(e.Err, kerr.OffsetOutOfRange):
		r.ended(o, k, r.at[k]-1, e.Err)
	case errors.As(e.Err, &loss):
		// franz-go takes a log to be shortened, too, where an epoch brought only
		// markers and aborted records before the next one: it remembers the
		// epoch of the last record that it handed out. The end of that epoch,
		// which the broker told it, is not below that record.
		if o.EpochEnded == nil {
			o.EpochEnded = map[history.Key]history.EpochEnd{}
		}
		o.EpochEnded[k] = history.EpochEnd{Epoch: loss.ConsumedToEpoch, End: loss.ResetTo}
		o.Note += fmt.Sprintf("%s: %v; ", k, e.Err)
	}
	return true
}

func (r *reader) ended(o *history.Op, k history.Key, end int64, err error) {
	if o.Ended == nil {
		o.Ended = map[history.Key]int64{}
	}
	o.Ended[k] = end
	o.Note += fmt.Sprintf("%s: %v; ", k, err)
}

// reads are the records of a poll.
func reads(fetches kgo.Fetches) map[history.Key][]history.Read {
	out := map[history.Key][]history.Read{}
	for it := fetches.RecordIter(); !it.Done(); {
		r := it.Next()
		if r.Attrs.IsControl() {
			continue
		}
		k := history.Key{Topic: r.Topic, Partition: r.Partition}
		out[k] = append(out[k], history.Read{Offset: r.Offset, Value: Decode(r.Value), Epoch: r.LeaderEpoch})
	}
	return out
}
