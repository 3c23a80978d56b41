package controller

import (
	"context"
	"errors"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/twmb/franz-go/pkg/kerr"
)

// TestForwarding: requests are decided by the controller whichever node they are
// made on, with its errors; one that hangs does not keep its successor from being
// asked, and one that died after it had decided is not asked for the same twice.
func TestForwarding(t *testing.T) {
	store := memstore.New()
	a := start(t, Options{Store: store, NodeID: 1})
	ways := map[int32]*Controller{1: a}
	hang, lose := false, false
	asked := make(chan struct{}, 10)
	b := start(t, Options{Store: store, NodeID: 2, Call: func(ctx context.Context, id int32, message []byte) ([]byte, error) {
		if hang {
			asked <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		answer := ways[id].Answer(ctx, message)
		if lose {
			lose = false
			return nil, errors.New("connection reset")
		}
		return answer, nil
	}})
	topic := func(name string) []metadata.NewTopic {
		return []metadata.NewTopic{{Name: name, Partitions: 1, ReplicationFactor: 1}}
	}
	if r := b.CreateTopics(testContext(t), topic("t"), false); r[0].Err != nil || b.Image().Topic("t") == nil {
		t.Fatalf("%+v", r)
	}
	if r := b.CreateTopics(testContext(t), topic("t"), false); !errors.Is(r[0].Err, kerr.TopicAlreadyExists) || r[0].Message != "Topic 't' already exists." {
		t.Errorf("%+v", r)
	}
	lose = true
	if r := b.CreateTopics(testContext(t), topic("u"), false); r[0].Err != nil || lose {
		t.Errorf("the answer was lost: %+v", r)
	}
	if got := b.Answer(testContext(t), []byte(`{"name":"CreateTopics","args":{}}`)); string(got) != `{"code":41}` {
		t.Errorf("who is not the controller answered %s", got)
	}
	if got := a.Answer(testContext(t), []byte(`junk`)); string(got) != `{"code":42}` {
		t.Errorf("junk was answered %s", got)
	}
	hang = true
	done := make(chan []metadata.TopicResult, 1)
	go func() { done <- b.CreateTopics(testContext(t), topic("v"), false) }()
	<-asked
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r[0].Err != nil || b.Image().Topic("v") == nil {
		t.Errorf("%+v", r)
	}
}
