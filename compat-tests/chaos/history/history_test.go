package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		request Request
		err     error
		want    Type
	}{
		{ProduceOnce, nil, OK},
		{ProduceOnce, kerr.NotEnoughReplicas, Fail},
		{ProduceOnce, kerr.MessageTooLarge, Fail},
		{ProduceOnce, kerr.CorruptMessage, Fail},
		{ProduceOnce, kerr.InvalidRecord, Fail},
		{ProduceOnce, kerr.TopicAuthorizationFailed, Fail},
		{ProduceOnce, kerr.TransactionalIDAuthorizationFailed, Fail},
		{ProduceOnce, kerr.InvalidTxnState, Fail},
		{ProduceOnce, kerr.NotLeaderForPartition, Info},
		{ProduceOnce, kerr.UnknownTopicOrPartition, Info},
		{ProduceOnce, kerr.NotEnoughReplicasAfterAppend, Info},
		{ProduceOnce, kerr.RequestTimedOut, Info},
		{ProduceOnce, kerr.KafkaStorageError, Info},
		{ProduceOnce, kerr.UnknownServerError, Info},
		{ProduceOnce, io.EOF, Info},
		{ProduceOnce, context.DeadlineExceeded, Info},
		{ProduceOnce, kerr.OutOfOrderSequenceNumber, Fail},
		{ProduceRetried, kerr.OutOfOrderSequenceNumber, Info},
		{ProduceRetried, kerr.InvalidProducerEpoch, Info},
		{ProduceRetried, kerr.ProducerFenced, Info},
		// An earlier attempt may have been appended before the replicas left.
		{ProduceRetried, kerr.NotEnoughReplicas, Info},
		{ProduceRetried, kerr.InvalidTxnState, Info},
		{ProduceRetried, kerr.MessageTooLarge, Fail},
		{ProduceRetried, errors.New("closed"), Info},
		{EndCommit, nil, OK},
		{EndCommit, kerr.InvalidTxnState, Fail},
		{EndCommit, kerr.ProducerFenced, Info},
		{EndCommit, kerr.CoordinatorNotAvailable, Info},
		{EndCommit, kerr.NotCoordinator, Info},
		{EndCommit, context.DeadlineExceeded, Info},
		{EndCommit, ErrAborted, Fail},
		{EndCommit, errors.Join(ErrAborted, io.EOF), Fail},
		{EndAbort, nil, Fail},
		{EndAbort, kerr.ProducerFenced, Fail},
		{EndAbort, io.EOF, Fail},
		{CommitOnce, kerr.IllegalGeneration, Fail},
		{CommitOnce, kerr.FencedMemberEpoch, Fail},
		{CommitOnce, kerr.NotCoordinator, Info},
		{CommitOnce, kerr.CoordinatorNotAvailable, Info},
		{CommitOnce, kerr.CoordinatorLoadInProgress, Info},
		{CommitOnce, kerr.ConcurrentTransactions, Info},
		{CommitOnce, io.EOF, Info},
		{Question, io.EOF, Fail},
		{ProduceOnce, fmt.Errorf("wrapped: %w", kerr.NotEnoughReplicas), Fail},
	} {
		if got := Classify(c.request, c.err); got != c.want {
			t.Errorf("Classify(%d, %v) = %s, want %s", c.request, c.err, got, c.want)
		}
	}
}

func TestWriteAndLoad(t *testing.T) {
	r := NewRecorder()
	a := r.Begin(Op{Process: r.Process(), F: Txn})
	b := r.Begin(Op{Process: r.Process(), F: Send})
	k := Key{"a", 3}
	a.Mops = []Mop{{Send: &Sent{Key: k, Value: 7, Offset: -1}}, {Poll: map[Key][]Read{k: {{Offset: 1, Value: 2}}}}}
	r.End(a, OK, nil)
	h := r.History()
	if len(h) != 2 || h[1].Type != Info || h[1].Returned != Never || b.Index != h[1].Index {
		t.Fatalf("history %+v", h)
	}

	var buf bytes.Buffer
	if err := Write(&buf, h); err != nil {
		t.Fatal(err)
	}
	got, err := Load(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, h) {
		t.Fatalf("got  %+v\nwant %+v", got, h)
	}
}
