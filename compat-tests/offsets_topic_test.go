package compat

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// coordinatorRecord is what Kafka's formatters print of a record of
// __consumer_offsets.
type coordinatorRecord struct {
	Key struct {
		Type int
		Data struct {
			Group, Topic string
			Partition    int32
		}
	}
	Value *struct {
		Data struct {
			Offset       int64
			Metadata     string
			ProtocolType string
			Protocol     string
			Generation   int
			Leader       string
			Members      []struct{ ClientID string }
		}
	}
}

// TestOffsetsTopic: those who watch groups by reading __consumer_offsets (Burrow,
// kminion, Kafka's own formatters) find there what they know.
func TestOffsetsTopic(t *testing.T) {
	needAll(t)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		topic := createTopic(t, b, 2)
		var recs []harness.Record
		for i := range 20 {
			recs = append(recs, harness.Record{Topic: topic, Partition: int32(i % 2), Timestamp: -1, Value: []byte("v")})
		}
		if _, err := harness.Produce(franz(t, b), t.TempDir(), recs, "-"); err != nil {
			t.Fatal(err)
		}
		suffix := topicName(t)
		classic, consumer, idle := "classic-"+suffix, "consumer-"+suffix, "idle-"+suffix
		liveGroup(t, b, topic, classic, kgo.Balancers(kgo.RangeBalancer()))
		liveGroup(t, b, topic, consumer, kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
		var offsets kadm.Offsets
		offsets.Add(kadm.Offset{Topic: topic, Partition: 1, At: 6, LeaderEpoch: -1, Metadata: "six, \"quoted\""})
		if err := franz(t, b).Admin().CommitAllOffsets(t.Context(), idle, offsets); err != nil {
			t.Fatal(err)
		}

		// The last record of each key of this topic's groups.
		read := func(formatter string) map[string]coordinatorRecord {
			t.Helper()
			out, err := kafkaTool(t, "", consoleConsume, "--bootstrap-server", b.Addr, "--topic", "__consumer_offsets", "--from-beginning",
				"--formatter", "org.apache.kafka.tools.consumer."+formatter, "--timeout-ms", "15000")
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			last := make(map[string]coordinatorRecord)
			// They stand one after the other, and the tool's own words around them.
			_, objects, _ := strings.Cut(out, `{"key"`)
			for d := json.NewDecoder(strings.NewReader(`{"key"` + objects)); ; {
				var r coordinatorRecord
				if err := d.Decode(&r); err != nil {
					break
				}
				if k := r.Key.Data; strings.HasSuffix(k.Group, suffix) {
					last[fmt.Sprintf("%s/%s/%d", k.Group, k.Topic, k.Partition)] = r
				}
			}
			return last
		}

		commits := read("OffsetsMessageFormatter")
		for key, want := range map[string]struct {
			offset   int64
			metadata string
		}{
			classic + "/" + topic + "/0": {offset: 10}, classic + "/" + topic + "/1": {offset: 10},
			consumer + "/" + topic + "/0": {offset: 10}, consumer + "/" + topic + "/1": {offset: 10},
			idle + "/" + topic + "/1": {6, "six, \"quoted\""},
		} {
			r, ok := commits[key]
			if !ok || r.Value == nil || r.Key.Type != 1 || r.Value.Data.Offset != want.offset || want.metadata != "" && r.Value.Data.Metadata != want.metadata {
				t.Errorf("%s: %+v, want %+v", key, r, want)
			}
		}
		if len(commits) != 5 {
			t.Errorf("%d offsets: %v", len(commits), commits)
		}

		groups := read("GroupMetadataMessageFormatter")
		r, ok := groups[classic+"//0"]
		if !ok || r.Value == nil || r.Key.Type != 2 {
			t.Fatalf("%s: %+v of %v", classic, r, groups)
		}
		if d := r.Value.Data; d.ProtocolType != "consumer" || d.Protocol != "range" || d.Generation != 1 || len(d.Members) != 1 || d.Members[0].ClientID != "live" || d.Leader == "" {
			t.Errorf("%s: %+v", classic, d)
		}
	})
}
