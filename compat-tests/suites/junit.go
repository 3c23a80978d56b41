package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// kafkaJUnit runs methods of Apache Kafka's integration tests of its own
// clients. A class put before theirs in the class path replaces the cluster
// that they would start by the broker at an address. They empty that broker, so
// it has to be theirs alone.
func kafkaJUnit(e env, tests []entry) error {
	java, err := harness.Need("java", "Apache Kafka's JUnit tests")
	if err != nil {
		return err
	}
	javac, err := harness.Need("javac", "Apache Kafka's JUnit tests")
	if err != nil {
		return err
	}
	libs, err := harness.JUnitJars()
	if err != nil {
		return err
	}
	sources, err := filepath.Glob(filepath.Join(harness.Root(), "java", "junit", "*.java"))
	if err != nil {
		return err
	}
	inputs := []string{libs}
	for _, path := range sources {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		inputs = append(inputs, string(b))
	}
	classes, err := harness.Installed("suite-kafka-junit", inputs, func(dir string) error {
		if err := harness.Run(dir, javac, append([]string{"-nowarn", "-d", dir, "-cp", libs + "/*"}, sources...)...); err != nil {
			return err
		}
		// How JUnit finds the listener.
		services := filepath.Join(dir, "META-INF", "services")
		if err := os.MkdirAll(services, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(services, "org.junit.platform.launcher.LauncherSessionListener"), []byte("gregor.OneReplica\n"), 0o644)
	})
	if err != nil {
		return err
	}
	reports := filepath.Join(e.dir, "reports")
	var selected strings.Builder
	for _, t := range tests {
		fmt.Fprintf(&selected, "--select-method\n\"%s\"\n", t.name)
	}
	file := filepath.Join(e.dir, "selected")
	if err := os.WriteFile(file, []byte(selected.String()), 0o644); err != nil {
		return err
	}
	cmd := exec.Command(java, "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+EnableDynamicAgentLoading",
		"-Djava.io.tmpdir="+e.dir, "-Dgregor.bootstrap="+e.addr, "-cp", classes+":"+libs+"/*",
		"org.junit.platform.console.ConsoleLauncher", "execute", "@"+file, "--include-engine", "junit-jupiter",
		"--details=none", "--disable-banner", "--disable-ansi-colors", "--reports-dir", reports,
		"--config", "junit.jupiter.execution.timeout.default=60s")
	cmd.Dir = e.dir
	watchdog := time.AfterFunc(20*time.Minute, func() { _ = cmd.Process.Kill() })
	out, runErr := cmd.CombinedOutput() // a failed test is in the report
	watchdog.Stop()
	raw, err := os.ReadFile(filepath.Join(reports, "TEST-junit-jupiter.xml"))
	if err != nil {
		return fmt.Errorf("no report: %w, %w\n%.2000s", err, runErr, out)
	}
	return junitResults(raw, e.report)
}

func junitResults(raw []byte, report func(result)) error {
	type outcome struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	var suite struct {
		Cases []struct {
			Class   string   `xml:"classname,attr"`
			Name    string   `xml:"name,attr"`
			Failure *outcome `xml:"failure"`
			Error   *outcome `xml:"error"`
			Skipped *outcome `xml:"skipped"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal(raw, &suite); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	for _, c := range suite.Cases {
		r := result{name: c.Class[strings.LastIndexByte(c.Class, '.')+1:] + "#" + c.Name}
		switch {
		case c.Failure != nil || c.Error != nil:
			o := c.Failure
			if o == nil {
				o = c.Error
			}
			r.state, r.detail = failed, fmt.Sprintf("%.300s\n%.1200s", o.Message, o.Text)
		case c.Skipped != nil:
			r.state, r.detail = skipped, fmt.Sprintf("%.200s", c.Skipped.Text)
		}
		report(r)
	}
	return nil
}
