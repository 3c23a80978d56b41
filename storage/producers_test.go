package storage

import (
	"runtime"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestProducersTakeLittleMemory: clients may make up producer ids without end. Each takes a few hundred bytes until
// producer.id.expiration.ms have passed, and nothing after.
func TestProducersTakeLittleMemory(t *testing.T) {
	const n, most = 50_000, 512
	now := time.Now()
	m, err := Open(Options{FS: vfs.OS{}, Dirs: []string{t.TempDir()}, NodeID: 1, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(t.Context()) })
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	record := []protocol.Record{{Value: []byte("v")}}
	produce := func(id int64) {
		b := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: now.UnixMilli(), Producer: &protocol.Producer{ID: id}}, record)
		if _, err := l.AppendAsLeader(b, AppendOptions{Version: 9, Now: now}); err != nil {
			t.Fatal(err)
		}
	}
	produce(0)
	before := inUse()
	for id := range int64(n) {
		produce(id + 1)
	}
	if took := inUse() - before; took > n*most {
		t.Errorf("%d bytes for each producer, at most %d may be", took/n, most)
	}
	now = now.Add(48 * time.Hour)
	m.Tick(now)
	if took := inUse() - before; took > 1<<20 {
		t.Errorf("%d KiB stay of producers that expired", took>>10)
	}
	produce(n + 1)
}

// inUse is what is live on the heap.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
