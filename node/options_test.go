package node

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
)

func TestConnectionOverrides(t *testing.T) {
	got, err := connectionOverrides(t.Context(), values(t, "max.connections.per.ip.overrides=127.0.0.1:200, [::1]:3"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[netip.Addr]int{netip.MustParseAddr("127.0.0.1"): 200, netip.MustParseAddr("::1"): 3}
	if !maps.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for bad, why := range map[string]string{"127.0.0.1": "host:count", "127.0.0.1:many": "not a number", "127.0.0.1:-1": "not a number"} {
		if _, err := connectionOverrides(t.Context(), values(t, "max.connections.per.ip.overrides="+bad)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %v, want %q", bad, err, why)
		}
	}
}
