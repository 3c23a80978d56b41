package metadata

import (
	"encoding/json"
	"fmt"
)

// valueVersion is the highest "v" of a value that this code reads. A field that
// older readers may ignore needs no new version; one that they must not ignore
// raises it, and may be written only after the finalized metadata.version says
// that every node reads it.
const valueVersion = 1

type clusterRecord struct {
	V         int              `json:"v"`
	ClusterID string           `json:"clusterId"`
	Features  map[string]int16 `json:"features,omitempty"`
}

type controllerRecord struct {
	V           int    `json:"v"`
	ID          int32  `json:"id"`
	Incarnation textID `json:"incarnation"`
	Address     string `json:"address,omitempty"`
}

type controllerEpochRecord struct {
	V     int   `json:"v"`
	Epoch int32 `json:"epoch"`
}

type topicRecord struct {
	V          int               `json:"v"`
	ID         textID            `json:"id"`
	Partitions int32             `json:"partitions"`
	Configs    map[string]string `json:"configs,omitempty"`
}

type partitionRecord struct {
	V              int     `json:"v"`
	Leader         int32   `json:"leader"`
	LeaderEpoch    int32   `json:"leaderEpoch"`
	PartitionEpoch int32   `json:"partitionEpoch"`
	Replicas       []int32 `json:"replicas"`
	ISR            []int32 `json:"isr"`
	ELR            []int32 `json:"elr,omitempty"`
	LastKnownELR   []int32 `json:"lastKnownElr,omitempty"`
	Adding         []int32 `json:"adding,omitempty"`
	Removing       []int32 `json:"removing,omitempty"`
	Recovering     bool    `json:"recovering,omitempty"`
}

type endpointRecord struct {
	Listener string `json:"listener"`
	Host     string `json:"host"`
	Port     int32  `json:"port"`
	Security string `json:"security"`
}

// regRecord is written by the broker when it registers (pending) and by the
// controller from then on.
type regRecord struct {
	V           int              `json:"v"`
	Incarnation textID           `json:"incarnation"`
	Rack        string           `json:"rack,omitempty"`
	Endpoints   []endpointRecord `json:"endpoints,omitempty"`
	// PreviousEpoch is the broker epoch in the marker of a clean shutdown:
	// the proof that no acknowledged record of that epoch was lost.
	PreviousEpoch int64 `json:"previousEpoch,omitempty"`
	// Pending registrations wait for the controller to take the former
	// incarnation out of its partitions and to grant a broker epoch.
	Pending      bool `json:"pending,omitempty"`
	Fenced       bool `json:"fenced,omitempty"`
	ShuttingDown bool `json:"shuttingDown,omitempty"`
}

// epochRecord's content is of no importance: the revision of the key is.
type epochRecord struct {
	V           int    `json:"v"`
	Incarnation textID `json:"incarnation"`
}

// liveRecord is what a broker says of itself while it lives.
type liveRecord struct {
	V           int    `json:"v"`
	Incarnation textID `json:"incarnation"`
	// Ready brokers recovered their logs and applied their own registration:
	// they may be unfenced.
	Ready bool `json:"ready,omitempty"`
	// Stopping brokers want their leadership taken over.
	Stopping bool `json:"stopping,omitempty"`
	// Offline are the replicas in log directories that failed: partitions by
	// topic, ascending.
	Offline map[textID][]int32 `json:"offline,omitempty"`
}

type configRecord struct {
	V       int               `json:"v"`
	Configs map[string]string `json:"configs"`
}

type producerRecord struct {
	V    int   `json:"v"`
	Next int64 `json:"next"`
}

// textID is an ID in Kafka's text form.
type textID ID

// MarshalText implements encoding.TextMarshaler.
func (t textID) MarshalText() ([]byte, error) { return []byte(FormatID(ID(t))), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *textID) UnmarshalText(b []byte) error {
	id, err := ParseID(string(b))
	*t = textID(id)
	return err
}

// encode writes a value. The records above are all encodable, so that failing
// is a bug in this file.
func encode(record any) []byte {
	b, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("metadata: encode %T: %v", record, err))
	}
	return b
}

// decode reads a value of one of the record types.
func decode[R versioned](kv KV) (R, error) {
	var r R
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return r, &ValueError{Key: kv.Key, Revision: kv.ModRevision, Err: err}
	}
	if v := r.version(); v > valueVersion {
		return r, &ValueError{
			Key: kv.Key, Revision: kv.ModRevision,
			Err: fmt.Errorf("written in version %d, this gregor reads up to %d", v, valueVersion),
		}
	}
	return r, nil
}

type versioned interface{ version() int }

func (r clusterRecord) version() int         { return r.V }
func (r controllerRecord) version() int      { return r.V }
func (r controllerEpochRecord) version() int { return r.V }
func (r topicRecord) version() int           { return r.V }
func (r partitionRecord) version() int       { return r.V }
func (r regRecord) version() int             { return r.V }
func (r epochRecord) version() int           { return r.V }
func (r liveRecord) version() int            { return r.V }
func (r configRecord) version() int          { return r.V }
func (r producerRecord) version() int        { return r.V }

// ValueError says that a value in the store cannot be understood.
type ValueError struct {
	Key      string
	Revision int64
	Err      error
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("metadata: key %q at revision %d: %v", e.Key, e.Revision, e.Err)
}

func (e *ValueError) Unwrap() error { return e.Err }

func (p *Partition) record() partitionRecord {
	return partitionRecord{
		V: 1, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
		Replicas: p.Replicas, ISR: p.ISR, ELR: p.ELR, LastKnownELR: p.LastKnownELR,
		Adding: p.Adding, Removing: p.Removing, Recovering: p.Recovering,
	}
}

func (r partitionRecord) partition(revision int64) *Partition {
	return &Partition{
		Leader: r.Leader, LeaderEpoch: r.LeaderEpoch, PartitionEpoch: r.PartitionEpoch,
		Replicas: r.Replicas, ISR: r.ISR, ELR: r.ELR, LastKnownELR: r.LastKnownELR,
		Adding: r.Adding, Removing: r.Removing, Recovering: r.Recovering,
		Revision: revision,
	}
}
