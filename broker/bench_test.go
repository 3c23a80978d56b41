package broker

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
)

// cpu is the time that this process, broker and client, has computed.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFetch fetches responses of several sizes over loopback. The CPU time
// contains the client's, which is the same for all ways of sending.
func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{1, 8, 16, 32, 64, 128, 256, 1024} {
		b.Run(fmt.Sprint(size, "KiB"), func(b *testing.B) {
			br := startBroker(b, nil)
			id := br.createTopic("t", 1, nil)
			c := br.dial()
			buf := make([]byte, 4<<20)
			c.raw(c.frame(addRecords(produceRequest(9, 1), "t", id, 0, records(protocol.BatchParams{}, 1, size<<10-200))), buf)
			r := fetchRequest(12)
			addFetch(r, "t", id, 0, 0)
			frame := c.frame(r)
			b.SetBytes(int64(size) << 10)
			start := cpu()
			for b.Loop() {
				c.raw(frame, buf)
			}
			b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkProduce produces batches of several sizes over loopback.
func BenchmarkProduce(b *testing.B) {
	for _, size := range []int{1, 16, 128, 900} {
		b.Run(fmt.Sprint(size, "KiB"), func(b *testing.B) {
			br := startBroker(b, nil)
			id := br.createTopic("t", 1, nil)
			c := br.dial()
			buf := make([]byte, 4096)
			frame := c.frame(addRecords(produceRequest(9, 1), "t", id, 0, records(protocol.BatchParams{}, 1, size<<10-200)))
			b.SetBytes(int64(size) << 10)
			start := cpu()
			for b.Loop() {
				c.raw(frame, buf)
			}
			b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op")
		})
	}
}
