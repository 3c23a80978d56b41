package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// asGregor makes the test binary behave as the command, so that the tests can
// start processes without building anything.
const asGregor = "GREGOR_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asGregor) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asGregor+"=1")
	return cmd
}

// run runs a command to its end.
func run(t *testing.T, dir string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := command(t.Context(), dir, args...)
	cmd.Env = append(cmd.Env, env...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// process is a running `gregor start`.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string
	http string
	logs []map[string]any // up to ready
	// lines gets what it logs after ready and is closed when it has ended.
	lines chan string
}

func start(t *testing.T, dir string, env []string, args ...string) *process {
	t.Helper()
	cmd := command(context.Background(), dir, append([]string{"start"}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	p := &process{t: t, cmd: cmd, lines: make(chan string, 1000)}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var event map[string]any
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatalf("not a line of JSON: %s", lines.Text())
		}
		p.logs = append(p.logs, event)
		if event["message"] == "ready" {
			listeners, _ := event["listeners"].([]any)
			_, p.addr, _ = strings.Cut(fmt.Sprint(listeners[0]), "://")
			p.http = fmt.Sprint(event["http"])
			break
		}
	}
	if p.addr == "" {
		t.Fatalf("it never became ready: %v", p.logs)
	}
	go func() {
		defer close(p.lines)
		for lines.Scan() {
			p.lines <- lines.Text()
		}
	}()
	return p
}

// stop sends SIGTERM and expects an orderly end.
func (p *process) stop() string {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	var rest string
	for line := range p.lines {
		rest += line + "\n"
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("%v\n%s", err, rest)
	}
	return rest
}

func newClient(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestStartKeepsRecordsOverARestart(t *testing.T) {
	dir := t.TempDir()
	args := []string{"--override", "listeners=PLAINTEXT://127.0.0.1:0", "--override", "http.address=127.0.0.1:0"}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	p := start(t, dir, []string{"KAFKA_NUM_PARTITIONS=2", "CLUSTER_ID=4L6g3nShT-eMCtK--X86sw"}, args...)
	producer := newClient(t, p.addr)
	if err := producer.ProduceSync(ctx, &kgo.Record{Topic: "kept", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	producer.Close()
	for path, want := range map[string]string{"/readyz": "ok", "/livez": "ok", "/metrics": "gregor_partitions 2\n"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v %d, want %q in\n%s", path, err, resp.StatusCode, want, body)
		}
	}
	if out, errs, code := run(t, dir, nil, "health", "--override", "http.address="+p.http); code != 0 || !strings.Contains(out, "[+]metadata ok") {
		t.Errorf("health: %d %s %s", code, out, errs)
	}
	if rest := p.stop(); !strings.Contains(rest, `"stopped"`) {
		t.Errorf("the log ends with:\n%s", rest)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", ".kafka_cleanshutdown")); err != nil {
		t.Errorf("no marker of a clean shutdown: %v", err)
	}

	p = start(t, dir, nil, args...)
	if got := p.logs[len(p.logs)-1]["cluster"]; got != "4L6g3nShT-eMCtK--X86sw" {
		t.Errorf("cluster %v", got)
	}
	consumer := newClient(t, p.addr, kgo.ConsumeTopics("kept"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	fetches := consumer.PollFetches(ctx)
	if records := fetches.Records(); fetches.Err() != nil || len(records) != 1 || string(records[0].Value) != "v" {
		t.Fatalf("got %v, %v", records, fetches.Err())
	}
	consumer.Close()
	p.stop()
}

// TestStartWithAKRaftFile starts from a server.properties as Kafka ships it,
// after format as Kafka wants it.
func TestStartWithAKRaftFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "server.properties")
	err := os.WriteFile(path, []byte(`process.roles=broker,controller
node.id=7
controller.quorum.voters=7@localhost:9093
listeners=PLAINTEXT://127.0.0.1:0,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
log.dirs=`+filepath.Join(dir, "logs")+`
num.partitions=1
offsets.topic.replication.factor=1
log.retention.hours=168
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	out, errs, code := run(t, dir, nil, "format", "--standalone", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", path)
	if code != 0 || !strings.Contains(out, "Formatted log directory") {
		t.Fatalf("format: %d %s %s", code, out, errs)
	}
	if _, errs, code = run(t, dir, nil, "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", path); code == 0 || !strings.Contains(errs, "formatted") {
		t.Fatalf("second format: %d %s", code, errs)
	}
	if _, errs, code = run(t, dir, nil, "format", "--ignore-formatted", "--cluster-id=4L6g3nShT-eMCtK--X86sw", "-c", path); code != 0 {
		t.Fatalf("format --ignore-formatted: %d %s", code, errs)
	}
	p := start(t, dir, nil, path, "--override", "http.address=")
	ready := p.logs[len(p.logs)-1]
	if ready["cluster"] != "4L6g3nShT-eMCtK--X86sw" || ready["node"] != float64(7) || p.http != "" {
		t.Errorf("ready: %v", ready)
	}
	var named bool
	for _, l := range p.logs {
		named = named || strings.Contains(fmt.Sprint(l["keys"]), "num.network.threads")
	}
	if !named {
		t.Errorf("no line names the keys without effect: %v", p.logs)
	}
	p.stop()
}

// TestSecondSignalEndsAtOnce holds the shutdown up with a request of which only
// a part has arrived: the first signal waits for the rest, the second does not.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	p := start(t, t.TempDir(), nil, "--override", "listeners=PLAINTEXT://127.0.0.1:0", "--override", "http.address=")
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// An ApiVersions v0 request, so that the connection is known to be served,
	// then the first bytes of a frame.
	whole := []byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff}
	if _, err := conn.Write(append(whole, 0, 0, 0, 100, 0, 18)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	signal := func() {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	signal()
	if line := <-p.lines; !strings.Contains(line, "shutting down") {
		t.Fatalf("logged %s", line)
	}
	signal()
	for line := range p.lines {
		t.Errorf("it went on after the second signal: %s", line)
	}
	_ = p.cmd.Wait()
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v, not by the second signal", p.cmd.ProcessState)
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bad.properties")
	if err := os.WriteFile(path, []byte("num.partitions=1\nlog.segment.bytes=12 MB\nlog.retention.hour=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	busy := start(t, t.TempDir(), nil, "--override", "listeners=PLAINTEXT://127.0.0.1:0", "--override", "http.address=")
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"bad lines":                      {[]string{path}, []string{path + ":2: log.segment.bytes", path + ":3: log.retention.hour: unknown", "log.retention.hours"}},
		"no such file":                   {[]string{path + ".not"}, []string{"does not exist"}},
		"bad override":                   {[]string{"--override", "x"}, []string{"key=value"}},
		"three voters, no port for them": {[]string{"--override", "controller.quorum.voters=1@a:1,2@b:1,3@c:1"}, []string{"names no listener of controller.listener.names"}},
		"port in use":                    {[]string{"--override", "listeners=PLAINTEXT://" + busy.addr}, []string{"--override: listeners: listener PLAINTEXT", "address already in use"}},
		"unknown flag":                   {[]string{"--nonsense"}, []string{"unknown flag"}},
		"two files":                      {[]string{path, path}, []string{"accepts at most 1"}},
		"tls": {
			[]string{"--override", "listeners=SSL://127.0.0.1:0", "--override", "security.inter.broker.protocol=SSL"}, []string{"only PLAINTEXT"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			work := t.TempDir()
			_, errs, code := run(t, work, nil, append([]string{"start"}, tc.args...)...)
			if code != 1 {
				t.Errorf("exit code %d", code)
			}
			for _, w := range tc.want {
				if !strings.Contains(errs, w) {
					t.Errorf("%q is not in:\n%s", w, errs)
				}
			}
		})
	}
	busy.stop()
}

func TestConfigCommand(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(path, []byte("\nnum.partitions=5\nssl.key.password=hunter2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, errs, code := run(t, dir, []string{"KAFKA_LOG_RETENTION_HOURS=3"}, "config", path, "--override", "min.insync.replicas=2")
	if code != 0 {
		t.Fatal(errs)
	}
	lines := map[string]string{}
	for line := range strings.Lines(out) {
		setting, origin, _ := strings.Cut(strings.TrimSpace(line), "  # ")
		lines[strings.TrimSpace(setting)] = origin
	}
	for setting, origin := range map[string]string{
		"num.partitions=5":             path + ":2",
		"log.retention.hours=3":        "environment variable KAFKA_LOG_RETENTION_HOURS",
		"min.insync.replicas=2":        "--override",
		"log.segment.bytes=1073741824": "default",
		"http.address=127.0.0.1:9644":  "default",
		"# broker.rack is not set":     "default",
	} {
		if got, ok := lines[setting]; !ok || got != origin {
			t.Errorf("%s: origin %q, want %q", setting, got, origin)
		}
	}
	if strings.Contains(out, "hunter2") {
		t.Error("a password is shown")
	}
	if len(lines) < 300 {
		t.Errorf("only %d keys", len(lines))
	}
	out, _, _ = run(t, dir, nil, "config", "--set", "--json", path)
	var rows []settingRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 2 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestVersionAndUUID(t *testing.T) {
	if out, _, code := run(t, t.TempDir(), nil, "version"); code != 0 || !strings.HasPrefix(out, "gregor ") {
		t.Errorf("version: %d %q", code, out)
	}
	if out, _, code := run(t, t.TempDir(), nil, "random-uuid"); code != 0 || len(strings.TrimSpace(out)) != 22 {
		t.Errorf("random-uuid: %d %q", code, out)
	}
}
