package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreateTopics (19), versions 2 to 7.
//
//   - v5 (KIP-525) answers with the partitions, replication factor and configs
//     that the topic has, or would have with validate-only; v7 with its id.
//   - From v4 on (KIP-464) -1 partitions and replicas mean the broker's
//     defaults. Kafka 4 accepts that from older versions too, and so does this.
//   - A name that a request holds twice is INVALID_REQUEST, once.
//   - Above the client's controller_mutation_rate (KIP-599), v6 and later get
//     THROTTLING_QUOTA_EXCEEDED.
//   - When the response leaves, this broker leads what it should of the new
//     topics: they are usable at once. A topic of which that could not be made
//     so in time, because a log directory hangs, is REQUEST_TIMED_OUT.
func createTopics(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.CreateTopicsRequest)
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	topics := make([]metadata.NewTopic, 0, len(req.Topics))
	counted := make(map[string]int, len(req.Topics))
	for i := range req.Topics {
		t := requestedTopic(&req.Topics[i])
		n := b.newPartitions(&t)
		if !r.mutate(n, 6) {
			refused := newCreateTopicsResult(req.Version, t.Name)
			refused.ErrorCode, refused.ErrorMessage = failure(kerr.ThrottlingQuotaExceeded, throttledText)
			resp.Topics = append(resp.Topics, refused)
			continue
		}
		counted[t.Name] += n
		topics = append(topics, t)
	}
	if len(topics) == 0 {
		return resp, nil
	}
	ctx, cancel := r.withTimeout(req.TimeoutMillis)
	defer cancel()
	for _, res := range b.Cluster.CreateTopics(ctx, topics, req.ValidateOnly) {
		t := newCreateTopicsResult(req.Version, res.Name)
		if res.Err != nil {
			r.unmutate(counted[res.Name])
		} else if !req.ValidateOnly {
			res.Err = b.awaitReplicas(ctx, res.Name)
		}
		if res.Err != nil {
			t.ErrorCode, t.ErrorMessage = failure(res.Err, res.Message)
		} else {
			t.TopicID = res.ID
			t.NumPartitions, t.ReplicationFactor = res.Partitions, res.ReplicationFactor
			t.Configs = b.createdConfigs(res.Configs)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

// newPartitions is how many partitions a request creates, if it may.
func (b *Broker) newPartitions(t *metadata.NewTopic) int {
	switch {
	case len(t.Assignment) > 0:
		return len(t.Assignment)
	case t.Partitions < 0:
		return b.Config.Int("num.partitions")
	}
	return int(t.Partitions)
}

// newCreateTopicsResult is a result of a topic that was not created: its
// counts are -1, and its configs are empty rather than null.
func newCreateTopicsResult(version int16, name string) kmsg.CreateTopicsResponseTopic {
	t := kmsg.NewCreateTopicsResponseTopic()
	t.Topic = name
	t.NumPartitions, t.ReplicationFactor = -1, -1
	if version >= 5 {
		t.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
	}
	return t
}

func requestedTopic(t *kmsg.CreateTopicsRequestTopic) metadata.NewTopic {
	n := metadata.NewTopic{
		Name: t.Topic, Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor,
	}
	for _, a := range t.ReplicaAssignment {
		n.Assignment = append(n.Assignment, metadata.PartitionAssignment{Partition: a.Partition, Replicas: a.Replicas})
	}
	if len(t.Configs) > 0 {
		n.Configs = make(map[string]*string, len(t.Configs))
		for _, c := range t.Configs {
			n.Configs[c.Name] = c.Value
		}
	}
	return n
}

func (b *Broker) createdConfigs(set map[string]string) []kmsg.CreateTopicsResponseTopicConfig {
	entries := b.Config.DescribeTopic(set)
	out := make([]kmsg.CreateTopicsResponseTopicConfig, len(entries))
	for i, e := range entries {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.ReadOnly, c.IsSensitive, c.Source = e.Name, e.Value, e.ReadOnly, e.Sensitive, int8(e.Source)
		if raw, ok := set[e.Name]; ok {
			c.Value = &raw // as the request had it
		}
		out[i] = c
	}
	return out
}
