package handler

import (
	"context"
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/replication"
)

// Which topic a name means.
//
// A transaction has its partitions by name, in its records as between brokers: both
// are Kafka's formats. A topic may be deleted while a transaction is open, and another
// be created with its name. A marker goes to what has the name when it is written: it
// ends there what the producer has open, if it has, and is no harm if it has not. But
// whoever writes it must have heard of the topic that the producer wrote to. With
// older metadata the transaction coordinator would send the marker to the leader of
// before, or none because that topic is deleted, and a leader would write it to the
// log that is to be deleted; the new topic's readers of committed records would wait
// for good.
//
// So a broker that names topics to another one says since when it means these, in a
// tagged field which is not of Kafka's, and who does not know that yet refuses. A
// coordinator that took over knows what the one of before did: its metadata has its
// own election (knowsCoordinator), and the one of before served nobody that knew more.

// sinceTag holds the revision of metadata, 8 bytes, that a request is meant with.
const sinceTag = 29_550

// meantSince is the revision from which on metadata has the topics that an image has
// under these names.
func meantSince(img *metadata.Image, tps []txn.TopicPartition) (revision int64) {
	for _, tp := range tps {
		if t := img.Topic(tp.Topic); t != nil {
			revision = max(revision, t.Created)
		}
	}
	return revision
}

func tagSince(tags *kmsg.Tags, revision int64) {
	tags.Set(sinceTag, binary.BigEndian.AppendUint64(nil, uint64(revision)))
}

// catchUp says whether this broker's metadata is as new as who sent a request with
// these tags means it, and waits a moment for that. Others than brokers of the
// cluster say nothing of it.
func (b *Broker) catchUp(ctx context.Context, tags *kmsg.Tags) bool {
	var since int64
	tags.Each(func(tag uint32, value []byte) {
		if tag == sinceTag && len(value) == 8 {
			since = int64(binary.BigEndian.Uint64(value))
		}
	})
	if b.Cluster.Image().Revision >= since {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, b.entryPatience())
	defer cancel()
	return b.Cluster.Await(ctx, func(img *metadata.Image) bool { return img.Revision >= since }) == nil
}

// shows tells whether the image has the topic of a partition: one that is just being
// applied may have been opened already, and is not in the image yet. It is asked where the
// coordinator is: not of producers of transaction version 1 where
// transaction.partition.verification.enable is off.
func (b *Broker) shows(p *replication.Partition) bool {
	t := b.Cluster.Image().Topic(p.Topic())
	return t != nil && t.ID == metadata.ID(p.TopicID())
}
