package node

import (
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// partitionLog is a replicated partition as the log of a coordinator's shard.
type partitionLog struct {
	p *replication.Partition
}

// Append writes with acks=all, though it does not wait for them: what must not
// be lost is refused while the in-sync set is too small.
func (l partitionLog) Append(b runtime.Batch) (int64, error) {
	const acksAll = -1
	o := replication.AppendOptions{
		Acks: acksAll, Origin: storage.Coordinator, Now: b.Timestamp,
		LeaderEpoch: b.LeaderEpoch, CheckLeaderEpoch: true,
	}
	if b.Marker != nil {
		o.TxnVersion = b.Marker.Version
	}
	res, err := l.p.Append(encodeBatch(b), o)
	return res.FirstOffset, err
}

func (l partitionLog) Writable() error { return l.p.Writable() }

func (l partitionLog) MaxBatchBytes() int {
	return max(1, l.p.MaxMessageBytes()-protocol.BatchHeaderLen)
}

func (l partitionLog) Read(offset int64, maxBytes int, buf []byte) ([]byte, error) {
	out, _, err := l.p.ReadBytes(buf, offset, maxBytes)
	return out, err
}

func (l partitionLog) Bounds() (start, highWatermark, end int64, err error) {
	s := l.p.Snapshot()
	return s.LogStart, s.HighWatermark, s.LogEnd, s.Err
}

func (l partitionLog) OnHighWatermark(fn func(int64)) func() { return l.p.OnHighWatermark(fn) }

// encodeBatch turns what a coordinator writes into a record batch.
func encodeBatch(b runtime.Batch) []byte {
	ms := b.Timestamp.UnixMilli()
	if m := b.Marker; m != nil {
		t := protocol.ControlAbort
		if m.Commit {
			t = protocol.ControlCommit
		}
		return protocol.AppendControlBatch(nil, protocol.ControlParams{
			LeaderEpoch: b.LeaderEpoch, TimestampMs: ms, ProducerID: m.Producer.ID, ProducerEpoch: m.Producer.Epoch,
			Type: t, CoordinatorEpoch: m.CoordinatorEpoch,
		})
	}
	p := protocol.BatchParams{LeaderEpoch: b.LeaderEpoch, BaseTimestamp: ms}
	if b.Producer != nil {
		p.Transactional = true
		p.Producer = &protocol.Producer{ID: b.Producer.ID, Epoch: b.Producer.Epoch, BaseSequence: -1}
	}
	records := make([]protocol.Record, len(b.Records))
	size := protocol.BatchHeaderLen
	for i, r := range b.Records {
		records[i] = protocol.Record{OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		size += recordOverhead + len(r.Key) + len(r.Value)
	}
	return protocol.AppendBatch(make([]byte, 0, size), p, records)
}

// recordOverhead is what a record takes at most beside its key and value: its
// length, attributes, the deltas and three lengths, none of them large.
const recordOverhead = 4 + 1 + 1 + 4 + 4 + 4 + 1
