package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

func testBatch(n int, ts int64, valueLen int) []byte {
	records := make([]protocol.Record, n)
	for i := range records {
		records[i] = protocol.Record{OffsetDelta: int32(i), Key: []byte(fmt.Sprint("k", i)), Value: bytes.Repeat([]byte{byte('a' + i%26)}, valueLen)}
	}
	return protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: ts}, records)
}

func TestAppendReadRestart(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultLogConfig()
	cfg.SegmentBytes = 64 << 10
	open := func() *Manager {
		m, err := Open(Options{Dirs: []string{dir}, NodeID: 1, Log: zerolog.New(zerolog.NewTestWriter(t)), Defaults: cfg})
		if err != nil {
			t.Fatal(err)
		}
		m.Start()
		return m
	}
	m := open()
	tp := TopicPartition{"topic", 3}
	id := TopicID{1, 2, 3}
	l, err := m.CreateLog(tp, id, cfg)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var want []byte
	next := int64(0)
	for i := range 300 {
		b := testBatch(3+i%4, now.UnixMilli()+int64(i), 300)
		res, err := l.AppendAsLeader(b, AppendOptions{LeaderEpoch: 2, Version: 9, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if res.FirstOffset != next {
			t.Fatalf("first offset %d, want %d", res.FirstOffset, next)
		}
		next = res.LastOffset + 1
		want = append(want, b...)
	}
	check := func(l *Log) {
		t.Helper()
		if l.LogEndOffset() != next || l.LatestEpoch() != 2 || l.ID() != id {
			t.Fatalf("end %d epoch %d id %s", l.LogEndOffset(), l.LatestEpoch(), l.ID())
		}
		var got []byte
		for off := int64(0); off < next; {
			s, err := l.Read(off, 10000, next, true)
			if err != nil {
				t.Fatal(err)
			}
			data, err := s.AppendTo(nil)
			if err != nil {
				t.Fatal(err)
			}
			s.Release()
			for len(data) > 0 {
				b, rest, err := protocol.NextBatch(data)
				if err != nil {
					break
				}
				if b.LastOffset() >= s.UpTo {
					t.Fatalf("batch up to %d in a slice up to %d", b.LastOffset(), s.UpTo)
				}
				got = append(got, b...)
				off = b.LastOffset() + 1
				data = rest
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes, wrote %d", len(got), len(want))
		}
		_, err := l.Read(next+1, 100, next, true)
		if !errors.Is(err, kerr.OffsetOutOfRange) {
			t.Fatal(err)
		}
	}
	check(l)
	for range 2 {
		if err := m.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		m = open()
		l = m.Log(tp)
		check(l)
		found, ok, err := l.OffsetForTimestamp(now.UnixMilli()+150, next)
		if err != nil || !ok || found.Timestamp != now.UnixMilli()+150 {
			t.Fatal(found, ok, err)
		}
	}
	// Without the clean shut-down.
	m.background.stop()
	for _, d := range m.dirs {
		d.lock.Close()
	}
	m = open()
	check(m.Log(tp))
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func newTestFS() vfs.FS { return vfs.NewMem() }
