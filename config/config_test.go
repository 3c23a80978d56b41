package config

import (
	"errors"
	"strings"
	"testing"
)

// Every default must be a value that its own key accepts: nobody should be
// able to write a default into a file and be refused.
func TestDefaultsParseAndValidate(t *testing.T) {
	for _, keys := range [][]Key{brokerKeys, topicKeys, entityKeys} {
		for i := range keys {
			k := &keys[i]
			if k.Null {
				continue
			}
			if k.Name == "controller.quorum.voters" || k.Name == "controller.quorum.bootstrap.servers" {
				continue
			}
			v, err := k.Parse(k.Default)
			if err != nil {
				t.Errorf("%s %s: %v", k.Entity, k.Name, err)
			}
			if v.Raw != k.Default {
				t.Errorf("%s: default %q prints as %q", k.Name, k.Default, v.Raw)
			}
		}
	}
	if len(brokerKeys) < 360 || len(topicKeys) < 34 {
		t.Errorf("%d broker keys, %d topic keys", len(brokerKeys), len(topicKeys))
	}
}

func TestDefaultsBuild(t *testing.T) {
	v, warnings, err := Build()
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if v.NodeID() != 1 || v.LogDirs()[0] != "data" || !v.HasRole("broker") {
		t.Error(v.NodeID(), v.LogDirs())
	}
	l, err := v.Listeners()
	if err != nil || len(l) != 1 || l[0] != (Listener{"PLAINTEXT", "", 9092, "PLAINTEXT"}) {
		t.Error(l, err)
	}
}

func file(lines ...string) Source {
	s := Source{Name: "server.properties"}
	for i, l := range lines {
		k, v, _ := strings.Cut(l, "=")
		s.Lines = append(s.Lines, Line{k, v, i + 1})
	}
	return s
}

func TestBuildErrorsNameFileLineAndKey(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"log.retention.hour=3", "server.properties:1: log.retention.hour: unknown configuration key; did you mean log.retention.hours?"},
		{"nonsense=1", "server.properties:1: nonsense: unknown configuration key"},
		{"num.partitions=many", "server.properties:1: num.partitions: Invalid value many for configuration num.partitions: Not a number of type INT"},
		{"num.partitions=0", "server.properties:1: num.partitions: Invalid value 0 for configuration num.partitions: Value must be at least 1"},
		{"node.id=99999999999", "server.properties:1: node.id: Invalid value 99999999999 for configuration node.id: Not a number of type INT"},
		{"auto.create.topics.enable=yes", "server.properties:1: auto.create.topics.enable: Invalid value yes for configuration auto.create.topics.enable: Expected value to be either true or false"},
		{"listeners=PLAINTEXT://:99999", "server.properties:1: listeners: the port of PLAINTEXT://:99999 is not between 0 and 65535"},
		{"listeners=FOO://:9092", "server.properties:1: listeners: No security protocol defined for listener FOO"},
		{"log.retention.ms=0", "server.properties:1: log.retention.ms: log.retention.ms must be unlimited (-1) or, equal or greater than 1"},
		{"listener.name.a.nonsense=1", "server.properties:1: listener.name.a.nonsense: unknown configuration key"},
		{"advertised.listeners=PLAINTEXT://0.0.0.0:9092", "server.properties:1: advertised.listeners: advertised.listeners cannot use the nonroutable meta-address 0.0.0.0. Use a routable IP address."},
	} {
		_, _, err := Build(file(c.line))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.line, err, c.want)
		}
		var le *LineError
		if !errors.As(err, &le) {
			t.Errorf("%s: no LineError", c.line)
		}
	}
}
