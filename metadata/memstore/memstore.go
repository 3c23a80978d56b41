// Package memstore keeps the metadata of brokers in memory, for tests and
// simulations of which hundreds run side by side.
//
// It keeps the contract of metadata.Store, of which etcd is the other
// implementation, but nothing on disk. One mutex guards everything; there are
// no goroutines and there is no clock: leases run out when Advance says that
// time passed.
package memstore

import (
	"context"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/gregor-broker/gregor/metadata"
)

// maxTake bounds the events of one Take, but for the rest of a revision.
const maxTake = 1000

// defaultHistory is how many events are kept for watches that lag.
const defaultHistory = 1 << 16

// Store is an in-memory metadata.Store, to be shared by all the brokers of a
// test cluster.
type Store struct {
	mu       sync.Mutex
	closed   bool
	revision int64
	kvs      map[string]metadata.KV
	// keys holds the keys of kvs in order.
	keys []string
	// history holds the events of the revisions above compacted.
	history   []metadata.Event
	compacted int64
	keep      int
	limits    metadata.Limits
	watchers  map[*watcher]struct{}
	leases    map[metadata.LeaseID]*lease
	lastLease metadata.LeaseID
	now       time.Duration
}

type lease struct {
	ttl, deadline time.Duration
	keys          map[string]struct{}
	keepers       map[*keeper]struct{}
}

// keeper is one KeepAlive that runs.
type keeper struct {
	ctx  context.Context // while it lasts
	lost chan struct{}
	stop func() bool
}

// New returns an empty store. Its first change has revision 2, as in etcd.
func New() *Store {
	return &Store{
		revision: 1,
		kvs:      map[string]metadata.KV{},
		keep:     defaultHistory,
		limits:   metadata.Limits{Ops: 128, Bytes: 1 << 20},
		watchers: map[*watcher]struct{}{},
		leases:   map[metadata.LeaseID]*lease{},
	}
}

// Limits implements metadata.Store with the limits that etcd has by default.
func (s *Store) Limits() metadata.Limits { return s.limits }

// Get implements metadata.Store.
func (s *Store) Get(ctx context.Context, prefix string) ([]metadata.KV, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, metadata.ErrClosed
	}
	keys := s.withPrefix(prefix)
	kvs := make([]metadata.KV, len(keys))
	for i, k := range keys {
		kvs[i] = s.kvs[k]
	}
	return kvs, s.revision, nil
}

// withPrefix returns the part of keys that begins with prefix.
func (s *Store) withPrefix(prefix string) []string {
	from := sort.SearchStrings(s.keys, prefix)
	n := sort.Search(len(s.keys)-from, func(i int) bool { return !strings.HasPrefix(s.keys[from+i], prefix) })
	return s.keys[from : from+n]
}

// Txn implements metadata.Store.
func (s *Store) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if err := ctx.Err(); err != nil {
		return metadata.TxnResult{}, err
	}
	if err := metadata.CheckTxn(txn, s.limits); err != nil {
		return metadata.TxnResult{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return metadata.TxnResult{}, metadata.ErrClosed
	}
	for _, c := range txn.If {
		kv := s.kvs[c.Key]
		is := kv.ModRevision
		if c.Target == metadata.CreateRevision {
			is = kv.CreateRevision
		}
		if is != c.Revision {
			return metadata.TxnResult{Revision: s.revision}, nil
		}
	}
	for _, op := range txn.Then {
		if op.Lease != 0 && s.leases[op.Lease] == nil {
			return metadata.TxnResult{}, metadata.ErrLeaseNotFound
		}
	}
	s.commit(txn.Then)
	return metadata.TxnResult{Succeeded: true, Revision: s.revision}, nil
}

// commit does ops in one new revision, if they change anything.
func (s *Store) commit(ops []metadata.Op) {
	next := s.revision + 1
	var events []metadata.Event
	for _, op := range ops {
		switch op.Kind {
		case metadata.OpPut:
			events = append(events, s.put(op, next))
		case metadata.OpDelete:
			if _, ok := s.kvs[op.Key]; ok {
				events = append(events, s.del(op.Key, next))
			}
		case metadata.OpDeletePrefix:
			for _, k := range slices.Clone(s.withPrefix(op.Key)) {
				events = append(events, s.del(k, next))
			}
		}
	}
	if len(events) == 0 {
		return
	}
	s.revision = next
	s.history = append(s.history, events...)
	if len(s.history) > 2*s.keep {
		s.compact(s.history[len(s.history)-s.keep].ModRevision - 1)
	}
	for w := range s.watchers {
		w.signal()
	}
}

func (s *Store) put(op metadata.Op, revision int64) metadata.Event {
	old, existed := s.kvs[op.Key]
	kv := metadata.KV{
		Key: op.Key, Value: slices.Clone(op.Value),
		CreateRevision: revision, ModRevision: revision, Lease: op.Lease,
	}
	if existed {
		kv.CreateRevision = old.CreateRevision
		s.detach(old)
	} else {
		i := sort.SearchStrings(s.keys, op.Key)
		s.keys = slices.Insert(s.keys, i, op.Key)
	}
	if op.Lease != 0 {
		s.leases[op.Lease].keys[op.Key] = struct{}{}
	}
	s.kvs[op.Key] = kv
	return metadata.Event{KV: kv}
}

func (s *Store) del(key string, revision int64) metadata.Event {
	s.detach(s.kvs[key])
	delete(s.kvs, key)
	i := sort.SearchStrings(s.keys, key)
	s.keys = slices.Delete(s.keys, i, i+1)
	return metadata.Event{KV: metadata.KV{Key: key, ModRevision: revision}, Deleted: true}
}

func (s *Store) detach(kv metadata.KV) {
	if l := s.leases[kv.Lease]; l != nil {
		delete(l.keys, kv.Key)
	}
}

// Compact forgets the history up to revision, inclusive, as etcd's compaction
// does: watches from there on end with ErrCompacted.
func (s *Store) Compact(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compact(min(revision, s.revision))
}

func (s *Store) compact(revision int64) {
	if revision <= s.compacted {
		return
	}
	i := s.after(revision)
	s.history = slices.Clone(s.history[i:])
	s.compacted = revision
	for w := range s.watchers {
		w.signal()
	}
}

// after returns the index of the first event above revision.
func (s *Store) after(revision int64) int {
	return sort.Search(len(s.history), func(i int) bool { return s.history[i].ModRevision > revision })
}

// Grant implements metadata.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (metadata.LeaseID, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, metadata.ErrClosed
	}
	s.lastLease++
	s.leases[s.lastLease] = &lease{
		ttl: ttl, deadline: s.now + ttl, keys: map[string]struct{}{}, keepers: map[*keeper]struct{}{},
	}
	return s.lastLease, nil
}

// KeepAlive implements metadata.Store: while ctx lasts, Advance does not end the
// lease.
func (s *Store) KeepAlive(ctx context.Context, id metadata.LeaseID) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if s.closed || l == nil {
		return nil, metadata.ErrLeaseNotFound
	}
	k := &keeper{ctx: ctx, lost: make(chan struct{})}
	l.keepers[k] = struct{}{}
	k.stop = context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.endKeeper(l, k)
	})
	return k.lost, nil
}

// endKeeper lets the time to live of a lease begin that k kept alive so far.
func (s *Store) endKeeper(l *lease, k *keeper) {
	if _, ok := l.keepers[k]; ok {
		delete(l.keepers, k)
		l.deadline = s.now + l.ttl
		close(k.lost)
	}
}

// Revoke implements metadata.Store.
func (s *Store) Revoke(ctx context.Context, id metadata.LeaseID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.ExpireLease(id) {
		return metadata.ErrLeaseNotFound
	}
	return nil
}

// ExpireLease ends a lease, as if its owner had been cut off for its time to
// live, and says whether there was such a lease.
func (s *Store) ExpireLease(id metadata.LeaseID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil {
		return false
	}
	s.expire(id, l)
	return true
}

func (s *Store) expire(id metadata.LeaseID, l *lease) {
	delete(s.leases, id)
	for k := range l.keepers {
		k.stop()
		close(k.lost)
	}
	l.keepers = nil
	var ops []metadata.Op
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		ops = append(ops, metadata.Op{Kind: metadata.OpDelete, Key: key})
	}
	s.commit(ops)
}

// Advance lets time pass: leases that nobody kept alive for their time to live
// run out.
func (s *Store) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		for k := range l.keepers {
			if k.ctx.Err() != nil { // its end, which runs on a goroutine of its own, is on the way
				s.endKeeper(l, k)
			}
		}
	}
	s.now += d
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		l := s.leases[id]
		if len(l.keepers) > 0 {
			l.deadline = s.now + l.ttl
		} else if s.now >= l.deadline {
			s.expire(id, l)
		}
	}
}

// Close implements metadata.Store. The store is gone with its content.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, l := range s.leases {
		for k := range l.keepers {
			k.stop()
			close(k.lost)
		}
	}
	s.leases = nil
	for w := range s.watchers {
		w.signal()
	}
	return nil
}
