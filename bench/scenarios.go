package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/gregor-broker/gregor/protocol"
	"golang.org/x/sys/unix"
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
		b.report.ratioAim("bulk produce against Kafka, "+bulk.name, all, "gregor", "kafka", 0.5)
		b.report.ratioAim("bulk produce against the floor, "+bulk.name, all, "gregor", "floor", 1.5)
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
		b.report.ratioAim("compressed produce, "+name, all, "gregor", "kafka", 0.3)
	}
	return nil
}

// warmFetch reads a log that is in the page cache.
func (b *bench) warmFetch() error {
	b.logf("scenario 4: warm catch-up fetch")
	const topic = "fetched"
	sh := bulkShapes[1].shape
	l, err := newLoad(topic, sh)
	if err != nil {
		return err
	}
	n := max(int(b.size/l.plainBytes), 8)
	end := int64(n * sh.records)
	for _, s := range b.subjects() {
		if s.broker == nil {
			continue
		}
		if err := s.createTopic(topic, int32(sh.partitions)); err != nil {
			return err
		}
		defer s.deleteTopic(topic) //nolint:errcheck // the broker ends soon
		p, err := newProducer(s, l)
		if err != nil {
			return err
		}
		err = p.run(n)
		p.c.close()
		if err != nil {
			return err
		}
	}
	for _, v := range []struct{ max, consumers int }{{megabyte, 1}, {8 * megabyte, 1}, {megabyte, 4}} {
		if b.kafka != nil { // the JVM compiles its way of fetching
			for range max(1, int(b.warmup/b.size/2)) {
				if _, err := fetchAll(b.kafka, l, end, v.max, v.consumers); err != nil {
					return err
				}
			}
		}
		all, err := b.interleave(b.contenders(func(s *subject) contender {
			return contender{s.name, s, func(timed func(int64, func() error) error) error {
				time.Sleep(settle)
				if s.broker == nil {
					files, err := b.gregor.logFiles(topic, sh.partitions)
					if err != nil {
						return err
					}
					chunk := v.max / l.batchBytes * l.batchBytes
					return timed(int64(v.consumers)*int64(n)*l.wireBytes, func() error { return sendfileAll(s, chunk, files, v.consumers) })
				}
				return timed(int64(v.consumers)*int64(n)*l.wireBytes, func() error {
					_, err := fetchAll(s, l, end, v.max, v.consumers)
					return err
				})
			}}
		}), b.reps)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%d MiB of each of 6 partitions, %d consumers", v.max/megabyte, v.consumers)
		b.report.table("4. Catch-up fetch, warm page cache: "+name, "GB", all)
		b.report.ratioAim("warm fetch against plain sendfile, "+name, all, "gregor", "floor", 1.15)
	}
	return nil
}

func parallel(n int, f func() error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func fetchAll(s *subject, l *load, end int64, partitionMax, consumers int) (int64, error) {
	var mu sync.Mutex
	var total int64
	err := parallel(consumers, func() error {
		c, err := newConsumer(s, l, end, partitionMax)
		if err != nil {
			return err
		}
		defer c.c.close()
		err = c.run()
		mu.Lock()
		defer mu.Unlock()
		total += c.bytes
		return err
	})
	return total, err
}

func sendfileAll(s *subject, chunk int, files []string, consumers int) error {
	return parallel(consumers, func() error {
		c, err := dialRaw(s.addr)
		if err != nil {
			return err
		}
		defer c.close()
		if err := c.write(fmt.Appendf(nil, "fetch %d %s\n", chunk, strings.Join(files, " "))); err != nil {
			return err
		}
		request, head := make([]byte, 64), make([]byte, 8)
		for {
			if err := c.write(request); err != nil {
				return err
			}
			if err := c.read(head); err != nil {
				return err
			}
			n := int(binary.BigEndian.Uint64(head))
			if n == 0 {
				return nil
			}
			if err := c.discard(n); err != nil {
				return err
			}
		}
	})
}

// latency measures acknowledgements at a fixed rate: records leave when they
// are due, whatever the answers do, and their time counts from then.
func (b *bench) latency() error {
	for _, rate := range []int{1000, 5000} {
		b.logf("scenario 7: latency, %d records/s of 100 B, acks=all", rate)
		rows := map[string]*latencies{}
		var order []string
		for _, s := range b.subjects() {
			rows[s.name] = &latencies{}
			order = append(order, s.name)
		}
		for range b.reps {
			for _, s := range b.subjects() {
				q, err := b.latencyOnce(s, rate)
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				rows[s.name].add(q, rate)
				sec := rows[s.name]
				n := len(sec.p50) - 1
				b.logf("  %-8s last second: p50 %5.0f  p99 %6.0f  p99.9 %6.0f us; %.1f us CPU per record, stolen %.1f%%",
					s.name, sec.p50[n], sec.p99[n], sec.p999[n], q.cpu, 100*q.stolen)
			}
		}
		b.report.latencies(fmt.Sprintf("7. Acknowledgement at %d records/s (open loop, 100 B, acks=all), microseconds; median second", rate), order, rows)
		if b.kafka != nil && rate == 1000 {
			b.report.aim("p99.9 of an acknowledgement at 1,000 records/s against Kafka, median of the seconds",
				spreadOf(rows["gregor"].p999).median/spreadOf(rows["kafka"].p999).median, 0.2)
		}
	}
	return nil
}

// paces is one repetition: how long each acknowledgement took, in order.
type paces struct {
	took        []time.Duration
	cpu, stolen float64
}

// latencies are the quantiles of each second: a machine that stands still for
// some milliseconds now and then, whoever's fault it is, spoils the tail of one
// second, and not the median. all has the tail of everything.
type latencies struct {
	p50, p99, p999, cpu []float64
	all                 []time.Duration
	mostStolen          float64
}

func (l *latencies) add(q paces, rate int) {
	l.cpu, l.mostStolen = append(l.cpu, q.cpu), max(l.mostStolen, q.stolen)
	l.all = append(l.all, q.took...)
	for second := range slices.Chunk(q.took, rate) {
		slices.Sort(second)
		l.p50 = append(l.p50, quantile(second, 0.5))
		l.p99 = append(l.p99, quantile(second, 0.99))
		l.p999 = append(l.p999, quantile(second, 0.999))
	}
}

// tail is the quantile of all acknowledgements.
func (l *latencies) tail(q float64) float64 {
	slices.Sort(l.all)
	return quantile(l.all, q)
}

// quantile of sorted durations, in microseconds: what the share q does not
// exceed.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]) / 1e3
}

// latencyOnce has the subject alone on its CPU: the others are stopped, and
// strangers stand back.
func (b *bench) latencyOnce(s *subject, rate int) (paces, error) {
	for _, other := range b.subjects() {
		if other != s {
			other.pause()
			defer other.resume()
		}
	}
	b.topics++
	l, err := newLoad(fmt.Sprintf("latency-%d", b.topics), shape{records: 1, valueBytes: 100, batches: 1, partitions: 1})
	if err != nil {
		return paces{}, err
	}
	var p *producer
	if s.broker == nil {
		p = &producer{l: l, seq: make([]int32, 1), floor: true}
		if p.c, err = dialRaw(s.addr); err == nil {
			err = p.c.write(fmt.Appendf(nil, "echo %d %d\n", len(l.frames[0].bytes), 64))
		}
	} else {
		if err := s.createTopicPatiently(l.topic); err != nil {
			return paces{}, err
		}
		defer s.deleteTopic(l.topic) //nolint:errcheck // nothing depends on it
		p, err = newProducer(s, l)
	}
	if err != nil {
		return paces{}, err
	}
	defer p.c.close()
	for _, pid := range []int{s.pid, os.Getpid()} {
		b.favoured = favour(pid, true)
		defer favour(pid, false)
	}
	if s.broker != nil {
		time.Sleep(time.Second) // it was stopped, and catches up
	}
	warm := b.latencyTime / 4
	if s.name == "kafka" && !b.latencyWarmed {
		warm, b.latencyWarmed = b.latencyWarm, true
	}
	if _, err := p.paced(5000, warm); err != nil {
		return paces{}, err
	}
	cpu0, err := processCPU(s.pid)
	if err != nil {
		return paces{}, err
	}
	steal0, total0 := stolen()
	took, err := p.paced(rate, b.latencyTime)
	if err != nil {
		return paces{}, err
	}
	steal1, total1 := stolen()
	cpu1, err := processCPU(s.pid)
	if err != nil {
		return paces{}, err
	}
	return paces{took, float64(cpu1-cpu0) / 1e3 / float64(len(took)), float64(steal1-steal0) / float64(max(total1-total0, 1))}, nil
}

// createTopicPatiently creates a topic on a broker that was stopped for a while
// and may first have to find its place again.
func (s *subject) createTopicPatiently(topic string) error {
	var err error
	for range 20 {
		time.Sleep(settle)
		if err = s.createTopic(topic, 1); err == nil {
			return nil
		}
	}
	return err
}

// paced sends requests at a rate and returns how long each took from when it
// was due until its answer was there.
func (p *producer) paced(rate int, d time.Duration) ([]time.Duration, error) {
	n := int(d.Seconds() * float64(rate))
	gap := time.Second / time.Duration(rate)
	took := make([]time.Duration, 0, n)
	start := time.Now().Add(10 * time.Millisecond)
	failed := make(chan error, 1)
	go func() {
		// A thread of its own that sleeps exactly.
		runtime.LockOSThread()
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		for i := range n {
			sleepUntil(start.Add(time.Duration(i) * gap))
			f := &p.l.frames[i%len(p.l.frames)]
			p.stamp(f)
			if err := p.c.write(f.bytes); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	want := 64
	for i := range n {
		var err error
		if p.floor {
			_, err = p.c.readN(want)
		} else {
			err = p.answer()
		}
		if err != nil {
			return nil, errors.Join(err, <-failed)
		}
		took = append(took, time.Since(start.Add(time.Duration(i)*gap)))
	}
	return took, <-failed
}

func sleepUntil(t time.Time) {
	for {
		d := time.Until(t)
		if d <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil)
	}
}

// startAndFootprint measures from exec in an empty directory to the first
// acknowledged record, then the memory at rest.
func (b *bench) startAndFootprint() error {
	b.logf("scenario 12: start and footprint")
	first := map[string][]float64{}
	rss, anon, idleCPU := map[string]float64{}, map[string]float64{}, map[string]float64{}
	order := []string{"gregor", "floor"}
	if b.kafka != nil {
		order = []string{"gregor", "kafka", "floor"}
	}
	for rep := range b.reps {
		for _, name := range order {
			s, err := b.tools.prepare(name, b.dir)
			if err != nil {
				return err
			}
			took, err := s.firstRecord()
			if err == nil && rep == 0 {
				time.Sleep(b.idle)
				cpu0, _ := processCPU(s.pid)
				time.Sleep(b.idle)
				cpu1, _ := processCPU(s.pid)
				var r, a int64
				r, a, err = memory(s.pid)
				rss[name], anon[name] = float64(r)/1e6, float64(a)/1e6
				idleCPU[name] = float64(cpu1-cpu0) / 1e6 / b.idle.Seconds()
			}
			s.stop()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			first[name] = append(first[name], took.Seconds()*1e3)
			b.logf("  %-8s first acknowledged record after %.1f ms", name, took.Seconds()*1e3)
		}
	}
	sizes := map[string]float64{
		"gregor": float64(diskSize(b.tools.gregor)) / 1e6,
		"floor":  float64(diskSize(b.tools.floor)) / 1e6,
	}
	if b.kafka != nil {
		jars, err := harness.KafkaJars()
		if err != nil {
			return err
		}
		sizes["kafka"] = float64(diskSize(jars)) / 1e6
	}
	after := map[string]float64{}
	for _, s := range b.subjects() {
		if r, _, err := memory(s.pid); err == nil {
			after[s.name] = float64(r) / 1e6
		}
	}
	b.report.footprint(order, first, rss, anon, idleCPU, after, sizes, b.idle)
	b.report.limitAim("start to first acknowledged record, ms", spreadOf(first["gregor"]).median, 150)
	b.report.limitAim("resident when idle, MB", rss["gregor"], 45)
	b.report.limitAim("stripped binary, MB", sizes["gregor"], 35)
	return nil
}

// firstRecord starts the subject and returns how long it took until a record
// was acknowledged.
func (s *subject) firstRecord() (time.Duration, error) {
	l, err := newLoad("first", shape{records: 1, valueBytes: 100, batches: 1, partitions: 1})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := s.launch(); err != nil {
		return 0, err
	}
	c, err := s.connect()
	if err != nil {
		return 0, err
	}
	_ = c.Close()
	if s.broker == nil {
		c, err := dialRaw(s.addr)
		if err != nil {
			return 0, err
		}
		defer c.close()
		if err := c.write([]byte("echo 64 64\n" + strings.Repeat(".", 64))); err != nil {
			return 0, err
		}
		_, err = c.readN(64)
		return time.Since(start), err
	}
	deadline := start.Add(90 * time.Second)
	for {
		err := s.createTopic(l.topic, 1)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return 0, err
		}
		time.Sleep(time.Millisecond)
	}
	p, err := newProducer(s, l)
	if err != nil {
		return 0, err
	}
	defer p.c.close()
	err = p.run(1)
	return time.Since(start), err
}

func (c *rawConn) readN(n int) ([]byte, error) {
	p := make([]byte, n)
	return p, c.read(p)
}

// profile keeps a CPU profile of gregor for each scenario.
func (b *bench) profileTo(name string) (stop func()) {
	if b.profiles == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		data, err := get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", b.http, b.profileSeconds))
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profiles, name+".pprof"), data, 0o644)
		}
		if err != nil {
			b.logf("profile: %v", err)
		}
	}()
	return func() { <-done }
}
