package work

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/wire"
)

// rawLimit is how long one request of a hand-made client may take.
const rawLimit = 8 * time.Second

// registerOps is how many operations a register sees before the next one is
// used: searching an order takes longer the longer a register lives.
const registerOps = 150

// registrar commits and fetches offsets of groups without members, request by
// request, so that it knows of each whether it was sent once. A third of the
// commits are part of a transaction.
func (r *Run) registrar(ctx context.Context, l *life) error {
	x := &registrar{life: l}
	defer x.close()
	for l.pace(ctx) {
		// All registrars use the same register at about the same time.
		n := int64(r.rec.Count()) / registerOps / 8
		group, k := fmt.Sprintf("register-%d", n), history.Key{Topic: regTopic, Partition: l.rng.Int32N(regParts)}
		var err error
		switch l.rng.IntN(6) {
		case 0, 1:
			err = x.commit(group, k)
		case 2:
			err = x.transact(group, k, l.rng.IntN(2) == 0, l.rng.IntN(4) > 0)
		default:
			err = x.fetch(group, k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type registrar struct {
	*life
	conns map[string]*wire.Conn
	node  int32  // the last coordinator's id
	group string // whose coordinator is at groupAt
	at    string
}

func (x *registrar) close() {
	for _, c := range x.conns {
		_ = c.Close()
	}
}

// conn is the connection to an address.
func (x *registrar) conn(addr string) (*wire.Conn, error) {
	if c := x.conns[addr]; c != nil {
		return c, nil
	}
	c, err := wire.Dial(addr)
	if err != nil {
		return nil, err
	}
	c.Timeout = rawLimit
	if x.conns == nil {
		x.conns = map[string]*wire.Conn{}
	}
	x.conns[addr] = c
	return c, nil
}

// coordinator asks for a coordinator until there is one. The question changes
// nothing, so it is no operation.
func (x *registrar) coordinator(kind int8, name string) (*wire.Conn, error) {
	var last error
	for deadline := time.Now().Add(rawLimit); time.Now().Before(deadline); {
		c, err := x.conn(x.Addrs[x.rng.IntN(len(x.Addrs))])
		if err != nil {
			return nil, err
		}
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version, req.CoordinatorType, req.CoordinatorKeys = 4, kind, []string{name}
		resp, err := c.Do(req)
		if err != nil {
			return nil, err
		}
		found := resp.(*kmsg.FindCoordinatorResponse).Coordinators[0]
		if last = kerr.ErrorForCode(found.ErrorCode); last == nil {
			x.node = found.NodeID
			return x.conn(fmt.Sprintf("%s:%d", found.Host, found.Port))
		}
		l := *x.life
		l.next = time.Now().Add(100 * time.Millisecond)
		l.pace(context.Background())
	}
	return nil, last
}

// ended ends an operation. Errors that a broker answered are no reason to throw
// the client away, others are: its connection may yet carry an old answer.
func (x *registrar) ended(o *history.Op, q history.Request, err error) error {
	t := history.Classify(q, err)
	x.rec.End(o, t, err)
	return nilIfCode(err)
}

// nilIfCode takes away errors that a broker answered.
func nilIfCode(err error) error {
	var code *kerr.Error
	if errors.As(err, &code) {
		return nil
	}
	return err
}

// groupCoordinator is the connection to a group's coordinator, which has just
// said whom it takes for the leader of the groups' partitions: an answer from
// the past is excused only of who could not know that it was deposed.
func (x *registrar) groupCoordinator(group string) (*wire.Conn, error) {
	c, err := x.coordinator(0, group)
	if err != nil {
		return nil, err
	}
	o, resp, err := ask[*kmsg.MetadataResponse](x.life, history.Metadata, c, metadataOf(9, history.GroupTopic))
	if err != nil {
		return nil, err
	}
	o.Leaders = leadersOf(resp, x.node)
	x.rec.End(o, history.OK, nil)
	return c, nil
}

func (x *registrar) commit(group string, k history.Key) error {
	c, err := x.groupCoordinator(group)
	if err != nil {
		return err
	}
	op := x.op(history.Commit)
	v := x.value.Add(1)
	op.Group, op.Broker, op.Once, op.Offsets, op.Generation = group, x.node, true, map[history.Key]int64{k: v}, -1
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 9, group, -1
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset = k.Partition, v
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.Partitions = k.Topic, []kmsg.OffsetCommitRequestTopicPartition{p}
	req.Topics = append(req.Topics, t)
	o := x.rec.Begin(op)
	resp, err := c.Do(req)
	if err == nil {
		err = kerr.ErrorForCode(resp.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)
	}
	return x.ended(o, history.CommitOnce, err)
}

func (x *registrar) fetch(group string, k history.Key) error {
	c, err := x.groupCoordinator(group)
	if err != nil {
		return err
	}
	op := x.op(history.FetchOffset)
	op.Group, op.Broker = group, x.node
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.RequireStable = 8, true
	t := kmsg.NewOffsetFetchRequestGroupTopic()
	t.Topic, t.Partitions = k.Topic, []int32{k.Partition}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.Topics = group, []kmsg.OffsetFetchRequestGroupTopic{t}
	req.Groups = append(req.Groups, g)
	o := x.rec.Begin(op)
	resp, err := c.Do(req)
	if err == nil {
		got := resp.(*kmsg.OffsetFetchResponse).Groups[0]
		if err = kerr.ErrorForCode(got.ErrorCode); err == nil {
			p := got.Topics[0].Partitions[0]
			if err = kerr.ErrorForCode(p.ErrorCode); err == nil {
				o.Offsets = map[history.Key]int64{k: p.Offset}
			}
		}
	}
	return x.ended(o, history.Question, err)
}

// transact commits an offset in a transaction, which lasts from the request
// with the offset to the answer to its end. The old protocol adds the group to
// the transaction first, the new one does so by itself.
func (x *registrar) transact(group string, k history.Key, newer, commit bool) error {
	id := fmt.Sprintf("registrar-%d", x.slot)
	txn, err := x.coordinator(1, id)
	if err != nil {
		return err
	}
	pid, epoch, err := x.begin(txn, id)
	if err != nil {
		return nilIfCode(err)
	}
	if !newer {
		if err := x.addGroup(txn, id, pid, epoch, group); err != nil {
			return nilIfCode(err)
		}
	}
	c, err := x.groupCoordinator(group)
	if err != nil {
		return err
	}
	op := x.op(history.Commit)
	v := x.value.Add(1)
	op.Group, op.Broker, op.Once, op.Offsets, op.TxnID, op.PID, op.Epoch = group, x.node, true, map[history.Key]int64{k: v}, id, pid, epoch
	o := x.rec.Begin(op)
	if err := x.txnCommit(c, o, k, v, newer); err != nil {
		// Nobody asks to commit this transaction any more.
		return x.ended(o, history.EndAbort, err)
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.Version, end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = 4, id, pid, epoch, commit
	if newer {
		end.Version = 5
	}
	resp, err := txn.Do(end)
	if err == nil {
		err = kerr.ErrorForCode(resp.(*kmsg.EndTxnResponse).ErrorCode)
	}
	if !commit {
		return x.ended(o, history.EndAbort, err)
	}
	return x.ended(o, history.EndCommit, err)
}

func (x *registrar) begin(c *wire.Conn, id string) (int64, int16, error) {
	o := x.rec.Begin(func() history.Op { op := x.op(history.InitPid); op.TxnID = id; return op }())
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 5, &id, int32(x.TxnTimeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = -1, -1
	for deadline := time.Now().Add(rawLimit); ; {
		resp, err := c.Do(req)
		if err == nil {
			r := resp.(*kmsg.InitProducerIDResponse)
			if err = kerr.ErrorForCode(r.ErrorCode); err == nil {
				o.PID, o.Epoch = r.ProducerID, r.ProducerEpoch
			}
		}
		if err == kerr.ConcurrentTransactions && time.Now().Before(deadline) { //nolint:errorlint // ErrorForCode returns these very values
			l := *x.life
			l.next = time.Now().Add(20 * time.Millisecond)
			l.pace(context.Background())
			continue
		}
		if err != nil {
			x.rec.End(o, history.Info, err)
			return 0, 0, err
		}
		x.rec.End(o, history.OK, nil)
		return o.PID, o.Epoch, nil
	}
}

func (x *registrar) addGroup(c *wire.Conn, id string, pid int64, epoch int16, group string) error {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = 3, id, pid, epoch, group
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.AddOffsetsToTxnResponse).ErrorCode)
}

func (x *registrar) txnCommit(c *wire.Conn, o *history.Op, k history.Key, v int64, newer bool) error {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version = 4
	if newer {
		req.Version = 5
	}
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = o.TxnID, o.Group, o.PID, o.Epoch, -1
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset = k.Partition, v
	t := kmsg.NewTxnOffsetCommitRequestTopic()
	t.Topic, t.Partitions = k.Topic, []kmsg.TxnOffsetCommitRequestTopicPartition{p}
	req.Topics = append(req.Topics, t)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.TxnOffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)
}
