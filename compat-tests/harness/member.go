package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// Event is something that a member of a consumer group says about itself: one
// line of JSON, in the form of Kafka's VerifiableConsumer.
type Event struct {
	Name       string // partitions_assigned, partitions_revoked, records_consumed, offsets_committed, shutdown_complete
	Timestamp  int64  // ms
	Partitions []struct {
		Topic                string
		Partition            int32
		MinOffset, MaxOffset int64 // of records_consumed
	}
	// Of a Kafka Streams application: its state or a store's name, and records.
	State string
	Count int64
}

// Member is a consumer in a process of its own, so that it can be killed and
// stopped like one. It commits what it consumed after each batch.
type Member struct {
	Name string
	cmd  *exec.Cmd
	tail *tail
	done chan struct{}

	mu     sync.Mutex
	events []Event
}

// StartMember starts a program that prints events. Each is given to heard, in
// order.
func StartMember(name string, heard func(*Member, Event), program string, args ...string) (*Member, error) {
	m := &Member{Name: name, cmd: exec.Command(program, args...), tail: &tail{}, done: make(chan struct{})}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.cmd.Stderr = m.tail
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(m.done)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e Event
			if json.Unmarshal(lines.Bytes(), &e) == nil && e.Name != "" {
				heard(m, e)
			}
		}
		_ = m.cmd.Wait() // how it ended is not what is tested
	}()
	return m, nil
}

// Signal sends the process a signal.
func (m *Member) Signal(s syscall.Signal) error { return m.cmd.Process.Signal(s) }

// Done is closed when the process has ended.
func (m *Member) Done() <-chan struct{} { return m.done }

// Stderr is the end of what it printed there.
func (m *Member) Stderr() string { return m.tail.String() }

// JavaMember is the command line of Kafka's VerifiableConsumer.
func JavaMember(args ...string) (string, []string, error) {
	libs, err := KafkaJars()
	if err != nil {
		return "", nil, err
	}
	java, err := Need("java", "the Java client")
	if err != nil {
		return "", nil, err
	}
	argv := append([]string{}, JavaFlags...)
	argv = append(argv, "-Dlog4j2.configurationFile="+filepath.Join(Root(), "java", "log4j2.properties"), "-cp", libs+"/*", "org.apache.kafka.tools.VerifiableConsumer")
	return java, append(argv, args...), nil
}

// PythonMember is the command line of a member that uses librdkafka.
func PythonMember(args ...string) (string, []string, error) {
	bin, err := PythonBin()
	return bin, append([]string{source("python", "member.py")}, args...), err
}

// NodeMember is the command line of a member that uses KafkaJS.
func NodeMember(args ...string) (string, []string, error) {
	manifest, program := source("node", "package.json"), source("node", "member.js")
	inputs, err := contents(manifest, program)
	if err != nil {
		return "", nil, err
	}
	node, err := Need("node", "KafkaJS")
	if err != nil {
		return "", nil, err
	}
	dir, err := Installed("node", inputs, func(dir string) error {
		npm, err := Need("npm", "KafkaJS")
		if err != nil {
			return err
		}
		if err := Run(dir, "cp", manifest, program, dir); err != nil {
			return err
		}
		if err := Run(dir, npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", dir); err != nil {
			return &MissingError{What: "KafkaJS", Reason: err.Error()}
		}
		return nil
	})
	return node, append([]string{filepath.Join(dir, "member.js")}, args...), err
}
