package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

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
