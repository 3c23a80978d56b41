package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// librdkafkaPackage carries librdkafka's sources with their tests; the Debian
// package has them too, but not in this version.
const librdkafkaPackage = "@confluentinc/kafka-javascript@1.10.1"

// buildLibrdkafka builds librdkafka and its test runner.
func buildLibrdkafka() (string, error) {
	return harness.Installed("suite-librdkafka", []string{librdkafkaPackage, "3"}, func(dir string) error {
		npm, err := harness.Need("npm", "librdkafka's sources")
		if err != nil {
			return err
		}
		for _, tool := range []string{"gcc", "g++", "make", "tar"} {
			if _, err := harness.Need(tool, "librdkafka's tests"); err != nil {
				return err
			}
		}
		if err := harness.Run(dir, npm, "pack", "--silent", librdkafkaPackage); err != nil {
			return err
		}
		packs, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
		if err != nil || len(packs) != 1 {
			return fmt.Errorf("packages %v: %w", packs, err)
		}
		if err := harness.Run(dir, "tar", "xzf", packs[0], "--strip-components=2", "package/deps/librdkafka"); err != nil {
			return err
		}
		src := filepath.Join(dir, "librdkafka")
		if err := adaptLibrdkafka(src); err != nil {
			return err
		}
		env, err := librdkafkaHeaders(dir)
		if err != nil {
			return err
		}
		jobs := fmt.Sprintf("-j%d", runtime.NumCPU())
		for _, step := range []string{
			"./configure --disable-gssapi --disable-curl", "make " + jobs + " -C src", "make " + jobs + " -C src-cpp", "make " + jobs + " -C tests build",
		} {
			if err := harness.Run(src, "nice", "-n", "10", "sh", "-c", env+step); err != nil {
				return err
			}
		}
		return nil
	})
}

// librdkafkaHeaders unpacks the headers that the build needs beside the
// compiler's, without installing anything: Debian's packages are archives.
func librdkafkaHeaders(dir string) (string, error) {
	if harness.Run(dir, "sh", "-c", `printf '#include <zstd.h>\n#include <rapidjson/document.h>\n' | g++ -x c++ -fsyntax-only -`) == nil {
		return "", nil
	}
	if _, err := harness.Need("apt-get", "headers of zstd and rapidjson"); err != nil {
		return "", err
	}
	if err := harness.Run(dir, "sh", "-c", "apt-get download -qq libzstd-dev rapidjson-dev && for d in *.deb; do dpkg -x $d sysroot; done"); err != nil {
		return "", &harness.MissingError{What: "headers of zstd and rapidjson", Reason: err.Error()}
	}
	lib, err := filepath.Glob(filepath.Join(dir, "sysroot/usr/lib/*/libzstd.a"))
	if err != nil || len(lib) != 1 {
		return "", fmt.Errorf("libzstd.a: %v %w", lib, err)
	}
	libs := filepath.Dir(lib[0])
	return fmt.Sprintf("CPATH=%s/sysroot/usr/include LIBRARY_PATH=%s PKG_CONFIG_PATH=%s/pkgconfig ", dir, libs, libs), nil
}

var (
	threeReplicas = regexp.MustCompile(`(test_create_topic_wait_exists\([^;]*), 3, 5000\);`)
	aclCase       = regexp.MustCompile(`(?m)^( *)(do_test_[A-Za-z]*Acls\(rk, mainq)`)
)

// adaptLibrdkafka changes what would need a cluster or an authorizer: topics
// with three replicas get the broker's default, ACL cases run only if asked for.
func adaptLibrdkafka(src string) error {
	for file, edit := range map[string]func(string) string{
		"0103-transactions.c": func(s string) string { return threeReplicas.ReplaceAllString(s, "$1, -1, 5000);") },
		"0081-admin.c":        func(s string) string { return aclCase.ReplaceAllString(s, `${1}if (test_getenv("ACLS", NULL)) $2`) },
	} {
		path := filepath.Join(src, "tests", file)
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(edit(string(b))), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// librdkafka runs librdkafka's test runner, with the given protocol for groups.
func librdkafka(protocol string) func(env, []entry) error {
	return func(e env, tests []entry) error { return runLibrdkafka(e, tests, protocol) }
}

// runLibrdkafka runs one process for each test.
func runLibrdkafka(e env, tests []entry, protocol string) error {
	dir, err := buildLibrdkafka()
	if err != nil {
		return err
	}
	// Each run has a copy of the runner's directory: its configuration lies in it.
	work := filepath.Join(e.dir, "tests")
	if err := harness.Run(e.dir, "cp", "-r", filepath.Join(dir, "librdkafka", "tests"), work); err != nil {
		return err
	}
	conf := "bootstrap.servers=" + e.addr + "\ntest.topic.prefix=rdk\ntest.topic.random=true\ntest.timeout.multiplier=2\n"
	if err := os.WriteFile(filepath.Join(work, "test.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	tools, err := kafkaPath(e.dir)
	if err != nil {
		return err
	}
	lib := filepath.Join(dir, "librdkafka")
	env := append(os.Environ(), "KAFKA_PATH="+tools, "BROKERS="+e.addr, "TEST_KAFKA_VERSION=4.3.1", "TEST_CONSUMER_GROUP_PROTOCOL="+protocol,
		"LD_LIBRARY_PATH="+filepath.Join(lib, "src")+":"+filepath.Join(lib, "src-cpp"))
	// The longest first, so that the others run beside it.
	slices.SortStableFunc(tests, func(a, b entry) int { return cmp.Compare(patience(b.name), patience(a.name)) })
	slots := make(chan struct{}, e.jobs)
	var wg sync.WaitGroup
	for _, t := range tests {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r, crashed := librdkafkaTest(work, env, t.name)
			if crashed {
				// The client's own fault, whatever it was told. 0018 does so in one
				// of twenty runs, where unsubscribe and close overtake each other.
				first, _, _ := strings.Cut(r.detail, "\n")
				r, _ = librdkafkaTest(work, env, t.name)
				r.note = "its first run crashed: " + first
			}
			e.report(r)
		})
	}
	wg.Wait()
	return nil
}

// patience is how long a test may take. That of the admin client calls
// everything twice, with a producer and with a consumer, and takes five minutes
// on an idle machine, nearly all of which it sleeps or waits for sessions to end.
func patience(test string) time.Duration {
	if test == "0081" {
		return 15 * time.Minute
	}
	return 5 * time.Minute
}

// kafkaPath is a directory like an installation of Apache Kafka, as far as the
// tests call it: bin/kafka-topics.sh.
func kafkaPath(dir string) (string, error) {
	libs, err := harness.KafkaJars()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "kafka", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	script := fmt.Sprintf("#!/bin/sh\nexec java %s -cp '%s/*' org.apache.kafka.tools.TopicCommand \"$@\"\n", strings.Join(harness.JavaFlags, " "), libs)
	return filepath.Dir(bin), os.WriteFile(filepath.Join(bin, "kafka-topics.sh"), []byte(script), 0o755)
}

var (
	colours  = regexp.MustCompile(`\x1b(\[[0-9;]*m|\(B)`)
	verdicts = regexp.MustCompile(`=+ Test (\S+) (PASSED|SKIPPED|FAILED) =+`)
	reasons  = regexp.MustCompile(`(?m)^.*(### Test|TEST FAILURE|_FAIL|assert|failed:).*$`)
)

// librdkafkaTest runs a test by its number, or a part of it: number:part. It reports
// whether the client violated its own memory.
func librdkafkaTest(work string, env []string, test string) (r result, crashed bool) {
	number, part, _ := strings.Cut(test, ":")
	ctx, cancel := context.WithTimeout(context.Background(), patience(test))
	defer cancel()
	cmd := exec.CommandContext(ctx, "./test-runner", "-L", "-K", "-p1")
	cmd.Dir, cmd.Env = work, append(slices.Clone(env), "TESTS="+number)
	if part != "" {
		cmd.Env = append(cmd.Env, "SUBTESTS="+part)
	}
	raw, err := cmd.CombinedOutput()
	out := colours.ReplaceAllString(string(raw), "")
	r = result{name: test, state: skipped}
	verdict := ""
	for _, m := range verdicts.FindAllStringSubmatch(out, -1) {
		if !strings.HasPrefix(m[1], number) {
			continue // the runner itself
		}
		r.name = m[1]
		if verdict != "FAILED" {
			verdict = m[2]
		}
	}
	switch {
	case err != nil || verdict == "FAILED" || verdict == "":
		r.state = failed
		lines := reasons.FindAllString(out, 8)
		if len(lines) == 0 && len(out) > 1500 {
			out = out[len(out)-1500:]
		}
		r.detail = fmt.Sprintf("%v\n%s", err, strings.Join(lines, "\n"))
		if len(lines) == 0 {
			r.detail += out
		}
	case verdict == "PASSED":
		r.state = passed
	}
	if cmd.ProcessState == nil {
		return r, false // it did not start
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return r, ok && status.Signaled() && status.Signal() == syscall.SIGSEGV
}
