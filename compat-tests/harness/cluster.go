package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clusterID of all clusters that are started here.
const clusterID = "MkU3OEVBNTcwNTJENDM2Qg"

// Place is where a broker of a cluster runs.
type Place struct {
	// Host is its address.
	Host string
	// Command runs a program there, nil for this very machine.
	Command []string
	// More are properties of this node alone.
	More []string
}

// Here are n places on this machine.
func Here(n int) []Place {
	out := make([]Place, n)
	for i := range out {
		out[i].Host = "127.0.0.1"
	}
	return out
}

// NewCluster is NewClusterAt on this machine, with small JVMs.
func NewCluster(bin, dir string, n int, more ...string) ([]*Broker, error) {
	return NewClusterOn(bin, SmallJVM, dir, n, more...)
}

// NewClusterOn is NewClusterAt on this machine.
func NewClusterOn(bin string, jvm []string, dir string, n int, more ...string) ([]*Broker, error) {
	return NewClusterAt(bin, jvm, dir, Here(n), more...)
}

// SmallJVM are flags of a Kafka that has little to do.
var SmallJVM = []string{"-Xmx512m", "-XX:+UseSerialGC"}

// NewClusterAt is NewClusterOf brokers that are controllers too.
func NewClusterAt(bin string, jvm []string, dir string, places []Place, more ...string) ([]*Broker, error) {
	return NewClusterOf(bin, jvm, dir, Layout{Brokers: places}, more...)
}

// Layout says of what a cluster consists.
type Layout struct {
	// Brokers have the node ids from 1 on.
	Brokers []Place
	// Controllers are processes of their own, with the node ids from 101 on.
	// Where there is none, every broker is a controller too.
	Controllers []Place
}

// firstController is the node id of the first controller that is no broker.
const firstController = 101

// HomeOf is the directory below dir of the node with an id; its logs are in
// "data" there.
func HomeOf(dir string, id int) string { return filepath.Join(dir, strconv.Itoa(id)) }

// member is a node of a cluster that is prepared.
type member struct {
	Place
	id                 int
	broker, controller int // ports, 0 where it has not the role
}

// NewClusterOf prepares the nodes of a cluster, brokers first, in directories
// of their own below dir, on ports of their own: Kafka's where bin is empty,
// with the given flags of the JVM, else gregor's. All topics have up to three
// replicas, of which two must be in sync. It does not start them. more goes into
// every server.properties.
func NewClusterOf(bin string, jvm []string, dir string, l Layout, more ...string) ([]*Broker, error) {
	members, err := l.members()
	if err != nil {
		return nil, err
	}
	var voters []string
	for _, m := range members {
		if m.controller != 0 {
			voters = append(voters, fmt.Sprintf("%d@%s:%d", m.id, m.Host, m.controller))
		}
	}
	n := len(l.Brokers)
	replicas, inSync := min(n, 3), 1
	if n > 1 {
		inSync = 2
	}
	common := append([]string{
		"controller.quorum.voters=" + strings.Join(voters, ","),
		"controller.listener.names=CONTROLLER",
		fmt.Sprintf("default.replication.factor=%d", replicas),
		fmt.Sprintf("min.insync.replicas=%d", inSync),
		fmt.Sprintf("offsets.topic.replication.factor=%d", replicas),
		fmt.Sprintf("transaction.state.log.replication.factor=%d", replicas),
		fmt.Sprintf("transaction.state.log.min.isr=%d", inSync),
		fmt.Sprintf("share.coordinator.state.topic.replication.factor=%d", replicas),
		fmt.Sprintf("share.coordinator.state.topic.min.isr=%d", inSync),
	}, more...)
	var out []*Broker
	for _, m := range members {
		b, err := m.prepare(bin, jvm, HomeOf(dir, m.id), common)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// members gives the nodes ids and ports.
func (l Layout) members() ([]member, error) {
	ports, err := FreePorts(2*len(l.Brokers) + len(l.Controllers))
	if err != nil {
		return nil, err
	}
	port := func() int {
		p := ports[0]
		ports = ports[1:]
		return p
	}
	var out []member
	for i, p := range l.Brokers {
		m := member{Place: p, id: i + 1, broker: port()}
		if len(l.Controllers) == 0 {
			m.controller = port()
		}
		out = append(out, m)
	}
	for i, p := range l.Controllers {
		out = append(out, member{Place: p, id: firstController + i, controller: port()})
	}
	return out, nil
}

// prepare writes a node's properties and makes the broker that runs it.
func (m member) prepare(bin string, jvm []string, home string, common []string) (*Broker, error) {
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, err
	}
	b := &Broker{DataDir: filepath.Join(home, "data"), dir: home, ID: m.id}
	var roles, listeners []string
	own := []string{fmt.Sprintf("node.id=%d", m.id), "log.dirs=" + b.DataDir}
	if m.broker != 0 {
		b.Addr = fmt.Sprintf("%s:%d", m.Host, m.broker)
		roles, listeners = append(roles, "broker"), append(listeners, "PLAINTEXT://"+b.Addr)
		own = append(own, "advertised.listeners=PLAINTEXT://"+b.Addr)
	}
	if m.controller != 0 {
		b.Controller = fmt.Sprintf("%s:%d", m.Host, m.controller)
		roles, listeners = append(roles, "controller"), append(listeners, "CONTROLLER://"+b.Controller)
	}
	lines := append(own, "process.roles="+strings.Join(roles, ","), "listeners="+strings.Join(listeners, ","))
	lines = append(append(lines, common...), m.More...)
	path := filepath.Join(home, "server.properties")
	b.file = path
	if bin != "" {
		lines = append(lines, "http.address=")
		b.Name, b.program, b.args, b.ready = "gregor", bin, []string{"start", path}, GregorReady
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return nil, err
	}
	if bin == "" {
		if err := b.asKafka(path, jvm); err != nil {
			return nil, err
		}
	}
	if c := m.Command; c != nil {
		b.args = append(append(append([]string{}, c[1:]...), b.program), b.args...)
		b.program = c[0]
	}
	return b, nil
}

// asKafka formats Kafka's directories and makes the broker one that runs it.
func (b *Broker) asKafka(path string, jvm []string) error {
	libs, err := KafkaJars()
	if err != nil {
		return err
	}
	java, err := Need("java", "Apache Kafka")
	if err != nil {
		return err
	}
	common := append(append([]string{}, jvm...),
		"-Dkafka.logs.dir="+b.dir, "-Dlog4j2.configurationFile="+source("java", "log4j2.properties"), "-cp", libs+"/*")
	b.Name, b.program, b.ready = "kafka", java, "Kafka Server started"
	b.args = append(append([]string{}, common...), "kafka.Kafka", path)
	b.format = append(append([]string{java}, common...), "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", clusterID, "-c", path)
	return b.Format()
}

// Format makes log directories that are empty ones that the broker takes: Kafka
// wants that done by hand.
func (b *Broker) Format() error {
	if len(b.format) == 0 {
		return nil
	}
	if err := Run(b.dir, b.format[0], b.format[1:]...); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

// StartAll starts nodes at about the same time, since none serves alone, and
// returns when all serve. JVMs start one after the other, each when the one
// before it listens: side by side they take minutes on a busy machine.
func StartAll(nodes []*Broker) error {
	for i, b := range nodes {
		if err := b.Launch(); err != nil {
			return err
		}
		if b.Name == "kafka" && i < len(nodes)-1 {
			if err := b.awaitListener(); err != nil {
				return err
			}
		}
	}
	for _, b := range nodes {
		if err := b.AwaitReady(); err != nil {
			return err
		}
	}
	return nil
}

// awaitListener returns when a controller can be connected to.
func (b *Broker) awaitListener() error {
	if b.Controller == "" {
		return nil
	}
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		if c, err := net.DialTimeout("tcp", b.Controller, time.Second); err == nil {
			return c.Close()
		}
		select {
		case <-again.C:
		case <-b.exited:
			return fmt.Errorf("%s ended while starting:\n%s", b.Name, b.log)
		case <-limit.C:
			return fmt.Errorf("%s does not listen within %s:\n%s", b.Name, startTimeout, b.log)
		}
	}
}
