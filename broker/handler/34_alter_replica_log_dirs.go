package handler

import (
	"fmt"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterReplicaLogDirs (34), versions 1 and 2: moves replicas of this broker from
// one of its log directories to another (KIP-113), while they are in use.
//
//   - It is answered when the move has begun; DescribeLogDirs tells how far it is.
//     Where a replica is already, or is being moved to already, nothing happens,
//     but a move to somewhere else ends.
//   - A directory is named as DescribeLogDirs names it, to the letter; a relative
//     path or one with a slash at its end is LOG_DIR_NOT_FOUND.
//   - The directory is judged before the partition: LOG_DIR_NOT_FOUND,
//     KAFKA_STORAGE_ERROR (offline) and INVALID_REPLICA_ASSIGNMENT (cordoned, KIP-1066)
//     are said of partitions that are not there, too. Only a name that has no room for
//     what the copy's adds (INVALID_TOPIC_EXCEPTION) comes before.
//   - A partition without a replica here is UNKNOWN_TOPIC_OR_PARTITION, or
//     REPLICA_NOT_AVAILABLE if it is on other brokers. The directory is remembered all
//     the same, until the process ends, for a replica that is made later: so a tool
//     asks before it has a partition reassigned.
//   - With any log directory offline no move begins: KAFKA_STORAGE_ERROR.
//   - Of a partition that is named more than once, the last directory counts.
func alterReplicaLogDirs(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.AlterReplicaLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.AlterReplicaLogDirsResponse)
	wanted := map[storage.TopicPartition]string{}
	var order []storage.TopicPartition
	for i := range req.Dirs {
		for _, t := range req.Dirs[i].Topics {
			for _, p := range t.Partitions {
				tp := storage.TopicPartition{Topic: t.Topic, Partition: p}
				if _, again := wanted[tp]; !again {
					order = append(order, tp)
				}
				wanted[tp] = req.Dirs[i].Dir
			}
		}
	}
	topics := map[string]int{}
	for _, tp := range order {
		at, ok := topics[tp.Topic]
		if !ok {
			at = len(resp.Topics)
			topics[tp.Topic] = at
			t := kmsg.NewAlterReplicaLogDirsResponseTopic()
			t.Topic = tp.Topic
			resp.Topics = append(resp.Topics, t)
		}
		p := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
		p.Partition = tp.Partition
		err := b.moveReplica(r, tp, wanted[tp])
		if p.ErrorCode = protocol.Code(err); err != nil {
			b.Log.Debug().Err(err).Stringer("partition", tp).Str("to", wanted[tp]).Msg("a replica is not moved to another log directory")
		}
		resp.Topics[at].Partitions = append(resp.Topics[at].Partitions, p)
	}
	return resp, nil
}

func (b *Broker) moveReplica(r *Request, tp storage.TopicPartition, dir string) error {
	for _, path := range b.Logs.DirPaths() {
		if absolute(path) != dir {
			continue
		}
		if b.cordoned(path) && storage.MovableName(tp) {
			return fmt.Errorf("%w: %s is cordoned", kerr.InvalidReplicaAssignment, dir)
		}
		return b.Partitions.MoveReplica(r.Ctx, tp.Topic, tp.Partition, path)
	}
	if !storage.MovableName(tp) {
		return kerr.InvalidTopicException
	}
	return fmt.Errorf("%w: %s", kerr.LogDirNotFound, dir)
}
