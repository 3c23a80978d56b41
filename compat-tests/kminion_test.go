package compat

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
)

// kminion is the path of kminion.
func kminion(t *testing.T) string {
	t.Helper()
	bin, err := harness.Kminion()
	if err != nil {
		missing(t, err)
	}
	return bin
}

// startKminion starts a kminion with settings, in the form of its environment.
func startKminion(t *testing.T, b *harness.Broker, name string, settings ...string) *watcher {
	t.Helper()
	addr := watcherAddr(t)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(kminion(t))
	// It takes every variable for a setting, so it gets no others.
	cmd.Env = append([]string{"KAFKA_BROKERS=" + b.Addr, "EXPORTER_HOST=" + host, "EXPORTER_PORT=" + port}, settings...)
	return startWatcher(t, name, addr, cmd)
}

// metrics are the lines a kminion exports that keep says.
func (w *watcher) metrics(ctx context.Context, keep func(line string) bool) ([]string, error) {
	body, err := w.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(body) {
		if line = strings.TrimSpace(line); keep(line) {
			out = append(out, clusterVersion.ReplaceAllString(line, ""))
		}
	}
	return out, nil
}

// TestKminion: kminion sees every kind of group, exactly and at each stage of
// their lives, whether it reads __consumer_offsets itself or asks the broker.
func TestKminion(t *testing.T) {
	needAll(t)
	kminion(t)
	onOwn(t, nil, func(t *testing.T, b *harness.Broker) {
		modes := []string{"offsetsTopic", "adminApi"}
		var minions []*watcher
		watchGroups(t, b, func() {
			for _, mode := range modes {
				minions = append(minions, startKminion(t, b, mode, "MINION_CONSUMERGROUPS_SCRAPEMODE="+mode))
			}
		}, func(stage string, seen *watched) {
			for i, mode := range modes {
				minions[i].await(t, stage, minionSees(t, b, mode, seen), func(ctx context.Context) ([]string, error) {
					return minions[i].metrics(ctx, func(line string) bool { return ofWatched.MatchString(line) })
				})
			}
		})
	})
}

// ofWatched are the lines about what watchGroups does, and about the cluster.
var ofWatched = regexp.MustCompile(`^kminion_(exporter_up|kafka_(cluster_info|broker_info|consumer_group_)|kafka_topic_.*topic_name="(watched|gone)")`)

// clusterVersion is what kminion takes a cluster for by the set of all APIs that
// it serves, which is not gregor's to claim.
var clusterVersion = regexp.MustCompile(`cluster_version="[^"]*",`)

// minionSees is what kminion must export.
func minionSees(t *testing.T, b *harness.Broker, mode string, w *watched) []string {
	t.Helper()
	_, port, err := net.SplitHostPort(b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := franz(t, b).Admin().BrokerMetadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := []string{
		`kminion_exporter_up{version=""} 1`,
		`kminion_kafka_cluster_info{broker_count="1",cluster_id="` + meta.Cluster + `",controller_id="1"} 1`,
		`kminion_kafka_broker_info{address="127.0.0.1",broker_id="1",is_controller="true",port="` + port + `",rack_id=""} 1`,
	}
	add := func(value int64, metric, labels string, args ...any) {
		out = append(out, "kminion_kafka_"+metric+"{"+fmt.Sprintf(labels, args...)+"} "+strconv.FormatInt(value, 10))
	}
	for topic, ends := range w.ends {
		add(1, "topic_info", `cleanup_policy="delete",partition_count="%d",replication_factor="1",topic_name="%s"`, len(ends), topic)
		add(logBytes(t, b, topic), "topic_log_dir_size_total_bytes", `topic_name="%s"`, topic)
		var low, high int64
		for i, end := range ends {
			add(w.starts[topic][i], "topic_partition_low_water_mark", `partition_id="%d",topic_name="%s"`, i, topic)
			add(end, "topic_partition_high_water_mark", `partition_id="%d",topic_name="%s"`, i, topic)
			low, high = low+w.starts[topic][i], high+end
		}
		add(low, "topic_low_water_mark_sum", `topic_name="%s"`, topic)
		add(high, "topic_high_water_mark_sum", `topic_name="%s"`, topic)
	}
	for name, g := range w.groups {
		// It describes groups as of old, which know nothing of the new protocol.
		if g.classic {
			stable, members, protocol, protocolType, state := int64(0), int64(0), "", "consumer", "Empty"
			if g.simple {
				protocolType = ""
			}
			if g.member {
				stable, members, protocol, state = 1, 1, "range", "Stable"
				add(1, "consumer_group_topic_members", `group_id="%s",topic_name="watched"`, name)
				add(2, "consumer_group_topic_assigned_partitions", `group_id="%s",topic_name="watched"`, name)
			}
			add(stable, "consumer_group_info", `coordinator_id="1",group_id="%s",protocol="%s",protocol_type="%s",state="%s"`, name, protocol, protocolType, state)
			add(members, "consumer_group_members", `group_id="%s"`, name)
		}
		if mode == "offsetsTopic" {
			add(int64(g.commits), "consumer_group_offset_commits_total", `group_id="%s"`, name)
		}
		for topic, offsets := range g.offsets {
			var lag, sum int64
			for partition, at := range offsets {
				add(w.lag(name, topic, partition), "consumer_group_topic_partition_lag", `group_id="%s",partition_id="%d",topic_name="%s"`, name, partition, topic)
				lag, sum = lag+w.lag(name, topic, partition), sum+at
			}
			add(lag, "consumer_group_topic_lag", `group_id="%s",topic_name="%s"`, name, topic)
			add(sum, "consumer_group_topic_offset_sum", `group_id="%s",topic_name="%s"`, name, topic)
		}
	}
	return out
}

// logBytes is the size of a topic's segments on the disk.
func logBytes(t *testing.T, b *harness.Broker, topic string) int64 {
	t.Helper()
	var sum int64
	err := filepath.WalkDir(b.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dir := filepath.Base(filepath.Dir(path))
		if !strings.HasPrefix(dir, topic+"-") || strings.Contains(dir, ".") || filepath.Ext(path) != ".log" {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestKminionEndToEnd: kminion's own probe creates a topic, grows it, produces
// to it, consumes from it and commits; nothing is lost and nothing fails. It also
// removes the groups that such probes leave behind.
func TestKminionEndToEnd(t *testing.T) {
	needAll(t)
	kminion(t)
	const topic = "kminion-end-to-end"
	settings := []string{
		"MINION_ENDTOEND_ENABLED=true", "MINION_ENDTOEND_PROBEINTERVAL=20ms",
		// What comes late on a busy machine is not lost.
		"MINION_ENDTOEND_PRODUCER_ACKSLA=5m", "MINION_ENDTOEND_CONSUMER_ROUNDTRIPSLA=5m", "MINION_ENDTOEND_CONSUMER_COMMITSLA=5m",
	}
	onOwn(t, nil, func(t *testing.T, b *harness.Broker) {
		const leftover = topic + "-of-another"
		var offsets kadm.Offsets
		offsets.AddOffset(createTopic(t, b, 1), 0, 0, -1)
		if err := franz(t, b).Admin().CommitAllOffsets(t.Context(), leftover, offsets); err != nil {
			t.Fatal(err)
		}
		sees := func(w *watcher, group string, is bool) {
			w.until(t, func(ctx context.Context) error {
				lines, err := w.metrics(ctx, func(line string) bool { return strings.Contains(line, `group_id="`+group+`"`) })
				if err == nil && is != (len(lines) > 0) {
					err = fmt.Errorf("of %s it sees %q", group, lines)
				}
				return err
			})
		}

		first := startKminion(t, b, "the first", settings...)
		first.until(t, func(ctx context.Context) error { return probed(ctx, first, 1) })
		sees(first, leftover, true)
		got, err := franz(t, b).Do("config", topic, "cleanup.policy", "segment.ms", "retention.ms", "min.insync.replicas")
		const want = "[[cleanup.policy delete false] [min.insync.replicas 1 false] [retention.ms 86400000 false] [segment.ms 43200000 false]]"
		if text := fmt.Sprint(got); err != nil || text != want {
			t.Errorf("%s is %s, %v, want %s", topic, text, err, want)
		}
		// The next finds the topic too small.
		second := startKminion(t, b, "the second", append(settings, "MINION_ENDTOEND_TOPICMANAGEMENT_PARTITIONSPERBROKER=2",
			"MINION_ENDTOEND_CONSUMER_DELETESTALECONSUMERGROUPS=true")...)
		second.until(t, func(ctx context.Context) error { return probed(ctx, second, 2) })
		sees(second, leftover, false)
	})
}

// probed says what a probe of kminion has not done yet, or has done wrong.
func probed(ctx context.Context, w *watcher, partitions int) error {
	lines, err := w.metrics(ctx, func(line string) bool { return strings.HasPrefix(line, "kminion_end_to_end_") })
	if err != nil {
		return err
	}
	figures := map[string]float64{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, " ")
		if figures[name], err = strconv.ParseFloat(value, 64); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		if metric, _, _ := strings.Cut(name, "{"); (metric == "kminion_end_to_end_messages_lost_total" || strings.HasSuffix(metric, "_failed_total")) && figures[name] != 0 {
			return fmt.Errorf("%s", line)
		}
	}
	need := func(least float64, metric, labels string) {
		name := "kminion_end_to_end_" + metric + "{" + labels + "}"
		if err == nil && figures[name] < least {
			err = fmt.Errorf("%s is %v, want %v at least", name, figures[name], least)
		}
	}
	for i := range partitions {
		partition := fmt.Sprintf(`partition_id="%d"`, i)
		for _, metric := range []string{"messages_produced_total", "messages_received_total", "produce_latency_seconds_count", "roundtrip_latency_seconds_count"} {
			need(100, metric, partition)
		}
	}
	need(1, "offset_commits_total", `coordinator_id="1"`)
	need(1, "offset_commit_latency_seconds_count", `coordinator_id="1"`)
	return err
}
