package handler

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func ptr(s string) *string { return &s }

// newTopic describes a topic for a CreateTopics request; the configs are
// key=value, or a key alone for null.
func newTopic(name string, partitions int32, rf int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, rf
	for _, c := range configs {
		k, v, ok := strings.Cut(c, "=")
		e := kmsg.NewCreateTopicsRequestTopicConfig()
		e.Name = k
		if ok {
			e.Value = &v
		}
		t.Configs = append(t.Configs, e)
	}
	return t
}

// assigned describes a topic with given replicas.
func assigned(name string, partitions int32, rf int16, replicas ...[]int32) kmsg.CreateTopicsRequestTopic {
	t := newTopic(name, partitions, rf)
	for i, r := range replicas {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(i), r
		t.ReplicaAssignment = append(t.ReplicaAssignment, a)
	}
	return t
}

func create(version int16, validateOnly bool, topics ...kmsg.CreateTopicsRequestTopic) kmsg.Request {
	r := kmsg.NewPtrCreateTopicsRequest()
	r.Version, r.TimeoutMillis, r.ValidateOnly, r.Topics = version, 10000, validateOnly, topics
	return r
}

func deleteNames(version int16, names ...string) kmsg.Request {
	r := kmsg.NewPtrDeleteTopicsRequest()
	r.Version, r.TimeoutMillis, r.TopicNames = version, 10000, names
	if version >= 6 {
		for _, n := range names {
			t := kmsg.NewDeleteTopicsRequestTopic()
			t.Topic = &n
			r.Topics = append(r.Topics, t)
		}
	}
	return r
}

func deleteIDs(ids ...[16]byte) kmsg.Request {
	r := kmsg.NewPtrDeleteTopicsRequest()
	r.Version, r.TimeoutMillis = 6, 10000
	for _, id := range ids {
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.TopicID = id
		r.Topics = append(r.Topics, t)
	}
	return r
}

func metadataFor(version int16, auto bool, names ...string) kmsg.Request {
	r := kmsg.NewPtrMetadataRequest()
	r.Version, r.AllowAutoTopicCreation = version, auto
	r.Topics = []kmsg.MetadataRequestTopic{}
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &n
		r.Topics = append(r.Topics, t)
	}
	return r
}

func metadataIDs(version int16, ids ...[16]byte) kmsg.Request {
	r := metadataFor(version, false).(*kmsg.MetadataRequest)
	for _, id := range ids {
		t := kmsg.NewMetadataRequestTopic()
		t.TopicID = id
		r.Topics = append(r.Topics, t)
	}
	return r
}

func morePartitions(version int16, validateOnly bool, topics ...kmsg.CreatePartitionsRequestTopic) kmsg.Request {
	r := kmsg.NewPtrCreatePartitionsRequest()
	r.Version, r.TimeoutMillis, r.ValidateOnly, r.Topics = version, 10000, validateOnly, topics
	return r
}

func grow(name string, count int32, replicas ...[]int32) kmsg.CreatePartitionsRequestTopic {
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = name, count
	for _, r := range replicas {
		a := kmsg.NewCreatePartitionsRequestTopicAssignment()
		a.Replicas = r
		t.Assignment = append(t.Assignment, a)
	}
	return t
}

func describe(version int16, resources ...kmsg.DescribeConfigsRequestResource) kmsg.Request {
	r := kmsg.NewPtrDescribeConfigsRequest()
	r.Version, r.Resources = version, resources
	return r
}

func describeAll(version int16, resources ...kmsg.DescribeConfigsRequestResource) kmsg.Request {
	r := describe(version, resources...).(*kmsg.DescribeConfigsRequest)
	r.IncludeSynonyms, r.IncludeDocumentation = true, true
	return r
}

func resource(typ kmsg.ConfigResourceType, name string, keys ...string) kmsg.DescribeConfigsRequestResource {
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = typ, name, keys
	return r
}

// scripts are all scripts by name. Topics must begin with "adm-".
func scripts() map[string][]step {
	const topic, broker, logger = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger
	const group, metrics = kmsg.ConfigResourceTypeGroupConfig, kmsg.ConfigResourceTypeClientMetrics
	const appendTo, subtract = kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract
	return map[string][]step{
		"create_topics": {
			{"plain", create(7, false, newTopic("adm-a", 2, 1))},
			{"with configs", create(7, false, newTopic("adm-b", 1, 1, "retention.ms=1000", "cleanup.policy=compact,delete"))},
			{"existing", create(7, false, newTopic("adm-a", 2, 1))},
			{"twice in one request", create(7, false, newTopic("adm-c", 1, 1), newTopic("adm-d", 1, 1), newTopic("adm-c", 2, 1))},
			{"invalid names", create(7, false, newTopic("", 1, 1), newTopic(".", 1, 1), newTopic("..", 1, 1), newTopic("adm bad", 1, 1), newTopic(strings.Repeat("x", 250), 1, 1))},
			{"colliding names", create(7, false, newTopic("adm-x.y", 1, 1), newTopic("adm-x_y", 1, 1))},
			{"half of a collision", create(7, false, newTopic("adm-y_z", 1, 1))},
			{"collision with existing", create(7, false, newTopic("adm-y.z", 1, 1))},
			{"collision with existing, validate only", create(7, true, newTopic("adm-y.z", 1, 1))},
			{"partition counts", create(7, false, newTopic("adm-e", 0, 1), newTopic("adm-f", -2, 1))},
			{"replication factors", create(7, false, newTopic("adm-e", 1, 0), newTopic("adm-f", 1, -2), newTopic("adm-g", 1, 3))},
			{"defaults", create(7, false, newTopic("adm-h", -1, -1))},
			{"assignment", create(7, false, assigned("adm-i", -1, -1, []int32{1}, []int32{1}))},
			{"assignment and counts", create(7, false, assigned("adm-j", 1, -1, []int32{1}), assigned("adm-k", -1, 1, []int32{1}), assigned("adm-l", 1, 1, []int32{1}))},
			{"assignment unknown broker", create(7, false, assigned("adm-m", -1, -1, []int32{9}))},
			{"assignment duplicate broker", create(7, false, assigned("adm-m", -1, -1, []int32{1, 1}))},
			{"assignment empty", create(7, false, assigned("adm-m", -1, -1, []int32{}))},
			{"assignment uneven", create(7, false, assigned("adm-m", -1, -1, []int32{1}, []int32{1, 2}))},
			{"assignment gap", create(7, false, func() kmsg.CreateTopicsRequestTopic {
				t := assigned("adm-m", -1, -1, []int32{1}, []int32{1})
				t.ReplicaAssignment[1].Partition = 2
				return t
			}())},
			{"assignment twice", create(7, false, func() kmsg.CreateTopicsRequestTopic {
				t := assigned("adm-m", -1, -1, []int32{1}, []int32{1})
				t.ReplicaAssignment[1].Partition = 0
				return t
			}())},
			{"unknown config", create(7, false, newTopic("adm-n", 1, 1, "no.such.key=1"))},
			{"not a number", create(7, false, newTopic("adm-n", 1, 1, "retention.ms=abc"))},
			{"below range", create(7, false, newTopic("adm-n", 1, 1, "segment.bytes=10"))},
			{"above range", create(7, false, newTopic("adm-n", 1, 1, "min.cleanable.dirty.ratio=1.5"))},
			{"not an enum", create(7, false, newTopic("adm-n", 1, 1, "compression.type=none"))},
			{"not a boolean", create(7, false, newTopic("adm-n", 1, 1, "preallocate=yes"))},
			{"not in list", create(7, false, newTopic("adm-n", 1, 1, "cleanup.policy=shrink"))},
			{"list empty element", create(7, false, newTopic("adm-n", 1, 1, "cleanup.policy=compact,"))},
			{"list empty", create(7, true, newTopic("adm-n", 1, 1, "cleanup.policy="))},
			{"gzip level", create(7, false, newTopic("adm-n", 1, 1, "compression.gzip.level=0"))},
			{"throttled replicas", create(7, false, newTopic("adm-n", 1, 1, "leader.replication.throttled.replicas=1-2"))},
			{"null config", create(7, false, newTopic("adm-n", 1, 1, "retention.ms"))},
			{"compaction lags", create(7, false, newTopic("adm-n", 1, 1, "min.compaction.lag.ms=10", "max.compaction.lag.ms=5"))},
			{"remote storage", create(7, false, newTopic("adm-n", 1, 1, "remote.storage.enable=true"))},
			{"local retention", create(7, true, newTopic("adm-n", 1, 1, "local.retention.ms=100", "retention.ms=10"))},
			{"config twice", create(7, true, newTopic("adm-n", 1, 1, "retention.ms=1", "retention.ms=2"))},
			{"not canonical", create(7, true, newTopic("adm-n", 1, 1, "retention.ms= 0010 ", "preallocate=TRUE"))},
			{"several errors", create(7, false, newTopic("adm-o", 0, 7, "retention.ms=abc"))},
			{"validate only", create(7, true, newTopic("adm-o", 3, 1, "retention.ms=5"))},
			{"validate only again", create(7, true, newTopic("adm-o", 3, 1))},
			{"validate only existing", create(7, true, newTopic("adm-a", 3, 1))},
			{"metadata topic", create(7, false, newTopic("__cluster_metadata", 1, 1))},
			{"nothing", create(7, false)},
			{"v2", create(2, false, newTopic("adm-p", 1, 1), newTopic("adm-a", 1, 1))},
			{"v3", create(3, false, newTopic("adm-q", -1, -1))},
			{"v4", create(4, false, newTopic("adm-r", -1, -1))},
			{"v5", create(5, false, newTopic("adm-s", 3, 1), newTopic("adm-a", 1, 1))},
			{"v6", create(6, false, newTopic("adm-t", 3, 1))},
		},
		"delete_topics": {
			{"set up", create(7, false, newTopic("adm-da", 1, 1), newTopic("adm-db", 1, 1), newTopic("adm-dc", 1, 1), newTopic("adm-dd", 1, 1), newTopic("adm-de", 1, 1), newTopic("adm-df", 1, 1))},
			{"names", deleteNames(6, "adm-da", "adm-none")},
			{"ids", deleteIDs(topicID("adm-db"), topicID("adm-none"), [16]byte{})},
			{"name and id", func() kmsg.Request {
				r := deleteNames(6, "adm-dc").(*kmsg.DeleteTopicsRequest)
				r.Topics[0].TopicID = topicID("adm-dc")
				return r
			}()},
			{"name twice", deleteNames(6, "adm-dc", "adm-dd", "adm-dc")},
			{"id twice", deleteIDs(topicID("adm-dc"), topicID("adm-dc"))},
			{"by name and by id", func() kmsg.Request {
				r := deleteIDs(topicID("adm-dc")).(*kmsg.DeleteTopicsRequest)
				return &kmsg.DeleteTopicsRequest{Version: 6, TimeoutMillis: 10000, Topics: append(r.Topics, kmsg.DeleteTopicsRequestTopic{Topic: ptr("adm-dc")})}
			}()},
			{"nothing", deleteNames(6)},
			{"empty name", deleteNames(6, "")},
			{"v1", deleteNames(1, "adm-dd", "adm-none")},
			{"v4", deleteNames(4, "adm-de", "adm-none")},
			{"v5", deleteNames(5, "adm-df", "adm-none", "adm-none")},
			{"deleted names are unknown", metadataFor(13, false, "adm-da")},
			{"deleted ids are unknown", metadataIDs(13, topicID("adm-da"))},
		},
		"create_partitions": {
			{"set up", create(7, false, newTopic("adm-pa", 2, 1), newTopic("adm-pb", 1, 1))},
			{"more", morePartitions(3, false, grow("adm-pa", 4))},
			{"same", morePartitions(3, false, grow("adm-pa", 4))},
			{"fewer", morePartitions(3, false, grow("adm-pa", 1))},
			{"zero and negative", morePartitions(3, false, grow("adm-pa", 0), grow("adm-pb", -1))},
			{"unknown", morePartitions(3, false, grow("adm-none", 2))},
			{"twice", morePartitions(3, false, grow("adm-pa", 5), grow("adm-pb", 2), grow("adm-pa", 6))},
			{"assignment", morePartitions(3, false, grow("adm-pb", 3, []int32{1}, []int32{1}))},
			{"assignment too short", morePartitions(3, false, grow("adm-pb", 5, []int32{1}))},
			{"assignment too long", morePartitions(3, false, grow("adm-pb", 4, []int32{1}, []int32{1}))},
			{"assignment unknown broker", morePartitions(3, false, grow("adm-pb", 4, []int32{9}))},
			{"assignment empty replicas", morePartitions(3, false, grow("adm-pb", 4, []int32{}))},
			{"assignment replication factor", morePartitions(3, false, grow("adm-pb", 4, []int32{1, 2}))},
			{"validate only", morePartitions(3, true, grow("adm-pb", 9))},
			{"validate only wrong", morePartitions(3, true, grow("adm-pb", 2))},
			{"v0", morePartitions(0, false, grow("adm-pb", 5), grow("adm-none", 2))},
			{"v2", morePartitions(2, false, grow("adm-pb", 6))},
			{"after", metadataFor(12, false, "adm-pb")},
			{"nothing", morePartitions(3, false)},
		},
		"metadata": {
			{"set up", create(7, false, newTopic("adm-ma", 2, 1), newTopic("adm-mb", 1, 1))},
			{"v0", metadataFor(0, false, "adm-ma")},
			{"v1", metadataFor(1, false, "adm-ma")},
			{"v1 none", metadataFor(1, false)},
			{"v2", metadataFor(2, false, "adm-ma")},
			{"v4 unknown", metadataFor(4, false, "adm-mx", "adm-ma")},
			{"v5", metadataFor(5, false, "adm-ma")},
			{"v7", metadataFor(7, false, "adm-ma")},
			{"v8", metadataFor(8, false, "adm-ma", "adm-mx")},
			{"v9", metadataFor(9, false, "adm-ma")},
			{"v10", metadataFor(10, false, "adm-ma")},
			{"v11", metadataFor(11, false, "adm-mb", "adm-ma")},
			{"v12", metadataFor(12, false, "adm-mb", "adm-mx", "adm-ma")},
			{"v12 ids", metadataIDs(12, topicID("adm-mb"), topicID("adm-none"))},
			{"v13 ids", metadataIDs(13, topicID("adm-mb"), topicID("adm-none"))},
			{"v13 null and zero id", metadataIDs(13, [16]byte{})},
			{"v10 id", metadataIDs(10, topicID("adm-mb"), topicID("adm-none"))},
			{"v12 id and name", func() kmsg.Request {
				r := metadataFor(12, false, "adm-ma").(*kmsg.MetadataRequest)
				r.Topics[0].TopicID = topicID("adm-mb")
				return r
			}()},
			{"v12 id and names", func() kmsg.Request {
				r := metadataFor(12, false, "adm-ma", "adm-mb").(*kmsg.MetadataRequest)
				r.Topics[0].TopicID = topicID("adm-mb")
				return r
			}()},
			{"v13 empty", metadataFor(13, false)},
			{"v9 authorized operations", func() kmsg.Request {
				r := metadataFor(9, false, "adm-ma").(*kmsg.MetadataRequest)
				r.IncludeClusterAuthorizedOperations, r.IncludeTopicAuthorizedOperations = true, true
				return r
			}()},
			{"v13 topic operations of unknown", func() kmsg.Request {
				r := metadataFor(13, false, "adm-mx").(*kmsg.MetadataRequest)
				r.IncludeTopicAuthorizedOperations = true
				return r
			}()},
			{"v9 same topic twice", metadataFor(9, false, "adm-ma", "adm-ma")},
			{"v12 invalid names", metadataFor(12, false, "", "a b", strings.Repeat("x", 250), ".")},
			{"v12 invalid names with creation", metadataFor(12, true, "", "a b", strings.Repeat("x", 250), ".")},
			{"v12 creation", metadataFor(12, true, "adm-auto-a", "adm-auto-b")},
			{"v3 creation", metadataFor(3, false, "adm-ma")},
			{"v12 collision", metadataFor(12, true, "adm-auto.a")},
			{"v12 collision with creation", metadataFor(12, true, "adm-auto_a")},
		},
		"describe_cluster": {
			{"v0", &kmsg.DescribeClusterRequest{Version: 0}},
			{"v0 operations", &kmsg.DescribeClusterRequest{Version: 0, IncludeClusterAuthorizedOperations: true}},
			{"v1 brokers", &kmsg.DescribeClusterRequest{Version: 1, EndpointType: 1}},
			{"v1 controllers", &kmsg.DescribeClusterRequest{Version: 1, EndpointType: 2}},
			{"v1 type 3", &kmsg.DescribeClusterRequest{Version: 1, EndpointType: 3}},
			{"v2", &kmsg.DescribeClusterRequest{Version: 2, EndpointType: 1}},
			{"v2 fenced", &kmsg.DescribeClusterRequest{Version: 2, EndpointType: 1, IncludeFencedBrokers: true}},
		},
		"describe_topic_partitions": {
			{"set up", create(7, false, newTopic("adm-ta", 3, 1), newTopic("adm-tb", 2, 1))},
			{"both", describePartitions(2000, "", 0, "adm-tb", "adm-ta")},
			{"unknown", describePartitions(2000, "", 0, "adm-tx", "adm-ta")},
			{"limit 1", describePartitions(1, "", 0, "adm-ta", "adm-tb")},
			{"limit 3", describePartitions(3, "", 0, "adm-ta", "adm-tb")},
			{"limit 4", describePartitions(4, "", 0, "adm-ta", "adm-tb")},
			{"limit 5", describePartitions(5, "", 0, "adm-ta", "adm-tb")},
			{"limit 0", describePartitions(0, "", 0, "adm-ta")},
			{"limit negative", describePartitions(-1, "", 0, "adm-ta")},
			{"cursor", describePartitions(2, "adm-ta", 2, "adm-ta", "adm-tb")},
			{"cursor between topics", describePartitions(2, "adm-taa", 0, "adm-ta", "adm-tb")},
			{"cursor beyond partitions", describePartitions(2, "adm-ta", 7, "adm-ta", "adm-tb")},
			{"cursor negative", describePartitions(2, "adm-ta", -1, "adm-ta", "adm-tb")},
			{"cursor beyond topics", describePartitions(2, "adm-z", 0, "adm-ta", "adm-tb")},
			{"twice", describePartitions(9, "", 0, "adm-ta", "adm-ta")},
			{"invalid name", describePartitions(9, "", 0, "a b", "")},
		},
		"describe_configs": {
			{"set up", create(7, false, newTopic("adm-ca", 1, 1, "retention.ms=1000", "cleanup.policy=compact"))},
			{"v4 keys", describeAll(4, resource(topic, "adm-ca", "retention.ms", "cleanup.policy", "segment.ms", "flush.ms", "max.message.bytes", "remote.storage.enable"))},
			{"v1 keys", func() kmsg.Request {
				r := describe(1, resource(topic, "adm-ca", "retention.ms", "segment.ms")).(*kmsg.DescribeConfigsRequest)
				r.IncludeSynonyms = true
				return r
			}()},
			{"v2 keys", describe(2, resource(topic, "adm-ca", "retention.ms"))},
			{"v3 keys", describeAll(3, resource(topic, "adm-ca", "retention.ms"))},
			{"v4 unknown key", describe(4, resource(topic, "adm-ca", "no.such.key", "retention.ms"))},
			{"v4 no key", describe(4, func() kmsg.DescribeConfigsRequestResource {
				r := resource(topic, "adm-ca")
				r.ConfigNames = []string{}
				return r
			}())},
			{"v4 unknown topic", describe(4, resource(topic, "adm-none"))},
			{"v4 invalid topic", describe(4, resource(topic, "a b"), resource(topic, ""))},
			{"v4 broker keys", describeAll(4, resource(broker, "1", "num.partitions", "log.retention.ms", "ssl.keystore.password", "log.retention.hours", "log.flush.interval.ms", "auto.create.topics.enable", "log.roll.ms"))},
			{"v4 broker unknown key", describeAll(4, resource(broker, "1", "no.such.key"))},
			{"v4 other broker", describe(4, resource(broker, "9"))},
			{"v4 no broker", describe(4, resource(broker, "x"))},
			{"v4 broker default", describe(4, resource(broker, ""))},
			{"v4 logger other", describe(4, resource(logger, "9"))},
			{"v4 logger default", describe(4, resource(logger, ""))},
			{"v4 logger no broker", describe(4, resource(logger, "x"))},
			{"v4 group", describeAll(4, resource(kmsg.ConfigResourceTypeGroupConfig, "adm-g"))},
			{"v4 group key", describe(4, resource(kmsg.ConfigResourceTypeGroupConfig, "adm-g", "consumer.session.timeout.ms"))},
			{"v4 group empty", describe(4, resource(kmsg.ConfigResourceTypeGroupConfig, ""))},
			{"v4 client metrics", describeAll(4, resource(kmsg.ConfigResourceTypeClientMetrics, "adm-m"))},
			{"v4 client metrics empty", describe(4, resource(kmsg.ConfigResourceTypeClientMetrics, ""))},
			{"v4 unknown type", describe(4, resource(99, "x"))},
			{"v4 type 0", describe(4, resource(0, "x"))},
			{"v4 same twice", describe(4, resource(topic, "adm-ca", "retention.ms"), resource(topic, "adm-ca", "segment.ms"))},
			{"v4 nothing", describe(4)},
		},
		"incremental_alter_configs": {
			{"set up", create(7, false, newTopic("adm-ia", 1, 1, "retention.ms=1000", "cleanup.policy=compact"))},
			{"set", alter(1, false, altered(topic, "adm-ia", set("segment.ms", "2000"), set("retention.ms", "3000")))},
			{"after set", describeAll(4, resource(topic, "adm-ia", "segment.ms", "retention.ms", "cleanup.policy"))},
			{"delete", alter(1, false, altered(topic, "adm-ia", unset("segment.ms"), unset("flush.ms")))},
			{"append", alter(1, false, altered(topic, "adm-ia", op("cleanup.policy", appendTo, "delete")))},
			{"append again", alter(1, false, altered(topic, "adm-ia", op("cleanup.policy", appendTo, "delete")))},
			{"append to default", alter(1, false, altered(topic, "adm-ia", op("leader.replication.throttled.replicas", appendTo, "0:1,1:1")))},
			{"after append", describe(4, resource(topic, "adm-ia", "cleanup.policy", "leader.replication.throttled.replicas", "segment.ms"))},
			{"subtract", alter(1, false, altered(topic, "adm-ia", op("cleanup.policy", subtract, "compact")))},
			{"subtract missing", alter(1, false, altered(topic, "adm-ia", op("leader.replication.throttled.replicas", subtract, "7:7")))},
			{"after subtract", describe(4, resource(topic, "adm-ia", "cleanup.policy", "leader.replication.throttled.replicas"))},
			{"subtract all", alter(1, false, altered(topic, "adm-ia", op("leader.replication.throttled.replicas", subtract, "0:1,1:1")))},
			{"after subtract all", describeAll(4, resource(topic, "adm-ia", "leader.replication.throttled.replicas"))},
			{"append to number", alter(1, false, altered(topic, "adm-ia", op("retention.ms", appendTo, "1")))},
			{"append to unknown", alter(1, false, altered(topic, "adm-ia", op("no.such.key", appendTo, "1")))},
			{"unknown operation", alter(1, false, altered(topic, "adm-ia", op("retention.ms", 9, "1")))},
			{"null value", alter(1, false, altered(topic, "adm-ia", nulled("retention.ms")))},
			{"delete with value", alter(1, false, altered(topic, "adm-ia", op("retention.ms", kmsg.IncrementalAlterConfigOpDelete, "5")))},
			{"unknown key", alter(1, false, altered(topic, "adm-ia", set("no.such.key", "1")))},
			{"delete unknown key", alter(1, false, altered(topic, "adm-ia", unset("no.such.key")))},
			{"bad value", alter(1, false, altered(topic, "adm-ia", set("retention.ms", "abc")))},
			{"below range", alter(1, false, altered(topic, "adm-ia", set("segment.bytes", "1")))},
			{"key twice", alter(1, false, altered(topic, "adm-ia", set("retention.ms", "1"), set("retention.ms", "2")))},
			{"lags", alter(1, false, altered(topic, "adm-ia", set("min.compaction.lag.ms", "10"), set("max.compaction.lag.ms", "5")))},
			{"no change", alter(1, false, altered(topic, "adm-ia"))},
			{"unknown topic", alter(1, false, altered(topic, "adm-none", set("retention.ms", "1")))},
			{"invalid topic", alter(1, false, altered(topic, "a b", set("retention.ms", "1")), altered(topic, "", set("retention.ms", "1")))},
			{"resource twice", alter(1, false, altered(topic, "adm-ia", set("retention.ms", "1")), altered(topic, "adm-ia", set("segment.ms", "1")))},
			{"unknown type", alter(1, false, altered(99, "x", set("retention.ms", "1")))},
			{"validate only", alter(1, true, altered(topic, "adm-ia", set("retention.ms", "77")))},
			{"validate only bad", alter(1, true, altered(topic, "adm-ia", set("retention.ms", "-5")))},
			{"several", alter(1, false, altered(topic, "adm-ia", set("retention.ms", "88")), altered(topic, "adm-none", set("retention.ms", "1")))},
			{"v0", alter(0, false, altered(topic, "adm-ia", set("retention.ms", "99")))},
			{"at the end", describe(4, resource(topic, "adm-ia", "retention.ms"))},
			{"nothing", alter(1, false)},

			{"broker", alter(1, false, altered(broker, "1", set("log.cleaner.backoff.ms", "15001")))},
			{"broker default", alter(1, false, altered(broker, "", set("log.cleaner.backoff.ms", "15002")))},
			{"after broker", describeAll(4, resource(broker, "1", "log.cleaner.backoff.ms"))},
			{"broker delete", alter(1, false, altered(broker, "1", unset("log.cleaner.backoff.ms")))},
			{"after broker delete", describeAll(4, resource(broker, "1", "log.cleaner.backoff.ms"))},
			{"after broker delete, default", describeAll(4, resource(broker, "", "log.cleaner.backoff.ms"))},
			{"broker default delete", alter(1, false, altered(broker, "", unset("log.cleaner.backoff.ms")))},
			{"after both", describeAll(4, resource(broker, "1", "log.cleaner.backoff.ms"))},
			{"broker read-only", alter(1, true, altered(broker, "1", set("num.partitions", "5")))},
			{"broker default read-only", alter(1, true, altered(broker, "", set("num.partitions", "5")))},
			{"broker default per-broker key", alter(1, true, altered(broker, "", set("ssl.keystore.location", "/x")))},
			{"broker bad value", alter(1, true, altered(broker, "1", set("log.cleaner.backoff.ms", "x")))},
			{"broker default bad value", alter(1, true, altered(broker, "", set("log.cleaner.backoff.ms", "x")))},
			{"broker out of range", alter(1, true, altered(broker, "1", set("log.cleaner.backoff.ms", "-1")))},
			{"broker unknown key", alter(1, true, altered(broker, "1", set("no.such.key", "x")))},
			{"broker other", alter(1, true, altered(broker, "9", set("log.cleaner.backoff.ms", "1")))},
			{"broker not a number", alter(1, true, altered(broker, "x", set("log.cleaner.backoff.ms", "1")))},
			{"broker append to number", alter(1, true, altered(broker, "1", op("log.cleaner.backoff.ms", appendTo, "1")))},
			{"broker retention 0", alter(1, true, altered(broker, "1", set("log.retention.ms", "0")))},
			{"logger", alter(1, true, altered(logger, "1", set("kafka.server.ReplicaManager", "DEBUG")))},
			{"logger bad level", alter(1, true, altered(logger, "1", set("kafka.server.ReplicaManager", "LOUD")))},
			{"logger unknown", alter(1, true, altered(logger, "1", set("no.such.logger", "DEBUG")))},
			{"logger other broker", alter(1, true, altered(logger, "9", set("root", "DEBUG")))},
			{"logger delete root", alter(1, true, altered(logger, "1", unset("root")))},
			{"logger append", alter(1, true, altered(logger, "1", op("root", appendTo, "DEBUG")))},

			{"group", alter(1, false, altered(group, "adm-g", set("consumer.session.timeout.ms", "50000")))},
			{"after group", describeAll(4, resource(group, "adm-g", "consumer.session.timeout.ms"))},
			{"group bad value", alter(1, false, altered(group, "adm-g", set("consumer.session.timeout.ms", "x")))},
			{"group out of bounds", alter(1, false, altered(group, "adm-g", set("consumer.session.timeout.ms", "1")))},
			{"group unknown key", alter(1, false, altered(group, "adm-g", set("no.such.key", "1")))},
			{"group empty name", alter(1, false, altered(group, "", set("consumer.session.timeout.ms", "50000")))},
			{"group listed", listConfigs(1, 32)},
			{"group delete", alter(1, false, altered(group, "adm-g", unset("consumer.session.timeout.ms")))},
			{"group listed after delete", listConfigs(1, 32)},
			{"group interval against session", alter(1, true, altered(group, "adm-g", set("consumer.heartbeat.interval.ms", "50000")))},
			{"share offset reset", alter(1, true, altered(group, "adm-g", set("share.auto.offset.reset", "by_duration:PT")))},

			{"metrics", alter(1, false, altered(metrics, "adm-m", set("interval.ms", "5000"), set("match", "client_id=a.*"), set("metrics", "org.apache")))},
			{"after metrics", describeAll(4, resource(metrics, "adm-m"))},
			{"metrics interval", alter(1, true, altered(metrics, "adm-m", set("interval.ms", "5")))},
			{"metrics match", alter(1, true, altered(metrics, "adm-m", set("match", "nonsense")))},
			{"metrics match key", alter(1, true, altered(metrics, "adm-m", set("match", "colour=red")))},
			{"metrics match pattern", alter(1, true, altered(metrics, "adm-m", set("match", "client_id=[")))},
			{"metrics unknown key", alter(1, true, altered(metrics, "adm-m", set("no.such.key", "1")))},
			{"metrics empty name", alter(1, true, altered(metrics, "", set("interval.ms", "5000")))},
			{"metrics listed", listConfigs(0)},
			{"metrics listed v1", listConfigs(1, 16)},
			{"metrics delete", alter(1, false, altered(metrics, "adm-m", unset("interval.ms"), unset("match"), unset("metrics")))},
			{"metrics listed after delete", listConfigs(0)},
			{"list unknown type", listConfigs(1, 99)},
			{"list type 0", listConfigs(1, 0)},
			{"list brokers", listConfigs(1, 4)},
			{"list loggers", listConfigs(1, 8)},
			{"list twice", listConfigs(1, 4, 4)},
		},
		"alter_configs": {
			{"set up", create(7, false, newTopic("adm-aa", 1, 1, "retention.ms=1000", "cleanup.policy=compact"))},
			{"replace", replace(2, false, replaced(topic, "adm-aa", "segment.ms=2000", "retention.ms=3000"))},
			{"after replace", describeAll(4, resource(topic, "adm-aa", "segment.ms", "retention.ms", "cleanup.policy"))},
			{"v1", replace(1, false, replaced(topic, "adm-aa", "segment.ms=2001"))},
			{"v0", replace(0, false, replaced(topic, "adm-aa", "segment.ms=2002"))},
			{"after v0", describe(1, resource(topic, "adm-aa", "segment.ms", "retention.ms"))},
			{"validate only", replace(2, true, replaced(topic, "adm-aa", "segment.ms=1"))},
			{"null value", replace(2, false, replaced(topic, "adm-aa", "segment.ms"))},
			{"unknown key", replace(2, false, replaced(topic, "adm-aa", "no.such.key=1"))},
			{"bad value", replace(2, false, replaced(topic, "adm-aa", "segment.ms=x"))},
			{"key twice", replace(2, false, replaced(topic, "adm-aa", "segment.ms=5", "segment.ms=6"))},
			{"unknown topic", replace(2, false, replaced(topic, "adm-none", "segment.ms=5"))},
			{"unknown type", replace(2, false, replaced(99, "x", "segment.ms=5"))},
			{"group", replace(2, true, replaced(group, "adm-g", "consumer.session.timeout.ms=50000"))},
			{"logger", replace(2, true, replaced(logger, "1", "root=INFO"))},
			{"broker", replace(2, true, replaced(broker, "1", "log.cleaner.backoff.ms=15001"))},
			{"broker read-only", replace(2, true, replaced(broker, "1", "num.partitions=4"))},
			{"broker other", replace(2, true, replaced(broker, "9", "log.cleaner.backoff.ms=15001"))},
			{"clear", replace(2, false, replaced(topic, "adm-aa"))},
			{"after clear", describe(4, resource(topic, "adm-aa", "segment.ms"))},
			{"nothing", replace(2, false)},
		},
		"describe_log_dirs": {
			{"set up", create(7, false, newTopic("adm-la", 2, 1), newTopic("adm-lb", 1, 1))},
			{"v1", logDirs(1, "adm-la", "adm-none")},
			{"v2", logDirs(2, "adm-lb")},
			{"v3", logDirs(3, "adm-lb")},
			{"v4", logDirs(4, "adm-lb")},
			{"v5", logDirs(5, "adm-lb", "adm-la")},
			{"partition that is not there", func() kmsg.Request {
				r := logDirs(4, "adm-lb").(*kmsg.DescribeLogDirsRequest)
				r.Topics[0].Partitions = []int32{7}
				return r
			}()},
			{"no partitions", func() kmsg.Request {
				r := logDirs(4, "adm-lb").(*kmsg.DescribeLogDirsRequest)
				r.Topics[0].Partitions = nil
				return r
			}()},
			{"unknown only", logDirs(4, "adm-none")},
			{"none", logDirs(4)},
		},
		"describe_all_configs": {
			{"set up", create(7, false, newTopic("adm-cb", 1, 1))},
			{"topic", describeAll(4, resource(topic, "adm-cb"))},
			{"broker", describeAll(4, resource(broker, "1"))},
		},
	}
}

func describePartitions(limit int32, cursor string, partition int32, names ...string) kmsg.Request {
	r := kmsg.NewPtrDescribeTopicPartitionsRequest()
	r.ResponsePartitionLimit = limit
	for _, n := range names {
		t := kmsg.NewDescribeTopicPartitionsRequestTopic()
		t.Topic = n
		r.Topics = append(r.Topics, t)
	}
	if cursor != "" {
		c := kmsg.NewDescribeTopicPartitionsRequestCursor()
		c.Topic, c.Partition = cursor, partition
		r.Cursor = &c
	}
	return r
}

func alter(version int16, validateOnly bool, resources ...kmsg.IncrementalAlterConfigsRequestResource) kmsg.Request {
	r := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r.Version, r.ValidateOnly, r.Resources = version, validateOnly, resources
	return r
}

func altered(typ kmsg.ConfigResourceType, name string, ops ...kmsg.IncrementalAlterConfigsRequestResourceConfig) kmsg.IncrementalAlterConfigsRequestResource {
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.Configs = typ, name, ops
	return r
}

func op(key string, kind kmsg.IncrementalAlterConfigOp, value string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Op, c.Value = key, kind, &value
	return c
}

func set(key, value string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
	return op(key, kmsg.IncrementalAlterConfigOpSet, value)
}

func nulled(key string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
	c := set(key, "")
	c.Value = nil
	return c
}

func unset(key string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
	c := op(key, kmsg.IncrementalAlterConfigOpDelete, "")
	c.Value = nil
	return c
}

func replace(version int16, validateOnly bool, resources ...kmsg.AlterConfigsRequestResource) kmsg.Request {
	r := kmsg.NewPtrAlterConfigsRequest()
	r.Version, r.ValidateOnly, r.Resources = version, validateOnly, resources
	return r
}

func replaced(typ kmsg.ConfigResourceType, name string, configs ...string) kmsg.AlterConfigsRequestResource {
	r := kmsg.NewAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = typ, name
	for _, c := range configs {
		k, v, ok := strings.Cut(c, "=")
		e := kmsg.NewAlterConfigsRequestResourceConfig()
		e.Name = k
		if ok {
			e.Value = &v
		}
		r.Configs = append(r.Configs, e)
	}
	return r
}

func listConfigs(version int16, types ...int8) kmsg.Request {
	r := kmsg.NewPtrListConfigResourcesRequest()
	r.Version, r.ResourceTypes = version, types
	return r
}

func logDirs(version int16, topics ...string) kmsg.Request {
	r := kmsg.NewPtrDescribeLogDirsRequest()
	r.Version = version
	r.Topics = []kmsg.DescribeLogDirsRequestTopic{}
	for _, name := range topics {
		t := kmsg.NewDescribeLogDirsRequestTopic()
		t.Topic, t.Partitions = name, []int32{0, 1}
		r.Topics = append(r.Topics, t)
	}
	return r
}

// differs names by script and step where gregor answers otherwise than Kafka,
// and why.
var differs = map[string]map[string]string{
	"describe_topic_partitions": {
		"invalid name": "Kafka answers UNKNOWN_SERVER_ERROR for the whole request",
	},
	"groups_migration": {
		"describe downgraded": "Kafka shows what was meant for the member, gregor what it has",
	},
	"metadata": {
		"v12 creation":                "a topic is usable when its creation is answered",
		"v12 collision":               "a topic is usable when its creation is answered",
		"v12 collision with creation": "creation is tried before the answer, so its error is known",
	},
}
