package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Client is a Kafka client that obeys the command language below, whatever
// language it is written in. A command is a line of tab-separated words; the
// answer is any number of lines and a line that is just ".". A command that
// the broker refused answers "!", the Kafka error code and a message.
//
//	produce FILE CONF                      write the records in FILE; one line "partition offset timestamp" for each
//	consume TOPIC PARTITION FROM COUNT CONF  FROM is an offset, "earliest" or "@timestamp"; record lines
//	offsets TOPIC PARTITION                "earliest latest"
//	time TOPIC PARTITION TIMESTAMP         the offset found, or -1
//	create TOPIC PARTITIONS REPLICAS CONF
//	delete TOPIC
//	partitions TOPIC COUNT                 grow a topic
//	describe TOPIC                         "partition leader replicas isr" for each partition
//	alter TOPIC CONF                       set topic configs; an empty value restores the default
//	config TOPIC NAME...                   "name value isDefault"
//	deleterecords TOPIC PARTITION OFFSET   the low watermark
//	cluster                                "controller node,node,..."
//
//	open NAME ID TIMEOUT                   a producer of transactions, under a name of its own
//	begin NAME
//	send NAME TOPIC PARTITION VALUE        the offset, once it is acknowledged; VALUE is base64
//	sendoffsets NAME GROUP TOPIC PARTITION OFFSET
//	commit NAME
//	abort NAME
//	close NAME
//
// CONF is k=v pairs joined by commas, in the names of the Java client, or "-".
type Client interface {
	Name() string
	Do(command string, args ...string) ([][]string, error)
	// Codecs lists the compression types this client offers.
	Codecs() []string
	Close() error
}

// CodeError is a refusal by the broker, with Kafka's error code.
type CodeError struct {
	Code    int16
	Message string
}

func (e *CodeError) Error() string { return fmt.Sprintf("kafka error %d: %s", e.Code, e.Message) }

// Code is the Kafka error code in err, 0 for nil, and -1 (the code of an
// unknown server error) where there is none.
func Code(err error) int16 {
	if err == nil {
		return 0
	}
	var c *CodeError
	if errors.As(err, &c) {
		return c.Code
	}
	return -1
}

// commandTimeout ends a client that hangs; the slowest command, a first
// 1 MiB write through a cold JVM, takes a few seconds, and a minute on a machine
// with fifty times more to do than it can.
const commandTimeout = 4 * time.Minute

// session is a client's program, spoken to over its standard input and output.
type session struct {
	name   string
	codecs []string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *tail
	mu     sync.Mutex
}

func startSession(name string, codecs []string, program string, args ...string) (*session, error) {
	s := &session{name: name, codecs: codecs, cmd: exec.Command(program, args...), stderr: &tail{}}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReaderSize(out, 1<<20)
	s.cmd.Stderr = s.stderr
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return s, nil
}

func (s *session) Name() string     { return s.name }
func (s *session) Codecs() []string { return s.codecs }

func (s *session) Do(command string, args ...string) ([][]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	watchdog := time.AfterFunc(commandTimeout, func() { _ = s.cmd.Process.Kill() })
	defer watchdog.Stop()
	if _, err := fmt.Fprintln(s.in, strings.Join(append([]string{command}, args...), "\t")); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", s.name, command, err, s.stderr)
	}
	var lines [][]string
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("%s %s: the client ended: %w\n%s", s.name, command, err, s.stderr)
		}
		f := strings.Split(strings.TrimRight(line, "\r\n"), "\t")
		switch f[0] {
		case ".":
			return lines, nil
		case "!":
			code, _ := strconv.Atoi(f[1])
			return lines, &CodeError{Code: int16(code), Message: strings.Join(f[2:], " ")}
		}
		lines = append(lines, f)
	}
}

func (s *session) Close() error {
	_ = s.in.Close()
	watchdog := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer watchdog.Stop()
	return s.cmd.Wait()
}

// tail keeps the end of what a process printed, for the error message.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 8000 {
		t.b = t.b[len(t.b)-4000:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// Conf writes configs in the form of the command language.
func Conf(kv ...string) string {
	if len(kv) == 0 {
		return "-"
	}
	var parts []string
	for i := 0; i+1 < len(kv); i += 2 {
		parts = append(parts, kv[i]+"="+kv[i+1])
	}
	return strings.Join(parts, ",")
}

// Produce writes records through c and returns them with the partition, offset
// and timestamp that the client reported (offset -1 with acks=0).
func Produce(c Client, dir string, recs []Record, conf string) ([]Record, error) {
	path := filepath.Join(dir, fmt.Sprintf("%s-%d.records", c.Name(), time.Now().UnixNano()))
	var sb strings.Builder
	for _, r := range recs {
		sb.WriteString(r.line())
		sb.WriteByte('\n')
	}
	if err := os.WriteFile(path, []byte(sb.String()), 0o644); err != nil {
		return nil, err
	}
	defer os.Remove(path)
	lines, err := c.Do("produce", path, conf)
	if err != nil {
		return nil, err
	}
	if len(lines) != len(recs) {
		return nil, fmt.Errorf("%s: %d acknowledgements for %d records", c.Name(), len(lines), len(recs))
	}
	out := make([]Record, len(recs))
	for i, f := range lines {
		p, err1 := strconv.ParseInt(f[0], 10, 32)
		off, err2 := strconv.ParseInt(f[1], 10, 64)
		ts, err3 := strconv.ParseInt(f[2], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("%s: acknowledgement: %w", c.Name(), err)
		}
		out[i] = recs[i]
		out[i].Partition, out[i].Offset, out[i].Timestamp = int32(p), off, ts
	}
	return out, nil
}

// Consume reads count records of one partition.
func Consume(c Client, topic string, partition int32, from string, count int, conf string) ([]Record, error) {
	lines, err := c.Do("consume", topic, strconv.Itoa(int(partition)), from, strconv.Itoa(count), conf)
	if err != nil {
		return nil, err
	}
	out := make([]Record, 0, len(lines))
	for _, f := range lines {
		r, err := parseRecord(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name(), err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Int asks for one number: offsets (earliest or latest by index), time, deleterecords.
func Int(c Client, field int, command string, args ...string) (int64, error) {
	lines, err := c.Do(command, args...)
	if err != nil {
		return 0, err
	}
	if len(lines) != 1 || len(lines[0]) <= field {
		return 0, fmt.Errorf("%s %s: answered %v", c.Name(), command, lines)
	}
	return strconv.ParseInt(lines[0][field], 10, 64)
}
