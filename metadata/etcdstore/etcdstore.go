// Package etcdstore keeps the metadata in etcd, through a client to servers
// elsewhere or to one in this process (package etcdembed).
//
// All keys get a prefix, so that several clusters, or others, can share an
// etcd. A watch owns one goroutine, which ends with Close; so does a lease that
// is kept alive, ending with its context.
package etcdstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/rs/zerolog"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// DefaultPrefix is what keys begin with when nothing else is configured.
const DefaultPrefix = "/gregor/"

// pageSize bounds the keys of one answer when everything is listed.
const pageSize = 5000

// Options says how to work with etcd.
type Options struct {
	// Prefix is put before every key.
	Prefix string
	// Limits are the servers' limits of a transaction; zero stands for what
	// etcd has by default.
	Limits metadata.Limits
	Log    zerolog.Logger
}

// DialOptions says how to reach etcd servers.
type DialOptions struct {
	Options
	Endpoints          []string
	TLS                *tls.Config
	Username, Password string
	// DialTimeout bounds the wait for the first answer (default 10s).
	DialTimeout time.Duration
}

// Store implements metadata.Store.
type Store struct {
	client *clientv3.Client
	prefix string
	limits metadata.Limits
	log    zerolog.Logger
}

// New returns a store that uses client, which it closes when it is closed.
func New(client *clientv3.Client, o Options) *Store {
	s := &Store{client: client, prefix: o.Prefix, limits: o.Limits, log: o.Log}
	if s.prefix == "" {
		s.prefix = DefaultPrefix
	}
	if !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/" // or the keys of cluster "/a" would hold those of "/ab"
	}
	if s.limits == (metadata.Limits{}) {
		// Of etcd's 1.5 MiB a third is left for what is around the values.
		s.limits = metadata.Limits{Ops: 128, Bytes: 1 << 20}
	}
	return s
}

// Dial returns a store in etcd servers, of which at least one must answer and
// be of version 3.5 or later.
func Dial(ctx context.Context, o DialOptions) (*Store, error) {
	if o.DialTimeout == 0 {
		o.DialTimeout = 10 * time.Second
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: o.Endpoints, TLS: o.TLS, Username: o.Username, Password: o.Password,
		DialTimeout: o.DialTimeout, DialKeepAliveTime: 3 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		Logger: ZapLogger(o.Log),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	if err := checkVersion(ctx, client); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return New(client, o.Options), nil
}

// checkVersion returns an error if no server answers or the first one that does
// is too old. All are asked at once: one that is down must not hold up the
// others' answer.
func checkVersion(ctx context.Context, client *clientv3.Client) error {
	type answer struct {
		endpoint, version string
		err               error
	}
	endpoints := client.Endpoints()
	answers := make(chan answer, len(endpoints))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, endpoint := range endpoints {
		go func() {
			status, err := client.Status(ctx, endpoint)
			a := answer{endpoint: endpoint, err: err}
			if err == nil {
				a.version = status.Version
			}
			answers <- a
		}()
	}
	var last error
	for range endpoints {
		switch a := <-answers; {
		case a.err != nil:
			last = fmt.Errorf("etcd: %s: %w", a.endpoint, a.err)
		case tooOld(a.version):
			return fmt.Errorf("etcd: %s runs version %s, gregor needs 3.5 or later", a.endpoint, a.version)
		default:
			return nil
		}
	}
	return last
}

func tooOld(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	x, errX := strconv.Atoi(major)
	y, errY := strconv.Atoi(minor)
	return errX != nil || errY != nil || x < 3 || x == 3 && y < 5
}

// Limits implements metadata.Store.
func (s *Store) Limits() metadata.Limits { return s.limits }

// Close implements metadata.Store.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcd: %w", err)
	}
	return nil
}

// Get implements metadata.Store. The first page is linearizable and says the
// revision at which the others are read.
func (s *Store) Get(ctx context.Context, prefix string) ([]metadata.KV, int64, error) {
	key := s.prefix + prefix
	end := clientv3.GetPrefixRangeEnd(key)
	var kvs []metadata.KV
	var revision int64
	for {
		opts := []clientv3.OpOption{
			clientv3.WithRange(end), clientv3.WithLimit(pageSize),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend),
		}
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		resp, err := s.client.Get(ctx, key, opts...)
		if err != nil {
			return nil, 0, s.wrap("get", err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			kvs = append(kvs, metadata.KV{
				Key: string(kv.Key[len(s.prefix):]), Value: kv.Value,
				CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Lease: metadata.LeaseID(kv.Lease),
			})
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return kvs, revision, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// Txn implements metadata.Store.
func (s *Store) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if err := metadata.CheckTxn(txn, s.limits); err != nil {
		return metadata.TxnResult{}, err
	}
	cmps := make([]clientv3.Cmp, 0, len(txn.If))
	for _, c := range txn.If {
		target := clientv3.ModRevision(s.prefix + c.Key)
		if c.Target == metadata.CreateRevision {
			target = clientv3.CreateRevision(s.prefix + c.Key)
		}
		cmps = append(cmps, clientv3.Compare(target, "=", c.Revision))
	}
	ops := make([]clientv3.Op, 0, len(txn.Then))
	for _, op := range txn.Then {
		ops = append(ops, s.op(op))
	}
	resp, err := s.client.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil {
		return metadata.TxnResult{}, s.wrap("txn", err)
	}
	return metadata.TxnResult{Succeeded: resp.Succeeded, Revision: resp.Header.Revision}, nil
}

func (s *Store) op(op metadata.Op) clientv3.Op {
	key := s.prefix + op.Key
	switch op.Kind {
	case metadata.OpDelete:
		return clientv3.OpDelete(key)
	case metadata.OpDeletePrefix:
		return clientv3.OpDelete(key, clientv3.WithPrefix())
	default:
		var opts []clientv3.OpOption
		if op.Lease != 0 {
			opts = append(opts, clientv3.WithLease(clientv3.LeaseID(op.Lease)))
		}
		return clientv3.OpPut(key, string(op.Value), opts...)
	}
}

// Grant implements metadata.Store. etcd counts in seconds.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (metadata.LeaseID, error) {
	resp, err := s.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, s.wrap("grant", err)
	}
	return metadata.LeaseID(resp.ID), nil
}

// KeepAlive implements metadata.Store.
func (s *Store) KeepAlive(ctx context.Context, lease metadata.LeaseID) (<-chan struct{}, error) {
	answers, err := s.client.KeepAlive(ctx, clientv3.LeaseID(lease))
	if err != nil {
		return nil, s.wrap("keep alive", err)
	}
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		for range answers { // the answers say nothing, their end does
		}
	}()
	return lost, nil
}

// Revoke implements metadata.Store.
func (s *Store) Revoke(ctx context.Context, lease metadata.LeaseID) error {
	_, err := s.client.Revoke(ctx, clientv3.LeaseID(lease))
	return s.wrap("revoke", err)
}

// unavailable are the errors that etcd's own clients try again on. One that
// runs in the members' process (v3client) hands them on.
func unavailable(err error) bool {
	var e rpctypes.EtcdError
	return errors.As(err, &e) && e.Code() == codes.Unavailable
}

// wrap gives errors of etcd the names of the contract.
func (s *Store) wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		err = metadata.ErrLeaseNotFound
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge):
		err = fmt.Errorf("%w: %w", metadata.ErrTxnTooLarge, err)
	case errors.Is(err, rpctypes.ErrCompacted):
		err = metadata.ErrCompacted
	case s.client.Ctx().Err() != nil:
		err = metadata.ErrClosed
	case unavailable(err):
		err = fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	return fmt.Errorf("etcd: %s: %w", what, err)
}
