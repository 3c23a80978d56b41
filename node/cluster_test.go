package node

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/metadata"
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
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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
