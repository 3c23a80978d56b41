package handler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func answer[R kmsg.Response](t *testing.T, b *testBroker, req kmsg.Request) R {
	t.Helper()
	return b.play(t, req).(R)
}

func (b *testBroker) metadata(t *testing.T, version int16, auto bool, names ...string) *kmsg.MetadataResponse {
	t.Helper()
	return answer[*kmsg.MetadataResponse](t, b, metadataFor(version, auto, names...))
}

func (b *testBroker) create(t *testing.T, topics ...kmsg.CreateTopicsRequestTopic) {
	t.Helper()
	for _, topic := range answer[*kmsg.CreateTopicsResponse](t, b, create(7, false, topics...)).Topics {
		if topic.ErrorCode != 0 {
			t.Fatalf("%s: %v %s", topic.Topic, kerr.ErrorForCode(topic.ErrorCode), *topic.ErrorMessage)
		}
	}
}

func TestAutomaticCreation(t *testing.T) {
	b := newTestBroker(t, "num.partitions", "3")
	if code := b.metadata(t, 9, false, "a").Topics[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("not allowed by the request: %d", code)
	}
	got := b.metadata(t, 9, true, "a").Topics[0]
	if got.ErrorCode != 0 || len(got.Partitions) != 3 || got.Partitions[2].Leader != 1 {
		t.Errorf("%+v", got)
	}
	// The promise behind answering at once: the partitions take records.
	for n := range int32(3) {
		if _, err := b.Partitions.Partition("a", n); err != nil {
			t.Error(err)
		}
	}
	// Requests before v4 cannot say that they do not want it.
	if got := b.metadata(t, 3, false, "old").Topics[0]; got.ErrorCode != 0 {
		t.Errorf("%+v", got)
	}
	if got := b.metadata(t, 9, true, "x y").Topics[0]; got.ErrorCode != kerr.InvalidTopicException.Code {
		t.Errorf("%+v", got)
	}

	b = newTestBroker(t, "auto.create.topics.enable", "false")
	if code := b.metadata(t, 9, true, "a").Topics[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("not allowed by the broker: %d", code)
	}
}

func TestAutomaticCreationThatFails(t *testing.T) {
	b := newTestBroker(t)
	b.create(t, newTopic("a.b", 1, 1))
	if code := b.metadata(t, 9, true, "a_b").Topics[0].ErrorCode; code != kerr.InvalidTopicException.Code {
		t.Errorf("colliding name: %d", code)
	}
}

func TestInternalTopics(t *testing.T) {
	b := newTestBroker(t, "offsets.topic.num.partitions", "7")
	got := b.metadata(t, 9, true, "__consumer_offsets").Topics[0]
	if got.ErrorCode != 0 || !got.IsInternal || len(got.Partitions) != 7 || len(got.Partitions[0].Replicas) != 1 {
		t.Errorf("%+v", got)
	}
	configs := b.Cluster.Image().Topic("__consumer_offsets").Configs
	if configs["cleanup.policy"] != "compact" || configs["segment.bytes"] != "104857600" {
		t.Error(configs)
	}
}

func TestMetadataOfAllTopics(t *testing.T) {
	b := newTestBroker(t)
	b.create(t, newTopic("b", 1, 1), newTopic("a", 1, 1))
	for _, version := range []int16{0, 1, 9, 13} {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = version
		if version == 0 {
			req.Topics = []kmsg.MetadataRequestTopic{}
		}
		resp := answer[*kmsg.MetadataResponse](t, b, req)
		var names []string
		for _, topic := range resp.Topics {
			names = append(names, *topic.Topic)
		}
		if strings.Join(names, " ") != "a b" {
			t.Errorf("v%d: %v", version, names)
		}
	}
	if n := len(b.metadata(t, 1, false).Topics); n != 0 {
		t.Errorf("an empty list from v1 on: %d topics", n)
	}
}

func TestEndpointsAreTheListeners(t *testing.T) {
	b := newTestBroker(t)
	b.create(t, newTopic("a", 1, 1))
	if got := b.metadata(t, 9, false, "a").Brokers; len(got) != 1 || got[0].Port != 9092 {
		t.Errorf("%+v", got)
	}
	b.listener = "INTERNAL"
	got := b.metadata(t, 9, false, "a")
	if len(got.Brokers) != 1 || got.Brokers[0].Host != "inside" || got.Brokers[0].Port != 9093 {
		t.Errorf("%+v", got.Brokers)
	}
	b.listener = "OTHER"
	got = b.metadata(t, 9, false, "a")
	if p := got.Topics[0].Partitions[0]; len(got.Brokers) != 0 || p.ErrorCode != kerr.ListenerNotFound.Code || p.Leader != -1 {
		t.Errorf("%+v", got)
	}
	if p := b.metadata(t, 5, false, "a").Topics[0].Partitions[0]; p.ErrorCode != kerr.LeaderNotAvailable.Code {
		t.Errorf("before v6: %+v", p)
	}
}

// A broker that is gone is offline in Metadata, fenced in DescribeCluster.
func TestFencedBroker(t *testing.T) {
	b := newTestBroker(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	other, err := controller.New(controller.Options{
		Store: b.store, NodeID: 2, Log: zerolog.Nop(), SessionTimeout: 300 * time.Millisecond,
		Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "other", Port: 9092, Security: "PLAINTEXT"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(ctx); err != nil {
		t.Fatal(err)
	}
	b.await(ctx, t, func(img *metadata.Image) bool { return img.Broker(2) != nil && !img.Broker(2).Fenced })
	b.create(t, newTopic("a", 1, 2))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	b.await(ctx, t, func(img *metadata.Image) bool {
		return img.Broker(2).Fenced && img.Topic("a").Partitions[0].Leader == 1
	})

	got := b.metadata(t, 9, false, "a")
	if p := got.Topics[0].Partitions[0]; len(got.Brokers) != 1 || p.Leader != 1 || !slices.Equal(p.OfflineReplicas, []int32{2}) || len(p.Replicas) != 2 {
		t.Errorf("%+v", got)
	}
	if p := b.metadata(t, 0, false, "a").Topics[0].Partitions[0]; p.ErrorCode != kerr.ReplicaNotAvailable.Code || len(p.Replicas) != 1 {
		t.Errorf("v0: %+v", p)
	}
	for _, fenced := range []bool{false, true} {
		c := answer[*kmsg.DescribeClusterResponse](t, b, &kmsg.DescribeClusterRequest{Version: 2, EndpointType: 1, IncludeFencedBrokers: fenced})
		if fenced && (len(c.Brokers) != 2 || !c.Brokers[1].IsFenced || c.Brokers[1].Host != "other") || !fenced && len(c.Brokers) != 1 {
			t.Errorf("%t: %+v", fenced, c.Brokers)
		}
	}
}

func TestDeletionDisabled(t *testing.T) {
	b := newTestBroker(t, "delete.topic.enable", "false")
	b.create(t, newTopic("a", 1, 1))
	for version, want := range map[int16]*kerr.Error{1: kerr.InvalidRequest, 2: kerr.InvalidRequest, 3: kerr.TopicDeletionDisabled, 6: kerr.TopicDeletionDisabled} {
		if got := answer[*kmsg.DeleteTopicsResponse](t, b, deleteNames(version, "a")).Topics[0]; got.ErrorCode != want.Code {
			t.Errorf("v%d: %+v", version, got)
		}
	}
	if b.Cluster.Image().Topic("a") == nil {
		t.Error("deleted")
	}
}

// Reading every page, of any size, shows every partition once and in order.
func TestPagesCoverAllPartitions(t *testing.T) {
	b := newTestBroker(t)
	var want []string
	for i := range 6 {
		name := fmt.Sprintf("t%d", i)
		b.create(t, newTopic(name, int32(i+1), 1))
		for p := range i + 1 {
			want = append(want, fmt.Sprintf("%s-%d", name, p))
		}
	}
	for range 20 {
		var got []string
		cursor, partition := "", int32(0)
		for {
			limit := 1 + rand.Int32N(9)
			resp := answer[*kmsg.DescribeTopicPartitionsResponse](t, b, describePartitions(limit, cursor, partition))
			page := 0
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					got = append(got, fmt.Sprintf("%s-%d", *topic.Topic, p.Partition))
					page++
				}
			}
			if page > int(limit) {
				t.Fatalf("%d partitions, asked for %d", page, limit)
			}
			if resp.NextCursor == nil {
				break
			}
			cursor, partition = resp.NextCursor.Topic, resp.NextCursor.Partition
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
	}
	b = newTestBroker(t, "max.request.partition.size.limit", "2")
	b.create(t, newTopic("a", 5, 1))
	if n := len(answer[*kmsg.DescribeTopicPartitionsResponse](t, b, describePartitions(100, "", 0)).Topics[0].Partitions); n != 2 {
		t.Errorf("the broker's limit: %d", n)
	}
}

// A configuration that was acknowledged works: on the logs, and in what the
// broker itself reads.
func TestConfigsTakeEffect(t *testing.T) {
	const topic, broker = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker
	b := newTestBroker(t)
	b.create(t, newTopic("a", 1, 1), newTopic("own", 1, 1, "max.message.bytes=500"))
	limit := func(name string) int32 {
		t.Helper()
		return b.Logs.Log(storage.TopicPartition{Topic: name}).Config().MaxMessageBytes
	}
	change := func(req kmsg.Request) {
		t.Helper()
		for _, r := range answer[*kmsg.IncrementalAlterConfigsResponse](t, b, req).Resources {
			if r.ErrorCode != 0 {
				t.Fatal(kerr.ErrorForCode(r.ErrorCode), *r.ErrorMessage)
			}
		}
	}
	source := func(name string) kmsg.ConfigSource {
		t.Helper()
		return answer[*kmsg.DescribeConfigsResponse](t, b, describe(4, resource(topic, name, "max.message.bytes"))).Resources[0].Configs[0].Source
	}
	if limit("a") != 1048588 || limit("own") != 500 || source("a") != kmsg.ConfigSourceDefaultConfig {
		t.Fatal(limit("a"), limit("own"), source("a"))
	}
	change(alter(1, false, altered(broker, "", set("message.max.bytes", "2000"))))
	if limit("a") != 2000 || limit("own") != 500 || b.Config.Int("message.max.bytes") != 2000 || source("a") != kmsg.ConfigSourceDynamicDefaultBrokerConfig {
		t.Error(limit("a"), limit("own"), source("a"))
	}
	change(alter(1, false, altered(broker, "1", set("message.max.bytes", "3000"))))
	if limit("a") != 3000 || limit("own") != 500 || source("a") != kmsg.ConfigSourceDynamicBrokerConfig {
		t.Error(limit("a"), limit("own"), source("a"))
	}
	change(alter(1, false, altered(topic, "a", set("max.message.bytes", "4000"))))
	if limit("a") != 4000 || source("a") != kmsg.ConfigSourceDynamicTopicConfig {
		t.Error(limit("a"), source("a"))
	}
	change(alter(1, true, altered(topic, "a", set("max.message.bytes", "5000"))))
	if limit("a") != 4000 {
		t.Error("validate-only changed it")
	}
	change(alter(1, false, altered(topic, "a", unset("max.message.bytes")), altered(broker, "1", unset("message.max.bytes"))))
	change(alter(1, false, altered(broker, "", unset("message.max.bytes"))))
	if limit("a") != 1048588 || source("a") != kmsg.ConfigSourceDefaultConfig {
		t.Error(limit("a"), source("a"))
	}
}

func TestRefusedBrokerConfigs(t *testing.T) {
	const broker = kmsg.ConfigResourceTypeBroker
	b := newTestBroker(t)
	for _, c := range []struct {
		name, key, value, want string
	}{
		{"1", "listeners", "PLAINTEXT://:1", "Cannot update these configs dynamically: [listeners]"},
		{"", "sasl.jaas.config", "x", "Cannot update these configs at default cluster level, broker id must be specified: [sasl.jaas.config]"},
		{"1", "ssl.keystore.location", "x", "These security configs can be dynamically updated only per-listener using the listener prefix: [ssl.keystore.location]"},
		{"", "listener.name.a.ssl.keystore.location", "x", "Cannot update these configs at default cluster level, broker id must be specified: [listener.name.a.ssl.keystore.location]"},
		{"1", "listener.name.a.ssl.keystore.location", "x", ""},
		{"1", "log.roll.hours", "1", "Cannot update these configs dynamically: [log.roll.hours]"},
	} {
		got := answer[*kmsg.IncrementalAlterConfigsResponse](t, b, alter(1, true, altered(broker, c.name, set(c.key, c.value)))).Resources[0]
		text := ""
		if got.ErrorMessage != nil {
			text = *got.ErrorMessage
		}
		if text != c.want || (got.ErrorCode == kerr.InvalidRequest.Code) != (c.want != "") {
			t.Errorf("%s of %q: %d %s, want %s", c.key, c.name, got.ErrorCode, text, c.want)
		}
	}
}

// Kafka 4.3.1 never answers this request.
func TestAlterConfigsOfAResourceTwice(t *testing.T) {
	const topic = kmsg.ConfigResourceTypeTopic
	b := newTestBroker(t)
	b.create(t, newTopic("a", 1, 1))
	resp := answer[*kmsg.AlterConfigsResponse](t, b, replace(2, false, replaced(topic, "a", "segment.ms=5"), replaced(topic, "a", "segment.ms=6")))
	for _, r := range resp.Resources {
		if r.ErrorCode != kerr.InvalidRequest.Code || *r.ErrorMessage != "Each resource must appear at most once." {
			t.Errorf("%+v", r)
		}
	}
	if len(resp.Resources) != 2 || len(b.Cluster.Image().Topic("a").Configs) != 0 {
		t.Errorf("%+v", resp)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	b := newTestBroker(t, "ssl.keystore.password", "hunter2", "listener.name.internal.ssl.key.password", "hunter2")
	resp := answer[*kmsg.DescribeConfigsResponse](t, b, describeAll(4, resource(kmsg.ConfigResourceTypeBroker, "1")))
	seen := 0
	for _, c := range resp.Resources[0].Configs {
		if strings.HasSuffix(c.Name, "ssl.keystore.password") || strings.HasSuffix(c.Name, "internal.ssl.key.password") {
			seen++
			if c.Value != nil || !c.IsSensitive || c.Source != kmsg.ConfigSourceStaticBrokerConfig || len(c.ConfigSynonyms) == 0 || c.ConfigSynonyms[0].Value != nil {
				t.Errorf("%+v", c)
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d of 2 are listed", seen)
	}
}

func TestLogLevel(t *testing.T) {
	const logger = kmsg.ConfigResourceTypeBrokerLogger
	b := newTestBroker(t)
	level := func() string {
		c := answer[*kmsg.DescribeConfigsResponse](t, b, describe(4, resource(logger, "1"))).Resources[0].Configs
		if len(c) != 1 || c[0].Name != "root" || c[0].Source != kmsg.ConfigSourceDynamicBrokerLoggerConfig {
			t.Fatalf("%+v", c)
		}
		return *c[0].Value
	}
	change := func(validateOnly bool, value string) int16 {
		return answer[*kmsg.IncrementalAlterConfigsResponse](t, b, alter(1, validateOnly, altered(logger, "1", set("root", value)))).Resources[0].ErrorCode
	}
	if code := change(false, "warn"); code != 0 || level() != "WARN" {
		t.Error(code, level())
	}
	if code := change(true, "TRACE"); code != 0 || level() != "WARN" {
		t.Error(code, level())
	}
	if code := change(false, "LOUD"); code != kerr.InvalidConfig.Code || level() != "WARN" {
		t.Error(code, level())
	}
}

func TestListConfigResources(t *testing.T) {
	b := newTestBroker(t)
	b.create(t, newTopic("a", 1, 1))
	resp := answer[*kmsg.ListConfigResourcesResponse](t, b, listConfigs(1))
	var got []string
	for _, r := range resp.ConfigResources {
		got = append(got, fmt.Sprintf("%d %s", r.Type, r.Name))
	}
	if strings.Join(got, ", ") != "2 a, 4 1, 8 1" {
		t.Error(got)
	}
}

func TestLogDirs(t *testing.T) {
	b := newTestBroker(t, "cordoned.log.dirs", "*")
	b.create(t, newTopic("a", 2, 1))
	req := kmsg.NewPtrDescribeLogDirsRequest()
	req.Version = 5
	resp := answer[*kmsg.DescribeLogDirsResponse](t, b, req)
	if len(resp.Dirs) != 1 || !resp.Dirs[0].IsCordoned || resp.Dirs[0].TotalBytes <= 0 || resp.Dirs[0].UsableBytes <= 0 ||
		len(resp.Dirs[0].Topics) != 1 || len(resp.Dirs[0].Topics[0].Partitions) != 2 {
		t.Errorf("%+v", resp.Dirs)
	}
	b.Logs = failedDir{b.Logs}
	resp = answer[*kmsg.DescribeLogDirsResponse](t, b, req)
	if d := resp.Dirs[0]; d.ErrorCode != kerr.KafkaStorageError.Code || d.TotalBytes != -1 || len(d.Topics) != 0 {
		t.Errorf("%+v", d)
	}
}

// failedDir has a directory that went offline.
type failedDir struct{ logsOf }

type logsOf = interface {
	Logs() []*storage.Log
	Log(tp storage.TopicPartition) *storage.Log
	Dirs() []storage.DirInfo
	DirPaths() []string
	Moves() []storage.MoveInfo
}

func (failedDir) Dirs() []storage.DirInfo {
	return []storage.DirInfo{{Path: "/gone", Err: errors.New("input/output error"), TotalBytes: -1, UsableBytes: -1}}
}

// Topics that stop existing free their names and ids at once.
func TestDeletedTopicIsGone(t *testing.T) {
	b := newTestBroker(t)
	b.create(t, newTopic("a", 1, 1))
	id := b.Cluster.Image().Topic("a").ID
	if got := answer[*kmsg.DeleteTopicsResponse](t, b, deleteIDs(id)).Topics[0]; got.ErrorCode != 0 || *got.Topic != "a" {
		t.Errorf("%+v", got)
	}
	if _, err := b.Partitions.Partition("a", 0); err == nil {
		t.Error("the partition is still there")
	}
	b.create(t, newTopic("a", 1, 1))
	if b.Cluster.Image().Topic("a").ID == id {
		t.Error("the id is used again")
	}
}

// Clients before 1.1 know only whether a value is a default.
func TestConfigsOfOldClients(t *testing.T) {
	b := newTestBroker(t, "log.segment.bytes", "20000000")
	b.create(t, newTopic("t", 1, 1, "retention.ms=1000"))
	asked := resource(kmsg.ConfigResourceTypeTopic, "t", "retention.ms", "segment.bytes", "cleanup.policy")
	got := answer[*kmsg.DescribeConfigsResponse](t, b, describe(0, asked)).Resources[0]
	want := map[string]bool{"retention.ms": false, "segment.bytes": true, "cleanup.policy": true}
	for _, c := range got.Configs {
		if isDefault, ok := want[c.Name]; !ok || c.IsDefault != isDefault {
			t.Errorf("%s = %s: default %v", c.Name, *c.Value, c.IsDefault)
		}
		delete(want, c.Name)
	}
	if len(want) > 0 || got.ErrorCode != 0 {
		t.Errorf("error %d, missing %v", got.ErrorCode, want)
	}
}

// TestBrokersOnly: only over the listener between brokers may somebody call
// himself a replica or ask what a controller is asked (CVE-2018-1288).
func TestBrokersOnly(t *testing.T) {
	b := newTestBroker(t)
	b.Calls = func(context.Context, []byte) []byte { return []byte("answer") }
	for listener, want := range map[string]int16{"PLAINTEXT": 0, "plaintext": 0, "INTERNAL": kerr.ClusterAuthorizationFailed.Code} {
		b.listener = listener
		f := kmsg.NewPtrFetchRequest()
		f.Version, f.ReplicaID, f.SessionEpoch = 12, 2, -1
		if got := answer[*kmsg.FetchResponse](t, b, f).ErrorCode; got != want {
			t.Errorf("%s: a replica's fetch: %v", listener, kerr.ErrorForCode(got))
		}
		e := answer[*kmsg.EnvelopeResponse](t, b, kmsg.NewPtrEnvelopeRequest())
		if e.ErrorCode != want || (string(e.ResponseData) == "answer") != (want == 0) {
			t.Errorf("%s: %v %q", listener, kerr.ErrorForCode(e.ErrorCode), e.ResponseData)
		}
	}
}

// The order in which Kafka 4.3 answers, which clients compare with what they know.
func TestOrderOfQuotas(t *testing.T) {
	b := newTestBroker(t)
	b.play(t, alterQuotas(1, false, quotaOf([]string{"user=u", "client-id=c"}, "producer_byte_rate=1", "request_percentage=2", "consumer_byte_rate=3")))
	r := kmsg.NewPtrDescribeClientQuotasRequest()
	r.Version = 1
	got := answer[*kmsg.DescribeClientQuotasResponse](t, b, r)
	if len(got.Entries) != 1 {
		t.Fatalf("%+v", got)
	}
	var order []string
	for _, e := range got.Entries[0].Entity {
		order = append(order, e.Type)
	}
	for _, v := range got.Entries[0].Values {
		order = append(order, v.Key)
	}
	want := []string{"client-id", "user", "consumer_byte_rate", "request_percentage", "producer_byte_rate"}
	if !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
}
