package metadata

import (
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Registration is what a broker tells of itself when it starts.
type Registration struct {
	ID          int32
	Incarnation ID
	Rack        string
	Endpoints   []Endpoint
	// PreviousEpoch is the broker epoch in the marker of a clean shutdown,
	// 0 if there was none.
	PreviousEpoch int64
}

// Standing is where a broker stands between its start and its end.
type Standing int

const (
	// Unregistered: the store knows no registration of this incarnation.
	Unregistered Standing = iota
	// Pending: registered, the controller has not granted an epoch yet.
	Pending
	// Fenced: has an epoch, but leads nothing and is shown to no one.
	Fenced
	// Serving: may lead.
	Serving
	// ShuttingDown: hands over its leadership.
	ShuttingDown
)

func (i *Image) brokerState(id int32) *brokerState {
	n, ok := slices.BinarySearchFunc(i.regs, id, func(b *brokerState, id int32) int { return int(b.id) - int(id) })
	if !ok {
		return nil
	}
	return i.regs[n]
}

// Standing returns where that incarnation of a broker stands.
func (i *Image) Standing(id int32, incarnation ID) Standing {
	s := i.brokerState(id)
	switch {
	case s == nil || s.regRevision == 0 || ID(s.reg.Incarnation) != incarnation:
		return Unregistered
	case s.reg.Pending || s.epoch == 0:
		return Pending
	case s.reg.Fenced:
		return Fenced
	case s.reg.ShuttingDown:
		return ShuttingDown
	}
	return Serving
}

// Register is the change by which a broker registers. It must not be made
// while another incarnation gives signs of life (Alive).
func Register(img *Image, r Registration) []Change {
	record := regRecord{
		V: 1, Incarnation: textID(r.Incarnation), Rack: r.Rack,
		PreviousEpoch: r.PreviousEpoch, Pending: true, Fenced: true,
	}
	for _, e := range r.Endpoints {
		record.Endpoints = append(record.Endpoints, endpointRecord(e))
	}
	var expect int64
	if s := img.brokerState(r.ID); s != nil {
		expect = s.regRevision
	}
	return []Change{{Op: Op{Kind: OpPut, Key: regKey(r.ID), Value: encode(record)}, Expect: expect}}
}

// Unregister decides to forget a broker that does not come back: it is listed no
// more, and once the partitions were swept nobody waits for it. It may register
// again. retried tells that this was decided before, with an outcome that nobody
// learned of.
//
// Kafka forgets a broker that is up as well, which then leads nothing until it is
// started again; here that is INVALID_REQUEST.
func Unregister(img *Image, id int32, retried bool) (Outcome, Plan) {
	s := img.brokerState(id)
	switch {
	case s != nil && s.regRevision != 0 && s.liveRev != 0:
		return Outcome{kerr.InvalidRequest, fmt.Sprintf("Broker ID %d is up. Stop it first.", id)}, Plan{}
	case s != nil && s.regRevision != 0:
		return Outcome{}, Plan{
			Commit: []Change{{Op: Op{Kind: OpDelete, Key: regKey(id)}, Expect: s.regRevision}},
			Guard:  []Compare{{Key: liveKey(id), Target: ModRevision, Revision: 0}},
		}
	case retried:
		return Outcome{}, Plan{}
	}
	return Outcome{kerr.BrokerIDNotRegistered, fmt.Sprintf("Broker ID %d is not currently registered", id)}, Plan{}
}

// Alive returns which incarnation of a broker gives signs of life.
func (i *Image) Alive(id int32) (incarnation ID, alive bool) {
	s := i.brokerState(id)
	if s == nil || s.liveRev == 0 {
		return ID{}, false
	}
	return ID(s.live.Incarnation), true
}

// Liveness is a broker's sign of life. Ready says that it recovered its logs
// and applied its own registration, Stopping that it wants to shut down,
// Offline which of its replicas it cannot serve.
type Liveness struct {
	Incarnation     ID
	Ready, Stopping bool
	Offline         Replicas
}

// Replicas are some of a broker's replicas: partitions by topic, ascending.
type Replicas map[ID][]int32

// Has says whether the replica of that partition is among them.
func (r Replicas) Has(topic ID, partition int32) bool {
	_, found := slices.BinarySearch(r[topic], partition)
	return found
}

// Equal says whether they are the same.
func (r Replicas) Equal(o Replicas) bool { return maps.EqualFunc(r, o, slices.Equal[[]int32]) }

func (l Liveness) record() liveRecord {
	r := liveRecord{V: 1, Incarnation: textID(l.Incarnation), Ready: l.Ready, Stopping: l.Stopping}
	for topic, partitions := range l.Offline {
		if r.Offline == nil {
			r.Offline = map[textID][]int32{}
		}
		r.Offline[textID(topic)] = partitions
	}
	return r
}

func (r *liveRecord) offline() Replicas {
	if len(r.Offline) == 0 {
		return nil
	}
	out := Replicas{}
	for topic, partitions := range r.Offline {
		out[ID(topic)] = partitions
	}
	return out
}

// Live is the change by which a broker gives a sign of life, tied to its lease.
func Live(img *Image, id int32, l Liveness, lease LeaseID) Change {
	var expect int64
	if s := img.brokerState(id); s != nil {
		expect = s.liveRev
	}
	return Change{Op: Op{
		Kind: OpPut, Key: liveKey(id), Lease: lease,
		Value: encode(l.record()),
	}, Expect: expect}
}

// Says says whether the broker's sign of life is this one, under this lease.
func (i *Image) Says(id int32, l Liveness, lease LeaseID) bool {
	s := i.brokerState(id)
	return s != nil && s.liveRev != 0 && s.liveLease == lease &&
		s.live.Incarnation == textID(l.Incarnation) && s.live.Ready == l.Ready && s.live.Stopping == l.Stopping &&
		s.offline.Equal(l.Offline)
}

// Bury is the changes that remove what a dead incarnation of a node left under
// leases that have not run out yet: its sign of life and its controllership.
// Only who knows it to be dead may make them.
func Bury(img *Image, id int32) []Change {
	var changes []Change
	if s := img.brokerState(id); s != nil && s.liveRev != 0 {
		changes = append(changes, Change{Op: Op{Kind: OpDelete, Key: liveKey(id)}, Expect: s.liveRev})
	}
	if c := img.controller; c.fence != 0 && c.record.ID == id {
		changes = append(changes, Change{Op: Op{Kind: OpDelete, Key: keyController}, Expect: c.revision})
	}
	return changes
}

// Elect is the changes by which a node becomes controller; nil while there is
// one. The create revision of the controller's key, which is the revision of
// the transaction, is its fence. address is where it answers other nodes, empty
// for that of its registration as broker.
func Elect(img *Image, id int32, incarnation ID, address string, lease LeaseID) []Change {
	if img.controller.fence != 0 {
		return nil
	}
	return []Change{
		{Op: Op{Kind: OpPut, Key: keyController, Lease: lease, Value: encode(controllerRecord{
			V: 1, ID: id, Incarnation: textID(incarnation), Address: address,
		})}},
		{
			Op:     Op{Kind: OpPut, Key: keyControllerEpoch, Value: encode(controllerEpochRecord{V: 1, Epoch: img.controller.epoch.Epoch + 1})},
			Expect: img.controller.epochRevision,
		},
	}
}

// Decree is the transaction by which a controller makes changes that it decided on
// img. It compares, beside what TxnOf does, two keys:
//
//   - the controller's key is the one of its election, fence, so that a controller
//     that was replaced without knowing writes nothing;
//   - the key of the controller epoch was last written by the decree before: the one
//     that img shows, or the one at the revision last, which img has not yet and the
//     same decision made. Each decree writes it again, with the value that it has.
//
// So the decrees of a cluster are a chain. One whose answer was lost is in the image
// that the next is decided on, or it will never happen; what a decision concludes from
// keys that it does not write, such as that no topic names a partition, needs that.
func Decree(img *Image, fence, last int64, guards []Compare, changes []Change) Txn {
	link := Change{
		Op:     Op{Kind: OpPut, Key: keyControllerEpoch, Value: encode(img.controller.epoch)},
		Expect: max(img.controller.epochRevision, last),
	}
	election := Compare{Key: keyController, Target: CreateRevision, Revision: fence}
	return TxnOf(append([]Compare{election}, guards...), append(slices.Clip(changes), link))
}

// DecreeCompares and DecreeBytes are what Decree adds at most to a transaction.
const (
	DecreeCompares = 2
	DecreeBytes    = len(keyControllerEpoch) + 64
)

// Form is what makes an empty store a cluster with these finalized features.
// Where they ask for it, the min.insync.replicas of this node becomes that of
// all brokers.
func Form(id string, features map[string]int16, minInsyncReplicas int) []Change {
	cluster := Change{Op: Op{Kind: OpPut, Key: keyCluster, Value: encode(clusterRecord{V: 1, ClusterID: id, Features: features})}}
	return append([]Change{cluster}, defaultMinISR(Empty(), minInsyncReplicas, features)...)
}

// NextBrokerChange returns what the controller does next about the brokers,
// an empty plan if they are as they should be. Each step is one broker's, and the
// partitions must be swept before the next is asked for: fencing two brokers
// from one view could leave a partition that had an in-sync replica left with
// none.
//
// A broker is fenced when it gives no sign of life. A registration is granted
// (a new epoch) after the former incarnation was fenced and swept out of its
// partitions. A granted broker is unfenced when it says that it is ready.
//
// Each step rests on the broker's sign of life, or on there being none, and holds
// only while that is as it was: an epoch that was granted late, to a process that had
// stopped in order by then, would make that stop one that it cannot prove.
func NextBrokerChange(img *Image) Plan {
	for _, s := range img.regs {
		if changes := s.step(); changes != nil {
			return Plan{Commit: changes, Guard: []Compare{{Key: liveKey(s.id), Target: ModRevision, Revision: s.liveRev}}}
		}
	}
	return Plan{}
}

func (s *brokerState) step() []Change {
	if s.regRevision == 0 {
		return nil
	}
	alive := s.alive()
	reg := s.reg
	switch {
	case reg.Pending && alive:
		reg.Pending = false
		return []Change{
			s.putReg(reg),
			{Op: Op{Kind: OpPut, Key: epochKey(s.id), Value: encode(epochRecord{V: 1, Incarnation: reg.Incarnation})}, Expect: s.epoch},
		}
	case reg.Pending:
		return nil // fenced already, and nobody to grant anything
	case !alive && !reg.Fenced:
		reg.Fenced, reg.ShuttingDown = true, false
	case alive && reg.Fenced && s.live.Ready && !s.live.Stopping:
		reg.Fenced = false
	case alive && !reg.Fenced && s.live.Stopping && !reg.ShuttingDown:
		reg.ShuttingDown = true
	default:
		return nil
	}
	return []Change{s.putReg(reg)}
}

func (s *brokerState) alive() bool {
	return s.liveRev != 0 && s.live.Incarnation == s.reg.Incarnation
}

func (s *brokerState) putReg(r regRecord) Change {
	r.V = 1
	return Change{Op: Op{Kind: OpPut, Key: regKey(s.id), Value: encode(r)}, Expect: s.regRevision}
}

// ProducerIDBlock is how many producer ids one allocation takes, as in Kafka.
const ProducerIDBlock = 1000

// AllocateProducerIDs returns the next block of producer ids and the change
// that takes it. A change that was made without its maker learning of it only
// loses a block.
func AllocateProducerIDs(img *Image) (first int64, change Change) {
	first = img.producer.next
	return first, Change{
		Op:     Op{Kind: OpPut, Key: keyProducerIDs, Value: encode(producerRecord{V: 1, Next: first + ProducerIDBlock})},
		Expect: img.producer.revision,
	}
}
