package node

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// A topic that is deleted takes the offsets with it that groups committed for it: one
// that is made anew under the same name begins from the start, at once.
func TestOffsetsGoWithTheirTopic(t *testing.T) {
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()}, "offsets.topic.num.partitions=1")
	o := newOperator(t, n, kgo.MaxVersions(kversion.V3_9_0())) // topics have names there, no ids
	o.create("t", 1)
	o.commitOffset("g", "t", 7)
	if got := o.committedOffset("g", "t"); got != 7 {
		t.Fatalf("committed 7, fetched %d", got)
	}

	o.remove("t")
	// The coordinator hears of it later, and only its answers tell when.
	for began := time.Now(); o.committedOffset("g", "t") != -1; time.Sleep(time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatal("the offset outlives its topic")
		}
	}

	// In quick succession the coordinator may hear of it after the next commit.
	for offset := range int64(20) {
		o.create("t", 1)
		if got := o.committedOffset("g", "t"); got != -1 {
			t.Fatalf("a new topic begins at offset %d of the former", got)
		}
		o.commitOffset("g", "t", offset)
		if got := o.committedOffset("g", "t"); got != offset {
			t.Fatalf("committed %d, fetched %d", offset, got)
		}
		o.remove("t")
	}
}

// What one request writes has to fit into one batch of __consumer_offsets, as in
// Kafka: no less, and what does not is refused alone.
func TestLargestCommit(t *testing.T) {
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()}, "offsets.topic.num.partitions=1", "message.max.bytes=20000")
	o := newOperator(t, n)
	id := o.create("t", 1000)
	commit := func(partitions int32) error {
		t.Helper()
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group, req.Generation = "g", -1
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = "t", id
		for p := range partitions {
			rp := kmsg.NewOffsetCommitRequestTopicPartition()
			rp.Partition = p
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(t.Context(), o.cl)
		if err != nil {
			t.Fatal(err)
		}
		return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	// One partition takes some 80 bytes.
	largest := int32(0)
	for p := int32(1); p <= 1000; p += 5 {
		err := commit(p)
		if err == nil {
			largest = p
			continue
		}
		if err != kerr.InvalidCommitOffsetSize {
			t.Fatalf("%d partitions: %v", p, err)
		}
	}
	if largest < 20000/100 {
		t.Fatalf("no more than %d partitions", largest)
	}
	if err := commit(1); err != nil {
		t.Fatalf("after what was too large: %v", err)
	}
}

// The limit can be changed while the broker runs, for all topics or this one: what
// waits together for a busy coordinator is still written, in batches that fit.
func TestLargestCommitChanges(t *testing.T) {
	n := startNode(t, Options{Store: memstore.New(), FS: vfs.NewMem()}, "offsets.topic.num.partitions=1")
	o := newOperator(t, n, kgo.MaxVersions(kversion.V3_9_0()))
	id := o.create("t", 100)
	o.commitOffset("g", "t", 1) // makes the topic
	o.alter("__consumer_offsets", "max.message.bytes=2000")
	var work sync.WaitGroup
	for i := range 30 {
		cl := newOperator(t, n).cl
		work.Go(func() {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Group, req.Generation = fmt.Sprint("g", i), -1
			rt := kmsg.NewOffsetCommitRequestTopic()
			rt.Topic, rt.TopicID = "t", id
			for p := range int32(10) {
				rp := kmsg.NewOffsetCommitRequestTopicPartition()
				rp.Partition = p
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
			for range 20 {
				resp, err := req.RequestWith(t.Context(), cl)
				if err == nil {
					err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
				}
				if err != nil {
					t.Errorf("group %d: %v", i, err)
					return
				}
			}
		})
	}
	work.Wait()
}

func (o *operator) remove(topic string) {
	o.t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{topic}
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(o.t.Context(), o.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *operator) commitOffset(group, topic string, offset int64) {
	o.t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Offset = offset
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(o.t.Context(), o.cl)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); err != nil {
		o.t.Fatal(err)
	}
}

func (o *operator) committedOffset(group, topic string) int64 {
	o.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic, gt.Partitions = topic, []int32{0}
	g.Topics = append(g.Topics, gt)
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(o.t.Context(), o.cl)
	if err != nil {
		o.t.Fatal(err)
	}
	p := resp.Groups[0].Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
		o.t.Fatal(err)
	}
	return p.Offset
}
