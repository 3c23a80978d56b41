package broker

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestFetchOfAMillionPartitions does not fit a frame that carries no records;
// of as many as fit, the memory comes back.
func TestFetchOfAMillionPartitions(t *testing.T) {
	b := startBroker(t, nil)
	c := b.dial()
	c.ask(apiVersionsRequest(0))
	request := func(n int) *kmsg.FetchRequest {
		r := fetchRequest(4)
		topic := kmsg.NewFetchRequestTopic()
		topic.Topic = "t"
		topic.Partitions = make([]kmsg.FetchRequestTopicPartition, n)
		for i := range topic.Partitions {
			topic.Partitions[i].Partition = int32(i)
		}
		r.Topics = append(r.Topics, topic)
		return r
	}
	before := heap()
	const n = 30_000
	if got := c.fetch(request(n)); len(got.Topics[0].Partitions) != n {
		t.Errorf("%d partitions answered", len(got.Topics[0].Partitions))
	}
	b.eachConn(func(c *conn) { await(t, func() bool { return c.idle.Load() }) })
	if after := heap(); after > before+8<<20 {
		t.Errorf("%d MiB stayed", (after-before)>>20)
	}
	c.send(append(be32(1_000_000*17), rawHeader(1, 4)[4:]...))
	c.expectClosed()
}

// heap is what is live.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSessionSlotsRunOut: who gets no session is served without one.
func TestSessionSlotsRunOut(t *testing.T) {
	b := startBroker(t, nil, config.Line{Key: "max.incremental.fetch.session.cache.slots", Value: "3"})
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	c.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 10))
	sessions := map[int32]bool{}
	for i := range 50 {
		r := fetchRequest(12)
		r.SessionEpoch = 0
		addFetch(r, "t", id, 0, 0)
		resp := c.fetch(r)
		if got := c.only(resp); got.ErrorCode != 0 || len(got.RecordBatches) == 0 {
			t.Fatalf("%d: %+v", i, got)
		}
		if resp.SessionID != 0 {
			sessions[resp.SessionID] = true
		}
	}
	if len(sessions) != 3 {
		t.Errorf("%d sessions in 3 slots", len(sessions))
	}
	for s := range sessions {
		r := fetchRequest(12)
		r.SessionID, r.SessionEpoch = s, 1
		if resp := c.fetch(r); resp.ErrorCode != 0 {
			t.Errorf("session %d: %v", s, kerr.ErrorForCode(resp.ErrorCode))
		}
	}
}

// TestShortFile: a log that has less than it should (somebody cut it) ends the
// connection or is told as an error, but never makes a client wait for bytes
// that do not come.
func TestShortFile(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	for range 3 {
		c.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 200_000))
	}
	cut := 0
	err := filepath.WalkDir(b.logs.Dirs()[0].Path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".log") {
			cut++
			err = os.Truncate(path, 500_000)
		}
		return err
	})
	if err != nil || cut != 1 {
		t.Fatal(cut, err)
	}
	for name, conn := range map[string]*client{"tcp": c, "pipe": newClient(t, b.mem.dial(t))} {
		r := fetchRequest(12)
		addFetch(r, "t", id, 0, 0)
		conn.send(conn.frame(r))
		if p, err := conn.receive(); err == nil {
			resp := kmsg.NewPtrFetchResponse()
			resp.Version = 12
			if err := resp.ReadFrom(p[5:]); err != nil || conn.only(resp).ErrorCode == 0 {
				t.Errorf("%s: answered with %d bytes, %v", name, len(p), err)
			}
		} else if isTimeout(err) {
			t.Errorf("%s: the client waits", name)
		}
	}
}
