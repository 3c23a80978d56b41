package config

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every default must be a value that its own key accepts: nobody should be
// able to write a default into a file and be refused.
func TestDefaultsParseAndValidate(t *testing.T) {
	for _, keys := range [][]Key{brokerKeys, topicKeys, entityKeys} {
		for i := range keys {
			k := &keys[i]
			if k.Null {
				continue
			}
			if k.Name == "controller.quorum.voters" || k.Name == "controller.quorum.bootstrap.servers" {
				continue
			}
			v, err := k.Parse(k.Default)
			if err != nil {
				t.Errorf("%s %s: %v", k.Entity, k.Name, err)
			}
			if v.Raw != k.Default {
				t.Errorf("%s: default %q prints as %q", k.Name, k.Default, v.Raw)
			}
		}
	}
	if len(brokerKeys) < 360 || len(topicKeys) < 34 {
		t.Errorf("%d broker keys, %d topic keys", len(brokerKeys), len(topicKeys))
	}
}

func TestDefaultsBuild(t *testing.T) {
	v, warnings, err := Build()
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if v.NodeID() != 1 || v.LogDirs()[0] != "data" || !v.HasRole("broker") {
		t.Error(v.NodeID(), v.LogDirs())
	}
	l, err := v.Listeners()
	if err != nil || len(l) != 1 || l[0] != (Listener{"PLAINTEXT", "", 9092, "PLAINTEXT"}) {
		t.Error(l, err)
	}
}

func file(lines ...string) Source {
	s := Source{Name: "server.properties"}
	for i, l := range lines {
		k, v, _ := strings.Cut(l, "=")
		s.Lines = append(s.Lines, Line{k, v, i + 1})
	}
	return s
}

func TestBuildErrorsNameFileLineAndKey(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"log.retention.hour=3", "server.properties:1: log.retention.hour: unknown configuration key; did you mean log.retention.hours?"},
		{"nonsense=1", "server.properties:1: nonsense: unknown configuration key"},
		{"num.partitions=many", "server.properties:1: num.partitions: Invalid value many for configuration num.partitions: Not a number of type INT"},
		{"num.partitions=0", "server.properties:1: num.partitions: Invalid value 0 for configuration num.partitions: Value must be at least 1"},
		{"node.id=99999999999", "server.properties:1: node.id: Invalid value 99999999999 for configuration node.id: Not a number of type INT"},
		{"auto.create.topics.enable=yes", "server.properties:1: auto.create.topics.enable: Invalid value yes for configuration auto.create.topics.enable: Expected value to be either true or false"},
		{"listeners=PLAINTEXT://:99999", "server.properties:1: listeners: the port of PLAINTEXT://:99999 is not between 0 and 65535"},
		{"listeners=FOO://:9092", "server.properties:1: listeners: No security protocol defined for listener FOO"},
		{"log.retention.ms=0", "server.properties:1: log.retention.ms: log.retention.ms must be unlimited (-1) or, equal or greater than 1"},
		{"log.roll.ms=0", "server.properties:1: log.roll.ms: log.roll.ms must be greater than or equal to 1"},
		{"log.roll.jitter.ms=-1", "server.properties:1: log.roll.jitter.ms: log.roll.jitter.ms must be greater than or equal to 0"},
		{"max.connections.per.ip=0", "server.properties:1: max.connections.per.ip: max.connections.per.ip can be set to zero only if max.connections.per.ip.overrides property is set."},
		{"http.address=nonsense", "server.properties:1: http.address: address nonsense: missing port in address"},
		{"metadata.etcd.endpoints=http://a:2379,b", "server.properties:1: metadata.etcd.endpoints: address b: missing port in address"},
		{"group.consumer.session.timeout.ms=44000", "server.properties:1: group.consumer.session.timeout.ms: group.consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms"},
		{"group.consumer.heartbeat.interval.ms=15001", "server.properties:1: group.consumer.heartbeat.interval.ms: group.consumer.heartbeat.interval.ms must be less than or equal to group.consumer.max.heartbeat.interval.ms"},
		{"group.consumer.min.session.timeout.ms=45001", "server.properties:1: group.consumer.min.session.timeout.ms: group.consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms"},
		{"group.streams.num.standby.replicas=3", "server.properties:1: group.streams.num.standby.replicas: group.streams.num.standby.replicas must be less than or equal to group.streams.max.standby.replicas"},
		{"group.consumer.assignors=uniform,sticky", `server.properties:1: group.consumer.assignors: there is no assignor "sticky"; "uniform" and "range" are built in`},
		{"group.coordinator.rebalance.protocols=consumer", "server.properties:1: group.coordinator.rebalance.protocols: Disabling the 'classic' protocol is not supported."},
		{"replica.socket.timeout.ms=400", "server.properties:1: replica.socket.timeout.ms: replica.socket.timeout.ms should always be at least replica.fetch.wait.max.ms to prevent unnecessary socket timeouts"},
		{"replica.lag.time.max.ms=400", "server.properties:1: replica.lag.time.max.ms: replica.fetch.wait.max.ms should always be less than or equal to replica.lag.time.max.ms to prevent frequent changes in ISR"},
		{"queued.max.request.bytes=1000", "server.properties:1: queued.max.request.bytes: queued.max.request.bytes must be larger or equal to socket.request.max.bytes"},
		{"connections.max.idle.ms=100", "server.properties:1: connections.max.idle.ms: connection.failed.authentication.delay.ms=100 should always be less than connections.max.idle.ms=100 to prevent failed authentication responses from timing out"},
		{"log.cleaner.dedupe.buffer.size=1048576", "server.properties:1: log.cleaner.dedupe.buffer.size: log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread."},
		{"log.cleaner.threads=0", "server.properties:1: log.cleaner.threads: log.cleaner.threads must be at least 1; log.cleaner.enable switches the cleaner off"},
		{"cordoned.log.dirs=/elsewhere", "server.properties:1: cordoned.log.dirs: All entries in cordoned.log.dirs must be present in log.dirs or log.dir. Missing entries : /elsewhere"},
		{"listener.name.a.nonsense=1", "server.properties:1: listener.name.a.nonsense: unknown configuration key"},
		{"advertised.listeners=PLAINTEXT://0.0.0.0:9092", "server.properties:1: advertised.listeners: advertised.listeners cannot use the nonroutable meta-address 0.0.0.0. Use a routable IP address."},
	} {
		_, _, err := Build(file(c.line))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.line, err, c.want)
		}
		var le *LineError
		if !errors.As(err, &le) {
			t.Errorf("%s: no LineError", c.line)
		}
	}
}

func build(t *testing.T, lines ...string) *Values {
	t.Helper()
	v, _, err := Build(file(lines...))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Kafka's classes may be named too, as before 4.0 they had to be.
func TestConsumerAssignors(t *testing.T) {
	v := build(t, "group.consumer.assignors=org.apache.kafka.coordinator.group.assignor.RangeAssignor,uniform,range")
	if got := v.ConsumerAssignors(); !slices.Equal(got, []string{"range", "uniform"}) {
		t.Errorf("%q", got)
	}
}

func TestPrecedence(t *testing.T) {
	env := Source{Name: "environment", Lines: []Line{{Key: "num.partitions", Value: "3"}}}
	cli := Source{Name: "--override", Lines: []Line{{Key: "num.partitions", Value: "4"}}}
	v, _, err := Build(file("num.partitions=1", "num.partitions=2"), env, cli)
	if err != nil || v.Int("num.partitions") != 4 || v.Origin("num.partitions").String() != "--override" {
		t.Error(v.Int("num.partitions"), v.Origin("num.partitions"), err)
	}
	v, _, err = Build(file("num.partitions=1", "num.partitions=2"))
	if err != nil || v.Int("num.partitions") != 2 || v.Origin("num.partitions").String() != "server.properties:2" {
		t.Error(v.Int("num.partitions"), v.Origin("num.partitions"), err)
	}
	if o := v.Origin("num.io.threads"); o.Level != DefaultConfig || o.String() != "default" {
		t.Error(o)
	}
}

func TestEveryBadLineIsReported(t *testing.T) {
	_, _, err := Build(file("num.partitions=x", "node.id=1", "foo.bar.baz=1", "log.dirs="))
	for _, want := range []string{":1: num.partitions", ":3: foo.bar.baz", ":4: log.dirs"} {
		if err == nil || want != ":4: log.dirs" && !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestRetentionPrecedence(t *testing.T) {
	const hour = 3_600_000
	for _, c := range []struct {
		lines     string
		retention int64
	}{
		{"", 168 * hour},
		{"log.retention.hours=2", 2 * hour},
		{"log.retention.hours=2,log.retention.minutes=3", 3 * 60_000},
		{"log.retention.hours=2,log.retention.minutes=3,log.retention.ms=4", 4},
		{"log.retention.ms=-1,log.retention.hours=2", -1},
		{"log.retention.hours=-1", -1},
		{"log.retention.minutes=2147483647", 2147483647 * 60_000},
	} {
		v := build(t, strings.FieldsFunc(c.lines, func(r rune) bool { return r == ',' })...)
		if got := v.Topic(nil).RetentionMs; got != c.retention {
			t.Errorf("%s: retention.ms = %d, want %d", c.lines, got, c.retention)
		}
		if got := v.Topic(map[string]string{"retention.ms": "77"}).RetentionMs; got != 77 {
			t.Errorf("%s: a topic's own retention.ms = %d", c.lines, got)
		}
	}
	v := build(t, "log.roll.hours=2", "log.roll.jitter.ms=5", "log.flush.scheduler.interval.ms=9", "log.segment.bytes=2000000")
	c := v.Topic(nil)
	if c.SegmentMs != 2*hour || c.SegmentJitterMs != 5 || c.FlushMs != 9 || c.SegmentBytes != 2000000 {
		t.Errorf("%+v", c)
	}
}

func TestTopicDefaults(t *testing.T) {
	c := TopicDefaults(Defaults())
	if !c.Delete || c.Compact || c.Compression != "producer" || c.MaxMessageBytes != 1048588 || c.SegmentBytes != 1<<30 ||
		c.RetentionMs != 604800000 || c.RetentionBytes != -1 || c.FlushMs != 1<<63-1 || c.MinCleanableRatio != 0.5 ||
		c.TimestampAfterMaxMs != 3600000 || c.TimestampBeforeMaxMs != 1<<63-1 || c.MinInsyncReplicas != 1 || c.LogAppendTime || c.Strict {
		t.Errorf("%+v", c)
	}
	c = Defaults().Topic(map[string]string{
		"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime", "batch.validation": "strict",
		"internal.segment.bytes": "1000", "retention.ms": "nonsense",
	})
	if c.Delete || !c.Compact || !c.LogAppendTime || !c.Strict || c.SegmentBytes != 1000 || c.RetentionMs != 604800000 {
		t.Errorf("%+v", c)
	}
	if c = Defaults().Topic(map[string]string{"cleanup.policy": ""}); c.Delete || c.Compact {
		t.Error("an empty cleanup.policy keeps everything")
	}
}

func TestValidateTopicConfig(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"retention.ms", "-1", ""},
		{"retention.ms", " 5 ", ""},
		{"retention.ms", "+5", ""},
		{"retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"},
		{"retention.ms", "", "Invalid value  for configuration retention.ms: Not a number of type LONG"},
		{"retention.ms", "1e3", "Invalid value 1e3 for configuration retention.ms: Not a number of type LONG"},
		{"segment.bytes", "2147483648", "Invalid value 2147483648 for configuration segment.bytes: Not a number of type INT"},
		{"min.cleanable.dirty.ratio", ".5f", ""},
		{"min.cleanable.dirty.ratio", "0x1p1", "Invalid value 0x1p1 for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE"},
		{"cleanup.policy", "compact, delete", ""},
		{"cleanup.policy", "compact,compact", ""},
		{"cleanup.policy", "Compact", "Invalid value Compact for configuration cleanup.policy: String must be one of: compact, delete"},
		{"compression.type", "zstd", ""},
		{"compression.gzip.level", "10", "Invalid value 10 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1"},
		{"leader.replication.throttled.replicas", "*", ""},
		{"leader.replication.throttled.replicas", "0:1,2:3", ""},
		{"no.such", "1", "Unknown topic config name: no.such"},
	} {
		got := ""
		if err := ValidateTopicConfig(c.key, c.value); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s=%q: %q, want %q", c.key, c.value, got, c.want)
		}
	}
}

func TestRemovedAndForeignKeys(t *testing.T) {
	v, warnings, err := Build(file(
		"zookeeper.connect=localhost:2181", "inter.broker.protocol.version=3.9", "confluent.license.topic.replication.factor=1",
		"log.message.timestamp.difference.max.ms=5000", "log.message.timestamp.after.max.ms=6000",
		"host.name=10.0.0.1", "port=9192", "advertised.host.name=kafka", "num.network.threads=4", "rsm.config.bucket=x",
	), Source{Name: "environment", Lenient: true, Lines: []Line{{Key: "heap.opts", Value: "-Xmx1g"}, {Key: "port", Value: "tcp://10.1.1.1:9092"}}})
	if err != nil {
		t.Fatal(err)
	}
	if v.Int64("log.message.timestamp.before.max.ms") != 5000 || v.Int64("log.message.timestamp.after.max.ms") != 6000 {
		t.Error("the old limit stands for those that are not set")
	}
	l, _ := v.Listeners()
	a, _ := v.AdvertisedListeners()
	if l[0].Address() != "10.0.0.1:9192" || a[0].Address() != "kafka:9192" {
		t.Error(l, a)
	}
	warned := make(map[string]Warning)
	for _, w := range warnings {
		if _, twice := warned[w.Key]; twice {
			t.Errorf("%s is warned of twice", w.Key)
		}
		warned[w.Key] = w
	}
	if w := warned["zookeeper.connect"]; w.Origin.String() != "server.properties:1" || w.Unused {
		t.Errorf("%+v", w)
	}
	if w := warned["num.network.threads"]; !w.Unused {
		t.Errorf("%+v", w)
	}
	if w := warned["heap.opts"]; w.Text != "unknown configuration key" {
		t.Errorf("%+v", w)
	}
	if _, ok := warned["confluent.license.topic.replication.factor"]; ok {
		t.Error("keys of Confluent Server are no news")
	}
}

func TestListeners(t *testing.T) {
	v := build(t,
		"process.roles=broker,controller", "node.id=7", "controller.listener.names=CONTROLLER",
		"listeners=INTERNAL://[::1]:9092, external://:9093,CONTROLLER://:9094",
		"advertised.listeners=INTERNAL://kafka:9092,EXTERNAL://localhost:9093,",
		"listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:SSL,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name=INTERNAL",
		"listener.name.EXTERNAL.ssl.client.auth=required", "listener.name.external.plain.sasl.jaas.config=secret",
	)
	l, err := v.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	want := []Listener{{"INTERNAL", "::1", 9092, "PLAINTEXT"}, {"EXTERNAL", "", 9093, "SSL"}, {"CONTROLLER", "", 9094, "PLAINTEXT"}}
	for i := range want {
		if l[i] != want[i] {
			t.Errorf("%+v, want %+v", l[i], want[i])
		}
	}
	a, err := v.AdvertisedListeners()
	if err != nil || len(a) != 2 || a[0].Host != "kafka" || a[1] != (Listener{"EXTERNAL", "localhost", 9093, "SSL"}) {
		t.Error(a, err)
	}
	if v.InterBrokerListener() != "INTERNAL" {
		t.Error(v.InterBrokerListener())
	}
	if s, _ := v.ForListener("External", "ssl.client.auth"); s != "required" {
		t.Error(s)
	}
	if s, _ := v.ForListener("INTERNAL", "ssl.client.auth"); s != "none" {
		t.Error(s)
	}
	for _, e := range v.DescribeBroker() {
		if e.Name == "listener.name.external.plain.sasl.jaas.config" && (e.Value != nil || !e.Sensitive) {
			t.Error("a secret is shown")
		}
	}

	for _, c := range []struct{ lines, want string }{
		{"listeners=PLAINTEXT://:9092;listener.security.protocol.map=PLAINTEXT:TLS", `is no security protocol`},
		{"listeners=A://:1,B://:1;listener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT", "Each listener must have a different port"},
		{"listeners=nonsense", "Unable to parse nonsense to a broker endpoint"},
		{"advertised.listeners=SSL://kafka:9093", "names a listener that is not in listeners"},
		{"inter.broker.listener.name=SSL", "must be a listener name defined in advertised.listeners"},
		{"inter.broker.listener.name=PLAINTEXT;security.inter.broker.protocol=PLAINTEXT", "Only one of"},
		{"node.id=1;broker.id=2", "You must set `node.id` to the same value as `broker.id`."},
	} {
		_, _, err := Build(file(strings.Split(c.lines, ";")...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.lines, err, c.want)
		}
	}
}

func TestBrokerIDStandsInForNodeID(t *testing.T) {
	if v := build(t, "broker.id=5"); v.NodeID() != 5 {
		t.Error(v.NodeID())
	}
	if v := build(t, "broker.id=-1"); v.NodeID() != 1 {
		t.Error(v.NodeID())
	}
}

func TestDynamicSettings(t *testing.T) {
	v := build(t, "log.retention.minutes=5", "message.max.bytes=1000")
	if err := v.SetDynamic(map[string]string{"message.max.bytes": "2000", "log.retention.ms": "7"}, map[string]string{"message.max.bytes": "3000"}); err != nil {
		t.Fatal(err)
	}
	if v.Int("message.max.bytes") != 3000 || v.Topic(nil).MaxMessageBytes != 3000 || v.Topic(nil).RetentionMs != 7 {
		t.Error(v.Int("message.max.bytes"), v.Topic(nil))
	}
	var got []string
	for _, e := range v.DescribeBroker() {
		if e.Name == "message.max.bytes" {
			for _, s := range e.Synonyms {
				got = append(got, *s.Value)
			}
		}
	}
	if strings.Join(got, " ") != "3000 2000 1000 1048588" {
		t.Error(got)
	}
	if err := v.SetDynamic(map[string]string{"message.max.bytes": "x", "somebody.elses": "1"}, nil); err == nil {
		t.Error("a setting that cannot be read was taken")
	}
	if v.Int("message.max.bytes") != 1000 || v.Topic(nil).RetentionMs != 300000 {
		t.Error("what is no longer set dynamically returns to the file's value")
	}
	d := v.DescribeBrokerDefaults()
	if len(d) != 1 || d[0].Name != "somebody.elses" || d[0].Value != nil || !d[0].Sensitive {
		t.Errorf("%+v", d)
	}
}

func TestGettersPanicForMistakes(t *testing.T) {
	v := Defaults()
	for name, f := range map[string]func(){
		"unknown key":   func() { v.Int("no.such.key") },
		"another type":  func() { v.Int("auto.create.topics.enable") },
		"unknown topic": func() { v.topicValue("no.such.key", nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestNumbersPrintAsInJava(t *testing.T) {
	for f, want := range map[float64]string{
		0.5: "0.5", 1: "1.0", 0: "0.0", 1e7: "1.0E7", 2.147483647e9: "2.147483647E9", 1.7976931348623157e308: "1.7976931348623157E308", 0.0001: "1.0E-4", 123456.5: "123456.5",
	} {
		if got := formatDouble(f); got != want {
			t.Errorf("%g: %s, want %s", f, got, want)
		}
	}
}

func TestDurationDoesNotOverflow(t *testing.T) {
	if Milliseconds(1<<63-1) <= 0 || Milliseconds(-1<<63) >= 0 || Milliseconds(1500) != 1500*time.Millisecond {
		t.Error("overflow")
	}
}

// The generated tables must be what the generator makes of config/tables.
func TestTablesAreGenerated(t *testing.T) {
	out := filepath.Join(t.TempDir(), "tables_gen.go")
	if msg, err := exec.Command("go", "run", "./internal/gen", "tables", out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("tables_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("tables_gen.go is not what go generate makes of tables/")
	}
}

// A key that the code reads must be marked as having an effect, or its users
// would be told that it has none.
func TestKeysInUseAreMarked(t *testing.T) {
	getter := regexp.MustCompile(`\.(?:String|Int|Int32|Int64|Float|Bool|List|Duration|Lookup|IsSet|ForListener)\("([a-z0-9._]+)"`)
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "config" || d.Name() == ".git" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range getter.FindAllStringSubmatch(string(src), -1) {
			if k := BrokerKey(m[1]); k != nil && k.Tier != 1 {
				t.Errorf("%s reads %s: set its tier to 1 in config/tables and run go generate ./config", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add("listeners", "PLAINTEXT://[::1]:9092,SSL://:0")
	f.Add("log.cleaner.min.cleanable.ratio", "1e-3")
	f.Add("listener.name.a.plain.sasl.jaas.config", "x")
	f.Add("controller.quorum.voters", "1@a:1,2@b:2")
	f.Add("cleanup.policy", "compact,,delete")
	f.Add("port", "99999999")
	f.Fuzz(func(t *testing.T, key, value string) {
		v, _, err := Build(file(), Source{Name: "fuzz", Lines: []Line{{Key: key, Value: value}}})
		if err != nil {
			return
		}
		// What was accepted can be asked for, and is accepted again as it
		// prints.
		for _, s := range v.All() {
			if s.Origin.Level != StaticBroker || s.Value.Null {
				continue
			}
			again, err := s.Key.Parse(s.Value.Raw)
			if err != nil || again.Raw != s.Value.Raw {
				t.Errorf("%s=%q prints as %q, which is %v", s.Name, value, s.Value.Raw, err)
			}
		}
		if _, err := v.Listeners(); err != nil {
			t.Error(err)
		}
		v.DescribeBroker()
		TopicDefaults(v)
		if k := TopicKey(key); k != nil {
			if val, err := k.Parse(value); err == nil {
				if again, err := k.Parse(val.Raw); err != nil || again.Raw != val.Raw {
					t.Errorf("%s=%q prints as %q", key, value, val.Raw)
				}
			}
		}
	})
}

func FuzzTopicConfig(f *testing.F) {
	for i := range topicKeys {
		f.Add(topicKeys[i].Name, topicKeys[i].Default)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		err := ValidateTopicConfig(key, value)
		if err == nil {
			Defaults().Topic(map[string]string{key: value})
		}
	})
}

// TestThrottleKeys: the limits of replication can only be set while the broker
// runs, for one broker or as the default of all, and are checked and shown as
// Kafka does.
func TestThrottleKeys(t *testing.T) {
	const leader, follower = "leader.replication.throttled.rate", "follower.replication.throttled.rate"
	v := Defaults()
	if v.Throttle(leader) != math.MaxInt64 {
		t.Error("a limit out of nowhere")
	}
	for raw, want := range map[string]string{
		"-1":  "Invalid value -1 for configuration " + leader + ": Value must be at least 0",
		"abc": "Invalid value abc for configuration " + leader + ": Not a number of type LONG",
	} {
		if _, err := ParseBroker(leader, raw); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", raw, err, want)
		}
	}
	if err := v.SetDynamic(map[string]string{leader: "1", follower: "2"}, map[string]string{leader: "3"}); err != nil {
		t.Fatal(err)
	}
	if v.Throttle(leader) != 3 || v.Throttle(follower) != 2 {
		t.Errorf("%d, %d", v.Throttle(leader), v.Throttle(follower))
	}
	if k := BrokerKeyFor(leader); k == nil || k.Mode != ClusterWide || k.Sensitive() {
		t.Errorf("%+v", k)
	}
	if BrokerKey(leader) != nil {
		t.Error("can be set in a file")
	}
}

// As Kafka: keys for tests are not listed, but what is set is shown.
func TestInternalTopicKeyIsDescribedWhereSet(t *testing.T) {
	v := build(t)
	find := func(overrides map[string]string) *Entry {
		all := v.DescribeTopic(overrides)
		i := slices.IndexFunc(all, func(e Entry) bool { return e.Name == "internal.segment.bytes" })
		if i < 0 {
			return nil
		}
		return &all[i]
	}
	if e := find(nil); e != nil {
		t.Errorf("not set: %+v", e)
	}
	e := find(map[string]string{"internal.segment.bytes": "2000"})
	if e == nil || e.Value == nil || *e.Value != "2000" || e.Source != DynamicTopic || len(e.Synonyms) != 1 {
		t.Errorf("set: %+v", e)
	}
}
