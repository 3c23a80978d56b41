package compat

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// kcat runs kcat to its end and returns what it printed.
func kcat(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	bin, err := harness.Kcat()
	if err != nil {
		missing(t, err)
	}
	return program(t, exec.Command(bin, args...), stdin)
}

// program runs a command to its end within a minute and returns its standard
// output; a failure shows both outputs.
func program(t *testing.T, cmd *exec.Cmd, stdin string) string {
	t.Helper()
	out, errOut, err := tryProgram(cmd, stdin)
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", strings.Join(cmd.Args, " "), err, out, errOut)
	}
	return out
}

// toolTimeout ends a tool that hangs. A JVM that starts and asks one thing takes
// a second or two, and more than a minute on a machine with fifty times more to
// do than it can.
const toolTimeout = 4 * time.Minute

func tryProgram(cmd *exec.Cmd, stdin string) (out, errOut string, err error) {
	var o, e strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	watchdog := time.AfterFunc(toolTimeout, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	err = cmd.Wait()
	return o.String(), e.String(), err
}

// TestKcat: produce, consume, list and query, as its users do.
func TestKcat(t *testing.T) {
	needAll(t)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
			t.Run("produce "+codec, func(t *testing.T) {
				topic := createTopic(t, b, 3)
				var in, want strings.Builder
				for i := range 300 {
					fmt.Fprintf(&in, "key%d:value %d\n", i, i)
					fmt.Fprintf(&want, "%d|key%d|value %d|trace=abc,empty=\n", i, i, i)
				}
				kcat(t, in.String(), "-b", b.Addr, "-P", "-t", topic, "-p", "1", "-K:", "-z", codec, "-H", "trace=abc", "-H", "empty=")
				got := kcat(t, "", "-b", b.Addr, "-C", "-t", topic, "-p", "1", "-o", "beginning", "-e", "-q", "-f", "%o|%k|%s|%h\n")
				if got != want.String() {
					t.Fatalf("read\n%.600s\nwant\n%.600s", got, want.String())
				}
			})
		}
		t.Run("nulls", func(t *testing.T) {
			topic := createTopic(t, b, 1)
			kcat(t, ":no key\nno value:\n", "-b", b.Addr, "-P", "-t", topic, "-K:", "-Z")
			got := kcat(t, "", "-b", b.Addr, "-C", "-t", topic, "-e", "-q", "-Z", "-f", "%k/%K %s/%S\n")
			if want := "NULL/-1 no key/6\nno value/8 NULL/-1\n"; got != want {
				t.Fatalf("read %q, want %q", got, want)
			}
		})
		t.Run("acks", func(t *testing.T) {
			for _, acks := range []string{"0", "1", "all"} {
				topic := createTopic(t, b, 1)
				kcat(t, "a\nb\nc\n", "-b", b.Addr, "-P", "-t", topic, "-X", "acks="+acks)
				if got := kcat(t, "", "-b", b.Addr, "-C", "-t", topic, "-c", "3", "-q", "-f", "%o%s "); got != "0a 1b 2c " {
					t.Fatalf("acks=%s: read %q", acks, got)
				}
			}
		})
		t.Run("a file of 1 MB", func(t *testing.T) {
			topic := createTopic(t, b, 1)
			want := strings.Repeat("0123456789abcde\n", 62_500)
			kcat(t, "", "-b", b.Addr, "-P", "-t", topic, "-X", "message.max.bytes=2000000", tempFile(t, "big", want))
			if got := kcat(t, "", "-b", b.Addr, "-C", "-t", topic, "-c", "1", "-q", "-f", "%s"); got != want {
				t.Fatalf("read %d bytes, want %d", len(got), len(want))
			}
		})
		t.Run("offsets and timestamps", func(t *testing.T) {
			topic := createTopic(t, b, 1)
			var recs []harness.Record
			base := time.Now().UnixMilli() - 100_000
			for i := range 50 {
				recs = append(recs, harness.Record{Topic: topic, Timestamp: base + int64(i)*1000, Value: fmt.Appendf(nil, "v%d", i)})
			}
			if _, err := harness.Produce(franz(t, b), t.TempDir(), recs, "-"); err != nil {
				t.Fatal(err)
			}
			for at, want := range map[int64]string{base: "0", base + 20_500: "21", base + 49_001: "-1", -1: "50", -2: "0"} {
				got := kcat(t, "", "-b", b.Addr, "-Q", "-t", fmt.Sprintf("%s:0:%d", topic, at))
				if line := fmt.Sprintf("%s [0] offset %s\n", topic, want); got != line {
					t.Errorf("query %d answered %q, want %q", at, got, line)
				}
			}
			if got := kcat(t, "", "-b", b.Addr, "-C", "-t", topic, "-o", fmt.Sprintf("s@%d", base+47_000), "-e", "-q", "-f", "%s@%T "); got != fmt.Sprintf("v47@%d v48@%d v49@%d ", base+47_000, base+48_000, base+49_000) {
				t.Errorf("from a timestamp: %q", got)
			}
			if got := kcat(t, "", "-b", b.Addr, "-C", "-t", topic, "-o", "-2", "-e", "-q", "-f", "%s "); got != "v48 v49 " {
				t.Errorf("the last two: %q", got)
			}
		})
		t.Run("list", func(t *testing.T) {
			topic := createTopic(t, b, 2)
			var l struct {
				ControllerID int `json:"controllerid"`
				Brokers      []struct {
					ID   int
					Name string
				}
				Topics []struct {
					Topic      string
					Partitions []struct {
						Partition, Leader int
						Replicas, ISRs    []struct{ ID int }
					}
				}
			}
			if err := json.Unmarshal([]byte(kcat(t, "", "-b", b.Addr, "-L", "-J", "-t", topic)), &l); err != nil {
				t.Fatal(err)
			}
			if len(l.Brokers) != 1 || l.Brokers[0].ID != 1 || l.Brokers[0].Name != b.Addr {
				t.Errorf("brokers %+v, want 1 at %s", l.Brokers, b.Addr)
			}
			if len(l.Topics) != 1 || l.Topics[0].Topic != topic || len(l.Topics[0].Partitions) != 2 || l.Topics[0].Partitions[1].Leader != 1 ||
				len(l.Topics[0].Partitions[1].Replicas) != 1 || len(l.Topics[0].Partitions[1].ISRs) != 1 {
				t.Errorf("topics %+v", l.Topics)
			}
		})
		t.Run("an unknown topic", func(t *testing.T) {
			bin, err := harness.Kcat()
			if err != nil {
				missing(t, err)
			}
			_, errOut, err := tryProgram(exec.Command(bin, "-b", b.Addr, "-C", "-t", topicName(t), "-e", "-X", "allow.auto.create.topics=false"), "")
			if err == nil || !strings.Contains(errOut, "Unknown topic or partition") {
				t.Fatalf("%v: %s", err, errOut)
			}
		})
		t.Run("an offset that is not there", func(t *testing.T) {
			topic := createTopic(t, b, 1)
			out := kcat(t, "", "-b", b.Addr, "-C", "-t", topic, "-o", "100", "-e", "-q", "-X", "auto.offset.reset=earliest")
			if out != "" {
				t.Fatalf("read %q of an empty topic", out)
			}
		})
	})
}
