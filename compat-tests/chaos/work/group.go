package work

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// sessionTimeout of members of groups: long enough for a restart, short enough
// for a run to see members expire.
const sessionTimeout = 6 * time.Second

// mortal dials connections that can be broken off all at once, so that a
// client dies without a farewell.
type mortal struct {
	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

func (m *mortal) dial(ctx context.Context, network, host string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		_ = c.Close()
		return nil, errors.New("this client is dead")
	}
	m.conns = append(m.conns, c)
	return c, nil
}

func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
	for _, c := range m.conns {
		_ = c.Close()
	}
}

// membership is what a member of a group owns, as its client tells it.
type membership struct {
	*life
	group   string
	classic bool

	mu         sync.Mutex
	owned      map[history.Key]bool
	rebalanced map[history.Key]bool // since the last operation
	at         map[history.Key]int64
}

func (l *life) joining(group, protocol string) *membership {
	return &membership{
		life: l, group: group, classic: protocol == "classic",
		owned: map[history.Key]bool{}, rebalanced: map[history.Key]bool{}, at: map[history.Key]int64{},
	}
}

func (m *membership) options(topic, protocol string) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.ConsumerGroup(m.group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RequireStableFetchOffsets(),
		kgo.SessionTimeout(sessionTimeout), kgo.HeartbeatInterval(time.Second), kgo.RebalanceTimeout(8 * time.Second),
		kgo.OnPartitionsAssigned(m.assigned), kgo.OnPartitionsRevoked(m.revoked), kgo.OnPartitionsLost(m.revoked),
	}
	if protocol == "consumer" {
		return append(opts, kgo.ServerSideBalancer())
	}
	// All members of a group must have a way in common.
	return append(opts, kgo.Balancers(kgo.CooperativeStickyBalancer()))
}

func keysOf(partitions map[string][]int32) []history.Key {
	var out []history.Key
	for t, list := range partitions {
		for _, p := range list {
			out = append(out, history.Key{Topic: t, Partition: p})
		}
	}
	return out
}

func (m *membership) assigned(_ context.Context, cl *kgo.Client, partitions map[string][]int32) {
	member, generation := cl.GroupMetadata()
	m.came(member, generation, keysOf(partitions))
}

func (m *membership) revoked(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	m.went(keysOf(partitions))
}

func (m *membership) came(member string, generation int32, keys []history.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	op := m.op(history.Owned)
	// Only what came is sure to be this generation's: what was owned before and
	// is not any more the client gives up after this call.
	op.Group, op.Classic, op.Keys = m.group, m.classic, keys
	op.Member, op.Generation = member, generation
	for _, k := range op.Keys {
		m.owned[k], m.rebalanced[k] = true, true
		delete(m.at, k)
	}
	m.rec.Event(op)
}

func (m *membership) went(keys []history.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	op := m.op(history.Revoked)
	op.Group, op.Classic, op.Keys = m.group, m.classic, keys
	for _, k := range op.Keys {
		delete(m.owned, k)
		delete(m.at, k)
		m.rebalanced[k] = true
	}
	m.rec.Event(op)
}

// polled puts a poll into an operation.
func (m *membership) polled(o *history.Op, poll map[history.Key][]history.Read) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o.Mops = append(o.Mops, history.Mop{Poll: poll})
	o.Rebalanced, m.rebalanced = m.rebalanced, map[history.Key]bool{}
	for k, list := range poll {
		m.at[k] = list[len(list)-1].Offset + 1
	}
}

// rewound takes note that what was not committed comes again.
func (m *membership) rewound() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.owned {
		delete(m.at, k)
		m.rebalanced[k] = true
	}
}

// offsets are what was consumed of what is owned.
func (m *membership) offsets() map[history.Key]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[history.Key]int64{}
	for k, o := range m.at {
		out[k] = o
	}
	return out
}

func (l *life) subscribe(group, topic string) {
	op := l.op(history.Subscribe)
	op.Group = group
	op.Note = topic
	l.rec.Event(op)
}

// member consumes as a member of a group and commits what it consumed; now and
// then it leaves, or dies without leaving.
func (r *Run) member(protocol string) func(context.Context, *life) error {
	topic, group := groupTopic(protocol), "members-"+protocol
	return func(ctx context.Context, l *life) error {
		m := l.joining(group, protocol)
		net := &mortal{}
		l.subscribe(group, topic)
		cl, err := r.client(fmt.Sprintf("member-%d", l.slot), append(m.options(topic, protocol), kgo.Dialer(net.dial))...)
		if err != nil {
			return err
		}
		defer cl.CloseAllowingRebalance()
		for end := 40 + l.rng.IntN(200); end > 0 && l.pace(ctx); end-- {
			if err := m.consume(ctx, cl, l.rng.IntN(3) > 0); err != nil {
				net.kill()
				return err
			}
		}
		if l.rng.IntN(2) == 0 && ctx.Err() == nil {
			net.kill()
		}
		return nil
	}
}

// consume polls, and commits.
func (m *membership) consume(ctx context.Context, cl *kgo.Client, commit bool) error {
	pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollFor)
	o := m.rec.Begin(m.op(history.Poll))
	fetches := cl.PollRecords(pctx, 60)
	cancel()
	m.polled(o, reads(fetches))
	m.rec.End(o, history.OK, nil)
	defer cl.AllowRebalance()
	at := m.offsets()
	if !commit || len(at) == 0 {
		return nil
	}
	op := m.op(history.Commit)
	op.Group, op.Classic, op.Offsets = m.group, m.classic, at
	op.Member, op.Generation = cl.GroupMetadata()
	o = m.rec.Begin(op)
	ctx, cancel = limited(ctx)
	defer cancel()
	// A client repeats a commit by itself, so what is not ok is unknown. And it
	// waits for a rebalance that is under way, so what it sends may be of a later
	// generation than the one of the call.
	sent, err := commitOffsets(ctx, cl, at)
	if sent != nil {
		o.Member, o.Generation = sent.MemberID, sent.Generation
	}
	if err != nil {
		m.rec.End(o, history.Info, err)
		return nil
	}
	m.rec.End(o, history.OK, nil)
	return nil
}

// commitOffsets returns the request too, nil where none was sent.
func commitOffsets(ctx context.Context, cl *kgo.Client, at map[history.Key]int64) (*kmsg.OffsetCommitRequest, error) {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	for k, o := range at {
		if offsets[k.Topic] == nil {
			offsets[k.Topic] = map[int32]kgo.EpochOffset{}
		}
		offsets[k.Topic][k.Partition] = kgo.EpochOffset{Epoch: -1, Offset: o}
	}
	var failed error
	var sent *kmsg.OffsetCommitRequest
	cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		sent, failed = req, err
		if err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				failed = errors.Join(failed, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	})
	return sent, failed
}

// mover moves records from one topic to another in transactions, with its
// offsets in the same transaction.
func (r *Run) mover(protocol string) func(context.Context, *life) error {
	group := "movers-" + protocol
	return func(ctx context.Context, l *life) error {
		m := l.joining(group, protocol)
		net := &mortal{}
		l.subscribe(group, pipeIn(protocol))
		id := fmt.Sprintf("mover-%d", l.slot)
		log := &abortLog{}
		opts := append(m.options(pipeIn(protocol), protocol), kgo.Dialer(net.dial), kgo.TransactionalID(id), kgo.TransactionTimeout(r.TxnTimeout), kgo.WithLogger(log))
		s, err := kgo.NewGroupTransactSession(r.options(id, opts...)...)
		if err != nil {
			return err
		}
		defer s.CloseAllowingRebalance()
		if err := l.initPid(ctx, s.Client(), id); err != nil {
			return err
		}
		for end := 60 + l.rng.IntN(300); end > 0 && l.pace(ctx); end-- {
			if err := m.move(ctx, s, log, pipeOut(protocol)); err != nil {
				net.kill()
				return err
			}
		}
		if l.rng.IntN(2) == 0 && ctx.Err() == nil {
			m.abandon(ctx, s, pipeOut(protocol))
			net.kill()
		}
		return nil
	}
}

// move is one transaction of a mover; an error says that its client is of no
// more use.
func (m *membership) move(ctx context.Context, s *kgo.GroupTransactSession, log *abortLog, out string) error {
	pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollFor)
	fetches := s.PollRecords(pctx, 60)
	cancel()
	defer s.AllowRebalance()
	if fetches.NumRecords() == 0 {
		return nil
	}
	o, err := m.hand(s, fetches, out)
	if err != nil && o == nil {
		return err
	}
	commit := err == nil && m.rng.IntN(6) > 0
	if errors.Is(err, errNoAnswer) {
		m.rec.End(o, history.Fail, err)
		return err
	}
	o.Group, o.Classic, o.Offsets = m.group, m.classic, m.offsets()
	o.Member, o.Generation = s.Client().GroupMetadata()
	ctx, cancel = limited(ctx)
	defer cancel()
	committed, endErr := s.End(ctx, kgo.TransactionEndTry(commit))
	// End waits for a rebalance that is under way, too.
	if member, generation := s.Client().GroupMetadata(); member == o.Member {
		o.Generation = max(o.Generation, generation)
	}
	if log.took() && committed {
		committed, endErr = false, history.ErrAborted
	}
	switch {
	case committed && endErr == nil:
		m.rec.End(o, history.OK, nil)
	case !commit || endErr == nil || errors.Is(endErr, history.ErrAborted):
		m.rec.End(o, history.Fail, errors.Join(err, endErr))
	default:
		m.rec.End(o, history.Info, endErr)
	}
	if committed && endErr == nil {
		return nil
	}
	m.rewound()
	return endErr
}

// hand begins a transaction and writes what was polled.
func (m *membership) hand(s *kgo.GroupTransactSession, fetches kgo.Fetches, out string) (*history.Op, error) {
	if err := s.Begin(); err != nil {
		return nil, err
	}
	o := m.rec.Begin(m.op(history.Txn))
	m.polled(o, reads(fetches))
	var sends []*history.Sent
	for it := fetches.RecordIter(); !it.Done(); {
		r := it.Next()
		n := m.sent(history.Key{Topic: out, Partition: r.Partition})
		n.From = Decode(r.Value)
		sends = append(sends, n)
	}
	o.Mops = append(o.Mops, mops(sends)...)
	return o, errors.Join(produce(s.Client(), sends)...)
}

// abandon leaves a transaction open for others to end.
func (m *membership) abandon(ctx context.Context, s *kgo.GroupTransactSession, out string) {
	pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollFor)
	fetches := s.PollRecords(pctx, 60)
	cancel()
	defer s.AllowRebalance()
	if fetches.NumRecords() == 0 {
		return
	}
	if o, err := m.hand(s, fetches, out); o != nil {
		// Nobody asks to commit it.
		m.rec.End(o, history.Fail, errors.Join(errors.New("abandoned"), err))
	}
}
