package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// clusterID of all clusters that are started here.
const clusterID = "MkU3OEVBNTcwNTJENDM2Qg"

// Place is where a broker of a cluster runs.
type Place struct {
	// Host is its address.
	Host string
	// Command runs a program there, nil for this very machine.
	Command []string
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

// NewClusterAt prepares brokers that are controllers too, in directories of
// their own below dir, on ports of their own: Kafka's where bin is empty, with
// the given flags of the JVM, else gregor's. All topics have up to three
// replicas, of which two must be in sync. It does not start them. more goes into
// every server.properties.
func NewClusterAt(bin string, jvm []string, dir string, places []Place, more ...string) ([]*Broker, error) {
	n := len(places)
	type node struct{ client, controller int }
	nodes := make([]node, n)
	var voters []string
	for i := range nodes {
		for _, port := range []*int{&nodes[i].client, &nodes[i].controller} {
			var err error
			if *port, err = FreePort(); err != nil {
				return nil, err
			}
		}
		voters = append(voters, fmt.Sprintf("%d@%s:%d", i+1, places[i].Host, nodes[i].controller))
	}
	replicas, inSync := min(n, 3), 1
	if n > 1 {
		inSync = 2
	}
	var out []*Broker
	for i, p := range nodes {
		home := filepath.Join(dir, fmt.Sprintf("%d", i+1))
		if err := os.MkdirAll(home, 0o755); err != nil {
			return nil, err
		}
		host := places[i].Host
		addr, data := fmt.Sprintf("%s:%d", host, p.client), filepath.Join(home, "data")
		lines := append([]string{
			"process.roles=broker,controller",
			fmt.Sprintf("node.id=%d", i+1),
			"controller.quorum.voters=" + strings.Join(voters, ","),
			fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://%s:%d", addr, host, p.controller),
			"advertised.listeners=PLAINTEXT://" + addr,
			"controller.listener.names=CONTROLLER",
			"log.dirs=" + data,
			fmt.Sprintf("default.replication.factor=%d", replicas),
			fmt.Sprintf("min.insync.replicas=%d", inSync),
			fmt.Sprintf("offsets.topic.replication.factor=%d", replicas),
			fmt.Sprintf("transaction.state.log.replication.factor=%d", replicas),
			fmt.Sprintf("transaction.state.log.min.isr=%d", inSync),
			fmt.Sprintf("share.coordinator.state.topic.replication.factor=%d", replicas),
			fmt.Sprintf("share.coordinator.state.topic.min.isr=%d", inSync),
		}, more...)
		path := filepath.Join(home, "server.properties")
		b := &Broker{Addr: addr, DataDir: data, dir: home}
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
		if c := places[i].Command; c != nil {
			b.args = append(append(append([]string{}, c[1:]...), b.program), b.args...)
			b.program = c[0]
		}
		out = append(out, b)
	}
	return out, nil
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
	format := append(append([]string{}, common...), "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", path)
	if err := Run(b.dir, java, format...); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	b.Name, b.program, b.ready = "kafka", java, "Kafka Server started"
	b.args = append(append([]string{}, common...), "kafka.Kafka", path)
	return nil
}

// StartAll starts brokers at the same time, since none serves alone, and
// returns when all serve.
func StartAll(brokers []*Broker) error {
	for _, b := range brokers {
		if err := b.Launch(); err != nil {
			return err
		}
	}
	for _, b := range brokers {
		if err := b.AwaitReady(); err != nil {
			return err
		}
	}
	return nil
}
