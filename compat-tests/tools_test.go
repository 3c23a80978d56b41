package compat

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

const (
	topicCommand   = "org.apache.kafka.tools.TopicCommand"
	configCommand  = "kafka.admin.ConfigCommand"
	getOffsets     = "org.apache.kafka.tools.GetOffsetShell"
	logDirs        = "org.apache.kafka.tools.LogDirsCommand"
	deleteRecords  = "org.apache.kafka.tools.DeleteRecordsCommand"
	apiVersions    = "org.apache.kafka.tools.BrokerApiVersionsCommand"
	consoleProduce = "org.apache.kafka.tools.ConsoleProducer"
	consoleConsume = "org.apache.kafka.tools.consumer.ConsoleConsumer"
	producerPerf   = "org.apache.kafka.tools.ProducerPerformance"
	clusterTool    = "org.apache.kafka.tools.ClusterTool"
	transactions   = "org.apache.kafka.tools.TransactionsCommand"
	dumpLog        = "org.apache.kafka.tools.DumpLogSegments"
)

// kafkaTool runs one of Apache Kafka's command line tools.
func kafkaTool(t *testing.T, stdin, class string, args ...string) (string, error) {
	t.Helper()
	libs, err := harness.KafkaJars()
	if err != nil {
		missing(t, err)
	}
	java, err := harness.Need("java", "Apache Kafka's tools")
	if err != nil {
		missing(t, err)
	}
	argv := append([]string{}, harness.JavaFlags...)
	argv = append(argv, "-Dlog4j2.configurationFile="+filepath.Join(harness.Root(), "java", "log4j2.properties"), "-cp", libs+"/*", class)
	out, errOut, err := tryProgram(exec.Command(java, append(argv, args...)...), stdin)
	return out + errOut, err
}

// toolStep is one call of a tool.
type toolStep struct {
	name, stdin, class string
	args               []string
	want               string   // a regular expression over the whole output, in which . matches line ends
	also               []string // more of them
	fails              bool
	needs              string // see -have
}

// argv puts the bootstrap flag where the tool wants it: most take it anywhere,
// kafka-cluster only behind its subcommand.
func (s toolStep) argv(bootstrap []string) []string {
	if s.class == clusterTool {
		return append(append([]string{}, s.args...), bootstrap...)
	}
	return append(append([]string{}, bootstrap...), s.args...)
}

func (s toolStep) run(t *testing.T, b *harness.Broker) {
	t.Helper()
	if !can(b, s.needs) {
		t.Skipf("needs -have %s", s.needs)
	}
	out, err := kafkaTool(t, s.stdin, s.class, s.argv([]string{"--bootstrap-server", b.Addr})...)
	if s.fails == (err == nil) {
		t.Errorf("%v: the exit status is not as expected", err)
	}
	for _, want := range append([]string{s.want}, s.also...) {
		if !regexp.MustCompile("(?s)" + want).MatchString(out) {
			t.Errorf("printed\n%s\nwant\n%s", out, want)
		}
	}
}

// TestKafkaTools: Apache Kafka's command line tools at their daily work, in
// the order in which a person would call them.
func TestKafkaTools(t *testing.T) {
	needAll(t)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		topic := topicName(t)
		t.Cleanup(func() { _, _ = franz(t, b).Do("delete", topic) })
		bootstrap := []string{"--bootstrap-server", b.Addr}
		var in, values strings.Builder
		for i := range 50 {
			fmt.Fprintf(&in, "k%d:v%d\n", i, i)
			fmt.Fprintf(&values, "Partition:2\tOffset:%d\tk%d\tv%d\n", i, i, i)
		}
		for _, s := range []toolStep{
			{name: "create", class: topicCommand, args: []string{"--create", "--topic", topic, "--partitions", "3", "--replication-factor", "1", "--config", "retention.ms=3600000"}, want: "^Created topic " + topic + ".\n$"},
			{name: "create again", class: topicCommand, args: []string{"--create", "--topic", topic}, want: "Topic '" + topic + "' already exists", fails: true},
			{name: "create if not there", class: topicCommand, args: []string{"--create", "--topic", topic, "--if-not-exists"}, want: "^$"},
			{name: "list", class: topicCommand, args: []string{"--list"}, want: "(^|\n)" + topic + "\n"},
			{name: "describe", class: topicCommand, args: []string{"--describe", "--topic", topic}, want: "^Topic: " + topic + "\tTopicId: [A-Za-z0-9_-]{22}\tPartitionCount: 3\tReplicationFactor: 1\tConfigs: (min.insync.replicas=1,)?retention.ms=3600000\n" +
				"\tTopic: " + topic + "\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1\tElr: \tLastKnownElr: \n.*Partition: 2\tLeader: 1"},
			{name: "describe what lags", class: topicCommand, args: []string{"--describe", "--topic", topic, "--under-replicated-partitions"}, want: "^\n?$"},
			{name: "describe what is not there", class: topicCommand, args: []string{"--describe", "--topic", "not-there"}, want: "Topic 'not-there' does not exist as expected", fails: true},
			{name: "grow", class: topicCommand, args: []string{"--alter", "--topic", topic, "--partitions", "4"}, want: "^\n?$"},
			{name: "describe grown", class: topicCommand, args: []string{"--describe", "--topic", topic}, want: "PartitionCount: 4.*Partition: 3\tLeader: 1"},
			{name: "shrink", class: topicCommand, args: []string{"--alter", "--topic", topic, "--partitions", "2"}, want: "The topic " + topic + " currently has 4 partition\\(s\\); 2 would not be an increase", fails: true},
			{name: "alter configs", class: configCommand, args: []string{"--alter", "--topic", topic, "--add-config", "segment.bytes=1048576,cleanup.policy=[compact,delete]"}, want: "^Completed updating config for topic " + topic + ".\n$"},
			{name: "describe configs", class: configCommand, args: []string{"--describe", "--topic", topic}, want: "^Dynamic configs for topic " + topic + " are:\n" +
				"  cleanup.policy=compact,delete sensitive=false synonyms=\\{DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete\\}\n" +
				".*  retention.ms=3600000 .*  segment.bytes=1048576 sensitive=false synonyms=\\{DYNAMIC_TOPIC_CONFIG:segment.bytes=1048576, DEFAULT_CONFIG:log.segment.bytes=1073741824\\}\n$"},
			{name: "delete a config", class: configCommand, args: []string{"--alter", "--topic", topic, "--delete-config", "cleanup.policy"}, want: "^Completed updating config for topic " + topic + ".\n$"},
			{name: "delete a config that is not there", class: configCommand, args: []string{"--alter", "--topic", topic, "--delete-config", "cleanup.policy"}, want: "^Completed updating config for topic " + topic + ".\n$"},
			{name: "a config nobody knows", class: configCommand, args: []string{"--alter", "--topic", topic, "--add-config", "no.such.config=1"}, want: "Unknown topic config name: no.such.config", fails: true},
			{name: "all configs of a topic", class: configCommand, args: []string{"--describe", "--all", "--topic", topic}, want: "All configs for topic .*  compression.type=producer sensitive=false.*  segment.bytes=1048576"},
			{name: "all configs of the broker", class: configCommand, args: []string{"--describe", "--all", "--entity-type", "brokers", "--entity-name", "1"}, want: "All configs for broker 1 are:.*  log.retention.hours=168 sensitive=false synonyms=\\{DEFAULT_CONFIG:log.retention.hours=168\\}"},
			{name: "produce", stdin: in.String(), class: consoleProduce, args: []string{"--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=:"}, want: "^(>)*$"},
			{name: "produce into a partition", stdin: "h1:a,h2:b\tkey\tvalue\nNULL\tNULL\tNULL\n", class: consoleProduce, args: []string{"--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "parse.headers=true", "--reader-property", "null.marker=NULL", "--compression-codec", "lz4", "--sync"}, want: "^(>)*$"},
			{name: "offsets", class: getOffsets, args: []string{"--topic", topic}, want: "^" + topic + ":0:[0-9]+\n" + topic + ":1:[0-9]+\n" + topic + ":2:[0-9]+\n" + topic + ":3:[0-9]+\n$"},
			{name: "offsets of the largest timestamp", class: getOffsets, args: []string{"--topic", topic, "--time", "max-timestamp"}, want: topic + ":0:[0-9]+\n"},
			{name: "offsets by time", class: getOffsets, args: []string{"--topic-partitions", topic + ":0", "--time", "1"}, want: "^" + topic + ":0:0\n$"},
			{name: "earliest offsets", class: getOffsets, args: []string{"--topic", topic, "--time", "earliest"}, want: "^" + topic + ":0:0\n" + topic + ":1:0\n" + topic + ":2:0\n" + topic + ":3:0\n$"},
			{name: "log directories", class: logDirs, args: []string{"--describe", "--topic-list", topic}, want: "\\{\"brokers\":\\[\\{\"broker\":1,\"logDirs\":\\[\\{.*\"partition\":\"" + topic + "-0\",\"size\":[1-9][0-9]*,\"offsetLag\":0,\"isFuture\":false\\}.*\"error\":null"},
			{name: "API versions", class: apiVersions, args: nil, want: "^" + regexp.QuoteMeta(b.Addr) + " \\(id: 1 rack: null isFenced: false\\) -> \\(\n\tProduce\\(0\\): 0 to 13 \\[usable: 13\\],\n\tFetch\\(1\\): 4 to 18 \\[usable: 18\\],.*\tCreateTopics\\(19\\): 2 to 7"},
			{name: "cluster id", class: clusterTool, args: []string{"cluster-id"}, want: "^Cluster ID: [A-Za-z0-9_-]{22}\n"},
			{name: "cluster endpoints", class: clusterTool, args: []string{"list-endpoints"}, want: "1 +127.0.0.1 +" + b.Addr[strings.LastIndex(b.Addr, ":")+1:]},
			{name: "performance", class: producerPerf, args: []string{"--topic", topic, "--num-records", "5000", "--record-size", "100", "--throughput", "-1"}, want: "5000 records sent, .* 99.9th"},
			{name: "performance gzip", class: producerPerf, args: []string{"--topic", topic, "--num-records", "2000", "--record-size", "300", "--throughput", "-1", "--command-property", "compression.type=gzip"}, want: "2000 records sent"},
			{name: "performance zstd acks=1", class: producerPerf, args: []string{"--topic", topic, "--num-records", "2000", "--record-size", "300", "--throughput", "-1", "--command-property", "compression.type=zstd", "--command-property", "acks=1"}, want: "2000 records sent"},
			{name: "producers of a partition", class: transactions, args: []string{"describe-producers", "--topic", topic, "--partition", "0"}, want: "ProducerId\\s+ProducerEpoch\\s+LatestCoordinatorEpoch\\s+LastSequence\\s+LastTimestamp\\s+CurrentTransactionStartOffset\\s*\n[0-9]+\\s+0\\s+-1\\s+[0-9]+\\s+[0-9]{13}\\s+None"},
			{name: "delete", class: topicCommand, args: []string{"--delete", "--topic", topic}, want: "^\n?$"},
			{name: "delete again", class: topicCommand, args: []string{"--delete", "--topic", topic}, want: "Topic '" + topic + "' does not exist as expected", fails: true},
		} {
			t.Run(s.name, func(t *testing.T) { s.run(t, b) })
		}

		t.Run("console consumer of a partition", func(t *testing.T) {
			topic := createTopic(t, b, 3)
			var recs []harness.Record
			for i := range 50 {
				recs = append(recs, harness.Record{Topic: topic, Partition: 2, Timestamp: -1, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i)})
			}
			if _, err := harness.Produce(franz(t, b), t.TempDir(), recs, "-"); err != nil {
				t.Fatal(err)
			}
			out, err := kafkaTool(t, "", consoleConsume, append(append([]string{}, bootstrap...), "--topic", topic, "--partition", "2", "--offset", "earliest", "--max-messages", "50",
				"--formatter-property", "print.key=true", "--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true", "--timeout-ms", "30000")...)
			if want := values.String() + "Processed a total of 50 messages\n"; err != nil || out != want {
				t.Fatalf("%v: printed\n%s\nwant\n%s", err, out, want)
			}
		})
		t.Run("delete records", func(t *testing.T) {
			topic := createTopic(t, b, 1)
			var recs []harness.Record
			for i := range 10 {
				recs = append(recs, harness.Record{Topic: topic, Timestamp: -1, Value: fmt.Appendf(nil, "v%d", i)})
			}
			if _, err := harness.Produce(franz(t, b), t.TempDir(), recs, "-"); err != nil {
				t.Fatal(err)
			}
			file := tempFile(t, "offsets.json", `{"version":1,"partitions":[{"topic":"`+topic+`","partition":0,"offset":4}]}`)
			out, err := kafkaTool(t, "", deleteRecords, append(append([]string{}, bootstrap...), "--offset-json-file", file)...)
			if want := "partition: " + topic + "-0\tlow_watermark: 4\n"; err != nil || !strings.Contains(out, want) {
				t.Fatalf("%v: printed\n%s\nwant\n%s", err, out, want)
			}
			out, err = kafkaTool(t, "", getOffsets, append(append([]string{}, bootstrap...), "--topic", topic, "--time", "earliest")...)
			if err != nil || out != topic+":0:4\n" {
				t.Fatalf("%v: printed %q", err, out)
			}
		})
	})
}

// TestKafkaToolsFurther: the tools that measure, and those for groups,
// transactions, quotas and the rest, each marked with what it needs.
func TestKafkaToolsFurther(t *testing.T) {
	needAll(t)
	const (
		tools  = "org.apache.kafka.tools."
		groups = tools + "consumer.group.ConsumerGroupCommand"
	)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		topic := createTopic(t, b, 2)
		var recs []harness.Record
		for i := range 500 {
			recs = append(recs, harness.Record{Topic: topic, Partition: int32(i % 2), Timestamp: -1, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i)})
		}
		if _, err := harness.Produce(franz(t, b), t.TempDir(), recs, "-"); err != nil {
			t.Fatal(err)
		}
		name := topicName(t)
		reassignment := tempFile(t, "reassign.json", `{"version":1,"partitions":[{"topic":"`+topic+`","partition":0,"replicas":[1]}]}`)
		for _, s := range []toolStep{
			{name: "features", class: tools + "FeatureCommand", args: []string{"describe"}, want: "Feature: metadata.version.*FinalizedVersionLevel: [0-9]"},
			{name: "end to end latency", class: tools + "EndToEndLatency", args: []string{"--topic", topic, "--num-records", "300", "--producer-acks", "1", "--record-size", "100"}, want: "Avg latency: .*99th"},
			{name: "verifiable producer", class: tools + "VerifiableProducer", args: []string{"--topic", topic, "--max-messages", "500", "--acks", "-1"}, want: `"sent":500,"acked":500|"acked":500`},
			{name: "console consumer in a group", needs: "group", class: consoleConsume, args: []string{"--topic", topic, "--from-beginning", "--max-messages", "500", "--group", name, "--timeout-ms", "30000"}, want: "Processed a total of 500 messages"},
			{name: "groups", needs: "group", class: tools + "GroupsCommand", args: []string{"--list"}, want: name + " +Classic +consumer"},
			{name: "list groups", needs: "group", class: groups, args: []string{"--list", "--state"}, want: name + " +Classic +Empty|" + name + " +Empty"},
			{name: "describe a group", needs: "group", class: groups, args: []string{"--describe", "--group", name}, want: name + " +" + topic + " +0 +[0-9]+ .*"},
			{name: "state of a group", needs: "group", class: groups, args: []string{"--describe", "--group", name, "--state"}, want: "Empty +0"},
			{name: "reset offsets", needs: "group", class: groups, args: []string{"--reset-offsets", "--to-earliest", "--group", name, "--topic", topic, "--execute"}, want: name + " +" + topic + " +[01] +0"},
			{name: "delete offsets", needs: "group", class: groups, args: []string{"--delete-offsets", "--group", name, "--topic", topic}, want: "Successful"},
			{name: "delete a group", needs: "group", class: groups, args: []string{"--delete", "--group", name}, want: "Deletion of requested consumer groups.*successful"},
			{name: "consumer performance", needs: "group", class: tools + "ConsumerPerformance", args: []string{"--topic", topic, "--num-records", "500", "--timeout", "30000"}, want: "MB.sec.*, 5[0-9]{2}|MB.sec.*, 1[0-9]{3}"},
			{name: "console consumer, new protocol", needs: "consumer", class: consoleConsume, args: []string{"--topic", topic, "--from-beginning", "--max-messages", "500", "--group", name + "-new", "--consumer-property", "group.protocol=consumer", "--timeout-ms", "30000"}, want: "Processed a total of 500 messages"},
			{name: "transactional performance", needs: "txn", class: producerPerf, args: []string{"--topic", topic, "--num-records", "1000", "--record-size", "100", "--throughput", "-1", "--transactional-id", name, "--transaction-duration-ms", "200"}, want: "1000 records sent"},
			{name: "describe a transaction", needs: "txn", class: transactions, args: []string{"describe", "--transactional-id", name}, want: name + ".*CompleteCommit"},
			{name: "list transactions", needs: "txn", class: transactions, args: []string{"list"}, want: "TransactionalId.*" + name},
			{name: "hanging transactions", needs: "txn", class: transactions, args: []string{"find-hanging", "--broker-id", "1"}, want: "Topic"},
			{name: "quotas", needs: "quota", class: configCommand, args: []string{"--alter", "--entity-type", "clients", "--entity-name", name, "--add-config", "producer_byte_rate=10485760"}, want: "Completed updating config for client"},
			{name: "describe quotas", needs: "quota", class: configCommand, args: []string{"--describe", "--entity-type", "clients", "--entity-name", name}, want: "producer_byte_rate=1.048576E7"},
			{name: "SCRAM credentials", needs: "scram", class: configCommand, args: []string{"--alter", "--entity-type", "users", "--entity-name", name, "--add-config", "SCRAM-SHA-256=[iterations=4096,password=x]"}, want: "Completed updating config for user"},
			{name: "reassign", needs: "reassign", class: tools + "reassign.ReassignPartitionsCommand", args: []string{"--execute", "--reassignment-json-file", reassignment}, want: "Successfully started partition reassignment"},
			{name: "elect leaders", needs: "reassign", class: tools + "LeaderElectionCommand", args: []string{"--election-type", "PREFERRED", "--topic", topic, "--partition", "0"}, want: "already elected|Successfully completed leader election"},
			{name: "quorum", needs: "quorum", class: tools + "MetadataQuorumCommand", args: []string{"describe", "--status"}, want: "LeaderId: +[0-9]"},
			{name: "ACLs", needs: "acl", class: tools + "AclCommand", args: []string{"--list"}, want: "SecurityDisabledException: No Authorizer is configured", fails: true},
			{name: "share groups", needs: "share", class: tools + "consumer.group.ShareGroupCommand", args: []string{"--list"}, want: ""},
		} {
			t.Run(s.name, func(t *testing.T) { s.run(t, b) })
		}
	})
}

// TestDumpLogSegments: Kafka's tool reads the files of a partition, finds the
// records that were written and no fault in the indexes.
func TestDumpLogSegments(t *testing.T) {
	needAll(t)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		if b.DataDir == "" {
			skip(t, "DumpLogSegments on "+b.Name, "the broker's files are elsewhere")
		}
		topic := createTopic(t, b, 1, "segment.bytes", "1048576", "index.interval.bytes", "1000")
		base := time.Now().UnixMilli() - 1_000_000
		var recs []harness.Record
		for i := range 3000 {
			recs = append(recs, harness.Record{Topic: topic, Timestamp: base + int64(i), Key: fmt.Appendf(nil, "key-%d", i), Value: fmt.Appendf(nil, "%01000d", i)})
		}
		for i := 0; i < len(recs); i += 100 {
			conf := harness.Conf("compression.type", []string{"none", "none", "lz4"}[i/100%3])
			if _, err := harness.Produce(franz(t, b), t.TempDir(), recs[i:i+100], conf); err != nil {
				t.Fatal(err)
			}
		}
		dir := filepath.Join(b.DataDir, topic+"-0")
		logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil || len(logs) < 2 {
			t.Fatalf("%v: segments %v, want several", err, logs)
		}
		out, err := kafkaTool(t, "", dumpLog, "--deep-iteration", "--print-data-log", "--files", strings.Join(logs, ","))
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		records := regexp.MustCompile(`(?m)^\| offset: (\d+) CreateTime: (\d+) keySize: \d+ valueSize: 1000 sequence: -?\d+ headerKeys: \[\] key: (\S+) payload: (\d+)$`).FindAllStringSubmatch(out, -1)
		if len(records) != len(recs) {
			t.Fatalf("dumped %d records, want %d:\n%.2000s", len(records), len(recs), out)
		}
		for i, m := range records {
			if m[1] != fmt.Sprint(i) || m[2] != fmt.Sprint(recs[i].Timestamp) || m[3] != string(recs[i].Key) || m[4] != string(recs[i].Value) {
				t.Fatalf("record %d was dumped as %s", i, m[0])
			}
		}
		if strings.Contains(out, "isvalid: false") {
			t.Fatalf("an invalid batch:\n%.2000s", out)
		}
		for _, kind := range []string{"index", "timeindex"} {
			files, err := filepath.Glob(filepath.Join(dir, "*."+kind))
			// The active segment's index may still be in memory.
			closed := len(logs) - 1
			if err != nil || len(files) < closed {
				t.Fatalf("%v: %s files %v for %d segments", err, kind, files, len(logs))
			}
			out, err := kafkaTool(t, "", dumpLog, "--verify-index-only", "--files", strings.Join(files[:closed], ","))
			if err != nil || regexp.MustCompile(`(?i)mismatch|not found|out of order|index sanity check failed|exception`).MatchString(out) {
				t.Errorf("%s: %v:\n%.3000s", kind, err, out)
			}
		}
		snapshots, err := filepath.Glob(filepath.Join(dir, "*.snapshot"))
		if err != nil || len(snapshots) == 0 {
			t.Fatalf("%v: no producer snapshots beside the segments", err)
		}
		out, err = kafkaTool(t, "", dumpLog, "--files", strings.Join(snapshots, ","))
		if err != nil || !strings.Contains(out, "producerId: ") {
			t.Errorf("snapshots: %v:\n%.3000s", err, out)
		}
	})
}
