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

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/etcdembed"
	"github.com/gregor-broker/gregor/metadata/etcdstore"
	"github.com/gregor-broker/gregor/metadata/memstore"
)

// external tells whether the metadata is in an etcd outside this process.
func external(v *config.Values) bool {
	return v.String("metadata.store") == "etcd" && len(v.List("metadata.etcd.endpoints")) > 0
}

// openStore opens the metadata store that the configuration describes.
func openStore(ctx context.Context, v *config.Values, log zerolog.Logger) (metadata.Store, error) {
	switch {
	case v.String("metadata.store") == "memory":
		return memstore.New(), nil
	case external(v):
		return dialEtcd(ctx, v, log)
	}
	return etcdembed.Open(ctx, etcdembed.Options{
		Dir:             etcdDir(v),
		Prefix:          v.String("metadata.etcd.prefix"),
		Tick:            v.Duration("metadata.etcd.heartbeat.interval.ms"),
		Election:        v.Duration("metadata.etcd.election.timeout.ms"),
		WALSegmentBytes: v.Int64("metadata.etcd.wal.segment.bytes"),
		QuotaBytes:      v.Int64("metadata.etcd.quota.bytes"),
		KeepRevisions:   v.Int64("metadata.etcd.compaction.revisions"),
		SnapshotCount:   uint64(v.Int64("metadata.etcd.snapshot.count")),
		Log:             log,
	})
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

// storedClusterID is the id of the cluster that a store knows, or a new one
// where it knows none.
func storedClusterID(ctx context.Context, store metadata.Store) (string, error) {
	kvs, revision, err := store.Get(ctx, metadata.ClusterKey)
	if err != nil {
		return "", err
	}
	img, err := metadata.FromKVs(kvs, revision)
	if err != nil {
		return "", err
	}
	if img.ClusterID == "" {
		return NewClusterID(), nil
	}
	return img.ClusterID, nil
}

var errStoreStopped = errors.New("the metadata store stopped")
