package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
)

func logWith(t *testing.T, lines ...config.Line) (*bytes.Buffer, *config.Values, []config.Warning) {
	t.Helper()
	v, warnings, err := config.Build(config.Source{Name: "f", Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	return &bytes.Buffer{}, v, warnings
}

func TestLogIsJSONAwayFromATerminal(t *testing.T) {
	out, v, warnings := logWith(t, config.Line{Key: "num.io.threads", Value: "8"}, config.Line{Key: "num.network.threads", Value: "3"},
		config.Line{Key: "zookeeper.connect", Value: "zk:2181"})
	log, _, err := newLogger(out, v)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Msg("not shown at the level info")
	logWarnings(log, warnings)
	var events []map[string]any
	for line := range strings.Lines(out.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		events = append(events, e)
	}
	if len(events) != 2 {
		t.Fatalf("got %d lines, want one for each warning and one for all keys without effect:\n%s", len(events), out)
	}
	if events[0]["key"] != "zookeeper.connect" || events[0]["level"] != "warn" {
		t.Errorf("got %v", events[0])
	}
	if events[1]["keys"] != "num.io.threads, num.network.threads" {
		t.Errorf("got %v", events[1])
	}
}

func TestLogForPeople(t *testing.T) {
	out, v, _ := logWith(t, config.Line{Key: "log.format", Value: "console"}, config.Line{Key: "log.level", Value: "debug"})
	log, _, err := newLogger(out, v)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Int("n", 1).Msg("hello")
	if got := out.String(); !strings.Contains(got, "DBG hello n=1") || strings.Contains(got, "{") {
		t.Errorf("got %q", got)
	}
}

func TestLevelChangesWhileRunning(t *testing.T) {
	out, v, _ := logWith(t)
	log, gate, err := newLogger(out, v)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Msg("one")
	gate.SetLevel(zerolog.DebugLevel)
	log.Debug().Msg("two")
	gate.SetLevel(zerolog.ErrorLevel)
	log.Warn().Msg("three")
	log.Error().Msg("four")
	if got := out.String(); strings.Contains(got, "one") || !strings.Contains(got, "two") || strings.Contains(got, "three") || !strings.Contains(got, "four") {
		t.Error(got)
	}
}
