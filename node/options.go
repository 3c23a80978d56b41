package node

import (
	"context"
	"errors"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/broker"
	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/storage"
)

func serverOptions(v *config.Values, h *handler.Broker, log zerolog.Logger, m *broker.Metrics) broker.Options {
	o := broker.Options{
		Handler: h, Log: log, Metrics: m,
		MaxRequestBytes:     v.Int("socket.request.max.bytes"),
		MaxIdle:             v.Duration("connections.max.idle.ms"),
		MaxConnections:      unlimited(v.Int("max.connections")),
		MaxConnectionsPerIP: unlimited(v.Int("max.connections.per.ip")),
		SendBuffer:          systemDefault(v, "socket.send.buffer.bytes"),
		ReceiveBuffer:       systemDefault(v, "socket.receive.buffer.bytes"),
	}
	if n := v.Int64("queued.max.request.bytes"); n > 0 {
		o.RequestMemory = n
	}
	return o
}

// unlimited turns Kafka's highest number, which stands for no limit, into 0.
func unlimited(n int) int {
	if n >= 1<<31-1 {
		return 0
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
		FlushCheckInterval:         v.Duration("log.flush.scheduler.interval.ms"),
		RecoveryCheckpointInterval: v.Duration("log.flush.offset.checkpoint.interval.ms"),
		StartCheckpointInterval:    v.Duration("log.flush.start.offset.checkpoint.interval.ms"),
		HighWatermarkInterval:      v.Duration("replica.high.watermark.checkpoint.interval.ms"),
		ProducerIDExpirationMs:     v.Int64("producer.id.expiration.ms"),
		ProducerIDExpirationCheck:  v.Duration("producer.id.expiration.check.interval.ms"),
		OnDirFailure:               onDirFailure,
	}
}

// controllerOptions describes this broker to the cluster.
func controllerOptions(o Options, n *Node, endpoints []metadata.Endpoint) controller.Options {
	v := o.Config
	topic := config.TopicDefaults(v)
	previous := n.logs.PreviousBrokerEpoch()
	if previous < 0 {
		previous = 0 // no clean shutdown
	}
	features := map[string]int16{}
	for _, f := range handler.DefaultFeatures() {
		features[f.Name] = f.Finalized
	}
	return controller.Options{
		Store: n.store, NodeID: n.id, Rack: v.String("broker.rack"), Endpoints: endpoints,
		ClusterID: n.clusterID, PreviousBrokerEpoch: previous,
		// A store that another process can reach may know a former process of
		// this node that still runs.
		Exclusive:                len(v.List("metadata.etcd.endpoints")) == 0,
		SessionTimeout:           v.Duration("broker.session.timeout.ms"),
		DefaultPartitions:        v.Int32("num.partitions"),
		DefaultReplicationFactor: int16(v.Int("default.replication.factor")),
		MinInsyncReplicas:        int(topic.MinInsyncReplicas),
		UncleanLeaderElection:    topic.UncleanElection,
		Rules:                    handler.ConfigRules(v),
		Features:                 features,
		Log:                      n.log,
	}
}

// openStore opens the metadata store that the configuration describes.
func openStore(_ context.Context, v *config.Values, _ zerolog.Logger) (metadata.Store, error) {
	if v.String("metadata.store") == "memory" {
		return memstore.New(), nil
	}
	return nil, errors.New("metadata.store: etcd is not wired")
}
