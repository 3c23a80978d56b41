package main

import (
	"testing"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		only, number string
		want         bool
	}{
		{"", "10.1", true},
		{"10", "10.1", true},
		{"10.1", "10.1", true},
		{"10.1", "10.2", false},
		{"1", "10.1", false},
		{"1,10.3", "10.3", true},
		{"1", "1", true},
		{"1", "12", false},
	} {
		if got := wanted(c.only, c.number); got != c.want {
			t.Errorf("-only %q, scenario %s: %v", c.only, c.number, got)
		}
	}
}

// TestSettled: a group has settled only when it is true in every respect.
func TestSettled(t *testing.T) {
	for name, c := range map[string]struct {
		views []view
		want  bool
	}{
		"settled":            {[]view{{3, []int32{0, 1}}, {3, []int32{2}}}, true},
		"another epoch":      {[]view{{3, []int32{0, 1}}, {2, []int32{2}}}, false},
		"owned twice":        {[]view{{3, []int32{0, 1}}, {3, []int32{1, 2}}}, false},
		"owned by nobody":    {[]view{{3, []int32{0}}, {3, []int32{2}}}, false},
		"one has none":       {[]view{{3, []int32{0, 1, 2}}, {3, nil}}, false},
		"nobody has joined":  {[]view{{}, {}}, false},
		"one has not joined": {[]view{{3, []int32{0, 1, 2}}, {}}, false},
	} {
		if got := settled(c.views, 3); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestShare: the members' parts make up the whole.
func TestShare(t *testing.T) {
	m := &member{topic: "topic", partitions: 10}
	var views []view
	for i := range 4 {
		var a kmsg.ConsumerMemberAssignment
		if err := a.ReadFrom(m.share(i, 4)); err != nil {
			t.Fatal(err)
		}
		views = append(views, view{1, a.Topics[0].Partitions})
	}
	if !settled(views, 10) {
		t.Errorf("%v", views)
	}
}

// TestShardOf: as Java's String.hashCode, whose sign Kafka drops.
func TestShardOf(t *testing.T) {
	for group, hash := range map[string]uint32{"abc": 96354, "polygenelubricants": 1 << 31, "": 0} {
		if got, want := shardOf(group), int32(hash&0x7fffffff%offsetsShards); got != want {
			t.Errorf("%q: shard %d, want %d", group, got, want)
		}
	}
	for _, g := range shardGroups(7, 20) {
		if shardOf(g) != 7 {
			t.Errorf("%q is in shard %d", g, shardOf(g))
		}
	}
}

// TestTransactionalLoad: what a transactor sends belongs to its transaction.
func TestTransactionalLoad(t *testing.T) {
	l, err := newLoad("topic", shape{records: 1, valueBytes: 100, batches: 1, partitions: 1, firstPartition: 5, transactional: "id"})
	if err != nil {
		t.Fatal(err)
	}
	p := &producer{l: l, id: 42, epoch: 3, seq: make([]int32, 1)}
	for i := range int32(3) {
		f := &l.frames[i]
		p.stamp(f)
		_, body, err := protocol.ReadHeader(f.bytes[4:])
		if err != nil {
			t.Fatal(err)
		}
		req := kmsg.ProduceRequest{Version: 12}
		if err := req.ReadFrom(body); err != nil {
			t.Fatal(err)
		}
		part := req.Topics[0].Partitions[0]
		b := protocol.Batch(part.Records)
		if req.TransactionID == nil || *req.TransactionID != "id" || part.Partition != 5 || !b.IsTransactional() ||
			!b.ValidCRC() || b.ProducerID() != 42 || b.ProducerEpoch() != 3 || b.BaseSequence() != i {
			t.Errorf("%d: partition %d, transactional %v, sequence %d", i, part.Partition, b.IsTransactional(), b.BaseSequence())
		}
	}
}
