package node

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
)

// box is a machine of that name with one address.
func box(name, address string, names map[string]string) self {
	return self{
		hostname:  func() (string, error) { return name, nil },
		addresses: func() ([]net.Addr, error) { return []net.Addr{&net.IPNet{IP: net.ParseIP(address)}}, nil },
		lookup: func(host string) ([]net.IP, error) {
			if ip := net.ParseIP(names[host]); ip != nil {
				return []net.IP{ip}, nil
			}
			return nil, errors.New("unknown host")
		},
	}
}

// TestPlanQuorum reads the forms in which Kafka's files describe a quorum.
func TestPlanQuorum(t *testing.T) {
	three := "controller.quorum.voters=1@a:9093,2@b:9093,3@c:9093"
	listeners := "listeners=PLAINTEXT://:9092,CONTROLLER://:9093"
	for name, tc := range map[string]struct {
		lines []string
		want  string
		err   string
	}{
		"nothing":               {nil, "alone", ""},
		"its own file":          {[]string{"node.id=1", listeners, "controller.quorum.bootstrap.servers=localhost:9093"}, "listen box:9093? member 1 of 1=localhost:9093", ""},
		"no port, named itself": {[]string{"node.id=7", "controller.quorum.voters=7@localhost:9093"}, "alone", ""},
		"port, nobody named":    {[]string{listeners}, "listen box:9093 member 1 of 1=box:9093", ""},
		"combined":              {[]string{"node.id=2", listeners, three}, "member 2 of 1=a:9093 2=b:9093 3=c:9093", ""},
		"controller": {
			[]string{"process.roles=controller", "node.id=3", "listeners=CONTROLLER://:9093", three},
			"controller member 3 of 1=a:9093 2=b:9093 3=c:9093", "",
		},
		"broker":           {[]string{"process.roles=broker", "node.id=4", "listeners=PLAINTEXT://:9092", three}, "broker dial a:9093,b:9093,c:9093", ""},
		"broker, no ids":   {[]string{"process.roles=broker", "controller.quorum.bootstrap.servers=a:9093,b:9093"}, "broker dial a:9093,b:9093", ""},
		"no ids, by name":  {[]string{"node.id=2", listeners, "advertised.listeners=PLAINTEXT://b:9092,CONTROLLER://b:9093", "controller.quorum.bootstrap.servers=a:9093,b:9093,c:9093"}, "member 2 of 2=b:9093 a:9093=a:9093 c:9093=c:9093", ""},
		"no ids, by ip":    {[]string{"node.id=3", listeners, "controller.quorum.bootstrap.servers=a:9093,b:9093,c:9093"}, "member 3 of 3=c:9093 a:9093=a:9093 b:9093=b:9093", ""},
		"no ids, by port":  {[]string{"node.id=2", "listeners=PLAINTEXT://:9092,CONTROLLER://:9094", "controller.quorum.bootstrap.servers=localhost:9093,localhost:9094"}, "member 2 of 2=localhost:9094 localhost:9093=localhost:9093", ""},
		"not among them":   {[]string{"node.id=9", listeners, "controller.quorum.bootstrap.servers=a:9093,b:9093"}, "dial a:9093,b:9093", ""},
		"external":         {[]string{"metadata.etcd.endpoints=e:2379", three}, "external", ""},
		"not a voter":      {[]string{"node.id=9", listeners, three}, "", "test.properties:3: controller.quorum.voters: node 9 has the role controller, but is not among"},
		"no controllers":   {[]string{"process.roles=broker"}, "", "needs to know the controllers"},
		"no listener":      {[]string{three}, "", "names no listener of controller.listener.names"},
		"controller alone": {[]string{"process.roles=controller"}, "", "by which a controller is reached"},
		"broker's port":    {[]string{"process.roles=broker", listeners, three}, "", "only for nodes with the role controller"},
		"twice":            {[]string{listeners, "controller.quorum.voters=1@a:1,1@b:1"}, "", "named twice"},
		"tls":              {[]string{listeners, "listener.security.protocol.map=CONTROLLER:SSL,PLAINTEXT:PLAINTEXT"}, "", "serves only PLAINTEXT"},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := planQuorum(values(t, tc.lines...), box("box", "10.0.0.3", map[string]string{
				"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3", "localhost": "127.0.0.1",
			}))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(q); !strings.HasSuffix(got, strings.TrimPrefix(tc.want, "listen box:9093? ")) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func describe(q *quorum) string {
	var words []string
	switch {
	case q.alone():
		words = append(words, "alone")
	case q.external:
		words = append(words, "external")
	}
	if !q.broker {
		words = append(words, "controller")
	} else if !q.controller {
		words = append(words, "broker")
	}
	if q.listener != nil && len(q.members) <= 1 {
		words = append(words, "listen "+q.address)
	}
	if q.member != "" {
		words = append(words, "member "+q.member+" of")
		for _, name := range slices.Sorted(maps.Keys(q.members)) {
			words = append(words, fmt.Sprintf("%s=%s", name, q.members[name]))
		}
	}
	if len(q.dial) > 0 {
		words = append(words, "dial "+strings.Join(q.dial, ","))
	}
	return strings.Join(words, " ")
}
