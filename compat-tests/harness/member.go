package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
)

// Event is something that a member of a consumer group says about itself: one
// line of JSON, in the form of Kafka's VerifiableConsumer.
type Event struct {
	Name       string // partitions_assigned, partitions_revoked, records_consumed, offsets_committed, shutdown_complete
	Timestamp  int64  // ms
	Partitions []EventPartition
	// Of a Kafka Streams application: its state or a store's name, and records.
	State string
	Count int64
}

// EventPartition is a partition that an event is about.
type EventPartition struct {
	Topic                string
	Partition            int32
	MinOffset, MaxOffset int64 // of records_consumed
}

// MemberCommand is how to start a member of a consumer group.
type MemberCommand struct {
	Program string
	Args    []string
	// Parse reads a line that the program prints, to standard output or error,
	// where it does not print events as JSON.
	Parse func(line string) (Event, bool)
}

// Member is a consumer in a process of its own, so that it can be killed and
// stopped like one. It commits what it consumed after each batch.
type Member struct {
	Name string
	cmd  *exec.Cmd
	tail *tail
	done chan struct{}
}

// StartMember starts a member. What it says is given to heard, in order.
func StartMember(name string, heard func(*Member, Event), c MemberCommand) (*Member, error) {
	m := &Member{Name: name, cmd: exec.Command(c.Program, c.Args...), tail: &tail{}, done: make(chan struct{})}
	var mu sync.Mutex // one event after another, whichever stream it came by
	parse := c.Parse
	if parse == nil {
		parse = parseEvent
	}
	follow := func(r io.Reader) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if e, ok := parse(lines.Text()); ok {
				mu.Lock()
				heard(m, e)
				mu.Unlock()
			}
		}
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errOut, err := m.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	var streams sync.WaitGroup
	streams.Go(func() { follow(out) })
	streams.Go(func() { follow(io.TeeReader(errOut, m.tail)) })
	go func() {
		defer close(m.done)
		streams.Wait()
		_ = m.cmd.Wait() // how it ended is not what is tested
	}()
	return m, nil
}

func parseEvent(line string) (e Event, ok bool) {
	return e, json.Unmarshal([]byte(line), &e) == nil && e.Name != ""
}

// Signal sends the process a signal.
func (m *Member) Signal(s syscall.Signal) error { return m.cmd.Process.Signal(s) }

// Done is closed when the process has ended.
func (m *Member) Done() <-chan struct{} { return m.done }

// Stderr is the end of what it printed there.
func (m *Member) Stderr() string { return m.tail.String() }

// JavaMember is Kafka's VerifiableConsumer.
func JavaMember(args ...string) (MemberCommand, error) {
	return JavaTool("VerifiableConsumer", args...)
}

// JavaTool is one of Kafka's tools, by the name of its class.
func JavaTool(class string, args ...string) (MemberCommand, error) {
	return JavaToolWith(nil, class, args...)
}

// JavaToolWith is JavaTool with more flags of the JVM.
func JavaToolWith(jvm []string, class string, args ...string) (MemberCommand, error) {
	libs, err := KafkaJars()
	if err != nil {
		return MemberCommand{}, err
	}
	java, err := Need("java", "the Java client")
	if err != nil {
		return MemberCommand{}, err
	}
	argv := append(append([]string{}, JavaFlags...), jvm...)
	argv = append(argv, "-Dlog4j2.configurationFile="+filepath.Join(Root(), "java", "log4j2.properties"), "-cp", libs+"/*", "org.apache.kafka.tools."+class)
	return MemberCommand{Program: java, Args: append(argv, args...)}, nil
}

// PythonMember is a member written in Python: one of the programs in python/.
func PythonMember(program string, args ...string) (MemberCommand, error) {
	bin, err := PythonBin()
	return MemberCommand{Program: bin, Args: pythonArgs(program, args...)}, err
}

// pythonArgs are those of a program in python/, which leaves no compiled module
// there.
func pythonArgs(program string, args ...string) []string {
	return append([]string{"-B", source("python", program)}, args...)
}

// NodeMember is a member that uses a client for Node, kafkajs or confluent.
func NodeMember(library string, args ...string) (MemberCommand, error) {
	program, argv, err := nodeProgram(library+"_member.js", library)
	return MemberCommand{Program: program, Args: append(argv, args...)}, err
}

// FranzMember is a member that uses franz-go, in a process like the others.
func FranzMember(args ...string) (MemberCommand, error) {
	inputs, err := contents(source("member", "main.go"), source("go.mod"))
	if err != nil {
		return MemberCommand{}, err
	}
	dir, err := Installed("franz-member", inputs, func(dir string) error {
		return Run(root(), "go", "build", "-o", filepath.Join(dir, "member"), "./member")
	})
	return MemberCommand{Program: filepath.Join(dir, "member"), Args: args}, err
}

// KcatMember is kcat -G. It commits by itself what it printed.
func KcatMember(addr, topic, group string, conf ...string) (MemberCommand, error) {
	kcat, err := Kcat()
	args := []string{"-b", addr, "-G", group, "-E", "-u", "-f", "%t %p %o\n"}
	for _, c := range conf {
		args = append(args, "-X", c)
	}
	return MemberCommand{Program: kcat, Args: append(args, topic), Parse: parseKcat}, err
}

var (
	kcatEager     = regexp.MustCompile(`rebalanced \(memberid [^)]*\): (assigned|revoked): ?(.*)$`)
	kcatGradual   = regexp.MustCompile(`rebalanced: incremental (assign|revoke)\S* of \d+ partition\(s\) \([^)]*\): ?(.*)$`)
	kcatPartition = regexp.MustCompile(`(\S+) \[(\d+)\]`)
	kcatRecord    = regexp.MustCompile(`^(\S+) (\d+) (\d+)$`)
)

func parseKcat(line string) (Event, bool) {
	if m := kcatRecord.FindStringSubmatch(line); m != nil {
		o := atoi64(m[3])
		return Event{Name: "records_consumed", Partitions: []EventPartition{{Topic: m[1], Partition: atoi(m[2]), MinOffset: o, MaxOffset: o}}}, true
	}
	m := kcatEager.FindStringSubmatch(line)
	if m == nil {
		m = kcatGradual.FindStringSubmatch(line)
	}
	if m == nil {
		return Event{}, false
	}
	e := Event{Name: "partitions_" + strings.TrimSuffix(strings.TrimSuffix(m[1], "ed"), "e") + "ed"}
	for _, p := range kcatPartition.FindAllStringSubmatch(m[2], -1) {
		e.Partitions = append(e.Partitions, EventPartition{Topic: p[1], Partition: atoi(p[2])})
	}
	return e, true
}
