package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/etcdembed"
)

// testCluster is several nodes in this process that embed the metadata
// together, on ports of the loopback.
type testCluster struct {
	t      testing.TB
	dir    string
	voters string
	ports  map[int32]int
	nodes  map[int32]*Node
	lines  []string
}

// newCluster plans a cluster whose controllers are nodes 1 to n.
func newCluster(t testing.TB, n int, lines ...string) *testCluster {
	c := &testCluster{t: t, dir: t.TempDir(), ports: map[int32]int{}, nodes: map[int32]*Node{}, lines: lines}
	var voters []string
	var held []net.Listener
	for id := int32(1); id <= int32(n); id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		c.ports[id] = l.Addr().(*net.TCPAddr).Port
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", id, c.ports[id]))
	}
	for _, l := range held {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.voters = strings.Join(voters, ",")
	t.Cleanup(c.stopAll)
	return c
}

// config is what node id runs with.
func (c *testCluster) config(id int32, roles string) []string {
	listeners := []string{}
	if strings.Contains(roles, "broker") {
		listeners = append(listeners, "PLAINTEXT://127.0.0.1:0")
	}
	if strings.Contains(roles, "controller") {
		listeners = append(listeners, fmt.Sprintf("CONTROLLER://127.0.0.1:%d", c.ports[id]))
	}
	return append([]string{
		"process.roles=" + roles, fmt.Sprintf("node.id=%d", id), "controller.quorum.voters=" + c.voters,
		"listeners=" + strings.Join(listeners, ","), "log.dirs=" + filepath.Join(c.dir, fmt.Sprint(id)), "http.address=",
	}, c.lines...)
}

// tryStart starts nodes side by side and returns when all serve or one failed.
func (c *testCluster) tryStart(roles string, ids ...int32) error {
	c.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, id := range ids {
		lines := c.config(id, roles)
		wg.Go(func() {
			log := zerolog.New(zerolog.ConsoleWriter{Out: c.t.Output(), NoColor: true}).With().Int32("node", id).Logger().Level(zerolog.InfoLevel)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			n, err := Start(ctx, Options{Config: values(c.t, lines...), Log: log})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = fmt.Errorf("node %d: %w", id, err)
				return
			}
			c.nodes[id] = n
		})
	}
	wg.Wait()
	return failed
}

func (c *testCluster) start(roles string, ids ...int32) {
	c.t.Helper()
	if err := c.tryStart(roles, ids...); err != nil {
		c.t.Fatal(err)
	}
}

// stop ends a node in order.
func (c *testCluster) stop(id int32) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := c.nodes[id]
	delete(c.nodes, id)
	if err := n.Close(ctx); err != nil {
		c.t.Errorf("close node %d: %v", id, err)
	}
}

func (c *testCluster) stopAll() {
	for id := range c.nodes {
		c.stop(id)
	}
}

// await waits until the image that a node serves from meets a condition.
func (c *testCluster) await(id int32, what string, done func(*metadata.Image) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.nodes[id].controller.Await(ctx, done); err != nil {
		img := c.nodes[id].controller.Image()
		c.t.Fatalf("node %d: %s: %v; controller %d, brokers %+v", id, what, err, img.ControllerID(), img.Brokers())
	}
}

func serving(n int) func(*metadata.Image) bool {
	return func(img *metadata.Image) bool {
		active := 0
		for _, b := range img.Brokers() {
			if b.Active() {
				active++
			}
		}
		return active == n && img.ControllerID() >= 0
	}
}

// TestClusterForms: three processes with Kafka's keys become one cluster, which
// forgets nothing when one of them is down and when all restart.
func TestClusterForms(t *testing.T) {
	c := newCluster(t, 3)
	c.start("broker,controller", 3, 1, 2)
	id := c.nodes[1].ClusterID()
	for _, n := range c.nodes {
		if n.ClusterID() != id || id == "" {
			t.Errorf("node %d is in cluster %q, node 1 in %q", n.ID(), n.ClusterID(), id)
		}
	}
	for n := range c.nodes {
		c.await(n, "three brokers", serving(3))
	}
	c.stop(2)
	for n := range c.nodes {
		c.await(n, "two brokers", serving(2))
	}
	c.stop(1)
	c.stop(3)

	c.start("broker,controller", 1, 3) // one of three may be down
	c.await(1, "two brokers", serving(2))
	c.start("broker,controller", 2)
	for n := range c.nodes {
		c.await(n, "three brokers again", serving(3))
		if got := c.nodes[n].ClusterID(); got != id {
			t.Errorf("cluster %s became %s", id, got)
		}
	}
}

// TestNoHandOverUnlessAsked: with controlled.shutdown.enable=false a broker goes
// without handing over what it leads; with true it hands over first.
func TestNoHandOverUnlessAsked(t *testing.T) {
	for _, enabled := range []bool{false, true} {
		c := newCluster(t, 2, fmt.Sprintf("controlled.shutdown.enable=%v", enabled))
		c.start("broker,controller", 1, 2)
		c.await(2, "two brokers", serving(2))
		topic := metadata.NewTopic{Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{{Replicas: []int32{2, 1}}}}
		if r := c.nodes[2].controller.CreateTopics(t.Context(), []metadata.NewTopic{topic}, false); r[0].Err != nil {
			t.Fatal(r)
		}
		c.nodes[2].handOver(t.Context())
		img := c.nodes[2].controller.Image()
		if b, leader := img.Broker(2), img.Topic("t").Partitions[0].Leader; b.ShuttingDown != enabled || leader == 1 != enabled {
			t.Errorf("controlled.shutdown.enable=%v: shutting down %v, the leader is %d", enabled, b.ShuttingDown, leader)
		}
		c.stopAll()
	}
}

// TestClusterOfRoles: controllers and brokers are processes of their own. The
// brokers know nothing but the voters' addresses, and start before them.
func TestClusterOfRoles(t *testing.T) {
	c := newCluster(t, 3)
	done := make(chan error, 1)
	brokers := &testCluster{t: t, dir: c.dir, ports: c.ports, voters: c.voters, nodes: map[int32]*Node{}}
	t.Cleanup(brokers.stopAll)
	go func() { done <- brokers.tryStart("broker", 11, 12) }()
	c.start("controller", 1, 2, 3)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for id := range brokers.nodes {
		brokers.await(id, "two brokers", serving(2))
		if got, want := brokers.nodes[id].ClusterID(), c.nodes[1].ClusterID(); got != want {
			t.Errorf("cluster %s, want %s", got, want)
		}
		if got := brokers.nodes[id].controller.Image().ControllerID(); got < 1 || got > 3 {
			t.Errorf("node %d became controller", got)
		}
	}
	// The controllers take turns without the brokers losing touch.
	c.stop(brokers.nodes[11].controller.Image().ControllerID())
	brokers.await(11, "another controller", func(img *metadata.Image) bool {
		_, there := c.nodes[img.ControllerID()]
		return there && serving(2)(img)
	})
}

// TestAnyNodeTakesRequests: what only the controller decides is asked of any
// broker, and known there when it is answered.
func TestAnyNodeTakesRequests(t *testing.T) {
	c := newCluster(t, 3)
	c.start("broker,controller", 1, 2, 3)
	for id, n := range c.nodes {
		c.await(id, "three brokers", serving(3))
		name := fmt.Sprintf("t%d", id)
		r := n.controller.CreateTopics(t.Context(), []metadata.NewTopic{{Name: name, Partitions: 3, ReplicationFactor: 3}}, false)
		if r[0].Err != nil || n.controller.Image().Topic(name) == nil {
			t.Errorf("node %d: %+v", id, r)
		}
		r = n.controller.CreateTopics(t.Context(), []metadata.NewTopic{{Name: name, Partitions: 3, ReplicationFactor: 3}}, false)
		if !errors.Is(r[0].Err, kerr.TopicAlreadyExists) || r[0].Message == "" {
			t.Errorf("node %d, asked twice: %+v", id, r)
		}
		p := n.controller.Image().Topic(name).Partitions[0]
		change := metadata.ISRChange{Topic: n.controller.Image().Topic(name).ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
		for _, m := range p.Replicas {
			change.NewISR = append(change.NewISR, metadata.ISRMember{BrokerID: m, BrokerEpoch: n.controller.Image().Broker(m).Epoch})
		}
		want := error(nil)
		if p.Leader != id {
			want = kerr.InvalidRequest
		}
		if got := n.controller.AlterPartition(t.Context(), []metadata.ISRChange{change}); !errors.Is(got[0].Err, want) {
			t.Errorf("node %d: %+v, want %v", id, got, want)
		}
		if _, _, err := n.controller.AllocateProducerIDs(t.Context()); err != nil {
			t.Error(err)
		}
	}
	deleted := c.nodes[1].controller.DeleteTopics(t.Context(), []metadata.TopicRef{{Name: "t1"}, {Name: "t2"}, {Name: "none"}})
	if deleted[0].Err != nil || deleted[1].Err != nil || !errors.Is(deleted[2].Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("%+v", deleted)
	}
}

// TestControlledShutdown: a broker that stops in order hands its leadership over
// first, and its clean shutdown keeps it eligible.
func TestControlledShutdown(t *testing.T) {
	c := newCluster(t, 3)
	c.start("broker,controller", 1, 2, 3)
	c.await(1, "three brokers", serving(3))
	r := c.nodes[1].controller.CreateTopics(t.Context(), []metadata.NewTopic{{Name: "t", Partitions: 6, ReplicationFactor: 3}}, false)
	if r[0].Err != nil {
		t.Fatal(r)
	}
	stopped := c.nodes[1].controller.Image().ControllerID()
	c.stop(stopped)
	for id := range c.nodes {
		c.await(id, "two lead all", func(img *metadata.Image) bool {
			for _, p := range img.Topic("t").Partitions {
				if p.Leader == stopped || p.Leader < 0 || len(p.ISR) != 2 {
					return false
				}
			}
			return img.ControllerID() != stopped
		})
	}
}

// TestKilledNode: the end of a process is noticed by its closed connections, the
// controller's too, long before its session runs out; and a process that comes
// back need not wait for that either.
func TestKilledNode(t *testing.T) {
	c := newCluster(t, 3, "broker.session.timeout.ms=60000")
	c.start("broker,controller", 1, 2)
	for range 2 {
		for _, becomeController := range []bool{false, true} {
			kill := c.startProcess(3)
			c.await(1, "three brokers", serving(3))
			if becomeController {
				// The two others give it up, one after the other.
				for _, id := range []int32{1, 2} {
					if c.nodes[1].controller.Image().ControllerID() == id {
						c.stop(id)
						c.start("broker,controller", id)
					}
				}
				c.await(1, "three brokers again", serving(3))
			}
			began := time.Now()
			kill()
			c.await(1, "two brokers", serving(2))
			t.Logf("controller was %v; fenced after %v", becomeController, time.Since(began))
		}
	}
}

// startProcess runs a node in a process of its own and returns what kills it.
func (c *testCluster) startProcess(id int32) (kill func()) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), nodeInProcess+"="+strings.Join(c.config(id, "broker,controller"), "\n"))
	cmd.Stdout, cmd.Stderr = c.t.Output(), c.t.Output()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			if err := cmd.Process.Kill(); err != nil {
				c.t.Error(err)
			}
			_ = cmd.Wait() // says that it was killed
		})
	}
	c.t.Cleanup(kill)
	return kill
}

// nodeInProcess is the variable by which the test's binary runs a node instead
// of tests: the lines of its configuration.
const nodeInProcess = "GREGOR_TEST_NODE"

func runNodeInProcess(lines string) error {
	src := config.Source{Name: nodeInProcess}
	for line := range strings.SplitSeq(lines, "\n") {
		k, v, _ := strings.Cut(line, "=")
		src.Lines = append(src.Lines, config.Line{Key: k, Value: v})
	}
	v, _, err := config.Build(src)
	if err != nil {
		return err
	}
	n, err := Start(context.Background(), Options{Config: v, Log: zerolog.New(os.Stderr).Level(zerolog.InfoLevel)})
	if err != nil {
		return err
	}
	<-n.Failed()
	return n.Err()
}

// TestControllerLostItsDisk: a controller whose metadata is gone does not come
// back under its old name, but as a new member once the old one was removed; and
// another one joins that nobody named before.
func TestControllerLostItsDisk(t *testing.T) {
	c := newCluster(t, 4)
	voters := strings.Split(c.voters, ",")
	c.voters = strings.Join(voters[:3], ",")
	c.start("broker,controller", 1, 2, 3)
	c.await(1, "three brokers", serving(3))
	c.stop(3)
	if err := os.RemoveAll(filepath.Join(c.dir, "3")); err != nil {
		t.Fatal(err)
	}
	if err := c.tryStart("broker,controller", 3); !errors.Is(err, etcdembed.ErrLostData) {
		t.Fatalf("started with an empty disk: %v", err)
	}
	members := func(id int32) (voters, learners string) {
		t.Helper()
		q := c.nodes[id].quorumServers(values(t, c.config(id, "broker,controller")...))
		list, err := q.Members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list, func(a, b handler.QuorumMember) int { return int(a.ID - b.ID) })
		for _, m := range list {
			switch {
			case !m.Voter:
				learners += fmt.Sprint(m.ID)
			case m.Port != uint16(c.ports[m.ID]):
				t.Errorf("member %+v, want port %d", m, c.ports[m.ID])
			default:
				voters += fmt.Sprint(m.ID)
			}
		}
		return voters, learners
	}
	q := c.nodes[1].quorumServers(values(t, c.config(1, "broker,controller")...))
	if found, err := q.RemoveMember(t.Context(), 3); !found || err != nil {
		t.Fatal(found, err)
	}
	if found, err := q.RemoveMember(t.Context(), 3); found || err != nil {
		t.Fatal("removed twice", found, err)
	}
	c.lines = append(c.lines, "controller.quorum.auto.join.enable=true")
	c.start("broker,controller", 3)
	c.await(1, "three brokers again", serving(3))
	if voters, _ := members(2); voters != "123" {
		t.Errorf("voters %s", voters)
	}

	// Node 4 knows the others' addresses, the others do not know it.
	var addresses []string
	for _, v := range voters[:3] {
		_, a, _ := strings.Cut(v, "@")
		addresses = append(addresses, a)
	}
	c.lines = append(c.lines, "controller.quorum.voters=", "controller.quorum.bootstrap.servers="+strings.Join(addresses, ","))
	for range 2 { // the second time with its own data
		c.start("broker,controller", 4)
		c.await(4, "four brokers", serving(4))
		if voters, learners := members(1); voters != "1234" || learners != "" {
			t.Errorf("voters %s, learners %s", voters, learners)
		}
		c.stop(4)
	}
}

// TestControllerMoves: a controller comes back at another address.
func TestControllerMoves(t *testing.T) {
	c := newCluster(t, 3)
	c.start("broker,controller", 1, 2, 3)
	c.await(1, "three brokers", serving(3))
	c.stop(2)
	old := fmt.Sprintf("2@127.0.0.1:%d", c.ports[2])
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.ports[2] = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.voters = strings.Replace(c.voters, old, fmt.Sprintf("2@127.0.0.1:%d", c.ports[2]), 1)
	c.start("broker,controller", 2)
	c.await(1, "three brokers again", serving(3))
	// The others reach it there: it makes the majority with either of them.
	c.stop(1)
	c.await(2, "two brokers", serving(2))
	c.start("broker,controller", 1)
	c.stop(3)
	c.await(2, "two brokers", serving(2))
}
