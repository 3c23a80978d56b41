package handler

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// listOffsets answers ListOffsets, versions 1 to 11.
//
//   - A timestamp finds the first record that is not older. Negative ones are
//     special: -1 the end, -2 the start, and by version -3 the record with the
//     greatest timestamp (v7, KIP-734), -4 the start of what is on local disk
//     (v8, KIP-405), -5 the end of what is tiered (v9, KIP-1005), -6 the start
//     of what is to be tiered yet (v11, KIP-1023). One the version does not
//     have is UNSUPPORTED_VERSION. There is no tiered storage: -4 is -2, and
//     -5 and -6 are answered with -1.
//   - v2 brought the isolation level (KIP-98), v4 the leader epoch (KIP-320),
//     v5 OFFSET_NOT_AVAILABLE, which v4 and older read as
//     LEADER_NOT_AVAILABLE (KIP-207), v6 is flexible, v10 brought the timeout
//     for tiered look-ups, which none of ours needs.
//   - A partition that is asked for twice is answered once, with
//     INVALID_REQUEST.
func listOffsets(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ListOffsetsRequest)
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	asked := map[storage.TopicPartition]int{}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			asked[storage.TopicPartition{Topic: t.Topic, Partition: p.Partition}]++
		}
	}
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			tp := storage.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			var found replication.ListedOffset
			var err error
			switch asked[tp] {
			case 0:
				continue // its INVALID_REQUEST is in the response
			case 1:
				found, err = b.listOffset(req, tp, p)
			default:
				asked[tp] = 0
				err = kerr.InvalidRequest
			}
			rt.Partitions = append(rt.Partitions, listedPartition(req.Version, p.Partition, found, err))
		}
		if len(rt.Partitions) > 0 {
			resp.Topics = append(resp.Topics, rt)
		}
	}
	return resp, nil
}

// lowestTimestamp is the lowest special timestamp of a version.
func lowestTimestamp(version int16) int64 {
	switch {
	case version >= 11:
		return replication.TimestampEarliestPendingUpload
	case version >= 9:
		return replication.TimestampLatestTiered
	case version >= 8:
		return replication.TimestampEarliestLocal
	case version >= 7:
		return replication.TimestampMax
	default:
		return replication.TimestampEarliest
	}
}

func (b *Broker) listOffset(req *kmsg.ListOffsetsRequest, tp storage.TopicPartition, q kmsg.ListOffsetsRequestTopicPartition) (replication.ListedOffset, error) {
	switch {
	case q.Timestamp < lowestTimestamp(req.Version):
		return replication.ListedOffset{}, kerr.UnsupportedVersion
	case req.IsolationLevel != 0 && req.IsolationLevel != 1:
		return replication.ListedOffset{}, kerr.UnknownServerError // as Kafka answers it
	}
	p, err := b.Partitions.Partition(tp.Topic, tp.Partition)
	if err != nil {
		return replication.ListedOffset{}, err
	}
	found, err := p.ListOffset(q.Timestamp, replication.ListOptions{
		ReplicaID: req.ReplicaID, Isolation: req.IsolationLevel, CurrentLeaderEpoch: q.CurrentLeaderEpoch,
	})
	if req.Version < 5 && errors.Is(err, kerr.OffsetNotAvailable) {
		err = kerr.LeaderNotAvailable
	}
	return found, err
}

func listedPartition(version int16, partition int32, found replication.ListedOffset, err error) kmsg.ListOffsetsResponseTopicPartition {
	rp := kmsg.NewListOffsetsResponseTopicPartition()
	rp.Partition = partition
	rp.ErrorCode = protocol.Code(err)
	rp.Timestamp, rp.Offset, rp.LeaderEpoch = -1, -1, -1
	if err == nil {
		rp.Timestamp, rp.Offset = found.Timestamp, found.Offset
		if version >= 4 {
			rp.LeaderEpoch = found.LeaderEpoch
		}
	}
	return rp
}
