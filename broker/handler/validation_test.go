package handler

import (
	"testing"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// unreadable is a batch with a valid header and CRC around a payload that its
// codec cannot read: what only a strict check finds.
func unreadable() protocol.Batch {
	b := protocol.AppendBatch(nil, protocol.BatchParams{Codec: protocol.Zstd, BaseTimestamp: time.Now().UnixMilli()},
		[]protocol.Record{{Value: []byte("value")}})
	copy(b[protocol.BatchHeaderLen:], "????")
	protocol.Batch(b).ResetCRC()
	return b
}

// TestValidationModes: log.batch.validation of the file, as a dynamic broker
// key, and batch.validation of a topic decide how deeply batches are checked.
func TestValidationModes(t *testing.T) {
	const topic, broker = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker
	const relaxed, strict = int16(0), int16(87) // 87 is INVALID_RECORD
	var b *testBroker
	expect := func(when, name string, want int16) {
		t.Helper()
		p, err := b.Partitions.Partition(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Append(unreadable(), replication.AppendOptions{Acks: 1, Version: 9, Origin: storage.Client, Now: time.Now()})
		if got := protocol.Code(err); got != want {
			t.Errorf("%s: %s answers %v, want %v", when, name, kerr.ErrorForCode(got), kerr.ErrorForCode(want))
		}
	}
	change := func(req kmsg.Request) {
		t.Helper()
		for _, r := range answer[*kmsg.IncrementalAlterConfigsResponse](t, b, req).Resources {
			if r.ErrorCode != 0 {
				t.Fatal(kerr.ErrorForCode(r.ErrorCode), *r.ErrorMessage)
			}
		}
	}

	b = newTestBroker(t)
	b.create(t, newTopic("plain", 1, 1), newTopic("strict", 1, 1, "batch.validation=strict"), newTopic("relaxed", 1, 1, "batch.validation=relaxed"))
	expect("default", "plain", relaxed)
	expect("default", "strict", strict)
	change(alter(1, false, altered(broker, "", set("log.batch.validation", "strict"))))
	expect("strict broker", "plain", strict)
	expect("strict broker", "relaxed", relaxed)
	change(alter(1, false, altered(topic, "plain", set("batch.validation", "relaxed"))))
	expect("topic altered", "plain", relaxed)
	change(alter(1, false, altered(topic, "plain", unset("batch.validation")), altered(broker, "", unset("log.batch.validation"))))
	expect("all back", "plain", relaxed)

	b = newTestBroker(t, "log.batch.validation", "strict")
	b.create(t, newTopic("plain", 1, 1), newTopic("relaxed", 1, 1, "batch.validation=relaxed"))
	expect("strict in the file", "plain", strict)
	expect("strict in the file", "relaxed", relaxed)
}
