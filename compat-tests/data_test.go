package compat

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

const mebibyte = 1 << 20

// corpus is every shape of record: null and empty keys and values, headers of
// all kinds, every byte, text that compresses and noise that does not, 1 MiB.
func corpus(topic string, partition int32, seed uint64) []harness.Record {
	rng := rand.New(rand.NewPCG(seed, 1))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	text := []byte{}
	for i := range 500 {
		text = fmt.Appendf(text, "line %d of a text that compresses well\n", i)
	}
	big := noise(mebibyte)
	shapes := []harness.Record{
		{Key: []byte("key"), Value: []byte("value")},
		{Key: nil, Value: []byte("null key")},
		{Key: []byte("null value"), Value: nil},
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte("empty key")},
		{Key: []byte("empty value"), Value: []byte{}},
		{Key: []byte{}, Value: []byte{}},
		{Key: every, Value: every},
		{Key: []byte("h"), Value: []byte("headers"), Headers: []harness.Header{
			{Key: "a", Value: []byte("1")},
			{Key: "a", Value: []byte("2")},
			{Key: "null", Value: nil},
			{Key: "empty", Value: []byte{}},
			{Key: "größe-鍵", Value: every},
		}},
		{Key: []byte("text"), Value: text},
		{Key: []byte("noise"), Value: noise(70_000)},
		{Key: nil, Value: nil, Headers: []harness.Header{{Key: "only", Value: []byte("a header")}}},
		{Key: []byte("1 MiB"), Value: big},
		{Key: big[:40_000], Value: []byte("long key")},
	}
	for i := range 60 {
		shapes = append(shapes, harness.Record{Key: fmt.Appendf(nil, "k%d", i), Value: noise(rng.IntN(3000))})
	}
	// Milliseconds that lie in the past but well within any retention.
	base := time.Now().Add(-time.Hour).UnixMilli()
	for i := range shapes {
		shapes[i].Topic, shapes[i].Partition, shapes[i].Offset = topic, partition, int64(i)
		shapes[i].Timestamp = base + int64(i)*7
	}
	return shapes
}

// wantSame compares what was read with what was written, byte by byte.
func wantSame(t *testing.T, got, want []harness.Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("read %d records, want %d", len(got), len(want))
	}
	for i := range want {
		if !got[i].Same(want[i]) {
			t.Fatalf("record %d:\n got %s\nwant %s", i, got[i], want[i])
		}
		if want[i].Offset >= 0 && got[i].Offset != want[i].Offset {
			t.Fatalf("record %d: offset %d, want %d", i, got[i].Offset, want[i].Offset)
		}
	}
}

// TestRoundTrip: what any client writes, with any codec, every client reads back.
func TestRoundTrip(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, writer harness.Client) {
		for i, codec := range writer.Codecs() {
			t.Run(codec, func(t *testing.T) {
				topic := createTopic(t, b, 2, "max.message.bytes", strconv.Itoa(4*mebibyte))
				want := corpus(topic, 1, uint64(i))
				acked, err := harness.Produce(writer, t.TempDir(), want,
					harness.Conf("acks", "all", "compression.type", codec, "linger.ms", "5"))
				if err != nil {
					t.Fatal(err)
				}
				for i, a := range acked {
					if a.Partition != 1 || a.Offset != int64(i) || a.Timestamp != want[i].Timestamp {
						t.Fatalf("acknowledgement %d: partition %d offset %d timestamp %d, want 1, %d, %d",
							i, a.Partition, a.Offset, a.Timestamp, i, want[i].Timestamp)
					}
				}
				for _, name := range clientNames(b) {
					t.Run(name, func(t *testing.T) {
						reader := client(t, b, name)
						if !slices.Contains(reader.Codecs(), codec) {
							t.Skipf("%s has no %s", name, codec)
						}
						got, err := harness.Consume(reader, topic, 1, "earliest", len(want), "-")
						if err != nil {
							t.Fatal(err)
						}
						wantSame(t, got, want)
					})
				}
			})
		}
	})
}

// TestAcks: with acks 0, 1 and all, records arrive once and in order.
func TestAcks(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		for _, acks := range []string{"0", "1", "all"} {
			t.Run(acks, func(t *testing.T) {
				topic := createTopic(t, b, 1)
				var want []harness.Record
				base := time.Now().UnixMilli() - 10_000
				for i := range 500 {
					want = append(want, harness.Record{Topic: topic, Offset: int64(i), Timestamp: base + int64(i), Key: []byte{byte(i)}, Value: fmt.Appendf(nil, "value %d", i)})
				}
				conf := []string{"acks", acks}
				if acks != "all" {
					conf = append(conf, "enable.idempotence", "false")
				}
				acked, err := harness.Produce(c, t.TempDir(), want, harness.Conf(conf...))
				if err != nil {
					t.Fatal(err)
				}
				for i, a := range acked {
					if want := map[bool]int64{true: -1, false: int64(i)}[acks == "0"]; a.Offset != want {
						t.Fatalf("acknowledged offset %d, want %d", a.Offset, want)
					}
				}
				got, err := harness.Consume(c, topic, 0, "0", len(want), "-")
				if err != nil {
					t.Fatal(err)
				}
				wantSame(t, got, want)
			})
		}
	})
}

// TestIdempotent: an idempotent producer gets a producer id, and the broker
// knows its last sequence number.
func TestIdempotent(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		topic := createTopic(t, b, 1)
		var recs []harness.Record
		for i := range 300 {
			recs = append(recs, harness.Record{Topic: topic, Offset: int64(i), Timestamp: time.Now().UnixMilli(), Value: fmt.Appendf(nil, "%d", i)})
		}
		if _, err := harness.Produce(c, t.TempDir(), recs, harness.Conf("acks", "all", "enable.idempotence", "true", "compression.type", "lz4")); err != nil {
			t.Fatal(err)
		}
		states := producers(t, b, topic, 0)
		if len(states) != 1 {
			t.Fatalf("%d active producers, want 1", len(states))
		}
		if s := states[0]; s.ProducerID < 0 || s.LastSequence != 299 || s.ProducerEpoch != 0 {
			t.Fatalf("producer state %+v, want epoch 0 and last sequence 299", s)
		}
		got, err := harness.Consume(c, topic, 0, "earliest", len(recs), "-")
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, recs)
	})
}

// TestKeyedPartitioning: clients with murmur2 send a key to the same partition.
func TestKeyedPartitioning(t *testing.T) {
	onAll(t, func(t *testing.T, b *harness.Broker) {
		placed := map[string]int32{}
		for _, name := range clientNames(b) {
			c := client(t, b, name)
			topic := createTopic(t, b, 7)
			var recs []harness.Record
			for i := range 200 {
				recs = append(recs, harness.Record{Topic: topic, Partition: -1, Timestamp: -1, Key: fmt.Appendf(nil, "key-%d", i), Value: []byte("v")})
			}
			conf := []string{"acks", "all"}
			if name == "librdkafka" {
				conf = append(conf, "partitioner", "murmur2_random")
			}
			acked, err := harness.Produce(c, t.TempDir(), recs, harness.Conf(conf...))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			count := map[int32]int{}
			for _, a := range acked {
				count[a.Partition]++
				if p, ok := placed[string(a.Key)]; ok && p != a.Partition {
					t.Fatalf("%s puts %s into partition %d, others into %d", name, a.Key, a.Partition, p)
				}
				placed[string(a.Key)] = a.Partition
			}
			if len(count) != 7 {
				t.Fatalf("%s used partitions %v of 7", name, count)
			}
			for p, n := range count {
				got, err := harness.Consume(c, topic, p, "earliest", n, "-")
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for _, r := range got {
					if placed[string(r.Key)] != p {
						t.Fatalf("%s: %s lies in partition %d, was acknowledged in %d", name, r.Key, p, placed[string(r.Key)])
					}
				}
			}
		}
	})
}

// TestSeek: by offset and by timestamp, and what the ends of a partition are.
func TestSeek(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		topic := createTopic(t, b, 1)
		base := time.Now().Add(-2 * time.Hour).UnixMilli()
		var recs []harness.Record
		for i := range 1000 {
			recs = append(recs, harness.Record{Topic: topic, Offset: int64(i), Timestamp: base + int64(i)*1000, Value: fmt.Appendf(nil, "%0200d", i)})
		}
		// Several batches, so that offsets lie within and between them.
		for i := 0; i < len(recs); i += 100 {
			if _, err := harness.Produce(c, t.TempDir(), recs[i:i+100], harness.Conf("acks", "all", "linger.ms", "20")); err != nil {
				t.Fatal(err)
			}
		}
		lines, err := c.Do("offsets", topic, "0")
		if err != nil || lines[0][0] != "0" || lines[0][1] != "1000" {
			t.Fatalf("offsets: %v %v, want 0 and 1000", lines, err)
		}
		for _, tc := range []struct{ ts, want int64 }{
			{0, 0},
			{base, 0},
			{base + 1, 1},
			{base + 500*1000, 500},
			{base + 500*1000 - 999, 500},
			{base + 999*1000, 999},
			{base + 999*1000 + 1, -1},
		} {
			got, err := harness.Int(c, 0, "time", topic, "0", strconv.FormatInt(tc.ts, 10))
			if err != nil || got != tc.want {
				t.Errorf("first record at or after %d: %d, %v, want %d", tc.ts-base, got, err, tc.want)
			}
		}
		for _, offset := range []int{0, 1, 99, 100, 555, 999} {
			n := min(150, 1000-offset)
			got, err := harness.Consume(c, topic, 0, strconv.Itoa(offset), n, "-")
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, got, recs[offset:offset+n])
		}
		got, err := harness.Consume(c, topic, 0, fmt.Sprintf("@%d", base+700*1000), 300, "-")
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, recs[700:])
	})
}

// TestBigFetch: large responses over many partitions, whole and in order.
func TestBigFetch(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		const partitions, each = 24, 10
		topic := createTopic(t, b, partitions)
		want := map[int32][]harness.Record{}
		var all []harness.Record
		rng := rand.New(rand.NewPCG(9, 9))
		for i := range partitions * each {
			v := make([]byte, 100_000)
			for j := range v {
				v[j] = byte(rng.Uint32())
			}
			p := int32(i % partitions)
			r := harness.Record{Topic: topic, Partition: p, Offset: int64(len(want[p])), Timestamp: time.Now().UnixMilli(), Value: v}
			want[p] = append(want[p], r)
			all = append(all, r)
		}
		if _, err := harness.Produce(c, t.TempDir(), all, harness.Conf("acks", "all")); err != nil {
			t.Fatal(err)
		}
		conf := harness.Conf("fetch.min.bytes", "1000000", "max.partition.fetch.bytes", "52428800")
		for p := int32(0); p < partitions; p += 5 {
			got, err := harness.Consume(c, topic, p, "earliest", each, conf)
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, got, want[p])
		}
	})
}

// TestAutoCreate: a producer's first record makes the topic.
func TestAutoCreate(t *testing.T) {
	onEach(t, func(t *testing.T, b *harness.Broker, c harness.Client) {
		topic := topicName(t)
		t.Cleanup(func() { _, _ = franz(t, b).Do("delete", topic) })
		recs := []harness.Record{{Topic: topic, Partition: -1, Timestamp: time.Now().UnixMilli(), Key: []byte("k"), Value: []byte("first")}}
		acked, err := harness.Produce(c, t.TempDir(), recs, harness.Conf("acks", "all"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := harness.Consume(c, topic, acked[0].Partition, "earliest", 1, "-")
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, acked)
	})
}

func tempFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
