package controller

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/etcdembed"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/rs/zerolog"
)

func embedded(t testing.TB, dir string) *etcdembed.Store {
	t.Helper()
	s, err := etcdembed.Open(testContext(t), etcdembed.Options{Dir: dir, Log: zerolog.New(os.Stderr).Level(zerolog.WarnLevel)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// BenchmarkStartStop measures a controller on a memory store from nothing to
// nothing.
func BenchmarkStartStop(b *testing.B) {
	ctx := context.Background()
	for range b.N {
		s := memstore.New()
		c, err := New(Options{Store: s, NodeID: 1})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Start(ctx); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
		_ = s.Close()
	}
}

// BenchmarkEmbeddedStart measures etcd and controller, on a new directory and
// on one with a thousand topics.
func BenchmarkEmbeddedStart(b *testing.B) {
	for _, topics := range []int{0, 1000} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			dir := b.TempDir() + "/etcd"
			if topics > 0 {
				s := embedded(b, dir)
				c, _ := New(Options{Store: s, NodeID: 1, Exclusive: true})
				if err := c.Start(testContext(b)); err != nil {
					b.Fatal(err)
				}
				var req []metadata.NewTopic
				for i := range topics {
					req = append(req, metadata.NewTopic{Name: fmt.Sprintf("t%d", i), Partitions: 1, ReplicationFactor: 1})
				}
				c.CreateTopics(testContext(b), req, false)
				_ = c.Close()
				_ = s.Close()
			}
			var ready, started time.Duration
			for i := range b.N {
				d := dir
				if topics == 0 {
					d = fmt.Sprintf("%s%d", dir, i)
				}
				t0 := time.Now()
				s := embedded(b, d)
				ready += time.Since(t0)
				c, _ := New(Options{Store: s, NodeID: 1, Exclusive: true})
				if err := c.Start(testContext(b)); err != nil {
					b.Fatal(err)
				}
				started += time.Since(t0)
				_ = c.Close()
				_ = s.Close()
			}
			b.ReportMetric(float64(ready.Milliseconds())/float64(b.N), "ms-ready")
			b.ReportMetric(float64(started.Milliseconds())/float64(b.N), "ms-started")
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(rss(), "MB-rss")
		})
	}
}

func rss() float64 {
	b, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(b), "\n") {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			return kb / 1024
		}
	}
	return 0
}

// BenchmarkCreateTopics measures a thousand topics, one by one, at once from
// many callers, and in one request.
func BenchmarkCreateTopics(b *testing.B) {
	const topics = 1000
	for _, store := range []string{"memory", "etcd"} {
		for _, how := range []string{"serial", "parallel", "one-request", "one-topic"} {
			b.Run(store+"/"+how, func(b *testing.B) {
				for range b.N {
					b.StopTimer()
					var s metadata.Store = memstore.New()
					if store == "etcd" {
						s = embedded(b, b.TempDir()+"/etcd")
					}
					c, _ := New(Options{Store: s, NodeID: 1, Exclusive: true})
					if err := c.Start(testContext(b)); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					createMany(b, c, how, topics)
					b.StopTimer()
					_ = c.Close()
					_ = s.Close()
				}
			})
		}
	}
}

func createMany(b *testing.B, c *Controller, how string, topics int) {
	switch how {
	case "serial":
		for i := range topics {
			create(b, c, fmt.Sprintf("t%d", i), 1)
		}
	case "parallel":
		var wg sync.WaitGroup
		for i := range topics {
			wg.Add(1)
			go func() {
				defer wg.Done()
				create(b, c, fmt.Sprintf("t%d", i), 1)
			}()
		}
		wg.Wait()
	case "one-request":
		var req []metadata.NewTopic
		for i := range topics {
			req = append(req, metadata.NewTopic{Name: fmt.Sprintf("t%d", i), Partitions: 1, ReplicationFactor: 1})
		}
		for _, r := range c.CreateTopics(testContext(b), req, false) {
			if r.Err != nil {
				b.Fatal(r)
			}
		}
	case "one-topic":
		create(b, c, "large", int32(10*topics))
	}
}
