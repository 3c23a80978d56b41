package storage

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
)

// sequenceStep is one batch of an idempotent producer and what Apache Kafka 4.3.1 answered; see produceCase.
type sequenceStep struct {
	epoch int16
	seq   int32
	count int
	code  int16
	base  int64 // first offset in the answer
	dup   bool
}

var sequenceCases = []struct {
	name  string
	steps []sequenceStep
}{
	{"in order", []sequenceStep{
		{0, 0, 3, 0, 0, false}, {0, 3, 1, 0, 3, false}, {0, 4, 2, 0, 4, false},
	}},
	{"duplicates of the last five, not of the sixth", []sequenceStep{
		{0, 0, 1, 0, 0, false},
		{0, 1, 1, 0, 1, false},
		{0, 2, 1, 0, 2, false},
		{0, 3, 1, 0, 3, false},
		{0, 4, 1, 0, 4, false},
		{0, 5, 1, 0, 5, false},
		{0, 5, 1, 0, 5, true},
		{0, 1, 1, 0, 1, true},
		{0, 0, 1, 45, -1, false},
		{0, 6, 1, 0, 6, false},
	}},
	{"same start, other length", []sequenceStep{
		{0, 0, 3, 0, 0, false}, {0, 0, 2, 45, -1, false}, {0, 0, 4, 45, -1, false}, {0, 1, 2, 45, -1, false}, {0, 0, 3, 0, 0, true},
	}},
	{"gap", []sequenceStep{{0, 0, 1, 0, 0, false}, {0, 2, 1, 45, -1, false}, {0, 1, 1, 0, 1, false}}},
	{"first sequence is not 0", []sequenceStep{{0, 17, 1, 0, 0, false}, {0, 18, 1, 0, 1, false}, {0, 17, 1, 0, 0, true}}},
	{"new epoch", []sequenceStep{
		{0, 0, 1, 0, 0, false}, {1, 1, 1, 45, -1, false}, {1, 0, 1, 0, 1, false}, {0, 1, 1, 47, -1, false}, {0, 0, 1, 47, -1, false}, {1, 1, 1, 0, 2, false},
	}},
	{"new epoch, same sequence as before is no duplicate", []sequenceStep{{0, 0, 1, 0, 0, false}, {3, 0, 1, 0, 1, false}, {3, 0, 1, 0, 1, true}}},
	{"wraps", []sequenceStep{
		{0, math.MaxInt32 - 1, 2, 0, 0, false}, {0, 0, 1, 0, 2, false}, {0, math.MaxInt32 - 1, 2, 0, 0, true}, {0, 0, 1, 0, 2, true}, {0, 1, 1, 0, 3, false},
	}},
	{"wraps within a batch", []sequenceStep{
		{0, math.MaxInt32 - 1, 5, 0, 0, false}, {0, math.MaxInt32 - 1, 5, 0, 0, true}, {0, 3, 1, 0, 5, false}, {0, 5, 1, 45, -1, false},
	}},
}

func TestSequencesLikeKafka(t *testing.T) {
	var real *asker
	if addr := os.Getenv("GREGOR_KAFKA"); addr != "" {
		real = newAsker(t, addr)
	}
	m := newTestManager(t)
	for i, c := range sequenceCases {
		t.Run(c.name, func(t *testing.T) {
			topic := fmt.Sprintf("sequences-%d-store-%d", i, time.Now().UnixNano())
			if real != nil {
				real.create(t, topic, nil)
			}
			l, err := m.CreateLog(TopicPartition{topic, 0}, TopicID{}, DefaultLogConfig())
			if err != nil {
				t.Fatal(err)
			}
			for n, s := range c.steps {
				batch := func() []byte {
					records := make([]protocol.Record, s.count)
					for i := range records {
						records[i] = rec(int32(i), "k", "v")
					}
					return protocol.AppendBatch(nil, protocol.BatchParams{
						BaseTimestamp: time.Now().UnixMilli(),
						Producer:      &protocol.Producer{ID: 1000, Epoch: s.epoch, BaseSequence: s.seq},
					}, records)
				}
				if real != nil {
					got := real.produce(t, topic, 9, batch())
					if got.ErrorCode != s.code || got.BaseOffset != s.base || (got.LogAppendTime >= 0) != s.dup {
						t.Errorf("step %d: Kafka says %d at %d, append time %d", n, got.ErrorCode, got.BaseOffset, got.LogAppendTime)
					}
				}
				res, err := l.AppendAsLeader(batch(), AppendOptions{Version: 9})
				if protocol.Code(err) != s.code || res.Duplicate != s.dup || (err == nil && (res.FirstOffset != s.base || res.LastOffset != s.base+int64(s.count)-1)) {
					t.Errorf("step %d: we say %v, %+v", n, err, res)
				}
				if (res.LogAppendTimeMs >= 0) != s.dup && err == nil {
					t.Errorf("step %d: append time %d", n, res.LogAppendTimeMs)
				}
			}
		})
	}
}
