package storage

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// manyRecords is a small compressed batch of very many records without key or value.
func manyRecords(n int, key []byte) protocol.Batch {
	records := make([]protocol.Record, n)
	for i := range records {
		records[i] = protocol.Record{OffsetDelta: int32(i), Key: key}
	}
	return protocol.AppendBatch(nil, protocol.BatchParams{Codec: protocol.Zstd, BaseTimestamp: time.Now().UnixMilli()}, records)
}

func configuredLog(t *testing.T, cfg LogConfig) *Log {
	m, err := Open(Options{FS: vfs.NewMem(), Dirs: []string{"/d"}, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(t.Context()) })
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// allocated is what fn allocates in all.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// TestManyRecordsInFewBytes appends batches that are small on the wire and hold very many records: what the broker takes
// for them goes with the bytes they decompress to, not with a multiple for each record.
func TestManyRecordsInFewBytes(t *testing.T) {
	const n = 1_000_000 / fewer
	bytes := int64(n * 10)
	for name, tc := range map[string]struct {
		cfg  func(*LogConfig)
		key  []byte
		want error
	}{
		"each is refused":     {func(c *LogConfig) { c.Compact, c.Delete = true, false }, nil, kerr.InvalidRecord},
		"each is written new": {func(c *LogConfig) { c.Compression = "lz4"; c.MaxMessageBytes = 64 << 20 }, []byte{}, nil},
		"strict":              {func(c *LogConfig) { c.Validation = Strict }, []byte{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultLogConfig()
			tc.cfg(&cfg)
			l := configuredLog(t, cfg)
			batch := manyRecords(n, tc.key)
			if len(batch) > 1<<20 {
				t.Fatalf("the batch takes %d bytes", len(batch))
			}
			var err error
			took := allocated(func() { _, err = l.AppendAsLeader(batch, AppendOptions{Version: 9}) })
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			var invalid *InvalidRecordError
			if errors.As(err, &invalid) && (len(invalid.Records) == 0 || len(invalid.Records) > maxRecordErrors) {
				t.Errorf("%d records are named", len(invalid.Records))
			}
			if took > 12*bytes {
				t.Errorf("%d MB allocated for %d MB of records", took>>20, bytes>>20)
			}
		})
	}
}

// TestLargeBatchesTakeTurns holds up a batch that decompresses to much while another such is in memory; what is small
// passes.
func TestLargeBatchesTakeTurns(t *testing.T) {
	cfg := DefaultLogConfig()
	cfg.Validation, cfg.MaxMessageBytes = Strict, 64<<20
	l := configuredLog(t, cfg)
	l.inflater.large <- struct{}{}
	large := make(chan error, 1)
	go func() {
		_, err := l.AppendAsLeader(manyRecords(17, make([]byte, freelyDecompressed/16)), AppendOptions{Version: 9})
		large <- err
	}()
	if _, err := l.AppendAsLeader(manyRecords(1000, nil), AppendOptions{Version: 9}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-large:
		t.Fatalf("it did not wait (%v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	<-l.inflater.large
	if err := <-large; err != nil {
		t.Fatal(err)
	}
	if len(l.inflater.large) != 0 {
		t.Error("the turn was not given back")
	}
}
