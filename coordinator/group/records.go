package group

import (
	"encoding/binary"
	"fmt"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Record types: the first two bytes of a key.
const (
	typeOffsetCommitV0   = 0
	typeOffsetCommit     = 1
	typeGroupMetadata    = 2
	groupMetadataVersion = 3
	offsetCommitVersion  = 4
)

// topicPartition names what an offset is committed for.
type topicPartition struct {
	topic     string
	partition int32
}

func recordType(key []byte) (int16, error) {
	if len(key) < 2 {
		return 0, fmt.Errorf("a record's key has %d bytes, less than its type takes", len(key))
	}
	return int16(binary.BigEndian.Uint16(key)), nil
}

// offset is one committed offset.
type offset struct {
	offset          int64
	leaderEpoch     int32
	metadata        string
	commitTimestamp int64 // ms
	// expireTimestamp in ms is -1 unless the client gave a retention time
	// (OffsetCommit v2 to v4).
	expireTimestamp int64
	topicID         [16]byte
	at              int64 // of its record in the log
}

func offsetKey(group string, tp topicPartition) []byte {
	k := kmsg.OffsetCommitKey{Version: typeOffsetCommit, Group: group, Topic: tp.topic, Partition: tp.partition}
	return k.AppendTo(nil)
}

func offsetRecord(group string, tp topicPartition, o offset) runtime.Record {
	v := kmsg.NewOffsetCommitValue()
	v.Version = offsetCommitVersion
	if o.expireTimestamp >= 0 {
		v.Version = 1 // the only one that holds it
	}
	v.Offset = o.offset
	v.LeaderEpoch = o.leaderEpoch
	v.Metadata = o.metadata
	v.CommitTimestamp = o.commitTimestamp
	v.ExpireTimestamp = o.expireTimestamp
	v.TopicID = o.topicID
	k := kmsg.OffsetCommitKey{Version: typeOffsetCommit, Group: group, Topic: tp.topic, Partition: tp.partition}
	// Both in one piece of memory: commits are what a coordinator writes most.
	key := k.AppendTo(make([]byte, 0, offsetRecordFixed+len(group)+len(tp.topic)+len(o.metadata)))
	n := len(key)
	return runtime.Record{Key: key[:n:n], Value: v.AppendTo(key[n:n:cap(key)])}
}

// offsetRecordFixed is what the fields of an offset's key and value take at
// most that do not vary in length.
const offsetRecordFixed = (2 + 2 + 2 + 4) + (2 + 8 + 4 + 5 + 8 + 8 + 16 + 8)

func offsetTombstone(group string, tp topicPartition) runtime.Record {
	return runtime.Record{Key: offsetKey(group, tp)}
}

func parseOffset(value []byte) (offset, error) {
	v := kmsg.NewOffsetCommitValue()
	if err := v.ReadFrom(value); err != nil {
		return offset{}, err
	}
	o := offset{
		offset: v.Offset, leaderEpoch: -1, metadata: v.Metadata,
		commitTimestamp: v.CommitTimestamp, expireTimestamp: -1,
	}
	if v.Version >= 3 {
		o.leaderEpoch = v.LeaderEpoch
	}
	if v.Version == 1 {
		o.expireTimestamp = v.ExpireTimestamp
	}
	if v.Version >= 4 {
		o.topicID = v.TopicID
	}
	return o, nil
}

func groupKey(group string) []byte {
	k := kmsg.GroupMetadataKey{Version: typeGroupMetadata, Group: group}
	return k.AppendTo(nil)
}

func groupTombstone(group string) runtime.Record { return runtime.Record{Key: groupKey(group)} }
