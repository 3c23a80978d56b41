package storage

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestDumpLogSegments has Kafka's own tool read every kind of file, after a clean shut-down and after a recovery. It needs
// the jars of Kafka's distribution: GREGOR_KAFKA_LIBS names their directory. compat-tests runs the tool against a broker.
func TestDumpLogSegments(t *testing.T) {
	libs := os.Getenv("GREGOR_KAFKA_LIBS")
	if libs == "" {
		t.Skip("GREGOR_KAFKA_LIBS is not set")
	}
	for name, clean := range map[string]bool{"clean": true, "recovered": false} {
		t.Run(name, func(t *testing.T) { testDump(t, libs, clean) })
	}
}

func testDump(t *testing.T, libs string, clean bool) {
	r := newRig(7)
	r.cfg = DefaultLogConfig()
	r.cfg.SegmentBytes, r.cfg.IndexIntervalBytes = 20_000, 1000
	root := t.TempDir()
	if err := r.openDirs(vfs.OS{}, root); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if err := r.append(); err != nil {
			t.Fatal(err)
		}
		r.now = r.now.Add(time.Duration(r.rng.IntN(300)) * time.Millisecond)
	}
	r.m.AwaitIdle()
	if !clean {
		r.m.unlock() // the process ends here
		if err := r.openDirs(vfs.OS{}, root); err != nil {
			t.Fatal(err)
		}
		if err := r.model.compare(r.l); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, rigPartition.String(), "0*"))
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	list := strings.Join(files, ",")
	run := func(args ...string) string {
		cmd := exec.Command("java", append([]string{"-cp", libs + "/*", "org.apache.kafka.tools.DumpLogSegments", "--files", list}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	check := func(out string, want ...string) {
		t.Helper()
		for _, bad := range []string{"Mismatches", "Exception", "mismatch", "isvalid: false", "Corrupt", "not found", "out of order"} {
			if i := strings.Index(out, bad); i >= 0 {
				t.Errorf("%s: %s", bad, out[max(0, i-500):min(len(out), i+1000)])
			}
		}
		for line := range strings.Lines(out) {
			// The tool finds -1 before every first batch whose offset is not 0.
			if strings.Contains(line, "is followed by") && !strings.HasPrefix(strings.TrimSpace(line), "-1 ") {
				t.Error(line)
			}
		}
		for _, good := range want {
			if !strings.Contains(out, good) {
				t.Errorf("no %q in the output", good)
			}
		}
	}
	check(run("--index-sanity-check"), "passed sanity check", "producerId: 2", "currentTxnFirstOffset: Optional", "lastStableOffset")
	check(run("--deep-iteration", "--print-data-log"), "endTxnMarker: ABORT", "endTxnMarker: COMMIT", "offset: ", "timestamp: ", "position: ")
}
