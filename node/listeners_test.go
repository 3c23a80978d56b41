package node

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func host() (string, error) { return "box", nil }

func TestClientListeners(t *testing.T) {
	split := func(s string) []string { return strings.Split(s, ",") }
	for name, tc := range map[string]struct {
		s    listenerSettings
		want []Listener
		err  string
	}{
		"default": {
			s:    listenerSettings{listeners: split("PLAINTEXT://:9092")},
			want: []Listener{{"PLAINTEXT", "", 9092, "localhost", 9092, "PLAINTEXT"}},
		},
		"no host: the machine's name": {
			s:    listenerSettings{listeners: split("PLAINTEXT://:9092"), configured: true},
			want: []Listener{{"PLAINTEXT", "", 9092, "box", 9092, "PLAINTEXT"}},
		},
		"kraft": {
			s: listenerSettings{
				listeners: split("plaintext://:9092,CONTROLLER://:9093"), advertised: split("PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093,"),
				controllerNames: split("CONTROLLER"), interBrokerName: "PLAINTEXT", configured: true,
			},
			want: []Listener{{"PLAINTEXT", "", 9092, "localhost", 9092, "PLAINTEXT"}},
		},
		"two": {
			s: listenerSettings{
				listeners: split("A://0.0.0.0:9092, TC-0://[::1]:19092"), advertised: split("A://localhost:1,TC-0://x:2"),
				protocolMap: split("A:PLAINTEXT,tc-0:plaintext"), configured: true,
			},
			want: []Listener{{"A", "0.0.0.0", 9092, "localhost", 1, "PLAINTEXT"}, {"TC-0", "::1", 19092, "x", 2, "PLAINTEXT"}},
		},
		"free port": {
			s:    listenerSettings{listeners: split("PLAINTEXT://127.0.0.1:0"), configured: true},
			want: []Listener{{"PLAINTEXT", "127.0.0.1", 0, "127.0.0.1", 0, "PLAINTEXT"}},
		},
		"one of two advertised": {
			s:    listenerSettings{listeners: split("PLAINTEXT://:1,X://h:2"), protocolMap: split("X:PLAINTEXT"), advertised: split("PLAINTEXT://a:1"), configured: true},
			want: []Listener{{"PLAINTEXT", "", 1, "a", 1, "PLAINTEXT"}, {"X", "h", 2, "h", 2, "PLAINTEXT"}},
		},
		"advertises all": {
			s:   listenerSettings{listeners: split("PLAINTEXT://:9092"), advertised: split("PLAINTEXT://0.0.0.0:9092"), configured: true},
			err: "no client can connect to",
		},
		"bound to all": {
			s:   listenerSettings{listeners: split("PLAINTEXT://0.0.0.0:9092"), configured: true},
			err: "set advertised.listeners",
		},
		"only controller": {
			s:   listenerSettings{listeners: split("CONTROLLER://:9093"), controllerNames: split("CONTROLLER"), configured: true},
			err: "no listener for clients",
		},
		"unmapped":         {s: listenerSettings{listeners: split("X://:1")}, err: "no security protocol"},
		"tls":              {s: listenerSettings{listeners: split("SSL://:1")}, err: "only PLAINTEXT"},
		"bad map":          {s: listenerSettings{listeners: split("X://:1"), protocolMap: split("X:FOO")}, err: "names no security protocol"},
		"bad map form":     {s: listenerSettings{listeners: split("X://:1"), protocolMap: split("X")}, err: "NAME:PROTOCOL"},
		"same name":        {s: listenerSettings{listeners: split("PLAINTEXT://:1,PLAINTEXT://:2")}, err: "two listeners"},
		"same port":        {s: listenerSettings{listeners: split("PLAINTEXT://:1,X://:1"), protocolMap: split("X:PLAINTEXT")}, err: "both use port 1"},
		"port too big":     {s: listenerSettings{listeners: split("PLAINTEXT://:70000")}, err: "between 0 and 65535"},
		"no form":          {s: listenerSettings{listeners: split("localhost:9092")}, err: "NAME://host:port"},
		"bare ipv6":        {s: listenerSettings{listeners: split("PLAINTEXT://::1:9092")}, err: "brackets"},
		"unknown adv":      {s: listenerSettings{listeners: split("PLAINTEXT://:1"), advertised: split("PLAINTEXT://a:1,Y://b:2")}, err: "Y is not in listeners"},
		"unknown internal": {s: listenerSettings{listeners: split("PLAINTEXT://:1"), interBrokerName: "Z"}, err: "inter.broker.listener.name"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.s.hostname = host
			got, err := clientListeners(tc.s)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || !slices.Equal(got, tc.want) {
				t.Fatalf("got %+v, %v\nwant %+v", got, err, tc.want)
			}
		})
	}
}

func TestClientListenersWithoutHostname(t *testing.T) {
	_, err := clientListeners(listenerSettings{
		listeners: []string{"PLAINTEXT://:9092"}, configured: true,
		hostname: func() (string, error) { return "", errors.New("no name") },
	})
	if err == nil || !strings.Contains(err.Error(), "no name") {
		t.Fatalf("got %v", err)
	}
}

func TestSingleNode(t *testing.T) {
	none := quorumSettings{nodeID: -1, brokerID: -1}
	with := func(change func(s *quorumSettings)) quorumSettings {
		s := none
		change(&s)
		return s
	}
	kraft := quorumSettings{
		roles: []string{"broker", "controller"}, nodeID: 7, brokerID: -1, voters: []string{"7@localhost:9093"},
		controllerNames: []string{"CONTROLLER"}, listenerNames: []string{"PLAINTEXT", "CONTROLLER"},
	}
	for name, tc := range map[string]struct {
		s   quorumSettings
		id  int32
		err string
	}{
		"nothing":         {s: none, id: 1},
		"kraft":           {s: kraft, id: 7},
		"broker.id":       {s: quorumSettings{nodeID: -1, brokerID: 0}, id: 0},
		"both ids":        {s: quorumSettings{nodeID: 1, brokerID: 2}, err: "differs from broker.id"},
		"three voters":    {s: with(func(s *quorumSettings) { s.voters = []string{"1@a:1", "2@b:1", "3@c:1"} }), err: "3 voters"},
		"other voter":     {s: with(func(s *quorumSettings) { s.voters = []string{"3@c:1"} }), err: "this is node 1"},
		"bad voter":       {s: with(func(s *quorumSettings) { s.voters = []string{"c:1"} }), err: "id@host:port"},
		"bad role":        {s: with(func(s *quorumSettings) { s.roles = []string{"zoo"} }), err: "neither broker nor controller"},
		"controller only": {s: with(func(s *quorumSettings) { s.roles = []string{"controller"} }), err: "only a controller"},
		"broker only":     {s: with(func(s *quorumSettings) { s.roles = []string{"broker"} }), err: "controllers elsewhere"},
		"two bootstrap":   {s: with(func(s *quorumSettings) { s.bootstrapServers = []string{"a:1", "b:1"} }), err: "2 controllers"},
		"no controller listener": {
			s: quorumSettings{roles: []string{"broker", "controller"}, nodeID: 1, brokerID: -1}, err: "must be named",
		},
		"controller listener unknown": {
			s:   quorumSettings{roles: []string{"broker", "controller"}, nodeID: 1, brokerID: -1, controllerNames: []string{"C"}, listenerNames: []string{"PLAINTEXT"}},
			err: "C is not in listeners",
		},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := singleNode(tc.s)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || id != tc.id {
				t.Fatalf("got %d, %v, want %d", id, err, tc.id)
			}
		})
	}
}
