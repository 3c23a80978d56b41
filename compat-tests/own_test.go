package compat

import (
	"os"
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// ownBroker starts a broker that no other test uses, with more properties, so
// that it can be killed.
func ownBroker(t *testing.T, name string, conf ...string) *harness.Broker {
	t.Helper()
	dir, err := os.MkdirTemp(world.dir, name+"-own-")
	if err != nil {
		t.Fatal(err)
	}
	var b *harness.Broker
	if name == "kafka" {
		b, err = harness.Kafka(dir, conf...)
	} else {
		var bin string
		if bin, err = harness.BuildGregor(dir); err == nil {
			b, err = harness.Gregor(bin, dir, conf...)
		}
	}
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(b.Kill)
	return b
}

// onOwn runs f as a subtest against a broker of its own of each kind.
func onOwn(t *testing.T, conf []string, f func(t *testing.T, b *harness.Broker)) {
	t.Helper()
	for _, name := range []string{"kafka", "gregor"} {
		if *brokerFlag != name && *brokerFlag != "both" {
			continue
		}
		t.Run(name, func(t *testing.T) { f(t, ownBroker(t, name, conf...)) })
	}
}
