package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/broker"
	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/controller"
	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/peer"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// Options say which broker to run.
type Options struct {
	// Config is the whole configuration; required.
	Config *config.Values
	Log    zerolog.Logger
	// LogLevel lets clients see and change the level of Log; nil: they cannot.
	LogLevel handler.LogLevel
	// ClusterID is the cluster to form where there is none yet; random when
	// empty. A log directory that belongs to a cluster already wins.
	ClusterID string
	// Version is what the metrics call this build.
	Version string
	// Store replaces the metadata store that the configuration describes.
	// The node does not close it.
	Store metadata.Store
	// Shared says that other nodes work with Store too.
	Shared bool
	// FS replaces the operating system's files for the logs.
	FS vfs.FS
	// Now replaces the clock.
	Now func() time.Time
}

// Node is one running broker. It owns the goroutines that accept connections,
// one per listener; everything else runs in the parts below it.
type Node struct {
	log       zerolog.Logger
	clusterID string
	id        int32
	// incarnation tells this process from its predecessors on these log
	// directories, of which dead are the last.
	incarnation metadata.ID
	dead        []metadata.ID
	quorum      *quorum
	listening   []boundListener
	// port is the controller's, asked what is served there; both nil where
	// there is none.
	port  *controllerPort
	asked *controllerServer
	// handsOver is controlled.shutdown.enable.
	handsOver bool
	// nodes reaches the others as parts of the cluster.
	nodes *peer.Peers

	// What is open, each nil until it was opened; closeParts goes through
	// them in the reverse order of opening.
	store      metadata.Store
	storeOwned bool
	logs       *storage.Manager
	controller *controller.Controller
	peers      *peer.Peers
	partitions *replication.Manager
	groups     *runtime.Runtime[*group.Shard]
	txns       *runtime.Runtime[*txn.Shard]
	markers    *handler.Markers
	// What the coordinators count.
	groupEvents   [group.Events]atomic.Int64
	txnEvents     [txn.Events]atomic.Int64
	verifications handler.Verifications
	handedOn      handler.HandedOn
	server        *broker.Server
	admin         *adminServer
	serving       sync.WaitGroup
	// background is what runs beside requests on behalf of the coordinators;
	// it ends with ctx.
	background sync.WaitGroup
	ctx        context.Context //nolint:containedctx // the node's life, not a call's
	cancel     context.CancelFunc

	failOnce sync.Once
	failed   chan struct{}
	err      error // set before failed is closed

	closeOnce sync.Once
	closeErr  error
}

type boundListener struct {
	listener
	net net.Listener
}

// port is the port that was bound.
func (b boundListener) port() int32 {
	if a, ok := b.net.Addr().(*net.TCPAddr); ok {
		return int32(a.Port)
	}
	return b.Port
}

// endpoint is what clients and other brokers are told.
func (b boundListener) endpoint() metadata.Endpoint {
	port := b.advertisedPort
	if port == 0 {
		port = b.port()
	}
	return metadata.Endpoint{Listener: b.Name, Host: b.advertisedHost, Port: port, Security: b.Protocol}
}

// Start runs a broker and returns when it serves. Where it fails, nothing is
// left behind. Ports are bound before anything slow happens and accept when
// everything is ready.
func Start(ctx context.Context, o Options) (*Node, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	n := &Node{
		log: o.Log, id: o.Config.NodeID(), failed: make(chan struct{}),
		handsOver: o.Config.Bool("controlled.shutdown.enable"),
	}
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := n.start(ctx, o); err != nil {
		return nil, errors.Join(err, n.Close(context.WithoutCancel(ctx)))
	}
	return n, nil
}

func (n *Node) start(ctx context.Context, o Options) error {
	var err error
	if n.quorum, err = planQuorum(o.Config, thisMachine(os.Hostname)); err != nil {
		return err
	}
	if err := checkSecurity(o.Config); err != nil {
		return err
	}
	if err := n.listen(ctx, o.Config); err != nil {
		return err
	}
	if err := n.openStores(ctx, o); err != nil {
		return err
	}
	if err := n.join(ctx, o); err != nil {
		return err
	}
	if err := n.serve(ctx, o); err != nil {
		return err
	}
	if !n.quorum.alone() || o.Shared {
		n.guard(o.Config)
	}
	if f, ok := n.store.(interface{ Failed() <-chan struct{} }); ok {
		n.background.Go(func() {
			select {
			case <-f.Failed():
				n.fail(errStoreStopped)
			case <-n.ctx.Done():
			}
		})
	}
	return nil
}

// serve lets clients in.
func (n *Node) serve(ctx context.Context, o Options) error {
	metrics := broker.NewMetrics()
	if !n.quorum.broker {
		return n.listenHTTP(ctx, o, metrics)
	}
	h, err := handler.New(handler.Broker{
		NodeID: n.id, ClusterID: n.clusterID, Rack: o.Config.String("broker.rack"),
		Cluster: n.controller, Partitions: n.partitions, Logs: n.logs, Config: o.Config,
		Groups: n.groups, Transactions: n.txns, Markers: n.markers, Verifications: &n.verifications, HandedOn: &n.handedOn, Peers: n.peers,
		Calls: n.controller.Answer, Quorum: n.quorumServers(o.Config), Now: o.Now, Log: n.log, LogLevel: o.LogLevel,
	})
	if err != nil {
		return err
	}
	serving, err := serverOptions(ctx, o.Config, h, n.log, metrics)
	if err != nil {
		return err
	}
	if n.server, err = broker.New(serving); err != nil {
		return err
	}
	if err := n.listenHTTP(ctx, o, metrics); err != nil {
		return err
	}
	for _, l := range n.listening {
		n.serving.Go(func() {
			if err := n.server.Serve(l.net, l.Name); err != nil && !errors.Is(err, broker.ErrClosed) {
				n.fail(fmt.Errorf("listener %s: %w", l.Name, err))
			}
		})
	}
	return nil
}

// listen binds the clients' listeners and the controller's.
func (n *Node) listen(ctx context.Context, v *config.Values) error {
	var lc net.ListenConfig
	if l := n.quorum.listener; l != nil {
		nl, err := lc.Listen(ctx, "tcp", l.Address())
		if err != nil {
			return at(v, "listeners", fmt.Errorf("listener %s: %w", l.Name, err))
		}
		n.port = splitPort(nl)
		if !n.quorum.embeds() {
			_, _ = n.port.members.Close(), n.port.stores.Close()
		}
	}
	if !n.quorum.broker {
		return nil
	}
	listeners, err := clientListeners(v, os.Hostname)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		nl, err := lc.Listen(ctx, "tcp", l.Address())
		if err != nil {
			return at(v, "listeners", fmt.Errorf("listener %s: %w", l.Name, err))
		}
		n.listening = append(n.listening, boundListener{l, nl})
	}
	return nil
}

// openStores opens the metadata store and the logs, side by side where it can:
// the first waits for an election, the second for the disk.
func (n *Node) openStores(ctx context.Context, o Options) error {
	id, err := clusterIdentity(o.FS, o.Config.LogDirs(), o.ClusterID, n.log)
	if err != nil {
		return err
	}
	n.clusterID = id
	var logsErr error
	openLogs := func() { n.logs, logsErr = storage.Open(storageOptions(o, n.clusterID, n.dirFailed)) }

	shared := o.Store != nil || !n.quorum.alone()
	if n.clusterID == "" && !shared {
		n.clusterID = NewClusterID()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if n.clusterID != "" {
		wg.Go(openLogs)
	}
	if n.store, n.storeOwned = o.Store, false; n.store == nil {
		store, err := openStore(ctx, o.Config, n.quorum, n.port, n.log)
		if err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		n.store, n.storeOwned = store, true
	}
	if n.clusterID == "" {
		// New log directories join the cluster that the store knows.
		if n.clusterID, err = agreeOnCluster(ctx, n.store, o.Config, o.ClusterID, n.quorum.controller); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		openLogs()
	}
	wg.Wait()
	if logsErr != nil {
		return logsErr
	}
	return n.succeed(o.FS, o.Config.LogDirs())
}

// succeed learns which processes this one follows. The log directories' locks
// prove that they are dead, so that a broker which was killed need not wait for
// its session to end before it registers anew.
func (n *Node) succeed(files vfs.FS, dirs []string) error {
	n.incarnation = metadata.NewID(func(b []byte) { _, _ = rand.Read(b) }) // crypto/rand never fails
	for _, d := range n.logs.Dirs() {
		if d.Err != nil || d.Path != dirs[0] {
			continue
		}
		former, err := storage.Succeed(files, d.Path, metadata.FormatID(n.incarnation))
		if err != nil {
			return fmt.Errorf("log.dirs: %w", err)
		}
		for _, text := range former {
			if id, err := metadata.ParseID(text); err == nil {
				n.dead = append(n.dead, id)
			}
		}
	}
	return nil
}

// join registers the broker in the cluster and lets the metadata of the
// cluster take its partitions into service.
func (n *Node) join(ctx context.Context, o Options) error {
	n.nodes = newNodes(o.Config, n.id, func() *metadata.Image { return n.controller.Image() })
	if !n.quorum.broker {
		return n.joinController(ctx, o)
	}
	n.peers = newPeers(o.Config, n.id, func() *metadata.Image { return n.controller.Image() })
	n.partitions = replication.New(n.replicationOptions(o))
	cfg := groupConfig(o.Config)
	cfg.Count = func(e group.Event) { n.groupEvents[e].Add(1) }
	groups, err := newGroups(cfg, o.Config, func() *metadata.Image { return n.controller.Image() }, o.Now, n.log)
	if err != nil {
		return err
	}
	n.groups = groups
	n.partitions.OnLeadership(leads(groups, handler.OffsetsTopic))
	if err := n.newTransactions(o); err != nil {
		return err
	}
	var endpoints []metadata.Endpoint
	for _, l := range n.listening {
		endpoints = append(endpoints, l.endpoint())
	}
	c, err := controller.New(controllerOptions(o, n, endpoints))
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	n.controller = c
	n.answerCalls()
	c.Subscribe(handler.DynamicConfig(o.Config, n.id, n.log)) // before those who read what it changes
	c.Subscribe(n.followCleaner(o.Config))
	c.Subscribe(n.partitions.Apply)
	c.Subscribe(n.forgetDeleted)
	if err := c.Start(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	n.logs.SetBrokerEpoch(c.BrokerEpoch())
	n.logs.Start()
	return nil
}

// joinController takes part in the cluster without being a broker.
func (n *Node) joinController(ctx context.Context, o Options) error {
	c, err := controller.New(controllerOptions(o, n, nil))
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	n.controller = c
	n.answerCalls()
	if err := c.Start(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

// answerCalls serves the controller's port. It comes before this node can be
// elected, and so be asked.
func (n *Node) answerCalls() {
	if n.port != nil {
		n.asked = serveController(n.port.kafka, n.controller.Answer)
	}
}

func (n *Node) listenHTTP(ctx context.Context, o Options, server *broker.Metrics) error {
	address := o.Config.String("http.address")
	if address == "" {
		return nil
	}
	cluster := &clusterCollector{
		image: n.controller.Image, partitions: n.partitionStats, dirs: n.logs.Dirs,
		cleaner: n.logs.CleanerStats, now: o.Now, unclean: n.controller.UncleanElections,
	}
	parts := []prometheus.Collector{server, cluster}
	if n.quorum.broker {
		cluster.throttles, cluster.moves = n.partitions.Throttles, n.partitions.Moves
		parts = append(parts, &coordinatorCollector{
			groups: n.groups, groupEvents: &n.groupEvents, txns: n.txns, txnEvents: &n.txnEvents,
			markers: n.markers.Pending, verifications: &n.verifications, handedOn: &n.handedOn, producers: n.partitions.ProducerStats,
			maxTimeout: o.Config.Duration("transaction.max.timeout.ms"), now: o.Now,
		})
	}
	admin, err := listenAdmin(ctx, address, metricsHandler(o.Version, parts...), []check{
		{"metadata", n.registered},
		{"logs", n.anyDirOnline},
	})
	if err != nil {
		return at(o.Config, "http.address", err)
	}
	n.admin = admin
	return nil
}

// partitionStats counts the partitions, of which only a broker has any.
func (n *Node) partitionStats() replication.Stats {
	if n.partitions == nil {
		return replication.Stats{}
	}
	return n.partitions.Stats()
}

// registered is the readiness of the metadata: this broker is in the image and
// takes part.
func (n *Node) registered() error {
	if !n.quorum.broker {
		if n.controller.Image().ControllerID() < 0 {
			return errors.New("no controller is elected")
		}
		return nil
	}
	b := n.controller.Image().Broker(n.id)
	if b == nil || !b.Active() {
		return errors.New("this broker is not registered in the cluster")
	}
	return nil
}

func (n *Node) anyDirOnline() error {
	var last error
	for _, dir := range n.logs.DirPaths() {
		if last = n.logs.DirErr(dir); last == nil {
			return nil
		}
	}
	return fmt.Errorf("every log directory is offline: %w", last)
}

// dirFailed is told by storage of a log directory that went offline, and must
// not block. With the last one the broker has nothing left to serve, and ends
// as Kafka's does.
func (n *Node) dirFailed(dir string, err error) {
	n.log.Error().Err(err).Str("dir", dir).Msg("log directory is offline")
	if n.partitions != nil {
		n.partitions.DirFailed(dir)
	}
	if n.logs != nil && n.anyDirOnline() != nil {
		n.fail(fmt.Errorf("every log directory is offline: %w", err))
	}
}

func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.err = err
		close(n.failed)
	})
}

// Failed is closed when the node cannot go on; Err says why. It still has to be
// closed.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err is why the node failed, once Failed is closed.
func (n *Node) Err() error { return n.err }

// ID is the node's id.
func (n *Node) ID() int32 { return n.id }

// ClusterID is the cluster that the node is part of.
func (n *Node) ClusterID() string { return n.clusterID }

// Addr is the address that a listener is bound to, "" for one that does not
// exist. An empty name is the first listener.
func (n *Node) Addr(name string) string {
	for _, l := range n.listening {
		if name == "" || l.Name == name {
			return l.net.Addr().String()
		}
	}
	return ""
}

// Listening lists the listeners with the addresses that they advertise.
func (n *Node) Listening() []string {
	var out []string
	for _, l := range n.listening {
		e := l.endpoint()
		out = append(out, fmt.Sprintf("%s://%s", l.Name, net.JoinHostPort(e.Host, fmt.Sprint(e.Port))))
	}
	return out
}

// HTTPAddr is the bound address of the HTTP listener, "" when it is off.
func (n *Node) HTTPAddr() string {
	if n.admin == nil {
		return ""
	}
	return n.admin.listener.Addr().String()
}

// Close takes the node down in order: no new connections, requests in process
// are answered, logs are flushed and marked clean, the registration ends. When
// ctx ends first, what is left is cut off. Later calls wait for the first.
func (n *Node) Close(ctx context.Context) error {
	n.closeOnce.Do(func() { n.closeErr = n.closeParts(ctx) })
	return n.closeErr
}

// drainTimeout is what requests in process get to be answered: the logs must
// have time left to be flushed and marked clean.
const drainTimeout = 5 * time.Second

// drain ends the connections, first with an answer to what they asked, then by
// force.
func (n *Node) drain(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	err := n.server.Shutdown(short)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		n.log.Warn().Dur("after", drainTimeout).Msg("cut off connections with unfinished requests")
		return nil
	}
	return err
}

// handOverTimeout bounds the wait for others to lead what this broker leads.
const handOverTimeout = 10 * time.Second

// farewell is how long a broker that handed over serves on, to tell its clients
// who leads now (KIP-951). One that finds the connection closed instead waits for
// its backoff, then asks for metadata, then backs off longer: with librdkafka and
// franz-go it takes a second or two.
const farewell = 200 * time.Millisecond

// handOver gives the leadership of this broker's partitions to others, while it
// still serves, where there are any. Without them, as with a single broker, its
// partitions stay its own.
func (n *Node) handOver(ctx context.Context) {
	if n.server == nil || n.controller == nil || !n.handsOver {
		return // it did not serve, or is not to
	}
	others := slices.ContainsFunc(n.controller.Image().Brokers(), func(b *metadata.Broker) bool { return b.ID != n.id && b.Active() })
	if !others {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := n.controller.ControlledShutdown(ctx); err != nil {
		n.log.Warn().Err(err).Msg("stopping without having handed over what this broker leads")
		return
	}
	_ = sleep(ctx, farewell)
}

func (n *Node) closeParts(ctx context.Context) error {
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	n.handOver(ctx)
	if n.server != nil {
		note("connections", n.drain(ctx))
	}
	for _, l := range n.listening {
		_ = l.net.Close() // the server closed it if it served
	}
	n.serving.Wait()
	if n.admin != nil {
		note("http", n.admin.close(ctx))
	}
	n.cancel()
	n.background.Wait()
	if n.markers != nil {
		n.markers.Close()
	}
	if n.txns != nil {
		n.txns.Close()
	}
	if n.groups != nil {
		n.groups.Close()
	}
	if n.partitions != nil {
		n.partitions.Close()
	}
	if n.controller != nil {
		note("controller", n.controller.Close())
	}
	if n.asked != nil {
		n.asked.close()
	}
	if n.peers != nil {
		n.peers.Close()
	}
	if n.nodes != nil {
		n.nodes.Close()
	}
	if n.logs != nil {
		note("logs", n.logs.Close(ctx))
	}
	if n.storeOwned && n.store != nil {
		note("metadata", n.store.Close())
	}
	if n.port != nil {
		note("controller port", n.port.close())
	}
	return errors.Join(errs...)
}
