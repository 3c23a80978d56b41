package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadConfigPrecedence(t *testing.T) {
	path := writeFile(t, "server.properties", "num.partitions=2\nlog.retention.hours=1\nnum.io.threads=4\n")
	v, warnings, err := readConfig(path,
		[]string{"num.partitions=4"},
		[]string{"KAFKA_NUM_PARTITIONS=3", "KAFKA_LOG_RETENTION_HOURS=2", "KAFKA_SOMETHING_ELSE=1", "HOME=/"})
	if err != nil {
		t.Fatal(err)
	}
	if n, o := v.Int("num.partitions"), v.Origin("num.partitions").String(); n != 4 || o != "--override" {
		t.Errorf("num.partitions: got %d from %s", n, o)
	}
	if n, o := v.Int("log.retention.hours"), v.Origin("log.retention.hours").String(); n != 2 || o != "environment variable KAFKA_LOG_RETENTION_HOURS" {
		t.Errorf("log.retention.hours: got %d from %s", n, o)
	}
	if n, o := v.Int("num.io.threads"), v.Origin("num.io.threads").String(); n != 4 || o != path+":3" {
		t.Errorf("num.io.threads: got %d from %s", n, o)
	}
	var unknown, unused bool
	for _, w := range warnings {
		unknown = unknown || w.Key == "something.else" && !w.Unused
		unused = unused || w.Key == "num.io.threads" && w.Unused
	}
	if !unknown || !unused {
		t.Errorf("warnings: %+v", warnings)
	}
}

func TestReadConfigErrorsNamePlaceAndKey(t *testing.T) {
	path := writeFile(t, "server.properties", "\nnum.partitions=many\nnum.partition=3\nlog.segment.bytes=1\n")
	_, _, err := readConfig(path, []string{"listeners=nonsense"}, []string{"KAFKA_NUM_PARTITIONS=0"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		path + ":2: num.partitions: ", path + ":3: num.partition: unknown configuration key", path + ":4: log.segment.bytes: ",
		"--override: listeners: ", "environment variable KAFKA_NUM_PARTITIONS: num.partitions: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}

	for name, call := range map[string]func() error{
		"does not exist": func() error { _, _, err := readConfig(path+"x", nil, nil); return err },
		"key=value":      func() error { _, _, err := readConfig("", []string{"=1"}, nil); return err },
		"line 1":         func() error { _, _, err := readConfig(writeFile(t, "p", `a=\u1`), nil, nil); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}
