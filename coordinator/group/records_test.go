package group

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

// TestRecordsAreKafkas reads records that Kafka wrote and writes them again, to
// the same bytes.
func TestRecordsAreKafkas(t *testing.T) {
	b, err := os.ReadFile("testdata/kafka-records.txt")
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[int16]int)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		key, err := hex.DecodeString(f[1])
		if err != nil {
			t.Fatal(err)
		}
		value, err := hex.DecodeString(f[2])
		if err != nil {
			t.Fatal(err)
		}
		again, err := rewrite(runtime.Record{Key: key, Value: value})
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got := fmt.Sprintf("%x %x", again.Key, again.Value); got != f[1]+" "+f[2] {
			t.Errorf("record of type %s\nKafka  %s %s\ngregor %s", f[0], f[1], f[2], got)
		}
		kind, _ := recordType(key)
		kinds[kind]++
	}
	for _, k := range []int16{typeOffsetCommit, typeGroupMetadata, typeConsumerGroup, typeConsumerMember, typeTargetEpoch, typeTargetMember, typeCurrentMember} {
		if kinds[k] == 0 {
			t.Errorf("no record of type %d", k)
		}
	}
}

// rewrite reads a record and writes what it read.
func rewrite(r runtime.Record) (runtime.Record, error) {
	kind, err := recordType(r.Key)
	if err != nil {
		return r, err
	}
	s := NewShard(testConfig(), nil, nil, nil)
	if err := s.Replay(0, nil, r); err != nil {
		return r, err
	}
	for id, offsets := range s.offsets {
		for tp, o := range offsets.byPartition {
			return offsetRecord(id, tp, o), nil
		}
	}
	for _, g := range s.classic {
		return g.record(), nil
	}
	for _, g := range s.consumer {
		switch kind {
		case typeConsumerGroup:
			return consumerGroupRecord(g.id, g.epoch, g.hash), nil
		case typeTargetEpoch:
			epoch, timestamp, err := parseTargetEpoch(r.Value)
			return targetEpochRecord(g.id, epoch, timestamp), err
		}
		for id, target := range g.target {
			return targetMemberRecord(g.id, id, target), nil
		}
		for e, topics := range g.regexes {
			return regexRecord(g.id, e, topics), nil
		}
		for _, m := range g.members {
			if kind == typeConsumerMember {
				return consumerMemberRecord(g.id, m), nil
			}
			return currentMemberRecord(g.id, m), nil
		}
	}
	return r, fmt.Errorf("record of type %d made nothing", kind)
}
