package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Shard holds the groups of one partition of __consumer_offsets. It satisfies
// runtime.Shard.
type Shard struct {
	cfg *Config
	// newID returns a fresh unique string (a UUID) for member ids.
	newID func() string

	// image returns the metadata of the cluster as this broker knows it.
	image func() *metadata.Image
	// writable is the error with which records would be refused now because too
	// few replicas are in sync.
	writable func() error

	// A group is in one of the two.
	classic  map[string]*classicGroup
	consumer map[string]*consumerGroup
	offsets  map[string]*groupOffsets
	// topics has each name of a topic once, for the many offsets that have it.
	topics map[string]string
	// open are the offsets that unfinished transactions hold, by producer id.
	open map[int64]map[string]map[topicPartition]offset
}

// NewShard returns a shard without groups. writable is the error with which its
// records would be refused now because too few replicas are in sync; see
// runtime.PartitionLog.
func NewShard(cfg *Config, newID func() string, image func() *metadata.Image, writable func() error) *Shard {
	return &Shard{
		cfg: cfg, newID: newID, image: image, writable: writable,
		classic:  make(map[string]*classicGroup),
		consumer: make(map[string]*consumerGroup),
		offsets:  make(map[string]*groupOffsets),
		topics:   make(map[string]string),
		open:     make(map[int64]map[string]map[topicPartition]offset),
	}
}

// step collects what one input makes happen.
type step struct {
	now time.Time
	runtime.Result
}

// refusable is a step that changes nothing but by its records.
func refusable(now time.Time) *step {
	return &step{now: now, Result: runtime.Result{Refusable: true}}
}

func (st *step) reply(t runtime.Ticket, response any) {
	if t != 0 {
		st.Replies = append(st.Replies, runtime.Reply{Ticket: t, Response: response})
	}
}

func (st *step) setTimer(key string, after time.Duration) {
	st.Timers = append(st.Timers, runtime.Timer{Key: key, At: st.now.Add(after)})
}

func (st *step) cancelTimer(key string) {
	st.Timers = append(st.Timers, runtime.Timer{Key: key})
}

// Timers' keys: what, group, member.
const (
	timerSession = 's'
	timerJoin    = 'j'
	timerSync    = 'y'
	timerOffsets = 'o'
	// Of consumer groups.
	timerConsumerSession = 'S'
	timerRevoke          = 'r'
	// Of their members that speak the classic protocol.
	timerConsumerJoin = 'J'
	timerConsumerSync = 'Y'
)

func timerKey(what byte, group, member string) string {
	var b strings.Builder
	b.WriteByte(what)
	var n [binary.MaxVarintLen64]byte
	b.Write(n[:binary.PutUvarint(n[:], uint64(len(group)))])
	b.WriteString(group)
	b.WriteString(member)
	return b.String()
}

func parseTimerKey(key string) (what byte, group, member string, err error) {
	if key == "" {
		return 0, "", "", fmt.Errorf("timer without a key")
	}
	n, size := binary.Uvarint([]byte(key[1:]))
	if size <= 0 || uint64(len(key)-1-size) < n {
		return 0, "", "", fmt.Errorf("timer key %q is malformed", key)
	}
	rest := key[1+size:]
	return key[0], rest[:n], rest[n:], nil
}

// Replay applies a record; see runtime.Shard.
func (s *Shard) Replay(at int64, producer *runtime.Producer, r runtime.Record) error {
	t, err := recordType(r.Key)
	if err != nil {
		return err
	}
	switch t {
	case typeOffsetCommitV0, typeOffsetCommit:
		return s.replayOffset(at, producer, r)
	case typeGroupMetadata:
		return s.replayClassic(r)
	case typeConsumerGroup, typeConsumerMember, typeTargetEpoch, typeTargetMember, typeCurrentMember, typeRegex:
		return s.replayConsumer(t, r)
	default:
		// A type of a later version, as Kafka: skipped, so that a broker can
		// go back a version.
		return nil
	}
}

func (s *Shard) replayClassic(r runtime.Record) error {
	k := kmsg.NewGroupMetadataKey()
	if err := k.ReadFrom(r.Key); err != nil {
		return fmt.Errorf("key of a group: %w", err)
	}
	if r.Value == nil {
		delete(s.classic, k.Group)
		return nil
	}
	g, err := classicFrom(k.Group, r.Value)
	if err != nil {
		return fmt.Errorf("group %q: %w", k.Group, err)
	}
	s.classic[k.Group] = g
	return nil
}

// Loaded sets the timers of the members that the log names: each gets a whole
// session to find the new coordinator.
func (s *Shard) Loaded(now time.Time) runtime.Result {
	st := &step{now: now}
	for _, g := range s.classic {
		for _, m := range g.members {
			s.watchSession(st, g, m)
		}
		if g.unsettled {
			s.prepareRebalance(st, g)
		}
	}
	for _, g := range s.consumer {
		for _, m := range g.members {
			s.watchConsumer(st, g, m)
			s.watchRevocation(st, g, m)
		}
	}
	st.setTimer(timerKey(timerOffsets, "", ""), s.cfg.OffsetsCheckInterval)
	return st.Result
}

// Timeout handles a timer that went off; see runtime.Shard.
func (s *Shard) Timeout(now time.Time, key string) runtime.Result {
	st := &step{now: now}
	what, group, memberID, err := parseTimerKey(key)
	if err != nil {
		panic(err) // only timerKey makes keys
	}
	if what == timerOffsets {
		st.Refusable = true
		s.expireOffsets(st)
		return st.Result
	}
	r := s.wholly(group, func() runtime.Result {
		s.groupTimeout(st, what, group, memberID)
		return st.Result
	})
	if r.Refused != nil {
		return runtime.Result{Timers: []runtime.Timer{{Key: key, At: now.Add(timeoutAgain)}}}
	}
	return r
}

func (s *Shard) groupTimeout(st *step, what byte, group, memberID string) {
	switch what {
	case timerConsumerSession, timerRevoke, timerConsumerJoin, timerConsumerSync:
		s.consumerTimeout(st, group, memberID)
		return
	}
	g := s.classic[group]
	if g == nil {
		return
	}
	switch what {
	case timerSession:
		s.sessionExpired(st, g, memberID)
	case timerJoin:
		s.joinTimeout(st, g)
	case timerSync:
		s.syncTimeout(st, g)
	}
}

// groupConfig are the settings of a group's own.
func (s *Shard) groupConfig(id string) map[string]string {
	return s.image().Config(metadata.ConfigResource{Type: metadata.ConfigGroup, Name: id})
}

// groupOr makes the group if it does not exist.
func (s *Shard) groupOr(id string, now time.Time) *classicGroup {
	g := s.classic[id]
	if g == nil {
		g = newClassicGroup(id, now)
		s.classic[id] = g
	}
	return g
}

// drop forgets a group; its offsets are gone already or go with it.
func (s *Shard) drop(st *step, g *classicGroup) {
	g.to(stateDead, st.now)
	for id := range g.pending {
		st.cancelTimer(timerKey(timerSession, g.id, id))
	}
	st.cancelTimer(timerKey(timerJoin, g.id, ""))
	st.cancelTimer(timerKey(timerSync, g.id, ""))
	delete(s.classic, g.id)
}

func code(err error) int16 {
	if err == nil {
		return 0
	}
	if e := (*kerr.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return kerr.UnknownServerError.Code
}
