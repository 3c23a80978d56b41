package handler

import (
	"path/filepath"
	"slices"

	"github.com/gregor-broker/gregor/storage"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeLogDirs (35), versions 0 (clients before 2.0) to 5: the log directories of this broker
// with the sizes of the partitions in them.
//
//   - v3 (KIP-784) has an error of the whole; v4 (KIP-827) the size and the
//     free bytes of the volume; v5 says whether a directory takes no new
//     partitions (cordoned.log.dirs).
//   - Null topics mean all of them. A directory is listed even if it holds
//     nothing of what was asked for; one that failed has KAFKA_STORAGE_ERROR.
//   - A partition that moves to another directory (AlterReplicaLogDirs) is in
//     both: in the one that it moves to as a future one, with the offsets that
//     its copy lags behind.
func describeLogDirs(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	byDir := make(map[string][]kmsg.DescribeLogDirsResponseDirTopic)
	add := func(dir, topic string, p kmsg.DescribeLogDirsResponseDirTopicPartition) {
		topics := byDir[dir]
		if n := len(topics); n == 0 || topics[n-1].Topic != topic {
			t := kmsg.NewDescribeLogDirsResponseDirTopic()
			t.Topic = topic
			topics = append(topics, t)
		}
		last := &topics[len(topics)-1]
		last.Partitions = append(last.Partitions, p)
		byDir[dir] = topics
	}
	moves := make(map[storage.TopicPartition]storage.MoveInfo)
	for _, m := range b.Logs.Moves() {
		moves[m.TopicPartition] = m
	}
	for _, l := range b.askedLogs(req) {
		tp := l.TopicPartition()
		p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		p.Partition, p.Size = tp.Partition, l.Size()
		p.OffsetLag = max(l.HighWatermark()-l.LogEndOffset(), 0)
		add(l.Dir(), tp.Topic, p)
		if m, ok := moves[tp]; ok && m.Dir != l.Dir() {
			p.Size, p.OffsetLag, p.IsFuture = m.Size, max(l.LogEndOffset()-m.End, 0), true
			add(m.Dir, tp.Topic, p)
		}
	}
	for _, dir := range b.Logs.Dirs() {
		o := kmsg.NewDescribeLogDirsResponseDir()
		o.Dir, o.IsCordoned = absolute(dir.Path), b.cordoned(dir.Path)
		if dir.Err != nil {
			o.ErrorCode = kerr.KafkaStorageError.Code
		} else {
			o.TotalBytes, o.UsableBytes = dir.TotalBytes, dir.UsableBytes
			o.Topics = byDir[dir.Path]
		}
		resp.Dirs = append(resp.Dirs, o)
	}
	return resp, nil
}

// absolute is how clients name a log directory.
func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

// cordoned tells that a log directory takes no more partitions.
func (b *Broker) cordoned(dir string) bool {
	cordoned := b.Config.List("cordoned.log.dirs")
	return slices.Contains(cordoned, "*") || slices.Contains(cordoned, dir)
}

// askedLogs are the logs of the request, sorted by topic and partition.
func (b *Broker) askedLogs(req *kmsg.DescribeLogDirsRequest) []*storage.Log {
	if req.Topics == nil {
		return b.Logs.Logs()
	}
	asked := make(map[storage.TopicPartition]bool)
	for i := range req.Topics {
		t := &req.Topics[i]
		for _, p := range t.Partitions {
			asked[storage.TopicPartition{Topic: t.Topic, Partition: p}] = true
		}
	}
	var logs []*storage.Log
	if len(asked) == 0 {
		return logs
	}
	for _, l := range b.Logs.Logs() {
		if asked[l.TopicPartition()] {
			logs = append(logs, l)
		}
	}
	return logs
}
