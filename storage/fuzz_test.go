package storage

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// The fuzz targets feed files as a broken disk, or somebody's hand, might leave them.

func FuzzSnapshot(f *testing.F) {
	ps := newProducers()
	f.Add(ps.snapshot())
	ps.apply(protocol.AppendBatch(nil, protocol.BatchParams{Transactional: true, Producer: &protocol.Producer{ID: 5, Epoch: 2, BaseSequence: 9}}, three()))
	f.Add(ps.snapshot())
	f.Fuzz(func(t *testing.T, data []byte) {
		ps := newProducers()
		if err := ps.restore("x", data); err != nil {
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatal(err)
			}
			return
		}
		again := newProducers()
		if err := again.restore("y", ps.snapshot()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(ps.list(), again.list()) {
			t.Fatalf("%v became %v", ps.list(), again.list())
		}
	})
}

func FuzzCheckpoints(f *testing.F) {
	f.Add([]byte("0\n2\na 0 5\nb 1 7\n"))
	f.Add([]byte("0\n2\n1 5\n2 7\n"))
	f.Add([]byte("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA\n"))
	f.Add([]byte(`{"version":0,"brokerEpoch":7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if offsets, err := parseOffsets("x", data); err == nil {
			again, err := parseOffsets("y", formatOffsets(offsets))
			if err != nil || !sameOffsets(offsets, again) {
				t.Fatalf("%v became %v, %v", offsets, again, err)
			}
		}
		if entries, err := parseEpochs("x", data); err == nil {
			again, err := parseEpochs("y", formatEpochs(entries))
			if err != nil || !slices.Equal(entries, again) {
				t.Fatalf("%v became %v, %v", entries, again, err)
			}
		}
		if id, err := parsePartitionMeta("x", data); err == nil {
			if again, err := parsePartitionMeta("y", formatPartitionMeta(id)); err != nil || again != id {
				t.Fatal(id, again, err)
			}
		}
		if marker, ok := parseCleanShutdown(data); ok {
			again, ok := parseCleanShutdown(formatCleanShutdown(marker.BrokerEpoch, marker.Directories))
			if !ok || again.BrokerEpoch != marker.BrokerEpoch || !slices.Equal(again.Directories, marker.Directories) {
				t.Fatal(marker, again)
			}
		}
		parseProperties(data)
		if entries, err := parseTxnIndex("x", data); err == nil {
			var out []byte
			for _, e := range entries {
				out = appendAborted(out, e)
			}
			if !bytes.Equal(out, data) {
				t.Fatalf("%x became %x", data, out)
			}
		}
	})
}

// FuzzIndex loads any bytes as the indexes of a good log. Reads must find what is there, with or without their help.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{}, []byte{}, false)
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 88}, []byte{0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2}, true)
	f.Add([]byte{0, 0, 0, 5, 0, 0, 0, 17}, []byte{0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2}, false)
	f.Fuzz(func(t *testing.T, offsets, times []byte, sealed bool) {
		r := newRig(1)
		r.cfg = DefaultLogConfig()
		fs := vfs.NewMem()
		if err := r.open(fs); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := r.append(); err != nil {
				t.Fatal(err)
			}
		}
		if sealed {
			r.l.hk.Lock()
			if err := r.l.forceRoll(r.now); err != nil {
				t.Fatal(err)
			}
			r.l.hk.Unlock()
			if err := r.append(); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		put(t, fs, "data/"+rigPartition.String()+"/"+fileName(0, offsetsSuffix), offsets)
		put(t, fs, "data/"+rigPartition.String()+"/"+fileName(0, timesSuffix), times)
		if err := r.open(fs); err != nil {
			t.Fatal(err)
		}
		// An index that is well formed but lies can hide records from a search by offset or time, in Kafka too. It must
		// not crash, hang, or bring the directory down.
		for off := int64(0); off < r.model.end; off += 3 {
			s, err := r.l.Read(off, 1000, math.MaxInt64, true)
			if err == nil {
				if _, err := s.AppendTo(nil); err != nil {
					t.Fatal(err)
				}
				s.Release()
			}
		}
		r.l.OffsetForTimestamp(r.now.UnixMilli()-100, math.MaxInt64)
		if err := r.l.Err(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRecovery recovers any bytes as a log: what is whole at the front stays, the rest goes, and the log works.
func FuzzRecovery(f *testing.F) {
	good := protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: 5}, three())
	second := protocol.AppendBatch(nil, protocol.BatchParams{BaseOffset: 3, LeaderEpoch: 2, Transactional: true, Producer: &protocol.Producer{ID: 1, BaseSequence: 0}}, three())
	marker := protocol.AppendControlBatch(nil, protocol.ControlParams{BaseOffset: 6, ProducerID: 1, Type: protocol.ControlAbort})
	all := slices.Concat(good, second, marker)
	f.Add(all, []byte{})
	f.Add(all[:len(all)-5], good)
	f.Add(slices.Concat(good, good), second)
	f.Add(slices.Concat(good, make([]byte, 100)), all)
	f.Fuzz(func(t *testing.T, log, next []byte) {
		fs := vfs.NewMem()
		dir := "data/" + rigPartition.String() + "/"
		if err := fs.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
		put(t, fs, dir+fileName(0, logSuffix), log)
		put(t, fs, dir+fileName(1, nextSuffix), next)
		want := &model{}
		for rest := log; len(rest) > 0; {
			b, r, err := protocol.NextBatch(rest)
			if err != nil || whyBroken(b, 0, want.end) != "" {
				break
			}
			want.append(b)
			rest = r
		}
		r := newRig(1)
		if err := r.open(fs); err != nil {
			t.Fatal(err)
		}
		if got := r.l.LogEndOffset(); got < want.end {
			t.Fatalf("recovered up to %d, whole up to %d", got, want.end)
		}
		got, err := readAll(r.l, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range want.batches {
			if !bytes.Equal(got[i], b) {
				t.Fatalf("batch %d differs", i)
			}
		}
		if _, err := r.l.AppendAsLeader(protocol.AppendBatch(nil, protocol.BatchParams{BaseTimestamp: r.now.UnixMilli()}, three()), AppendOptions{LeaderEpoch: 1 << 30, Version: 9, Now: r.now}); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzAppend produces any bytes: an error of the client's, or a batch that can be read again.
func FuzzAppend(f *testing.F) {
	for _, c := range produceCases() {
		if b := c.records(1_700_000_000_000); len(b) < 2000 {
			f.Add(b, false, int8(0))
			f.Add(b, true, int8(1))
		}
	}
	f.Fuzz(func(t *testing.T, records []byte, strict bool, flavour int8) {
		r := newRig(1)
		r.cfg = DefaultLogConfig()
		if strict {
			r.cfg.Validation = Strict
		}
		switch flavour {
		case 1:
			r.cfg.Compact = true
		case 2:
			r.cfg.LogAppendTime = true
		case 3:
			r.cfg.Compression = "lz4"
		case 4:
			r.cfg.Compression = "uncompressed"
		}
		if err := r.open(vfs.NewMem()); err != nil {
			t.Fatal(err)
		}
		res, err := r.l.AppendAsLeader(records, AppendOptions{LeaderEpoch: 1, Version: 9, Now: r.now})
		if err != nil {
			if code := protocol.Code(err); code <= 0 || r.l.Err() != nil || r.l.LogEndOffset() != 0 {
				t.Fatalf("code %d: %v", code, err)
			}
			return
		}
		got, err := readAll(r.l, 1<<20)
		if err != nil || len(got) != 1 || got[0].LastOffset() != res.LastOffset {
			t.Fatal(got, res, err)
		}
	})
}

func put(t *testing.T, fs vfs.FS, name string, data []byte) {
	f, err := fs.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := writeFull(f, data, 0); err != nil {
		t.Fatal(err)
	}
}
