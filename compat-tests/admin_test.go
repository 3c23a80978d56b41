package compat

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
)

// producers lists the producer states of a partition.
func producers(t *testing.T, b *harness.Broker, topic string, partition int32) []kadm.DescribedProducer {
	t.Helper()
	var s kadm.TopicsSet
	s.Add(topic, partition)
	ds, err := franz(t, b).Admin().DescribeProducers(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	p := ds[topic].Partitions[partition]
	if p.Err != nil {
		t.Fatal(p.Err)
	}
	return p.ActiveProducers.Sorted()
}

func mustDo(t *testing.T, c harness.Client, command string, args ...string) [][]string {
	t.Helper()
	lines, err := c.Do(command, args...)
	if err != nil {
		t.Fatalf("%s %v: %v", command, args, err)
	}
	return lines
}

func wantLines(t *testing.T, got [][]string, want ...string) {
	t.Helper()
	if have := joined(got); !slices.Equal(have, want) {
		t.Fatalf("answered %q, want %q", have, want)
	}
}

func joined(lines [][]string) (out []string) {
	for _, l := range lines {
		out = append(out, strings.Join(l, " "))
	}
	return out
}

// TestAdmin: the life of a topic, through each client's admin calls.
func TestAdmin(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		needAdmin(t, c)
		topic := topicName(t)
		t.Cleanup(func() { _, _ = franz(t, b).Do("delete", topic) })
		mustDo(t, c, "create", topic, "3", "1", harness.Conf("retention.ms", "3600000", "cleanup.policy", "compact"))
		settle(t, b, topic, 3)
		wantLines(t, mustDo(t, c, "describe", topic), "0 1 1 1", "1 1 1 1", "2 1 1 1")
		wantLines(t, mustDo(t, c, "config", topic, "cleanup.policy", "retention.ms", "max.message.bytes", "segment.bytes"),
			"cleanup.policy compact false", "max.message.bytes 1048588 true", "retention.ms 3600000 false", "segment.bytes 1073741824 true")
		mustDo(t, c, "alter", topic, harness.Conf("cleanup.policy", "delete", "segment.bytes", "1048576", "retention.ms", ""))
		altered := []string{"cleanup.policy delete false", "retention.ms 604800000 true", "segment.bytes 1048576 false"}
		seen(t, b, func() bool {
			return slices.Equal(joined(mustDo(t, c, "config", topic, "cleanup.policy", "retention.ms", "segment.bytes")), altered)
		})
		wantLines(t, mustDo(t, c, "config", topic, "cleanup.policy", "retention.ms", "segment.bytes"), altered...)
		mustDo(t, c, "partitions", topic, "5")
		settle(t, b, topic, 5)
		wantLines(t, mustDo(t, c, "describe", topic), "0 1 1 1", "1 1 1 1", "2 1 1 1", "3 1 1 1", "4 1 1 1")
		lines := mustDo(t, c, "cluster")
		if lines[0][0] != "1" || lines[0][1] != "1" {
			t.Fatalf("cluster: %v, want controller 1 and node 1", lines)
		}

		var recs []harness.Record
		for i := range 20 {
			recs = append(recs, harness.Record{Topic: topic, Partition: 4, Offset: int64(i), Timestamp: time.Now().UnixMilli(), Value: fmt.Appendf(nil, "%d", i)})
		}
		if _, err := harness.Produce(c, t.TempDir(), recs, harness.Conf("acks", "all")); err != nil {
			t.Fatal(err)
		}
		wantLines(t, mustDo(t, c, "deleterecords", topic, "4", "7"), "7")
		wantLines(t, mustDo(t, c, "offsets", topic, "4"), "7 20")
		got, err := harness.Consume(c, topic, 4, "earliest", 13, "-")
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, recs[7:])
		wantLines(t, mustDo(t, c, "deleterecords", topic, "4", "-1"), "20")
		wantLines(t, mustDo(t, c, "offsets", topic, "4"), "20 20")

		mustDo(t, c, "delete", topic)
		if _, err := c.Do("delete", topic); harness.Code(err) != 3 {
			t.Fatalf("delete of a deleted topic: %v, want UNKNOWN_TOPIC_OR_PARTITION", err)
		}
	})
}

// TestRecreate: a topic made again under its old name is another topic: empty,
// with offsets from 0, another id, and its partitions' number.
func TestRecreate(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		topic := topicName(t)
		t.Cleanup(func() { _, _ = franz(t, b).Do("delete", topic) })
		ids := map[string]bool{}
		for round := range 3 {
			mustDo(t, c, "create", topic, strconv.Itoa(round+1), "1", "-")
			settle(t, b, topic, round+1)
			wantLines(t, mustDo(t, c, "offsets", topic, "0"), "0 0")
			rec := harness.Record{Topic: topic, Timestamp: time.Now().UnixMilli(), Key: []byte("round"), Value: []byte(strconv.Itoa(round))}
			if _, err := harness.Produce(c, t.TempDir(), []harness.Record{rec}, harness.Conf("acks", "all")); err != nil {
				t.Fatal(err)
			}
			got, err := harness.Consume(c, topic, 0, "earliest", 1, "-")
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, got, []harness.Record{rec})
			if n := len(mustDo(t, c, "describe", topic)); n != round+1 {
				t.Fatalf("round %d: %d partitions", round, n)
			}
			details, err := franz(t, b).Topic(context.Background(), topic)
			if err != nil {
				t.Fatal(err)
			}
			ids[fmt.Sprintf("%x", details.TopicID)] = true
			mustDo(t, c, "delete", topic)
		}
		if len(ids) != 3 {
			t.Fatalf("three topics had the ids %v", ids)
		}
	})
}

// TestTopicIDs: the newest Java client finds and deletes topics by their id.
func TestTopicIDs(t *testing.T) {
	needAll(t)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		c := client(t, b, "java-"+harness.JavaLines[0])
		topic := createTopic(t, b, 1)
		id := mustDo(t, c, "topicid", topic)[0][0]
		wantLines(t, mustDo(t, c, "byid", id), topic)
		mustDo(t, c, "deletebyid", id)
		if _, err := c.Do("byid", id); harness.Code(err) != 100 {
			t.Fatalf("describe a deleted id: %v, want UNKNOWN_TOPIC_ID", err)
		}
	})
}

// TestSpecialOffsets: earliest, latest, the largest timestamp, and the ends of
// tiered storage, which is not there.
func TestSpecialOffsets(t *testing.T) {
	needAll(t)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		c := client(t, b, "java-"+harness.JavaLines[0])
		topic := createTopic(t, b, 1)
		now := time.Now().UnixMilli()
		var recs []harness.Record
		for _, d := range []int64{0, 500, 100, 900, 300} {
			recs = append(recs, harness.Record{Topic: topic, Timestamp: now - 1000 + d, Value: []byte("v")})
		}
		if _, err := harness.Produce(c, t.TempDir(), recs, harness.Conf("acks", "all", "linger.ms", "50")); err != nil {
			t.Fatal(err)
		}
		wantLines(t, mustDo(t, c, "special", topic, "0"),
			"EarliestSpec 0 -1 0", "LatestSpec 5 -1 0", fmt.Sprintf("MaxTimestampSpec 3 %d 0", now-100),
			"EarliestLocalSpec 0 -1 0", "LatestTieredSpec -1 -1 -1")
		wantLines(t, mustDo(t, c, "latest", topic, "0"), "5 0")
		size := mustDo(t, c, "size", topic, "0")
		if len(size) != 1 || size[0][0] == "0" || size[0][1] != "0" || size[0][2] != "false" {
			t.Fatalf("log directory: %v, want a size, no lag, not a future replica", size)
		}
	})
}

// TestRefusals: every refusal that users meet, by its error code.
func TestRefusals(t *testing.T) {
	const (
		offsetOutOfRange   = 1
		unknownTopic       = 3
		messageTooLarge    = 10
		invalidTopic       = 17
		topicExists        = 36
		invalidPartitions  = 37
		invalidReplication = 38
		invalidConfig      = 40
		invalidRecord      = 87
		invalidTimestamp   = 32
		// Clients of 1.1 read the codes of later errors as "unknown".
		unknownToOldClients = -1
	)
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		needAdmin(t, c)
		topic := createTopic(t, b, 2, "max.message.bytes", "2000")
		compacted := createTopic(t, b, 1, "cleanup.policy", "compact")
		strict := createTopic(t, b, 1, "message.timestamp.before.max.ms", "60000")
		do := func(command string, args ...string) func() error {
			return func() error { _, err := c.Do(command, args...); return err }
		}
		produce := func(r harness.Record) func() error {
			return func() error {
				_, err := harness.Produce(c, t.TempDir(), []harness.Record{r}, harness.Conf("acks", "all"))
				return err
			}
		}
		now := time.Now().UnixMilli()
		unknown := topicName(t)
		for _, tc := range []struct {
			what string
			do   func() error
			want []int16
		}{
			{"create a topic that exists", do("create", topic, "1", "1", "-"), []int16{topicExists}},
			{"create with a bad name", do("create", "no/slash", "1", "1", "-"), []int16{invalidTopic}},
			{"create with a name too long", do("create", strings.Repeat("x", 250), "1", "1", "-"), []int16{invalidTopic}},
			{"create with a name of dots", do("create", "..", "1", "1", "-"), []int16{invalidTopic}},
			{"create without partitions", do("create", unknown, "0", "1", "-"), []int16{invalidPartitions, -186}},
			{"create with too many replicas", do("create", unknown, "1", "3", "-"), []int16{invalidReplication}},
			{"create with an unknown config", do("create", unknown, "1", "1", "no.such.config=1"), []int16{invalidConfig}},
			{"create with a bad value", do("create", unknown, "1", "1", "retention.ms=soon"), []int16{invalidConfig}},
			{"create with a bad policy", do("create", unknown, "1", "1", "cleanup.policy=burn"), []int16{invalidConfig}},
			{"delete what is not there", do("delete", unknown), []int16{unknownTopic}},
			{"grow what is not there", do("partitions", unknown, "3"), []int16{unknownTopic}},
			{"shrink", do("partitions", topic, "1"), []int16{invalidPartitions}},
			{"grow to the same", do("partitions", topic, "2"), []int16{invalidPartitions}},
			{"alter with an unknown config", do("alter", topic, "no.such.config=1"), []int16{invalidConfig}},
			{"alter with a bad value", do("alter", topic, "segment.bytes=-5"), []int16{invalidConfig}},
			{"alter what is not there", do("alter", unknown, "retention.ms=1000"), []int16{unknownTopic}},
			{"configs of what is not there", do("config", unknown, "retention.ms"), []int16{unknownTopic}},
			{"delete records beyond the end", do("deleterecords", topic, "0", "5"), []int16{offsetOutOfRange}},
			{"a record too large", produce(harness.Record{Topic: topic, Timestamp: now, Value: make([]byte, 5000)}), []int16{messageTooLarge}},
			{"a record without key into a compacted topic", produce(harness.Record{Topic: compacted, Timestamp: now, Value: []byte("v")}), []int16{invalidRecord, unknownToOldClients}},
			{"a record too old", produce(harness.Record{Topic: strict, Timestamp: now - 3600_000, Value: []byte("v")}), []int16{invalidTimestamp}},
		} {
			err := tc.do()
			if code := harness.Code(err); !slices.Contains(tc.want, code) {
				t.Errorf("%s: %v, want code %v", tc.what, err, tc.want)
			}
		}
		// After all these the topic is as it was.
		wantLines(t, mustDo(t, c, "offsets", topic, "0"), "0 0")
	})
}
