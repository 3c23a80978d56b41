package broker

import (
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// keys bounds the API keys that are counted apart.
const keys = 96

// latencyBounds are the upper bounds of the latency histogram's buckets.
var latencyBounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 10 * time.Second,
}

// Metrics counts what a Server does. Counting takes a few atomic additions for
// each request; the form that Prometheus wants is made when it asks. It is a
// prometheus.Collector.
type Metrics struct {
	bytesIn, bytesOut, sendfileBytes     atomic.Int64
	reads, writes, sendfiles             atomic.Int64 // system calls on sockets
	accepted, refused, open, throttled   atomic.Int64
	closedIdle, closedSlow, closedFaulty atomic.Int64
	memory                               func() int64

	apis [keys]apiMetrics
}

type apiMetrics struct {
	failed  atomic.Int64
	nanos   atomic.Int64
	buckets [len(latencyBounds) + 1]atomic.Int64
}

// NewMetrics returns Metrics at zero.
func NewMetrics() *Metrics { return &Metrics{memory: func() int64 { return 0 }} }

// request counts one request that took d; failed ones closed the connection.
func (m *Metrics) request(key int16, d time.Duration, failed bool) {
	if key < 0 || key >= keys {
		return
	}
	a := &m.apis[key]
	i := 0
	for i < len(latencyBounds) && d > latencyBounds[i] {
		i++
	}
	a.buckets[i].Add(1)
	a.nanos.Add(int64(d))
	if failed {
		a.failed.Add(1)
	}
}

// closed counts why a connection ended.
func (m *Metrics) closed(err error) {
	switch {
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, errDraining):
	case errors.Is(err, errIdle):
		m.closedIdle.Add(1)
	case errors.Is(err, errSlow), errors.Is(err, errNotReading):
		m.closedSlow.Add(1)
	default:
		m.closedFaulty.Add(1)
	}
}

// Open is the number of connections open now.
func (m *Metrics) Open() int64 { return m.open.Load() }

// SendfileBytes is the number of bytes that went from files to sockets without
// a copy.
func (m *Metrics) SendfileBytes() int64 { return m.sendfileBytes.Load() }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("gregor_network_"+name, help, labels, nil)
}

// Describe is part of prometheus.Collector; the set of metrics is not fixed.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect is part of prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(v int64, name, help string, labels ...string) {
		var keys, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			keys, values = append(keys, labels[i]), append(values, labels[i+1])
		}
		ch <- prometheus.MustNewConstMetric(desc(name, help, keys...), prometheus.CounterValue, float64(v), values...)
	}
	gauge := func(v int64, name, help string) {
		ch <- prometheus.MustNewConstMetric(desc(name, help), prometheus.GaugeValue, float64(v))
	}
	counter(m.bytesIn.Load(), "receive_bytes_total", "Bytes of request frames.")
	counter(m.bytesOut.Load(), "send_bytes_total", "Bytes of response frames.")
	counter(m.sendfileBytes.Load(), "sendfile_bytes_total", "Bytes of records sent without a copy; part of send_bytes_total.")
	const callsHelp = "System calls on sockets, those that had to wait included."
	counter(m.reads.Load(), "socket_calls_total", callsHelp, "call", "read")
	counter(m.writes.Load(), "socket_calls_total", callsHelp, "call", "write")
	counter(m.sendfiles.Load(), "socket_calls_total", callsHelp, "call", "sendfile")
	counter(m.accepted.Load(), "connections_accepted_total", "Connections accepted.")
	counter(m.throttled.Load(), "throttled_total", "Answers after which a client was held up because of a quota.")
	counter(m.refused.Load(), "connections_refused_total", "Connections closed at once because of a limit.")
	const closedHelp = "Connections that the broker closed, by reason."
	counter(m.closedIdle.Load(), "connections_closed_total", closedHelp, "reason", "idle")
	counter(m.closedSlow.Load(), "connections_closed_total", closedHelp, "reason", "slow")
	counter(m.closedFaulty.Load(), "connections_closed_total", closedHelp, "reason", "error")
	gauge(m.open.Load(), "connections", "Connections open now.")
	gauge(m.memory(), "buffer_bytes", "Bytes of buffers that requests and responses hold now.")
	for key := range m.apis {
		m.apis[key].collect(ch, int16(key))
	}
}

func (a *apiMetrics) collect(ch chan<- prometheus.Metric, key int16) {
	buckets := make(map[float64]uint64, len(latencyBounds))
	var count uint64
	for i := range latencyBounds {
		count += uint64(a.buckets[i].Load())
		buckets[latencyBounds[i].Seconds()] = count
	}
	count += uint64(a.buckets[len(latencyBounds)].Load())
	if count == 0 {
		return
	}
	name := kmsg.NameForKey(key)
	if name == "" {
		name = strconv.Itoa(int(key))
	}
	ch <- prometheus.MustNewConstHistogram(desc("request_seconds", "Time from a whole request to its whole response, by API.", "api"),
		count, time.Duration(a.nanos.Load()).Seconds(), buckets, name)
	ch <- prometheus.MustNewConstMetric(desc("request_errors_total", "Requests that ended their connection, by API.", "api"),
		prometheus.CounterValue, float64(a.failed.Load()), name)
}
