package broker

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// sessionModel is what a client and an observer of the logs know: enough to say
// which partitions the next answer of a session must and must not have. It is
// written as KIP-227 says it, by walking over everything.
type sessionModel struct {
	b    *testBroker
	c    *client
	name func(topic int) string

	topics  [2]*modelTopic // nil: does not exist
	retired []metadata.ID  // of topics that were deleted

	byID      bool
	session   int32
	epoch     int32
	isolation int8
	entries   map[modelKey]*modelEntry
}

type modelTopic struct {
	id    metadata.ID
	start [2]int64
	end   [2]int64
}

type modelKey struct {
	topic     int
	id        metadata.ID // of a session by id
	partition int32
}

type modelEntry struct{ offset, toldMark, toldStart int64 }

// keys are the session's in an order that does not change.
func (m *sessionModel) keys() []modelKey {
	return slices.SortedFunc(maps.Keys(m.entries), func(a, b modelKey) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition), bytes.Compare(a.id[:], b.id[:]))
	})
}

// state is what a fetch of a key must find: an error or offsets.
func (m *sessionModel) state(k modelKey) (start, end int64, err *kerr.Error) {
	t := m.topics[k.topic]
	if m.byID {
		if t == nil || t.id != k.id {
			return 0, 0, kerr.UnknownTopicID
		}
	}
	if t == nil || int(k.partition) >= len(t.end) {
		return 0, 0, kerr.UnknownTopicOrPartition
	}
	return t.start[k.partition], t.end[k.partition], nil
}

// expect says whether the next answer must name the key, and with which error.
func (m *sessionModel) expect(k modelKey, full bool) (named bool, code int16) {
	e := m.entries[k]
	start, end, err := m.state(k)
	switch {
	case err != nil:
		return true, err.Code
	case e.offset < start || e.offset > end:
		return true, kerr.OffsetOutOfRange.Code
	}
	return full || e.offset < end || end != e.toldMark || start != e.toldStart, 0
}

// check compares an answer with the model and notes what was told.
func (m *sessionModel) check(t *rapid.T, resp *kmsg.FetchResponse, full bool) {
	got := map[modelKey]fetched{}
	for _, rt := range resp.Topics {
		for _, p := range rt.Partitions {
			k := modelKey{partition: p.Partition, id: rt.TopicID}
			k.topic = slices.IndexFunc([]int{0, 1}, func(i int) bool {
				if m.byID {
					_, ok := m.entries[modelKey{i, rt.TopicID, p.Partition}]
					return ok
				}
				return m.name(i) == rt.Topic
			})
			if _, twice := got[k]; twice {
				t.Fatalf("%+v is answered twice", k)
			}
			got[k] = p
		}
	}
	for k, e := range m.entries {
		named, code := m.expect(k, full)
		p, ok := got[k]
		if ok != named || ok && p.ErrorCode != code {
			t.Fatalf("%+v %+v: answered %v with %d, want %v with %d", k, *e, ok, p.ErrorCode, named, code)
		}
		delete(got, k)
		if !ok {
			continue
		}
		start, end, _ := m.state(k)
		if code != 0 {
			e.toldMark, e.toldStart = -1, -1
			continue
		}
		if p.HighWatermark != end || p.LogStartOffset != start {
			t.Fatalf("%+v: high watermark %d, log start %d; want %d, %d", k, p.HighWatermark, p.LogStartOffset, end, start)
		}
		first, next := offsets(t, p.RecordBatches)
		if e.offset < end && (first > e.offset || next != end) || e.offset == end && len(p.RecordBatches) > 0 {
			t.Fatalf("%+v at %d: records [%d,%d), want up to %d", k, e.offset, first, next, end)
		}
		e.toldMark, e.toldStart = end, start
	}
	if len(got) > 0 {
		t.Fatalf("answered for %v, which are not in the session", slices.Collect(maps.Keys(got)))
	}
}

func (m *sessionModel) request(session, epoch int32) *kmsg.FetchRequest {
	v := int16(12)
	if m.byID {
		v = 17
	}
	r := fetchRequest(v)
	r.SessionID, r.SessionEpoch, r.IsolationLevel = session, epoch, m.isolation
	return r
}

// add makes the request ask for a random key at a random offset.
func (m *sessionModel) add(t *rapid.T, r *kmsg.FetchRequest) {
	k := modelKey{topic: rapid.IntRange(0, 1).Draw(t, "topic"), partition: rapid.Int32Range(0, 2).Draw(t, "partition")}
	if m.byID {
		switch topic := m.topics[k.topic]; {
		case topic != nil:
			k.id = topic.id
		case len(m.retired) > 0:
			k.id = m.retired[len(m.retired)-1]
		default:
			k.id = metadata.ID{9}
		}
	}
	offset := rapid.Int64Range(-1, 8).Draw(t, "offset")
	if _, end, err := m.state(k); err == nil && rapid.Bool().Draw(t, "at end") {
		offset = end
	}
	for other := range m.entries {
		if m.byID && other.id == k.id && other.partition == k.partition {
			k = other
		}
	}
	e := m.entries[k]
	if e == nil {
		e = &modelEntry{toldMark: -1, toldStart: -1}
		m.entries[k] = e
	}
	e.offset = offset
	// A key that is named twice in one request would be answered twice.
	name := m.name(k.topic)
	for i := range r.Topics {
		if p := &r.Topics[i].Partitions[0]; p.Partition == k.partition &&
			(m.byID && r.Topics[i].TopicID == k.id || !m.byID && r.Topics[i].Topic == name) {
			p.FetchOffset = offset
			return
		}
	}
	addFetch(r, name, k.id, k.partition, offset)
}

func TestSessionsFollowTheModel(t *testing.T) {
	// One slot: a run that left its session behind would take the next one's, as thousands of runs did of a cache of the
	// usual size.
	b := startBroker(t, nil, config.Line{Key: "max.incremental.fetch.session.cache.slots", Value: "1"})
	c := b.dial()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		prefix := fmt.Sprint("run", run, "-")
		m := &sessionModel{b: b, c: c, name: func(i int) string { return fmt.Sprint(prefix, i) }}
		m.byID = rapid.Bool().Draw(t, "by id")
		defer func() {
			if m.session != 0 {
				c.fetch(m.request(m.session, -1))
			}
			for i := range m.topics {
				if m.topics[i] != nil {
					b.deleteTopic(m.name(i))
				}
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"create topic": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "topic")
				if m.topics[i] == nil {
					m.topics[i] = &modelTopic{id: b.createTopic(m.name(i), 2, nil)}
				}
			},
			"delete topic": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "topic")
				if m.topics[i] != nil && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					b.deleteTopic(m.name(i))
					m.retired = append(m.retired, m.topics[i].id)
					m.topics[i] = nil
				}
			},
			"produce": func(t *rapid.T) {
				i, p := rapid.IntRange(0, 1).Draw(t, "topic"), rapid.Int32Range(0, 1).Draw(t, "partition")
				if topic := m.topics[i]; topic != nil {
					n := rapid.IntRange(1, 3).Draw(t, "records")
					if got := c.produce(9, 1, m.name(i), topic.id, p, records(protocol.BatchParams{}, n, 10)); got.BaseOffset != topic.end[p] {
						t.Fatalf("produced at %d, want %d", got.BaseOffset, topic.end[p])
					}
					topic.end[p] += int64(n)
				}
			},
			"delete records": func(t *rapid.T) {
				i, p := rapid.IntRange(0, 1).Draw(t, "topic"), rapid.Int32Range(0, 1).Draw(t, "partition")
				if topic := m.topics[i]; topic != nil && topic.start[p] < topic.end[p] {
					part, err := b.partitions.Partition(m.name(i), p)
					if err != nil {
						t.Fatal(err)
					}
					topic.start[p]++
					if _, err := part.DeleteRecords(topic.start[p]); err != nil {
						t.Fatal(err)
					}
				}
			},
			"open": func(t *rapid.T) {
				r := m.request(m.session, 0)
				m.isolation = rapid.Int8Range(0, 1).Draw(t, "isolation")
				r.IsolationLevel = m.isolation
				m.entries = map[modelKey]*modelEntry{}
				for range rapid.IntRange(1, 4).Draw(t, "partitions") {
					m.add(t, r)
				}
				resp := c.fetch(r)
				if resp.ErrorCode != 0 || resp.SessionID == 0 || resp.SessionID == m.session {
					t.Fatalf("opening: %+v", resp)
				}
				m.session, m.epoch = resp.SessionID, 1
				m.check(t, resp, true)
			},
			"poll": func(t *rapid.T) {
				if m.session == 0 {
					return
				}
				if rapid.IntRange(0, 5).Draw(t, "isolation changes") == 0 {
					m.isolation = 1 - m.isolation
				}
				r := m.request(m.session, m.epoch)
				for _, k := range m.keys() {
					if rapid.IntRange(0, 7).Draw(t, "forget") == 0 {
						forget(r, m.name(k.topic), k.partition)
						r.ForgottenTopics[len(r.ForgottenTopics)-1].TopicID = k.id
						delete(m.entries, k)
					}
				}
				if len(r.ForgottenTopics) == 0 { // added and forgotten at once means forgotten
					for range rapid.IntRange(0, 2).Draw(t, "partitions") {
						m.add(t, r)
					}
				}
				resp := c.fetch(r)
				if len(m.entries) == 0 {
					if resp.ErrorCode != 0 || resp.SessionID != 0 || len(resp.Topics) != 0 {
						t.Fatalf("forgetting all: %+v", resp)
					}
					m.session = 0
					return
				}
				if resp.ErrorCode != 0 || resp.SessionID != m.session {
					t.Fatalf("polling: %+v", resp)
				}
				m.epoch++
				m.check(t, resp, false)
			},
			"wrong epoch": func(t *rapid.T) {
				if m.session == 0 {
					return
				}
				epoch := rapid.Int32Min(1).Filter(func(e int32) bool { return e != m.epoch }).Draw(t, "epoch")
				if resp := c.fetch(m.request(m.session, epoch)); resp.ErrorCode != kerr.InvalidFetchSessionEpoch.Code || len(resp.Topics) > 0 {
					t.Fatalf("epoch %d: %+v", epoch, resp)
				}
			},
		})
	})
}
