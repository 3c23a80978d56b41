package metadata

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Unchecked as Change.Expect stands for no compare.
const Unchecked int64 = -1

// Change is one write that a decision asks for. It may happen only while the
// key's modification revision is Expect: what the decision saw; 0 stands for
// an absent key.
type Change struct {
	Op
	Expect int64
}

// TxnOf is the transaction that makes changes, all or none: only if what each of them
// was decided on is still so, and what guards compare holds.
func TxnOf(guards []Compare, changes []Change) Txn {
	txn := Txn{If: slices.Clone(guards)}
	for _, ch := range changes {
		if ch.Expect != Unchecked {
			txn.If = append(txn.If, Compare{Key: ch.Key, Target: ModRevision, Revision: ch.Expect})
		}
		txn.Then = append(txn.Then, ch.Op)
	}
	return txn
}

// Outcome answers a request that is carried out or refused as a whole. Err is the
// client's, with what Message says of it.
type Outcome struct {
	Err     error
	Message string
}

// Plan is the writes of one decision. Commit happens in one transaction and
// makes the decision true; Stage happens before, in as many as it takes, and
// is invisible on its own, or as safe as what was before.
//
// Guard holds what must be true besides for Commit to happen: keys that the
// decision rests on without writing them.
type Plan struct {
	Stage  []Change
	Commit []Change
	Guard  []Compare
}

// Empty says that there is nothing to do.
func (p Plan) Empty() bool { return len(p.Commit) == 0 }

// With returns the image as it will be once changes are in the store. It
// serves further decisions; revisions in it are not those that the store will
// give.
func (i *Image) With(changes []Change) (*Image, error) {
	if len(changes) == 0 {
		return i, nil
	}
	e := newEditor(i)
	for _, c := range changes {
		var err error
		switch c.Kind {
		case OpPut:
			err = e.put(KV{Key: c.Key, Value: c.Value, CreateRevision: tentative, ModRevision: tentative, Lease: c.Lease})
		case OpDelete:
			err = e.del(c.Key)
		case OpDeletePrefix:
			e.delPrefix(c.Key)
		}
		if err != nil {
			return nil, err
		}
	}
	return e.done(i.Revision), nil
}

// tentative is the revision of keys that were only decided on: no key has it,
// so that comparing with it fails.
const tentative int64 = 1<<63 - 1

// delPrefix deletes the partitions of one deleted topic, the one prefix that
// decisions delete.
func (e *editor) delPrefix(prefix string) {
	for id := range e.staged.all() {
		if partsPrefix(id) == prefix {
			e.staged.del(id)
			return
		}
	}
}

// Rand is the source of randomness of a decision, as math/rand/v2.Rand is.
type Rand interface {
	// IntN returns a number from 0 to n-1.
	IntN(n int) int
}

// Env is what decisions need to know besides the image and the request.
type Env struct {
	// DefaultPartitions and DefaultReplicationFactor serve requests that
	// leave them open.
	DefaultPartitions        int32
	DefaultReplicationFactor int16
	// MinInsyncReplicas and UncleanLeaderElection are the defaults of the
	// topic configs of that name.
	MinInsyncReplicas     int
	UncleanLeaderElection bool
	// LogEnds is what brokers said about the partitions of UncleanElections.
	LogEnds LogEnds
	Rules   ConfigRules
	// NodeID is the controller, Features what it serves.
	NodeID   int32
	Features []FeatureRange
	Rand     Rand
}

// TopicDecision is the answer to one topic of a request with the plan that
// must be in the store before it is given. The plan of an error is empty.
type TopicDecision struct {
	Result TopicResult
	Plan   Plan
}

// ConfigDecision is the same for one resource.
type ConfigDecision struct {
	Result ConfigResult
	Plan   Plan
}

// fail fills in an error. An empty message stands for the error's own.
func (r *TopicResult) fail(err *kerr.Error, message string) {
	r.Err, r.Message = err, message
}

// partRevision returns the revision of a partition's key, staged or not; 0 if
// there is none.
func (i *Image) partRevision(id ID, n int32) int64 {
	if t, ok := i.ids.get(id); ok && int(n) < len(t.Partitions) {
		return t.Partitions[n].Revision
	}
	if s, ok := i.staged.get(id); ok && int(n) < len(s.parts) && s.parts[n] != nil {
		return s.parts[n].Revision
	}
	return 0
}

// Orphans returns the changes that sweep partitions which no topic names: what
// deletions leave behind, and creations that did not come to their end. Only
// the loop that carries out plans may ask, and not in the middle of one.
func Orphans(img *Image) []Change {
	var changes []Change
	for id, s := range img.staged.all() {
		if _, ok := img.ids.get(id); !ok {
			changes = append(changes, Change{Op: Op{Kind: OpDeletePrefix, Key: partsPrefix(id)}, Expect: Unchecked})
			continue
		}
		for n, p := range s.parts {
			if p != nil {
				changes = append(changes, Change{Op: Op{Kind: OpDelete, Key: partKey(id, int32(n))}, Expect: p.Revision})
			}
		}
	}
	return changes
}

func putPart(id ID, n int32, p *Partition, expect int64) Change {
	return Change{Op: Op{Kind: OpPut, Key: partKey(id, n), Value: encode(p.record())}, Expect: expect}
}

func putTopic(t *Topic, partitions int32, configs map[string]string, expect int64) Change {
	return Change{Op: Op{Kind: OpPut, Key: topicKey(t.Name), Value: encode(topicRecord{
		V: 1, ID: textID(t.ID), Partitions: partitions, Configs: configs,
	})}, Expect: expect}
}
