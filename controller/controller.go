package controller

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/rs/zerolog"
)

// Options says what a Controller works with. Store must be set.
type Options struct {
	Store  metadata.Store
	NodeID int32
	// BrokerOnly nodes never become controller, ControllerOnly nodes never
	// register as broker.
	BrokerOnly, ControllerOnly bool
	// Rack and Endpoints are what clients and other brokers learn of this
	// broker.
	Rack      string
	Endpoints []metadata.Endpoint
	// Address is where this node, as controller, answers others; empty for
	// its inter-broker listener.
	Address string
	// ClusterID is the cluster that the store must belong to, or that is
	// formed in it when it is empty. Empty: take what is there, or a new one.
	ClusterID string
	// Incarnation tells this process from its predecessors; random if zero.
	Incarnation metadata.ID
	// PreviousBrokerEpoch is the broker epoch found in the marker of a clean
	// shutdown, 0 if there was none. It proves that the logs hold all that
	// the former process acknowledged.
	PreviousBrokerEpoch int64
	// Exclusive says that no other process can be running with this node id
	// on this store, as when the store lives in this process: the remains of
	// a former process are taken over at once. Otherwise they must have run
	// out first.
	Exclusive bool
	// Dead are former incarnations of this node that are known to be dead:
	// what they left is taken over at once too.
	Dead []metadata.ID
	// SessionTimeout is how long a broker that gives no sign of life counts
	// as up (default 9s).
	SessionTimeout time.Duration
	// AlterPartitionTimeout bounds one AlterPartition (default half of
	// SessionTimeout).
	AlterPartitionTimeout time.Duration
	// DefaultPartitions and DefaultReplicationFactor serve topics created
	// with -1 (default 1).
	DefaultPartitions        int32
	DefaultReplicationFactor int16
	// MinInsyncReplicas and UncleanLeaderElection are the broker's static
	// defaults of the topic configs of that name (default 1, false).
	MinInsyncReplicas     int
	UncleanLeaderElection bool
	// Call reaches the other nodes; nil where there is no way.
	Call Call
	// LogEnds says how far this broker's logs go, for each partition asked
	// for; nil where there are none. It must not wait for the controller.
	LogEnds func([]metadata.PartitionID) []ReplicaEnd
	// RebalanceInterval is how often the controller gives partitions back to
	// their preferred leaders (auto.leader.rebalance.enable); 0 is never.
	RebalanceInterval time.Duration
	// Rules checks config keys and values; see metadata.ConfigRules.
	Rules metadata.ConfigRules
	// Features are the finalized feature levels of a cluster formed now.
	Features map[string]int16
	// Served are the levels of features that this node serves.
	Served []metadata.FeatureRange
	Log    zerolog.Logger
	// Seed makes choices repeatable; 0 draws a random one.
	Seed uint64
}

func (o *Options) setDefaults() {
	if o.SessionTimeout == 0 {
		o.SessionTimeout = 9 * time.Second
	}
	if o.AlterPartitionTimeout == 0 {
		o.AlterPartitionTimeout = o.SessionTimeout / 2
	}
	if o.DefaultPartitions == 0 {
		o.DefaultPartitions = 1
	}
	if o.DefaultReplicationFactor == 0 {
		o.DefaultReplicationFactor = 1
	}
	if o.MinInsyncReplicas == 0 {
		o.MinInsyncReplicas = 1
	}
	if o.Incarnation == (metadata.ID{}) {
		o.Incarnation = newID()
	}
	if o.Seed == 0 {
		var b [8]byte
		randomBytes(b[:])
		o.Seed = binary.LittleEndian.Uint64(b[:])
	}
}

// Subscriber is told what changed and the image that it led to. It is called
// on the apply loop, in revision order, before the image is published and
// before anything is acknowledged; it must not wait for the controller.
type Subscriber func(delta *metadata.Delta, img *metadata.Image)

// Controller is one node's part in deciding on the metadata, and its view of
// it. See the package comment for its goroutines.
type Controller struct {
	opts Options
	env  metadata.Env
	log  zerolog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// newest is what the watch loop built last. Decisions are made on it.
	newest *board
	// published is what Image returns: applied by all subscribers.
	published *board
	// fresh holds a token when the apply loop may have something to do.
	fresh       chan struct{}
	brokerEpoch atomic.Int64
	isolated    atomic.Bool
	unclean     atomic.Int64
	subscribers []Subscriber

	// wake holds a token when the decision loop may have something to do.
	wake chan struct{}
	// What follows belongs to the decision loop: this node's session, for
	// which brokers the partitions were swept last, and the revision of the
	// last write.
	session session
	swept   sweepState
	// rebalance says that it is time to look for preferred leaders, rebalanceIn when
	// that has been done, in how long it will be again; see giveBack.
	rebalance             bool
	rebalanceIn           time.Duration
	arrivals              arrivals
	lastWrite, lastDecree int64
	// txnTimeout is what the next transaction gets; see minTxnTimeout.
	txnTimeout time.Duration
	// retryDelay is the pause after an error of the store.
	retryDelay time.Duration

	mu sync.Mutex
	// queue holds requests that the decision loop has not taken yet.
	queue  []*request
	closed bool
	// stopping says that ControlledShutdown was called.
	stopping bool
	// offline is what SetOffline was called with.
	offline metadata.Replicas

	// producerMu lets one caller at a time take a producer id block.
	producerMu sync.Mutex
}

// New returns a controller that does nothing yet.
func New(opts Options) (*Controller, error) {
	if opts.Store == nil {
		return nil, errors.New("controller: no store")
	}
	if opts.NodeID < 0 {
		return nil, fmt.Errorf("controller: node id %d", opts.NodeID)
	}
	opts.setDefaults()
	c := &Controller{
		arrivals: arrivals{},
		opts:     opts,
		env: metadata.Env{
			DefaultPartitions:        opts.DefaultPartitions,
			DefaultReplicationFactor: opts.DefaultReplicationFactor,
			MinInsyncReplicas:        opts.MinInsyncReplicas,
			UncleanLeaderElection:    opts.UncleanLeaderElection,
			Rules:                    opts.Rules,
			NodeID:                   opts.NodeID,
			Features:                 opts.Served,
			Rand:                     rand.New(rand.NewPCG(opts.Seed, uint64(opts.NodeID))),
		},
		log:   opts.Log,
		wake:  make(chan struct{}, 1),
		fresh: make(chan struct{}, 1),

		retryDelay: defaultRetryDelay,
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.newest, c.published = newBoard(c.ctx), newBoard(c.ctx)
	return c, nil
}

// Subscribe adds a subscriber. It must be called before Start; its first delta
// is everything there is.
func (c *Controller) Subscribe(s Subscriber) { c.subscribers = append(c.subscribers, s) }

// Image returns the newest image that all subscribers have applied.
func (c *Controller) Image() *metadata.Image { return c.published.load() }

// BrokerEpoch returns the epoch of this broker's registration, 0 before it was
// granted.
func (c *Controller) BrokerEpoch() int64 { return c.brokerEpoch.Load() }

// Incarnation returns what tells this process from its predecessors.
func (c *Controller) Incarnation() metadata.ID { return c.opts.Incarnation }

// Start joins the cluster, forming it if the store is empty: it registers this
// broker and returns when its registration was granted, its partitions have
// been assigned, and the subscribers have applied all that. A node that is no
// broker has started when there is a controller.
func (c *Controller) Start(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.cancel)
	defer stop()
	if err := c.start(ctx); err != nil {
		c.cancel()
		c.wg.Wait()
		return errors.Join(err, ctx.Err())
	}
	return nil
}

func (c *Controller) start(ctx context.Context) error {
	img, err := c.form(ctx)
	if err != nil {
		return err
	}
	c.newest.set(img)
	c.wg.Go(c.watchLoop)
	c.wg.Go(c.applyLoop)
	c.wg.Go(c.decisionLoop)
	if c.opts.ControllerOnly {
		return c.Await(ctx, func(img *metadata.Image) bool { return img.ControllerID() >= 0 })
	}
	return c.Await(ctx, func(img *metadata.Image) bool {
		return img.Standing(c.opts.NodeID, c.opts.Incarnation) == metadata.Serving &&
			!metadata.AwaitsElection(img, c.opts.NodeID)
	})
}

// Form makes the store a cluster if it is none, and returns the id of the one
// that it is. Of several nodes that do so at the same time one wins, and all
// get its id. An empty id stands for a random one. A store whose members elect
// a leader just now, as when all nodes of a cluster start, is asked again.
func Form(ctx context.Context, store metadata.Store, id string, features map[string]int16, minInsyncReplicas int) (string, error) {
	for {
		kvs, revision, err := load(ctx, store, metadata.ClusterKey)
		if err != nil {
			return "", err
		}
		img, err := metadata.FromKVs(kvs, revision)
		if err != nil {
			return "", err
		}
		if img.ClusterID != "" {
			return img.ClusterID, nil
		}
		if id == "" {
			id = metadata.FormatID(newID())
		}
		// Whether it happened or not, the next look tells.
		changes := metadata.Form(id, features, minInsyncReplicas)
		if _, err := store.Txn(ctx, metadata.TxnOf(nil, changes)); err != nil && !errors.Is(err, metadata.ErrUnavailable) {
			return "", fmt.Errorf("controller: form cluster: %w", err)
		}
	}
}

// askAgainAfter is how long load lets a store that has no leader look for one.
const askAgainAfter = 100 * time.Millisecond

// load lists the keys that begin with prefix, from a store that answers.
func load(ctx context.Context, store metadata.Store, prefix string) ([]metadata.KV, int64, error) {
	for {
		kvs, revision, err := store.Get(ctx, prefix)
		if err == nil {
			return kvs, revision, nil
		}
		if !errors.Is(err, metadata.ErrUnavailable) {
			return nil, 0, fmt.Errorf("controller: load metadata: %w", err)
		}
		if sleep(ctx, askAgainAfter); ctx.Err() != nil {
			return nil, 0, fmt.Errorf("controller: load metadata: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// form loads the image, after making the store a cluster if it is none.
func (c *Controller) form(ctx context.Context) (*metadata.Image, error) {
	id, err := Form(ctx, c.opts.Store, c.opts.ClusterID, c.opts.Features, c.opts.MinInsyncReplicas)
	if err != nil {
		return nil, err
	}
	if want := c.opts.ClusterID; want != "" && want != id {
		return nil, fmt.Errorf("controller: the store belongs to cluster %s, this node to cluster %s", id, want)
	}
	kvs, revision, err := load(ctx, c.opts.Store, "")
	if err != nil {
		return nil, err
	}
	return metadata.FromKVs(kvs, revision)
}

// ControlledShutdown hands over the leadership of this broker's partitions, to
// the extent that there is someone to take it, and returns when the metadata
// says so and every other broker that is up has applied it (rule 19): who does
// not know of the new leaders would send clients here, where nobody serves them
// any more. The others are waited for no longer than appliedLimit, and the metadata
// for as long as the store answers: without a majority of its members nobody can be
// told to take over. The broker's clean shutdown marker may then carry BrokerEpoch.
func (c *Controller) ControlledShutdown(ctx context.Context) error {
	if c.opts.ControllerOnly {
		return nil
	}
	c.mu.Lock()
	c.stopping = true
	c.mu.Unlock()
	c.signal()
	id := c.opts.NodeID
	var handedOver int64
	answered, stop := c.whileAnswered(ctx)
	defer stop()
	err := c.Await(answered, func(img *metadata.Image) bool {
		handedOver = img.Revision
		return img.Standing(id, c.opts.Incarnation) != metadata.Serving && !leadsAny(img, id)
	})
	if err != nil {
		if cause := context.Cause(answered); cause != nil {
			return cause // says more
		}
		return err
	}
	c.awaitApplied(ctx, handedOver)
	return nil
}

const (
	// storeSilence is how long a store that does not answer may be electing a leader:
	// several times what that takes on a machine that is busy.
	storeSilence = 3 * time.Second
	// storeAnswer is what one answer may take: members that lose their leader forget
	// what they were asked. storeLook is the time between two questions.
	storeAnswer = time.Second
	storeLook   = 250 * time.Millisecond
)

var errNoStore = errors.New("controller: the metadata store does not answer")

// whileAnswered returns a context that ends, with errNoStore as its cause, when the
// store has not answered for storeSilence. Stop ends what it runs.
func (c *Controller) whileAnswered(ctx context.Context) (answered context.Context, stop func()) {
	answered, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		last := time.Now()
		for answered.Err() == nil {
			short, done := context.WithTimeout(answered, storeAnswer)
			_, _, err := c.opts.Store.Get(short, metadata.ClusterKey)
			done()
			if err == nil {
				last = time.Now()
			} else if time.Since(last) >= storeSilence {
				cancel(errNoStore)
			}
			sleep(answered, storeLook)
		}
	})
	return answered, func() { cancel(nil); wg.Wait() }
}

func leadsAny(img *metadata.Image, id int32) bool {
	leads := false
	img.TopicsFrom("", func(t *metadata.Topic) bool {
		for _, p := range t.Partitions {
			leads = leads || p.Leader == id
		}
		return !leads
	})
	return leads
}

// Close ends the controller's goroutines and gives up its session, so that
// others learn at once that it is gone. Requests under way fail.
func (c *Controller) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.failQueue()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c.session.lease == 0 {
		return nil
	}
	err := c.opts.Store.Revoke(ctx, c.session.lease)
	if err != nil && !errors.Is(err, metadata.ErrLeaseNotFound) && !errors.Is(err, metadata.ErrClosed) {
		// As when the last of several members stop. Nothing is lost by it.
		c.log.Warn().Err(err).Msg("could not end the metadata session; the others learn by its timeout")
	}
	return nil
}

// Await returns when the published image, the one that Image returns, meets a
// condition. The condition is asked on the goroutine that applies metadata.
func (c *Controller) Await(ctx context.Context, done func(*metadata.Image) bool) error {
	return c.published.await(ctx, done)
}

// signal wakes the decision loop.
func (c *Controller) signal() { token(c.wake) }

// token leaves a token in a channel that has room for one.
func token(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func randomBytes(b []byte) {
	// crypto/rand.Read never returns an error.
	_, _ = crand.Read(b)
}

func newID() metadata.ID { return metadata.NewID(randomBytes) }
