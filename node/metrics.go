package node

import (
	"math"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
)

// metricsHandler serves the metrics of one node from a registry of its own, so
// that several nodes in a process do not meet.
func metricsHandler(version string, parts ...prometheus.Collector) http.Handler {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gregor_build_info", Help: "1, with the version as labels.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(parts...)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r})
}

// clusterCollector reads what the node knows when it is asked; nothing is
// counted in between.
type clusterCollector struct {
	image      func() *metadata.Image
	partitions func() replication.Stats
	dirs       func() []storage.DirInfo
	throttles  func() (asLeader, asFollower replication.ThrottleStats) // nil without partitions
	moves      func() replication.MoveStats                            // nil without partitions
	cleaner    func() storage.CleanerStats
	now        func() time.Time
	unclean    func() int64
}

func gaugeDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("gregor_"+name, help, labels, nil)
}

// Describe sends nothing: which series there are depends on the log
// directories.
func (c *clusterCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *clusterCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(name, help string, value float64) {
		ch <- prometheus.MustNewConstMetric(gaugeDesc(name, help), prometheus.GaugeValue, value)
	}
	img := c.image()
	gauge("cluster_topics", "Topics in the cluster.", float64(img.TopicCount()))
	gauge("cluster_brokers", "Brokers registered in the cluster.", float64(len(img.Brokers())))
	gauge("metadata_revision", "Revision of the metadata applied last.", float64(img.Revision))
	ch <- prometheus.MustNewConstMetric(gaugeDesc("unclean_elections_total", "Leaders elected while this node was the controller that may lack acknowledged records."),
		prometheus.CounterValue, float64(c.unclean()))

	s := c.partitions()
	gauge("partitions", "Partitions with a replica on this broker.", float64(s.Partitions))
	gauge("partitions_led", "Partitions that this broker leads.", float64(s.Leaders))
	gauge("partitions_under_replicated", "Partitions led here whose in-sync set is smaller than their replicas.", float64(s.UnderReplicated))
	gauge("partitions_under_min_isr", "Partitions led here whose in-sync set is smaller than min.insync.replicas.", float64(s.UnderMinISR))
	gauge("partitions_at_min_isr", "Partitions led here whose in-sync set is just min.insync.replicas.", float64(s.AtMinISR))
	gauge("partitions_leaderless", "Partitions with a replica here that have no leader.", float64(s.Leaderless))
	gauge("partitions_offline", "Replicas in a log directory that failed.", float64(s.OfflineReplicas))

	if c.throttles != nil {
		asLeader, asFollower := c.throttles()
		collectThrottle(ch, "leader", asLeader)
		collectThrottle(ch, "follower", asFollower)
	}
	if c.moves != nil {
		moves := c.moves()
		gauge("replicas_moving", "Replicas on their way from one log directory of this broker to another.", float64(moves.Moving))
		ch <- prometheus.MustNewConstMetric(gaugeDesc("replica_moved_bytes_total", "Bytes copied from one log directory of this broker to another."),
			prometheus.CounterValue, float64(moves.Bytes))
	}
	for _, d := range c.dirs() {
		dir := func(name, help string, value float64) {
			ch <- prometheus.MustNewConstMetric(gaugeDesc(name, help, "dir"), prometheus.GaugeValue, value, d.Path)
		}
		online := 1.0
		if d.Err != nil {
			online = 0
		}
		dir("log_dir_online", "1 while the log directory works.", online)
		dir("log_dir_volume_bytes", "Size of the volume that holds the log directory.", float64(d.TotalBytes))
		dir("log_dir_usable_bytes", "Bytes that can still be written there.", float64(d.UsableBytes))
	}
	c.collectCleaner(ch)
}

// collectThrottle tells of a throttle of replication what Kafka tells as
// LeaderReplication and FollowerReplication.
func collectThrottle(ch chan<- prometheus.Metric, side string, t replication.ThrottleStats) {
	ch <- prometheus.MustNewConstMetric(gaugeDesc("replication_throttled_bytes_total", "Bytes replicated of partitions that are listed to be throttled.", "side"),
		prometheus.CounterValue, float64(t.Bytes), side)
	if t.Limit != math.MaxInt64 {
		ch <- prometheus.MustNewConstMetric(gaugeDesc("replication_throttle_bytes_per_second", "Limit for the replication of such partitions, while one is set.", "side"),
			prometheus.GaugeValue, float64(t.Limit), side)
	}
}

// collectCleaner tells of log compaction what Kafka tells under kafka.log.
func (c *clusterCollector) collectCleaner(ch chan<- prometheus.Metric) {
	s := c.cleaner()
	send := func(kind prometheus.ValueType, name, help string, value float64) {
		ch <- prometheus.MustNewConstMetric(gaugeDesc("log_cleaner_"+name, help), kind, value)
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	send(gauge, "max_dirty_percent", "Dirty share of the log that needs cleaning most.", float64(s.MaxDirtyPercent))
	send(gauge, "max_buffer_utilization_percent", "How full the map of keys became in the last clean.", float64(s.MaxBufferUtilization))
	send(gauge, "last_clean_seconds", "How long the last clean took.", s.LastCleanTime.Seconds())
	if !s.LastRun.IsZero() {
		send(gauge, "seconds_since_last_run", "Time since a log to clean was last looked for.", c.now().Sub(s.LastRun).Seconds())
	}
	send(counter, "cleanings_total", "Logs cleaned.", float64(s.Cleanings))
	send(counter, "read_bytes_total", "Bytes that cleaning read.", float64(s.BytesRead))
	send(counter, "written_bytes_total", "Bytes that cleaning wrote.", float64(s.BytesWritten))
	send(counter, "read_records_total", "Records that cleaning looked at.", float64(s.RecordsRead))
	send(counter, "retained_records_total", "Records that cleaning left.", float64(s.RecordsRetained))
	for path, u := range s.Uncleanable {
		dir := func(name, help string, value float64) {
			ch <- prometheus.MustNewConstMetric(gaugeDesc("log_cleaner_"+name, help, "dir"), gauge, value, path)
		}
		dir("uncleanable_partitions", "Logs whose clean failed.", float64(u.Logs))
		dir("uncleanable_bytes", "Bytes in them that wait to be cleaned.", float64(u.Bytes))
	}
}
