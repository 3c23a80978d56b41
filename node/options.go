package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/broker"
	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

func serverOptions(ctx context.Context, v *config.Values, h *handler.Broker, log zerolog.Logger, m *broker.Metrics) (broker.Options, error) {
	overrides, err := connectionOverrides(ctx, v)
	if err != nil {
		return broker.Options{}, err
	}
	o := broker.Options{
		Handler: h, Log: log, Metrics: m,
		MaxRequestBytes:      v.Int("socket.request.max.bytes"),
		MaxIdle:              v.Duration("connections.max.idle.ms"),
		MaxConnections:       unlimited(v.Int("max.connections")),
		MaxConnectionsPerIP:  unlimited(v.Int("max.connections.per.ip")),
		MaxConnectionsByAddr: overrides,
		MaxDescriptor:        descriptorsForClients(vfs.MaxOpen()),
		SendBuffer:           systemDefault(v, "socket.send.buffer.bytes"),
		ReceiveBuffer:        systemDefault(v, "socket.receive.buffer.bytes"),
		QuotaWindows:         v.Int("quota.window.num"),
		QuotaWindow:          time.Duration(v.Int("quota.window.size.seconds")) * time.Second,
		MutationQuotaWindows: v.Int("controller.quota.window.num"),
		MutationQuotaWindow:  time.Duration(v.Int("controller.quota.window.size.seconds")) * time.Second,
	}
	if n := v.Int64("queued.max.request.bytes"); n > 0 {
		o.RequestMemory = n
	}
	return o, nil
}

// descriptorsForClients is what connections may take of the process's file
// descriptors: the rest stays free for the logs, so that a flood of connections
// cannot keep the broker from writing its files.
func descriptorsForClients(limit uint64) uint64 {
	return limit - min(max(limit/8, 64), 1024, limit/2)
}

// connectionOverrides reads max.connections.per.ip.overrides, host:count pairs.
// Names are looked up once, as in Kafka.
func connectionOverrides(ctx context.Context, v *config.Values) (map[netip.Addr]int, error) {
	const key = "max.connections.per.ip.overrides"
	out := map[netip.Addr]int{}
	for pair := range strings.SplitSeq(v.String(key), ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		host, count, err := net.SplitHostPort(pair)
		if err != nil {
			return nil, at(v, key, fmt.Errorf("%q is not of the form host:count", pair))
		}
		limit, err := strconv.Atoi(count)
		if err != nil || limit < 0 {
			return nil, at(v, key, fmt.Errorf("%q: %q is not a number of connections", pair, count))
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, at(v, key, err)
		}
		for _, a := range addrs {
			out[a.Unmap()] = limit
		}
	}
	return out, nil
}

// unlimited turns Kafka's highest number, which stands for no limit, into 0, and
// Kafka's 0, which allows none, into -1.
func unlimited(n int) int {
	switch {
	case n >= 1<<31-1:
		return 0
	case n == 0:
		return -1
	}
	return n
}

// systemDefault leaves a socket's buffer to the operating system unless the key
// is set: Kafka's default of 100 KiB is smaller than what Linux grows to, and
// -1 says the same.
func systemDefault(v *config.Values, key string) int {
	if n := v.Int(key); v.IsSet(key) && n > 0 {
		return n
	}
	return 0
}

// storageOptions takes the clock, the disk and the keys of the logs.
func storageOptions(o Options, clusterID string, onDirFailure func(string, error)) storage.Options {
	v := o.Config
	return storage.Options{
		FS: o.FS, Dirs: v.LogDirs(), Log: o.Log, Now: o.Now,
		ClusterID: clusterID, NodeID: v.NodeID(),
		RecoveryThreads:            v.Int("num.recovery.threads.per.data.dir"),
		RetentionCheckInterval:     v.Duration("log.retention.check.interval.ms"),
		FlushCheckInterval:         flushCheckInterval(v),
		RecoveryCheckpointInterval: v.Duration("log.flush.offset.checkpoint.interval.ms"),
		StartCheckpointInterval:    v.Duration("log.flush.start.offset.checkpoint.interval.ms"),
		HighWatermarkInterval:      v.Duration("replica.high.watermark.checkpoint.interval.ms"),
		ProducerIDExpirationMs:     v.Int64("producer.id.expiration.ms"),
		ProducerIDExpirationCheck:  v.Duration("producer.id.expiration.check.interval.ms"),
		Cleaner:                    cleanerConfig(v),
		OnDirFailure:               onDirFailure,
	}
}

// cleanerConfig takes the keys of log compaction as they are now.
func cleanerConfig(v *config.Values) storage.CleanerConfig {
	c := storage.CleanerConfig{
		Disabled: !v.Bool("log.cleaner.enable"), Threads: v.Int("log.cleaner.threads"),
		DedupeBufferBytes: v.Int64("log.cleaner.dedupe.buffer.size"),
		LoadFactor:        v.Float("log.cleaner.io.buffer.load.factor"),
		IOBufferBytes:     int64(v.Int("log.cleaner.io.buffer.size")),
		MaxBytesPerSecond: v.Float("log.cleaner.io.max.bytes.per.second"),
		Backoff:           max(v.Duration("log.cleaner.backoff.ms"), time.Millisecond),
	}
	if c.Threads == 0 {
		c.Disabled = true // zero would be the default
	}
	return c
}

// followCleaner gives the logs the keys of compaction when the cluster changes
// them.
func (n *Node) followCleaner(v *config.Values) func(*metadata.Delta, *metadata.Image) {
	return func(d *metadata.Delta, _ *metadata.Image) {
		if len(d.Configs) > 0 {
			n.logs.SetCleaner(cleanerConfig(v))
		}
	}
}

// flushCheckInterval is how often flush.ms is looked at. Kafka's default is
// never, which leaves a topic's flush.ms without effect; here it is storage's
// own unless the key is set.
func flushCheckInterval(v *config.Values) time.Duration {
	if !v.IsSet("log.flush.scheduler.interval.ms") {
		return 0
	}
	return v.Duration("log.flush.scheduler.interval.ms")
}

// controllerOptions describes this broker to the cluster.
func controllerOptions(o Options, n *Node, endpoints []metadata.Endpoint) controller.Options {
	v := o.Config
	topic := config.TopicDefaults(v)
	previous := n.logs.PreviousBrokerEpoch()
	if previous < 0 {
		previous = 0 // no clean shutdown
	}
	var rebalance time.Duration
	if v.Bool("auto.leader.rebalance.enable") {
		rebalance = time.Duration(v.Int64("leader.imbalance.check.interval.seconds")) * time.Second
	}
	var logEnds func([]metadata.PartitionID) []controller.ReplicaEnd
	if n.partitions != nil {
		logEnds = n.logEnds
	}
	return controller.Options{
		RebalanceInterval: rebalance,
		LogEnds:           logEnds,
		Store:             n.store, NodeID: n.id, Rack: v.String("broker.rack"), Endpoints: endpoints,
		BrokerOnly: !n.quorum.controller, ControllerOnly: !n.quorum.broker,
		ClusterID: n.clusterID, PreviousBrokerEpoch: previous,
		// A store that another process can reach may know a former process of
		// this node that still runs.
		Exclusive:                n.quorum.alone() && !o.Shared,
		Address:                  n.quorum.address,
		Call:                     n.call,
		Incarnation:              n.incarnation,
		Dead:                     n.dead,
		SessionTimeout:           v.Duration("broker.session.timeout.ms"),
		AlterPartitionTimeout:    alterPartitionTimeout(v),
		DefaultPartitions:        v.Int32("num.partitions"),
		DefaultReplicationFactor: int16(v.Int("default.replication.factor")),
		MinInsyncReplicas:        int(topic.MinInsyncReplicas),
		UncleanLeaderElection:    topic.UncleanElection,
		Rules:                    handler.ConfigRules(v),
		Features:                 features(),
		Served:                   served(),
		Log:                      n.log,
	}
}

// alterPartitionTimeout is how long a leader waits for the controller's word on its
// in-sync sets until it asks again. Kafka's leaders wait for
// controller.socket.timeout.ms, and only where it is late by half a session, with
// heartbeats, for that; a follower that died holds up producers no less.
func alterPartitionTimeout(v *config.Values) time.Duration {
	return max(time.Millisecond, min(v.Duration("controller.socket.timeout.ms"), v.Duration("broker.session.timeout.ms")/2))
}

// features are the levels of features that a cluster begins with.
func features() map[string]int16 {
	out := map[string]int16{}
	for _, f := range handler.DefaultFeatures() {
		out[f.Name] = f.Finalized
	}
	return out
}

// served are the levels of features that this node can work with.
func served() (out []metadata.FeatureRange) {
	for _, f := range handler.DefaultFeatures() {
		out = append(out, metadata.FeatureRange{Name: f.Name, Min: f.Min, Max: f.Max})
	}
	return out
}
