package group

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kbin"
)

// Record types of consumer groups (KIP-848). kmsg does not know them; the
// layouts are Kafka's, version 0 of each.
const (
	typeConsumerGroup    = 3
	typeConsumerMember   = 5
	typeTargetEpoch      = 6
	typeTargetMember     = 7
	typeCurrentMember    = 8
	typeRegex            = 16
	consumerValueVersion = 0
)

// consumerKey is the key of a record about a group or, with a second part,
// about one of its members or regular expressions.
func consumerKey(kind int16, parts ...string) []byte {
	k := kbin.AppendInt16(nil, kind)
	for _, p := range parts {
		k = kbin.AppendString(k, p)
	}
	return k
}

func parseConsumerKey(key []byte, parts int) ([]string, error) {
	r := kbin.Reader{Src: key}
	r.Int16()
	out := make([]string, parts)
	for i := range out {
		out[i] = r.String()
	}
	return out, r.Complete()
}

func beginValue() []byte { return kbin.AppendInt16(nil, consumerValueVersion) }

// endValue closes a value without tagged fields.
func endValue(v []byte) []byte { return kbin.AppendUvarint(v, 0) }

// appendTag closes a struct whose only tagged field is 0.
func appendTag(dst, value []byte) []byte {
	dst = kbin.AppendUvarint(dst, 1)
	dst = kbin.AppendUvarint(dst, 0)
	dst = kbin.AppendUvarint(dst, uint32(len(value)))
	return append(dst, value...)
}

// appendNumber closes a struct whose only tagged field is a number; zero is left
// out.
func appendNumber(dst []byte, n int64) []byte {
	if n == 0 {
		return endValue(dst)
	}
	return appendTag(dst, kbin.AppendInt64(nil, n))
}

func consumerGroupRecord(group string, epoch int32, hash int64) runtime.Record {
	v := kbin.AppendInt32(beginValue(), epoch)
	v = appendNumber(v, hash) // of what the group subscribes to
	return runtime.Record{Key: consumerKey(typeConsumerGroup, group), Value: v}
}

func consumerMemberRecord(group string, m *consumerMember) runtime.Record {
	v := kbin.AppendCompactNullableString(beginValue(), m.instanceID)
	v = kbin.AppendCompactNullableString(v, m.rackID)
	v = kbin.AppendCompactString(v, m.client.ID)
	v = kbin.AppendCompactString(v, m.client.Host)
	v = kbin.AppendCompactArrayLen(v, len(m.topics))
	for _, t := range m.topics {
		v = kbin.AppendCompactString(v, t)
	}
	v = kbin.AppendCompactNullableString(v, &m.regex)
	v = kbin.AppendInt32(v, m.rebalanceTimeoutMs)
	v = kbin.AppendCompactNullableString(v, m.assignor)
	// Tag 0: what a member that speaks the classic protocol offers. A nullable
	// struct begins with 1, null is 0.
	if m.classic == nil {
		return runtime.Record{Key: consumerKey(typeConsumerMember, group, m.id), Value: appendTag(v, []byte{0})}
	}
	c := kbin.AppendInt8(nil, 1)
	c = kbin.AppendInt32(c, m.classic.sessionTimeoutMs)
	c = kbin.AppendCompactArrayLen(c, len(m.classic.protocols))
	for _, p := range m.classic.protocols {
		c = kbin.AppendCompactString(c, p.name)
		c = kbin.AppendCompactBytes(c, p.metadata)
		c = endValue(c)
	}
	c = endValue(c)
	return runtime.Record{Key: consumerKey(typeConsumerMember, group, m.id), Value: appendTag(v, c)}
}

func targetEpochRecord(group string, epoch int32, timestamp int64) runtime.Record {
	v := kbin.AppendInt32(beginValue(), epoch)
	v = appendNumber(v, timestamp) // when it was computed (KIP-1263)
	return runtime.Record{Key: consumerKey(typeTargetEpoch, group), Value: v}
}

func targetMemberRecord(group, member string, a assignor.Assignment) runtime.Record {
	return runtime.Record{
		Key:   consumerKey(typeTargetMember, group, member),
		Value: endValue(appendAssignment(beginValue(), a, nil)),
	}
}

func currentMemberRecord(group string, m *consumerMember) runtime.Record {
	v := kbin.AppendInt32(beginValue(), m.epoch)
	v = kbin.AppendInt32(v, m.previousEpoch)
	v = kbin.AppendInt8(v, int8(m.state))
	v = appendAssignment(v, m.assigned, m.since)
	v = appendAssignment(v, m.revoking, m.since)
	return runtime.Record{Key: consumerKey(typeCurrentMember, group, m.id), Value: endValue(v)}
}

func regexRecord(group, expression string, r *resolvedRegex) runtime.Record {
	v := kbin.AppendCompactArrayLen(beginValue(), len(r.topics))
	for _, t := range r.topics {
		v = kbin.AppendCompactString(v, t)
	}
	v = kbin.AppendInt64(v, r.revision)
	v = kbin.AppendInt64(v, r.timestamp)
	return runtime.Record{Key: consumerKey(typeRegex, group, expression), Value: endValue(v)}
}

func tombstone(kind int16, parts ...string) runtime.Record {
	return runtime.Record{Key: consumerKey(kind, parts...)}
}

// appendAssignment appends topics with their partitions; where since is given,
// with the epoch of each (KIP-1251).
func appendAssignment(dst []byte, a assignor.Assignment, since map[topicIDPartition]int32) []byte {
	dst = kbin.AppendCompactArrayLen(dst, len(a))
	for _, id := range sortedIDs(a) {
		dst = append(dst, id[:]...)
		dst = kbin.AppendCompactArrayLen(dst, len(a[id]))
		for _, p := range a[id] {
			dst = kbin.AppendInt32(dst, p)
		}
		if since == nil {
			dst = kbin.AppendUvarint(dst, 0)
			continue
		}
		epochs := kbin.AppendCompactArrayLen(nil, len(a[id]))
		for _, p := range a[id] {
			epochs = kbin.AppendInt32(epochs, since[topicIDPartition{id, p}])
		}
		dst = appendTag(dst, epochs)
	}
	return dst
}

func sortedIDs[V any](m map[assignor.TopicID]V) []assignor.TopicID {
	return slices.SortedFunc(maps.Keys(m), func(a, b assignor.TopicID) int { return slices.Compare(a[:], b[:]) })
}

// arrayLen reads a compact array's length, bounded by what is left: a corrupt
// one must not cost memory.
func arrayLen(r *kbin.Reader) int {
	n := int(r.CompactArrayLen())
	return max(0, min(n, len(r.Src)))
}

// readAssignment reads topics with their partitions; where since is given, it
// gets the epochs of those that have some.
func readAssignment(r *kbin.Reader, since map[topicIDPartition]int32) assignor.Assignment {
	a := make(assignor.Assignment)
	for range arrayLen(r) {
		id := r.Uuid()
		n := arrayLen(r)
		ps := make([]int32, 0, n)
		for range n {
			ps = append(ps, r.Int32())
		}
		readTags(r, func(tag uint32, v []byte) {
			t := &kbin.Reader{Src: v}
			if tag != 0 || since == nil || arrayLen(t) != len(ps) {
				return
			}
			for _, p := range ps {
				since[topicIDPartition{id, p}] = t.Int32()
			}
		})
		if r.Ok() {
			a[id] = ps
		}
	}
	return a
}

func skipTags(r *kbin.Reader) {
	readTags(r, func(uint32, []byte) {})
}

func readTags(r *kbin.Reader, each func(tag uint32, value []byte)) {
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		tag, size := r.Uvarint(), r.Uvarint()
		each(tag, r.Span(int(size)))
	}
}

// openValue starts to read a value and checks its version.
func openValue(value []byte) (*kbin.Reader, error) {
	r := &kbin.Reader{Src: value}
	if v := r.Int16(); v != consumerValueVersion {
		return nil, fmt.Errorf("value of version %d", v)
	}
	return r, nil
}

func parseConsumerGroup(value []byte) (epoch int32, hash int64, err error) {
	r, err := openValue(value)
	if err != nil {
		return 0, 0, err
	}
	epoch = r.Int32()
	readTags(r, func(tag uint32, v []byte) {
		if t := (&kbin.Reader{Src: v}); tag == 0 {
			hash = t.Int64()
		}
	})
	return epoch, hash, r.Complete()
}

// parseConsumerMember reads a member's metadata into m, whose id and
// assignment stay.
func parseConsumerMember(value []byte, m *consumerMember) error {
	r, err := openValue(value)
	if err != nil {
		return err
	}
	m.instanceID, m.rackID = r.CompactNullableString(), r.CompactNullableString()
	m.client = Client{r.CompactString(), r.CompactString()}
	m.topics = nil
	for range arrayLen(r) {
		m.topics = append(m.topics, r.CompactString())
	}
	m.regex = ""
	if s := r.CompactNullableString(); s != nil {
		m.regex = *s
	}
	m.rebalanceTimeoutMs = r.Int32()
	m.assignor = r.CompactNullableString()
	m.classic = nil
	readTags(r, func(tag uint32, v []byte) {
		if tag == 0 {
			m.classic = parseClassicMember(v)
		}
	})
	return r.Complete()
}

func parseClassicMember(v []byte) *classicMember {
	r := &kbin.Reader{Src: v}
	if r.Int8() <= 0 {
		return nil
	}
	c := &classicMember{sessionTimeoutMs: r.Int32()}
	for range arrayLen(r) {
		p := protocol{name: r.CompactString(), metadata: slices.Clone(r.CompactBytes())}
		skipTags(r)
		c.protocols = append(c.protocols, p)
	}
	return c
}

func parseTargetEpoch(value []byte) (epoch int32, timestamp int64, err error) {
	r, err := openValue(value)
	if err != nil {
		return 0, 0, err
	}
	epoch = r.Int32()
	readTags(r, func(tag uint32, v []byte) {
		if t := (&kbin.Reader{Src: v}); tag == 0 {
			timestamp = t.Int64()
		}
	})
	return epoch, timestamp, r.Complete()
}

func parseTargetMember(value []byte) (assignor.Assignment, error) {
	r, err := openValue(value)
	if err != nil {
		return nil, err
	}
	a := readAssignment(r, nil)
	skipTags(r)
	return a, r.Complete()
}

func parseCurrentMember(value []byte, m *consumerMember) error {
	r, err := openValue(value)
	if err != nil {
		return err
	}
	m.epoch, m.previousEpoch, m.state = r.Int32(), r.Int32(), memberState(r.Int8())
	m.since = make(map[topicIDPartition]int32)
	m.assigned, m.revoking = readAssignment(r, m.since), readAssignment(r, m.since)
	skipTags(r)
	for k := range partitionsOf(m.assigned, m.revoking) {
		if _, ok := m.since[k]; !ok {
			m.since[k] = m.epoch // written before KIP-1251
		}
	}
	return r.Complete()
}

func parseRegex(value []byte) (*resolvedRegex, error) {
	r, err := openValue(value)
	if err != nil {
		return nil, err
	}
	out := &resolvedRegex{}
	for range arrayLen(r) {
		out.topics = append(out.topics, r.CompactString())
	}
	out.revision, out.timestamp = r.Int64(), r.Int64()
	skipTags(r)
	return out, r.Complete()
}
