package node

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// scrape reads a node's metrics that begin with gregor_, by name and labels.
func scrape(t *testing.T, n *Node) map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.admin.listener.Addr().String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, body)
	}
	values := map[string]string{}
	for line := range strings.SplitSeq(string(body), "\n") {
		if name, ok := strings.CutPrefix(line, "gregor_"); ok {
			at := strings.LastIndexByte(name, ' ')
			values[name[:at]] = name[at+1:]
		}
	}
	return values
}

func wantMetrics(t *testing.T, n *Node, want map[string]string) {
	t.Helper()
	got := scrape(t, n)
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s is %q, want %q", name, got[name], w)
		}
	}
}

// A transaction that its coordinator does not know of hangs. That is told once
// it lasts for longer than any transaction may, and five minutes (KIP-664).
func TestLateTransactionsAreTold(t *testing.T) {
	var ahead atomic.Int64
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem(), Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }},
		"http.address=127.0.0.1:0", "transaction.state.log.num.partitions=1", "offsets.topic.num.partitions=1",
		"transaction.partition.verification.enable=false", "transaction.max.timeout.ms=600000")
	awaitLoaded(n)
	s := newScribe(t, n.Addr(""), "")
	s.topics("a")
	id := "x"
	p := s.init(5, id, 60000, nobody)
	s.produce(11, &id, p, 0, true, "a:0")
	s.last(`produce v11 "x" P0/0 sequence 0: a-0 NONE at 0`)
	late := func(want string) {
		t.Helper()
		wantMetrics(t, n, map[string]string{"partitions_with_late_transactions": want, "producer_ids": "1"})
	}
	late("0")
	ahead.Store(int64(14 * time.Minute))
	late("0")
	ahead.Store(int64(15*time.Minute + time.Second))
	late("1")
	s.markers(1, p, false, 0, 0, "a:0") // what kafka-transactions.sh abort does
	late("0")
}

func TestCoordinatorMetrics(t *testing.T) {
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()},
		"http.address=127.0.0.1:0", "transaction.state.log.num.partitions=3", "offsets.topic.num.partitions=2")
	s := newScribe(t, n.Addr(""), "")
	s.topics("a")
	awaitLoaded(n)
	id, other, unknown := "x", "y", "unknown"
	p := s.init(5, id, 60000, nobody)
	s.produce(12, &id, p, 0, true, "a:0")
	s.commitOffset(5, id, p, "g", -1, "a:0")
	p = s.end(5, id, p, true)
	s.produce(12, &id, p, 0, true, "a:0")
	s.init(5, id, 60000, nobody) // fences, and aborts what is open
	q := s.init(5, other, 60000, nobody)
	s.produce(12, &other, q, 0, true, "a:0")
	s.produce(11, &unknown, q, 0, true, "a:1")
	for began := time.Now(); n.markers.Pending() > 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("markers are not written")
		}
	}
	wantMetrics(t, n, map[string]string{
		`group_coordinator_partitions{state="active"}`:        "2",
		`group_coordinator_partitions{state="loading"}`:       "0",
		`group_coordinator_partitions{state="failed"}`:        "0",
		`transaction_coordinator_partitions{state="active"}`:  "3",
		`transaction_coordinator_partitions{state="loading"}`: "0",
		`transaction_coordinator_partitions{state="failed"}`:  "0",
		`group_offsets`:                               "1",
		`group_offset_commits_total`:                  "1",
		`transactions_decided_total{result="commit"}`: "1",
		`transactions_decided_total{result="abort"}`:  "1",
		`transaction_fences_total`:                    "1",
		`transaction_timeouts_total`:                  "0",
		`transaction_markers_pending`:                 "0",
		`transactional_ids{state="Ongoing"}`:          "1",
		`transactional_ids{state="Empty"}`:            "1",
		`transaction_verification_failures_total`:     "1",
		`partitions_with_late_transactions`:           "0",
		`group_rebalances_total{protocol="classic"}`:  "0",
		`group_rebalances_total{protocol="consumer"}`: "0",
		`group_offset_expirations_total`:              "0",
		`group_offset_deletions_total`:                "0",
		`transactional_id_expirations_total`:          "0",
		`produce_handed_on_total`:                     "0",
		`produce_handed_on_failures_total`:            "0",
	})
}
