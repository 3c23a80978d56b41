package main

import (
	"fmt"
	"time"

	"github.com/gregor-broker/gregor/protocol"
)

const megabyte = 1 << 20

// settle lets what the last step left behind come to its end.
const settle = 300 * time.Millisecond

// produceOnce produces bytes of a load into a topic of its own and removes it.
func (b *bench) produceOnce(s *subject, sh shape, size int64, configs []string, timed func(int64, func() error) error) error {
	b.topics++
	topic := fmt.Sprintf("produce-%d", b.topics)
	l, err := newLoad(topic, sh)
	if err != nil {
		return err
	}
	if s.broker != nil {
		if err := s.createTopic(topic, int32(sh.partitions), configs...); err != nil {
			return err
		}
	}
	p, err := newProducer(s, l)
	if err != nil {
		return err
	}
	defer p.c.close()
	if err := p.run(8); err != nil { // files, buffers and windows are there
		return err
	}
	time.Sleep(settle)
	n := max(int(size/l.plainBytes), 1)
	if err := timed(int64(n)*l.plainBytes, func() error { return p.run(n) }); err != nil {
		return err
	}
	if s.broker != nil {
		return s.deleteTopic(topic)
	}
	return nil
}

func (b *bench) producing(line string, s *subject, sh shape, size int64, configs ...string) contender {
	return contender{line, s, func(timed func(int64, func() error) error) error {
		return b.produceOnce(s, sh, size, configs, timed)
	}}
}

// warm gives the JVM the work that it is about to be measured with.
func (b *bench) warm(sh shape, size int64, configs ...string) error {
	if b.kafka == nil || size <= 0 {
		return nil
	}
	return b.produceOnce(b.kafka, sh, size, configs, func(bytes int64, f func() error) error {
		s, err := b.kafka.timed(bytes, f)
		if err == nil {
			b.logf("  kafka warms up: %d MiB, %.3f CPU-s/GB", bytes/megabyte, s.cpuPerGB())
			b.cold = append(b.cold, fmt.Sprintf("%s %.3f", shapeName(sh), s.cpuPerGB()))
		}
		return err
	})
}

func shapeName(sh shape) string {
	return fmt.Sprintf("%s, %d x %d x %d B", codecName(sh.codec), sh.batches, sh.records, sh.valueBytes)
}

func codecName(c protocol.Codec) string {
	return []string{"none", "gzip", "snappy", "lz4", "zstd"}[c]
}

// bulkShapes are scenario 1: one large batch in a request, and what a Java
// producer with batch.size=65536 sends.
var bulkShapes = []struct {
	name string
	shape
}{
	{"1 MiB requests, one batch each", shape{records: 1000, valueBytes: 1024, batches: 1, partitions: 6}},
	{"384 KiB requests, a batch of 64 KiB for each of 6 partitions", shape{records: 63, valueBytes: 1024, batches: 6, partitions: 6}},
}

func (b *bench) bulkProduce() error {
	for i, bulk := range bulkShapes {
		b.logf("scenario 1: bulk produce, %s", bulk.name)
		warm := b.warmup
		if i > 0 {
			warm /= 4
		}
		if err := b.warm(bulk.shape, warm); err != nil {
			return err
		}
		all, err := b.interleave(b.contenders(func(s *subject) contender {
			return b.producing(s.name, s, bulk.shape, b.size)
		}), b.reps)
		if err != nil {
			return err
		}
		b.report.table("1. Bulk produce, uncompressed: "+bulk.name, "GB", all)
		b.report.ratioAim("bulk produce against Kafka, "+bulk.name, all, "gregor", "kafka", (*series).cpuPerGB, 0.5)
		b.report.ratioAim("bulk produce against the floor, "+bulk.name, all, "gregor", "floor", (*series).cpuPerGB, 1.5)
	}
	return nil
}

func (b *bench) compressedProduce() error {
	for _, codec := range []protocol.Codec{protocol.LZ4, protocol.Zstd, protocol.Snappy, protocol.Gzip} {
		sh := shape{records: 250, valueBytes: 1024, batches: 6, partitions: 6, codec: codec}
		probe, err := newLoad("probe", sh)
		if err != nil {
			return err
		}
		name := codecName(codec)
		b.logf("scenario 3: compressed produce, %s, %.1f to 1", name, float64(probe.plainBytes)/float64(probe.wireBytes))
		if err := b.warm(sh, b.warmup/4); err != nil {
			return err
		}
		var cs []contender
		for _, s := range b.subjects() {
			cs = append(cs, b.producing(s.name, s, sh, b.size))
			if s.name == "gregor" {
				cs = append(cs, b.producing("gregor strict", s, sh, b.size, "batch.validation=strict"))
			}
		}
		all, err := b.interleave(cs, b.reps)
		if err != nil {
			return err
		}
		b.report.table(fmt.Sprintf("3. Compressed produce: %s, %.1f to 1, batches of %d KiB compressed", name,
			float64(probe.plainBytes)/float64(probe.wireBytes), probe.batchBytes>>10), "uncompressed GB", all)
		b.report.ratioAim("compressed produce, "+name, all, "gregor", "kafka", (*series).cpuPerGB, 0.3)
	}
	return nil
}
