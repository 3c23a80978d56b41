package work

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

var errNoAnswer = errors.New("no answer in time")

// producer is a client's producer, of whatever client.
type producer interface {
	// produce sends records and fills in what it is told of them. It returns
	// an error for each, or nil; with errNoAnswer among them the producer is of no
	// more use.
	produce(sends []*history.Sent) []error
	begin() error
	end(ctx context.Context, commit bool) error
	close()
}

// franz is franz-go's producer, with its log where it is one of transactions.
type franz struct {
	*kgo.Client
	log *abortLog
}

func (f franz) produce(sends []*history.Sent) []error { return produce(f.Client, sends) }
func (f franz) begin() error                          { return f.BeginTransaction() }
func (f franz) close()                                { f.Close() }

func (f franz) end(ctx context.Context, commit bool) error {
	err := f.EndTransaction(ctx, kgo.TransactionEndTry(commit))
	if f.log.took() && commit {
		return errors.Join(history.ErrAborted, err)
	}
	return err
}

// produce sends records and waits for their answers. Where one does not come
// in time its error is errNoAnswer, and the client must be thrown away.
func produce(cl *kgo.Client, sends []*history.Sent) []error {
	type answer struct {
		i   int
		r   *kgo.Record
		err error
	}
	answers := make(chan answer, len(sends))
	for i, s := range sends {
		r := &kgo.Record{Topic: s.Key.Topic, Partition: s.Key.Partition, Value: encode(s)}
		cl.Produce(context.Background(), r, func(r *kgo.Record, err error) { answers <- answer{i, r, err} })
	}
	errs := make([]error, len(sends))
	for i := range errs {
		errs[i] = errNoAnswer
	}
	limit := time.NewTimer(opLimit)
	defer limit.Stop()
	for range sends {
		select {
		case a := <-answers:
			errs[a.i] = a.err
			if a.err == nil {
				sends[a.i].Offset, sends[a.i].PID, sends[a.i].Epoch = a.r.Offset, a.r.ProducerID, a.r.ProducerEpoch
			}
		case <-limit.C:
			return errs
		}
	}
	return errs
}

func mops(sends []*history.Sent) []history.Mop {
	var out []history.Mop
	for _, s := range sends {
		out = append(out, history.Mop{Send: s})
	}
	return out
}

// sender is an idempotent producer without transactions: a driver's, or
// franz-go's.
func (r *Run) sender(d *harness.Standing, topic string) func(context.Context, *life) error {
	return func(ctx context.Context, l *life) error {
		p, err := l.idempotent(d)
		if err != nil {
			return err
		}
		defer p.close()
		for l.pace(ctx) {
			sends := make([]*history.Sent, 1+l.rng.IntN(4))
			for i := range sends {
				sends[i] = r.sent(history.Key{Topic: topic, Partition: l.rng.Int32N(r.recordTopics()[topic])})
			}
			if err := l.send(p, sends); err != nil {
				return err
			}
		}
		return nil
	}
}

// idempotent makes a producer without transactions, with a codec of its own.
func (l *life) idempotent(d *harness.Standing) (producer, error) {
	if d != nil {
		return l.drivenProducer(d, "")
	}
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(), kgo.GzipCompression()}
	cl, err := l.client(fmt.Sprintf("sender-%d", l.slot), kgo.ProducerBatchCompression(codecs[l.rng.IntN(len(codecs))]))
	return franz{Client: cl}, err
}

// send is one operation of a sender. Where its records ended differently, each
// run of them that ended alike becomes an operation of its own with the same
// call, in the order of the records.
func (l *life) send(p producer, sends []*history.Sent) error {
	op := l.op(history.Send)
	op.Mops = mops(sends)
	o := l.rec.Begin(op)
	errs := p.produce(sends)
	rest := *o
	for from := 0; from < len(sends); {
		t := history.Classify(history.ProduceRetried, errs[from])
		to := from + 1
		for to < len(sends) && history.Classify(history.ProduceRetried, errs[to]) == t {
			to++
		}
		if from == 0 {
			o.Mops = mops(sends[:to])
			l.rec.End(o, t, errs[0])
		} else {
			rest.Mops = mops(sends[from:to])
			l.rec.Also(rest, t, errs[from])
		}
		from = to
	}
	return errors.Join(errs...)
}

// transactional makes a transactional producer and records the epoch it got.
func (l *life) transactional(ctx context.Context, id string, more ...kgo.Opt) (franz, error) {
	log := &abortLog{}
	cl, err := l.client(id, append([]kgo.Opt{kgo.TransactionalID(id), kgo.TransactionTimeout(l.TxnTimeout), kgo.WithLogger(log)}, more...)...)
	if err != nil {
		return franz{}, err
	}
	if err := l.initPid(ctx, cl, id); err != nil {
		cl.Close()
		return franz{}, err
	}
	return franz{cl, log}, nil
}

func (l *life) initPid(ctx context.Context, cl *kgo.Client, id string) error {
	op := l.op(history.InitPid)
	op.TxnID = id
	o := l.rec.Begin(op)
	ctx, cancel := limited(ctx)
	defer cancel()
	var err error
	if o.PID, o.Epoch, err = cl.ProducerID(ctx); err != nil {
		l.rec.End(o, history.Info, err)
		return err
	}
	l.rec.End(o, history.OK, nil)
	return nil
}

// step is one step of a transaction; it fills in what it did.
type step func(*history.Op) error

func (l *life) sendStep(p producer, sends ...*history.Sent) step {
	return func(o *history.Op) error {
		o.Mops = append(o.Mops, mops(sends)...)
		return errors.Join(p.produce(sends)...)
	}
}

// txn is one transaction. It says how it ended, and with an error that the
// client is of no more use.
func (l *life) txn(ctx context.Context, p producer, commit bool, steps ...step) (history.Type, error) {
	if err := p.begin(); err != nil {
		return history.Fail, err
	}
	o := l.rec.Begin(l.op(history.Txn))
	var failed error
	for _, s := range steps {
		if failed = s(o); failed != nil {
			break
		}
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if failed != nil || !commit {
		err := failed
		if !errors.Is(failed, errNoAnswer) {
			err = p.end(ctx, false)
		}
		// Nobody ever asks to commit it, whatever this answer was.
		l.rec.End(o, history.Fail, errors.Join(failed, err))
		return history.Fail, err
	}
	err := p.end(ctx, true)
	t := history.Classify(history.EndCommit, err)
	l.rec.End(o, t, err)
	return t, err
}

// mixer sends and polls in transactions, as Jepsen's clients do, and polls
// outside of them. What it reads it assigns itself.
func (r *Run) mixer(ctx context.Context, l *life) error {
	id := fmt.Sprintf("mixer-%d", l.slot)
	cl, err := l.transactional(ctx, id)
	if err != nil {
		return err
	}
	defer func() { cl.Close() }()
	in := &reader{life: l}
	defer in.close()
	if err := in.assign(l.someKeys(), true); err != nil {
		return err
	}
	for l.pace(ctx) {
		var err error
		switch n := l.rng.IntN(40); {
		case n < 2 || in.broken:
			err = in.assign(l.someKeys(), l.rng.IntN(3) == 0)
		case n < 12:
			o := l.rec.Begin(l.op(history.Poll))
			err = in.poll(ctx, o)
			l.rec.End(o, history.OK, nil)
		case n < 13:
			cl, err = l.hijack(ctx, cl, id)
		default:
			err = l.mixed(ctx, cl, in)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *life) someKeys() []history.Key {
	var keys []history.Key
	for len(keys) == 0 {
		for p := range int32(mixParts) {
			if l.rng.IntN(3) > 0 {
				keys = append(keys, history.Key{Topic: MixTopic, Partition: p})
			}
		}
	}
	return keys
}

// mixed is one transaction of sends and polls.
func (l *life) mixed(ctx context.Context, cl franz, in *reader) error {
	var steps []step
	for range 1 + l.rng.IntN(4) {
		if l.rng.IntN(3) == 0 {
			steps = append(steps, func(o *history.Op) error { return in.poll(ctx, o) })
		} else {
			steps = append(steps, l.sendStep(cl, l.sent(history.Key{Topic: MixTopic, Partition: l.rng.Int32N(mixParts)})))
		}
	}
	before := in.positions()
	t, err := l.txn(ctx, cl, l.rng.IntN(10) > 0, steps...)
	if err == nil && t == history.Fail {
		return in.seek(before)
	}
	return err
}

// hijack takes a transactional id over with a new client. The old one goes on,
// as a process of its own, and must not get anything through.
func (l *life) hijack(ctx context.Context, old franz, id string) (franz, error) {
	defer old.Close()
	cl, err := l.transactional(ctx, id)
	if err != nil {
		return old, err
	}
	zombie := l.life(l.slot, l.rng)
	_, zerr := zombie.txn(ctx, old, true, zombie.sendStep(old, l.sent(history.Key{Topic: MixTopic, Partition: l.rng.Int32N(mixParts)})))
	op := zombie.op(history.Crash)
	if zerr != nil {
		op.Note = zerr.Error()
	}
	l.rec.Event(op)
	return cl, nil
}

// banker moves amounts between accounts, one transaction for each transfer, with
// a driver's client or franz-go's.
func (r *Run) banker(d *harness.Standing) func(context.Context, *life) error {
	return func(ctx context.Context, l *life) error {
		p, err := l.transactor(ctx, d, fmt.Sprintf("banker-%d", l.slot))
		if err != nil {
			return err
		}
		defer p.close()
		for l.pace(ctx) {
			from := l.rng.Int32N(mixParts)
			to := (from + 1 + l.rng.Int32N(mixParts-1)) % mixParts
			amount := 1 + l.rng.Int64N(100)
			a, b := r.sent(history.Key{Topic: BankTopic, Partition: from}), r.sent(history.Key{Topic: BankTopic, Partition: to})
			a.Delta, b.Delta = -amount, amount
			if _, err := l.txn(ctx, p, l.rng.IntN(8) > 0, l.sendStep(p, a, b)); err != nil {
				return err
			}
		}
		return nil
	}
}

// transactor makes a transactional producer. Which epoch it got franz-go alone
// tells.
func (l *life) transactor(ctx context.Context, d *harness.Standing, id string) (producer, error) {
	if d != nil {
		return l.drivenProducer(d, id)
	}
	return l.transactional(ctx, id)
}
