package metadata

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrCompacted says that the revisions a watch asked for are no longer kept:
// list again, and watch from the revision of the list.
var ErrCompacted = errors.New("metadata: the revision was compacted")

// ErrLeaseNotFound says that a lease ran out or was revoked.
var ErrLeaseNotFound = errors.New("metadata: lease not found")

// ErrTxnTooLarge says that a transaction is over the store's Limits.
var ErrTxnTooLarge = errors.New("metadata: transaction too large")

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("metadata: store closed")

// ErrUnavailable says that the store cannot answer now, as while its members
// elect a leader: asking again may help.
var ErrUnavailable = errors.New("metadata: store unavailable")

// ErrLeaderChanged says that the store's members elected another leader while a
// transaction was under way, so that whether it happened will not be told. They
// can be asked again at once.
var ErrLeaderChanged = fmt.Errorf("%w: its leader changed", ErrUnavailable)

// LeaseID names a lease; 0 is none.
type LeaseID int64

// KV is one key with its value and where it stands in the store's history.
type KV struct {
	Key   string
	Value []byte
	// CreateRevision is where the key came into being, ModRevision where it
	// was last written.
	CreateRevision, ModRevision int64
	Lease                       LeaseID
}

// Event is one change of one key. Of a deletion it carries only the key and,
// as ModRevision, where it happened.
type Event struct {
	KV
	Deleted bool
}

// Target says which revision of a key a Compare looks at.
type Target int8

const (
	// ModRevision is compared with the last write of the key.
	ModRevision Target = iota
	// CreateRevision is compared with the creation of the key.
	CreateRevision
)

// Compare holds when the key's revision is the given one. An absent key has
// revision 0.
type Compare struct {
	Key      string
	Target   Target
	Revision int64
}

// OpKind is what an Op does.
type OpKind int8

const (
	// OpPut writes the key.
	OpPut OpKind = iota
	// OpDelete deletes the key, if it is there.
	OpDelete
	// OpDeletePrefix deletes every key that begins with Key.
	OpDeletePrefix
)

// Op is one write of a transaction.
type Op struct {
	Kind  OpKind
	Key   string
	Value []byte
	// Lease ties a put key to a lease: it goes when the lease goes.
	Lease LeaseID
}

// Txn does all of Then in one revision if all of If holds, else nothing. No
// key may be touched twice.
type Txn struct {
	If   []Compare
	Then []Op
}

// TxnResult says whether the compares held. Revision is the store's revision
// after the transaction; of a transaction that succeeded and changed
// something, it is the revision of all its changes.
type TxnResult struct {
	Succeeded bool
	Revision  int64
}

// Limits bounds one transaction.
type Limits struct {
	// Ops bounds the compares and, apart from them, the operations.
	Ops int
	// Bytes bounds the sum of keys and values.
	Bytes int
}

// Watcher hands out changes in the order of their revisions, each once, those
// of one revision always together. It belongs to one goroutine.
type Watcher interface {
	// Ready holds a token whenever Take may have something to tell.
	Ready() <-chan struct{}
	// Take returns the changes since the last Take, at most a bounded number
	// of whole revisions; none if there is nothing new. When it returns some,
	// more may follow without a token. ErrCompacted and every other error
	// end the watch.
	Take() ([]Event, error)
	// Close ends the watch and frees what it holds.
	Close()
}

// Store is the contract with etcd and whatever stands in for it. One test
// suite (storetest) proves every implementation. All methods may be called
// by many goroutines.
//
// An error of Txn other than ErrTxnTooLarge leaves open whether it happened:
// the caller must send the same compares again, or look.
type Store interface {
	// Get lists the keys that begin with prefix, sorted, as of one revision,
	// which it returns. It is linearizable.
	Get(ctx context.Context, prefix string) ([]KV, int64, error)
	// Watch follows the keys that begin with prefix from fromRevision on,
	// inclusive. Losing touch with the store does not end a watch.
	Watch(ctx context.Context, prefix string, fromRevision int64) Watcher
	// Txn commits atomically and durably.
	Txn(ctx context.Context, txn Txn) (TxnResult, error)
	// Grant makes a lease that runs out when it was not kept alive for ttl.
	// Stores may round ttl up.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// KeepAlive keeps a lease alive until ctx ends. The channel closes when
	// the lease is lost or ctx ended.
	KeepAlive(ctx context.Context, lease LeaseID) (lost <-chan struct{}, err error)
	// Revoke ends a lease and deletes its keys.
	Revoke(ctx context.Context, lease LeaseID) error
	// Limits bounds what Txn takes.
	Limits() Limits
	// Close ends all watches. It does not revoke leases.
	Close() error
}

// CheckTxn returns the error of a transaction that no store may take: one over
// limits, or with a key that several operations touch.
func CheckTxn(txn Txn, limits Limits) error {
	if len(txn.If) > limits.Ops || len(txn.Then) > limits.Ops {
		return fmt.Errorf("%w: %d compares and %d operations, the limit is %d",
			ErrTxnTooLarge, len(txn.If), len(txn.Then), limits.Ops)
	}
	size := 0
	keys := make(map[string]bool, len(txn.Then))
	var prefixes []string
	for _, op := range txn.Then {
		size += len(op.Key) + len(op.Value)
		if keys[op.Key] {
			return fmt.Errorf("metadata: transaction touches key %q twice", op.Key)
		}
		keys[op.Key] = true
		if op.Kind == OpDeletePrefix {
			prefixes = append(prefixes, op.Key)
		}
	}
	for _, p := range prefixes {
		for _, op := range txn.Then {
			if op.Key != p && strings.HasPrefix(op.Key, p) {
				return fmt.Errorf("metadata: transaction touches key %q twice", op.Key)
			}
		}
	}
	if size > limits.Bytes {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTxnTooLarge, size, limits.Bytes)
	}
	return nil
}
