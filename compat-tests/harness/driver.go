package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Driver is a program with any number of clients that do what they are told,
// whatever language it is written in, each in a thread of its own. A command is
// a line of tab-separated words: its number, the client's name, the command and
// what it needs. An answer is any number of lines that begin with the command's
// number, the last of them with "." after it, or with "!", Kafka's error code (-1
// where there is none) and a message.
//
//	producer KEY=VALUE...         the client gets a producer
//	consumer KEY=VALUE...         the client gets a consumer
//	send (TOPIC PARTITION VALUE)... for each, in order: "sent OFFSET" or "failed CODE MESSAGE"
//	init, begin, commit, abort    of transactions
//	sendoffsets (TOPIC PARTITION OFFSET)... of its consumer's group, in the transaction
//	assign (TOPIC PARTITION OFFSET)...
//	subscribe TOPIC
//	poll MS                       in the order in which they happened: "came MEMBER GENERATION (TOPIC PARTITION)...",
//	                              "went (TOPIC PARTITION)...", "record TOPIC PARTITION OFFSET EPOCH VALUE"
//	commitoffsets (TOPIC PARTITION OFFSET)... "member MEMBER" that committed
//	rewind                        to what is committed of the partitions that it has
//	close                         with a farewell; the client is gone
//	drop                          without
//
// A generation is 0 where the client does not tell it.
type Driver struct {
	Name   string
	cmd    *exec.Cmd
	stderr *tail

	mu      sync.Mutex
	in      io.WriteCloser
	next    int
	waiting map[int]*pending
	ended   error
}

// pending is a command without its last line.
type pending struct {
	lines [][]string
	done  chan error
}

func startDriver(name, program string, args ...string) (*Driver, error) {
	d := &Driver{Name: name, cmd: exec.Command(program, args...), stderr: &tail{}, waiting: map[int]*pending{}}
	d.cmd.Stderr = d.stderr
	var err error
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go d.listen(out)
	return d, nil
}

// listen hands lines to the commands that they answer, until the program ends.
func (d *Driver) listen(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		d.heard(strings.Split(lines.Text(), "\t"))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = fmt.Errorf("%s ended: %w\n%s", d.Name, errors.Join(io.ErrUnexpectedEOF, lines.Err()), d.stderr)
	for _, p := range d.waiting {
		p.done <- d.ended
	}
	d.waiting = nil
}

func (d *Driver) heard(words []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	number, err := strconv.Atoi(words[0])
	p := d.waiting[number]
	if err != nil || p == nil || len(words) < 2 {
		return // the answer to a command that nobody waits for any more, or no answer
	}
	switch words[1] {
	case ".":
		p.done <- nil
	case "!":
		p.done <- refusal(words[2:])
	default:
		p.lines = append(p.lines, words[1:])
		return
	}
	delete(d.waiting, number)
}

// refusal is an error that a client tells of.
func refusal(words []string) error {
	code, _ := strconv.Atoi(words[0]) // not a number: no code
	return &CodeError{Code: int16(code), Message: strings.Join(words[1:], " ")}
}

// Refused are the errors of an answer to send, nil for each record that was
// acknowledged, and the records' offsets.
func Refused(lines [][]string) (offsets []int64, errs []error) {
	for _, words := range lines {
		offset, err := int64(-1), error(nil)
		if words[0] == "sent" {
			offset, err = strconv.ParseInt(words[1], 10, 64)
		} else {
			err = refusal(words[1:])
		}
		offsets, errs = append(offsets, offset), append(errs, err)
	}
	return offsets, errs
}

// Do tells a client to do something. The lines are what there is of an answer,
// with an error too. A client that a context's end left at work is of no more
// use.
func (d *Driver) Do(ctx context.Context, client, command string, args ...string) ([][]string, error) {
	p := &pending{done: make(chan error, 1)}
	d.mu.Lock()
	if d.ended != nil {
		defer d.mu.Unlock()
		return nil, d.ended
	}
	d.next++
	number := d.next
	d.waiting[number] = p
	_, err := fmt.Fprintln(d.in, strings.Join(append([]string{strconv.Itoa(number), client, command}, args...), "\t"))
	d.mu.Unlock()
	if err == nil {
		select {
		case err = <-p.done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, number)
	if err != nil {
		return p.lines, fmt.Errorf("%s, %s: %w", d.Name, command, err)
	}
	return p.lines, nil
}

// End is why the program ended by itself, nil while it runs.
func (d *Driver) End() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

// Close ends the program, whatever its clients do.
func (d *Driver) Close() error {
	_ = d.in.Close()
	watchdog := time.AfterFunc(10*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer watchdog.Stop()
	return d.cmd.Wait()
}

// JavaDriver has clients of the newest Java line.
func JavaDriver() (*Driver, error) {
	version := JavaLines[0]
	java, classes, err := javaProgram("driven-"+version, version, source("java", "src", "Driven.java"))
	if err != nil {
		return nil, err
	}
	return startDriver("java", java, append(append([]string{}, JavaFlags...), "-cp", classes, "Driven")...)
}

// PythonDriver has clients of librdkafka, through confluent-kafka.
func PythonDriver() (*Driver, error) {
	bin, err := PythonBin()
	if err != nil {
		return nil, err
	}
	return startDriver("librdkafka", bin, pythonArgs("driven.py")...)
}
