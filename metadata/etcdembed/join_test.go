package etcdembed

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// TestJoinWaitsForThoseBehind: a member that has not heard of the new one yet
// would have the new one refuse to start.
func TestJoinWaitsForThoseBehind(t *testing.T) {
	const self = "127.0.0.1:1"
	var asked atomic.Int32
	member := func(behind int32) remoteMember {
		var times atomic.Int32
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			known := []remoteMember{{Name: "1", PeerURLs: []string{"http://elsewhere:1"}}}
			if times.Add(1) > behind {
				known = append(known, remoteMember{PeerURLs: []string{"http://" + self}})
			}
			if err := json.NewEncoder(w).Encode(known); err != nil {
				t.Error(err)
			}
		}))
		t.Cleanup(s.Close)
		return remoteMember{PeerURLs: []string{s.URL}}
	}
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	members := []remoteMember{member(0), member(2), {PeerURLs: []string{dead.URL}}, {PeerURLs: []string{"http://" + self}}}
	if err := awaitListed(t.Context(), members, self); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n != 1+3 {
		t.Errorf("asked %d times", n)
	}
}
