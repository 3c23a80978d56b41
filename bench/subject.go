package main

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/gregor-broker/gregor/compat-tests/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaJVM are the flags of Kafka's own start script. Left to itself, a JVM
// with one CPU would take the serial collector.
var kafkaJVM = []string{
	"-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
	"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
}

// common is what both brokers are told beyond what running alone needs; all
// else is the default, which is the same for both.
var common = []string{"log.segment.delete.delay.ms=1000", "auto.create.topics.enable=false"}

// subject is what is measured: a broker or the floor.
type subject struct {
	name string
	addr string
	pid  int
	dir  string

	broker *harness.Broker // nil for the floor
	// nodes are all brokers of a cluster, of which broker is one.
	nodes []*harness.Broker
	floor *exec.Cmd
}

// tools are the programs that are measured, built from this tree.
type tools struct {
	gregor, floor string
}

// build builds the programs as they are released: static and stripped.
func build(dir string) (tools, error) {
	root := filepath.Dir(harness.Root())
	t := tools{gregor: filepath.Join(dir, "gregor"), floor: filepath.Join(dir, "floor")}
	if err := buildOne(root, "./cmd/gregor", t.gregor); err != nil {
		return t, err
	}
	return t, buildOne(filepath.Join(root, "bench"), "./floor", t.floor)
}

func buildOne(dir, pkg, out string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return onAnyCPU(func() error {
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
		}
		return nil
	})
}

// prepare makes a subject ready to start in a new directory below dir.
func (t tools) prepare(name, dir string, more ...string) (*subject, error) {
	dir, err := os.MkdirTemp(dir, name+"-")
	if err != nil {
		return nil, err
	}
	s := &subject{name: name, dir: dir}
	switch name {
	case "gregor":
		s.broker, err = harness.NewGregor(t.gregor, dir, append(append([]string{}, common...), more...)...)
	case "kafka":
		err = onAnyCPU(func() (err error) {
			s.broker, err = harness.NewKafka(dir, kafkaJVM, common...)
			return err
		})
	case "floor":
		var port int
		if port, err = harness.FreePort(); err == nil {
			s.addr = fmt.Sprintf("127.0.0.1:%d", port)
			s.floor = exec.Command(t.floor, s.addr)
			s.floor.Stderr = os.Stderr
		}
	default:
		err = fmt.Errorf("no subject %q", name)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	if s.broker != nil {
		s.addr = s.broker.Addr
	}
	return s, nil
}

// launch starts the process and does not wait for it.
func (s *subject) launch() error {
	return onBrokerCPU(func() error {
		if s.broker == nil {
			if err := s.floor.Start(); err != nil {
				return err
			}
			s.pid = s.floor.Process.Pid
			return nil
		}
		if err := s.broker.Launch(); err != nil {
			return err
		}
		s.pid = s.broker.Pid()
		return nil
	})
}

// start starts the process and waits until it serves.
func (s *subject) start() error {
	if err := s.launch(); err != nil {
		return err
	}
	if s.broker != nil {
		return s.broker.AwaitReady()
	}
	c, err := s.connect()
	if err != nil {
		return err
	}
	return c.Close()
}

// connect waits until the subject accepts a connection.
func (s *subject) connect() (net.Conn, error) {
	deadline := time.Now().Add(90 * time.Second)
	for {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			return c, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// stop ends the process and removes its data.
func (s *subject) stop() {
	if s == nil {
		return
	}
	if s.broker != nil && s.pid != 0 {
		s.broker.Kill() // nothing of it is wanted any more
	}
	if s.floor != nil && s.floor.Process != nil {
		_ = s.floor.Process.Kill()
		_ = s.floor.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

// pause stops the process for a while, so that another has the CPU to itself.
func (s *subject) pause() { _ = syscall.Kill(s.pid, syscall.SIGSTOP) }

func (s *subject) resume() { _ = syscall.Kill(s.pid, syscall.SIGCONT) }

func (s *subject) do(req kmsg.Request) (kmsg.Response, error) {
	c, err := wire.Dial(s.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Do(req)
}

// createTopic creates a topic and waits until it can be produced to.
func (s *subject) createTopic(name string, partitions int32, configs ...string) error {
	resp, err := s.do(harness.CreateTopic(name, partitions, configs...))
	if err != nil {
		return err
	}
	if r := resp.(*kmsg.CreateTopicsResponse).Topics[0]; r.ErrorCode != 0 {
		return fmt.Errorf("%s: create %s: error %d", s.name, name, r.ErrorCode)
	}
	deadline := time.Now().Add(90 * time.Second)
	for time.Now().Before(deadline) {
		if ok, err := s.leads(name, partitions); err != nil || ok {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%s: topic %s has no leaders", s.name, name)
}

// leads asks for an offset of every partition, which only a leader tells. The
// metadata names leaders a moment before they have taken over.
func (s *subject) leads(name string, partitions int32) (bool, error) {
	all := make([]int32, partitions)
	for i := range all {
		all[i] = int32(i)
	}
	return s.leadsPartition(name, all...)
}

func (s *subject) leadsPartition(name string, partitions ...int32) (bool, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = 7
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = name
	for _, i := range partitions {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.Timestamp = i, -1, -1
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	resp, err := s.do(req)
	if err != nil {
		return false, err
	}
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

func (s *subject) deleteTopic(name string) error {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version = 5
	req.TimeoutMillis = 15000
	req.TopicNames = []string{name}
	resp, err := s.do(req)
	if err != nil {
		return err
	}
	if r := resp.(*kmsg.DeleteTopicsResponse).Topics[0]; r.ErrorCode != 0 {
		return fmt.Errorf("%s: delete %s: error %d", s.name, name, r.ErrorCode)
	}
	return nil
}

// producerID asks for the identity of an idempotent producer, or of a
// transactional one.
func (s *subject) producerID(transactional string) (id int64, epoch int16, err error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version = 4
	if transactional != "" {
		if err := s.awaitCoordinator(txnCoordinator, transactional); err != nil {
			return 0, 0, err
		}
		req.TransactionalID, req.TransactionTimeoutMillis = &transactional, 60_000
	}
	err = s.patiently(func(c *wire.Conn) (int16, error) {
		resp, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		r := resp.(*kmsg.InitProducerIDResponse)
		id, epoch = r.ProducerID, r.ProducerEpoch
		return r.ErrorCode, nil
	})
	return id, epoch, err
}

// logFiles are the segments of a topic's partitions on disk.
func (s *subject) logFiles(topic string, partitions int) ([]string, error) {
	var files []string
	for i := range partitions {
		found, err := filepath.Glob(filepath.Join(s.broker.DataDir, fmt.Sprintf("%s-%d", topic, i), "*.log"))
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("%s-%d has %d segments, want 1", topic, i, len(found))
		}
		files = append(files, found[0])
	}
	return files, nil
}

// diskSize is what a directory or a file takes.
func diskSize(path string) int64 {
	var n int64
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			n += info.Size()
		}
		return nil
	})
	return n
}
