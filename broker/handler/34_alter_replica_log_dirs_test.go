package handler

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestMovesAsKafka plays requests to a broker with three log directories and compares
// the answers with those of an Apache Kafka that has three. To record anew:
//
//	go test ./broker/handler -run TestMovesAsKafka -record 127.0.0.1:9092
func TestMovesAsKafka(t *testing.T) {
	golden := filepath.Join("testdata", "kafka", "alter_replica_log_dirs.txt")
	var p player
	var dirs []string
	settle := func() { time.Sleep(3 * time.Second) }
	if *record != "" {
		conn, err := net.Dial("tcp", *record)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p = wire{conn}
	} else {
		home := t.TempDir()
		b := newTestBroker(t, "log.dirs", home+"/d1,"+home+"/d2,"+home+"/d3", "num.partitions", "1")
		p = b
		settle = func() {
			deadline := time.Now().Add(10 * time.Second)
			for b.Partitions.Moves().Moving > 0 && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
		}
	}
	for _, d := range p.play(t, logDirs(4)).(*kmsg.DescribeLogDirsResponse).Dirs {
		dirs = append(dirs, d.Dir)
	}
	slices.Sort(dirs)
	if len(dirs) != 3 {
		t.Fatalf("three log directories are needed: %v", dirs)
	}
	s := newScript()
	for i, d := range dirs {
		s.same[d] = "dir " + string(rune('1'+i))
	}
	var out []string
	for _, st := range moveScript(dirs) {
		if strings.HasPrefix(st.name, "then ") {
			settle()
		}
		out = append(out, future.ReplaceAllString(s.answersOf(t, p, []step{st})[0], `"Size":"some Size","OffsetLag":"some OffsetLag","IsFuture":true`))
	}
	if *record != "" {
		if err := os.WriteFile(golden, []byte(strings.Join(out, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	wants := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n\n")
	if len(wants) != len(out) {
		t.Fatalf("%d steps, %d recorded", len(out), len(wants))
	}
	for i := range out {
		if out[i] != wants[i] {
			t.Errorf("-Kafka +gregor\n%s\n%s", out[i][:strings.IndexByte(out[i], '\n')], lineDiff(wants[i], out[i]))
		}
	}
}

// future is a copy, of which nobody knows how far it is.
var future = regexp.MustCompile(`"Size":[^,]*,"OffsetLag":[^,]*,"IsFuture":true`)

// moveTo asks for replicas, given as "topic:partition ...", to be in directories.
func moveTo(version int16, pairs ...string) *kmsg.AlterReplicaLogDirsRequest {
	req := kmsg.NewPtrAlterReplicaLogDirsRequest()
	req.Version = version
	for i := 0; i < len(pairs); i += 2 {
		d := kmsg.NewAlterReplicaLogDirsRequestDir()
		d.Dir = pairs[i]
		for _, text := range strings.Fields(pairs[i+1]) {
			name, n, _ := strings.Cut(text, ":")
			topic := kmsg.NewAlterReplicaLogDirsRequestDirTopic()
			topic.Topic, topic.Partitions = name, []int32{int32(n[0] - '0')}
			d.Topics = append(d.Topics, topic)
		}
		req.Dirs = append(req.Dirs, d)
	}
	return req
}

func brokerConfig(key, value string) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version = 1
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, "1"
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Value = key, &value
	if value == "" {
		c.Op, c.Value = kmsg.IncrementalAlterConfigOpDelete, nil
	}
	r.Configs = append(r.Configs, c)
	req.Resources = append(req.Resources, r)
	return req
}

func moveScript(dirs []string) []step {
	create := func(name string, partitions int32) *kmsg.CreateTopicsRequest {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis = 7, 10_000
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
		req.Topics = append(req.Topics, t)
		return req
	}
	write := func(topic string) *kmsg.ProduceRequest {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = 9, -1, 10_000
		t := kmsg.NewProduceRequestTopic()
		t.Topic = topic
		p := kmsg.NewProduceRequestTopicPartition()
		p.Records = protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: time.Now().UnixMilli()}, []protocol.Record{{Value: make([]byte, 900<<10)}})
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
		return req
	}
	const rate = "replica.alter.log.dirs.io.max.bytes.per.second"
	long, tooLong := "mv-"+strings.Repeat("l", 210), "mv-"+strings.Repeat("l", 211)
	d1, d2, d3 := dirs[0], dirs[1], dirs[2]
	steps := []step{
		{"nothing", moveTo(2)},
		{"no such topic", moveTo(2, d1, "mv-none:0")},
		{"set up", create("mv-a", 2)},
		{"no such directory", moveTo(2, "/no/such", "mv-a:0")},
		{"a relative directory", moveTo(2, "d1", "mv-a:0")},
		{"no directory", moveTo(2, "", "mv-a:0")},
		{"a slash at the end", moveTo(2, d1+"/", "mv-a:0")},
		{"a dot", moveTo(2, filepath.Dir(d1)+"/./"+filepath.Base(d1), "mv-a:0")},
		{"no such partition", moveTo(2, d1, "mv-a:7")},
		{"no such topic nor directory", moveTo(2, "/no/such", "mv-none:0")},
		{"a directory without partitions", moveTo(2, d1, "")},
		{"no such directory without partitions", moveTo(2, "/no/such", "")},
		{"v1", moveTo(1, d1, "mv-a:0", d2, "mv-a:1")},
		{"then where they are", logDirs(4, "mv-a")},
		{"where they are already", moveTo(2, d1, "mv-a:0", d2, "mv-a:1")},
		{"twice the same", moveTo(2, d2, "mv-a:0 mv-a:0")},
		{"then both in one", logDirs(4, "mv-a")},
		{"two directories", moveTo(2, d1, "mv-a:0", d3, "mv-a:0")},
		{"then in the last", logDirs(4, "mv-a")},
		{"two directories the other way", moveTo(2, d3, "mv-a:1", d1, "mv-a:1")},
		{"then in the last too", logDirs(4, "mv-a")},
		{"the name fits", create(long, 1)},
		{"moves with a long name", moveTo(2, d1, long+":0")},
		{"the name does not fit", moveTo(2, d1, tooLong+":0")},
		{"nor for a directory that is not there", moveTo(2, "/no/such", tooLong+":0")},
		{"set up", create("mv-big", 1)},
		{"home", moveTo(2, d1, "mv-big:0")},
		{"then it is home", logDirs(4, "mv-big")},
		{"set up", write("mv-big")},
		{"set up", write("mv-big")},
		{"set up", write("mv-big")},
		{"slow", brokerConfig(rate, "1")},
		{"moves slowly", moveTo(2, d2, "mv-big:0")},
		{"is in both", logDirs(4, "mv-big")},
		{"the same again", moveTo(2, d2, "mv-big:0")},
		{"is in both all the same", logDirs(4, "mv-big")},
		{"elsewhere", moveTo(2, d3, "mv-big:0")},
		{"goes elsewhere", logDirs(4, "mv-big")},
		{"where it is", moveTo(2, d1, "mv-big:0")},
		{"stays", logDirs(4, "mv-big")},
		{"moves once more", moveTo(2, d3, "mv-big:0")},
		{"is in both again", logDirs(4, "mv-big")},
		{"fast", brokerConfig(rate, "")},
		{"then it has moved", logDirs(4, "mv-big")},
		{"a negative rate", brokerConfig(rate, "-1")},
		{"no rate at all", brokerConfig(rate, "0")},
		{"a rate", brokerConfig(rate, "")},
		{"cordon", brokerConfig("cordoned.log.dirs", d2)},
		{"to a cordoned one", moveTo(2, d2, "mv-big:0 mv-none:0")},
		{"a long name to a cordoned one", moveTo(2, d2, tooLong+":0")},
		{"no cordon", brokerConfig("cordoned.log.dirs", "")},
	}
	for i, d := range []string{d3, d1, d2, d3, d1, d2} {
		name := "mv-pref" + string(rune('a'+i))
		steps = append(steps, step{"prefer", moveTo(2, d, name+":0")}, step{"set up", create(name, 1)}, step{"made there", logDirs(4, name)})
	}
	return steps
}
