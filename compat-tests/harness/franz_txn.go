package harness

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// franzProducer is a producer of transactions.
type franzProducer struct {
	id string
	cl *kgo.Client
}

// transact obeys the commands about transactions.
func (f *Franz) transact(ctx context.Context, command string, a []string) ([][]string, error) {
	if command == "open" {
		cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr), kgo.TransactionalID(a[1]), kgo.TransactionTimeout(time.Duration(atoi64(a[2]))*time.Millisecond),
			kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1))
		if err != nil {
			return nil, err
		}
		if _, _, err = cl.ProducerID(ctx); err != nil {
			cl.Close()
			return nil, err
		}
		f.producers[a[0]] = franzProducer{a[1], cl}
		return nil, nil
	}
	p, ok := f.producers[a[0]]
	if !ok {
		return nil, fmt.Errorf("no producer %s", a[0])
	}
	switch command {
	case "begin":
		return nil, p.cl.BeginTransaction()
	case "send":
		value, err := decode(a[3])
		if err != nil {
			return nil, err
		}
		r, err := p.cl.ProduceSync(ctx, &kgo.Record{Topic: a[1], Partition: atoi(a[2]), Value: value}).First()
		if err != nil {
			return nil, err
		}
		return [][]string{{strconv.FormatInt(r.Offset, 10)}}, nil
	case "sendoffsets":
		return nil, p.sendOffsets(ctx, a[1], a[2], atoi(a[3]), atoi64(a[4]))
	case "commit":
		return nil, p.cl.EndTransaction(ctx, kgo.TryCommit)
	case "abort":
		return nil, p.cl.EndTransaction(ctx, kgo.TryAbort)
	}
	delete(f.producers, a[0])
	p.cl.Close()
	return nil, nil
}

// sendOffsets is what franz-go does for the members of a group only.
func (p franzProducer) sendOffsets(ctx context.Context, group, topic string, partition int32, offset int64) error {
	id, epoch, err := p.cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = p.id, id, epoch, group
	added, err := add.RequestWith(ctx, p.cl)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		return err
	}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group = p.id, id, epoch, group
	rt, rp := kmsg.NewTxnOffsetCommitRequestTopic(), kmsg.NewTxnOffsetCommitRequestTopicPartition()
	rt.Topic, rp.Partition, rp.Offset = topic, partition, offset
	rt.Partitions = append(rt.Partitions, rp)
	commit.Topics = append(commit.Topics, rt)
	committed, err := commit.RequestWith(ctx, p.cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(committed.Topics[0].Partitions[0].ErrorCode)
}
