package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

const kgoPackage = "github.com/twmb/franz-go/pkg/kgo"

// franzGoVersion is the version that compat-tests itself uses.
func franzGoVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/twmb/franz-go" {
				return d.Version
			}
		}
	}
	return "latest"
}

// franzGo runs the tests of franz-go's client that talk to a broker. They come
// with the module; a module of their own keeps what only they need out of ours.
func franzGo(e env, tests []entry) error {
	version := franzGoVersion()
	dir, err := harness.Installed("suite-franz-go", []string{version, "2"}, func(dir string) error {
		for _, args := range [][]string{
			{"mod", "init", "suite"},
			{"get", "github.com/twmb/franz-go@" + version},
			{"get", "-t", kgoPackage},
			{"test", "-c", "-o", "kgo.test", kgoPackage},
		} {
			if err := harness.Run(dir, "go", args...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	list := exec.Command("go", "list", "-f", "{{.Dir}}", kgoPackage)
	list.Dir = dir
	source, err := list.Output()
	if err != nil {
		return fmt.Errorf("where %s lies: %w", kgoPackage, err)
	}
	var names []string
	for _, t := range tests {
		names = append(names, regexp.QuoteMeta(t.name))
	}
	cmd := exec.Command("go", "tool", "test2json", "-t", filepath.Join(dir, "kgo.test"), "-test.v=test2json",
		"-test.timeout=8m", "-test.parallel=8", "-test.run=^("+strings.Join(names, "|")+")$")
	cmd.Dir = strings.TrimSpace(string(source))
	cmd.Env = append(os.Environ(), "KGO_SEEDS="+e.addr, "KGO_TEST_RF=1", "KGO_TEST_RECORDS=50000", "KGO_TEST_MAX_TOPIC_PARTS=7", "KGO_LOG_LEVEL=none")
	out, _ := cmd.Output() // a failed test is in the output
	for _, r := range goResults(out) {
		e.report(r)
	}
	return nil
}

// goResults reads the events of go test. Only tests without subtests count, so
// that nothing counts twice.
func goResults(events []byte) []result {
	type test struct {
		state  string
		out    strings.Builder
		parent bool
	}
	tests := map[string]*test{}
	var order []string
	for line := range bytes.Lines(events) {
		var ev struct{ Action, Test, Output string }
		if json.Unmarshal(line, &ev) != nil || ev.Test == "" {
			continue
		}
		t := tests[ev.Test]
		if t == nil {
			t = &test{}
			tests[ev.Test] = t
			order = append(order, ev.Test)
			for p := ev.Test; strings.Contains(p, "/"); {
				p = p[:strings.LastIndexByte(p, '/')]
				if up := tests[p]; up != nil {
					up.parent = true
				}
			}
		}
		switch ev.Action {
		case "output":
			if t.out.Len() < 4000 {
				t.out.WriteString(ev.Output)
			}
		case "pass", "fail", "skip":
			t.state = ev.Action
		}
	}
	var out []result
	for _, name := range order {
		t := tests[name]
		if t.parent && t.state != "fail" {
			continue
		}
		r := result{name: name, detail: t.out.String()}
		switch t.state {
		case "pass":
			r.state = passed
		case "skip":
			r.state = skipped
		default:
			r.state = failed // failed, or never ended
		}
		out = append(out, r)
	}
	return out
}
