package node

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/config"
)

// values builds a configuration from lines "key=value".
func values(t testing.TB, lines ...string) *config.Values {
	t.Helper()
	src := config.Source{Name: "test.properties"}
	for i, l := range lines {
		k, v, _ := strings.Cut(l, "=")
		src.Lines = append(src.Lines, config.Line{Key: k, Value: v, Line: i + 1})
	}
	v, _, err := config.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestClientListeners(t *testing.T) {
	plain := func(name, host string, port int32, advHost string, advPort int32) listener {
		return listener{Listener: config.Listener{Name: name, Host: host, Port: port, Protocol: "PLAINTEXT"}, advertisedHost: advHost, advertisedPort: advPort}
	}
	for name, tc := range map[string]struct {
		lines []string
		want  []listener
		err   string
	}{
		"nothing configured": {nil, []listener{plain("PLAINTEXT", "", 9092, "localhost", 9092)}, ""},
		"no host: the machine's name": {
			[]string{"listeners=PLAINTEXT://:9092"},
			[]listener{plain("PLAINTEXT", "", 9092, "box", 9092)},
			"",
		},
		"every interface": {
			[]string{"listeners=PLAINTEXT://0.0.0.0:9092"},
			[]listener{plain("PLAINTEXT", "0.0.0.0", 9092, "box", 9092)},
			"",
		},
		"kraft": {
			[]string{
				"listeners=plaintext://:9092,CONTROLLER://:9093", "advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093,",
				"controller.listener.names=CONTROLLER", "inter.broker.listener.name=PLAINTEXT",
			},
			[]listener{plain("PLAINTEXT", "", 9092, "localhost", 9092)},
			"",
		},
		"two": {
			[]string{
				"listeners=A://0.0.0.0:9092, TC-0://[::1]:19092", "advertised.listeners=A://localhost:1,TC-0://x:2",
				"listener.security.protocol.map=A:PLAINTEXT,tc-0:plaintext", "inter.broker.listener.name=A",
			},
			[]listener{plain("A", "0.0.0.0", 9092, "localhost", 1), plain("TC-0", "::1", 19092, "x", 2)},
			"",
		},
		"one of two advertised": {
			[]string{"listeners=PLAINTEXT://:1,X://h:2", "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,X:PLAINTEXT", "advertised.listeners=PLAINTEXT://a:1"},
			[]listener{plain("PLAINTEXT", "", 1, "a", 1), plain("X", "h", 2, "h", 2)},
			"",
		},
		"free port": {
			[]string{"listeners=PLAINTEXT://127.0.0.1:0"},
			[]listener{plain("PLAINTEXT", "127.0.0.1", 0, "127.0.0.1", 0)},
			"",
		},
		"tls": {[]string{"listeners=SSL://h:1"}, nil, "test.properties:1: listeners: listener SSL has security protocol SSL, of which gregor serves only PLAINTEXT"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := clientListeners(values(t, tc.lines...), func() (string, error) { return "box", nil })
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
	_, err := clientListeners(values(t, "listeners=PLAINTEXT://:9092"), func() (string, error) { return "", errors.New("no name") })
	if err == nil || !strings.Contains(err.Error(), "no name") {
		t.Fatalf("got %v", err)
	}
}

func TestCheckSecurity(t *testing.T) {
	if err := checkSecurity(values(t)); err != nil {
		t.Fatal(err)
	}
	err := checkSecurity(values(t, "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"))
	if err == nil || !strings.Contains(err.Error(), "test.properties:1: authorizer.class.name") {
		t.Fatalf("got %v", err)
	}
}
