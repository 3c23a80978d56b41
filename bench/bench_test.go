package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestLoad: what is replayed is what an idempotent producer sends.
func TestLoad(t *testing.T) {
	for _, codec := range []protocol.Codec{protocol.None, protocol.LZ4, protocol.Gzip, protocol.Snappy, protocol.Zstd} {
		l, err := newLoad("topic", shape{records: 50, valueBytes: 300, batches: 4, partitions: 6, codec: codec})
		if err != nil {
			t.Fatal(err)
		}
		p := &producer{l: l, id: 42, epoch: 3, seq: make([]int32, 6)}
		next := map[int32]int32{}
		for i := range 20 {
			f := &l.frames[i%len(l.frames)]
			p.stamp(f)
			_, body, err := protocol.ReadHeader(f.bytes[4:])
			if err != nil {
				t.Fatal(err)
			}
			req := kmsg.ProduceRequest{Version: 12}
			if err := req.ReadFrom(body); err != nil {
				t.Fatal(err)
			}
			if len(req.Topics[0].Partitions) != 4 || req.Acks != -1 {
				t.Fatalf("%d partitions, acks %d", len(req.Topics[0].Partitions), req.Acks)
			}
			for _, part := range req.Topics[0].Partitions {
				b := protocol.Batch(part.Records)
				if !b.ValidCRC() || b.ProducerID() != 42 || b.ProducerEpoch() != 3 || b.Codec() != codec || b.Count() != 50 {
					t.Fatalf("codec %d: batch is wrong", codec)
				}
				if b.BaseSequence() != next[part.Partition] {
					t.Fatalf("partition %d: sequence %d, want %d", part.Partition, b.BaseSequence(), next[part.Partition])
				}
				next[part.Partition] += 50
			}
		}
		if codec != protocol.None && l.wireBytes*2 > l.plainBytes {
			t.Errorf("codec %d: %d bytes became %d", codec, l.plainBytes, l.wireBytes)
		}
	}
}

// serveOnce accepts one connection and lets f talk on it.
func serveOnce(t *testing.T, f func(net.Conn) error) *subject {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = f(c)
			_ = c.Close()
		}
		done <- err
	}()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &subject{name: "test", addr: l.Addr().String()}
}

// TestConsumer: the consumer follows responses as kmsg encodes them, tags and
// cut batches included, and asks on from where whole batches ended.
func TestConsumer(t *testing.T) {
	l := &load{shape: shape{records: 10, partitions: 2}, topic: "topic", batchBytes: 1000}
	s := serveOnce(t, func(c net.Conn) error {
		var offsets [2]int64
		for round := 0; offsets[0] < 50 || offsets[1] < 50; round++ {
			frame, err := readFrame(c)
			if err != nil {
				return err
			}
			_, body, err := protocol.ReadHeader(frame)
			if err != nil {
				return err
			}
			req := kmsg.FetchRequest{Version: 12}
			if err := req.ReadFrom(body); err != nil {
				return err
			}
			resp := kmsg.FetchResponse{Version: 12}
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic = "topic"
			for i, p := range req.Topics[0].Partitions {
				if p.FetchOffset != offsets[i] || p.PartitionMaxBytes != 2500 {
					return fmt.Errorf("partition %d: offset %d of %d, at most %d", i, p.FetchOffset, offsets[i], p.PartitionMaxBytes)
				}
				rp := kmsg.NewFetchResponseTopicPartition()
				rp.Partition = int32(i)
				if left := int(50-offsets[i]) / 10 * 1000; left > 0 && (i+round)%3 != 2 {
					rp.RecordBatches = make([]byte, min(2500, left))
					offsets[i] += int64(len(rp.RecordBatches) / 1000 * 10)
				}
				if round == 1 {
					rp.CurrentLeader.LeaderID, rp.CurrentLeader.LeaderEpoch = 1, 1
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
			if _, err := c.Write(protocol.AppendResponse(nil, 7, &resp)); err != nil {
				return err
			}
		}
		return nil
	})
	c, err := newConsumer(s, l, 50, 2500)
	if err != nil {
		t.Fatal(err)
	}
	defer c.c.close()
	if err := c.run(); err != nil {
		t.Fatal(err)
	}
}

// TestConsumerSeesErrors: a partition that fails is not taken for an empty one.
func TestConsumerSeesErrors(t *testing.T) {
	l := &load{shape: shape{records: 10, partitions: 1}, topic: "topic", batchBytes: 1000}
	s := serveOnce(t, func(c net.Conn) error {
		if _, err := readFrame(c); err != nil {
			return err
		}
		resp := kmsg.FetchResponse{Version: 12}
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic = "topic"
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.ErrorCode = 6
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		_, err := c.Write(protocol.AppendResponse(nil, 7, &resp))
		return err
	})
	c, err := newConsumer(s, l, 50, 2500)
	if err != nil {
		t.Fatal(err)
	}
	defer c.c.close()
	if err := c.run(); err == nil || !strings.Contains(err.Error(), "error 6") {
		t.Fatalf("%v", err)
	}
}

func readFrame(c net.Conn) ([]byte, error) {
	raw := fd{c}
	var size [4]byte
	if err := raw.full(size[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint32(size[:]))
	return p, raw.full(p)
}

type fd struct{ net.Conn }

func (f fd) full(p []byte) error {
	for len(p) > 0 {
		n, err := f.Read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// TestFloor: the floor does move the bytes.
func TestFloor(t *testing.T) {
	ts := tools{floor: filepath.Join(t.TempDir(), "floor")}
	build := exec.Command("go", "build", "-o", ts.floor, "./floor")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s, err := ts.prepare("floor", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.floor.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = s.floor.Process.Pid
	if c, err := s.connect(); err != nil {
		t.Fatal(err)
	} else {
		_ = c.Close()
	}
	l, err := newLoad("topic", shape{records: 50, valueBytes: 300, batches: 2, partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	p, err := newProducer(s, l)
	if err != nil {
		t.Fatal(err)
	}
	defer p.c.close()
	before, err := processCPU(s.pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.run(100); err != nil {
		t.Fatal(err)
	}
	after, err := processCPU(s.pid)
	if err != nil || after <= before {
		t.Errorf("CPU clock went from %v to %v, %v", before, after, err)
	}
	var files []string
	for _, name := range []string{"0.log", "1.log"} {
		path := filepath.Join(s.dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() < 100*50*300 {
			t.Errorf("%s has %d bytes", name, info.Size())
		}
		files = append(files, path)
	}
	if err := sendfileAll(s, 100_000, files, 2); err != nil {
		t.Fatal(err)
	}
}

func TestSpread(t *testing.T) {
	if got := spreadOf([]float64{5, 1, 3}); got != (spread{3, 1, 5}) {
		t.Errorf("%v", got)
	}
	if got := spreadOf([]float64{4, 1, 3, 8}).format("%.1f"); got != "3.5 (1.0–8.0)" {
		t.Error(got)
	}
	var l latencies
	var took []time.Duration
	for i := range 2000 { // the second second is a hundred times slower
		took = append(took, time.Duration(1+i%1000)*time.Microsecond*time.Duration(1+99*(i/1000)))
	}
	l.add(paces{took: took}, 1000)
	if fmt.Sprint(l.p50, l.p99, l.p999) != "[500 50000] [990 99000] [999 99900]" || l.tail(0.5) != 991 || l.tail(0.999) != 99800 {
		t.Errorf("%v %v %v, %v %v of all", l.p50, l.p99, l.p999, l.tail(0.5), l.tail(0.999))
	}
	s := sample{cpu: time.Second, wall: 2 * time.Second, amount: 2e9}
	if s.cpuPerGB() != 0.5 || s.megabytesPerSecond() != 1000 {
		t.Errorf("%v CPU-s/GB, %v MB/s", s.cpuPerGB(), s.megabytesPerSecond())
	}
}
