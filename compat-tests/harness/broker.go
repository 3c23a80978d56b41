package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Broker is a broker process, or the address of one that someone else runs.
type Broker struct {
	Name string // "gregor" or "kafka"
	Addr string
	// Controller is the address of its controller listener, empty where it has
	// none, and ID its node id, in clusters.
	Controller string
	ID         int
	// DataDir holds the logs, empty for a broker that someone else runs.
	DataDir string
	dir     string
	file    string // of its properties, where it may move
	program string
	args    []string
	format  []string // what formats its directories, for Kafka
	ready   string   // the broker serves once it printed a line with this
	cmd     *exec.Cmd
	served  chan struct{}
	exited  chan struct{}
	log     *tail
}

// Address wraps a broker that runs already.
func Address(name, addr string) *Broker { return &Broker{Name: name, Addr: addr} }

// FreePort is a port that nobody uses now.
func FreePort() (int, error) {
	ports, err := FreePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// FreePorts are n different ports that nobody uses now. They are below those that
// kernels give to outgoing connections, or a connection could sit on the port of
// a broker that is down when it starts again.
func FreePorts(n int) ([]int, error) {
	const from, to = 20000, 32768
	var out []int
	var last error
	for tries := 0; len(out) < n; tries++ {
		if tries > to-from {
			return nil, fmt.Errorf("no free port: %w", last)
		}
		port := from + rand.IntN(to-from)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		defer l.Close() // once all are known, so that they differ
		out = append(out, port)
	}
	return out, nil
}

// properties writes one server.properties, which both brokers read: what Kafka
// needs to run alone, and nothing else but its defaults.
func properties(dir string, more []string) (path, addr, data string, err error) {
	ports, err := FreePorts(2)
	if err != nil {
		return "", "", "", err
	}
	port, controller := ports[0], ports[1]
	addr = fmt.Sprintf("127.0.0.1:%d", port)
	data = filepath.Join(dir, "data")
	lines := []string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("controller.quorum.voters=1@localhost:%d", controller),
		fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://127.0.0.1:%d", addr, controller),
		"advertised.listeners=PLAINTEXT://" + addr,
		"controller.listener.names=CONTROLLER",
		"log.dirs=" + data,
		"offsets.topic.replication.factor=1",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
	}
	path = filepath.Join(dir, "server.properties")
	return path, addr, data, os.WriteFile(path, []byte(strings.Join(append(lines, more...), "\n")+"\n"), 0o644)
}

// Kafka formats and starts Apache Kafka in dir and waits until it serves.
func Kafka(dir string, more ...string) (*Broker, error) {
	b, err := NewKafka(dir, []string{"-Xmx512m", "-XX:+UseSerialGC"}, more...)
	if err != nil {
		return nil, err
	}
	return b, b.Start()
}

// NewKafka formats a Kafka in dir that runs on a JVM with the given flags. It
// does not start it.
func NewKafka(dir string, jvm []string, more ...string) (*Broker, error) {
	path, addr, data, err := properties(dir, more)
	if err != nil {
		return nil, err
	}
	b := &Broker{Addr: addr, DataDir: data, dir: dir}
	return b, b.asKafka(path, jvm)
}

// BuildGregor builds gregor's binary out of the tree around compat-tests, or
// returns $GREGOR_BIN.
func BuildGregor(dir string) (string, error) {
	if bin := os.Getenv("GREGOR_BIN"); bin != "" {
		return bin, nil
	}
	bin := filepath.Join(dir, "gregor")
	return bin, Run(filepath.Dir(root()), "go", "build", "-o", bin, "./cmd/gregor")
}

// Gregor starts gregor in dir and waits until it serves. GREGOR_PROPERTIES in
// the environment adds properties, separated by semicolons.
func Gregor(bin, dir string, more ...string) (*Broker, error) {
	b, err := NewGregor(bin, dir, more...)
	if err != nil {
		return nil, err
	}
	return b, b.Start()
}

// NewGregor is Gregor without the start.
func NewGregor(bin, dir string, more ...string) (*Broker, error) {
	more = append([]string{"http.address="}, more...)
	if extra := os.Getenv("GREGOR_PROPERTIES"); extra != "" {
		more = append(more, strings.Split(extra, ";")...)
	}
	path, addr, data, err := properties(dir, more)
	if err != nil {
		return nil, err
	}
	return &Broker{
		Name: "gregor", Addr: addr, DataDir: data, dir: dir, program: bin,
		args: []string{"start", path}, ready: GregorReady,
	}, nil
}

// GregorReady is in the line that gregor logs once it serves clients.
const GregorReady = `"message":"ready"`

// startTimeout is generous: a cold JVM takes 15 s on a busy machine, and minutes
// on one with thirty times more to do than it can.
const startTimeout = 6 * time.Minute

// Start starts the process (again) and returns once it said that it serves.
func (b *Broker) Start() error {
	if err := b.Launch(); err != nil {
		return err
	}
	return b.AwaitReady()
}

// Launch starts the process and does not wait for it.
func (b *Broker) Launch() error {
	if b.program == "" {
		return errors.New("not our broker to start")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(b.program, b.args...)
	cmd.Dir = b.dir
	cmd.Stdout, cmd.Stderr = w, w
	b.log = &tail{}
	if err := cmd.Start(); err != nil {
		_ = r.Close()
		_ = w.Close()
		return fmt.Errorf("start %s: %w", b.Name, err)
	}
	_ = w.Close()
	ready := make(chan struct{})
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		defer r.Close()
		b.follow(r, ready)
		_ = cmd.Wait()
	}()
	b.cmd, b.exited, b.served = cmd, exited, ready
	return nil
}

// AwaitReady returns once the process said that it serves.
func (b *Broker) AwaitReady() error {
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case <-b.served:
		return nil
	case <-b.exited:
		return fmt.Errorf("%s ended while starting:\n%s", b.Name, b.log)
	case <-limit.C:
		b.Kill()
		return fmt.Errorf("%s did not say that it serves within %s:\n%s", b.Name, startTimeout, b.log)
	}
}

// follow keeps the end of the log and closes ready at the line that says so.
func (b *Broker) follow(r io.Reader, ready chan struct{}) {
	file, err := os.OpenFile(filepath.Join(b.dir, b.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		file = nil
	} else {
		defer file.Close()
	}
	lines := bufio.NewReaderSize(r, 1<<16)
	seen := false
	for {
		line, err := lines.ReadString('\n')
		_, _ = b.log.Write([]byte(line))
		if file != nil {
			_, _ = file.WriteString(line)
		}
		if !seen && strings.Contains(line, b.ready) {
			seen = true
			close(ready)
		}
		if err != nil {
			return
		}
	}
}

// Log is the end of what the process printed.
func (b *Broker) Log() string {
	if b.log == nil {
		return ""
	}
	return b.log.String()
}

// Move gives a broker of a cluster that is down another port, and returns once
// its properties say so.
func (b *Broker) Move() error {
	host, _, err := net.SplitHostPort(b.Addr)
	if err != nil || b.file == "" {
		return errors.Join(err, errors.New("not a broker that can move"))
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(b.file)
	if err != nil {
		return err
	}
	addr := fmt.Sprintf("%s:%d", host, port)
	moved := strings.ReplaceAll(string(text), "PLAINTEXT://"+b.Addr, "PLAINTEXT://"+addr)
	b.Addr = addr
	return os.WriteFile(b.file, []byte(moved), 0o644)
}

// Pid is the process id of a broker that Start started.
func (b *Broker) Pid() int { return b.cmd.Process.Pid }

// Exited is closed once the process is gone.
func (b *Broker) Exited() <-chan struct{} { return b.exited }

// Kill ends the process with SIGKILL and waits until it is gone.
func (b *Broker) Kill() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Kill()
	<-b.exited
}

// stopLimit is when a broker that was asked to stop counts as hanging: more than
// any needs on a machine that does ten other things.
const stopLimit = 2 * time.Minute

// Stop ends the process with SIGTERM, and with SIGKILL (and an error) where
// that takes longer than stopLimit.
func (b *Broker) Stop() error {
	if b.cmd == nil {
		return nil
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-b.exited:
	case <-limit.C:
		b.Kill()
		return fmt.Errorf("%s did not stop within %v of SIGTERM:\n%s", b.Name, stopLimit, b.Log())
	}
	if code := b.cmd.ProcessState.ExitCode(); b.Name == "gregor" && code != 0 {
		return fmt.Errorf("%s ended with status %d:\n%s", b.Name, code, b.Log())
	}
	return nil
}
