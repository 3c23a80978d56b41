// Package etcdembed runs an etcd server inside this process and keeps the
// metadata in it.
//
// The server is talked to by function calls, without a port. A member of a
// cluster, or one that other nodes keep their metadata in, is given listeners
// (serve.go); alone, it listens nowhere. Every change is on disk (fsync), with a
// cluster on a majority of disks, before it is acknowledged.
//
// What is set differently from etcd's defaults, and why: ticks are short, so
// that a server that is alone elects itself within milliseconds; the segments
// of the write-ahead log, which etcd allocates two at a time, are 4 MiB instead
// of 64; snapshots are more frequent, so that less of the log is in memory;
// history older than a few thousand revisions is compacted.
package etcdembed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/etcdstore"
	"github.com/rs/zerolog"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// maxTxnOps is how many operations a transaction may have: more than etcd's
// default, so that large topics take fewer fsyncs.
const maxTxnOps = 1024

// clusterToken goes into the ids of members, which keeps apart clusters whose
// members have the same addresses. Ours are kept apart by the cluster id in the
// metadata.
const clusterToken = "gregor"

// DirName is the directory of the metadata within a log directory.
const DirName = "__gregor_metadata"

// Options says where and how the server runs.
type Options struct {
	// Dir is the server's own directory. It is created if missing, and
	// locked while the server runs.
	Dir string
	// Name tells the members of a cluster apart (default "gregor").
	Name string
	// Members says by name at which host and port the cluster's first members
	// are reached, this one among them; empty for a server that nobody else
	// talks to. It counts when Dir is empty: later, the members are those
	// that the cluster agreed on.
	Members map[string]string
	// AutoJoin lets a server with an empty Dir become a member of a cluster
	// that is there and does not know it. Contacts are members of it that may
	// be asked besides those in Members.
	AutoJoin bool
	Contacts []string
	// Join says that the cluster is there and has made this server a member:
	// Members are then those that it has now. Open finds out by itself.
	Join bool
	// PeerListener receives what other members say, ClientListener etcd's
	// clients (HTTP/1 and HTTP/2 in clear). Both are closed with the server,
	// and where it does not start. Nil listens nowhere.
	PeerListener, ClientListener net.Listener
	// Tick and Election time raft (defaults: 10ms and 50ms alone, 50ms and
	// 300ms in a cluster).
	Tick, Election time.Duration
	// Prefix is put before every key (default: the store's).
	Prefix string
	// WALSegmentBytes is the size of a segment of the write-ahead log
	// (default 4 MiB). It holds for the process: the first server decides.
	WALSegmentBytes int64
	// QuotaBytes bounds the database (default: etcd's, 2 GiB).
	QuotaBytes int64
	// KeepRevisions is the history kept for watches (default 5000).
	KeepRevisions int64
	// SnapshotCount is the number of transactions between two snapshots
	// (default 2000).
	SnapshotCount uint64
	Log           zerolog.Logger
}

// Store is a metadata.Store with the server that keeps it.
type Store struct {
	*etcdstore.Store
	server *embed.Etcd
	// served is what other nodes reach of the server.
	served *served
	log    zerolog.Logger
	// watched ends when the goroutine that reports the server's failure
	// does.
	watched chan struct{}
	closing chan struct{}
	once    sync.Once
}

// walSegments guards etcd's package variable: it is set once per process,
// before the first server reads it.
var walSegments sync.Once

// Open starts the server and returns when it can serve.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.setDefaults()
	walSegments.Do(func() { wal.SegmentSizeBytes = o.WALSegmentBytes })
	// What is in here can contain secrets; etcd would make it so too, and
	// warns of a directory that is not.
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o755); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if err := trimDatabase(o.Dir); err != nil {
		// The server says it better, if it is more than another one that runs.
		o.Log.Debug().Err(err).Msg("cannot trim the metadata database")
	}
	outside := serve(o.PeerListener, o.ClientListener)
	if err := prepare(ctx, &o); err != nil {
		outside.close()
		return nil, fmt.Errorf("etcd in %s: %w", o.Dir, err)
	}
	server, err := embed.StartEtcd(config(o))
	if err != nil {
		outside.close()
		return nil, fmt.Errorf("etcd in %s: %w", o.Dir, err)
	}
	outside.attach(server)
	stop := func(err error) (*Store, error) {
		outside.close()
		server.Close()
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		return stop(fmt.Errorf("etcd in %s: %w", o.Dir, err))
	case <-server.Server.StopNotify():
		return stop(fmt.Errorf("etcd in %s stopped while it started", o.Dir))
	case <-ctx.Done():
		return stop(fmt.Errorf("etcd in %s is not ready: %w", o.Dir, ctx.Err()))
	}
	s := &Store{
		Store: etcdstore.New(v3client.New(server.Server), etcdstore.Options{
			Prefix: o.Prefix, Limits: metadata.Limits{Ops: maxTxnOps, Bytes: 1 << 20}, Log: o.Log,
		}),
		server: server, served: outside, log: o.Log,
		watched: make(chan struct{}), closing: make(chan struct{}),
	}
	go s.watchServer()
	if err := s.settle(ctx, &o); err != nil {
		return nil, errors.Join(fmt.Errorf("etcd in %s: %w", o.Dir, err), s.Close())
	}
	return s, nil
}

// watchServer reports a server that failed.
func (s *Store) watchServer() {
	defer close(s.watched)
	select {
	case err, ok := <-s.server.Err():
		if ok && err != nil {
			s.log.Error().Err(err).Msg("embedded etcd failed")
		}
	case <-s.server.Server.StopNotify():
		s.log.Error().Msg("embedded etcd stopped")
	case <-s.closing:
	}
}

// Failed closes when the server stopped by itself, of a disk error for
// instance: what was acknowledged is safe, but nothing more will be.
func (s *Store) Failed() <-chan struct{} { return s.server.Server.StopNotify() }

// transferLimit is how long a leader that closes waits for another member to lead
// in its place. That takes milliseconds, or does not happen, as when all members
// close at once; etcd would wait for longer than five seconds.
const transferLimit = time.Second

// Close stops the server. The data stays.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		<-s.watched
		err = s.Store.Close()
		// Streams of clients end before the server waits for them, and the
		// members stay connected until it has handed its leadership over.
		s.served.closeClients()
		late := time.AfterFunc(transferLimit, s.server.Server.HardStop)
		s.server.Close()
		late.Stop()
		s.served.close()
	})
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// alone tells whether the server is a cluster of one.
func (o *Options) alone() bool { return len(o.Members)+len(o.Contacts) <= 1 && !o.Join }

func (o *Options) setDefaults() {
	if o.Name == "" {
		o.Name = "gregor"
	}
	if o.Tick == 0 {
		o.Tick, o.Election = 50*time.Millisecond, 300*time.Millisecond
		if o.alone() {
			o.Tick, o.Election = 10*time.Millisecond, 50*time.Millisecond
		}
	}
	if o.WALSegmentBytes == 0 {
		o.WALSegmentBytes = 4 << 20
	}
	if o.KeepRevisions == 0 {
		o.KeepRevisions = 5000
	}
	if o.SnapshotCount == 0 {
		o.SnapshotCount = 2000
	}
}

func config(o Options) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = o.Name
	cfg.Dir = o.Dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil // serve.go listens
	members := o.Members
	if len(members) == 0 {
		// A member has to have an address, though nobody will use it.
		members = map[string]string{o.Name: "localhost:1"}
	}
	var initial []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		initial = append(initial, name+"=http://"+members[name])
	}
	cfg.InitialCluster = strings.Join(initial, ",")
	cfg.InitialClusterToken = clusterToken
	if o.Join {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	self := url.URL{Scheme: "http", Host: members[o.Name]}
	cfg.AdvertisePeerUrls = []url.URL{self}
	if len(o.Members) > 0 {
		// Also by this the others know a member that has lost its disk from
		// one that never started.
		cfg.AdvertiseClientUrls = []url.URL{self}
	} else {
		cfg.AdvertiseClientUrls = nil
	}
	cfg.TickMs = uint(o.Tick.Milliseconds())
	cfg.ElectionMs = uint(o.Election.Milliseconds())
	cfg.MaxTxnOps = maxTxnOps
	cfg.QuotaBackendBytes = o.QuotaBytes
	cfg.SnapshotCount = o.SnapshotCount
	cfg.SnapshotCatchUpEntries = 500
	cfg.AutoCompactionMode = "revision"
	cfg.AutoCompactionRetention = strconv.FormatInt(o.KeepRevisions, 10)
	cfg.BootstrapDefragThresholdMegabytes = 64
	cfg.WarningApplyDuration = time.Second
	cfg.WarningUnaryRequestDuration = time.Second
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(etcdstore.ZapLogger(o.Log))
	return cfg
}
