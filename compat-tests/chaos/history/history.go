// Package history is what a chaos run saw: every operation of every client,
// with the time it was called, the time it answered and how it ended. Package
// check judges it.
//
// A process of a history is one client's life: a client that crashed is
// followed by a process with a number of its own. A process does one operation
// at a time, so its operations are in order. Times are nanoseconds of one
// monotonic clock in the test process.
package history

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Key is one partition of one topic.
type Key struct {
	Topic     string
	Partition int32
}

// Incarnation stands between the name and the id of a topic that is deleted and
// created again, where it is part of a key's topic.
const Incarnation = "#"

// GroupTopic has the committed offsets of groups; who leads its partitions
// coordinates them.
const GroupTopic = "__consumer_offsets"

// Coordinates is the key of the partition whose leader coordinates a group, of
// so many.
func Coordinates(group string, partitions int32) Key {
	var h int32 // as Java's String.hashCode
	for _, c := range utf16.Encode([]rune(group)) {
		h = 31*h + int32(c)
	}
	return Key{Topic: GroupTopic, Partition: (h & 0x7fffffff) % partitions}
}

// Name is the topic's name for its clients.
func (k Key) Name() string {
	name, _, _ := strings.Cut(k.Topic, Incarnation)
	return name
}

func (k Key) String() string { return k.Topic + "/" + strconv.Itoa(int(k.Partition)) }

// MarshalText writes topic/partition, so that a key may be a key in JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads topic/partition.
func (k *Key) UnmarshalText(text []byte) error {
	topic, partition, found := strings.Cut(string(text), "/")
	n, err := strconv.ParseInt(partition, 10, 32)
	if !found || err != nil {
		return fmt.Errorf("key %q is not topic/partition", text)
	}
	k.Topic, k.Partition = topic, int32(n)
	return nil
}

// Type says how an operation ended.
type Type string

// Info is unknown: the operation may have had its effect, may have it later or
// never. Fail is certain: it had none and never will.
const (
	OK   Type = "ok"
	Fail Type = "fail"
	Info Type = "info"
)

// Kind says what an operation is.
type Kind string

// The kinds. A send, poll or txn has Mops; the others have the fields of Op
// that their comments name.
const (
	Send        Kind = "send"        // one or more records outside a transaction
	Poll        Kind = "poll"        // one poll outside a transaction, read_committed
	Txn         Kind = "txn"         // sends and polls in a transaction
	Assign      Kind = "assign"      // Keys, and the process starts at chosen offsets
	Subscribe   Kind = "subscribe"   // a group decides what the process reads
	Owned       Kind = "owned"       // Keys that a member of a group was given in Generation
	Revoked     Kind = "revoked"     // Keys that it gave up or lost
	Commit      Kind = "commit"      // Offsets committed to Group
	FetchOffset Kind = "fetchOffset" // Offsets read from Group, with require_stable
	InitPid     Kind = "initPid"     // PID and Epoch that TxnID got
	Observe     Kind = "observe"     // Marks
	Metadata    Kind = "metadata"    // Leaders
	Crash       Kind = "crash"       // the client was thrown away
	Deleted     Kind = "deleted"     // Keys whose topic was deleted, or may have been
	Serving     Kind = "serving"     // clients must be served all the time; Note says in spite of what
	Nemesis     Kind = "nemesis"     // Note says which fault began or ended
	Healed      Kind = "healed"      // all faults are over; the broker should recover
	Gone        Kind = "gone"        // a driver's program ended by itself, as Note says; fail where it was not started again
)

// Never is the time of something that did not happen.
const Never = math.MaxInt64

// Op is one operation, called at Invoked and ended at Returned.
type Op struct {
	Index      int          // position in the history
	Process    int          `json:",omitempty"`
	F          Kind         //
	Type       Type         //
	Mops       []Mop        `json:",omitempty"`
	Rebalanced map[Key]bool `json:",omitempty"` // keys that came or went since the process's last operation
	// Ended names logs that the broker said to end at or before an offset, by
	// refusing a read after it.
	Ended map[Key]int64 `json:",omitempty"`
	// EpochEnded names where the broker said that the records of a leader epoch, and
	// of those before, end: a reader that stood after that was sent back.
	EpochEnded map[Key]EpochEnd `json:",omitempty"`
	// Final marks polls after healing: they read every key from its beginning
	// to its end.
	Final bool `json:",omitempty"`
	// Classic marks a group protocol in which one generation is the whole
	// group's (classic), so that a commit of an older one must be refused.
	Classic bool `json:",omitempty"`

	Keys       []Key  `json:",omitempty"`
	Group      string `json:",omitempty"`
	Member     string `json:",omitempty"`
	Generation int32  `json:",omitempty"`
	// Offsets are what a commit committed, also as part of a txn, or what a
	// fetchOffset read: -1 where nothing is committed.
	Offsets map[Key]int64 `json:",omitempty"`
	// Broker is the node id of who answered a fetchOffset, a commit that nobody
	// repeated, metadata, or a send of one request, 0 where not known.
	Broker int32 `json:",omitempty"`
	// Once marks commits whose request nobody repeated, so that its effect lies
	// between call and answer, or later where there was no answer.
	Once bool `json:",omitempty"`

	TxnID string `json:",omitempty"`
	PID   int64  `json:",omitempty"`
	Epoch int16  `json:",omitempty"`

	Marks   []Mark   `json:",omitempty"`
	Leaders []Leader `json:",omitempty"`
	// Absent are names that Broker's metadata was asked for and had no topic of.
	Absent []string `json:",omitempty"`

	Note  string `json:",omitempty"`
	Error string `json:",omitempty"`

	Invoked, Returned int64
}

// Mop is one step of a send, poll or txn: either a Send or a Poll.
type Mop struct {
	Send *Sent          `json:",omitempty"`
	Poll map[Key][]Read `json:",omitempty"`
}

// Sent is a record that was sent. Value is unique among all records of its
// key. Offset is -1 where no answer told it. Delta is what it adds to the
// account of a bank.
type Sent struct {
	Key    Key
	Value  int64
	Offset int64
	Delta  int64 `json:",omitempty"`
	From   int64 `json:",omitempty"` // the value that a pipe read and this record hands on
	PID    int64 `json:",omitempty"` // 0: not known
	Epoch  int16 `json:",omitempty"`
}

// Read is a record that was polled.
type Read struct {
	Offset int64
	Value  int64
	Epoch  int32 `json:",omitempty"` // leader epoch it was written in
}

// EpochEnd is the offset after the last record of a leader epoch.
type EpochEnd struct {
	Epoch int32
	End   int64
}

// Mark is what a broker said of a partition's offsets in one answer. What the
// answer did not say is -1.
type Mark struct {
	Key         Key
	Broker      int32
	LeaderEpoch int32
	// EpochStart is where the log of this leader epoch begins, -1 if not known.
	EpochStart  int64
	LogStart    int64
	LastStable  int64
	High        int64
	End         int64
	FromOffsets bool // ListOffsets(latest) said it, which may never lag
}

// Leader is what one broker's metadata says of a partition.
type Leader struct {
	Key             Key
	Broker          int32 // who said it
	Leader          int32
	Epoch           int32
	InSync          int   // replicas in the ISR
	PartitionEpoch  int32 // -1 where not told
	ControllerEpoch int32 // -1 where not told
}

// Service is what clients want of a broker: that what they send to a key is
// acknowledged, or that polls of it bring records.
type Service struct {
	Kind Kind // Send or Poll, in or outside of a transaction
	Key  Key
}

func (s Service) String() string { return string(s.Kind) + " of " + s.Key.String() }

// Served calls f for each service that the operation got done. A poll that found
// nothing, or was refused, ends well too and is none.
func (o *Op) Served(f func(Service)) {
	if o.Type != OK {
		return
	}
	for i := range o.Mops {
		if s := o.Mops[i].Send; s != nil {
			f(Service{Send, s.Key})
		}
		for k, reads := range o.Mops[i].Poll {
			if len(reads) > 0 {
				f(Service{Poll, k})
			}
		}
	}
}

// Sends are the records that the operation sent, in order.
func (o *Op) Sends() []*Sent {
	var out []*Sent
	for i := range o.Mops {
		if s := o.Mops[i].Send; s != nil {
			out = append(out, s)
		}
	}
	return out
}

// Reads calls f for the records that the operation polled, key by key, in the
// order of the polls.
func (o *Op) Reads(f func(Key, []Read)) {
	for i := range o.Mops {
		for k, reads := range o.Mops[i].Poll {
			f(k, reads)
		}
	}
}
