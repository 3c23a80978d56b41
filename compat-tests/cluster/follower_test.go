package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// TestFetchFromFollower: a consumer in the rack of a follower reads from it
// (KIP-392), from the leader when that follower dies or the partition moves away
// from it, and from the follower again when it is back. It skips nothing and sees
// no error.
func TestFetchFromFollower(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		racks := apart(4)
		for i := range racks.Brokers {
			racks.Brokers[i].More = []string{
				fmt.Sprintf("broker.rack=rack-%d", i+1),
				"replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector",
			}
		}
		c := start(t, name, racks)
		t.Run("franz-go", func(t *testing.T) { c.in(t).nearest("franz-go") })
		if *clientsFlag == "all" {
			t.Run("java", func(t *testing.T) { c.in(t).nearest("java") })
		}
	})
}

// nearest reads in the rack of broker 2 what broker 1 leads.
func (c *cluster) nearest(client string) {
	topic := c.create([][]int32{{1, 2, 3}}, "min.insync.replicas=1")
	l := c.load(client, topic, loadConfig{noReader: true})
	var source func() int32 // the broker that the reader reads from, 0 for none yet
	if client == "java" {
		source = c.readJavaMetrics(l)
	} else {
		h := &fetchedFrom{}
		// By itself franz-go stays with a follower that died for half an hour.
		stop := l.readFranz(kgo.Rack("rack-2"), kgo.WithHooks(h), kgo.RecheckPreferredReplicaInterval(time.Second))
		l.stopReader = sync.OnceFunc(stop)
		source = h.last
	}
	c.t.Cleanup(l.stopReader)
	reads := func(what string, id int32) {
		c.t.Helper()
		c.await(what, func(context.Context) (bool, error) {
			if got := source(); got != id {
				return false, fmt.Errorf("it reads from %d", got)
			}
			return true, nil
		})
		// It really gets there what is written now.
		l.mu.Lock()
		next := l.acks[len(l.acks)-1].offset + 1
		l.mu.Unlock()
		l.await(c.t, what+": what is written now is read", func() bool {
			s := l.read[0]
			return len(s) > 0 && s[len(s)-1].to >= next
		})
	}
	reads("the reader is at the follower in its rack", 2)
	for _, to := range [][]int32{{1, 3, 4}, {1, 4}} {
		c.reassign(topic, [][]int32{to})
		c.awaitAssigned(topic, [][]int32{to})
		reads("the follower is no replica any more, the reader is at the leader", 1)
	}
	back := [][]int32{{1, 4, 2}}
	c.reassign(topic, back)
	c.awaitAssigned(topic, back)
	reads("the follower is a replica again", 2)
	c.kill(2)
	c.awaitTopic(topic, "without the follower", func(p partition) bool { return !slices.Contains(p.ISR, 2) })
	reads("the follower is dead, the reader is at the leader", 1)
	c.restart(2)
	c.awaitWhole(topic)
	reads("the follower is back", 2)
	l.end()
}

// fetchedFrom remembers which broker last answered a fetch.
type fetchedFrom struct {
	mu sync.Mutex
	id int32
}

func (h *fetchedFrom) OnBrokerE2E(meta kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	if key == 1 && e.Err() == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.id = meta.NodeID
	}
}

func (h *fetchedFrom) last() int32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.id
}

// readJavaMetrics starts Kafka's VerifiableConsumer in the rack of broker 2 with
// its metrics open, and a JmxTool that follows them. It returns where the
// consumer was told to read: preferred-read-replica, or the leader where that is
// -1.
func (c *cluster) readJavaMetrics(l *load) func() int32 {
	c.t.Helper()
	port, err := harness.FreePort()
	if err != nil {
		c.t.Fatal(err)
	}
	jmx := []string{
		"-Dcom.sun.management.jmxremote", fmt.Sprintf("-Dcom.sun.management.jmxremote.port=%d", port),
		fmt.Sprintf("-Dcom.sun.management.jmxremote.rmi.port=%d", port), "-Dcom.sun.management.jmxremote.host=127.0.0.1",
		"-Dcom.sun.management.jmxremote.authenticate=false", "-Dcom.sun.management.jmxremote.ssl=false", "-Djava.rmi.server.hostname=127.0.0.1",
	}
	cmd, err := harness.JavaToolWith(jmx, "VerifiableConsumer", "--bootstrap-server", c.bootstrap(), "--topic", l.topic,
		"--group-id", "readers-of-"+l.topic, "--reset-policy", "earliest",
		"--command-config", properties(c.t, "client.rack=rack-2", "client.id=nearest", "metadata.max.age.ms=1000"))
	l.stopReader = sync.OnceFunc(l.program("VerifiableConsumer", l.heardConsumer)(cmd, err))
	l.await(c.t, "something read", func() bool { return len(l.read) > 0 })
	var mu sync.Mutex
	last := int32(0)
	tool, err := harness.JavaTool("JmxTool", "--jmx-url", fmt.Sprintf("service:jmx:rmi:///jndi/rmi://127.0.0.1:%d/jmxrmi", port),
		"--object-name", fmt.Sprintf("kafka.consumer:type=consumer-fetch-manager-metrics,client-id=nearest,topic=%s,partition=0", l.topic),
		"--attributes", "preferred-read-replica", "--reporting-interval", "200", "--report-format", "original")
	c.t.Cleanup(sync.OnceFunc(l.program("JmxTool", func(line string) {
		// "time,value", below a line of headings.
		fields := strings.Split(strings.TrimSpace(line), ",")
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil || len(fields) != 2 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if last = int32(v); last == -1 {
			last = 1
		}
	})(tool, err)))
	return func() int32 {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

// TestThrottledReassignment: kafka-reassign-partitions.sh moves a partition no
// faster than it was told to, and takes the throttle away in the end (KIP-73).
func TestThrottledReassignment(t *testing.T) {
	long(t)
	onEach(t, func(t *testing.T, name string) {
		c := start(t, name, apart(4))
		const (
			megabytes = 16
			perSecond = 2 << 20
		)
		topic := c.create([][]int32{{1, 2}}, "segment.bytes=4194304")
		cl := c.client(kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DefaultProduceTopic(topic))
		value := make([]byte, 64<<10)
		for range megabytes << 20 / len(value) {
			cl.Produce(t.Context(), kgo.SliceRecord(value), func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		plan := fmt.Sprintf(`{"version":1,"partitions":[{"topic":%q,"partition":0,"replicas":[3,4]}]}`, topic)
		began := time.Now()
		c.reassignTool(plan, "--execute", "--throttle", strconv.Itoa(perSecond))
		to := [][]int32{{3, 4}}
		c.awaitAssigned(topic, to)
		took := time.Since(began)
		t.Logf("%d MiB to each of two brokers at %d MiB/s from one leader: %v", megabytes, perSecond>>20, took.Round(10*time.Millisecond))
		// Both new replicas come from one leader, which sends both together at this
		// rate; a window of the quota may go by at once.
		if least := time.Duration(2*megabytes<<20/perSecond) * time.Second * 8 / 10; took < least {
			t.Errorf("it took %v, which is less than %v", took, least)
		}
		out := c.reassignTool(plan, "--verify")
		if !strings.Contains(out, "is completed") || strings.Contains(out, "still in progress") {
			t.Errorf("--verify says:\n%s", out)
		}
		c.await("no throttle", func(ctx context.Context) (bool, error) {
			conf, err := c.adm.DescribeTopicConfigs(ctx, topic)
			if err != nil {
				return false, err
			}
			for _, r := range conf {
				for _, kv := range r.Configs {
					if strings.HasSuffix(kv.Key, ".replication.throttled.replicas") && kv.MaybeValue() != "" {
						return false, fmt.Errorf("%s is %s", kv.Key, kv.MaybeValue())
					}
				}
			}
			return true, nil
		})
		l := c.load("franz-go", c.create([][]int32{{3, 4, 1}}), loadConfig{})
		l.more(10)
		l.end()
	})
}

var blank = regexp.MustCompile(`\n\s*\n`)

// reassignTool runs kafka-reassign-partitions.sh.
func (c *cluster) reassignTool(plan string, args ...string) string {
	c.t.Helper()
	file := properties(c.t, plan)
	cmd, err := harness.JavaTool("reassign.ReassignPartitionsCommand",
		append([]string{"--bootstrap-server", c.bootstrap(), "--reassignment-json-file", file}, args...)...)
	if err != nil {
		missing(c.t, err)
	}
	out, err := exec.CommandContext(c.t.Context(), cmd.Program, cmd.Args...).CombinedOutput()
	text := blank.ReplaceAllString(string(out), "\n")
	if err != nil {
		c.t.Fatalf("kafka-reassign-partitions.sh %v: %v\n%s", args, err, text)
	}
	return text
}
