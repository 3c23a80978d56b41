package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/etcdembed"
	"github.com/gregor-broker/gregor/metadata/etcdstore"
	"github.com/gregor-broker/gregor/metadata/memstore"
)

// external tells whether the metadata is in an etcd outside this process.
func external(v *config.Values) bool {
	return v.String("metadata.store") == "etcd" && len(v.List("metadata.etcd.endpoints")) > 0
}

// openStore opens the metadata store that the configuration describes, and waits
// for it to answer: where it has several members, for a majority of them.
func openStore(ctx context.Context, v *config.Values, q *quorum, port *controllerPort, log zerolog.Logger) (metadata.Store, error) {
	switch {
	case v.String("metadata.store") == "memory":
		return memstore.New(), nil
	case q.external:
		return dialEtcd(ctx, v, log)
	case !q.embeds():
		return dialControllers(ctx, v, q.dial, log)
	}
	o := etcdembed.Options{
		Dir:             etcdDir(v),
		Name:            q.member,
		Members:         q.members,
		Contacts:        q.contacts,
		AutoJoin:        v.Bool("controller.quorum.auto.join.enable"),
		Prefix:          v.String("metadata.etcd.prefix"),
		WALSegmentBytes: v.Int64("metadata.etcd.wal.segment.bytes"),
		QuotaBytes:      v.Int64("metadata.etcd.quota.bytes"),
		KeepRevisions:   v.Int64("metadata.etcd.compaction.revisions"),
		SnapshotCount:   uint64(v.Int64("metadata.etcd.snapshot.count")),
		Log:             log,
	}
	if len(q.members)+len(q.contacts) <= 1 || v.IsSet("metadata.etcd.heartbeat.interval.ms") || v.IsSet("metadata.etcd.election.timeout.ms") {
		o.Tick, o.Election = v.Duration("metadata.etcd.heartbeat.interval.ms"), v.Duration("metadata.etcd.election.timeout.ms")
	}
	if port != nil {
		o.PeerListener, o.ClientListener = port.members, port.stores
	}
	if len(q.members)+len(q.contacts) > 1 {
		log.Info().Str("member", q.member).Interface("members", q.members).Msg("waiting for a majority of the controllers")
	}
	return etcdembed.Open(ctx, o)
}

// dialControllers keeps the metadata in the members that controllers elsewhere
// embed. They may all be still to start.
func dialControllers(ctx context.Context, v *config.Values, controllers []string, log zerolog.Logger) (metadata.Store, error) {
	log.Info().Strs("controllers", controllers).Msg("waiting for the controllers")
	for {
		store, err := etcdstore.Dial(ctx, etcdstore.DialOptions{
			Options:     etcdstore.Options{Prefix: v.String("metadata.etcd.prefix"), Log: log},
			Endpoints:   controllers,
			DialTimeout: v.Duration("metadata.etcd.dial.timeout.ms"),
		})
		if err == nil || ctx.Err() != nil {
			return store, err
		}
		log.Warn().Err(err).Msg("no controller answers yet")
		if err := sleep(ctx, dialPause); err != nil {
			return nil, err
		}
	}
}

// dialPause is the time between two attempts to reach the controllers, and
// formPause between two looks whether they formed a cluster.
const (
	dialPause = time.Second
	formPause = 100 * time.Millisecond
)

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// etcdDir is where the embedded etcd keeps its data.
func etcdDir(v *config.Values) string {
	if dir := v.String("metadata.etcd.data.dir"); dir != "" {
		return dir
	}
	dir := v.String("metadata.log.dir")
	if dir == "" {
		dir = v.LogDirs()[0]
	}
	return filepath.Join(dir, etcdembed.DirName)
}

func dialEtcd(ctx context.Context, v *config.Values, log zerolog.Logger) (metadata.Store, error) {
	tlsConfig, err := etcdTLS(v)
	if err != nil {
		return nil, err
	}
	return etcdstore.Dial(ctx, etcdstore.DialOptions{
		Options:     etcdstore.Options{Prefix: v.String("metadata.etcd.prefix"), Log: log},
		Endpoints:   v.List("metadata.etcd.endpoints"),
		TLS:         tlsConfig,
		Username:    v.String("metadata.etcd.username"),
		Password:    v.String("metadata.etcd.password"),
		DialTimeout: v.Duration("metadata.etcd.dial.timeout.ms"),
	})
}

// etcdTLS is how to reach etcd with TLS, nil for without: an authority, a client
// certificate or an https endpoint asks for it.
func etcdTLS(v *config.Values) (*tls.Config, error) {
	ca, cert, key := v.String("metadata.etcd.tls.ca.file"), v.String("metadata.etcd.tls.cert.file"), v.String("metadata.etcd.tls.key.file")
	wanted := ca != "" || cert != ""
	for _, e := range v.List("metadata.etcd.endpoints") {
		wanted = wanted || strings.HasPrefix(e, "https://")
	}
	if !wanted {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: v.String("metadata.etcd.tls.server.name")}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, at(v, "metadata.etcd.tls.ca.file", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, at(v, "metadata.etcd.tls.ca.file", fmt.Errorf("%s holds no certificate", ca))
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, at(v, "metadata.etcd.tls.cert.file", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// agreeOnCluster is the id of the cluster that a store knows. Where it knows none
// a controller forms one, and a node that is only a broker waits for that.
func agreeOnCluster(ctx context.Context, store metadata.Store, v *config.Values, asked string, form bool) (string, error) {
	if form {
		return controller.Form(ctx, store, asked, features(), int(config.TopicDefaults(v).MinInsyncReplicas))
	}
	for {
		kvs, revision, err := store.Get(ctx, metadata.ClusterKey)
		if err != nil {
			return "", err
		}
		img, err := metadata.FromKVs(kvs, revision)
		if err != nil || img.ClusterID != "" {
			return img.ClusterID, err
		}
		if err := sleep(ctx, formPause); err != nil {
			return "", err
		}
	}
}

var errStoreStopped = errors.New("the metadata store stopped")
