package storage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestCompactionLikeKafka cleans the same files as Apache Kafka 4.3.1 did, twice, and compares what is left, batch for
// batch. The files in testdata/kafka-compaction are a partition's with internal.segment.bytes=1100, segment.ms=600000,
// delete.retention.ms=3000 and min.cleanable.dirty.ratio=0, before and after each clean: plain, idempotent and
// transactional batches in all codecs, tombstones, records without key, committed and aborted transactions.
func TestCompactionLikeKafka(t *testing.T) {
	for _, mode := range []string{"CreateTime", "LogAppendTime"} {
		for _, round := range []string{"1", "2"} {
			t.Run(mode+round, func(t *testing.T) {
				root := filepath.Join("testdata", "kafka-compaction", mode)
				before, after := readLogs(t, filepath.Join(root, "before"+round)), readLogs(t, filepath.Join(root, "after"+round))
				cleaned := int64(-1)
				if round == "2" {
					cleaned = lastBase(readLogs(t, filepath.Join(root, "after1")))
				}
				got := cleanFiles(t, before, cleaned, horizonOf(after)-3000)
				want := describeLogs(t, after)
				if have := describeLogs(t, got); have != want {
					t.Errorf("left:\n%s\nKafka leaves:\n%s", have, want)
				}
				if want == describeLogs(t, before) {
					t.Error("Kafka has not cleaned")
				}
			})
		}
	}
}

func readLogs(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, e := range entries {
		if out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// lastBase is where the active segment begins.
func lastBase(files map[string][]byte) int64 {
	last := int64(-1)
	for name := range files {
		if base, suffix, _ := parseFileName(name); suffix == logSuffix {
			last = max(last, base)
		}
	}
	return last
}

// horizonOf is the latest delete horizon.
func horizonOf(files map[string][]byte) int64 {
	last := int64(0)
	for name, data := range files {
		for strings.HasSuffix(name, logSuffix) && len(data) > 0 {
			b, rest, err := protocol.NextBatch(data)
			if err != nil {
				panic(err)
			}
			if b.HasDeleteHorizon() {
				last = max(last, b.BaseTimestamp())
			}
			data = rest
		}
	}
	return last
}

// cleanFiles has a log of these files cleaned at a time and returns its files.
func cleanFiles(t *testing.T, files map[string][]byte, cleaned, nowMs int64) map[string][]byte {
	t.Helper()
	mem := vfs.NewMem()
	dir := "/data/" + compactPartition.String()
	if err := mem.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		put(t, mem, dir+"/"+name, data)
	}
	put(t, mem, "/data/"+recoveryPointFile, formatOffsets(map[TopicPartition]int64{compactPartition: lastBase(files)}))
	if cleaned >= 0 {
		put(t, mem, "/data/"+cleanerFile, formatOffsets(map[TopicPartition]int64{compactPartition: cleaned}))
	}
	cfg := DefaultLogConfig()
	cfg.Compact, cfg.Delete, cfg.SegmentBytes, cfg.DeleteRetentionMs, cfg.MinCleanableRatio = true, false, 1100, 3000, 0
	m, err := Open(Options{FS: mem, Dirs: []string{"/data"}, Log: zerolog.Nop(), Defaults: cfg, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	l := m.Log(compactPartition)
	l.SetHighWatermark(l.LogEndOffset())
	if n := m.Clean(time.UnixMilli(nowMs)); n != 1 {
		t.Fatalf("%d logs cleaned: %+v", n, m.CleanerStats())
	}
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	infos, err := mem.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range infos {
		if out[in.Name], err = readFile(mem, dir+"/"+in.Name, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// describeLogs writes down all that is in log files and transaction indexes. Compressed bytes may differ, what they hold
// may not.
func describeLogs(t *testing.T, files map[string][]byte) string {
	t.Helper()
	var out strings.Builder
	for base := int64(0); base <= lastBase(files); base++ {
		data, ok := files[fileName(base, logSuffix)]
		if !ok {
			continue
		}
		fmt.Fprintf(&out, "segment %d\n", base)
		entries, err := parseTxnIndex("", files[fileName(base, txnSuffix)])
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			fmt.Fprintf(&out, "  aborted: producer %d, %d to %d, stable %d\n", e.producerID, e.firstOffset, e.lastOffset, e.lastStableOffset)
		}
		for len(data) > 0 {
			b, rest, err := protocol.NextBatch(data)
			if err != nil || !b.ValidCRC() {
				t.Fatal(err)
			}
			data = rest
			head := bytes.Clone(b[:protocol.BatchHeaderLen])
			clear(head[8:12])  // length
			clear(head[17:21]) // CRC
			fmt.Fprintf(&out, "  batch %d to %d: %x\n", b.BaseOffset(), b.LastOffset(), head)
			var scratch []byte
			if err := eachRecord(b, &scratch, func(r protocol.Record) { fmt.Fprintf(&out, "    %+v\n", r) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out.String()
}
