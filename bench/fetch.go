package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"
)

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
		b.report.ratioAim("warm fetch against plain sendfile, "+name, all, "gregor", "floor", (*series).cpuPerGB, 1.15)
		b.report.ratioAim("the same with the client's CPU", all, "gregor", "floor", (*series).bothPerGB, 1.15)
	}
	return nil
}

// parallel runs f n times at once and returns an error if there was one.
func parallel(n int, f func() error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return cmp.Or(errs...)
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
